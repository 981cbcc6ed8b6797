"""Checking a submission from the command line, up to a real answer in vLLM."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from search import check
from search.answer import one_answer
from squeeze.demo import MODEL_DIR
from squeeze.errors import CandidateError, SetupError
from squeeze.submit import export


@pytest.fixture
def submission(tmp_path: Path) -> Path:
    return export(MODEL_DIR, tmp_path / "submit.zip")


def test_every_rule_is_printed_with_its_state(submission: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert check.main([str(submission), "--no-load"]) == 0
    out, err = capsys.readouterr()
    assert len(out.splitlines()) == 12
    assert all(line.startswith("ok ") for line in out.splitlines())
    assert err == "acceptable\n"


def test_a_broken_rule_gives_code_1_and_no_engine_is_started(
    submission: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(check, "answers", lambda _: pytest.fail("an engine was started"))
    with zipfile.ZipFile(submission, "a") as archive:
        archive.writestr("readme.txt", "hello")
    assert check.main([str(submission)]) == 1
    out, err = capsys.readouterr()
    assert "broken  one root" in out
    assert err == "not acceptable: 1 broken\n"


def test_json_gives_one_object_a_rule(submission: Path, capsys: pytest.CaptureFixture[str]) -> None:
    check.main([str(submission), "--no-load", "--json"])
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {row["state"] for row in rows} == {"ok"}
    assert {"size", "one root", "config", "weights", "quantization"} <= {row["rule"] for row in rows}


@pytest.mark.engine
def test_the_exported_model_loads_and_answers(submission: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert check.main([str(submission)]) == 0
    assert "ok      loads and answers  answered '" in capsys.readouterr().out


@pytest.mark.engine
def test_a_model_that_vllm_cannot_load_is_told_by_the_candidate_error(tmp_path: Path) -> None:
    """The rules pass on to the engine what they do not know: here heads that do not fit the weights."""
    with zipfile.ZipFile(export(MODEL_DIR, tmp_path / "submit.zip")) as archive:
        archive.extractall(tmp_path)
    path = tmp_path / "model" / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({**config, "num_attention_heads": 2 * config["num_attention_heads"]}))
    with pytest.raises(CandidateError) as caught:
        one_answer(tmp_path / "model")
    assert caught.value.stage == "engine"


def test_without_room_to_unpack_there_is_one_line(
    submission: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(zipfile.ZipFile, "extractall", full)
    with pytest.raises(SetupError, match=r"needs room to unpack .*; No space left on device; set TMPDIR"):
        one_answer(submission)


@pytest.mark.parametrize("name", ["none.zip", "text.zip"])
def test_what_is_no_zip_gives_one_line_and_code_2(name: str, tmp_path: Path) -> None:
    (tmp_path / "text.zip").write_text("no zip")
    command = [sys.executable, "-m", "search.check", str(tmp_path / name)]
    run = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert run.returncode == 2
    assert run.stderr.startswith("error: ")
    assert len(run.stderr.splitlines()) == 1
    assert run.stdout == ""
