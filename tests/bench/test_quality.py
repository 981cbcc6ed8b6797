"""Paired questions: the intervals of quality hold what they promise."""

from __future__ import annotations

import random
from math import inf
from typing import Any

import pytest

from squeeze.bench import quality
from squeeze.records import Measurement, Question


def measured(scores: list[float], **more: list[float]) -> Measurement:
    questions = {
        name: tuple(
            Question(index=index, answers=("x",), tokens=1, score=score) for index, score in enumerate(found)
        )
        for name, found in {"a": scores, **more}.items()
    }
    return Measurement(model="m", workload="w", engine={}, complete=True, questions=questions, passes=())


def test_the_paired_interval_of_perf_covers_the_truth_as_often_as_it_says() -> None:
    draw = random.Random(1)
    covered = 0
    trials = 600
    for _ in range(trials):
        base, mine = [], []
        for _ in range(120):
            right = draw.random() < 0.85
            # 10 % of the right ones are lost, 5 % of the wrong ones won.
            base.append(float(right))
            mine.append(float(draw.random() < (0.90 if right else 0.05)))
        truth = (0.85 * 0.90 + 0.15 * 0.05) / 0.85
        ratio, error = quality.paired_perf(measured(mine), measured(base), {"a": 1.0})
        covered += abs(ratio - truth) <= 1.645 * error
    assert covered / trials == pytest.approx(0.90, abs=0.04)


def test_the_bootstrap_over_questions_of_three_benchmarks_covers_the_truth_as_often_as_it_says() -> None:
    draw = random.Random(4)
    names = ("a", "b", "c")
    covered = 0
    trials = 150
    for _ in range(trials):
        base: dict[str, list[float]] = {name: [] for name in names}
        mine: dict[str, list[float]] = {name: [] for name in names}
        for name in names:
            for _ in range(40):
                right = draw.random() < 0.9
                base[name].append(float(right))
                mine[name].append(float(draw.random() < (0.85 if right else 0.1)))
        truth = (0.9 * 0.85 + 0.1 * 0.1) / 0.9
        weights = dict.fromkeys(names, 1.0)
        low, ratio, high = quality.perf_interval(
            measured(**_named(mine)), measured(**_named(base)), weights, 0.9
        )
        assert low < ratio < high
        covered += low <= truth <= high
    assert covered / trials == pytest.approx(0.90, abs=0.06)


def _named(scores: dict[str, list[float]]) -> dict[str, Any]:
    return {"scores": scores["a"], **{name: found for name, found in scores.items() if name != "a"}}


def test_the_bootstrap_is_the_same_again_and_close_to_the_delta_method_for_many_questions() -> None:
    draw = random.Random(5)
    base = [float(draw.random() < 0.7) for _ in range(1500)]
    mine = [score if draw.random() < 0.9 else 1 - score for score in base]
    one, other = measured(mine), measured(base)
    low, ratio, high = quality.perf_interval(one, other, {"a": 1.0}, 0.9)
    assert quality.perf_interval(one, other, {"a": 1.0}, 0.9) == (low, ratio, high)
    same, error = quality.paired_perf(one, other, {"a": 1.0})
    assert ratio == same
    assert high - low == pytest.approx(2 * 1.645 * error, rel=0.1)


def test_questions_that_all_agree_leave_what_a_binomial_bound_leaves_not_nothing() -> None:
    for count in (8, 36, 1000):
        same = measured([1.0] * count)
        low, ratio, high = quality.perf_interval(same, same, {"a": 1.0}, 0.9)
        assert (ratio, high - ratio) == (1.0, pytest.approx(ratio - low))
        # With that share of differing questions, none among so many is seen in 5 % of cases.
        assert (1 - (high - ratio)) ** count == pytest.approx(0.05)
    mixed = measured([1.0] * 36, b=[1.0] * 30 + [0.0] * 6)
    base = measured([1.0] * 36, b=[1.0] * 36)
    low, ratio, high = quality.perf_interval(mixed, base, {"a": 1.0, "b": 1.0}, 0.9)
    only_b = quality.perf_interval(mixed, base, {"b": 1.0}, 0.9)
    assert ratio - low > 0.5 * (only_b[1] - only_b[0])
    assert high > ratio + 0.5 * 0.07


def test_one_question_of_a_benchmark_or_none_leave_perf_unbounded() -> None:
    one = measured([1.0])
    assert quality.perf_interval(one, one, {"a": 1.0}, 0.9) == (0.0, 1.0, inf)
    assert quality.perf_interval(one, one, {"b": 1.0}, 0.9) == (0.0, inf, inf)


def test_pairing_makes_the_error_smaller_than_two_separate_samples_would() -> None:
    draw = random.Random(2)
    base = [float(draw.random() < 0.5) for _ in range(200)]
    mine = list(base)
    for index in (3, 50):
        mine[index] = 1 - mine[index]
    _, error = quality.paired_perf(measured(mine), measured(base), {"a": 1.0})
    assert error < 0.5 * (0.25 / 200) ** 0.5


def test_few_questions_that_agree_do_not_make_a_bound_collapse() -> None:
    same = measured([1.0] * 8)
    assert quality.paired_perf(same, same, {"a": 1.0})[1] == 0.0
    assert quality.paired_perf(same, same, {"a": 1.0}, phantoms=1)[1] > 0.1


def test_benchmarks_without_common_scored_questions_are_left_out() -> None:
    one = measured([1.0, 0.0])
    assert quality.paired_perf(one, one, {"a": 0.5, "b": 0.5})[0] == 1.0
    assert quality.paired_perf(one, one, {"b": 1.0}) == (inf, inf)
