"""Record the table that searches are replayed on, several searches at once on a machine of many cores.

    python benchmarks/record.py --jobs 8 --out benchmarks/data/grid.json

Every configuration of the space ``grid`` is built and measured to the end by ``search.run``, unpruned. The
work is dealt to the jobs by shape, so that models that begin alike are made where their beginning is cached;
each job is a study of its own on cores of its own, with its own baseline in turn. The same command goes on
where a killed one stopped. One job is the same as `search.run --space grid --sampler brute --audit 1`.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
import warnings
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import BruteForceSampler

from search import run
from search.prepare import open_search
from search.records import load_trials
from search.speeds import Shape
from spaces import grid
from squeeze.target import Target

Params = Mapping[str, Any]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command. Returns the exit code."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    options.add_argument("--jobs", type=int, default=1, help="searches at once, each on its own cores")
    options.add_argument("--threads", type=int, default=2, help="cores of each")
    options.add_argument("--timeout", type=int, help="begin no new trial after so many seconds")
    options.add_argument("--only", type=int, help="record so many configurations (default: all)")
    options.add_argument("--out", type=Path, required=True, help="the table")
    options.add_argument("--quick", action="store_true", help="4 configurations, one job")
    options.add_argument("--prefix", default="grid", help="of the studies' names (default: grid)")
    arguments = options.parse_args(argv)
    if arguments.quick:
        arguments.jobs, arguments.only = 1, 4
    cores = sorted(os.sched_getaffinity(0))
    if arguments.jobs * arguments.threads > len(cores):
        options.error(f"--jobs times --threads must be at most the {len(cores)} cores there are")
    began = time.monotonic()
    studies = [f"{arguments.prefix}-{job}" for job in range(arguments.jobs)]
    wanted = [_deal(study, job, arguments) for job, study in enumerate(studies)]
    children = []
    for job, (study, count) in enumerate(zip(studies, wanted, strict=True)):
        mine = cores[job * arguments.threads : (job + 1) * arguments.threads]
        command = [sys.executable, "-m", "search.run", "--study", study, "--trials", str(count)]
        command += ["--space", "grid", "--sampler", "brute", "--audit", "1", "--finalists", "0"]
        if arguments.timeout:
            command += ["--timeout", str(arguments.timeout)]
        children.append(
            subprocess.Popen(
                ["taskset", "-c", ",".join(map(str, mine)), *command],
                env={**os.environ, "OMP_NUM_THREADS": str(len(mine))},
                stdout=subprocess.DEVNULL,
            )
        )
    codes = [child.wait() for child in children]
    subprocess.run(
        [sys.executable, "-m", "search.replay", "--table", arguments.out, "--record", *studies], check=True
    )
    print(
        json.dumps(
            {
                "configurations": sum(len(load_trials(study)) for study in studies),
                "of": sum(wanted),
                "seconds": round(time.monotonic() - began, 1),
                "exit_codes": codes,
                "jobs": arguments.jobs,
                "machine": f"{platform.processor() or platform.machine()}, {len(cores)} cores",
            }
        )
    )
    return int(any(codes))  # a job that was killed has a negative one


def _deal(study: str, job: int, arguments: argparse.Namespace) -> int:
    """Queue those of a job's configurations that its study lacks. Returns how many there are in all."""
    given = ["--trials", "1", "--study", study, "--space", "grid"]
    search = open_search(run.parser().parse_args(given))
    mine = _hands(search.target, arguments.jobs, arguments.only)[job]
    for params in mine:
        search.study.enqueue_trial(dict(params), skip_if_exists=True)
    return len(mine)


def _hands(target: Target, jobs: int, only: int | None) -> list[list[Params]]:
    """Every configuration once, dealt to so many jobs; all of a layers and width to the same one."""
    suits: dict[tuple[int, int], list[Params]] = defaultdict(list)
    seen: set[str] = set()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with warnings.catch_warnings(action="ignore", category=ExperimentalWarning):
        study = optuna.create_study(sampler=BruteForceSampler(seed=0))

    def collect(trial: optuna.Trial) -> float:
        config = grid.suggest(trial, target)
        if config.key not in seen and (only is None or len(seen) < only):
            seen.add(config.key)
            shape = Shape.of(config, target.decoder)
            suits[shape.layers, shape.width].append(trial.params)
        return 0.0

    study.optimize(collect)  # until every configuration has been
    hands: list[list[Params]] = [[] for _ in range(jobs)]
    for suit in sorted(suits.values(), key=len, reverse=True):
        # Longer trainings go on from shorter ones.
        min(hands, key=len).extend(sorted(suit, key=lambda params: params.get("kd_epochs", 0)))
    return hands


if __name__ == "__main__":
    sys.exit(main())
