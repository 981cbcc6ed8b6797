"""What counts as talking more than the baseline, being cut off, and going round in circles."""

from __future__ import annotations

import pytest

from squeeze.bench.verbosity import ends_in_a_loop, flags, talk
from squeeze.records import Measurement, Pass, Question, Timing


def measured(tokens: list[int], truncated: int = 0, looping: int = 0, seconds: float = 1.0) -> Measurement:
    """One benchmark; the first questions are cut off, or end in a loop."""
    questions = tuple(
        Question(
            index=index,
            answers=("정답: A" + " 그리고 또" * 20 * (index < looping),),
            tokens=count,
            score=1.0,
            truncated=index < truncated,
        )
        for index, count in enumerate(tokens)
    )
    timed = Pass(started=0.0, timings={"kmmlu_pro": Timing(seconds=seconds, tokens=sum(tokens))})
    return Measurement(
        model="m", workload="w", engine={}, complete=True, questions={"kmmlu_pro": questions}, passes=(timed,)
    )


@pytest.mark.parametrize(
    ("text", "loops"),
    [
        ("정답: A", False),
        ("", False),
        ("그래서 " * 20, True),
        ("풀이를 보자. " + "그래서 답은 3이다. " * 5, True),
        ("풀이를 보자. " + "그래서 답은 3이다. " * 5 + "그래서 답", True),  # the last time is cut off
        ("그래서 답은 3이다. " * 5 + "정답: C", False),  # it found its way out
        ("아주 긴 문장이 하나 있고 다른 문장이 이어진다. 그리고 끝난다.", False),
        ("3.333333333", False),  # too short for a loop
        ("." * 60, True),
        (" ".join(str(number) for number in range(300)), False),
    ],
)
def test_a_loop_is_an_end_that_repeats_a_unit(text: str, loops: bool) -> None:
    assert ends_in_a_loop(text) is loops


def test_long_answers_are_searched_for_loops_at_once() -> None:
    assert ends_in_a_loop("가" * 100_000)
    assert not ends_in_a_loop(" ".join(map(str, range(20_000))))


def test_a_model_that_talks_as_the_baseline_does_has_no_flags() -> None:
    base = measured([20, 22, 18, 20] * 5)
    assert flags(base, base) == ()
    assert flags(measured([21, 22, 18, 20] * 5), base) == ()


def test_a_model_that_talks_more_is_flagged_with_the_figures_of_both() -> None:
    base = measured([20, 22, 18, 20] * 5)
    assert flags(measured([30, 33, 27, 30] * 5), base) == (
        "kmmlu_pro: 30.0 tokens an answer, the baseline 20.0",
        "in all: 1.50 times the baseline's tokens; the same questions take 1.000 of its time, a token 0.667",
    )


def test_one_long_answer_among_few_is_chance_but_what_it_earns_is_told() -> None:
    base = measured([20, 22, 18, 20])
    assert flags(measured([20, 22, 18, 90]), base) == (
        "in all: 1.88 times the baseline's tokens; the same questions take 1.000 of its time, a token 0.533",
    )


def test_a_little_more_talk_everywhere_is_flagged_by_what_it_earns() -> None:
    base = measured([20] * 20)
    (told,) = flags(measured([22] * 20), base)  # 1.1 times: 0.09 of SpeedNorm
    assert told.startswith("in all: 1.10 times")
    # Longer answers that take as much longer earn nothing, and shorter ones cost.
    assert flags(measured([22] * 20, seconds=0.2), base) == ()
    assert flags(measured([18] * 20), base) == ()


def test_answers_cut_off_or_in_a_loop_are_flagged_when_they_are_more_than_the_baselines() -> None:
    base = measured([20] * 20, truncated=2, looping=1)
    assert flags(measured([20] * 20, truncated=3, looping=2), base) == ()
    assert flags(measured([20] * 20, truncated=4, looping=3), base) == (
        "kmmlu_pro: 20% of answers cut off at the limit, of the baseline's 10%",
        "kmmlu_pro: 15% of answers ending in a loop, of the baseline's 5%",
    )


def test_talk_has_tokens_and_time_of_both_over_the_same_questions() -> None:
    base = measured([20] * 10, seconds=2.0)
    found = talk(measured([40] * 5, truncated=1, seconds=1.0), base)["kmmlu_pro"]
    assert (found.questions, found.tokens_per_answer, found.baseline_tokens_per_answer) == (5, 40, 20)
    assert (found.truncated, found.baseline_truncated) == (0.2, 0.0)
    assert (found.seconds_per_token, found.baseline_seconds_per_token) == (1 / 200, 2 / 200)
