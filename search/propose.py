"""What is tried next."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import BaseSampler, BruteForceSampler, GPSampler, RandomSampler, TPESampler
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from search.modelled import Observation, expected_gain
from search.study import CONFIG, finished
from spaces import Space
from squeeze.errors import ConfigError
from squeeze.target import Target

CANDIDATES = 400
"""Random configurations among which the model chooses."""

ENOUGH = 3
"""Trials whose quality is known before a model is fitted."""

ATTEMPTS = 50
"""Proposals of the sampler before a configuration is measured again."""


def make_sampler(name: str, seed: int) -> BaseSampler:
    """One of Optuna's samplers by name; see ``search.run``."""
    if name == "random":
        return RandomSampler(seed=seed)
    if name == "gp":
        return GPSampler(seed=seed)
    if name == "brute":
        with warnings.catch_warnings(action="ignore", category=ExperimentalWarning):
            return BruteForceSampler(seed=seed)
    return TPESampler(seed=seed)


def next_trial(study: optuna.Study, space: Space, target: Target, sampler: str, seed: int) -> optuna.Trial:
    """The next trial: one that waits, else the next recipe, else what the sampler proposes.

    Recipes are queued one at a time and the sampler is seeded by how many trials are finished, so that an
    interrupted search goes on as an uninterrupted one would.
    """
    if not study.get_trials(deepcopy=False, states=(TrialState.WAITING,)):
        recipes = space.recipes(target)
        count = finished(study)
        params = (
            recipes[count] if count < len(recipes) else _propose(study, space, target, sampler, seed + count)
        )
        study.enqueue_trial(dict(params))
    return study.ask()


def _propose(study: optuna.Study, space: Space, target: Target, sampler: str, seed: int) -> Mapping[str, Any]:
    """Parameters from the sampler whose configuration has not been tried, unless ``ATTEMPTS`` in a row were.

    Raises ConfigError when the sampler tries every configuration and none is left.
    The sampler works on a copy in memory: what it proposes in vain never becomes a trial of the study.
    """
    past = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED))
    tried = {trial.user_attrs.get(CONFIG) for trial in past}
    if sampler == "modelled":
        if params := _promising(past, tried, space, target, seed):
            return params
        sampler = "tpe"
    copy = optuna.create_study(direction=StudyDirection.MAXIMIZE)
    copy.add_trials(past)
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
    return trial.params


def _promising(
    past: list[FrozenTrial], tried: set[Any], space: Space, target: Target, seed: int
) -> Mapping[str, Any] | None:
    """The parameters of largest expected improvement among random ones; None while too little is known."""
    seen = [Observation.of(trial) for trial in past]
    complete = [trial for trial in past if trial.state == TrialState.COMPLETE]
    best = max((trial.value for trial in complete if trial.value is not None), default=None)
    if best is None or sum(one.quality is not None for one in seen) < ENOUGH:
        return None
    draws = optuna.create_study(sampler=RandomSampler(seed=seed))
    candidates: dict[str, Mapping[str, Any]] = {}
    distributions: dict[str, BaseDistribution] = {}
    for _ in range(CANDIDATES):
        trial = draws.ask()
        key = space.suggest(trial, target).key
        if key not in tried:
            candidates[key] = trial.params
        distributions.update(trial.distributions)
    for known in past:
        distributions.update(known.distributions)
    if not candidates:
        return None
    params = list(candidates.values())
    gain = expected_gain(seen, params, distributions, best, seed)
    return params[int(gain.argmax())]
