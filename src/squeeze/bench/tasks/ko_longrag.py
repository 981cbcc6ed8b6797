"""Ko-LongRAG: a question about long Korean documents, token F1."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence

from squeeze.bench.tasks import Message
from squeeze.data.rows import PLACEHOLDERS
from squeeze.data.sets import Row

MAX_TOKENS = 64
TURNS = 1

_PLACES = re.compile("|".join(rf"\{{{name}\}}" for name in PLACEHOLDERS))


def messages(row: Row, answers: Sequence[str] = ()) -> list[Message]:
    """One user turn: the row's own prompt with titles, context and question put in."""
    columns = {
        "{titles}": ", ".join(row["titles"]),
        "{context}": row["context"],
        "{question}": row["question"],
    }
    # All in one go: a context may itself hold the word {question}, which is then no place for it.
    filled = _PLACES.sub(lambda place: str(columns[place[0]]), row["prompt"])
    return [{"role": "user", "content": filled}]


def score(row: Row, answers: Sequence[str]) -> float:
    """Token F1 of the answer against the row's answer, 0.0–1.0."""
    return token_f1(answers[0], str(row["answer"]))


def token_f1(answer: str, reference: str) -> float:
    """F1 over words, each counted as often as it is there (as in SQuAD, arXiv:1606.05250).

    Words are what spaces part, after NFKC, lower case, and a space for every sign that is no letter, digit or
    underscore. Particles stay on their nouns and articles are not dropped: Korean has no such list that all
    agree on. That there is no answer in the text is an answer like any other.
    """
    got, want = _words(answer), _words(reference)
    if not got or not want:
        return float(got == want)
    common = sum((Counter(got) & Counter(want)).values())
    return 2 * common / (len(got) + len(want))


def _words(text: str) -> list[str]:
    return re.sub(r"[^\w\s]", " ", unicodedata.normalize("NFKC", text).lower()).split()
