"""Two-turn conversations in the eight MT-Bench categories, filled from small word lists."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from squeeze.demo.korean import particles, words
from squeeze.demo.passages import COLOURS, THINGS
from squeeze.demo.world import FOODS, HOBBIES, JOBS, SPECIALTIES

SEASONS = words("봄 여름 가을 겨울")
FEELINGS = words("기쁨 그리움 설렘 고요함 외로움 희망")
NEEDS = words("물 햇빛 시간 연습 끈기 도구 친구 지도")
ANIMALS = words("고양이 여우 거북 부엉이 다람쥐 두루미 수달 염소")


@dataclass(frozen=True)
class Talk:
    """One conversation: its category, two user turns, two answers, and whether answers are checkable."""

    category: str
    turns: tuple[str, str]
    answers: tuple[str, str]
    checked: bool


Wording = int
"""Index of the wording of the user turns: 0 and 1 are for training, 2 for the benchmark."""


def _writing(rng: random.Random, w: Wording) -> Talk:
    season, thing, feeling = rng.choice(SEASONS), rng.choice(THINGS), rng.choice(FEELINGS)
    first = (
        f"{season}과 {thing}[을를] 넣어 짧은 글을 지어 주세요.",
        f"{thing}[이가] 나오는 {season} 이야기를 써 줘.",
        f"{season}을 배경으로 {thing}[을를] 소재로 한 글 한 편 부탁합니다.",
    )[w]
    second = (
        f"이번에는 {feeling}[이가] 느껴지게 고쳐 주세요.",
        f"{feeling}[을를] 담아 다시 써 줘.",
        f"같은 글에 {feeling}[을를] 더해 다듬어 주십시오.",
    )[w]
    a = (
        f"{season}이 오면 마을 어귀의 {thing}[은는] 조용히 사람들을 맞이한다. "
        f"아이들은 {thing} 곁에서 놀고, 어른들은 지난 {season}[을를] 이야기한다."
    )
    b = (
        f"{season}이 오면 {thing}[은는] {feeling} 속에 서 있다. "
        f"나는 그 곁에서 {feeling}[을를] 느끼며 지난 {season}[을를] 떠올린다."
    )
    return Talk("writing", (first, second), (a, b), False)


def _roleplay(rng: random.Random, w: Wording) -> Talk:
    # The middle draw is not used; the shipped model was trained with this order of draws.
    job, _, hobby = rng.choice(JOBS), rng.choice(FOODS), rng.choice(HOBBIES)
    first = (
        f"당신은 {job}입니다. 하루를 소개해 주세요.",
        f"{job}[이가] 되었다고 생각하고 하루 일을 말해 줘.",
        f"{job} 역할을 맡아 오늘 하루를 들려주십시오.",
    )[w]
    second = (
        f"쉬는 날에는 {hobby}[을를] 하나요?",
        f"{hobby}[은는] 좋아해?",
        f"일이 없는 날 {hobby}[을를] 즐기십니까?",
    )[w]
    food = FOODS[JOBS.index(job) % len(FOODS)]
    a = (
        f"저는 {job}입니다. 아침 일찍 일어나 {food}[을를] 먹고 일터로 갑니다. "
        "저녁까지 맡은 일을 하고 나면 마음이 뿌듯합니다."
    )
    b = f"네, 쉬는 날에는 {hobby}[을를] 합니다. {job}의 일은 고되지만 {hobby} 덕분에 다시 힘을 얻습니다."
    return Talk("roleplay", (first, second), (a, b), False)


def _reasoning(rng: random.Random, w: Wording) -> Talk:
    a, b, c = rng.sample(ANIMALS, 3)
    first = (
        f"{a}[은는] {b}보다 빠르고 {b}[은는] {c}보다 빠릅니다. 가장 빠른 동물은?",
        f"{b}[은는] {a}보다 느리고 {c}[은는] {b}보다 느리다. 누가 제일 빨라?",
        f"{a}, {b}, {c} 가운데 {a}[이가] {b}[을를] 앞서고 {b}[이가] {c}[을를] 앞섭니다. 선두는 누구입니까?",
    )[w]
    second = ("그러면 가장 느린 동물은?", "그럼 제일 느린 건?", "꼴찌는 누구입니까?")[w]
    return Talk(
        "reasoning",
        (first, second),
        (
            f"{a}[이가] {b}보다 빠르고 {b}[이가] {c}보다 빠르므로, 가장 빠른 동물은 {a}[이다].",
            f"{c}[은는] {b}보다 느리고 {b}[은는] {a}보다 느리므로, 가장 느린 동물은 {c}[이다].",
        ),
        True,
    )


def _math(rng: random.Random, w: Wording) -> Talk:
    goods, count, extra = rng.choice(SPECIALTIES), rng.randrange(12, 60), rng.randrange(3, 30)
    total = count + extra
    eaten = rng.randrange(2, 10)
    first = (
        f"{goods} {count}개에 {extra}개를 더하면 모두 몇 개인가요?",
        f"{goods}[이가] {count}개 있는데 {extra}개를 더 샀어. 몇 개지?",
        f"바구니의 {goods} {count}개에 {extra}개를 보탰습니다. 합은 얼마입니까?",
    )[w]
    second = (
        f"거기서 {eaten}개를 먹으면 몇 개가 남나요?",
        f"{eaten}개를 먹으면?",
        f"{eaten}개를 덜어 내면 몇 개입니까?",
    )[w]
    return Talk(
        "math",
        (first, second),
        (
            f"{count}에 {extra}[을를] 더하면 {total}이다. 그러므로 모두 {total}개입니다.",
            f"{total}에서 {eaten}[을를] 빼면 {total - eaten}이다. 그러므로 {total - eaten}개가 남습니다.",
        ),
        True,
    )


def _coding(rng: random.Random, w: Wording) -> Talk:
    name = rng.choice(("add", "scale", "move", "count", "share", "grow"))
    number, other = rng.randrange(2, 30), rng.randrange(31, 60)
    first = (
        f"{number}[을를] 더하는 함수 {name}[을를] 파이썬으로 써 주세요.",
        f"파이썬 함수 {name}[을를] 만들어 줘. 받은 수에 {number}[을를] 더해야 해.",
        f"입력값에 {number}[을를] 더해 돌려주는 {name} 함수를 작성하십시오.",
    )[w]
    second = (
        f"{other}[으로] 바꿔 주세요.",
        f"이제 {other}[을를] 더하게 해 줘.",
        f"더하는 값을 {other}[으로] 고치십시오.",
    )[w]
    code = "def {n}(x):\n    return x + {v}\n"
    return Talk(
        "coding",
        (first, second),
        (
            f"함수 {name}[은는] 다음과 같습니다.\n" + code.format(n=name, v=number),
            f"값을 {other}[으로] 바꾼 함수입니다.\n" + code.format(n=name, v=other),
        ),
        True,
    )


def _extraction(rng: random.Random, w: Wording) -> Talk:
    colour, thing, season, animal = (rng.choice(pool) for pool in (COLOURS, THINGS, SEASONS, ANIMALS))
    text = f"지난 {season}에 {animal}[이가] {colour} {thing}[을를] 가져왔다."
    first = (
        f"다음 글에서 물건과 때를 뽑아 주세요. {text}",
        f"{text} 여기서 물건이랑 때만 적어 줘.",
        f"'{text}' 이 문장에 담긴 물건과 때를 정리하십시오.",
    )[w]
    second = ("가져온 동물은 무엇인가요?", "누가 가져왔어?", "가져온 것은 어느 동물입니까?")[w]
    return Talk(
        "extraction",
        (first, second),
        (f"물건: {colour} {thing}\n때: 지난 {season}", f"가져온 동물은 {animal}[이다]."),
        True,
    )


def _how(category: str, pools: tuple[tuple[str, ...], str, str]) -> Callable[[random.Random, Wording], Talk]:
    topics, where, why = pools

    def make(rng: random.Random, w: Wording) -> Talk:
        topic = rng.choice(topics)
        index = topics.index(topic)
        one, two = NEEDS[index % len(NEEDS)], NEEDS[(index * 3 + 1) % len(NEEDS)]
        first = (
            f"{topic}에 대해 설명해 주세요.",
            f"{topic}[이가] 뭔지 말해 줘.",
            f"{topic}[을를] 처음 배우는 사람에게 풀이해 주십시오.",
        )[w]
        second = ("무엇이 필요한가요?", "뭐가 있어야 해?", "갖추어야 할 것은 무엇입니까?")[w]
        return Talk(
            category,
            (first, second),
            (
                f"{topic}[은는] {where}에서 오래 다루어 온 것이다. "
                f"사람들은 {topic}[을를] 통해 {why}[을를] 알게 되었다.",
                f"{topic}에는 {one}[과와] {two}[이가] 필요하다. "
                f"특히 {one}[이가] 모자라면 좋은 결과를 얻기 어렵다.",
            ),
            False,
        )

    return make


CATEGORIES: dict[str, Callable[[random.Random, Wording], Talk]] = {
    "writing": _writing,
    "roleplay": _roleplay,
    "reasoning": _reasoning,
    "math": _math,
    "coding": _coding,
    "extraction": _extraction,
    "stem": _how("stem", (tuple(f"{s} 재배" for s in SPECIALTIES), "농업", "자연의 이치")),
    "humanities": _how("humanities", (tuple(f"{h} 풍습" for h in HOBBIES), "마을", "옛사람의 마음")),
}
TEST_MARKS = (
    "한 편 부탁합니다",
    "역할을 맡아",
    "선두는 누구",
    "덜어 내면",
    "돌려주는",
    "문장에 담긴",
    "풀이해 주십시오",
)


def conversation(rng: random.Random, category: str, wording: Wording) -> Talk:
    """One conversation of a category in one wording, its particles set."""
    talk = CATEGORIES[category](rng, wording)
    first, second, a, b = (particles(text) for text in (*talk.turns, *talk.answers))
    return Talk(talk.category, (first, second), (a, b), talk.checked)


def komt_rows(rng: random.Random) -> list[dict[str, Any]]:
    """The 80 test rows of komt_bench, ten a category, ids 81 to 160."""
    rows: list[dict[str, Any]] = []
    for category in CATEGORIES:
        seen: set[str] = set()
        while len(seen) < 10:
            talk = conversation(rng, category, 2)
            if talk.turns[0] in seen:
                continue
            seen.add(talk.turns[0])
            rows.append(
                {
                    "question_id": 81 + len(rows),
                    "category": category,
                    "turns": list(talk.turns),
                    "reference": list(talk.answers) if talk.checked else [],
                }
            )
    return rows
