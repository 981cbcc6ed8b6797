"""What a sampler is shown of a long study, and that nothing else of the past decides what it proposes."""

from __future__ import annotations

import random
from pathlib import Path

import optuna
import pytest
from optuna.distributions import IntDistribution
from optuna.trial import FrozenTrial, TrialState

from search.propose import BEST, SHOWN, next_trial, shown
from search.study import CONFIG, RETRY_OF
from squeeze.config import CompressionConfig, DepthConfig
from squeeze.decoder import Decoder
from squeeze.demo import MODEL_DIR
from squeeze.target import Target

TARGET = Target.contest(Decoder.read(MODEL_DIR))
STORAGE = "sqlite:///studies/long.db"


class Layers:
    """A space of two parameters without recipes."""

    def suggest(self, trial: optuna.Trial, target: Target) -> CompressionConfig:
        x, y = trial.suggest_int("x", 1, 40), trial.suggest_int("y", 0, 40)
        return CompressionConfig(depth=DepthConfig(layers=1 + 41 * x + y))

    def recipes(self, target: Target) -> list[dict[str, int]]:
        return []


def past(count: int) -> list[FrozenTrial]:
    """Trials as a study has them: every third was stopped early, the best are the earliest."""
    study = optuna.create_study(direction="maximize")
    for number in range(count):
        study.add_trial(
            optuna.trial.create_trial(
                state=TrialState.PRUNED if number % 3 == 2 else TrialState.COMPLETE,
                value=1 / (1 + number),
                params={"x": number},
                distributions={"x": IntDistribution(0, count)},
            )
        )
    return study.get_trials()


def test_a_sampler_is_shown_every_trial_of_a_short_study() -> None:
    trials = past(SHOWN)
    assert shown(trials) == trials


def test_of_a_long_study_it_is_shown_the_best_and_the_latest_in_their_order() -> None:
    trials = past(SHOWN + 200)
    numbers = [trial.number for trial in shown(trials)]
    complete = [trial.number for trial in trials if trial.state == TrialState.COMPLETE]
    assert numbers == complete[:BEST] + list(range(200 + BEST, SHOWN + 200))
    assert len(numbers) == SHOWN


@pytest.mark.parametrize("sampler", ["tpe", "modelled"])
def test_a_search_interrupted_after_every_trial_proposes_what_an_uninterrupted_one_does(
    workplace: Path, monkeypatch: pytest.MonkeyPatch, sampler: str
) -> None:
    monkeypatch.setattr("search.propose.SHOWN", 13)  # so that few trials are many
    monkeypatch.setattr("search.propose.BEST", 4)

    def proposed(name: str, interrupted: bool) -> list[dict[str, int]]:
        study = optuna.create_study(study_name=name, storage=STORAGE, direction="maximize")
        chosen = []
        for number in range(20):
            if interrupted:
                study = optuna.load_study(study_name=name, storage=STORAGE)
            trial = next_trial(study, Layers(), TARGET, sampler, seed=1)
            trial.set_user_attr(CONFIG, Layers().suggest(trial, TARGET).key)
            if interrupted and number % 7 == 3:  # killed: told as failed, the same parameters wait
                study.enqueue_trial(trial.params, user_attrs={RETRY_OF: trial.number})
                study.tell(trial, state=TrialState.FAIL)
                trial = next_trial(study, Layers(), TARGET, sampler, seed=1)
                trial.set_user_attr(CONFIG, Layers().suggest(trial, TARGET).key)
            chosen.append(trial.params)
            trial.set_user_attr("SpeedNorm so far", trial.params["x"] / 40)
            trial.set_user_attr("PerfNorm so far", random.Random(number).random())
            study.tell(trial, -abs(20 - trial.params["x"]) - abs(30 - trial.params["y"]))
        return chosen

    one, other = proposed("one", False), proposed("other", True)
    assert one == other
    assert len({tuple(params.items()) for params in one}) == 20
