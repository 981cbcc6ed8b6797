"""Which trials are measured again, in what order, and which is the best then."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from search.finalists import next_finalist
from search.keep import kept_numbers
from search.progress import Progress
from search.records import (
    Confirmation,
    TrialRecord,
    best_first,
    load_trials,
    model_folder,
    save_trial,
    standing,
)
from squeeze.config import CompressionConfig
from squeeze.folder import Manifest, file_hash, write_manifest

Make = Callable[..., TrialRecord]


def again(record: TrialRecord, value: float) -> TrialRecord:
    """The record, measured again with that result; the interval stays ± 0.01."""
    assert record.score is not None
    score = record.score.model_copy(update={"value": value, "low": value - 0.01, "high": value + 0.01})
    return record.model_copy(update={"confirmation": Confirmation(baseline="b", again=score, pooled=score)})


def keep(*numbers: int) -> None:
    """Models of those trials, each whole: one file and the manifest."""
    for number in numbers:
        folder = model_folder("demo", number)
        folder.mkdir(parents=True)
        (folder / "weights").write_text(str(number))
        files = {"weights": file_hash(folder / "weights")}
        manifest = Manifest(files=files, config=CompressionConfig(), base="b", data="d", versions={})
        write_manifest(folder, manifest)


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


def test_the_best_three_are_measured_again_best_first(workplace: Path, scored: Make) -> None:
    keep(0, 1, 2, 3)
    records = [scored(number, value) for number, value in enumerate((0.57, 0.575, 0.58, 0.572))]
    assert order(records) == [2, 1, 3]
    assert order(records, count=1) == [2]
    assert order(records, count=0) == []


def test_only_those_whose_interval_reaches_the_best_ones_are_measured_again(
    workplace: Path, scored: Make
) -> None:
    keep(0, 1, 2)
    assert order([scored(0, 0.6), scored(1, 0.579), scored(2, 0.581)]) == [0, 2]


def test_a_trial_without_its_model_or_that_failed_is_passed_over(workplace: Path, scored: Make) -> None:
    keep(1, 2)
    records = [scored(0, 0.61), scored(1, 0.605), scored(2, 0.6)]
    assert order(records) == [1, 2]
    found = next_finalist("demo", records, 3, failed={1})
    assert found is not None and found.number == 2


def test_a_leader_that_falls_back_brings_in_those_it_now_ties_with(workplace: Path, scored: Make) -> None:
    keep(0, 1)
    records = [scored(0, 0.6), scored(1, 0.57)]
    assert order(records) == [0]
    found = next_finalist("demo", [again(records[0], 0.575), records[1]], 3)
    assert found is not None and found.number == 1


def test_a_search_cut_off_while_measuring_again_goes_on_with_what_is_missing(
    workplace: Path, scored: Make
) -> None:
    keep(0, 1, 2)
    for record in (scored(0, 0.58), again(scored(1, 0.59), 0.58), scored(2, 0.57)):
        save_trial("demo", record)
    assert order(load_trials("demo")) == [0, 2]
    for record in load_trials("demo"):
        save_trial("demo", again(record, 0.58))
    assert order(load_trials("demo")) == []


def test_later_trials_are_measured_again_and_earlier_confirmations_stay(
    workplace: Path, scored: Make
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
    workplace: Path, scored: Make
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
    assert "trial 1 again: nothing: Score 0.5700 ± 0.0100, with the first 0.5700 ± 0.0100" in told
    assert "(best 0.5700)" in told
