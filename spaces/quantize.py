"""Quantization alone: scheme, algorithm, dampening, group size, calibration; the shape stays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import optuna

from squeeze.config import ALGORITHMS, Algorithm, Calibration, CompressionConfig, QuantizeConfig, Scheme
from squeeze.target import Target

SAMPLES = {"cpu": (16, 32, 64), "cuda": (64, 128, 256, 512)}
"""Calibration samples worth their time; on a CPU GPTQ's Hessians are what a build waits for."""


def group_sizes(target: Target) -> list[int]:
    """The group sizes of the W4 schemes that the target takes for every layer of the base."""
    scheme: Scheme = "W4A16"
    parts = [QuantizeConfig(scheme=scheme, group_size=size) for size in (32, 64, 128)]
    return [part.group_size for part in parts if not target.refuse(CompressionConfig(quantize=part))]


def suggest(trial: optuna.Trial, target: Target) -> CompressionConfig:
    """A scheme that the target runs, or none, and how it is made."""
    return CompressionConfig(quantize=suggest_quantize(trial, target))


def suggest_quantize(trial: optuna.Trial, target: Target) -> QuantizeConfig | None:
    """Ask for a quantization; parameters are named so that each is asked only where it has an effect."""
    scheme = cast(Scheme | None, trial.suggest_categorical("scheme", [None, *target.schemes()]))
    if scheme is None:
        return None
    choices = ALGORITHMS[scheme]
    algorithm = choices[0]
    if len(choices) > 1:
        algorithm = cast(Algorithm, trial.suggest_categorical(f"algorithm_{scheme}", list(choices)))
    settings: dict[str, Any] = {}
    if scheme.startswith("W4"):
        settings["group_size"] = trial.suggest_categorical("group_size", group_sizes(target))
    if algorithm == "gptq":
        settings["dampening"] = trial.suggest_float("dampening", 0.001, 0.1, log=True)
    if algorithm != "rtn" or scheme == "FP8":
        settings["calibration"] = Calibration(
            samples=trial.suggest_categorical("samples", list(SAMPLES[target.device]))
        )
    return QuantizeConfig(scheme=scheme, algorithm=algorithm, **settings)


def recipes(target: Target) -> Sequence[Mapping[str, Any]]:
    """Settings that did well elsewhere, those first that did best; only schemes that the target runs."""
    samples = SAMPLES[target.device][1]
    gptq = {"dampening": 0.01, "samples": samples}
    largest = {"group_size": max(group_sizes(target), default=32)}
    known: tuple[dict[str, Any], ...] = (
        {"scheme": "W8A8", "algorithm_W8A8": "rtn"},
        {"scheme": "FP8_DYNAMIC"},
        {"scheme": "W4A16", "algorithm_W4A16": "gptq", **largest, **gptq},
        {"scheme": "W8A8", "algorithm_W8A8": "gptq", **gptq},
        {"scheme": "W4A16_ASYM", "algorithm_W4A16_ASYM": "awq", **largest, "samples": samples},
        {"scheme": "FP8", "samples": SAMPLES[target.device][-1]},
        {"scheme": "W8A16", "algorithm_W8A16": "rtn"},
    )
    return [recipe for recipe in known if recipe["scheme"] in target.schemes()]
