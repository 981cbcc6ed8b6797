"""Paired questions and paired times: the error estimates hold what they promise."""

from __future__ import annotations

import random
from math import inf

import pytest

from squeeze.bench import stats
from squeeze.records import Measurement, Pass, Question, Timing


@pytest.mark.parametrize(
    ("probability", "freedom", "known"),
    # Two-sided 90 % and 95 % columns of the usual table.
    [
        (0.95, 1, 6.314), (0.975, 1, 12.706), (0.95, 2, 2.920), (0.975, 2, 4.303), (0.95, 3, 2.353),
        (0.975, 3, 3.182), (0.95, 5, 2.015), (0.975, 10, 2.228), (0.95, 30, 1.697), (0.975, 120, 1.980),
    ],
)  # fmt: skip
def test_t_quantiles_agree_with_the_table(probability: float, freedom: int, known: float) -> None:
    assert stats.t_quantile(probability, freedom) == pytest.approx(known, rel=0.01)


def measured(scores: list[float]) -> Measurement:
    questions = tuple(
        Question(index=index, answers=("x",), tokens=1, score=score) for index, score in enumerate(scores)
    )
    return Measurement(
        model="m", workload="w", engine={}, complete=True, questions={"a": questions}, passes=()
    )


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
        ratio, error = stats.paired_perf(measured(mine), measured(base), {"a": 1.0})
        covered += abs(ratio - truth) <= 1.645 * error
    assert covered / trials == pytest.approx(0.90, abs=0.04)


def test_pairing_makes_the_error_smaller_than_two_separate_samples_would() -> None:
    draw = random.Random(2)
    base = [float(draw.random() < 0.5) for _ in range(200)]
    mine = list(base)
    for index in (3, 50):
        mine[index] = 1 - mine[index]
    _, error = stats.paired_perf(measured(mine), measured(base), {"a": 1.0})
    assert error < 0.5 * (0.25 / 200) ** 0.5


def test_few_questions_that_agree_do_not_make_a_bound_collapse() -> None:
    same = measured([1.0] * 8)
    assert stats.paired_perf(same, same, {"a": 1.0})[1] == 0.0
    assert stats.paired_perf(same, same, {"a": 1.0}, phantoms=1)[1] > 0.1


def test_benchmarks_without_common_scored_questions_are_left_out() -> None:
    one = measured([1.0, 0.0])
    assert stats.paired_perf(one, one, {"a": 0.5, "b": 0.5})[0] == 1.0
    assert stats.paired_perf(one, one, {"b": 1.0}) == (inf, inf)


def timed(*seconds: dict[str, float], tokens: int = 10) -> tuple[Pass, ...]:
    return tuple(
        Pass(
            started=0.0,
            timings={name: Timing(seconds=took, tokens=tokens) for name, took in one.items()},
        )
        for one in seconds
    )


def test_interleaved_times_are_compared_pair_by_pair() -> None:
    mine = timed({"a": 2.0}, {"a": 4.0}, {"a": 8.0})
    others = timed({"a": 1.0}, {"a": 2.0}, {"a": 4.0})
    assert stats.time_ratio(mine, others) == (pytest.approx(2), pytest.approx(0), 2)


def test_times_of_another_process_are_compared_with_its_median() -> None:
    ratio, _, _ = stats.time_ratio(
        timed({"a": 2.0}, {"a": 4.0}, {"a": 2.0}), timed({"a": 1.0}, {"a": 9.0}, {"a": 2.0}, {"a": 2.0})
    )
    assert ratio == pytest.approx(1)


def test_more_tokens_in_the_same_time_are_a_lower_time_per_token() -> None:
    ratio, _, _ = stats.time_ratio(timed({"a": 1.0, "b": 3.0}, tokens=40), timed({"a": 1.0, "b": 3.0}))
    assert ratio == pytest.approx(0.25)


def test_a_disturbance_of_one_repeat_of_each_benchmark_does_not_move_the_ratio() -> None:
    quiet = {"a": 1.0, "b": 2.0}
    mine = timed({"a": 9.0, "b": 2.0}, {"a": 1.0, "b": 8.0}, quiet)
    assert stats.time_ratio(mine, timed(quiet, quiet, quiet))[0] == pytest.approx(1)


def test_one_repeat_has_a_ratio_but_no_interval() -> None:
    assert stats.ratio_interval(timed({"a": 2.0}), timed({"a": 1.0}), 0.9) == (0.0, pytest.approx(2), inf)


def test_the_interval_of_the_time_ratio_covers_the_truth_as_often_as_it_says() -> None:
    draw = random.Random(3)
    covered = 0
    trials = 600
    shares = {"a": 1.0, "b": 1.5, "c": 0.5, "d": 1.0}
    for _ in range(trials):
        laps = [
            {name: took * draw.lognormvariate(0, 0.03) for name, took in shares.items()} for _ in range(6)
        ]
        low, _, high = stats.ratio_interval(timed(*laps[:3]), timed(*laps[3:]), 0.90)
        covered += low <= 1 <= high
    assert covered / trials > 0.87
