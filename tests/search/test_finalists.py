"""Which trials are measured again, in what order, and which is the best then."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from objectives import competition
from search.finalists import judge, next_finalist
from search.keep import kept_numbers
from search.progress import Progress
from search.records import (
    Confirmation,
    TrialRecord,
    best_first,
    load_trials,
    save_trial,
    standing,
)
from squeeze.records import Measurement, Pass, Question, Timing

Make = Callable[..., TrialRecord]
Keep = Callable[..., None]


def again(record: TrialRecord, value: float) -> TrialRecord:
    """The record, measured again with that result; the interval stays ± 0.01."""
    assert record.score is not None
    score = record.score.model_copy(update={"value": value, "low": value - 0.01, "high": value + 0.01})
    return record.model_copy(update={"confirmation": Confirmation(baseline="b", again=score, pooled=score)})


def order(records: list[TrialRecord], count: int = 3) -> list[int]:
    """The finalists of a search where each says the same again."""
    chosen = []
    while record := next_finalist("demo", records, count):
        assert record.score is not None
        records = [again(one, record.score.value) if one is record else one for one in records]
        chosen.append(record.number)
    return chosen


def ranking(records: list[TrialRecord]) -> list[int]:
    return [record.number for record, _ in best_first(records)]


def test_the_best_three_are_measured_again_best_first(workplace: Path, keep: Keep, scored: Make) -> None:
    keep(0, 1, 2, 3)
    records = [scored(number, value) for number, value in enumerate((0.57, 0.575, 0.58, 0.572))]
    assert order(records) == [2, 1, 3]
    assert order(records, count=1) == [2]
    assert order(records, count=0) == []


def test_only_those_whose_interval_reaches_the_best_ones_are_measured_again(
    workplace: Path, keep: Keep, scored: Make
) -> None:
    keep(0, 1, 2)
    assert order([scored(0, 0.6), scored(1, 0.579), scored(2, 0.581)]) == [0, 2]


def test_a_trial_without_its_model_or_that_failed_is_passed_over(
    workplace: Path, keep: Keep, scored: Make
) -> None:
    keep(1, 2)
    records = [scored(0, 0.61), scored(1, 0.605), scored(2, 0.6)]
    assert order(records) == [1, 2]
    found = next_finalist("demo", records, 3, failed={1})
    assert found is not None and found.number == 2


def test_a_leader_that_falls_back_brings_in_those_it_now_ties_with(
    workplace: Path, keep: Keep, scored: Make
) -> None:
    keep(0, 1)
    records = [scored(0, 0.6), scored(1, 0.57)]
    assert order(records) == [0]
    found = next_finalist("demo", [again(records[0], 0.575), records[1]], 3)
    assert found is not None and found.number == 1


def test_a_search_cut_off_while_measuring_again_goes_on_with_what_is_missing(
    workplace: Path, keep: Keep, scored: Make
) -> None:
    keep(0, 1, 2)
    for record in (scored(0, 0.58), again(scored(1, 0.59), 0.58), scored(2, 0.57)):
        save_trial("demo", record)
    assert order(load_trials("demo")) == [0, 2]
    for record in load_trials("demo"):
        save_trial("demo", again(record, 0.58))
    assert order(load_trials("demo")) == []


def test_later_trials_are_measured_again_and_earlier_confirmations_stay(
    workplace: Path, keep: Keep, scored: Make
) -> None:
    keep(0, 1, 2)
    records = [again(scored(0, 0.58), 0.56), again(scored(1, 0.57), 0.57), scored(2, 0.7)]
    assert order(records) == [2]


def test_a_lucky_first_score_does_not_beat_a_confirmed_one(scored: Make) -> None:
    records = [again(scored(0, 0.58), 0.55), scored(1, 0.6), again(scored(2, 0.57), 0.56), scored(3, 0.5)]
    assert ranking(records) == [2, 1, 0, 3]
    assert ranking([scored(0, 0.58), scored(1, 0.6)]) == [1, 0]
    assert standing(records) == {2: "best", 1: "tie", 0: "tie"}


def test_a_model_that_may_be_the_best_is_kept_until_it_was_measured_again(
    workplace: Path, keep: Keep, scored: Make
) -> None:
    keep(0, 1, 2, 3)
    records = [again(scored(number, 0.6), 0.6 - number / 100) for number in range(3)]
    records.append(scored(3, 0.65))
    assert kept_numbers("demo", records) == [0, 3, 1]


def test_progress_tells_the_best_by_the_same_rule(
    workplace: Path, scored: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    progress = Progress("demo", 3, 1, again(scored(0, 0.6), 0.55))
    progress.finish(scored(1, 0.58), 2)
    assert "(best 0.5500" in capsys.readouterr().err
    best = again(scored(1, 0.58), 0.57)
    progress.confirm(best, best)
    told = capsys.readouterr().err
    assert "trial 1 again, the same questions: nothing: Score 0.5700 ± 0.0100, with the first 0.5700" in told
    assert "(best 0.5700)" in told


def measured(scores: dict[int, float], *seconds: float, beside: float = 2.0) -> Measurement:
    """Questions by index, passes of so many seconds, each beside one of the baseline's."""

    def passes(times: tuple[float, ...]) -> tuple[Pass, ...]:
        return tuple(
            Pass(started=0.0, timings={"kmmlu_pro": Timing(seconds=time, tokens=100)}) for time in times
        )

    questions = tuple(
        Question(index=index, answers=("1",), tokens=25, score=score) for index, score in scores.items()
    )
    return Measurement(
        model="m",
        workload="w",
        engine={},
        complete=True,
        questions={"kmmlu_pro": questions},
        passes=passes(seconds),
        reference=passes((beside,) * len(seconds)),
    )


def test_both_measurements_together_have_the_questions_and_passes_of_both() -> None:
    base = measured(dict.fromkeys(range(4), 1.0), 2.0)
    base_again = measured(dict.fromkeys(range(4, 8), 1.0), 2.0)
    first = measured({0: 1.0, 1: 1.0, 2: 1.0, 3: 1.0}, 1.0, 1.0)
    again = measured({4: 1.0, 5: 0.0, 6: 1.0, 7: 0.0}, 1.2, 1.2, 1.2)
    found = judge((first, base), again, "c", base_again, competition)
    assert found.held_out == {"kmmlu_pro": 4}
    assert found.again == competition.score(again, base_again)
    assert (found.again.perf_norm, found.pooled.perf_norm) == (0.5, 0.75)
    # Halves of what the processes say, however many passes each has.
    assert 1 - found.pooled.speed_norm == pytest.approx((0.5 * 0.6) ** 0.5)
    joined = first.joined(again)
    assert [one.process for one in joined.passes] == [0, 0, 1, 1, 1]
    assert [one.process for one in joined.reference] == [0, 0, 1, 1, 1]
    assert found.pooled.high - found.pooled.low < found.again.high - found.again.low


def test_questions_that_were_all_asked_before_are_not_called_held_out() -> None:
    base = measured({0: 1.0, 1: 1.0}, 2.0)
    first, again = measured({0: 1.0, 1: 0.0}, 1.0, 1.0), measured({0: 1.0, 1: 1.0}, 1.0, 1.0, 1.0)
    found = judge((first, base), again, "b", base, competition)
    assert found.held_out == {"kmmlu_pro": 0}
    assert found.pooled.perf_norm == 1.0  # of those asked twice the second answer counts
    assert judge(None, again, "b", base, competition).held_out == {}


def test_a_confirmation_of_before_questions_were_held_out_still_loads(scored: Make) -> None:
    record = again(scored(0, 0.58), 0.55)
    old = record.model_dump(mode="json")
    for name in ("first_baseline", "held_out"):
        del old["confirmation"][name]
    for part in (old["score"], old["confirmation"]["again"], old["confirmation"]["pooled"]):
        del part["talk"], part["flags"]
    assert TrialRecord.model_validate(old) == record
