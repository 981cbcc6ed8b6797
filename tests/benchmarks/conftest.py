"""Benchmarks run as their users run them."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest


@pytest.fixture
def result_of() -> Callable[..., Any]:
    """Runs a program with options; it must end well. Returns the JSON object of its last line."""

    def result(program: object, *options: str) -> Any:
        run = subprocess.run(
            [sys.executable, str(program), *options], capture_output=True, text=True, timeout=600, check=False
        )
        assert run.returncode == 0, run.stderr
        return json.loads(run.stdout.splitlines()[-1])

    return result
