"""A search in which all is real but the trial itself: ``python worker.py STORAGE TRIALS SECONDS``.

Each trial waits so long in a child, with a process that the child started, then has a Score. It runs in the
current folder and writes ``trial N by PID: children PID PID`` to stdout when a trial is in its child.
"""

from __future__ import annotations

import argparse
import importlib
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from unittest import mock

import optuna

from search import run, workers
from search.cli import run_command
from search.progress import Progress
from search.records import TrialRecord
from search.settle import Past, catch_up
from search.storage import told_in_a_line
from search.study import alone, finished, open_study, this_worker
from squeeze import server
from squeeze.child import Child
from squeeze.config import CompressionConfig, DepthConfig
from squeeze.decoder import Decoder
from squeeze.demo import MODEL_DIR
from squeeze.records import Score
from squeeze.target import Target

IDENTITY = dict.fromkeys(("model_key", "model", "workload", "space", "objective", "schemes"), "of the test")


def suggest(trial: optuna.Trial, target: Target) -> CompressionConfig:
    return CompressionConfig(depth=DepthConfig(layers=trial.suggest_int("x", 1, 1000)))


def recipes(target: Target) -> list[dict[str, int]]:
    return [{"x": 3}, {"x": 5}]


def waiting(seconds: float, tell: Any) -> None:
    started = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
    tell({"stage": "work", "pid": started.pid})
    time.sleep(seconds)


def handler() -> Any:
    return waiting


def trial_of(seconds: float, trial: optuna.Trial, progress: Progress) -> TrialRecord:
    config = suggest(trial, cast(Target, None))
    with Child(handler, stage="work", log=Path("child.log")) as one:

        def told(event: Any) -> None:
            print(f"trial {trial.number}: {one.pid} {event['pid']}", flush=True)
            progress.tell(event)

        one.call(seconds, deadline_s=600, tell=told)
    score = Score(value=0.5, low=0.4, high=0.6, perf_norm=1.0, speed_norm=0.0)
    return TrialRecord(number=trial.number, state="complete", params=trial.params, config=config, score=score)


def search(storage: str, trials: int) -> None:
    """Search until so many trials are finished, whatever ``search.trial.run_trial`` is."""
    study, mirror = open_study("demo", storage, IDENTITY)
    space = SimpleNamespace(suggest=suggest, recipes=recipes)
    plan: Any = SimpleNamespace(space=space, target=Target.contest(Decoder.read(MODEL_DIR)), cache=None)
    arguments = argparse.Namespace(trials=trials, sampler="random", seed=1)
    with alone("demo"), told_in_a_line():
        past = Past.load(study, mirror)
        reaper = workers.Reaper(study, this_worker("demo"))
        progress = Progress("demo", trials, finished(study), past.best)
        run._say_again(progress, catch_up(study, mirror, past, reaper))
        bench: Any = None
        with progress.live():
            run._loop(arguments, float("inf"), study, mirror, past, reaper, plan, bench, progress)


def main() -> int:
    storage, trials, seconds = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
    workers.BEAT_S, workers.GRACE_S = 1, 5
    run.POLL_S = 0.2
    server.preload([])
    told = mock.patch(
        "search.trial.run_trial", lambda trial, plan, bench, progress: trial_of(seconds, trial, progress)
    )
    with told:
        search(storage, trials)
    return 0


if __name__ == "__main__":
    # Under its own name, by which the child imports the handler.
    run_command(importlib.import_module("worker").main)
