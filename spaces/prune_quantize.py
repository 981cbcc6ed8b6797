"""Fewer layers, narrower feed-forward, quantization: the whole space without training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import optuna
from squeeze.target import Target

from spaces import quantize
from squeeze.config import CompressionConfig, DepthConfig, WidthConfig

METHODS = ("influence", "uniform", "top")


def suggest(trial: optuna.Trial, target: Target) -> CompressionConfig:
    """Depth from half to all layers, width from half to all neurons, and a quantization."""
    decoder = target.decoder
    layers = trial.suggest_int("layers", (decoder.layers + 1) // 2, decoder.layers)
    depth = width = None
    if layers < decoder.layers:
        depth = DepthConfig(layers=layers, method=trial.suggest_categorical("depth_method", list(METHODS)))
    step = width_step(decoder.width)
    neurons = trial.suggest_int("width", decoder.width // 2 // step * step, decoder.width, step=step)
    if neurons < decoder.width:
        method = trial.suggest_categorical("width_method", ["activation", "magnitude"])
        width = WidthConfig(width=neurons, method=method)
    return CompressionConfig(depth=depth, width=width, quantize=quantize.suggest_quantize(trial, target))


def recipes(target: Target) -> Sequence[Mapping[str, Any]]:
    """Quantization as it is, shallow pruning as it is, and the two together."""
    decoder = target.decoder
    whole = {"layers": decoder.layers, "width": decoder.width}
    fewer = {**whole, "layers": decoder.layers - max(1, decoder.layers // 15), "depth_method": "influence"}
    step = width_step(decoder.width)
    narrow = {**whole, "width": decoder.width // 8 * 7 // step * step, "width_method": "activation"}
    plain = {"scheme": None}
    eight_bit = {"scheme": "W8A8", "algorithm_W8A8": "rtn"} if "W8A8" in target.schemes() else plain
    structural = [
        {**fewer, **plain},
        {**narrow, **plain},
        {**fewer, **narrow, "layers": fewer["layers"], **plain},
    ]
    if eight_bit is not plain:
        structural += [{**fewer, **eight_bit}, {**narrow, **eight_bit}]
    return [*({**whole, **recipe} for recipe in quantize.recipes(target)), *structural]


def width_step(width: int) -> int:
    """The step of the width parameter: a multiple of 128, at most sixteen of them to the whole."""
    return max(128, width // 16 // 128 * 128)
