"""Fewer layers, narrower feed-forward, quantization: the whole space without training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import optuna

from spaces import quantize
from squeeze.config import CompressionConfig, DepthConfig, WidthConfig
from squeeze.target import Target

METHODS = ("influence", "uniform", "top")


def suggest(trial: optuna.Trial, target: Target) -> CompressionConfig:
    """Depth from half to all layers, width from half to all neurons, and a quantization."""
    decoder = target.decoder
    layers = trial.suggest_int("layers", (decoder.layers + 1) // 2, decoder.layers)
    depth = width = None
    if layers < decoder.layers:
        depth = DepthConfig(layers=layers, method=trial.suggest_categorical("depth_method", list(METHODS)))
    step = width_step(decoder.width)
    if step is not None:
        lowest = max(step, decoder.width // 2 // step * step)
        neurons = trial.suggest_int("width", lowest, decoder.width, step=step)
        if neurons < decoder.width:
            method = trial.suggest_categorical("width_method", ["activation", "magnitude"])
            width = WidthConfig(width=neurons, method=method)
    return CompressionConfig(depth=depth, width=width, quantize=quantize.suggest_quantize(trial, target))


def recipes(target: Target) -> Sequence[Mapping[str, Any]]:
    """Quantization as it is, shallow pruning as it is, and the two together."""
    decoder = target.decoder
    whole: dict[str, Any] = {"layers": decoder.layers}
    fewer = {**whole, "layers": decoder.layers - max(1, decoder.layers // 15), "depth_method": "influence"}
    step = width_step(decoder.width)
    narrow: dict[str, Any] = {}
    if step is not None:
        whole["width"] = fewer["width"] = decoder.width
        narrow = {
            "width": decoder.width - max(1, decoder.width // 8 // step) * step,
            "width_method": "activation",
        }
    plain = {"scheme": None}
    eight_bit = {"scheme": "W8A8", "algorithm_W8A8": "rtn"} if "W8A8" in target.schemes() else plain
    schemes = [plain] if eight_bit is plain else [plain, eight_bit]
    structural = [{**fewer, **scheme} for scheme in schemes]
    if narrow:
        structural[1:1] = [{**whole, **narrow, **plain}, {**fewer, **narrow, **plain}]
        structural += [{**whole, **narrow, **scheme} for scheme in schemes[1:]]
    return [*({**whole, **recipe} for recipe in quantize.recipes(target)), *structural]


def width_step(width: int) -> int | None:
    """The step of the width parameter: a multiple of 128 that divides the width.

    The smallest with at most 32 steps to the whole, else the largest that leaves eight; None when there is
    none, and the width then stays.
    """
    steps = [step for step in range(128, width // 8 + 1, 128) if width % step == 0]
    few = [step for step in steps if width // step <= 32]
    return few[0] if few else steps[-1] if steps else None
