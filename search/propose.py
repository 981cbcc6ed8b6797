"""What is tried next."""

from __future__ import annotations

import heapq
import random
import warnings
from collections.abc import Mapping
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.exceptions import ExperimentalWarning, UpdateFinishedTrialError
from optuna.samplers import BaseSampler, BruteForceSampler, GPSampler, RandomSampler, TPESampler
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from search.draws import Draw
from search.modelled import Observation, Point, expected_gain
from search.retries import held_back, queue_again, ready
from search.speeds import Shape
from search.study import FINISHED
from search.workers import CONFIG, DOUBLE, OWNER, QUEUED_BY, doubled, record_heartbeat
from spaces import Space
from squeeze.config import CompressionConfig
from squeeze.errors import ConfigError
from squeeze.target import Target

CANDIDATES = 400
"""Random configurations among which the model chooses."""

ENOUGH = 3
"""Trials whose quality and speed are known before a model is fitted."""

ATTEMPTS = 50
"""Proposals in vain before a search gives up."""

SHOWN, BEST = 200, 80
"""The most trials that a sampler is shown: of more, that many of the best and beside them the latest."""


def make_sampler(name: str, seed: int) -> BaseSampler:
    """One of Optuna's samplers by name; see ``SAMPLERS``."""
    if name == "random":
        return RandomSampler(seed=seed)
    if name == "gp":
        return GPSampler(seed=seed, warn_independent_sampling=False)
    if name == "brute":
        with warnings.catch_warnings(action="ignore", category=ExperimentalWarning):
            return BruteForceSampler(seed=seed)
    return TPESampler(seed=seed)


def next_trial(
    study: optuna.Study, space: Space, target: Target, sampler: str, seed: int, me: str = ""
) -> optuna.Trial:
    """Begin the next trial: one that waits, else the next recipe, else what the sampler proposes.

    me: ``workers.owner()`` of this process, whose the trial is from now on; empty: nobody's. Recipes are
    queued one at a time and the sampler is seeded by how many trials are finished or run, so that an
    interrupted search goes on as an uninterrupted one would, and workers that share a study try different
    things.
    """
    while True:
        trials = study.get_trials(deepcopy=False)
        if all(trial.state != TrialState.WAITING for trial in trials):
            _queue_next(study, trials, space, target, sampler, seed, me)
        with warnings.catch_warnings():
            # Ours are recorded: https://github.com/optuna/optuna/issues/3293
            warnings.filterwarnings("ignore", message="Heartbeat of storage")
            trial = study.ask()
        if me:
            record_heartbeat(study, trial._trial_id)
            try:
                trial.set_user_attr(OWNER, me)
            except UpdateFinishedTrialError:  # taken for that of who had queued it, and is dead
                continue
        frozen = study.get_trials(deepcopy=False)[trial.number]
        if CONFIG not in frozen.user_attrs and (users := _key_of(frozen, space, target)):
            trial.set_user_attr(CONFIG, users)
            frozen = study.get_trials(deepcopy=False)[trial.number]
        if "fixed_params" not in frozen.system_attrs:  # another worker was faster to take what was queued
            trial.set_user_attr(DOUBLE, -1)
        elif (double := doubled(study, frozen)) is not None:
            trial.set_user_attr(DOUBLE, double)
        else:
            return trial
        study.tell(trial, state=TrialState.FAIL)


def _queue_next(
    study: optuna.Study,
    trials: list[FrozenTrial],
    space: Space,
    target: Target,
    sampler: str,
    seed: int,
    me: str,
) -> None:
    """Queue what was held back and may be tried now; else something new; else what was held back.

    Raises ConfigError when there is nothing; see ``search.retries``.
    """
    held = held_back(trials)
    again = ready(trials, held, me)
    if not again:
        taken = {trial.number for trial in held}
        taken |= {trial.number for trial in trials if trial.state in (*FINISHED, TrialState.RUNNING)}
        try:
            params, key = _next([trials[number] for number in sorted(taken)], space, target, sampler, seed)
        except ConfigError:
            if not held:
                raise
            again = held
        else:
            study.enqueue_trial(dict(params), user_attrs={CONFIG: key, QUEUED_BY: me})
    if again:
        queue_again(study, again[0])


def _next(
    begun: list[FrozenTrial], space: Space, target: Target, sampler: str, seed: int
) -> tuple[Mapping[str, Any], str]:
    """Parameters and the key of their configuration. begun: trials that are finished, run or held back."""
    recipes = space.recipes(target)
    tried = {trial.user_attrs.get(CONFIG) for trial in begun}
    count = len(begun)
    if count < len(recipes) and (key := _key(recipes[count], space, target)) not in tried:
        return recipes[count], key
    past = [trial for trial in begun if trial.state in FINISHED]
    params = _propose(past, tried, space, target, sampler, seed + count)
    return params, _key(params, space, target)


def _key(params: Mapping[str, Any], space: Space, target: Target) -> str:
    return Draw(random.Random(0), params).config(space, target).key


def _key_of(trial: FrozenTrial, space: Space, target: Target) -> str | None:
    """The key of a queued trial's configuration; None where its parameters leave something open."""
    given = trial.system_attrs.get("fixed_params", {})
    draw = Draw(random.Random(0), given)
    key = draw.config(space, target).key
    return key if draw.params.items() <= given.items() else None


def _propose(
    past: list[FrozenTrial], tried: set[Any], space: Space, target: Target, sampler: str, seed: int
) -> Mapping[str, Any]:
    """Parameters from the sampler whose configuration is not among those tried.

    Raises ConfigError when none is left, or ``ATTEMPTS`` proposals in a row have been tried.
    The sampler works on a copy in memory: what it proposes in vain never becomes a trial of the study.
    """
    if sampler == "ours":
        if params := _promising(shown(past), tried, space, target, seed):
            return params
        sampler = "tpe"
    copy = optuna.create_study(direction=StudyDirection.MAXIMIZE)
    copy.add_trials(past if sampler == "brute" else shown(past))
    for attempt in range(ATTEMPTS):
        copy.sampler = make_sampler(sampler, seed + 1_000_003 * attempt)
        trial = copy.ask()
        config = space.suggest(trial, target)
        if config.key not in tried:
            break
        if sampler == "brute":
            raise ConfigError(
                f"--trials must be at most the configurations of the space, which are all finished: "
                f"{len(past)} trials; choose another sampler or space to go on"
            )
        copy.tell(trial, state=TrialState.FAIL)
    else:
        raise ConfigError(
            f"--trials must leave something to try; {len(past)} are finished, and {ATTEMPTS} proposals in a "
            f"row were among them; choose another space or sampler to go on"
        )
    return trial.params


def shown(past: list[FrozenTrial]) -> list[FrozenTrial]:
    """The trials that a sampler is shown, in order of number; all of them while there are few.

    TPE takes time in proportion to the trials, the Gaussian process to their cube. TPE separates at most 25
    of the best from the others, and among those it weighs old ones least: it loses little of what it uses.
    """
    # https://github.com/optuna/optuna/issues/2172: TPE goes through every trial for each parameter.
    if len(past) <= SHOWN:
        return past
    complete = [trial for trial in past if trial.state == TrialState.COMPLETE]
    best = heapq.nsmallest(BEST, complete, key=lambda trial: (-(trial.value or 0.0), trial.number))
    chosen = {trial.number for trial in best}
    latest = [trial for trial in past if trial.number not in chosen][-(SHOWN - len(best)) :]
    chosen.update(trial.number for trial in latest)
    return [trial for trial in past if trial.number in chosen]


def _promising(
    past: list[FrozenTrial], tried: set[Any], space: Space, target: Target, seed: int
) -> Mapping[str, Any] | None:
    """The parameters of largest expected gain among random ones; None while too little is known."""
    chance = random.Random(seed)
    distributions: dict[str, BaseDistribution] = {}

    def point(given: Mapping[str, Any]) -> tuple[CompressionConfig, Point]:
        draw = Draw(chance, given)
        config = draw.config(space, target)
        distributions.update(draw.distributions)
        return config, Point(draw.params, Shape.of(config, target.decoder))

    seen = [Observation.of(point(trial.params)[1], trial) for trial in past]
    scores = [trial.value for trial in past if trial.state == TrialState.COMPLETE and trial.value is not None]
    known = min(sum(one.quality is not None for one in seen), sum(one.speed is not None for one in seen))
    if not scores or known < ENOUGH:
        return None
    candidates = [point({}) for _ in range(CANDIDATES)]
    gain = expected_gain(seen, [one for _, one in candidates], distributions, target, max(scores))
    # Keys are made of as few as can be: they cost more than the model does.
    best_first = (candidates[place] for place in (-gain).argsort(kind="stable"))
    return next((one.params for config, one in best_first if config.key not in tried), None)
