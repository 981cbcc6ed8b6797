"""A search on a table: the same proposals, bounds and prunes as a real one, and its recorded seconds."""

from __future__ import annotations

from collections.abc import Mapping

import optuna
from optuna.samplers import TPESampler
from optuna.study import StudyDirection
from optuna.trial import TrialState

from search.propose import make_sampler
from search.pruning import RUNGS, OptimisticPruner
from search.table import Row, Table
from spaces import grid
from squeeze.records import Record

SAMPLERS = ("random", "tpe", "gp", "seeds", "group")
"""Optuna's random, TPE and GP; the recipes and then random; TPE multivariate and group, as Olive has it."""


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
        trial = study.ask()
        row = rows[grid.suggest(trial, target).key]
        cost, reached = _run(trial, row, made)
        spent += cost
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


def _stopped(trial: optuna.Trial, rung: str, bounds: Mapping[str, float]) -> bool:
    trial.report(bounds[rung], RUNGS.index(rung))
    return trial.should_prune()


def _sampler(name: str, seed: int) -> optuna.samplers.BaseSampler:
    if name == "group":
        return TPESampler(multivariate=True, group=True, seed=seed)
    return make_sampler("random" if name == "seeds" else name, seed)
