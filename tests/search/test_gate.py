"""The bound on quality that a study's own trials give."""

from __future__ import annotations

from math import inf

from search.gate import Gate
from squeeze.records import Estimate


def _trial(divergence: float | None, perf: float, error: float = 0.01) -> dict[str, Estimate]:
    return {"rest": Estimate(speed_norm=0.0, divergence=divergence, perf_norm=perf, perf_error=error)}


def test_a_candidate_is_bounded_by_trials_that_were_about_as_near_and_by_farther_ones() -> None:
    gate = Gate.of([_trial(0.1, 0.9), _trial(0.4, 0.6), _trial(0.8, 0.65)])
    assert gate.ceiling(0.12) == 0.92  # 0.1 is no farther, and near enough
    assert gate.ceiling(0.5) == 0.67  # 0.4 is comparable; 0.8 is farther and did better by luck


def test_nothing_is_concluded_where_no_trial_is_comparable() -> None:
    gate = Gate.of([_trial(0.1, 0.9)])
    assert gate.ceiling(0.05) == inf  # nearer than any
    assert gate.ceiling(0.2) == inf  # the only trial is much nearer
    assert gate.ceiling(None) == inf
    assert Gate().ceiling(0.1) == inf


def test_only_trials_that_answered_everything_teach() -> None:
    gate = Gate()
    gate.learn({"block": Estimate(speed_norm=0.0, divergence=0.1, perf_norm=0.9, perf_error=0.0)})
    gate.learn(_trial(None, 0.9))
    assert gate.seen == []
