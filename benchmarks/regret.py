"""Regret of samplers on a recorded table: ours beside Optuna's, by trials and by recorded seconds.

Example: ``python benchmarks/regret.py --seeds 24``

Regret is the best Score of the table less the best that a search has found. Every search goes over the same
rows, with the same pruner and the same cache; only what is proposed differs. Optuna's are asked as they are,
without recipes; ``seeds`` shows what the recipes do alone. The last line on stdout is JSON:
``regret`` {sampler: {trials: {p50, p90}}}, ``regret_by_seconds`` likewise, ``ratio_p50_at_40`` and
``ratio_p90_at_40`` (ours over the best of Optuna's; less than 1 is better, null where only Optuna's is 0),
versions and machine.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
import warnings
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path

import numpy as np
import optuna

from search.replay import TABLE
from search.simulation import SAMPLERS, Replay, replay
from search.table import load_table

Regrets = Mapping[str, Mapping[str, Mapping[str, float]]]
"""Sampler -> trials or seconds -> quantile -> regret."""

TRIALS = (10, 20, 40)
STOCK = ("random", "tpe", "gp", "group")
"""Optuna's own; ``seeds`` is ours without the model."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command. Returns the exit code."""
    options = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    options.add_argument("--table", type=Path, default=TABLE)
    options.add_argument("--seeds", type=int, default=24)
    options.add_argument("--samplers", nargs="+", default=list(SAMPLERS), choices=SAMPLERS)
    options.add_argument("--quick", action="store_true", help="4 seeds, without the slow samplers")
    arguments = options.parse_args(argv)
    warnings.simplefilter("ignore")
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    seeds = 4 if arguments.quick else arguments.seeds
    samplers = [name for name in arguments.samplers if not (arguments.quick and name == "gp")]
    table = load_table(arguments.table)
    searches: dict[str, list[Replay]] = {name: [] for name in samplers}
    began = {name: 0.0 for name in samplers}
    for seed in range(seeds):  # interleaved, so that a machine that slows down slows them all
        for name in samplers:
            started = time.perf_counter()
            searches[name].append(replay(table, name, max(TRIALS), seed))
            began[name] += time.perf_counter() - started
    budgets = _budgets(searches["random"]) if "random" in searches else ()
    by_trials = {name: _by_trials(found) for name, found in searches.items()}
    by_seconds = {name: _by_seconds(found, budgets) for name, found in searches.items()}
    _print(by_trials, by_seconds, {name: took / seeds / max(TRIALS) for name, took in began.items()})
    last = str(max(TRIALS))
    found = {
        "regret": by_trials,
        "regret_by_seconds": by_seconds,
        **{f"ratio_{p}_at_{last}": _ratio(by_trials, last, p) for p in ("p50", "p90")},
        "seconds_per_proposal": {name: took / seeds / max(TRIALS) for name, took in began.items()},
        "seeds": seeds,
        "table": {"rows": len(table.rows), "best": table.best, "of": table.model, "on": table.machine},
        "versions": {name: metadata.version(name) for name in ("optuna", "numpy", "scipy")},
        "machine": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores",
    }
    print(json.dumps(found))
    return 0


def _quantiles(values: Sequence[float]) -> dict[str, float]:
    return {name: round(float(np.quantile(values, at)), 5) for name, at in (("p50", 0.5), ("p90", 0.9))}


def _by_trials(found: Sequence[Replay]) -> dict[str, dict[str, float]]:
    return {str(count): _quantiles([one.regret[count - 1] for one in found]) for count in TRIALS}


def _budgets(found: Sequence[Replay]) -> tuple[int, ...]:
    """The seconds that random search needs for as many trials, the median, rounded."""
    return tuple(round(float(np.median([one.seconds[count - 1] for one in found])), -1) for count in TRIALS)  # type: ignore[misc]


def _by_seconds(found: Sequence[Replay], budgets: Sequence[float]) -> dict[str, dict[str, float]]:
    def at(one: Replay, budget: float) -> float:
        within = [regret for regret, spent in zip(one.regret, one.seconds, strict=True) if spent <= budget]
        return min(within, default=one.regret[0])

    return {f"{budget:.0f}": _quantiles([at(one, budget) for one in found]) for budget in budgets}


def _ratio(by_trials: Regrets, trials: str, which: str) -> float | None:
    stock = [by_trials[name][trials][which] for name in STOCK if name in by_trials]
    if "ours" not in by_trials or not stock:
        return None
    best = min(stock)
    ours = by_trials["ours"][trials][which]
    return round(ours / best, 4) if best else (1.0 if ours == 0 else None)  # JSON has no infinity


def _print(by_trials: Regrets, by_seconds: Regrets, each: Mapping[str, float]) -> None:
    for what, table in (("trials", by_trials), ("recorded seconds", by_seconds)):
        print(f"regret, median (90th percentile), after {what}", file=sys.stderr)
        for name, row in table.items():
            cells = "  ".join(f"{at}: {cell['p50']:.4f} ({cell['p90']:.4f})" for at, cell in row.items())
            print(f"  {name:8} {cells}  {each[name] * 1e3:.0f} ms a trial", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
