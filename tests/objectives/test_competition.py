"""The contest's Score, on published rows and on made measurements."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest

import objectives
from objectives import competition
from squeeze.bench.quality import perf_interval
from squeeze.errors import ConfigError
from squeeze.records import Divergence, Measurement, Pass, Question, Rung, Timing


def questions(scores: Sequence[float | None]) -> tuple[Question, ...]:
    return tuple(
        Question(index=index, answers=("정답: A",), tokens=10, score=score)
        for index, score in enumerate(scores)
    )


def passes(*per_token: float, tokens: int = 1000) -> tuple[Pass, ...]:
    return tuple(
        Pass(started=float(index), timings={"kmmlu_redux": Timing(seconds=spt * tokens, tokens=tokens)})
        for index, spt in enumerate(per_token)
    )


def measurement(
    scores: Mapping[str, Sequence[float | None]],
    *per_token: float,
    reference: Sequence[float] = (),
    rung: Rung = "repeats",
) -> Measurement:
    return Measurement(
        model="m",
        workload="w",
        engine={},
        complete=rung == "repeats",
        rung=rung,
        questions={name: questions(found) for name, found in scores.items()},
        passes=() if rung == "speed" else passes(*per_token),
        reference=() if rung == "speed" else passes(*reference),
        probe=passes(*per_token),
        probe_reference=passes(*reference),
    )


def half(right: int, of: int) -> list[float]:
    return [1.0] * right + [0.0] * (of - right)


def test_a_published_row_has_its_published_score() -> None:
    assert competition.value(0.3303, 0.3256, 0.000227, 0.000273) == pytest.approx(0.5915, abs=5e-5)


def test_the_base_on_itself_has_one_half() -> None:
    assert competition.value(0.3256, 0.3256, 0.000273, 0.000273) == 0.5
    base = measurement({"kmmlu_redux": half(70, 100)}, 2e-4, 2.1e-4, 1.9e-4)
    score = competition.score(base, base)
    assert score.value == 0.5
    assert (score.perf_norm, score.speed_norm) == (1.0, 0.0)
    assert score.low <= 0.5 <= score.high


def test_the_score_is_never_below_zero() -> None:
    assert competition.value(0.0, 0.3256, 0.001, 0.000273) == 0.0
    slow = measurement({"kmmlu_redux": half(0, 100)}, 9e-4, 9e-4, 9e-4)
    score = competition.score(slow, measurement({"kmmlu_redux": half(70, 100)}, 2e-4, 2e-4, 2e-4))
    assert (score.value, score.low) == (0.0, 0.0)
    assert score.speed_norm == pytest.approx(-3.5)


def test_the_weights_are_equal_and_scaled_up_over_the_benchmarks_that_are_there() -> None:
    assert sum(competition.WEIGHTS.values()) == pytest.approx(1)
    assert len(set(competition.WEIGHTS.values())) == 1
    scores = {"kmmlu_redux": half(80, 100), "ko_longrag": half(20, 50), "komt_bench": [None] * 10}
    assert competition.perf(measurement(scores, 1e-4)) == pytest.approx((0.8 + 0.4) / 2)


def test_speed_is_compared_with_the_passes_in_between_not_with_the_old_baseline() -> None:
    base = measurement({"kmmlu_redux": half(70, 100)}, 2e-4, 2e-4, 2e-4, 2e-4)
    # The machine has become twice as slow since the baseline was measured, and drifts on.
    candidate = measurement(
        {"kmmlu_redux": half(70, 100)}, 9e-4, 3.6e-4, 4.5e-4, 2.7e-4, reference=(9e-4, 4e-4, 5e-4, 3e-4)
    )
    assert competition.score(candidate, base).speed_norm == pytest.approx(0.1)
    without = measurement({"kmmlu_redux": half(70, 100)}, 9e-4, 3.6e-4, 4.5e-4, 2.7e-4)
    assert competition.score(without, base).speed_norm == pytest.approx(-0.8)


def test_the_interval_narrows_with_questions_and_with_steadier_repeats() -> None:
    def width(count: int, spread: float) -> float:
        base = measurement({"kmmlu_redux": half(count, count)}, 1e-4, 1e-4, 1e-4)
        times = (1e-4, 1e-4 * (1 + spread), 1e-4 * (1 - spread))
        candidate = measurement(
            {"kmmlu_redux": half(count * 9 // 10, count)}, *times, reference=(1e-4, 1e-4, 1e-4)
        )
        score = competition.score(candidate, base)
        assert score.low <= score.value <= score.high
        return score.high - score.low

    assert width(1000, 0.01) < width(100, 0.01) < width(100, 0.1)


def test_the_upper_end_is_cut_only_where_quality_has_none() -> None:
    def upper(right: int, of: int, base_right: int) -> tuple[float, float]:
        base = measurement({"kmmlu_redux": half(base_right, of)}, 1e-4, 1e-4, 1e-4)
        times = (1e-4, 1e-4, 1e-4)
        one = measurement({"kmmlu_redux": half(right, of)}, *times, reference=times)
        _, norm, high = perf_interval(one, base, competition.WEIGHTS, competition.CONFIDENCE)
        assert high - norm > norm  # so wide an interval
        return competition.score(one, base).high, 0.5 * high

    found, quality = upper(3, 60, 20)
    assert found >= quality
    found, quality = upper(1, 1, 1)
    assert found < quality


def test_questions_that_only_one_was_asked_do_not_count() -> None:
    base = measurement({"kmmlu_redux": half(50, 100)}, 1e-4)
    block = measurement({"kmmlu_redux": half(25, 25)}, 1e-4, reference=(1e-4,))
    assert competition.score(block, base).perf_norm == 1.0


def test_a_baseline_that_scores_nothing_is_refused_in_one_line() -> None:
    base = measurement({"kmmlu_redux": half(0, 10)}, 1e-4)
    with pytest.raises(ConfigError, match="must score above 0"):
        competition.score(base, base)


def test_at_the_speed_rung_a_slow_candidate_has_no_chance_and_a_fast_one_has() -> None:
    base = measurement({"kmmlu_redux": half(70, 100)}, 2e-4, 2e-4)
    slow = measurement({"kmmlu_redux": half(0, 8)}, 4e-4, 4.1e-4, reference=(2e-4, 2e-4), rung="speed")
    fast = measurement({"kmmlu_redux": half(0, 8)}, 1.5e-4, 1.6e-4, reference=(2e-4, 2e-4), rung="speed")
    assert competition.optimistic(slow, base) < 0.2
    # The few answers of the probe must not tell on it.
    assert competition.optimistic(fast, base) > 0.6


def test_after_the_block_lost_quality_ends_a_candidate_but_a_few_slips_do_not() -> None:
    base = measurement({"kmmlu_redux": half(90, 100), "kmmlu_pro": half(90, 100)}, 2e-4, 2e-4)

    def bound(right: int) -> float:
        scores = {"kmmlu_redux": half(right, 30), "kmmlu_pro": half(right, 30)}
        return competition.optimistic(
            measurement(scores, 2e-4, 2e-4, reference=(2e-4, 2e-4), rung="block"), base
        )

    assert bound(8) < 0.35
    assert bound(29) > 0.5
    assert bound(30) <= 0.5 * competition.PERF_CEILING + 0.5 * 0.1


def test_with_every_question_answered_no_ceiling_hides_a_candidate_better_than_the_base() -> None:
    base = measurement({"kmmlu_redux": half(33, 100)}, 2e-4, 2e-4, 2e-4)
    scores = {"kmmlu_redux": half(40, 100)}
    rest = measurement(scores, 1.6e-4, reference=(2e-4,), rung="rest")
    final = competition.score(measurement(scores, 1.6e-4, 1.6e-4, reference=(2e-4, 2e-4)), base)
    assert competition.optimistic(rest, base) >= final.value > 0.7


def test_on_a_busy_machine_one_slow_pass_prunes_nothing() -> None:
    scores = {"kmmlu_redux": half(90, 100)}
    quiet = measurement(scores, 2e-4, 2.01e-4, 1.99e-4)
    busy = measurement(scores, 2e-4, 2.6e-4, 1.6e-4)
    unlucky = measurement(scores, 1.95e-4, reference=(2e-4,), rung="rest")
    assert competition.optimistic(unlucky, quiet) < 0.55
    assert competition.optimistic(unlucky, busy) > 0.6


def test_smaller_batches_in_the_first_pass_are_not_taken_for_noise() -> None:
    scores = {"kmmlu_redux": half(90, 100)}
    base = measurement(scores, 3e-4, 2.01e-4, 1.99e-4)  # the first pass asks in two goes
    slow = measurement(scores, 1.95e-4, reference=(2e-4,), rung="rest")
    assert competition.optimistic(slow, base) < 0.55


def test_a_drift_since_the_baseline_was_measured_does_not_stop_pruning() -> None:
    scores = {"kmmlu_redux": half(90, 100)}
    long_ago = measurement(scores, 6e-4, 6.01e-4, 5.99e-4)
    now = measurement(scores, 1.95e-4, reference=(2e-4,), rung="rest")
    assert competition.optimistic(now, long_ago) < 0.55


@pytest.mark.parametrize("rung", ["speed", "block", "rest"])
def test_the_optimistic_value_is_not_below_the_score_it_precedes(rung: Rung) -> None:
    base = measurement({"kmmlu_redux": half(90, 120)}, 2e-4, 2e-4, 2e-4)
    times, others = (1.5e-4, 1.52e-4, 1.49e-4), (2e-4, 2.01e-4, 1.99e-4)
    final = competition.score(measurement({"kmmlu_redux": half(88, 120)}, *times, reference=others), base)
    count = {"speed": 8, "block": 30, "rest": 120}[rung]
    partial = measurement(
        {"kmmlu_redux": half(min(count, 88), count)}, *times[:2], reference=others[:2], rung=rung
    )
    assert competition.optimistic(partial, base) >= final.value


def test_a_ceiling_known_from_elsewhere_counts_until_every_question_is_answered() -> None:
    base = measurement({"kmmlu_redux": half(70, 100)}, 2e-4, 2e-4)
    apart = Divergence(tokens=2048, mean=0.5, error=0.01)
    early = measurement({}, 2e-4, 2e-4, reference=(2e-4, 2e-4), rung="divergence").model_copy(
        update={"divergence": apart}
    )
    lost = 0.5 * (competition.PERF_CEILING - 0.8)
    assert competition.optimistic(early, base, 0.8) == pytest.approx(
        competition.optimistic(early, base) - lost
    )
    late = measurement({"kmmlu_redux": half(69, 100)}, 2e-4, reference=(2e-4,), rung="rest")
    assert competition.optimistic(late, base, 0.8) == competition.optimistic(late, base)
    assert competition.estimate(early, base).divergence == 0.5


def test_an_unknown_objective_is_refused_with_the_known_ones() -> None:
    assert "competition" in objectives.names()
    assert objectives.load("competition").score is competition.score
    for wrong in ("no_such", "__init__", "../competition"):
        with pytest.raises(ConfigError, match="competition"):
            objectives.load(wrong)


def test_a_candidate_that_talks_more_than_the_baseline_is_not_judged_by_the_probe() -> None:
    base = measurement({"kmmlu_redux": half(70, 100)}, 2e-4, 2e-4)
    scores = {"kmmlu_redux": half(25, 25)}
    slow = measurement(scores, 4e-4, 4e-4, reference=(2e-4, 2e-4), rung="block")
    wordy = slow.model_copy(update={"passes": passes(4e-4, 4e-4, tokens=2000)})
    assert competition.optimistic(slow, base) < 0.2
    assert competition.optimistic(wordy, base) > 1.0


def test_an_estimate_tells_speed_at_once_and_quality_after_the_first_questions() -> None:
    base = measurement({"kmmlu_redux": half(80, 100)}, 2e-4, 2e-4)
    speed = measurement({}, 1.5e-4, 1.5e-4, reference=(2e-4, 2e-4), rung="speed")
    assert competition.estimate(speed, base).speed_norm == pytest.approx(0.25)
    assert competition.estimate(speed, base).perf_norm is None
    block = measurement({"kmmlu_redux": half(15, 25)}, 1.5e-4, reference=(2e-4,), rung="block")
    found = competition.estimate(block, base)
    assert (found.perf_norm, found.speed_norm) == (pytest.approx(0.6), pytest.approx(0.25))
    assert found.perf_error is not None and 0 < found.perf_error < 0.2


# KoMT-Bench, rated by a judge once all is answered.

FOUR = {name: half(8, 10) for name in ("kmmlu_redux", "kmmlu_pro", "ko_longrag")}


def rated(*scores: float | None, rung: Rung = "repeats", **others: Sequence[float]) -> Measurement:
    made = measurement(
        {**FOUR, **others, "komt_bench": scores}, 2e-4, 2e-4, reference=(2e-4, 2e-4), rung=rung
    )
    timings = dict.fromkeys(made.questions, Timing(seconds=0.2, tokens=1000))
    timed = [
        tuple(one.model_copy(update={"timings": timings}) for one in some)
        for some in (made.passes, made.reference)
    ]
    return made.model_copy(update={"passes": timed[0], "reference": timed[1]})


def test_rated_conversations_make_up_a_quarter_of_perf() -> None:
    base, worse = rated(0.6, 0.4), rated(0.3, 0.2)
    assert competition.perf(base) == pytest.approx((3 * 0.8 + 0.5) / 4)
    score = competition.score(worse, base)
    assert score.perf_norm == pytest.approx((3 * 0.8 + 0.25) / (3 * 0.8 + 0.5))
    assert score.left_out == {}
    assert score.parts["accuracy_komt_bench"] == pytest.approx(0.25)


def test_without_a_judge_the_others_share_the_weight_and_the_score_says_so() -> None:
    base = rated(None, None).model_copy(update={"unscored": {"komt_bench": "no judge was given"}})
    score = competition.score(rated(None, None, kmmlu_pro=half(4, 10)), base)
    assert score.perf_norm == pytest.approx((0.8 + 0.4 + 0.8) / 2.4)
    assert score.left_out == {"komt_bench": "no judge was given"}
    assert "accuracy_komt_bench" not in score.parts


@pytest.mark.parametrize("scores", [(None, None), (0.9, None)])
def test_a_candidate_that_is_not_wholly_rated_has_no_score_beside_a_rated_baseline(
    scores: tuple[float | None, ...],
) -> None:
    with pytest.raises(ConfigError, match="komt_bench has none; measure it again"):
        competition.score(rated(*scores), rated(0.6, 0.4))


def test_what_is_not_rated_yet_may_still_reach_the_ceiling() -> None:
    lost = half(4, 10)

    def bound(base: Measurement, *scores: float | None, rung: Rung) -> float:
        of = rated(*scores, rung=rung, kmmlu_redux=lost, kmmlu_pro=lost, ko_longrag=lost)
        return competition.optimistic(of, base)

    unjudged = bound(rated(None, None), None, None, rung="block")
    judged = bound(rated(0.5, 0.5), None, None, rung="block")
    # Both have the same speed, and the same bound on the three others.
    share = 0.5 / (3 * 0.8 + 0.5)
    speed = bound(rated(0.5, 0.5), 0.5, 0.5, rung="rest") - 0.5 * (3 * 0.4 + 0.5) / (3 * 0.8 + 0.5)
    assert 2 * (judged - speed) == pytest.approx(
        (1 - share) * 2 * (unjudged - speed) + share * competition.PERF_CEILING
    )
    assert judged > unjudged
    assert bound(rated(0.5, 0.5), 0.5, 0.5, rung="rest") < judged


def test_spells_that_both_met_turn_by_turn_do_not_keep_a_hopeless_candidate_alive() -> None:
    spells = (1.0, 1.4, 0.8)
    baseline = measurement({"kmmlu_redux": half(70, 100)}, *[1e-4 * one for one in spells])
    both: dict[str, Measurement] = {}
    for turn_s in (None, 0.2):
        slow = measurement(
            {"kmmlu_redux": half(70, 100)},
            *[1.6e-4 * one for one in spells],
            reference=[1e-4 * one for one in spells],
            rung="rest",
        )
        both[str(turn_s)] = slow.model_copy(update={"engine": {"turn_s": turn_s}})
    apart, together = (competition.optimistic(one, baseline) for one in both.values())
    assert together < apart
    assert together == pytest.approx(0.5 + 0.5 * (1 - 1.6 + 0.05), abs=0.1)
