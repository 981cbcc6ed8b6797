from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
COMMANDS = ("run", "show", "status", "build", "bench", "export", "check", "doctor")
HEAVY = ("torch", "vllm", "llmcompressor", "transformers", "datasets", "peft")


@pytest.mark.parametrize("name", ["search", "spaces", "objectives", "squeeze"])
def test_a_package_is_ours_and_not_a_namesake(name: str) -> None:
    origin = importlib.import_module(name).__file__
    assert origin is not None
    assert Path(origin).is_relative_to(ROOT)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_an_example(command: str) -> None:
    told = subprocess.run(
        [sys.executable, "-m", f"search.{command}", "--help"], capture_output=True, text=True, check=True
    )
    assert f"example: python -m search.{command}" in told.stdout
    assert told.stderr == ""


def test_the_parent_of_a_search_imports_nothing_heavy() -> None:
    code = (
        "import search.prepare, search.settle, search.show, sys;"
        f"print([name for name in {HEAVY} if name in sys.modules])"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout.strip() == "[]"


def test_no_module_has_more_than_300_lines() -> None:
    long = [
        path
        for package in ("search", "spaces", "objectives", "src/squeeze")
        for path in (ROOT / package).rglob("*.py")
        if len(path.read_text(encoding="utf-8").splitlines()) > 300
    ]
    assert long == []
