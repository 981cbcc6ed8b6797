"""search.build: exit codes, one line for a mistake, the record on stdout."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from squeeze.folder import verify_manifest


def run(*arguments: str | Path, where: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "search.build", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=where, timeout=300, check=False)


def written(folder: Path, text: str) -> Path:
    path = folder / "wanted.yaml"
    path.write_text(text)
    return path


def test_it_builds_and_tells_what_it_built(tiny: Path, talk: Path, tmp_path: Path) -> None:
    wanted = written(tmp_path, "depth: {layers: 3}\nquantize: {scheme: W8A8}\n")
    done = run(wanted, "--model", tiny, "--out", "new/model", "--data", talk, where=tmp_path)
    assert done.returncode == 0, done.stderr
    record = json.loads(done.stdout)
    assert (record["layers"], record["width"]) == (3, 512)
    assert verify_manifest(tmp_path / "new" / "model").config.families == ("depth", "W8A8")
    assert done.stderr.split() == ["depth", "quantize"]


@pytest.mark.parametrize(
    ("text", "options", "words"),
    [
        ("depth: {layers: 9}", [], "at most the base's 4"),
        ("width: {width: 100}", [], "multiple of 128"),
        ("deep: {}", [], "unknown key deep"),
        ("depth: {layers: 3, drop: [7], method: explicit}", [], "from 0 to 3"),
        ("{}", ["--model", "missing"], "missing does not exist"),
        ("{}", ["--out", "."], "exists"),
        ("depth: {layers: 3}", ["--data", "missing"], "manta.parquet"),
    ],
)
def test_a_mistake_is_one_line_and_code_2(
    text: str, options: list[str], words: str, tiny: Path, tmp_path: Path
) -> None:
    (tmp_path / "work").mkdir()
    wanted = written(tmp_path, text)
    done = run(wanted, "--model", tiny, "--out", "model", *options, where=tmp_path / "work")
    assert (done.returncode, done.stdout) == (2, "")
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    assert words in lines[0]
    assert "Traceback" not in done.stderr
    assert {path.name for path in (tmp_path / "work").iterdir()} <= {"models"}
    assert list((tmp_path / "work" / "models" / ".cache" / "stages").glob(".*")) == []


def test_the_scheme_must_run_here(tiny: Path, tmp_path: Path) -> None:
    from squeeze.decoder import Decoder
    from squeeze.target import Target

    if Target.here(Decoder.read(tiny)).device != "cpu":
        pytest.skip("a GPU may run it")
    done = run(
        written(tmp_path, "quantize: {scheme: FP8}"), "--model", tiny, "--out", "model", where=tmp_path
    )
    assert done.returncode == 2
    assert "too slow" in done.stderr


def test_a_build_that_takes_too_long_fails_and_leaves_nothing(tiny: Path, talk: Path, tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    wanted = written(tmp_path, "quantize: {scheme: W4A16, algorithm: gptq}")
    options = ("--model", tiny, "--out", "model", "--data", talk, "--deadline", "1")
    done = run(wanted, *options, where=tmp_path / "work")
    assert done.returncode == 1
    assert "no answer within 1 s" in done.stderr
    assert {path.name for path in (tmp_path / "work").iterdir()} <= {"models"}
    assert list((tmp_path / "work" / "models" / ".cache" / "stages").glob(".*")) == []
