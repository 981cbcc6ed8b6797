"""Exporting a trial: the best, a given one, and what cannot be exported."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from search import export
from search.records import Confirmation, TrialRecord, model_folder, save_trial
from squeeze.config import CompressionConfig
from squeeze.demo import MODEL_DIR
from squeeze.errors import ConfigError
from squeeze.folder import MANIFEST, Manifest, content_files, file_hash, write_manifest

Make = Callable[..., TrialRecord]


def keep(study: str, number: int) -> Path:
    """A kept model of a trial: the embedded one with a manifest."""
    folder = model_folder(study, number)
    shutil.copytree(MODEL_DIR, folder)
    files = {path.name: file_hash(path) for path in content_files(folder)}
    manifest = Manifest(files=files, config=CompressionConfig(), base="b", data="d", versions={})
    write_manifest(folder, manifest)
    return folder


@pytest.fixture
def study(workplace: Path, scored: Make) -> str:
    """Five trials: 3 is the best and kept, 1 complete but not kept, 2 pruned, 4 failed, 0 kept."""
    for record in (scored(0, 0.52), scored(1, 0.51), scored(3, 0.61)):
        save_trial("demo", record)
    lost = {"params": {}, "config": CompressionConfig()}
    save_trial("demo", TrialRecord(number=2, state="pruned", reason="too slow to catch up", **lost))
    save_trial("demo", TrialRecord(number=4, state="failed", reason="no kernel", failure="kernel", **lost))
    keep("demo", 0)
    keep("demo", 3)
    return "demo"


def test_without_a_number_the_best_trial_is_exported(study: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert export.main([]) == 0
    out, err = capsys.readouterr()
    assert out == "submit.zip\n"
    assert "trial 3 of demo (score 0.6100)" in err
    with zipfile.ZipFile("submit.zip") as archive:
        assert f"model/{MANIFEST}" not in archive.namelist()
        assert archive.read("model/model.safetensors") == (MODEL_DIR / "model.safetensors").read_bytes()


def test_what_was_measured_again_is_exported_before_what_was_lucky_once(
    study: str, scored: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    record = scored(0, 0.52)
    assert record.score is not None
    confirmation = Confirmation(baseline="b", again=record.score, pooled=record.score)
    save_trial(study, record.model_copy(update={"confirmation": confirmation}))
    assert export.main([]) == 0
    assert "trial 0 of demo (score 0.5200, measured twice)" in capsys.readouterr().err


def test_a_trial_that_is_kept_can_be_chosen(study: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert export.main(["--trial", "0", "--out", "other.zip"]) == 0
    assert "trial 0 of demo" in capsys.readouterr().err
    assert Path("other.zip").exists()


@pytest.mark.parametrize(
    ("number", "line"),
    [
        ("4", r"only a complete trial can be exported; trial 4 of demo was failed \(no kernel\); .* 3, 0, 1"),
        ("2", r"only a complete trial .*; trial 2 of demo was pruned \(too slow to catch up\)"),
        ("99", r"--trial must be a finished trial of demo, 0 to 4; got 99; the best complete ones: 3, 0, 1"),
        ("-1", "--trial must be a finished trial of demo, 0 to 4; got -1"),
        ("1", r"only the best models are kept; trial 1 of demo is not among them \(3, 0\); .*search\.build"),
    ],
)
def test_a_trial_without_a_model_is_refused_with_the_remedy(study: str, number: str, line: str) -> None:
    with pytest.raises(ConfigError, match=line):
        export.main(["--trial", number])
    assert not Path("submit.zip").exists()


def test_a_study_without_complete_trials_is_refused(workplace: Path) -> None:
    with pytest.raises(ConfigError, match=r"demo has none under studies/demo; run python -m search.run"):
        export.main([])
    lost = TrialRecord(number=0, state="failed", params={}, config=CompressionConfig(), reason="oom")
    save_trial("demo", lost)
    with pytest.raises(ConfigError, match="demo has 1 trials, none complete"):
        export.main([])


def test_a_kept_model_that_was_changed_is_refused(study: str) -> None:
    path = model_folder("demo", 3) / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(ConfigError, match="must be as it was built"):
        export.main([])


def test_the_command_gives_one_line_and_code_2(study: str) -> None:
    command = [sys.executable, "-m", "search.export", "--trial", "4"]
    run = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert run.returncode == 2
    assert run.stderr.startswith("error: only a complete trial")
    assert len(run.stderr.splitlines()) == 1
