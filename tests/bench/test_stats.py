"""Paired questions and paired times: the error estimates hold what they promise."""

from __future__ import annotations

import random
from math import exp, inf, log
from typing import Any

import pytest

from squeeze.bench import stats
from squeeze.records import Measurement, Pass, Question, Timing

ALONE = stats.Between(0.0, 1.0)
"""As if all processes were alike."""


def test_t_quantiles_agree_with_the_table_and_are_infinite_without_a_degree_of_freedom() -> None:
    assert stats.t_quantile(0.95, 2) == pytest.approx(2.920, abs=1e-3)
    assert stats.t_quantile(0.975, 10) == pytest.approx(2.228, abs=1e-3)
    assert stats.t_quantile(0.95, 0) == inf


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
        ratio, error = stats.paired_perf(measured(mine), measured(base), {"a": 1.0})
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
        low, ratio, high = stats.perf_interval(
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
    low, ratio, high = stats.perf_interval(one, other, {"a": 1.0}, 0.9)
    assert stats.perf_interval(one, other, {"a": 1.0}, 0.9) == (low, ratio, high)
    same, error = stats.paired_perf(one, other, {"a": 1.0})
    assert ratio == same
    assert high - low == pytest.approx(2 * 1.645 * error, rel=0.1)


def test_questions_that_all_agree_leave_what_a_binomial_bound_leaves_not_nothing() -> None:
    for count in (8, 36, 1000):
        same = measured([1.0] * count)
        low, ratio, high = stats.perf_interval(same, same, {"a": 1.0}, 0.9)
        assert (ratio, high - ratio) == (1.0, pytest.approx(ratio - low))
        # With that share of differing questions, none among so many is seen in 5 % of cases.
        assert (1 - (high - ratio)) ** count == pytest.approx(0.05)
    mixed = measured([1.0] * 36, b=[1.0] * 30 + [0.0] * 6)
    base = measured([1.0] * 36, b=[1.0] * 36)
    low, ratio, high = stats.perf_interval(mixed, base, {"a": 1.0, "b": 1.0}, 0.9)
    only_b = stats.perf_interval(mixed, base, {"b": 1.0}, 0.9)
    assert ratio - low > 0.5 * (only_b[1] - only_b[0])
    assert high > ratio + 0.5 * 0.07


def test_one_question_of_a_benchmark_or_none_leave_perf_unbounded() -> None:
    one = measured([1.0])
    assert stats.perf_interval(one, one, {"a": 1.0}, 0.9) == (0.0, 1.0, inf)
    assert stats.perf_interval(one, one, {"b": 1.0}, 0.9) == (0.0, inf, inf)


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
    assert stats.time_ratio(mine, others, ALONE)[:2] == (pytest.approx(2), pytest.approx(0))


def test_times_of_another_process_are_compared_with_its_median() -> None:
    ratio, _, _ = stats.time_ratio(
        timed({"a": 2.0}, {"a": 4.0}, {"a": 2.0}),
        timed({"a": 1.0}, {"a": 9.0}, {"a": 2.0}, {"a": 2.0}),
        ALONE,
    )
    assert ratio == pytest.approx(1)


def test_more_tokens_in_the_same_time_are_a_lower_time_per_token() -> None:
    mine, others = timed({"a": 1.0, "b": 3.0}, tokens=40), timed({"a": 1.0, "b": 3.0})
    ratio, _, _ = stats.time_ratio(mine, others, ALONE)
    assert ratio == pytest.approx(0.25)


def test_a_disturbance_of_one_repeat_of_each_benchmark_does_not_move_the_ratio() -> None:
    quiet = {"a": 1.0, "b": 2.0}
    mine = timed({"a": 9.0, "b": 2.0}, {"a": 1.0, "b": 8.0}, quiet)
    assert stats.time_ratio(mine, timed(quiet, quiet, quiet), ALONE)[0] == pytest.approx(1)


def test_one_repeat_has_a_ratio_but_no_interval() -> None:
    found = stats.ratio_interval(timed({"a": 2.0}), timed({"a": 1.0}), 0.9, stats.BETWEEN["cpu"])
    assert found == (0.0, pytest.approx(2), inf)


def test_the_interval_of_the_time_ratio_covers_the_truth_as_often_as_it_says() -> None:
    draw = random.Random(3)
    covered = 0
    trials = 600
    shares = {"a": 1.0, "b": 1.5, "c": 0.5, "d": 1.0}
    for _ in range(trials):
        laps = [
            {name: took * draw.lognormvariate(0, 0.03) for name, took in shares.items()} for _ in range(6)
        ]
        low, _, high = stats.ratio_interval(timed(*laps[:3]), timed(*laps[3:]), 0.90, ALONE)
        covered += low <= 1 <= high
    assert covered / trials > 0.87


def processes(draw: random.Random, count: int, apart: float) -> tuple[tuple[Pass, ...], tuple[Pass, ...]]:
    """Three passes in each of so many processes, whose ratios differ by that deviation of the logarithm."""
    mine: list[Pass] = []
    others: list[Pass] = []
    for process in range(count):
        off = exp(draw.gauss(0, apart))
        laps = timed(*({"a": draw.lognormvariate(0, 0.005)} for _ in range(6)))
        for lap in laps[:3]:
            slower = Timing(seconds=lap.timings["a"].seconds * off, tokens=10)
            mine.append(lap.model_copy(update={"process": process, "timings": {"a": slower}}))
        others += [lap.model_copy(update={"process": process}) for lap in laps[3:]]
    return tuple(mine), tuple(others)


@pytest.mark.parametrize("count", [1, 2, 4])
def test_with_processes_that_differ_the_interval_still_covers_the_truth(count: int) -> None:
    draw = random.Random(6)
    known = stats.Between(0.03, 19)
    covered = 0
    trials = 500
    for _ in range(trials):
        low, _, high = stats.ratio_interval(*processes(draw, count, 0.03), 0.90, known)
        covered += low <= 1 <= high
    assert 0.86 < covered / trials < 0.94


def test_passes_of_two_processes_are_not_taken_for_one_sample() -> None:
    fast = timed(*[{"a": 1.0}] * 3)
    slow = tuple(one.model_copy(update={"process": 1}) for one in timed(*[{"a": 1.1}] * 3))
    beside = (*fast, *(one.model_copy(update={"process": 1}) for one in fast))
    ratio, error, _ = stats.time_ratio((*fast, *slow), beside, stats.Between(0.001, 1))
    assert ratio == pytest.approx(exp(log(1.1) / 2))
    assert error > 0.03  # as one sample of six, whose spread is as large, it would be 0.02 and less


def test_what_is_assumed_depends_on_the_device_and_on_whether_the_baseline_was_timed_in_turn() -> None:
    def engine(**said: object) -> Measurement:
        return measured([1.0]).model_copy(update={"engine": said})

    assert stats.between(engine(device="cpu", in_turn=True)) == stats.BETWEEN["cpu"]
    assert stats.between(engine(device="NVIDIA H200", in_turn=True)) == stats.BETWEEN["gpu"]
    apart = stats.between(engine(device="NVIDIA L4", in_turn=False))
    assert apart.deviation > stats.BETWEEN["gpu"].deviation


def test_what_processes_were_seen_to_differ_by_takes_the_place_of_what_was_assumed() -> None:
    draw = random.Random(7)
    assumed = stats.Between(0.1, 2)
    _, alone, _ = stats.time_ratio(*processes(draw, 1, 0.0), assumed)
    _, eight, _ = stats.time_ratio(*processes(draw, 8, 0.0), assumed)
    assert alone > 0.1
    assert eight < 0.5 * alone / 8**0.5


def test_more_processes_and_fewer_differences_make_the_interval_narrower() -> None:
    def width(count: int) -> float:
        low, _, high = stats.ratio_interval(
            *processes(random.Random(8), count, 0.0), 0.9, stats.BETWEEN["cpu"]
        )
        return high - low

    assert width(4) < width(2) < width(1)
