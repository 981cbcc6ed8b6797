"""A search on a table: proposals, bounds and seconds of a real one, without bounds between shapes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import optuna
from optuna.samplers import TPESampler
from optuna.study import StudyDirection
from optuna.trial import TrialState

from search.modelled import QUALITY, QUALITY_ERROR, SPEED
from search.propose import make_sampler, next_trial
from search.pruning import RUNGS, OptimisticPruner
from search.study import CONFIG
from search.table import Row, Table
from spaces import grid
from squeeze.records import Record

SAMPLERS = ("random", "tpe", "gp", "seeds", "group", "ours")
"""Optuna's random, TPE and GP; the recipes and then random; TPE multivariate and group, as Olive has it; and
the recipes and then ``--sampler modelled``."""


class Replay(Record):
    """One search, after each of its trials.

    regret: the table's best Score less the best found. seconds: spent by then. pruned: trials stopped early.
    """

    sampler: str
    seed: int
    regret: tuple[float, ...]
    seconds: tuple[float, ...]
    pruned: int


def replay(table: Table, sampler: str, trials: int, seed: int) -> Replay:
    """Search a table with a sampler of ``SAMPLERS``; the same arguments give the same result."""
    rows = {row.key: row for row in table.rows}
    target = table.made_for()
    study = optuna.create_study(
        direction=StudyDirection.MAXIMIZE, sampler=_sampler(sampler, seed), pruner=OptimisticPruner()
    )
    if sampler == "seeds":
        for recipe in grid.recipes(target):
            study.enqueue_trial(dict(recipe))
    made: set[str] = set()
    best, spent, pruned = 0.0, 0.0, 0
    regret, seconds = [], []
    for _ in range(trials):
        trial = next_trial(study, grid, target, "modelled", seed) if sampler == "ours" else study.ask()
        row = rows[grid.suggest(trial, target).key]
        cost, reached = _run(trial, row, made)
        spent += cost
        for name, said in _said(row, trial).items():
            trial.set_user_attr(name, said)
        if reached and row.score is not None:
            study.tell(trial, row.score)
            best = max(best, row.score)
        else:
            study.tell(trial, state=TrialState.PRUNED)
            pruned += 1
        regret.append(table.best - best)
        seconds.append(spent)
    return Replay(sampler=sampler, seed=seed, regret=tuple(regret), seconds=tuple(seconds), pruned=pruned)


def _run(trial: optuna.Trial, row: Row, made: set[str]) -> tuple[float, bool]:
    """Go through a row's rungs. Returns the seconds that took and whether it was measured to the end.

    made: keys of what is in the cache, and of shapes that were probed; added to.
    """
    spent = 0.0
    # A model that is itself the cheapest of its shape is measured at once while the shape is unknown.
    if "shape" in row.bounds and (row.shape in made or row.shape_s):
        spent += 0.0 if row.shape in made else row.shape_s
        made.add(row.shape)
        if _stopped(trial, "shape", row.bounds):
            return spent, False
    spent += sum(seconds for key, seconds in row.stages.items() if key not in made)
    made.update(row.stages)
    made.add(row.shape)
    for rung in RUNGS[1:]:
        if rung in row.bounds and _stopped(trial, rung, row.bounds):
            return spent + row.reached[rung], False
    return spent + max(row.reached.values(), default=0.0), True


def _said(row: Row, trial: optuna.Trial) -> dict[str, Any]:
    """The attributes that the search would have given the trial."""
    steps = trial.study.get_trials(deepcopy=False)[trial.number].intermediate_values
    told = [row.estimates[rung] for step, rung in enumerate(RUNGS) if step in steps and rung in row.estimates]
    said: dict[str, Any] = {CONFIG: row.key}
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
