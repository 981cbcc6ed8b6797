"""A search on a table: proposals, bounds and seconds of a real one.

Left out: audits, retries, the bound that a search learns from divergence (``search.gate``), and that a shape
is probed with one configuration of it (each row has its own probe). A stock sampler is asked as it is:
without recipes, and it may repeat itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import inf
from typing import Any

import optuna
from optuna.pruners import BasePruner, MedianPruner, NopPruner
from optuna.samplers import TPESampler
from optuna.study import StudyDirection
from optuna.trial import TrialState

from search.modelled import FAILURE, QUALITY, QUALITY_ERROR, SPEED
from search.propose import make_sampler, next_trial
from search.pruning import LOW, RUNGS, OptimisticPruner, to_beat
from search.speeds import Shape, fast_enough, too_slow
from search.table import Row, Table
from search.workers import CONFIG
from spaces import grid
from squeeze.records import Record

SAMPLERS = ("random", "tpe", "gp", "seeds", "group", "ours")
"""Optuna's random, TPE and GP; the recipes and then random; TPE multivariate and group, as Olive has it; and
the recipes and then the model of quality and speed apart."""


PRUNERS: dict[str, Callable[[], BasePruner]] = {
    "ours": OptimisticPruner,
    "median": MedianPruner,
    "none": NopPruner,
}
"""Ours; Optuna's, that stops what is below the median at its rung; and none."""


class Replay(Record):
    """One search, after each of its trials.

    regret: the table's best Score less the best found. seconds: spent by then. pruned: trials stopped early;
    wrong: those of them whose Score, as recorded, was above what was to beat then.
    """

    sampler: str
    seed: int
    regret: tuple[float, ...]
    seconds: tuple[float, ...]
    pruned: int
    wrong: int


@dataclass
class Known:
    """What a search has so far: keys of outputs in the cache, and the bound that each probed shape gave."""

    outputs: set[str] = field(default_factory=set)
    shapes: dict[Shape, float] = field(default_factory=dict)


def replay(table: Table, sampler: str, trials: int, seed: int, pruner: str = "ours") -> Replay:
    """Search a table with a sampler of ``SAMPLERS``; the same arguments give the same result.

    pruner: one of ``PRUNERS``; it hears of each rung the highest Score still possible.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    rows = {row.key: row for row in table.rows}
    target = table.made_for()
    study = optuna.create_study(
        direction=StudyDirection.MAXIMIZE, sampler=_sampler(sampler, seed), pruner=PRUNERS[pruner]()
    )
    if sampler == "seeds":
        for recipe in grid.recipes(target):
            study.enqueue_trial(dict(recipe))
    itself = Shape(target.decoder.layers, target.decoder.width).name  # its speed is the baseline's
    bounds = (row.bounds for row in table.rows if row.shape == itself and "speed" in row.bounds)
    known = Known(shapes={Shape.read(itself): bound["speed"] for bound in bounds})
    best, spent, pruned, wrong = 0.0, 0.0, 0, 0
    regret, seconds = [], []
    for _ in range(trials):
        trial = next_trial(study, grid, target, "ours", seed) if sampler == "ours" else study.ask()
        row = rows[grid.suggest(trial, target).key]
        beats = to_beat(study)
        cost, reached = run_row(trial, row, known, beats if pruner == "ours" else -inf)
        spent += cost
        for name, said in _said(row, trial).items():
            trial.set_user_attr(name, said)
        if reached and row.score is not None:
            study.tell(trial, row.score)
            best = max(best, row.score)
        else:
            study.tell(trial, state=TrialState.PRUNED)
            pruned += 1
            wrong += row.score is not None and row.score > beats
        regret.append(table.best - best)
        seconds.append(spent)
    return Replay(
        sampler=sampler,
        seed=seed,
        regret=tuple(regret),
        seconds=tuple(seconds),
        pruned=pruned,
        wrong=wrong,
    )


def run_row(trial: optuna.Trial, row: Row, known: Known, best: float) -> tuple[float, bool]:
    """Go through a row's rungs. Returns the seconds that took and whether it was measured to the end.

    known: added to. best: what is to beat.
    """
    shape, spent = Shape.read(row.shape), 0.0
    if shape not in known.shapes:
        if (slower := too_slow(shape, known.shapes, best)) is not None:
            trial.report(slower[1], RUNGS.index("shape"))
            return spent, False
        if row.shape_s and not fast_enough(shape, known.shapes, best):
            spent += row.shape_s
            if "shape" in row.bounds:  # else it failed before
                known.shapes[shape] = row.bounds["shape"]
    if shape in known.shapes and "shape" in row.bounds and _stopped(trial, "shape", row.bounds):
        return spent, False
    spent += sum(seconds for key, seconds in row.stages.items() if key not in known.outputs)
    known.outputs.update(row.stages)
    if "speed" in row.bounds:
        known.shapes.setdefault(shape, row.bounds["speed"])
    for rung in RUNGS[1:]:
        if rung in row.bounds and _stopped(trial, rung, row.bounds):
            return spent + row.reached[rung], False
    return spent + max(row.reached.values(), default=0.0), True


def _said(row: Row, trial: optuna.Trial) -> dict[str, Any]:
    """The attributes that the search would have given the trial."""
    steps = trial.study.get_trials(deepcopy=False)[trial.number].intermediate_values
    told = [row.estimates[rung] for step, rung in enumerate(RUNGS) if step in steps and rung in row.estimates]
    said: dict[str, Any] = {CONFIG: row.key}
    said |= {FAILURE: "recorded"} if row.score is None else {LOW: row.low}
    if told:
        said[SPEED] = told[-1].speed_norm
        if told[-1].perf_norm is not None:
            said |= {QUALITY: told[-1].perf_norm, QUALITY_ERROR: told[-1].perf_error}
    return said


def _stopped(trial: optuna.Trial, rung: str, bounds: Mapping[str, float]) -> bool:
    trial.report(bounds[rung], RUNGS.index(rung))
    return trial.should_prune()


def _sampler(name: str, seed: int) -> optuna.samplers.BaseSampler:
    if name == "group":
        return TPESampler(multivariate=True, group=True, seed=seed)
    return make_sampler("random" if name == "seeds" else name, seed)
