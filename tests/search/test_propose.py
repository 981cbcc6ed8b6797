"""What a sampler is shown of a long study, that nothing else of the past decides what it proposes, and what
the model of quality and speed has learnt."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import optuna
import pytest
from optuna.distributions import IntDistribution
from optuna.trial import FrozenTrial, TrialState

import spaces
from search.draws import Draw
from search.modelled import FAILURE, QUALITY, QUALITY_ERROR, SPEED, Observation, Point, Process
from search.propose import BEST, SHOWN, next_trial, shown
from search.speeds import Shape
from search.workers import CONFIG, RETRY_OF
from squeeze.config import CompressionConfig, DepthConfig
from squeeze.decoder import Decoder
from squeeze.demo import MODEL_DIR
from squeeze.target import Target

TARGET = Target.contest(Decoder.read(MODEL_DIR))
H200 = Target(TARGET.decoder, "cuda", (9, 0), "H200", 140 << 30, "0.32.0", "vllm")
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


@pytest.mark.parametrize("sampler", ["tpe", "ours"])
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
            trial.set_user_attr(SPEED, trial.params["x"] / 40)
            trial.set_user_attr(QUALITY, random.Random(number).random())
            trial.set_user_attr(QUALITY_ERROR, 0.02)
            study.tell(trial, -abs(20 - trial.params["x"]) - abs(30 - trial.params["y"]))
        return chosen

    one, other = proposed("one", False), proposed("other", True)
    assert one == other
    assert len({tuple(params.items()) for params in one}) == 20


def test_what_a_user_queues_twice_is_tried_once(workplace: Path) -> None:
    study = optuna.create_study(study_name="queued", storage=STORAGE, direction="maximize")
    for _ in range(2):
        study.enqueue_trial({"x": 3, "y": 4})
    study.enqueue_trial({"x": 5})  # the rest is drawn
    tried = []
    for _ in range(3):
        trial = next_trial(study, Layers(), TARGET, "random", seed=1)
        Layers().suggest(trial, TARGET)
        tried.append(trial.params)
        study.tell(trial, 0.5)
    assert tried[0] == {"x": 3, "y": 4}
    assert tried[1]["x"] == 5
    assert tried[2] not in tried[:2]


@pytest.mark.parametrize("name", spaces.names())
@pytest.mark.parametrize(
    "target", [TARGET, Target(TARGET.decoder, "cuda", (9, 0), "H200", 1 << 37, "0.32.0", "vllm")]
)
def test_whatever_is_drawn_can_be_run_and_means_to_a_trial_what_it_means_here(
    name: str, target: Target
) -> None:
    space, chance = spaces.load(name), random.Random(1)
    for _ in range(100):
        draw = Draw(chance, {})
        config = draw.config(space, target)
        assert target.refuse(config) == []
        study = optuna.create_study()
        study.enqueue_trial(draw.params)
        trial = study.ask()
        assert space.suggest(trial, target) == config
        assert (trial.params, trial.distributions) == (draw.params, draw.distributions)
        assert Draw(chance, draw.params).config(space, target) == config


def test_what_is_given_is_drawn_anew_where_the_space_has_no_such_value() -> None:
    draw = Draw(random.Random(1), {"layers": 99, "scheme": "none such", "width": 512})
    config = draw.config(spaces.load("grid"), TARGET)
    assert config.width is not None and config.width.width == 512
    assert draw.params["layers"] in (4, 5, 6, 7, 8)
    assert draw.params["scheme"] in (None, "W8A8", "W4A16")


@pytest.mark.parametrize(
    ("failure", "quality"), [("judge", None), ("disk", None), ("killed", None), ("load", 0.0), ("oom", 0.0)]
)
def test_only_a_failure_of_the_candidate_itself_is_evidence_of_bad_quality(
    failure: str, quality: float | None
) -> None:
    said = {FAILURE: failure, SPEED: 0.2, QUALITY: 0.9, QUALITY_ERROR: 0.01}
    trial = optuna.trial.create_trial(state=TrialState.PRUNED, params={}, distributions={}, user_attrs=said)
    seen = Observation.of(Point({}, Shape(8, 512)), trial)
    assert seen.quality == quality
    assert seen.speed == (None if quality == 0.0 else 0.2)


def test_a_trend_is_carried_on_and_what_is_far_from_all_that_was_seen_is_less_sure() -> None:
    chance = np.random.default_rng(1)
    x = chance.uniform(0, 1, (40, 2))
    y = 3 * x[:, 0] + chance.normal(0, 0.05, 40)
    process = Process(x, y, np.zeros(40))
    mean, spread = process.at(np.array([[0.5, 0.5], [1.3, 0.5]]))
    assert mean == pytest.approx([1.5, 3.9], abs=0.3)
    assert spread[1] > 2 * spread[0]
    assert process.noise == pytest.approx(0.05, rel=0.5)


def test_a_doubtful_value_pulls_the_model_less_than_a_sure_one() -> None:
    x = np.linspace(0, 1, 9)[:, None]
    y = np.where(np.arange(9) == 4, 5.0, 1.0) + 0.1 * x[:, 0]
    error = np.where(np.arange(9) == 4, 4.0, 0.01)
    sure, doubtful = (Process(x, y, known).at(x[4:5])[0][0] for known in (np.zeros(9), error))
    assert doubtful < sure
    assert doubtful < 2


def test_what_fails_again_and_again_is_kept_away_from() -> None:
    study, space = optuna.create_study(direction="maximize"), spaces.load("grid")
    failed = []
    for _ in range(40):
        trial = next_trial(study, space, TARGET, "ours", seed=1)
        config = space.suggest(trial, TARGET)
        trial.set_user_attr(CONFIG, config.key)
        failed.append(config.quantize is not None)
        if failed[-1]:
            trial.set_user_attr(FAILURE, "kernel")
            study.tell(trial, state=TrialState.PRUNED)
            continue
        kept = trial.params["layers"] / 8
        trial.set_user_attr(SPEED, 1 - kept)
        trial.set_user_attr(QUALITY, kept)
        trial.set_user_attr(QUALITY_ERROR, 0.02)
        study.tell(trial, 0.5)
    assert sum(failed[20:]) < 5
