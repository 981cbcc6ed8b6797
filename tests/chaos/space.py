"""A space whose every trial goes through all kinds of stages in seconds: prune, distil, quantize.

The tests copy it into the spaces/ of their working directory.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import optuna

from squeeze.config import (
    Calibration,
    CompressionConfig,
    DepthConfig,
    DistillConfig,
    QuantizeConfig,
    WidthConfig,
)
from squeeze.target import Target

FEW = Calibration(samples=8, length=64)
RATES = (1e-4, 2e-4, 3e-4, 4e-4)
WIDTHS = (896, 768)


def suggest(trial: optuna.Trial, target: Target) -> CompressionConfig:
    """Eight configurations, none of which is like the base."""
    return CompressionConfig(
        depth=DepthConfig(layers=7, method="influence", calibration=FEW),
        width=WidthConfig(width=trial.suggest_categorical("width", WIDTHS), calibration=FEW),
        distill=DistillConfig(
            text=Calibration(samples=32, length=128),
            batch=256,
            warmup=2,
            validate_every=4,
            learning_rate=trial.suggest_categorical("rate", RATES),
        ),
        quantize=QuantizeConfig(scheme="W8A8"),
    )


def recipes(target: Target) -> Sequence[Mapping[str, Any]]:
    """All of them, in an order that changes the shape every other time."""
    return [{"width": width, "rate": rate} for rate in RATES for width in WIDTHS]
