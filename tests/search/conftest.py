"""A working directory with empty studies/ and models/, and records made by hand."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from search.records import TrialRecord, model_folder
from squeeze.config import CompressionConfig
from squeeze.folder import Manifest, file_hash, write_manifest
from squeeze.records import Score


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder that is the current one."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "studies").mkdir()
    (tmp_path / "models").mkdir()
    return tmp_path


@pytest.fixture
def scored() -> Callable[..., TrialRecord]:
    """Makes the record of a complete trial with that value."""

    def make(number: int, value: float, perf: float = 1.0, speed: float = 0.0) -> TrialRecord:
        score = Score(value=value, low=value - 0.01, high=value + 0.01, perf_norm=perf, speed_norm=speed)
        return TrialRecord(
            number=number, state="complete", params={"x": number}, config=CompressionConfig(), score=score
        )

    return make


@pytest.fixture
def keep(workplace: Path) -> Callable[..., None]:
    """Makes models of those trials of ``demo``, each whole: one file and the manifest."""

    def make(*numbers: int) -> None:
        for number in numbers:
            folder = model_folder("demo", number)
            folder.mkdir(parents=True)
            (folder / "weights").write_text(str(number))
            files = {"weights": file_hash(folder / "weights")}
            manifest = Manifest(files=files, config=CompressionConfig(), base="b", data="d", versions={})
            write_manifest(folder, manifest)

    return make
