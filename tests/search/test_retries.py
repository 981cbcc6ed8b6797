"""Failures of the machine and the judge: what is tried again, when, and what ends a search."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import optuna
import pytest
import worker
from optuna.trial import FrozenTrial, TrialState

from search.propose import next_trial
from search.records import TrialRecord, load_trials
from search.retries import MOST_FAILED, Streak
from search.settle import Past, catch_up, settle
from search.study import FINISHED, open_study
from search.workers import FAILED, Owner, Reaper, owner
from squeeze.config import CompressionConfig, DepthConfig
from squeeze.decoder import Decoder
from squeeze.demo import MODEL_DIR
from squeeze.errors import FailureClass, SetupError
from squeeze.records import Score
from squeeze.target import Target

SQLITE = "sqlite:///studies/demo.db"
TARGET = Target.contest(Decoder.read(MODEL_DIR))
HERE, THERE = (":".join(Owner("host", "1", "1", "place", name)) for name in ("here", "there"))

Outcome = FailureClass | None


def record_of(
    trial: optuna.Trial, failure: Outcome = None, pruned_after: Mapping[str, float] | None = None
) -> TrialRecord:
    state: Any = "failed" if failure else "complete" if pruned_after is None else "pruned"
    score = Score(value=0.5, low=0.4, high=0.6, perf_norm=1.0, speed_norm=0.0)
    return TrialRecord(
        number=trial.number,
        state=state,
        params=trial.params,
        config=CompressionConfig(depth=DepthConfig(layers=trial.params["x"])),
        score=score if state == "complete" else None,
        failure=failure,
        reason=failure,
        seconds=pruned_after or {},
    )


def spoil(monkeypatch: pytest.MonkeyPatch, failing: Callable[[int], Outcome]) -> None:
    """Have trials fail by their parameter before they do anything."""

    def run_trial(trial: optuna.Trial, plan: Any, bench: Any, progress: Any) -> TrialRecord:
        worker.suggest(trial, plan.target)
        return record_of(trial, failing(trial.params["x"]))

    monkeypatch.setattr("search.trial.run_trial", run_trial)


def trials() -> list[FrozenTrial]:
    return optuna.load_study(study_name="demo", storage=SQLITE).get_trials()


def counted() -> list[int]:
    return [trial.params["x"] for trial in trials() if trial.state in FINISHED]


def test_a_candidate_that_fails_again_once_another_was_measured_is_given_up(
    workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoil(monkeypatch, lambda x: "killed" if x in (3, 5) else None)
    worker.search(SQLITE, 5)
    tried = [record.params["x"] for record in load_trials("demo")]
    some, other, third = (x for x in tried if x not in (3, 5))
    # Of those that wait one is tried after each that was measured.
    assert tried == [3, 3, 5, 5, some, 3, other, 5, third]
    states = [trial.state for trial in trials() if trial.params["x"] in (3, 5)]
    assert states == [TrialState.FAIL] * 4 + [TrialState.PRUNED] * 2
    worker.search(SQLITE, 7)
    assert sorted(counted())[:2] == [3, 5]


@pytest.mark.parametrize(("failure", "tries"), [("killed", 5), ("disk", 5), ("judge", 3)])
def test_three_in_a_row_that_the_machine_fails_end_the_search(
    workplace: Path, monkeypatch: pytest.MonkeyPatch, failure: FailureClass, tries: int
) -> None:
    spoil(monkeypatch, lambda x: failure)
    with pytest.raises(SetupError, match="3 trials in a row failed for reasons of the machine, the last"):
        worker.search(SQLITE, 9)
    assert [record.failure for record in load_trials("demo")] == [failure] * tries


@pytest.mark.parametrize("failure", ["killed", "disk", "judge"])
def test_a_machine_that_fails_everything_spoils_no_candidate_however_often_it_is_started(
    workplace: Path, monkeypatch: pytest.MonkeyPatch, failure: FailureClass
) -> None:
    spoil(monkeypatch, lambda x: failure)
    for start in range(5):
        with pytest.raises(SetupError, match="3 trials in a row"):
            worker.search(SQLITE, 4)
        assert counted() == []
        assert len(trials()) <= 6 * (start + 1)  # the last one waits
    failed = {trial.params["x"] for trial in trials() if trial.state == TrialState.FAIL}
    assert {3, 5} < failed
    spoil(monkeypatch, lambda x: None)
    worker.search(SQLITE, len(failed))
    assert set(counted()) == failed
    assert [trial.state for trial in trials()].count(TrialState.COMPLETE) == len(failed)


def test_a_start_on_a_machine_that_works_again_measures_what_failed(
    workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoil(monkeypatch, lambda x: "disk")
    with pytest.raises(SetupError):
        worker.search(SQLITE, 3)
    third = trials()[-2].params["x"]  # and the last is its second try, which waits
    spoil(monkeypatch, lambda x: None)
    worker.search(SQLITE, 3)
    assert counted() == [third, 3, 5]


@pytest.mark.parametrize("mended", [True, False])
def test_when_nothing_else_is_left_to_try_the_search_still_ends(
    workplace: Path, monkeypatch: pytest.MonkeyPatch, mended: bool
) -> None:
    monkeypatch.setattr(worker, "recipes", lambda target: [{"x": 1}])

    def only(trial: optuna.Trial, target: Target) -> CompressionConfig:
        return CompressionConfig(depth=DepthConfig(layers=trial.suggest_int("x", 1, 1)))

    monkeypatch.setattr(worker, "suggest", only)
    spoil(monkeypatch, lambda x: "killed")
    with pytest.raises(SetupError, match="3 trials in a row"):
        worker.search(SQLITE, 1)
    assert [trial.state for trial in trials()] == [TrialState.FAIL] * 4
    if mended:
        spoil(monkeypatch, lambda x: None)
    worker.search(SQLITE, 1)
    last = [TrialState.COMPLETE] if mended else [TrialState.FAIL] * (MOST_FAILED - 4) + [TrialState.PRUNED]
    assert [trial.state for trial in trials()] == [TrialState.FAIL] * 4 + last


class Made:
    """A study whose trials are ended by hand."""

    def __init__(self) -> None:
        self.study, self.mirror = open_study("demo", SQLITE, worker.IDENTITY)
        self.past = Past.load(self.study, self.mirror)

    def begin(self, by: str = HERE) -> optuna.Trial:
        space: Any = SimpleNamespace(suggest=worker.suggest, recipes=worker.recipes)
        trial = next_trial(self.study, space, TARGET, "random", 1, by)
        worker.suggest(trial, TARGET)
        return trial

    def end(self, trial: optuna.Trial, **outcome: Any) -> tuple[int, TrialState]:
        """Returns its parameter and what it was told as."""
        assert settle(self.study, self.mirror, self.past, record_of(trial, **outcome))
        return trial.params["x"], self.study.get_trials()[trial.number].state

    def do(self, by: str = HERE, **outcome: Any) -> tuple[int, TrialState]:
        return self.end(self.begin(by), **outcome)


FAIL, PRUNED, COMPLETE = TrialState.FAIL, TrialState.PRUNED, TrialState.COMPLETE


def test_a_success_of_another_worker_says_nothing_of_this_ones_machine(workplace: Path) -> None:
    made = Made()
    assert made.do(HERE, failure="disk") == made.do(HERE, failure="disk") == (3, FAIL)
    assert made.do(THERE) == (5, COMPLETE)
    assert made.begin(HERE).params["x"] not in (3, 5)
    assert made.do(THERE) == (3, COMPLETE)


def test_what_was_held_back_and_fails_on_a_worker_that_measured_nothing_since_is_held_back_again(
    workplace: Path,
) -> None:
    made = Made()
    for _ in range(2):
        made.do(HERE, failure="disk")
    assert made.do(THERE) == (5, COMPLETE)
    taken = made.begin(THERE)
    assert taken.params["x"] == 3
    made.study.tell(taken, state=FAIL)  # its worker dies
    catch_up(made.study, made.mirror, made.past, Reaper(made.study, owner()))
    assert made.do(HERE, failure="disk") == (3, FAIL)
    new, state = made.do(HERE)
    assert new not in (3, 5) and state == COMPLETE
    assert made.do(HERE, failure="disk") == (3, PRUNED)


def test_a_start_leaves_to_wait_what_was_held_back(workplace: Path) -> None:
    made = Made()
    for _ in range(2):
        made.do(failure="disk")
    assert catch_up(made.study, made.mirror, made.past, Reaper(made.study, owner())) == []
    assert made.do() == (5, COMPLETE)


@pytest.mark.parametrize(
    ("failure", "measured", "retried"),
    [("disk", 8.0, True), ("killed", 8.0, True), ("judge", 8.0, False), ("disk", 0.0, False)],
)
def test_a_prune_shows_that_the_machine_works_if_it_was_measured_but_nothing_of_the_judge(
    workplace: Path, failure: FailureClass, measured: float, retried: bool
) -> None:
    made = Made()
    for _ in range(2):
        made.do(failure=failure)
    assert made.do(pruned_after={"measure": measured} if measured else {}) == (5, PRUNED)
    assert (made.begin().params["x"] == 3) == retried


def ended(state: TrialState, **said: Any) -> FrozenTrial:
    return optuna.trial.create_trial(state=state, value=0.5 if state == COMPLETE else None, user_attrs=said)


KILLED, JUDGED = ended(FAIL, failure="killed"), ended(FAIL, failure="judge")
THIRD = ended(FAIL, **{"failure": "killed", FAILED: 2})
OOM, MEASURED, KNOWN = ended(PRUNED, failure="oom"), ended(PRUNED, seconds=8.0), ended(PRUNED, seconds=0.0)
DONE = ended(COMPLETE)


@pytest.mark.parametrize(
    ("row", "lengths"),
    [
        ([(KILLED, "a"), (KILLED, "a"), (KILLED, "b"), (KILLED, "c")], [1, 1, 2, 3]),
        ([(KILLED, "a"), (KILLED, "a"), (THIRD, "a")], [1, 1, 2]),
        ([(KILLED, "a"), (OOM, "b"), (KILLED, "c")], [1, 0, 1]),
        ([(KILLED, "a"), (DONE, "b"), (KILLED, "c")], [1, 0, 1]),
        ([(KILLED, "a"), (MEASURED, "b"), (KILLED, "c")], [1, 0, 1]),
        ([(KILLED, "a"), (KNOWN, "b"), (KILLED, "c")], [1, 1, 2]),
        ([(JUDGED, "a"), (MEASURED, "b"), (KILLED, "c"), (DONE, "d")], [1, 1, 2, 0]),
    ],
)
def test_what_counts_as_a_row(row: list[tuple[FrozenTrial, str]], lengths: list[int]) -> None:
    streak = Streak()
    assert [streak.add(trial, key) for trial, key in row] == lengths
