"""A sampler that models quality and speed apart: Gaussian processes on few trials, expected improvement.

A Score is half a quality, half a speed, and the two are learnt from different evidence. Every trial whose
shape was probed tells of speed, however early it was stopped; a trial tells of quality once questions were
answered. So each part has its own model, and what is proposed next is the candidate whose Score, the sum of
the two, promises the largest gain over the best (expected improvement; Jones et al., 1998).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import erf, exp, isfinite, log, pi, sqrt
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial

Array = np.ndarray[tuple[int, ...], np.dtype[np.float64]]

OBSERVED = 300
"""The most observations that a model is fitted to; of more the best and the latest are taken."""

DRAWS = 48
"""Hyperparameters that are tried in a fit."""


SPEED, QUALITY, QUALITY_ERROR = "SpeedNorm so far", "PerfNorm so far", "PerfNorm error"
"""User attributes of a trial that this sampler learns from; without questions only the first."""


@dataclass(frozen=True)
class Observation:
    """A finished trial: what it was asked for and what it said. quality is None before any question."""

    params: Mapping[str, Any]
    speed: float | None
    quality: float | None
    quality_error: float = 0.0

    @classmethod
    def of(cls, trial: FrozenTrial) -> Observation:
        """What a trial's user attributes say."""
        said = trial.user_attrs
        return cls(trial.params, said.get(SPEED), said.get(QUALITY), said.get(QUALITY_ERROR) or 0.0)


class Encoder:
    """Parameters as a vector: numbers on [0, 1], logarithmic ones by their logarithm; choices one-hot."""

    def __init__(self, distributions: dict[str, BaseDistribution]) -> None:
        self._distributions = dict(sorted(distributions.items()))

    def __call__(self, params: Mapping[str, Any]) -> list[float]:
        vector: list[float] = []
        for name, kind in self._distributions.items():
            there = name in params
            if isinstance(kind, CategoricalDistribution):
                numbers = [c for c in kind.choices if isinstance(c, int | float) and not isinstance(c, bool)]
                if len(numbers) == len(kind.choices) > 1:
                    low, high = min(numbers), max(numbers)
                    vector.append((float(params[name]) - low) / (high - low) if there else 0.0)
                else:
                    vector += [float(there and params[name] == choice) for choice in kind.choices]
            elif isinstance(kind, IntDistribution | FloatDistribution):
                if there:
                    vector += [1.0, _scaled(float(params[name]), kind)]
                else:
                    vector += [0.0, 0.0]
        return vector


def _scaled(value: float, kind: IntDistribution | FloatDistribution) -> float:
    low, high = float(kind.low), float(kind.high)
    if kind.log:
        value, low, high = log(value), log(low), log(high)
    return (value - low) / (high - low) if high > low else 0.0


class Process:
    """A Gaussian process with a Matérn 5/2 kernel, one length a dimension, fitted by marginal likelihood.

    x: (n, d). y: (n,). error: (n,) standard errors known of each y. The mean function is linear with a wide
    prior, so that a trend is carried on where nothing was seen.
    """

    def __init__(self, x: Array, y: Array, error: Array, chance: np.random.Generator) -> None:
        self._x = x
        self._shift, self._scale = float(y.mean()), float(y.std()) or 1.0
        target = (y - self._shift) / self._scale
        noise = (error / self._scale) ** 2
        best = -np.inf
        varies = x.std(0) > 0
        for draw in range(DRAWS):
            lengths = np.exp(chance.normal(log(1.0), 0.7, x.shape[1])) if draw else np.ones(x.shape[1])
            jitter = exp(chance.uniform(log(1e-3), log(0.1))) if draw else 0.02
            linear = exp(chance.uniform(log(0.05), log(2.0))) if draw else 0.5
            lengths = np.where(varies, lengths, 1.0)
            kernel = _kernel(x, x, lengths, linear) + np.diag(noise + jitter)
            try:
                factor = np.linalg.cholesky(kernel)
            except np.linalg.LinAlgError:
                continue
            half = np.linalg.solve(factor, target)
            likelihood = -0.5 * float(half @ half) - float(np.log(np.diag(factor)).sum())
            if likelihood > best:
                best = likelihood
                self._lengths, self._linear, self._factor = lengths, linear, factor
                self._alpha = np.linalg.solve(factor.T, half)

    def at(self, x: Array) -> tuple[Array, Array]:
        """Mean and standard deviation at (m, d) points."""
        cross = _kernel(x, self._x, self._lengths, self._linear)
        mean = cross @ self._alpha
        half = np.linalg.solve(self._factor, cross.T)
        own = 1.0 + self._linear * (1.0 + (x * x).sum(1))
        variance = np.maximum(own - (half * half).sum(0), 1e-9)
        return mean * self._scale + self._shift, np.sqrt(variance) * self._scale


def _kernel(one: Array, other: Array, lengths: Array, linear: float) -> Array:
    gap = one[:, None, :] / lengths - other[None, :, :] / lengths
    distance = np.sqrt(5.0 * (gap * gap).sum(-1))
    matern = (1 + distance + distance**2 / 3) * np.exp(-distance)
    return np.asarray(matern + linear * (1.0 + one @ other.T))


def _finite(value: float | None) -> bool:
    return value is not None and isfinite(value)


def expected_gain(
    observations: Sequence[Observation],
    candidates: Sequence[Mapping[str, Any]],
    distributions: dict[str, BaseDistribution],
    best: float,
    seed: int,
) -> Array:
    """Expected improvement of the Score over ``best`` for each candidate, (m,)."""
    encode = Encoder(distributions)
    chance = np.random.default_rng(seed)
    points = np.array([encode(params) for params in candidates])
    parts = []
    for which in ("quality", "speed"):
        known = [one for one in observations if _finite(getattr(one, which))]
        seen = [one for one in known if which == "speed" or _finite(one.quality_error)][-OBSERVED:]
        x = np.array([encode(one.params) for one in seen])
        y = np.array([getattr(one, which) for one in seen], dtype=float)
        error = np.array([one.quality_error if which == "quality" else 0.0 for one in seen])
        parts.append(Process(x, y, error, chance).at(points))
    (quality, quality_sd), (speed, speed_sd) = parts
    mean = 0.5 * quality + 0.5 * speed
    spread = 0.5 * np.sqrt(quality_sd**2 + speed_sd**2)
    z = (mean - best) / spread
    density = np.exp(-0.5 * z * z) / sqrt(2 * pi)
    below = np.array([0.5 * (1 + erf(one / sqrt(2))) for one in z])
    return np.asarray((mean - best) * below + spread * density)
