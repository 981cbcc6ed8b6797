from __future__ import annotations

import errno
import fcntl
import os
import shutil
import socket
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.exceptions import StorageInternalError
from optuna.trial import TrialState

from search.abandon import leave
from search.keep import delete_others
from search.propose import next_trial
from search.records import TrialRecord, load_trials
from search.settle import Past, better_elsewhere, catch_up, given_up, gives_up, settle
from search.storage import default_storage
from search.study import alone, finished, is_searched, open_study, this_worker
from search.workers import CONFIG, CUT_OFF, MOST_CUT_OFF, OWNER, RETRY_OF, Owner, Reaper, owner, retry
from squeeze.config import CompressionConfig, DepthConfig
from squeeze.decoder import Decoder
from squeeze.demo import MODEL_DIR
from squeeze.errors import ConfigError, SetupError
from squeeze.folder import Manifest
from squeeze.records import Score
from squeeze.target import Target

IDENTITY = {
    "model_key": "k",
    "model": "m",
    "workload": "w",
    "space": "s",
    "objective": "o",
    "schemes": ["W8A8"],
}
TARGET = Target.contest(Decoder.read(MODEL_DIR))


class Layers:
    """A space of one parameter with two recipes."""

    def __init__(self, most: int = 1000) -> None:
        self.most = most

    def suggest(self, trial: optuna.Trial, target: Target) -> CompressionConfig:
        return CompressionConfig(depth=DepthConfig(layers=trial.suggest_int("x", 1, self.most)))

    def recipes(self, target: Target) -> list[dict[str, int]]:
        return [{"x": 3}, {"x": 5}]


def opened(**changes: Any) -> tuple[optuna.Study, optuna.Study, Past]:
    study, mirror = open_study("demo", default_storage("demo"), {**IDENTITY, **changes})
    return study, mirror, Past.load(study, mirror)


def begun(study: optuna.Study, *, owned_by: str) -> optuna.Trial:
    trial = next_trial(study, Layers(), TARGET, "tpe", seed=42)
    Layers().suggest(trial, TARGET)
    trial.set_user_attr(OWNER, owned_by)
    return trial


def reaper(study: optuna.Study) -> Reaper:
    return Reaper(study, this_worker("demo"))


def dead_owner() -> str:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return f"{socket.gethostname()}:{process.pid}:1"


def test_the_database_is_in_write_ahead_mode(workplace: Path) -> None:
    opened()
    with sqlite3.connect("studies/demo.db") as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)


@pytest.mark.parametrize("key", ["model_key", "workload", "space", "objective", "schemes"])
def test_a_study_made_with_another_identity_is_refused(workplace: Path, key: str) -> None:
    opened()
    with pytest.raises(ConfigError, match="was made with"):
        opened(**{key: ["other"] if key == "schemes" else "other", "model": "another"})


def test_a_study_of_another_program_is_refused(workplace: Path) -> None:
    study = optuna.create_study(study_name="demo", storage=default_storage("demo"))
    study.add_trial(optuna.trial.create_trial(value=1.0))
    with pytest.raises(ConfigError, match="not made by this program"):
        opened()


@pytest.mark.parametrize(
    ("url", "error"),
    [
        ("nonsense", ConfigError),
        ("", ConfigError),
        ("postgresql://a:secret@h:notaport/x", ConfigError),
        ("sqlite://", ConfigError),
        ("sqlite:////proc/none/demo.db", SetupError),
        ("mysql+nodriver://user:secret@localhost/x", SetupError),
    ],
)
def test_a_storage_that_cannot_be_opened_is_one_line_without_the_password(
    workplace: Path, url: str, error: type[Exception]
) -> None:
    with pytest.raises(error) as caught:
        open_study("demo", url, IDENTITY)
    assert "\n" not in str(caught.value)
    assert "secret" not in str(caught.value)


def test_a_file_that_is_no_database_is_refused(workplace: Path) -> None:
    Path("studies/demo.db").write_text("this is a letter, not a database\n" * 100)
    with pytest.raises(SetupError, match="not a database"):
        opened()


def test_recipes_come_first_and_the_sampler_after_them(
    workplace: Path, scored: Callable[..., TrialRecord]
) -> None:
    study, mirror, past = opened()
    chosen = []
    for number in range(3):
        trial = begun(study, owned_by=owner())
        chosen.append(trial.params["x"])
        settle(study, mirror, past, scored(number, 0.5))
    assert chosen[:2] == [3, 5]
    assert finished(study) == 3


def test_settling_tells_the_study_and_fills_the_mirror_once(
    workplace: Path, scored: Callable[..., TrialRecord]
) -> None:
    study, mirror, past = opened()
    begun(study, owned_by=owner())
    settle(study, mirror, past, scored(0, 0.55, perf=0.9, speed=0.2))
    catch_up(study, mirror, Past.load(study, mirror), reaper(study))
    assert study.best_value == 0.55
    assert [trial.values for trial in mirror.get_trials()] == [[0.9, 0.2]]
    assert mirror.get_trials()[0].params == {"x": 3}
    assert study.metric_names == ["Score"]
    assert mirror.metric_names == ["PerfNorm", "SpeedNorm"]


def test_a_failed_candidate_counts_and_is_infeasible_to_the_sampler(workplace: Path) -> None:
    study, mirror, past = opened()
    begun(study, owned_by=owner())
    settle(study, mirror, past, failed(0, "oom"))
    trial = study.get_trials()[0]
    assert trial.state == TrialState.PRUNED
    assert trial.constraints == {"candidate failed": 1.0}
    assert trial.user_attrs["failure"] == "oom"
    assert finished(study) == 1


def test_what_is_killed_twice_is_held_back_and_the_search_moves_on(workplace: Path) -> None:
    study, mirror, past = opened()
    for number in range(2):
        begun(study, owned_by=owner())
        settle(study, mirror, past, failed(number, "killed"))
    first, second = study.get_trials()
    assert first.state == second.state == TrialState.FAIL
    assert second.user_attrs[RETRY_OF] == 0
    assert finished(study) == 0
    assert begun(study, owned_by=owner()).params == {"x": 5}


def test_the_files_of_another_database_are_left_alone(
    workplace: Path, scored: Callable[..., TrialRecord]
) -> None:
    study, mirror, past = opened()
    begun(study, owned_by=owner())
    settle(study, mirror, past, scored(0, 0.9))
    Path("studies/demo.db").rename("studies/away.db")
    with pytest.raises(ConfigError, match="belongs to another database"):
        opened()
    assert len(load_trials("demo")) == 1


def test_a_second_search_of_a_study_is_kept_away(workplace: Path) -> None:
    with alone("demo"), pytest.raises(SetupError, match="being searched already"), alone("demo"):
        pass


def test_a_search_starts_while_somebody_asks_whether_one_runs(workplace: Path) -> None:
    with alone("demo"):
        assert is_searched("demo")
    with Path("studies/demo/lock").open("r") as lock:
        fcntl.flock(lock, fcntl.LOCK_SH)  # as is_searched has it for a moment
        timer = threading.Timer(0.3, fcntl.flock, (lock, fcntl.LOCK_UN))
        timer.start()
        with alone("demo"):
            assert is_searched("demo")
        timer.join()
    assert not is_searched("demo")


def test_a_folder_without_locks_is_told_as_that(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("search.study.fcntl.flock", none)
    with pytest.raises(SetupError, match="demo/lock: No locks available"), alone("demo"):
        pass
    with pytest.raises(SetupError, match="demo/lock: No locks available"):
        is_searched("demo")


def test_a_renamed_file_is_flushed_with_its_folder(
    workplace: Path, scored: Callable[..., TrialRecord], monkeypatch: pytest.MonkeyPatch
) -> None:
    from search.records import save_trial

    flushed = []
    sync = os.fsync

    def watched(descriptor: int) -> None:
        sync(descriptor)
        path = Path(f"/proc/self/fd/{descriptor}").resolve()
        flushed.append((path.name, Path("studies/demo/trials/0000.json").exists()))

    monkeypatch.setattr(os, "fsync", watched)
    save_trial("demo", scored(0, 0.5))
    assert flushed[-1] == ("trials", True)


def test_no_configuration_is_tried_twice_while_there_are_others(workplace: Path) -> None:
    study, mirror, past = opened()
    space = Layers(most=8)
    tried = []
    for number in range(8):
        trial = next_trial(study, space, TARGET, "tpe", seed=42)
        config = space.suggest(trial, TARGET)
        trial.set_user_attr(OWNER, owner())
        tried.append(trial.params["x"])
        score = Score(value=0.5, low=0.4, high=0.6, perf_norm=1.0, speed_norm=0.0)
        record = TrialRecord(number=number, state="complete", params=trial.params, config=config, score=score)
        settle(study, mirror, past, record)
    assert sorted(tried) == list(range(1, 9))
    assert len(study.get_trials()) == 8


def test_a_search_opened_again_proposes_what_it_would_have(
    workplace: Path, scored: Callable[..., TrialRecord]
) -> None:
    proposed = []
    for again in (False, True):
        shutil.rmtree("studies")
        study, mirror, past = opened()
        chosen = []
        for number in range(14):
            if again:
                study, mirror, past = opened()
            trial = begun(study, owned_by=owner())
            chosen.append(trial.params["x"])
            settle(study, mirror, past, scored(number, 1 / (1 + abs(500 - trial.params["x"]))))
        proposed.append(chosen)
    assert proposed[0] == proposed[1]


def test_a_trial_cut_off_is_queued_again_before_anything_else(workplace: Path) -> None:
    study, mirror, past = opened()
    begun(study, owned_by=dead_owner())
    assert catch_up(study, mirror, past, reaper(study)) == [0]
    again = begun(study, owned_by=owner())
    assert again.params == {"x": 3}
    assert again.user_attrs[RETRY_OF] == 0
    assert study.get_trials()[0].state == TrialState.FAIL


def test_a_measurement_without_a_record_goes_with_the_trial_that_was_cut_off(workplace: Path) -> None:
    study, mirror, past = opened()
    begun(study, owned_by=dead_owner())
    raw = Path("studies/demo/measurements/0000.json")
    raw.parent.mkdir(parents=True)
    raw.write_text("{}")
    assert catch_up(study, mirror, past, reaper(study)) == [0]
    assert not raw.exists()


def test_a_trial_recorded_but_not_told_is_told_not_run_again(
    workplace: Path, scored: Callable[..., TrialRecord]
) -> None:
    from search.records import save_trial

    study, mirror, _ = opened()
    begun(study, owned_by=dead_owner())
    save_trial("demo", scored(0, 0.6))
    assert catch_up(study, mirror, Past.load(study, mirror), reaper(study)) == []
    assert study.best_value == 0.6
    assert len(mirror.get_trials()) == 1


@pytest.mark.parametrize("step", ["save_trial", "tell", "add_to_mirror", "delete_others"])
def test_a_start_after_a_kill_at_any_step_of_settling_leaves_study_mirror_and_files_alike(
    workplace: Path, scored: Callable[..., TrialRecord], monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    study, mirror, past = opened()
    begun(study, owned_by=dead_owner())

    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(f"search.settle.{step}", killed)
        settle(study, mirror, past, scored(0, 0.6))
    study, mirror, past = opened()
    again = catch_up(study, mirror, past, reaper(study))
    assert again == ([0] if step == "save_trial" else [])
    values = [trial.value for trial in study.get_trials(states=(TrialState.COMPLETE,))]
    assert values == ([] if again else [0.6])
    assert len(mirror.get_trials()) == len(past.mirrored) == len(load_trials("demo")) == len(values)


def test_what_a_search_knows_of_its_past_is_what_the_next_start_reads(
    workplace: Path, scored: Callable[..., TrialRecord]
) -> None:
    study, mirror, past = opened()
    for number in range(4):
        begun(study, owned_by=owner())
        settle(study, mirror, past, scored(number, 0.5) if number % 2 else failed(number, "oom"))
    assert past == Past.load(study, mirror)
    assert past.mirrored == {1, 3}


def test_only_models_of_finished_trials_that_are_not_kept_are_deleted(
    workplace: Path, scored: Callable[..., TrialRecord]
) -> None:
    names = [*(f"{number:04d}" for number in range(6)), "00002", "0001-mine", "mine", ".0005.partial-1"]
    for name in names:
        Path("models/demo", name).mkdir(parents=True)
        Path("models/demo", name, "manifest.json").write_text(
            Manifest(files={}, config=CompressionConfig(), base="b", data="d", versions={}).model_dump_json()
        )
    records = [scored(number, number / 10) for number in range(5)]
    assert delete_others("demo", records) == [0, 1]
    left = {path.name for path in Path("models/demo").iterdir()}
    assert left == {*names} - {"0000", "0001", ".0005.partial-1"}


@pytest.mark.parametrize("owned_by", [f"otherhost:{os.getpid()}:1", None])
def test_a_trial_of_a_living_or_foreign_process_is_left_alone(workplace: Path, owned_by: str | None) -> None:
    study, mirror, past = opened()
    begun(study, owned_by=owned_by or owner())
    assert catch_up(study, mirror, past, reaper(study)) == []
    assert study.get_trials()[0].state == TrialState.RUNNING


def test_records_come_back_as_they_were_saved(workplace: Path, scored: Callable[..., TrialRecord]) -> None:
    from search.records import save_trial

    records = [scored(0, 0.5), failed(1, "oom")]
    for record in records:
        save_trial("demo", record)
    assert load_trials("demo") == records


def failed(number: int, failure: Any) -> TrialRecord:
    return TrialRecord(
        number=number, state="failed", params={}, config=CompressionConfig(), failure=failure, reason="why"
    )


def test_studies_that_cannot_be_written_is_one_line(workplace: Path) -> None:
    from search.records import write_whole

    Path("studies").rmdir()
    Path("studies").write_text("a file")
    with pytest.raises(SetupError, match="must be writable"):
        write_whole(Path("studies/demo/x.json"), "{}")


def test_a_trial_in_which_the_search_died_again_and_again_is_given_up(workplace: Path) -> None:
    study, mirror, past = opened()
    for number in range(MOST_CUT_OFF):
        assert begun(study, owned_by=dead_owner()).params == {"x": 3}
        assert catch_up(study, mirror, past, reaper(study)) == [number]
    trial = begun(study, owned_by=owner())
    assert gives_up(trial)
    assert settle(study, mirror, past, given_up(trial, Layers(), TARGET))
    last = study.get_trials()[-1]
    assert (last.state, last.constraints) == (TrialState.PRUNED, {"candidate failed": 1.0})
    record = load_trials("demo")[-1]
    assert (record.number, record.failure) == (last.number, "killed")
    assert record.reason == "killed in search: the search has died in this trial too often"
    assert begun(study, owned_by=owner()).params == {"x": 5}


@pytest.mark.parametrize(("boot", "counts"), [("", True), ("this", True), ("before", False)])
def test_a_trial_whose_machine_was_started_anew_is_not_counted_as_cut_off(
    workplace: Path, boot: str, counts: bool
) -> None:
    study, mirror, past = opened()
    mine = Owner.parse(this_worker("demo"))
    its = {"place": "another container", "boot": mine.boot if boot == "this" else boot}
    for number in range(2):
        begun(study, owned_by=":".join(mine._replace(**its)))
        assert catch_up(study, mirror, past, reaper(study)) == [number]
    assert study.get_trials()[-1].user_attrs.get(CUT_OFF, 0) == (2 if counts else 0)


@pytest.mark.parametrize(
    ("error", "counts"),
    [
        (StorageInternalError("away"), False),
        (KeyboardInterrupt(), False),
        (OSError(errno.EIO, "Input/output error"), False),
        (OSError(errno.ENOENT, "No such file or directory"), True),
        (RuntimeError("a bug"), True),
    ],
)
def test_what_ended_a_search_whose_database_was_away_is_known_at_the_next_start(
    workplace: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException, counts: bool
) -> None:
    study, mirror, past = opened()
    trial = begun(study, owned_by=dead_owner())

    def away(*_: Any, **__: Any) -> None:
        raise StorageInternalError("the server is away")

    with monkeypatch.context() as broken:
        broken.setattr(optuna.Study, "get_trials", away)
        leave(study, trial.number, error)
    assert study.get_trials()[0].state == TrialState.RUNNING
    assert catch_up(study, mirror, past, reaper(study)) == [0]
    assert study.get_trials()[1].user_attrs.get(CUT_OFF, 0) == counts
    begun(study, owned_by=dead_owner())  # of which nothing is known
    assert catch_up(study, mirror, past, reaper(study)) == [1]
    assert study.get_trials()[2].user_attrs[CUT_OFF] == 1 + counts


def test_what_was_measured_while_the_database_was_away_is_told_at_the_next_start(
    workplace: Path, scored: Callable[..., TrialRecord], monkeypatch: pytest.MonkeyPatch
) -> None:
    study, mirror, past = opened()
    begun(study, owned_by=dead_owner())

    def away(*_: Any, **__: Any) -> None:
        raise StorageInternalError("the server is away")

    with monkeypatch.context() as broken, pytest.raises(StorageInternalError):
        broken.setattr(optuna.Study, "get_trials", away)
        settle(study, mirror, past, scored(0, 0.6))
    study, mirror, past = opened()
    assert catch_up(study, mirror, past, reaper(study)) == []
    assert [trial.value for trial in study.get_trials()] == [0.6]


def test_a_trial_that_was_cut_off_is_still_tried_again_when_the_machine_fails_it(workplace: Path) -> None:
    study, mirror, past = opened()
    begun(study, owned_by=dead_owner())
    catch_up(study, mirror, past, reaper(study))
    for number in (1, 2):
        begun(study, owned_by=owner())
        settle(study, mirror, past, failed(number, "disk"))
    states = [trial.state for trial in study.get_trials()]
    assert states == [TrialState.FAIL] * 3
    assert begun(study, owned_by=owner()).params == {"x": 5}


def test_a_trial_that_another_worker_gave_up_is_forgotten(
    workplace: Path, scored: Callable[..., TrialRecord]
) -> None:
    study, mirror, past = opened()
    trial = begun(study, owned_by=owner())
    study.tell(trial, state=TrialState.FAIL)
    assert not settle(study, mirror, past, scored(0, 0.9))
    assert load_trials("demo") == past.records == []


def test_what_a_worker_gave_up_and_died_before_queueing_is_queued_at_the_next_start(workplace: Path) -> None:
    study, mirror, past = opened()
    trial = begun(study, owned_by=owner())
    study.tell(trial, state=TrialState.FAIL)
    for _ in range(2):
        catch_up(study, mirror, past, reaper(study))
    waiting = study.get_trials(states=(TrialState.WAITING,))
    assert [one.user_attrs for one in waiting] == [
        {RETRY_OF: 0, CONFIG: CompressionConfig(depth=DepthConfig(layers=3)).key}
    ]


def traces() -> list[Path]:
    """Files and folders of a trial, whichever."""
    return [*Path("studies/demo").glob("*/[0-9]*"), *Path("models/demo").glob("[0-9]*")]


@pytest.mark.parametrize("step", ["set_user_attr", "set_constraint"])
def test_a_trial_given_up_while_it_is_settled_leaves_nothing_behind(
    workplace: Path, scored: Callable[..., TrialRecord], monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    study, mirror, past = opened()
    begun(study, owned_by=owner())
    Path("models/demo/0000").mkdir(parents=True)
    Path("studies/demo/measurements").mkdir(parents=True)
    Path("studies/demo/measurements/0000.json").write_text("{}")
    do: Callable[..., Any] = getattr(optuna.Trial, step)

    def raced(trial: optuna.Trial, *given: Any) -> None:
        do(trial, *given)
        if study.get_trials()[0].state == TrialState.RUNNING:  # another worker is faster
            study.tell(0, state=TrialState.FAIL)
            retry(study, study.get_trials()[0])

    monkeypatch.setattr(optuna.Trial, step, raced)
    assert not settle(study, mirror, past, scored(0, 0.9))
    assert (past.records, past.best) == ([], None)
    assert traces() == []
    assert [trial.state for trial in study.get_trials()] == [TrialState.FAIL, TrialState.WAITING]


@pytest.mark.parametrize(
    ("ends", "stays"),
    [
        ([], True),
        (["failed"], True),
        (["cut off"], True),
        (["complete"], False),
        (["cut off", "complete"], False),
    ],
)
def test_a_record_whose_trial_was_given_up_stays_until_that_is_measured_again(
    workplace: Path, scored: Callable[..., TrialRecord], ends: list[str], stays: bool
) -> None:
    from search.records import save_trial

    study, mirror, _ = opened()
    begun(study, owned_by=owner())
    save_trial("demo", scored(0, 0.9))
    Path("models/demo/0000").mkdir(parents=True)
    study.tell(0, state=TrialState.FAIL)  # by another worker, before the database knew of the record
    retry(study, study.get_trials()[0])
    for end in ends:
        trial = begun(study, owned_by="another:1:1:elsewhere:")
        if end == "failed":
            trial.set_user_attr("failure", "oom")
            study.tell(trial, state=TrialState.PRUNED)
        elif end == "cut off":
            study.tell(trial, state=TrialState.FAIL)
            retry(study, study.get_trials()[trial.number])
        else:
            study.tell(trial, 0.5)
    past = Past.load(study, mirror)
    catch_up(study, mirror, past, reaper(study))
    assert (past.best is not None) == stays
    assert [record.number for record in load_trials("demo")] == ([0] if stays else [])
    assert bool(traces()) == stays


def test_a_better_trial_of_another_worker_is_told(
    workplace: Path, scored: Callable[..., TrialRecord]
) -> None:
    study, mirror, past = opened()
    for number, value in enumerate((0.5, 0.6)):
        begun(study, owned_by="host-b:1:1:place:worker" if number else owner())
        settle(study, mirror, past, scored(number, value))
    assert better_elsewhere(study, past.records) is None
    told = better_elsewhere(study, past.records[:1])
    assert told is not None and "trial 1 with Score 0.6000" in told and told.endswith("on host-b")
