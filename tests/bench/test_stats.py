"""Paired times: the error estimates hold what they promise."""

from __future__ import annotations

import random
from math import exp, inf, log

import pytest

from squeeze.bench import stats
from squeeze.records import Measurement, Pass, Question, Timing

ALONE = stats.Between(0.0, 1.0)
"""As if all processes were alike."""


def test_t_quantiles_agree_with_the_table_and_are_infinite_without_a_degree_of_freedom() -> None:
    assert stats.t_quantile(0.95, 2) == pytest.approx(2.920, abs=1e-3)
    assert stats.t_quantile(0.975, 10) == pytest.approx(2.228, abs=1e-3)
    assert stats.t_quantile(0.95, 0) == inf


def measured(**tokens: list[int]) -> Measurement:
    """Benchmark -> tokens of its answers."""
    questions = {
        name: tuple(
            Question(index=index, answers=("x",), tokens=count, score=1.0)
            for index, count in enumerate(found)
        )
        for name, found in tokens.items()
    }
    return Measurement(model="m", workload="w", engine={}, complete=True, questions=questions, passes=())


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
        timed({"a": 5.0}, {"a": 2.0}, {"a": 4.0}, {"a": 2.0}),
        timed({"a": 5.0}, {"a": 1.0}, {"a": 9.0}, {"a": 2.0}, {"a": 2.0}),
        ALONE,
    )
    assert ratio == pytest.approx(1)


def test_more_tokens_in_the_same_time_are_a_lower_time_per_token() -> None:
    mine, others = timed({"a": 1.0, "b": 3.0}, tokens=40), timed({"a": 1.0, "b": 3.0})
    ratio, _, _ = stats.time_ratio(mine, others, ALONE)
    assert ratio == pytest.approx(0.25)


def test_a_disturbance_of_one_repeat_of_each_benchmark_does_not_move_the_ratio() -> None:
    quiet = {"a": 1.0, "b": 2.0}
    mine = timed(quiet, {"a": 9.0, "b": 2.0}, {"a": 1.0, "b": 8.0}, quiet)
    assert stats.time_ratio(mine, timed(*[quiet] * 4), ALONE)[0] == pytest.approx(1)


def test_the_first_pass_with_its_smaller_batches_counts_only_where_two_others_are_missing() -> None:
    def ratio(*mine: float, others: int) -> float:
        beside = timed(*[{"a": 1.0}] * others)
        return stats.time_ratio(timed(*({"a": one} for one in mine)), beside, ALONE)[0]

    assert ratio(9.0, 1.2, 1.2, others=3) == pytest.approx(1.2)
    assert ratio(4.0, 1.0, others=2) == pytest.approx(2)
    # The one left over on the other side is not taken for a pass beside the first.
    assert ratio(9.0, 1.2, 1.2, others=2) == pytest.approx(1.2)
    first, again = timed({"a": 4.0}, {"a": 1.0}), timed({"a": 9.0}, {"a": 2.0}, {"a": 2.0})
    joined = (*first, *(one.model_copy(update={"process": 1}) for one in again))
    beside = [one.model_copy(update={"timings": timed({"a": 1.0})[0].timings}) for one in joined]
    assert stats.time_ratio(joined, beside, ALONE)[0] == pytest.approx(2)  # of 2 and of 2


def test_the_time_for_all_is_of_the_same_passes_and_not_divided_by_tokens() -> None:
    passes, others = ({"a": 9.0}, {"a": 1.5}, {"a": 1.5}), timed(*[{"a": 1.0}] * 3)
    assert stats.time_of_all(timed(*passes, tokens=20), others) == pytest.approx(1.5)
    assert stats.time_ratio(timed(*passes, tokens=20), others, ALONE)[0] == pytest.approx(0.75)


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
            {name: took * draw.lognormvariate(0, 0.03) for name, took in shares.items()} for _ in range(8)
        ]
        low, _, high = stats.ratio_interval(timed(*laps[:4]), timed(*laps[4:]), 0.90, ALONE)
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
        return measured(a=[1]).model_copy(update={"engine": said})

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


def drawn_answers(draw: random.Random, count: int) -> tuple[list[int], list[int]]:
    """Tokens of so many answers, a model's and the baseline's: 1.2 times as many on average."""
    others = [round(draw.uniform(10, 40)) for _ in range(count)]
    return [round(one * draw.choice((0.9, 1.0, 1.7))) for one in others], others


def test_the_interval_of_speed_covers_what_another_draw_of_questions_would_say() -> None:
    draw = random.Random(9)
    covered = {True: 0, False: 0}
    trials = 500
    for _ in range(trials):
        (short, base_short), (long, base_long) = drawn_answers(draw, 40), drawn_answers(draw, 60)
        mine, base = measured(a=short, b=long), measured(a=base_short, b=base_long)
        tokens = [sum(some) for some in (short, long, base_short, base_long)]
        passes, reference = (
            tuple(
                Pass(
                    started=0.0,
                    timings={
                        "a": Timing(seconds=draw.lognormvariate(0, 0.005), tokens=of_a),
                        "b": Timing(seconds=draw.lognormvariate(0, 0.005), tokens=of_b),
                    },
                )
                for _ in range(4)
            )
            for of_a, of_b in (tokens[:2], tokens[2:])
        )
        mine = mine.model_copy(update={"passes": passes, "reference": reference})
        known = stats.Between(0.001, 4)
        for drawn in (True, False):
            more = stats.drawn_lengths(mine, base) if drawn else (0.0, inf)
            low, _, high = stats.ratio_interval(passes, reference, 0.90, known, more)
            covered[drawn] += low <= 1 / 1.2 <= high
    assert 0.86 < covered[True] / trials < 0.94
    assert covered[False] / trials < 0.5


def test_equal_lengths_and_lengths_by_one_factor_add_nothing_and_one_question_tells_nothing() -> None:
    base = measured(a=[10, 30, 20], b=[5, 8])
    assert stats.drawn_lengths(base, base)[0] == 0.0
    assert stats.drawn_lengths(measured(a=[20, 60, 40], b=[10, 16]), base)[0] == pytest.approx(0)
    assert stats.drawn_lengths(measured(a=[20, 60, 41], b=[10, 16]), base)[0] > 0
    assert stats.drawn_lengths(measured(a=[20, 60], b=[10]), base) == (inf, 0.0)
    assert stats.drawn_lengths(measured(c=[20, 60]), base) == (0.0, inf)


def test_the_interval_of_a_measurements_speed_has_the_lengths_of_its_answers_in_it() -> None:
    passes = timed(*[{"a": 1.0}] * 3)
    base = measured(a=[10] * 10).model_copy(update={"passes": passes})

    def width(tokens: list[int]) -> float:
        mine = measured(a=tokens).model_copy(update={"passes": passes})
        low, ratio, high = stats.speed_interval(mine, base, 0.9)
        assert low < ratio < high
        return high - low

    assert width([10] * 9 + [100]) > 3 * width([10] * 10)
