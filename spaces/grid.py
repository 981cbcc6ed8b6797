"""A coarse grid over shape, scheme and distillation, small enough to be measured whole, for replays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import optuna

from spaces import prune_quantize, quantize
from squeeze.config import (
    Calibration,
    CompressionConfig,
    DepthConfig,
    DistillConfig,
    QuantizeConfig,
    WidthConfig,
)
from squeeze.target import Target

EPOCHS = {"cpu": (0, 1, 2), "cuda": (0, 1, 2, 3)}
"""Passes of the teacher over its text."""

DISTILLED: Mapping[str, Mapping[str, Any]] = {
    "cpu": {
        "text": Calibration(samples=256, length=1024),
        "batch": 2048,
        "warmup": 8,
        "learning_rate": 1.581e-4,
        "temperature": 2.0,
    },
    "cuda": {
        "text": Calibration(samples=20_000, length=2048),
        "batch": 32_768,
        "warmup": 20,
        "learning_rate": 2.24e-5,
        "temperature": 2.0,
    },
}
"""How it teaches. It must not change with other spaces: a recorded table knows configurations by hash."""

SHARES = (1.0, 0.875, 0.75, 0.625, 0.5)
"""Of the layers and of the width."""


def suggest(trial: optuna.Trial, target: Target) -> CompressionConfig:
    """Layers, width, a scheme rounded to nearest or none, and epochs of the teacher after pruning."""
    decoder = target.decoder
    layers = trial.suggest_categorical("layers", _steps(decoder.layers, 1))
    depth = DepthConfig(layers=layers) if layers < decoder.layers else None
    width = None
    step = prune_quantize.width_step(decoder.width)
    if step is not None:
        neurons = trial.suggest_categorical("width", _steps(decoder.width, step))
        width = WidthConfig(width=neurons) if neurons < decoder.width else None
    scheme = trial.suggest_categorical("scheme", _schemes(target))
    group = max(quantize.group_sizes(target), default=128) if scheme == "W4A16" else 128
    part = QuantizeConfig(scheme=scheme, group_size=group) if scheme else None
    distill = None
    if depth or width:
        epochs = trial.suggest_categorical("kd_epochs", list(EPOCHS[target.device]))
        if epochs:
            distill = DistillConfig(epochs=epochs, **DISTILLED[target.device])
    return CompressionConfig(depth=depth, width=width, distill=distill, quantize=part)


def recipes(target: Target) -> Sequence[Mapping[str, Any]]:
    """The same as of ``recover``, where the grid has them: a little pruning, and each scheme as it is."""
    decoder = target.decoder
    whole: dict[str, Any] = {"layers": decoder.layers}
    narrow, fewer = dict(whole), {"layers": _steps(decoder.layers, 1)[1]}
    step = prune_quantize.width_step(decoder.width)
    if step is not None:
        whole["width"] = fewer["width"] = decoder.width
        narrow["width"] = _steps(decoder.width, step)[1]
    schemes, epochs = _schemes(target), EPOCHS[target.device][-2]
    first = "W8A8" if target.device != "cpu" and "W8A8" in schemes else None
    shapes = [fewer] if step is None else [narrow, fewer, {**fewer, **{"width": narrow["width"]}}]
    return [
        *({**shape, "scheme": first, "kd_epochs": epochs} for shape in shapes),
        *({**whole, "scheme": scheme} for scheme in schemes if scheme),
    ]


def _steps(whole: int, step: int) -> list[int]:
    """The shares of a whole in steps, each once, the whole first."""
    return list(dict.fromkeys(max(step, round(share * whole / step) * step) for share in SHARES))


def _schemes(target: Target) -> list[Any]:
    return [None, *(scheme for scheme in ("W8A8", "W4A16") if scheme in target.schemes())]
