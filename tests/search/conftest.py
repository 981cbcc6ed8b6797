"""A working directory with empty studies/ and models/, and records made by hand."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from search.records import TrialRecord
from squeeze.config import CompressionConfig
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
