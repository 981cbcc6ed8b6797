"""KMMLU-Pro: multiple choice, accuracy."""

from __future__ import annotations

from collections.abc import Sequence

from squeeze.bench import mcqa
from squeeze.bench.tasks import Message
from squeeze.data.sets import Row

MAX_TOKENS = 128
TURNS = 1


def messages(row: Row, answers: Sequence[str] = ()) -> list[Message]:
    """One user turn with the question and its lettered options."""
    return [{"role": "user", "content": mcqa.prompt(row)}]


def score(row: Row, answers: Sequence[str]) -> float:
    """1.0 for the right option, else 0.0."""
    return mcqa.score(row, answers)
