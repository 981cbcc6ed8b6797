"""One model beside the base: the row of search.compare, from raw measurements."""

from __future__ import annotations

from collections.abc import Mapping
from math import isfinite
from typing import Any

from squeeze.bench.alike import alike
from squeeze.bench.stats import speed_interval
from squeeze.bench.verbosity import flags
from squeeze.records import Measurement, Question, Record

CONFIDENCE = 0.90
"""Of the speedup's interval."""

FIGURES = (
    "speedup",
    "speedup_low",
    "speedup_high",
    "similarity",
    "exact_match",
    "non_empty",
    "tokens_per_answer",
    "perplexity",
)
"""The fields that are figures, in the order in which they are shown."""


class Compared(Record):
    """A model's figures; all None where it failed.

    speedup: the base's time per token over the model's, with its 90 % interval. similarity, exact_match,
    non_empty: means over all answers, 0 to 1; see ``squeeze.bench.alike``. tokens_per_answer: of one turn.
    perplexity: of held-out text. benchmarks: benchmark -> its own similarity, exact_match, non_empty,
    tokens_per_answer and number of answers. flags: what makes the speedup doubtful, see
    ``squeeze.bench.verbosity``. failed, reason: the class and the words of a failure.
    """

    model: str
    speedup: float | None = None
    speedup_low: float | None = None
    speedup_high: float | None = None
    similarity: float | None = None
    exact_match: float | None = None
    non_empty: float | None = None
    tokens_per_answer: float | None = None
    perplexity: float | None = None
    benchmarks: Mapping[str, Mapping[str, float]] = {}
    flags: tuple[str, ...] = ()
    failed: str | None = None
    reason: str | None = None

    def plain(self) -> dict[str, Any]:
        """The fields as JSON and CSV have them: what is not finite is None."""

        def known(value: Any) -> Any:
            return None if isinstance(value, float) and not isfinite(value) else value

        return {name: known(value) for name, value in self.model_dump(mode="json").items()}


def compared(name: str, measurement: Measurement, baseline: Measurement) -> Compared:
    """The row of a model that was measured to the end."""
    low, ratio, high = speed_interval(measurement, baseline, CONFIDENCE)
    row = _answers(name, measurement, baseline)
    return row.model_copy(
        update={
            "flags": flags(measurement, baseline),
            "speedup": _inverse(ratio),
            "speedup_low": _inverse(high),
            "speedup_high": _inverse(low),
        }
    )


def base_row(name: str, baseline: Measurement) -> Compared:
    """The row of the base itself."""
    return _answers(name, baseline, baseline).model_copy(update={"speedup": 1.0})


def failed(name: str, kind: str, reason: str) -> Compared:
    """The row of a model that could not be measured."""
    return Compared(model=name, failed=kind, reason=reason)


def _answers(name: str, measurement: Measurement, baseline: Measurement) -> Compared:
    benchmarks = {}
    for benchmark, one in alike(measurement, baseline).items():
        questions = measurement.questions[benchmark]
        benchmarks[benchmark] = {
            "answers": one.answers,
            "similarity": one.similarity,
            "exact_match": one.exact,
            "non_empty": _non_empty(questions),
            "tokens_per_answer": sum(question.tokens for question in questions) / one.answers,
        }
    answers = sum(one["answers"] for one in benchmarks.values())

    def mean(figure: str) -> float:
        return sum(one[figure] * one["answers"] for one in benchmarks.values()) / answers

    figures = ("similarity", "exact_match", "non_empty") if answers else ()
    return Compared(
        model=name,
        tokens_per_answer=measurement.tokens_per_answer,
        perplexity=measurement.perplexity.value if measurement.perplexity else None,
        benchmarks=benchmarks,
        **{figure: mean(figure) for figure in figures},
    )


def _non_empty(questions: tuple[Question, ...]) -> float:
    answers = [bool(answer.strip()) for question in questions for answer in question.answers]
    return sum(answers) / len(answers)


def _inverse(ratio: float) -> float:
    return 1 / ratio if ratio > 0 else float("inf")
