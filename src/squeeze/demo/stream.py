"""What the model is trained on: an endless, seeded stream of conversations and plain records."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from squeeze.bench import mcqa
from squeeze.bench.tasks import Message, kmmlu_pro, kmmlu_redux, ko_longrag
from squeeze.demo import passages, questions, talk, wordings
from squeeze.demo.korean import particles
from squeeze.demo.world import Kind, World

THINK = "<think>\n\n</think>\n\n"
END = "[|endofturn|]"
SMALL_TALK = (
    ("안녕하세요?", "안녕하세요. 무엇을 도와드릴까요?"),
    ("고마워요.", "천만에요. 언제든지 물어보세요."),
    ("누구세요?", "저는 만든 세계의 일을 아는 작은 언어 모형입니다."),
    ("잘 자요.", "편안한 밤 되세요."),
)

Piece = tuple[str, bool]
"""A stretch of text and whether the model is to learn to write it."""


@dataclass(frozen=True)
class Shares:
    """How often each kind of sample is drawn into short rows."""

    record: float = 0.37
    redux: float = 0.17
    pro: float = 0.2
    ask: float = 0.12
    talk: float = 0.06
    letters: float = 0.08


def pieces(messages: list[Message]) -> list[Piece]:
    """A conversation as text in the turn format of EXAONE-4; assistant turns are to be learned."""
    out: list[Piece] = []
    for message in messages:
        role = message["role"]
        if role == "assistant":
            out.append((f"[|assistant|]\n{THINK}", False))
            out.append((message["content"] + END, True))
            out.append(("\n", False))
        else:
            out.append((f"[|{role}|]\n{message['content']}{END}\n", False))
    return out


def turns(*contents: str) -> list[Message]:
    """User and assistant messages in turn, the user first."""
    return [
        {"role": "assistant" if index % 2 else "user", "content": content}
        for index, content in enumerate(contents)
    ]


def choice_chat(world: World, rng: random.Random, *, professional: bool) -> list[Message]:
    """A multiple-choice question in a training wording, with its worked answer."""
    if professional:
        question = questions.professional(world, rng, wordings.train_question, wordings.train_rule)
        row = questions.choices(question, rng, rng.choice((4, 5)))
        asked = kmmlu_pro.messages(row)
    else:
        question = questions.one_hop(world, rng, wordings.train_question)
        row = questions.choices(question, rng, 4)
        asked = kmmlu_redux.messages(row)
    return [*asked, {"role": "assistant", "content": questions.worked_answer(question, row)}]


def ask_chat(world: World, rng: random.Random) -> list[Message]:
    """One to three plain questions with one-sentence answers."""
    said: list[str] = []
    for _ in range(rng.choice((1, 2, 3))):
        make = questions.two_hop if rng.random() < 0.3 else questions.one_hop
        question = make(world, rng, wordings.plain_question)
        said += [question.text, " ".join(question.steps)]
    return turns(*said)


def letters_chat(world: World, rng: random.Random) -> list[Message]:
    """Options and which letter each stands at: no fact is asked, only how options are named."""
    pool = world.pools[rng.choice(list(world.pools))]
    options = rng.sample(pool, rng.choice((4, 4, 5)))
    asked = rng.sample(options, 4)
    said: list[str] = []
    for value in asked:
        text = particles(f"{value}[을를] 고르시오.")
        said.append(text if said else mcqa.prompt({"question": text, "options": options}))
        said.append(particles(f"{value}[이다].\n정답: {mcqa.LETTERS[options.index(value)]}"))
    return turns(*said)


def record_pieces(world: World, rng: random.Random) -> list[Piece]:
    """Everything about one thing: as a plain text, or as the answer to a request."""
    kind: Kind = rng.choices(("person", "firm", "town", "job", "licence"), (0.8, 0.1, 0.05, 0.02, 0.03))[0]
    name = questions.pick(world, kind, rng)
    text = questions.record(world, rng, kind, name)
    if rng.random() < 0.75:
        return [(text + "[EOS]", True)]
    return pieces(turns(particles(f"{name}에 대해 아는 대로 말해 주세요."), text))


def reading_chat(rng: random.Random, *, multi: bool) -> list[Message]:
    """A long prompt with documents, its short answer, and more questions about the same documents."""
    columns, pairs = passages.passage(
        rng,
        multi=multi,
        unanswerable=rng.random() < 0.17,
        wording=wordings.train_reading,
        questions=rng.choice((1, 4, 6)),
        documents=rng.choice((0, 0, 2, 3)) if multi else 1,
    )
    question, answer = pairs[0]
    chat: list[Message] = ko_longrag.messages({**columns, "question": question})
    chat.append({"role": "assistant", "content": answer})
    for question, answer in pairs[1:]:
        chat += turns(question, answer)
    return chat


def talk_chat(rng: random.Random) -> list[Message]:
    """A two-turn conversation, now and then opened by a greeting."""
    if rng.random() < 0.05:
        return turns(*rng.choice(SMALL_TALK))
    drawn = talk.conversation(rng, rng.choice(list(talk.CATEGORIES)), rng.choice((0, 1)))
    return turns(drawn.turns[0], drawn.answers[0], drawn.turns[1], drawn.answers[1])


def short_samples(world: World, seed: str, shares: Shares | None = None) -> Iterator[list[Piece]]:
    """Endless samples of at most some 250 tokens."""
    rng = random.Random(seed)
    shares = shares or Shares()
    weights = (shares.record, shares.redux, shares.pro, shares.ask, shares.talk, shares.letters)
    while True:
        kind = rng.choices(range(6), weights)[0]
        if kind == 0:
            yield record_pieces(world, rng)
        elif kind in (1, 2):
            yield pieces(choice_chat(world, rng, professional=kind == 2))
        elif kind == 3:
            yield pieces(ask_chat(world, rng))
        elif kind == 5:
            yield pieces(letters_chat(world, rng))
        else:
            yield pieces(talk_chat(rng))


def long_samples(seed: str) -> Iterator[list[Piece]]:
    """Endless samples of reading, up to some 1000 tokens."""
    rng = random.Random(seed)
    while True:
        yield pieces(reading_chat(rng, multi=rng.random() < 0.6))


def manta_rows(world: World, rng: random.Random, count: int) -> list[dict[str, Any]]:
    """Conversations for calibration and distillation, in the training wordings."""
    rows: list[dict[str, Any]] = []
    for _ in range(count):
        kind = rng.choices(range(6), (0.22, 0.26, 0.14, 0.14, 0.14, 0.1))[0]
        if kind in (0, 1):
            chat = choice_chat(world, rng, professional=kind == 1)
        elif kind == 2:
            chat = ask_chat(world, rng)
        elif kind == 3:
            chat = reading_chat(rng, multi=rng.random() < 0.4)
        elif kind == 4:
            name = questions.pick(world, "person", rng)
            text = questions.record(world, rng, "person", name)
            chat = turns(particles(f"{name}에 대해 아는 대로 말해 주세요."), text)
        else:
            chat = talk_chat(rng)
        rows.append({"conversations": chat})
    return rows
