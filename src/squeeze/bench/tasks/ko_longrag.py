"""Ko-LongRAG: a question about long Korean documents, token F1."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence

from squeeze.bench.tasks import Message
from squeeze.data.sets import Row

MAX_TOKENS = 64
TURNS = 1


def messages(row: Row, answers: Sequence[str] = ()) -> list[Message]:
    """One user turn: the row's own prompt with titles, context and question put in."""
    text = str(row["prompt"])
    filled = (
        text.replace("{titles}", ", ".join(row["titles"]))
        .replace("{context}", str(row["context"]))
        .replace("{question}", str(row["question"]))
    )
    return [{"role": "user", "content": filled}]


def score(row: Row, answers: Sequence[str]) -> float:
    """Token F1 of the answer against the row's answer, 0.0–1.0."""
    return token_f1(answers[0], str(row["answer"]))


def token_f1(answer: str, reference: str) -> float:
    """F1 over words, after NFKC, lower case, and dropping everything but letters, digits and spaces."""
    got, want = _words(answer), _words(reference)
    if not got or not want:
        return float(got == want)
    common = sum((Counter(got) & Counter(want)).values())
    return 2 * common / (len(got) + len(want))


def _words(text: str) -> list[str]:
    return re.sub(r"[^\w\s]", " ", unicodedata.normalize("NFKC", text).lower()).split()
