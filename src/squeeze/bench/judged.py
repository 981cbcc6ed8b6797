"""KoMT-Bench in a measurement: every conversation rated, or none of its answers counts.

The baseline decides for the whole study: where it could not be rated, no candidate is, and Perf is made of
the other benchmarks. Where it was, a candidate that cannot be rated fails: its Score could not be compared.
The judge is asked between timed passes, never during one: it may be an engine on the same machine.
"""

from __future__ import annotations

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
    judge: Judge | None, baseline: Measurement, served: Served, measured: Measurement, tell: Tell
) -> Measurement:
    """A candidate's measurement, its conversations rated once all are answered, where the baseline's are.

    What was rated before is in the judge's cache. Raises CandidateError (kind judge) unless all can be rated.
    """
    if judge is None or JUDGED not in baseline.accuracy or measured.rung not in ("rest", "repeats"):
        return measured
    try:
        return _rated(judge, served, measured, tell)
    except JudgeError as error:
        raise CandidateError(str(error), stage="judge", kind="judge") from error


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
