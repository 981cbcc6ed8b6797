"""What every command does alike: its exit code and its one line, also where a stream cannot be written."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from search.records import TrialRecord, save_trial

ROOT = Path(__file__).parents[2]
TALKS = """
import sys
from search.cli import run_command
from search.progress import Progress
from squeeze.errors import SetupError

def main():
    progress = Progress("demo", 1, 0, None)
    progress.console._force_terminal = {terminal}
    with progress.live():
        for number in range(2000):
            progress.say(f"line {{number}}")
            progress.stage("depth")
        print("further", file=sys.stderr)
    {end}
    return 0

run_command(main)
"""


def environment() -> dict[str, str]:
    """A user's: Python has its buffers, and finds the repository's packages."""
    found = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    return {**found, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "src")])}


def python(*words: str, **streams: Any) -> subprocess.CompletedProcess[str]:
    """Run Python in a process of its own; what it says is caught where no stream is given."""
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **streams}
    return subprocess.run(
        [sys.executable, *words], env=environment(), text=True, timeout=120, check=False, **streams
    )


def full() -> Any:
    """A file on a disk without room."""
    return open("/dev/full", "w")


def unread() -> Any:
    """A pipe whose reader has gone."""
    reading, writing = os.pipe()
    os.close(reading)
    return os.fdopen(writing, "w")


@pytest.mark.parametrize(
    ("broken", "terminal", "end", "code"),
    [
        (full, False, "raise SetupError('no engine')", 3),
        (full, True, "", 0),
        (unread, False, "", 0),
        (unread, True, "raise SetupError('no engine')", 3),
    ],
)
def test_words_that_cannot_be_written_to_stderr_end_nothing(
    workplace: Path, broken: Callable[[], Any], terminal: bool, end: str, code: int
) -> None:
    with broken() as stderr:
        ended = python("-c", TALKS.format(terminal=terminal, end=end), stderr=stderr)
    assert (ended.returncode, ended.stdout) == (code, "")


def test_a_mistake_has_its_exit_code_where_nobody_can_be_told(workplace: Path) -> None:
    with full() as stderr:
        assert python("-m", "search.show", "--study", "never", stderr=stderr).returncode == 2
    closed = ["-c", f"exec {sys.executable} -m search.show --study never 2>&-"]
    assert subprocess.run(["/bin/sh", *closed], env=environment(), timeout=120, check=False).returncode == 2


def test_a_table_that_cannot_be_written_is_told_in_one_line(
    workplace: Path, scored: Callable[..., TrialRecord]
) -> None:
    save_trial("demo", scored(0, 0.5))
    for options in ([], ["--json"]):  # which leave different words in the buffer
        with full() as stdout:
            ended = python("-m", "search.show", "--study", "demo", *options, stdout=stdout)
        assert ended.returncode == 3
        assert ended.stderr.startswith("error: ") and "No space left on device" in ended.stderr
        assert ended.stderr.count("\n") == 1
