"""The bound on quality that a study's own trials give."""

from __future__ import annotations

from math import inf

from search.gate import Gate
from squeeze.config import CompressionConfig, FinetuneConfig
from squeeze.records import Divergence, Estimate, Measurement, Rung

PLAIN, TUNED = CompressionConfig(), CompressionConfig(finetune=FinetuneConfig())


def _trial(divergence: float | None, perf: float, first: float | None = None) -> dict[str, Estimate]:
    told = Estimate(speed_norm=0.0, divergence=divergence, perf_norm=perf, perf_error=0.01)
    apart = {"divergence": first, "divergence_more": divergence}
    return {rung: Estimate(speed_norm=0.0, divergence=at) for rung, at in apart.items()} | {"rest": told}


def _far(divergence: float | None, rung: Rung = "divergence_more") -> Measurement:
    apart = None if divergence is None else Divergence(tokens=100, mean=divergence, error=0.01)
    return Measurement(
        model="m",
        workload="w",
        engine={},
        complete=False,
        rung=rung,
        questions={},
        passes=(),
        divergence=apart,
    )


def _gate(*trials: dict[str, Estimate]) -> Gate:
    gate = Gate()
    for trial in trials:
        gate.learn(PLAIN, trial)
    return gate


def test_a_candidate_is_bounded_by_trials_that_were_about_as_near_and_by_farther_ones() -> None:
    gate = _gate(_trial(0.1, 0.9), _trial(0.11, 0.88), _trial(0.4, 0.6), _trial(0.45, 0.6), _trial(0.8, 0.65))
    assert gate.ceiling(PLAIN, _far(0.12)) == 0.92  # the first two are no farther, and near enough
    assert gate.ceiling(PLAIN, _far(0.5)) == 0.67  # the last is farther and did better


def test_nothing_is_concluded_where_fewer_than_two_trials_are_comparable() -> None:
    gate = _gate(_trial(0.1, 0.9), _trial(0.11, 0.9), _trial(0.3, 0.7))
    assert gate.ceiling(PLAIN, _far(0.05)) == inf  # nearer than any
    assert gate.ceiling(PLAIN, _far(0.35)) == inf  # only one is neither farther nor much nearer
    assert gate.ceiling(PLAIN, _far(None)) == inf
    assert Gate().ceiling(PLAIN, _far(0.1)) == inf


def test_only_divergences_over_the_same_words_are_compared() -> None:
    gate = _gate(_trial(0.1, 0.9, first=0.02), _trial(0.1, 0.9, first=0.02))
    assert gate.ceiling(PLAIN, _far(0.1)) == 0.92
    assert gate.ceiling(PLAIN, _far(0.1, "divergence")) == inf
    assert gate.ceiling(PLAIN, _far(0.02, "divergence")) == 0.92


def test_a_fine_tuned_model_is_compared_with_fine_tuned_ones() -> None:
    gate = _gate(_trial(0.1, 0.9), _trial(0.1, 0.9))
    assert gate.ceiling(TUNED, _far(0.1)) == inf


def test_only_trials_that_answered_everything_teach() -> None:
    block = Estimate(speed_norm=0.0, divergence=0.1, perf_norm=0.9, perf_error=0.0)
    gate = _gate({"divergence_more": block, "block": block}, _trial(None, 0.9))
    assert not gate.seen
