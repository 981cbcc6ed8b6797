"""KoMT-Bench: two-turn conversations; generated and timed, not judged here."""

from __future__ import annotations

from collections.abc import Sequence

from squeeze.bench.tasks import Message
from squeeze.data.sets import Row

MAX_TOKENS = 128
TURNS = 2


def messages(row: Row, answers: Sequence[str] = ()) -> list[Message]:
    """The turns asked so far, each followed by its answer, and the next user turn."""
    chat: list[Message] = []
    for turn, answer in zip(row["turns"], answers, strict=False):
        chat += [{"role": "user", "content": turn}, {"role": "assistant", "content": answer}]
    return [*chat, {"role": "user", "content": row["turns"][len(answers)]}]


def score(row: Row, answers: Sequence[str]) -> None:
    """None: these answers need a judge."""
    return None
