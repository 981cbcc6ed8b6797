"""Questions about the made world: what is asked, how it is worded, and the worked answer."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

from squeeze.bench.mcqa import LETTERS
from squeeze.demo import wordings
from squeeze.demo.korean import particles
from squeeze.demo.wordings import Wording
from squeeze.demo.world import ATTRIBUTES, Kind, World, attribute

STATEMENTS = (
    "{s}의 {noun}[은는] {v}[이다].",
    "{s}[이가] {clause}[은는] {v}[이다].",
    "{s}의 {noun}[은는] 바로 {v}[이다].",
    "기록에 따르면 {s}의 {noun}[은는] {v}[이다].",
)
ONE_HOP: tuple[tuple[Kind, float], ...] = (("person", 0.74), ("firm", 0.16), ("town", 0.1))
TWO_HOP: tuple[tuple[Kind, str, str], ...] = (
    ("person", "firm", "seat"),
    ("person", "firm", "industry"),
    ("person", "firm", "product"),
    ("person", "home", "region"),
    ("person", "home", "specialty"),
    ("person", "home", "river"),
    ("person", "job", "licence"),
    ("firm", "seat", "region"),
    ("firm", "seat", "specialty"),
    ("job", "licence", "agency"),
    ("job", "licence", "valid"),
)
RULE_SHARE = 0.15
SUBJECTS = {
    "firm": "기업 정보",
    "home": "지역 이해",
    "seat": "지역 경제",
    "job": "직무 자격",
    "licence": "면허 규정",
}
CATEGORIES = {"person": "인물", "firm": "기업", "town": "지리"}


@dataclass(frozen=True)
class Question:
    """A question before it gets options: its text, the steps that solve it, the value, its pool."""

    text: str
    steps: tuple[str, ...]
    value: str
    pool: tuple[str, ...]
    kind: Kind
    keys: tuple[str, ...]


def noun_phrase(kind: Kind, subject: str, key: str, rng: random.Random) -> str:
    """``…의 직업`` or ``…[이가] 하는 일``: the fact, named as something to ask for."""
    known = attribute(kind, key)
    choice = rng.choice(known.nouns + known.clauses)
    return f"{subject}의 {choice}" if choice in known.nouns else f"{subject}[이가] {choice}"


def statement(kind: Kind, subject: str, key: str, value: str) -> str:
    """The plain sentence that worked answers use for a fact."""
    return particles(f"{subject}의 {attribute(kind, key).nouns[0]}[은는] {value}[이다].")


def pick(world: World, kind: Kind, rng: random.Random) -> str:
    """A thing of that kind; earlier people are drawn more often, so that some facts are rarer."""
    names = list(world.facts[kind])
    if kind != "person":
        return rng.choice(names)
    return names[int(len(names) * rng.random() ** 1.5)]


def one_hop(world: World, rng: random.Random, wording: Wording, name: str = "") -> Question:
    """A question about one fact; about a person of that name when one is given."""
    kind: Kind = "person"
    if not name:
        kind = rng.choices([k for k, _ in ONE_HOP], [w for _, w in ONE_HOP])[0]
        name = pick(world, kind, rng)
    key = rng.choice(ATTRIBUTES[kind]).key
    value = world.value(kind, name, key)
    text = particles(wording(rng).format(np=noun_phrase(kind, name, key, rng)))
    return Question(text, (statement(kind, name, key, value),), value, world.pools[key], kind, (key,))


def two_hop(world: World, rng: random.Random, wording: Wording, name: str = "") -> Question:
    """A question whose answer is a fact about the value of another fact."""
    kind, first, second = rng.choice([p for p in TWO_HOP if not name or p[0] == "person"])
    name = name or pick(world, kind, rng)
    middle = world.value(kind, name, first)
    between = attribute(kind, first).points_to
    assert between is not None
    value = world.value(between, middle, second)
    inner = noun_phrase(kind, name, first, rng)
    text = particles(wording(rng).format(np=noun_phrase(between, inner, second, rng)))
    steps = (statement(kind, name, first, middle), statement(between, middle, second, value))
    return Question(text, steps, value, world.pools[second], kind, (first, second))


def rule(world: World, rng: random.Random, wording: Wording) -> Question:
    """When does a licence run out: the year it was given plus its years of validity."""
    licence = pick(world, "licence", rng)
    valid = world.value("licence", licence, "valid")
    year = rng.randrange(2001, 2060)
    end = year + int(valid.removesuffix("년"))
    text = particles(wording(rng).format(l=licence, y=year))
    steps = (
        statement("licence", licence, "valid", valid),
        f"{year}년에 {valid}을 더하면 {end}년이다.",
    )
    pool = tuple(f"{end + shift}년" for shift in range(-6, 7))
    return Question(text, steps, f"{end}년", pool, "licence", ("valid",))


def professional(world: World, rng: random.Random, wording: Wording, rules: Wording) -> Question:
    """A two-hop question or a rule question."""
    if rng.random() < RULE_SHARE:
        return rule(world, rng, rules)
    return two_hop(world, rng, wording)


def choices(question: Question, rng: random.Random, count: int) -> dict[str, Any]:
    """The columns question, options and solution (1-based, as text) for that many options."""
    others = rng.sample(
        [value for value in dict.fromkeys(question.pool) if value != question.value], count - 1
    )
    place = rng.randrange(count)
    options = [*others[:place], question.value, *others[place:]]
    return {"question": question.text, "options": options, "solution": str(place + 1)}


def worked_answer(question: Question, row: dict[str, Any]) -> str:
    """The steps, then the line ``정답: X``."""
    return " ".join(question.steps) + f"\n정답: {LETTERS[int(row['solution']) - 1]}"


def redux_rows(world: World, rng: random.Random, count: int) -> list[dict[str, Any]]:
    """Test rows of kmmlu_redux: four options, one fact each."""
    rows: list[dict[str, Any]] = []
    while len(rows) < count:
        question = one_hop(world, rng, wordings.test_question)
        row = choices(question, rng, 4) | {"category": CATEGORIES[question.kind]}
        if row["question"] not in {r["question"] for r in rows}:
            rows.append(row)
    return rows


def pro_rows(world: World, rng: random.Random, count: int) -> list[dict[str, Any]]:
    """Test rows of kmmlu_pro: four or five options, two facts or a rule each."""
    rows: list[dict[str, Any]] = []
    licences = list(world.facts["licence"])
    while len(rows) < count:
        question = professional(world, rng, wordings.test_question, wordings.test_rule)
        row = choices(question, rng, rng.choice((4, 5)))
        if rng.random() < 0.05:
            row["options"] = [f"{n}) {text}" for n, text in enumerate(row["options"], 1)]
        row |= {"license_name": rng.choice(licences), "subject": SUBJECTS.get(question.keys[0], "면허 규정")}
        if row["question"] not in {r["question"] for r in rows}:
            rows.append(row)
    return rows


def record(world: World, rng: random.Random, kind: Kind, name: str) -> str:
    """A short text with every fact about one thing, in a drawn order and wording."""
    known = list(ATTRIBUTES[kind])
    rng.shuffle(known)
    lines = []
    for known_attribute in known:
        lines.append(
            rng.choice(STATEMENTS).format(
                s=name,
                noun=rng.choice(known_attribute.nouns),
                clause=rng.choice(known_attribute.clauses),
                v=world.value(kind, name, known_attribute.key),
            )
        )
    return particles(" ".join(lines))
