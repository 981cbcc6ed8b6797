"""A disk that fills up: told as such; what was whole stays whole; with room again the search goes on."""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import searches
from searches import LONG, STUDY

from search.records import TrialRecord, best_first, load_trials, model_folder, set_aside
from search.settle import Past, catch_up, settle
from search.storage import default_storage
from search.study import open_study, this_worker
from search.workers import OWNER, Owner, Reaper
from squeeze.cache import Cache
from squeeze.config import CompressionConfig
from squeeze.errors import CandidateError, SetupError
from squeeze.folder import verify_manifest
from squeeze.pipeline import build
from squeeze.submit import export

TEXT = {"samples": 8, "length": 32}
STAGES: dict[str, Any] = {
    "depth": {"layers": 3, "method": "uniform"},
    "width": {"width": 384, "method": "magnitude"},
    "distill": {"text": TEXT, "batch": 64, "warmup": 1},
    "quantize": {"scheme": "W8A8"},
}


@contextlib.contextmanager
def full(disk: Path, left: int = 0) -> Iterator[None]:
    """Fill a disk but for so many bytes while the block runs."""
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as file:
        with contextlib.suppress(OSError):
            while True:
                file.write(bytes(1 << 20))
        with contextlib.suppress(OSError):
            while True:
                file.write(bytes(4096))
        os.ftruncate(file.fileno(), max(0, file.tell() - left))
    try:
        yield
    finally:
        filler.unlink()


@pytest.mark.parametrize("stage", list(STAGES))
def test_a_stage_on_a_full_disk_fails_as_that_and_leaves_the_stages_before_it(
    stage: str, tiny: Path, talk: Path, small_disk: Path
) -> None:
    names = list(STAGES)
    before = {name: STAGES[name] for name in names[: names.index(stage)]}
    cache = Cache(small_disk / "cache")
    made = build(
        CompressionConfig.model_validate(before), tiny, small_disk / "before", str(talk), cache=cache
    )
    wanted = CompressionConfig.model_validate({**before, stage: STAGES[stage]})
    with full(small_disk, left=64 << 10), pytest.raises(CandidateError) as caught:
        build(wanted, tiny, small_disk / "out", str(talk), cache=cache)
    assert (caught.value.kind, caught.value.stage) == ("disk", stage)
    verify_manifest(small_disk / "before")
    assert not (small_disk / "out").exists()
    assert not list(small_disk.rglob("*.partial-*"))
    built = build(wanted, tiny, small_disk / "out", str(talk), cache=cache)
    assert built.cached == tuple(before)
    assert made.keys.items() <= built.keys.items()
    verify_manifest(small_disk / "out")


def test_a_zip_on_a_full_disk_is_one_line_and_the_older_one_stays(tiny: Path, small_disk: Path) -> None:
    from squeeze.demo import MODEL_DIR

    out = export(MODEL_DIR, small_disk / "submit.zip")
    older = out.read_bytes()
    with full(small_disk, left=64 << 10), pytest.raises(SetupError, match="No space left"):
        export(MODEL_DIR, out)
    assert out.read_bytes() == older
    assert [path.name for path in small_disk.iterdir()] == ["submit.zip"]


def test_a_trial_that_ends_on_a_full_disk_leaves_the_study_whole(
    small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(small_disk)
    identity = {
        "model_key": "k",
        "model": "m",
        "workload": "w",
        "space": "s",
        "objective": "o",
        "schemes": [],
    }
    study, mirror = open_study("demo", default_storage("demo"), identity)
    worker = this_worker("demo")
    past = Past.load(study, mirror)

    def begun(value: int) -> TrialRecord:
        study.enqueue_trial({"x": value})
        trial = study.ask()
        trial.suggest_int("x", 1, 100)
        trial.set_user_attr(OWNER, worker)
        config = CompressionConfig.model_validate({"depth": {"layers": value}})
        return TrialRecord(
            number=trial.number, state="pruned", params={"x": value}, config=config, reason="too slow " * 1000
        )

    set_aside("demo")
    first, second = begun(1), begun(2)
    with full(small_disk):
        settle(study, mirror, past, first)
    with full(small_disk), pytest.raises(SetupError, match="No space left"):  # nothing is set aside now
        settle(study, mirror, past, second)
    assert [record.number for record in load_trials("demo")] == [0]
    with contextlib.closing(sqlite3.connect("studies/demo.db")) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    study, mirror = open_study("demo", default_storage("demo"), identity)
    past = Past.load(study, mirror)
    assert [record.number for record in past.records] == [0]
    next_start = ":".join(Owner.parse(worker)._replace(start="later"))
    assert catch_up(study, mirror, past, Reaper(study, next_start)) == [1]
    assert [trial.state.name for trial in study.get_trials()] == ["PRUNED", "FAIL", "WAITING"]


@pytest.mark.engine
@pytest.mark.skipif(not LONG, reason="the long form: make chaos")
def test_a_search_goes_on_after_the_disk_was_full_in_each_stage(
    small_disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(small_disk)
    Path("talk.txt").symlink_to(tmp_path / "talk.txt")  # where there is room for it
    searches.prepare()
    assert searches.run(1, "--finalists", "0") == 0, searches.talk()
    table = ["| full in | exit code | record | said |", "|---|---|---|---|"]
    for done, stage in enumerate(("width", "distill", "quantize", "engine", "kmmlu_redux"), 1):
        shutil.rmtree("models/.cache")
        heard = len(searches.talk())
        process = searches.start(done + 1, "--finalists", "0")
        try:
            assert searches.wait_for(at_stage(stage, process), process), searches.talk()
            kept, before = whole_models(), len(load_trials(STUDY))
            assert kept
            with full(small_disk):
                ends = time.monotonic() + 600
                while process.poll() is None and time.monotonic() < ends:
                    if len(load_trials(STUDY)) > before:
                        break
                    time.sleep(0.2)
                code, ended = process.poll(), load_trials(STUDY)[before:]
                # A better model may have taken the place of the worst.
                assert len(whole_models()) >= len(kept)
        finally:
            searches.kill_tree(process)
        talk = searches.talk()[heard:]
        said = [line for line in talk.splitlines() if "error:" in line or "disk" in line]
        told = said[-1] if said else ""
        became = [record.failure or record.state for record in ended]
        table.append(f"| {stage} | {code} | {became} | {told} |")
        assert code in (None, 0, 3), talk
        assert "Traceback" not in talk
        assert ended or code == 3, "it neither ended nor recorded its trial: " + talk
        if code == 3:
            assert "No space left" in told or "disk" in told, talk
        # Once it is built, a trial needs little more room than is set aside for its record.
        may_be = ("disk",) if stage in STAGES else ("disk", "complete")
        assert all(one in may_be for one in became), [record.reason for record in ended]
        assert searches.run(done + 1, "--finalists", "0") == 0, searches.talk()
        with contextlib.closing(sqlite3.connect(f"studies/{STUDY}.db")) as connection:
            assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    print("\n".join(table))


def at_stage(stage: str, process: subprocess.Popen[bytes]) -> Callable[[], bool]:
    """Whether a trial is at that stage."""

    def now() -> bool:
        doing, at = searches.live(process)
        return doing.startswith("trial") and at == stage

    return now


def whole_models() -> set[int]:
    """The numbers of the kept models, each of which is what was built."""
    found = set()
    for record, _ in best_first(load_trials(STUDY)):
        folder = model_folder(STUDY, record.number)
        if folder.is_dir():
            verify_manifest(folder)
            found.add(record.number)
    return found
