"""How alike two models' answers to the same questions are."""

from __future__ import annotations

from collections.abc import Iterator
from difflib import SequenceMatcher
from statistics import fmean

from squeeze.records import Alike, Measurement

WORDS = 1000
"""So many words of an answer are compared: a longer comparison takes its square."""


def alike(measurement: Measurement, baseline: Measurement) -> dict[str, Alike]:
    """Benchmark -> how alike the answers are, turn by turn, on the questions that both were asked."""
    found = {}
    for name in measurement.questions:
        if pairs := list(_pairs(measurement, baseline, name)):
            found[name] = Alike(
                answers=len(pairs),
                similarity=fmean(similarity(mine, other) for mine, other in pairs),
                exact=fmean(mine.strip() == other.strip() for mine, other in pairs),
            )
    return found


def similarity(one: str, other: str) -> float:
    """The share of words, set apart by white space, that two texts have in common in the same order, 0 to 1.

    It is ``difflib.SequenceMatcher.ratio`` (Ratcliff and Obershelp): twice the words of the matching blocks
    over the words of both. Of each text the first ``WORDS`` words; two texts without any are equal.
    """
    words = one.split()[:WORDS], other.split()[:WORDS]
    return 1.0 if words[0] == words[1] else SequenceMatcher(None, *words, autojunk=False).ratio()


def _pairs(measurement: Measurement, baseline: Measurement, name: str) -> Iterator[tuple[str, str]]:
    theirs = {question.index: question.answers for question in baseline.questions.get(name, ())}
    for question in measurement.questions[name]:
        yield from zip(question.answers, theirs.get(question.index, ()), strict=False)
