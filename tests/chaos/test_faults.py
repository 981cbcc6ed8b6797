"""Candidates whose engines hang, die, leave orphans or say nothing, and models that change on the disk."""

from __future__ import annotations

import json
from pathlib import Path

import psutil
import pytest
import searches
from searches import CANARIES, LONG, STUDY

from search import export
from search.records import load_trials, model_folder
from squeeze.errors import ConfigError

pytestmark = pytest.mark.engine

FAULTS = {0: "hang", 1: "exit", 2: "orphan", 4: "empty", 5: "flip"}
"""Trial 3 is the second try of 2, trial 6 that of 5."""

KINDS = {0: "timeout", 1: "oom", 2: "killed", 3: None, 4: "empty_output", 5: "disk", 6: None}


def flip_a_byte(weights: Path) -> None:
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.unlink()  # it may have a second name
    weights.write_bytes(content)


def test_each_fault_is_told_by_its_class_and_the_next_trial_runs(workplace: Path) -> None:
    searches.prepare(searches.WORKLOAD.replace("part_deadline_s: 600", "part_deadline_s: 25"))
    environment = {
        "CHAOS_FAULTS": json.dumps(FAULTS),
        "PYTHONPATH": str(Path(__file__).with_name("faults")),
    }
    assert searches.run(5, "--finalists", "0", environment=environment) == 0, searches.talk()
    records = {record.number: record for record in load_trials(STUDY)}
    assert {number: record.failure for number, record in records.items()} == KINDS, searches.talk()
    assert [number for number, record in records.items() if record.state == "complete"] == [3, 6]
    assert records[3].params == records[2].params
    assert records[6].params == records[5].params
    assert not psutil.pid_exists(int(Path("orphan.pid").read_text()))
    assert "model.safetensors has changed" in str(records[5].reason)
    check_that_damage_is_not_exported()
    if LONG:
        check_that_the_search_goes_on()
    assert export.main(["--study", STUDY, "--trial", "6"]) == 0
    check_that_no_secret_is_anywhere()


def check_that_damage_is_not_exported() -> None:
    """A kept model with a flipped byte is not exported."""
    flip_a_byte(model_folder(STUDY, 3) / "model.safetensors")
    with pytest.raises(ConfigError, match=r"model\.safetensors has changed"):
        export.main(["--study", STUDY, "--trial", "3"])
    assert not Path("submit.zip").exists()


def check_that_the_search_goes_on() -> None:
    """Damaged outputs of stages are made again; a damaged model does not stay among the kept ones."""
    for weights in Path("models/.cache/stages").glob("*/model.safetensors"):
        flip_a_byte(weights)
    assert searches.run(6, "--finalists", "0") == 0, searches.talk()
    last = load_trials(STUDY)[-1]
    assert last.state == "complete"
    assert last.artifact is not None
    assert last.artifact.cached == ()
    assert not model_folder(STUDY, 3).exists()


def check_that_no_secret_is_anywhere() -> None:
    """In no file of this folder: studies, models, logs, talk, the zip."""
    files = [path for path in Path().rglob("*") if path.is_file()]
    assert {Path(f"studies/{STUDY}.db"), Path("talk.txt"), Path("submit.zip")} <= set(files)
    assert any(path.suffix == ".log" for path in files)
    for path in files:
        content = path.read_bytes()
        for name, canary in CANARIES.items():
            assert canary.encode() not in content, f"{name} is in {path}"
