"""An empty working directory with secrets in the environment; a small disk; how long the tests may be."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

LONG = os.environ.get("CHAOS") == "long"
"""``make chaos``: the counts of the long form."""

CANARIES = {
    "HF_TOKEN": "hf_canary4f1b",
    "JUDGE_API_KEY": "judge-canary9c2d",
    "OPENAI_API_KEY": "sk-canary77aa",
    "PGPASSWORD": "pg-canary31ee",
}
"""Secrets that must never be seen again."""


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder that is the current one; the environment holds canaries."""
    monkeypatch.chdir(tmp_path)
    for name, value in CANARIES.items():
        monkeypatch.setenv(name, value)
    return tmp_path


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 MiB of its own."""
    place = tmp_path / "small"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256m", "tmpfs", str(place)],
        capture_output=True,
        text=True,
        check=False,
    )
    if mounted.returncode:
        pytest.skip(f"a small disk cannot be mounted here: {mounted.stderr.strip()}")
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)
