"""KoMT-Bench in a measurement: every conversation rated, or none of its answers counts.

The baseline decides for the whole study: where it could not be rated, no candidate is, and Perf is made of
the other benchmarks. Where it was, a candidate that cannot be rated fails: its Score could not be compared.
The judge is asked between timed passes, never during one: it may be an engine on the same machine.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from squeeze.bench.judge import Judge, JudgeError, conversation
from squeeze.bench.served import Served, Tell
from squeeze.errors import CandidateError
from squeeze.records import Measurement

JUDGED = "komt_bench"
"""The benchmark whose answers need a judge."""

NO_JUDGE = "no judge was given"


def rated_baseline(
    judge: Judge | None, served: Served, measured: Measurement, tell: Tell, why: str
) -> Measurement:
    """The baseline's measurement with its conversations rated, or with why they are not.

    why: there is no judge.
    """
    if JUDGED not in measured.questions:
        return measured
    if judge is not None:
        try:
            return _rated(judge, served, measured, tell)
        except JudgeError as error:
            why = str(error)
    return measured.model_copy(update={"unscored": {JUDGED: why}})


def rated_candidate(
    judge: Judge | None,
    baseline: Measurement,
    served: Served,
    rungs: Iterable[Measurement],
    tell: Tell,
) -> Iterator[Measurement]:
    """A candidate's rungs, its conversations rated once all are answered, where the baseline's are.

    What was rated before is in the judge's cache. When not all can be rated, the measurement comes without
    ratings, so that its answers and times are kept; then CandidateError (kind judge) is raised.
    """
    for measured in rungs:
        if judge is None or JUDGED not in baseline.accuracy or measured.rung not in ("rest", "repeats"):
            yield measured
            continue
        try:
            rated = _rated(judge, served, measured, tell)
        except JudgeError as error:
            # Not as the rung "rest", at which a bound takes what is not rated yet to be left out.
            yield measured.model_copy(update={"rung": "block", "complete": False})
            raise CandidateError(str(error), stage="judge", kind="judge") from error
        yield rated


def _rated(judge: Judge, served: Served, measured: Measurement, tell: Tell) -> Measurement:
    tell({"stage": "judge"})
    rows = served.rows(JUDGED)
    questions = measured.questions[JUDGED]
    ratings = judge.rate([conversation(rows[question.index], question.answers) for question in questions])
    scored = tuple(
        question.model_copy(update={"score": rating.score})
        for question, rating in zip(questions, ratings, strict=True)
    )
    return measured.model_copy(update={"questions": {**measured.questions, JUDGED: scored}})
