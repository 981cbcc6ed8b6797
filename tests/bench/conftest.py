"""A judge and the endpoint that it asks."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from judge_server import KEY, Server, judging

from squeeze.bench.judge import Judge


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("JUDGE_API_KEY", KEY)
    one = Server()
    yield one
    one.close()


@pytest.fixture
def waits() -> list[float]:
    """Seconds that a judge has waited, or would have."""
    return []


@pytest.fixture
def judge(server: Server, waits: list[float], tmp_path: Path) -> Judge:
    return judging(server, tmp_path / "cache", waits)
