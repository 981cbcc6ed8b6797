"""Real searches in processes of their own, in the current folder: started, watched, killed, looked at."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil

import spaces

LONG = os.environ.get("CHAOS") == "long"
"""``make chaos``: the counts of the long form."""

CANARIES = {
    "HF_TOKEN": "hf_canary4f1b",
    "JUDGE_API_KEY": "judge-canary9c2d",
    "OPENAI_API_KEY": "sk-canary77aa",
    "PGPASSWORD": "pg-canary31ee",
}
"""Secrets that must never be seen again."""

STUDY = "chaos"
WORKLOAD = """
questions: {kmmlu_redux: 6, ko_longrag: 2}
max_tokens: 16
probe: 2
probe_tokens: 4
probes: 1
repeats: 2
divergence: [8, 24]
start_deadline_s: 900
part_deadline_s: 600
engine: {max_model_len: 2048, kv_cache_gib: 1}
"""


def prepare(workload: str = WORKLOAD) -> None:
    """Put the space and the workload into the current folder."""
    shutil.copytree(Path(spaces.__file__).parent, "spaces", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copyfile(Path(__file__).with_name("space.py"), "spaces/chaos.py")
    Path("tiny.yaml").write_text(workload)


def command(trials: int, *options: str) -> list[str]:
    """A search of the chaos space; nothing is pruned, so every trial has every stage."""
    fixed = ["--study", STUDY, "--space", STUDY, "--workload", "tiny.yaml", "--audit", "1"]
    return [sys.executable, "-m", "search.run", "--trials", str(trials), *fixed, *options]


def start(trials: int, *options: str, environment: dict[str, str] | None = None) -> subprocess.Popen[bytes]:
    """Start a search; what it says is added to ``talk.txt``."""
    with Path("talk.txt").open("ab") as talk:
        return subprocess.Popen(
            command(trials, *options),
            stdout=talk,
            stderr=talk,
            stdin=subprocess.DEVNULL,
            env={**os.environ, **(environment or {})},
        )


def talk() -> str:
    """All that the searches of this folder have said."""
    return Path("talk.txt").read_text(encoding="utf-8", errors="replace")


def run(trials: int, *options: str, environment: dict[str, str] | None = None, limit_s: int = 1800) -> int:
    """Run a search to its end. Returns its exit code."""
    process = start(trials, *options, environment=environment)
    try:
        return process.wait(limit_s)
    finally:
        kill_tree(process)


def live(process: subprocess.Popen[bytes]) -> tuple[str, str]:
    """What that search does now, and the stage of it; empty before it says so."""
    try:
        state = json.loads(Path("studies", STUDY, "live.json").read_text())
    except (OSError, ValueError):
        return "", ""
    if state["owner"].split(":")[1] != str(process.pid):  # left by one that was killed
        return "", ""
    return str(state["doing"]), str(state["stage"])


def kill_tree(process: subprocess.Popen[bytes]) -> int:
    """SIGKILL a search and everything below it, whatever its session. Returns how many processes that were.

    All are stopped first, so that none sees another die and tidies up.
    """
    if process.poll() is not None:
        return 0
    top = psutil.Process(process.pid)
    found: list[psutil.Process] = []
    while True:
        now = [one for one in (top, *top.children(recursive=True)) if one not in found]
        if not now:
            break
        for one in now:
            _send(one, signal.SIGSTOP)
        found += now
    for one in found:
        _send(one, signal.SIGKILL)
    process.wait(30)
    psutil.wait_procs(found, timeout=30)
    return len(found)


def _send(process: psutil.Process, number: signal.Signals) -> None:
    with contextlib.suppress(psutil.NoSuchProcess):
        process.send_signal(number)


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[bytes], limit_s: float = 1200) -> bool:
    """Wait until ``condition()`` holds; False when the search ended before."""
    ends = time.monotonic() + limit_s
    while time.monotonic() < ends:
        if condition():
            return True
        if process.poll() is not None:
            return condition()
        time.sleep(0.02)
    raise AssertionError(f"it never came to that; it is at {live(process)}: {talk()[-2000:]}")
