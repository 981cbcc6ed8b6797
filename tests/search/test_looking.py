"""Commands that only look: what they say of files that cannot be read, and of a reader that has gone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from search import show, status
from search.records import TrialRecord, check_name, load_measurement, save_trial, study_folder
from squeeze.errors import ConfigError, SetupError


def damaged(study: str, content: bytes) -> Path:
    """A study whose one record is that."""
    path = study_folder(study) / "trials" / "0001.json"
    path.parent.mkdir(parents=True)
    (study_folder(study) / "logs").mkdir()
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("content", [b"\xff\xfe", b"", b"{", b"[]", b'{"number": 1}', b"\x00" * 100])
def test_a_record_that_cannot_be_read_is_told_in_one_line(workplace: Path, content: bytes) -> None:
    path = damaged("demo", content)
    with pytest.raises(SetupError, match="a trial's record must be readable") as caught:
        show.main(["--study", "demo"])
    assert str(path) in str(caught.value)
    assert "move it away" in str(caught.value)


def test_a_measurement_that_is_no_text_counts_as_missing(workplace: Path) -> None:
    path = study_folder("demo") / "measurements" / "0001.json"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"\xff\xfe")
    assert load_measurement("demo", 1) is None


def test_one_unreadable_study_does_not_hide_the_others(
    workplace: Path, scored: Callable[..., TrialRecord], capsys: pytest.CaptureFixture[str]
) -> None:
    damaged("broken", b"\xff")
    save_trial("sound", scored(0, 0.55))
    (study_folder("sound") / "logs").mkdir()
    assert status.main(["--json"]) == 3
    out, err = capsys.readouterr()
    assert [json.loads(line)["study"] for line in out.splitlines()] == ["sound"]
    assert err.startswith("error: broken: ") and err.count("\n") == 1


def test_a_name_too_long_for_a_file_is_refused(workplace: Path) -> None:
    assert check_name("가" * 60) == "가" * 60
    with pytest.raises(ConfigError, match="at most 200 bytes"):
        show.main(["--study", "x" * 201])


@pytest.mark.parametrize("options", [[], ["--json"], ["--trial", "7"]])
def test_a_reader_that_leaves_early_is_no_error(
    workplace: Path, scored: Callable[..., TrialRecord], options: list[str]
) -> None:
    for number in range(300):  # more than a pipe holds
        save_trial("demo", scored(number, 0.5))
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "search.show", "--study", "demo", *options]
    paths = os.pathsep.join(str(Path(__file__).parents[2] / place) for place in ("", "src"))
    with os.fdopen(writing, "wb") as out:
        run = subprocess.run(
            command,
            stdout=out,
            stderr=subprocess.PIPE,
            text=True,
            timeout=300,
            check=False,
            env={**os.environ, "PYTHONPATH": paths},
        )
    assert (run.returncode, run.stderr) == (0, "")
