"""Workers that die, and what becomes of their trials: real processes, SQLite and PostgreSQL."""

from __future__ import annotations

import contextlib
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import optuna
import psutil
import pytest
import worker
from optuna.exceptions import StorageInternalError
from optuna.trial import TrialState
from sqlalchemy.exc import OperationalError

from search import workers
from search.records import TrialRecord, load_trials, model_folder
from search.storage import open_storage
from search.study import open_study
from search.workers import (
    CONFIG,
    DOUBLE,
    MOST_CUT_OFF,
    MOST_LOST,
    OWNER,
    RETRY_OF,
    Owner,
    Reaper,
    doubled,
    is_abandoned,
    owner,
    requeue,
)
from squeeze.config import CompressionConfig, DepthConfig
from squeeze.decoder import Decoder
from squeeze.demo import MODEL_DIR
from squeeze.errors import FailureClass, SetupError
from squeeze.records import Score
from squeeze.target import Target

WORKER = Path(__file__).with_name("worker.py")
SQLITE = "sqlite:///studies/demo.db"
BOOT = Owner.parse(owner()).boot


class Worker:
    """A search in a process of its own, in a folder of its own."""

    def __init__(self, folder: Path, storage: str, trials: int, seconds: float) -> None:
        folder.mkdir(exist_ok=True)
        self.folder = folder
        self.process = subprocess.Popen(
            [sys.executable, str(WORKER), storage, str(trials), str(seconds)],
            cwd=folder,
            stdout=subprocess.PIPE,
            stderr=(folder / "talk.txt").open("a"),
            text=True,
        )

    def begun(self) -> tuple[int, list[int]]:
        """Wait until a trial is in its child. Returns its number and the processes that work for it."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line.startswith("trial"), (self.folder / "talk.txt").read_text()
        number, _, pids = line.removeprefix("trial ").partition(":")
        return int(number), [int(pid) for pid in pids.split()]

    def ended(self) -> int:
        return self.process.wait(240)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


def gone(pids: list[int], within_s: float = 30) -> bool:
    ends = time.monotonic() + within_s
    while time.monotonic() < ends:
        if not any(psutil.pid_exists(pid) for pid in pids):
            return True
        time.sleep(0.05)
    return False


def trials_of(storage: str, folder: Path) -> list[optuna.trial.FrozenTrial]:
    before = Path.cwd()
    os.chdir(folder)
    try:
        return optuna.load_study(study_name="demo", storage=open_storage(storage, create=False)).get_trials()
    finally:
        os.chdir(before)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_children_and_queues_the_trial_once(tmp_path: Path, number: signal.Signals) -> None:
    worker = Worker(tmp_path / "one", SQLITE, 2, 600)
    trial, pids = worker.begun()
    worker.process.send_signal(number)
    assert worker.ended() == 130
    assert gone(pids)
    first, again = trials_of(SQLITE, worker.folder)
    assert (first.number, first.state) == (trial, TrialState.FAIL)
    assert again.state == TrialState.WAITING
    assert again.user_attrs == {RETRY_OF: trial, CONFIG: first.user_attrs[CONFIG]}

    assert Worker(worker.folder, SQLITE, 2, 0).ended() == 0
    states = [trial.state for trial in trials_of(SQLITE, worker.folder)]
    assert states == [TrialState.FAIL, TrialState.COMPLETE, TrialState.COMPLETE]


def test_a_second_interrupt_ends_at_once_and_the_study_goes_on(tmp_path: Path) -> None:
    worker = Worker(tmp_path / "one", SQLITE, 1, 600)
    _, pids = worker.begun()
    # It cannot unwind while its database is taken, so that the second signal finds it at that.
    command = [sys.executable, "-c", HOLD, "studies/demo.db"]
    holder = subprocess.Popen(command, cwd=worker.folder, stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    worker.process.send_signal(signal.SIGINT)
    assert gone(pids)  # as the first thing that unwinding does
    assert worker.process.poll() is None
    sent = time.monotonic()
    worker.process.send_signal(signal.SIGINT)
    assert worker.ended() == 130
    assert time.monotonic() - sent < 10
    holder.kill()
    holder.wait()
    assert [trial.state for trial in trials_of(SQLITE, worker.folder)] == [TrialState.RUNNING]
    assert Worker(worker.folder, SQLITE, 1, 0).ended() == 0
    states = [trial.state for trial in trials_of(SQLITE, worker.folder)]
    assert states == [TrialState.FAIL, TrialState.COMPLETE]


HOLD = """
import sqlite3, sys, time
connection = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=30)
connection.execute("BEGIN IMMEDIATE")
print("held", flush=True)
time.sleep(600)
"""


def test_of_two_workers_on_postgresql_one_retries_what_the_other_was_killed_in(
    postgres: str, tmp_path: Path
) -> None:
    one = Worker(tmp_path / "one", postgres, 3, 600)
    cut_off, pids = one.begun()
    other = Worker(tmp_path / "other", postgres, 3, 0)
    # It has two trials of its own, then waits for the one that is missing.
    ran = [other.begun()[0], other.begun()[0]]
    one.kill()
    assert gone(pids)
    retried = other.begun()[0]
    assert other.ended() == 0
    trials = trials_of(postgres, other.folder)
    assert trials[cut_off].state == TrialState.FAIL
    assert trials[retried].user_attrs[RETRY_OF] == cut_off
    assert trials[retried].params == trials[cut_off].params
    done = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    assert [trial.number for trial in done] == sorted([*ran, retried])
    assert len({trial.params["x"] for trial in done}) == 3
    assert f"queued again, cut off: trial {cut_off}" in (other.folder / "talk.txt").read_text()
    # The dead worker's folder joins again: nothing is missing, and its own trial stays given up.
    assert Worker(one.folder, postgres, 3, 0).ended() == 0
    assert len(trials_of(postgres, other.folder)) == len(trials)
    os.chdir(other.folder)
    assert [record.number for record in load_trials("demo")] == sorted([*ran, retried])
    for path in (*one.folder.rglob("*"), *other.folder.rglob("*")):
        assert not path.is_file() or b"canary" not in path.read_bytes(), path


@pytest.fixture
def study(workplace: Path) -> optuna.Study:
    return optuna.create_study(study_name="demo", storage=open_storage(SQLITE, create=True))


def run_by(study: optuna.Study, host: str | None) -> optuna.Trial:
    """A running trial of a worker on that host; None: of one that died before it could say so."""
    study.enqueue_trial({"x": 1}, user_attrs={"compression": "of the dead"})
    with pytest.warns(UserWarning, match="Heartbeat of storage"):
        trial = study.ask()
    trial.suggest_int("x", 0, 9)
    if host:
        workers.record_heartbeat(study, trial._trial_id)
        trial.set_user_attr(OWNER, f"{host}:1:1:elsewhere:")
    return trial


def fall_silent() -> None:
    """As if the last heartbeats were two graces old."""
    with contextlib.closing(sqlite3.connect("studies/demo.db", timeout=30)) as connection, connection:
        connection.execute(
            "UPDATE trial_heartbeats SET heartbeat = datetime(heartbeat, ?)",
            (f"-{2 * workers.GRACE_S} seconds",),
        )


@pytest.mark.filterwarnings("ignore:Heartbeat of storage")
@pytest.mark.parametrize("host", ["another", None])
def test_a_trial_without_heartbeats_is_queued_again_once_and_inherits_nothing(
    study: optuna.Study, host: str | None
) -> None:
    run_by(study, host)
    reaper = Reaper(study, owner())
    assert reaper.gone() == [] and reaper.stale() == []
    fall_silent()
    assert reaper.stale() == [0]
    assert reaper.stale() == Reaper(study, owner()).stale() == []
    first, again = study.get_trials()
    assert (first.state, again.state) == (TrialState.FAIL, TrialState.WAITING)
    assert again.user_attrs == {RETRY_OF: 0, workers.CUT_OFF: 1}
    assert study.ask().suggest_int("x", 0, 9) == 1


def test_a_trial_with_heartbeats_is_left_alone(study: optuna.Study, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "BEAT_S", 0.05)
    beaten = threading.Event()
    beat = workers.record_heartbeat

    def watched(study: optuna.Study, number: int) -> None:
        beat(study, number)
        beaten.set()

    trial = run_by(study, "another")
    fall_silent()
    monkeypatch.setattr(workers, "record_heartbeat", watched)
    with workers.beating(study, trial):
        assert beaten.wait(30)
        assert Reaper(study, owner()).stale() == []
    assert study.get_trials()[0].state == TrialState.RUNNING


def told(**changes: str) -> str:
    return ":".join(Owner.parse(owner("here"))._replace(**changes))


@pytest.mark.parametrize(
    ("owned_by", "abandoned"),
    [
        (told(), True),  # this very process, but of another worker's folder: see the next
        (told(worker="there"), False),
        (told(worker="there", start="1"), True),
        (told(worker="there", pid="4194305"), True),
        (told(worker="there", place="before-a-reboot"), False),
        (told(place="before-a-reboot"), True),
        (told(host="another"), False),
        (told(host="another", place="its-own"), False),
        ("another:1:1", False),
    ],
)
def test_who_is_known_to_be_dead(study: optuna.Study, owned_by: str, abandoned: bool) -> None:
    trial = run_by(study, "some")
    trial.set_user_attr(OWNER, owned_by)
    me = told(pid="1")
    assert is_abandoned(study.get_trials()[0], me) == abandoned
    assert not is_abandoned(study.get_trials()[0], owned_by)


@pytest.mark.filterwarnings("ignore:Heartbeat of storage")
def test_what_is_queued_again_by_two_is_run_once(study: optuna.Study) -> None:
    trial = run_by(study, "another")
    frozen = study.get_trials()[0]
    study.tell(trial, state=TrialState.FAIL)
    for _ in range(2):
        requeue(study, frozen)
    study.enqueue_trial({"x": 1}, user_attrs={RETRY_OF: 0})  # as two at the same instant would
    assert [trial.user_attrs.get(RETRY_OF) for trial in study.get_trials()[1:]] == [0, 0]
    numbers = []
    for _ in range(2):
        asked = study.ask()
        numbers.append(doubled(study, study.get_trials()[asked.number]))
    assert numbers == [None, 1]


@pytest.mark.filterwarnings("ignore:Heartbeat of storage")
def test_a_retry_that_is_begun_before_its_trial_is_told_failed_is_run(study: optuna.Study) -> None:
    trial = run_by(study, "another")
    trial.set_user_attr(CONFIG, "key")
    requeue(study, study.get_trials()[0])
    asked = study.ask()
    assert asked.user_attrs == {RETRY_OF: 0, CONFIG: "key"}
    assert doubled(study, study.get_trials()[asked.number]) is None
    study.tell(trial, state=TrialState.FAIL)
    assert doubled(study, study.get_trials()[asked.number]) is None


@pytest.mark.filterwarnings("ignore:Heartbeat of storage")
@pytest.mark.parametrize("retry_first", [True, False])
def test_a_retry_and_the_same_configuration_begun_anew_are_run_once(
    study: optuna.Study, monkeypatch: pytest.MonkeyPatch, retry_first: bool
) -> None:
    from search import propose

    study.enqueue_trial({"x": 3}, user_attrs={CONFIG: "three"})
    study.tell(study.ask(), state=TrialState.FAIL)
    if retry_first:
        requeue(study, study.get_trials()[0])
    study.enqueue_trial({"x": 3}, user_attrs={CONFIG: "three"})
    if not retry_first:
        requeue(study, study.get_trials()[0])
    monkeypatch.setattr(propose, "_next", lambda *_: ({"x": 4}, "four"))
    ran = [propose.next_trial(study, None, None, "tpe", 1, owner()) for _ in range(2)]  # type: ignore[arg-type]
    assert [trial.suggest_int("x", 0, 9) for trial in ran] == [3, 4]
    assert study.get_trials()[2].user_attrs[DOUBLE] == 1


def test_two_that_began_the_same_configuration_at_once_keep_the_first(
    study: optuna.Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    from search import propose

    proposed: Callable[..., object] = propose._next
    chosen = iter([({"x": 3}, "three"), ({"x": 3}, "three"), ({"x": 4}, "four")])
    monkeypatch.setattr(propose, "_next", lambda *_: next(chosen))
    assert proposed is not propose._next
    ran = [propose.next_trial(study, None, None, "tpe", 1, owner()) for _ in range(2)]  # type: ignore[arg-type]
    assert [trial.suggest_int("x", 0, 9) for trial in ran] == [3, 4]
    assert [trial.state for trial in study.get_trials()] == [
        TrialState.RUNNING,
        TrialState.FAIL,
        TrialState.RUNNING,
    ]
    assert study.get_trials()[1].user_attrs[DOUBLE] == 0


def record_of(trial: optuna.Trial, failure: FailureClass | None = None) -> TrialRecord:
    return TrialRecord(
        number=trial.number,
        state="failed" if failure else "complete",
        params=trial.params,
        config=CompressionConfig(depth=DepthConfig(layers=trial.params["x"])),
        score=None if failure else Score(value=0.5, low=0.4, high=0.6, perf_norm=1.0, speed_norm=0.0),
        failure=failure,
        reason=failure,
    )


@pytest.mark.parametrize("notices", ["at its next report", "at its end"])
def test_a_worker_whose_trial_was_given_up_meanwhile_forgets_it_and_goes_on(
    workplace: Path, monkeypatch: pytest.MonkeyPatch, notices: str
) -> None:
    def taken(trial: optuna.Trial, plan: Any, bench: Any, progress: Any) -> TrialRecord:
        worker.suggest(trial, plan.target)
        model_folder("demo", trial.number).mkdir(parents=True)
        if trial.number == 0:  # as another worker does it to one without heartbeats
            trial.study.tell(0, state=TrialState.FAIL)
            workers.retry(trial.study, trial.study.get_trials()[0])
            if notices == "at its next report":
                trial.report(1.0, 0)
        return record_of(trial)

    monkeypatch.setattr("search.trial.run_trial", taken)
    monkeypatch.setattr("search.settle.delete_others", lambda study, records: [])
    worker.search(SQLITE, 1)
    study = optuna.load_study(study_name="demo", storage=open_storage(SQLITE, create=False))
    states = [trial.state for trial in study.get_trials()]
    assert states == [TrialState.FAIL, TrialState.COMPLETE]
    assert study.get_trials()[1].params == study.get_trials()[0].params
    assert [record.number for record in load_trials("demo")] == [1]
    assert not model_folder("demo", 0).exists()
    assert model_folder("demo", 1).exists()


def spoil(
    monkeypatch: pytest.MonkeyPatch, failing: Callable[[int], FailureClass | BaseException | None]
) -> None:
    """Have trials fail by their parameter, or end the search, before they do anything."""

    def run_trial(trial: optuna.Trial, plan: Any, bench: Any, progress: Any) -> TrialRecord:
        worker.suggest(trial, plan.target)
        fault = failing(trial.params["x"])
        if isinstance(fault, BaseException):
            raise fault
        return record_of(trial, fault)

    monkeypatch.setattr("search.trial.run_trial", run_trial)


def check_given_up(number: int) -> None:
    """Trial ``number`` was given up with its configuration, which is not tried again; the search went on."""
    lost, done = load_trials("demo")
    assert (lost.number, lost.failure, lost.params) == (number, "killed", {"x": 3})
    assert lost.config.key == CompressionConfig(depth=DepthConfig(layers=3)).key
    assert (done.state, done.params) == ("complete", {"x": 5})
    trial = trials_of(SQLITE, Path.cwd())[number]
    assert (trial.state, trial.user_attrs[CONFIG]) == (TrialState.PRUNED, lost.config.key)


def test_a_trial_that_ends_the_search_each_time_is_given_up(
    workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoil(monkeypatch, lambda x: RuntimeError("a library broke") if x == 3 else None)
    for _ in range(MOST_CUT_OFF):
        with pytest.raises(RuntimeError):
            worker.search(SQLITE, 2)
    worker.search(SQLITE, 2)
    check_given_up(MOST_CUT_OFF)


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        (KeyboardInterrupt(), KeyboardInterrupt),
        (SetupError("a GPU must be free"), SetupError),
        (StorageInternalError("the server is away"), SetupError),
        (OperationalError("INSERT", {}, Exception("database is locked")), SetupError),
    ],
)
def test_a_trial_that_the_user_the_machine_or_the_database_ends_each_time_is_not_given_up(
    workplace: Path, monkeypatch: pytest.MonkeyPatch, fault: BaseException, told: type[BaseException]
) -> None:
    spoil(monkeypatch, lambda x: fault)
    for _ in range(MOST_CUT_OFF + 1):
        with pytest.raises(told):
            worker.search(SQLITE, 2)
    assert load_trials("demo") == []


def let_workers_fall_silent(owned_by: str, times: int) -> None:
    """So many workers of that owner begin the first recipe, one after the other, and are heard of no more."""
    from search import propose

    study, _ = open_study("demo", SQLITE, worker.IDENTITY)
    space: Any = SimpleNamespace(suggest=worker.suggest, recipes=worker.recipes)
    target = Target.contest(Decoder.read(MODEL_DIR))
    for number in range(times):
        trial = propose.next_trial(study, space, target, "random", 1, owned_by)
        assert worker.suggest(trial, target).depth == DepthConfig(layers=3)
        fall_silent()
        assert Reaper(study, owner()).stale() == [number]


@pytest.mark.parametrize(
    ("owned_by", "times"),
    [
        ("another:1:1:elsewhere:", MOST_CUT_OFF),
        (f"a-container:1:1:its-own::{BOOT}", MOST_CUT_OFF),
        ("another:1:1:elsewhere::its-boot", MOST_LOST),
    ],
)
def test_a_trial_whose_workers_fall_silent_again_and_again_is_given_up(
    workplace: Path, monkeypatch: pytest.MonkeyPatch, owned_by: str, times: int
) -> None:
    let_workers_fall_silent(owned_by, times)
    spoil(monkeypatch, lambda x: AssertionError("it was run again") if x == 3 else None)
    worker.search(SQLITE, 2)
    check_given_up(times)


def test_a_trial_whose_machines_are_lost_again_and_again_is_run_again(
    workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    let_workers_fall_silent("another:1:1:elsewhere::its-boot", MOST_CUT_OFF + 1)
    spoil(monkeypatch, lambda x: None)
    worker.search(SQLITE, 2)
    assert [(record.state, record.params) for record in load_trials("demo")] == [
        ("complete", {"x": 3}),
        ("complete", {"x": 5}),
    ]
