"""KoMT-Bench: two-turn conversations; generated and timed, not judged here."""

from __future__ import annotations

from collections.abc import Sequence

from squeeze.bench.tasks import Message
from squeeze.data.sets import Row

MAX_TOKENS = 128
TURNS = 2

_TEMPERATURES = {"writing": 0.7, "roleplay": 0.7, "stem": 0.1, "humanities": 0.1}


def messages(row: Row, answers: Sequence[str] = ()) -> list[Message]:
    """The turns asked so far, each followed by its answer, and the next user turn."""
    chat: list[Message] = []
    for turn, answer in zip(row["turns"], answers, strict=False):
        chat += [{"role": "user", "content": turn}, {"role": "assistant", "content": answer}]
    return [*chat, {"role": "user", "content": row["turns"][len(answers)]}]


def temperature(row: Row) -> float:
    """0.7 for writing and roleplay, 0.1 for stem and humanities, else 0."""
    return _TEMPERATURES.get(row["category"].strip().lower(), 0.0)


def score(row: Row, answers: Sequence[str]) -> None:
    """None: these answers need a judge."""
    return None
