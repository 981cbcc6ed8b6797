"""A sampler that models quality and speed apart: Gaussian processes on few trials, expected improvement.

A Score is half a quality, half a speed, and the two are learnt from different evidence. Every trial whose
shape was probed tells of speed, however early it was stopped, and speed depends on the shape alone; a trial
tells of quality once questions were answered. So each part has its own model, and what is proposed next is
the candidate whose measured Score, the sum of the two and of the noise of measuring, promises the largest
gain over the best (expected improvement; Jones et al., 1998).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import exp, isfinite, log, pi, sqrt
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial
from scipy.linalg import cho_factor, cho_solve, solve_triangular
from scipy.optimize import minimize
from scipy.special import ndtr

from search.speeds import Shape
from squeeze.errors import RETRIED
from squeeze.target import Target

Array = np.ndarray[tuple[int, ...], np.dtype[np.float64]]

FITTED = 80
"""Observations on which hyperparameters are fitted, of more an even choice; predictions use all."""

STEPS = 20
"""Of that fit, at most."""

DOUBT = 0.25
"""Share of the models' own doubt that counts as a chance of gain: some forty trials are too few to look
everywhere. Chosen on redrawn tables among 1, 0.5 and 0.25; see docs/performance.md."""

SPEED, QUALITY, QUALITY_ERROR, FAILURE = "SpeedNorm so far", "PerfNorm so far", "PerfNorm error", "failure"
"""User attributes of a trial that this sampler learns from; without questions only the first."""


@dataclass(frozen=True)
class Point:
    """A configuration that may be tried: the parameters it was asked for as, and its shape."""

    params: Mapping[str, Any]
    shape: Shape


@dataclass(frozen=True)
class Observation:
    """A finished trial: what was tried and what it said. quality is None before any question."""

    point: Point
    speed: float | None
    quality: float | None
    quality_error: float = 0.0

    @classmethod
    def of(cls, point: Point, trial: FrozenTrial) -> Observation:
        """What a trial's user attributes say. A candidate that failed answers nothing.

        A failure that may be the machine's or the judge's says nothing of its quality.
        """
        said = trial.user_attrs
        if FAILURE in said:
            return cls(point, said.get(SPEED), None) if said[FAILURE] in RETRIED else cls(point, None, 0.0)
        quality, error = said.get(QUALITY), said.get(QUALITY_ERROR)
        if quality is None or error is None or not (isfinite(quality) and isfinite(error)):
            return cls(point, said.get(SPEED), None)
        return cls(point, said.get(SPEED), quality, error)


class Encoder:
    """Parameters as a vector: numbers on [0, 1], logarithmic ones by their logarithm; choices one-hot."""

    def __init__(self, distributions: Mapping[str, BaseDistribution]) -> None:
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


def shape_vector(shape: Shape, target: Target) -> list[float]:
    """What time per token depends on: layers, layers × width, scheme and group size.

    Within a scheme the time is nearly linear in the first two. They are in halves of the base's, so that
    what is searched, half to all, spans about 1.
    """
    layers, width = shape.layers / target.decoder.layers, shape.width / target.decoder.width
    schemes = [float(shape.scheme == scheme) for scheme in (None, *target.schemes())]
    return [2 * layers, 2 * layers * width, *schemes, (shape.group_size or 0) / 128]


class Process:
    """A Gaussian process with a Matérn 5/2 kernel, one length a dimension, fitted by marginal likelihood.

    x: (n, d). y: (n,). error: (n,) standard errors known of each y. The mean function is linear with a wide
    prior, so that a trend is carried on where nothing was seen. noise: standard deviation of y around the
    function, typical of what was seen.
    """

    def __init__(self, x: Array, y: Array, error: Array) -> None:
        self._shift, self._scale = float(y.mean()), float(y.std()) or 1.0
        self._varies = x.std(0) > 0
        self._x = x[:, self._varies]
        target, known = (y - self._shift) / self._scale, (error / self._scale) ** 2
        few = np.unique(np.linspace(0, len(y) - 1, min(FITTED, len(y))).round().astype(int))
        self._lengths, jitter, self._linear = _fit(self._x[few], target[few], known[few])
        kernel = self._kernel(self._x, self._x) + np.diag(known + jitter)
        self._factor = cho_factor(kernel, lower=True)
        self._alpha = cho_solve(self._factor, target)
        self.noise = self._scale * sqrt(jitter + float(known.mean()))

    def at(self, x: Array) -> tuple[Array, Array]:
        """Mean and standard deviation of the function at (m, d) points."""
        x = x[:, self._varies]
        cross = self._kernel(x, self._x)
        half = solve_triangular(self._factor[0], cross.T, lower=True)
        own = 1.0 + self._linear * (1.0 + (x * x).sum(1))
        variance = np.maximum(own - (half * half).sum(0), 1e-9)
        return cross @ self._alpha * self._scale + self._shift, np.sqrt(variance) * self._scale

    def _kernel(self, one: Array, other: Array) -> Array:
        a, b = one / self._lengths, other / self._lengths
        square = (a * a).sum(1)[:, None] + (b * b).sum(1)[None, :] - 2 * a @ b.T
        distance = np.sqrt(5 * np.maximum(square, 0.0))
        matern = (1 + distance + distance**2 / 3) * np.exp(-distance)
        return np.asarray(matern + self._linear * (1.0 + one @ other.T))


def _fit(x: Array, y: Array, known: Array) -> tuple[Array, float, float]:
    """Lengths (d,), variance of the noise beside ``known``, and weight of the linear part.

    The most probable ones given the data, with priors that say: lengths about 1, little noise, some trend.
    """
    gaps = (x[:, None, :] - x[None, :, :]) ** 2
    inner = 1.0 + x @ x.T
    one = np.eye(len(y))
    usual = np.array([0.0] * x.shape[1] + [log(0.02), log(0.5)])
    wide = np.array([0.7] * x.shape[1] + [1.5, 1.0])

    def loss(theta: Array) -> tuple[float, Array]:
        """The negative logarithm of the posterior, and its gradient."""
        weights, jitter, linear = np.exp(-2 * theta[:-2]), exp(theta[-2]), exp(theta[-1])
        distance = np.sqrt(5 * (gaps @ weights))
        decay = np.exp(-distance)
        kernel = (1 + distance + distance**2 / 3) * decay + linear * inner + np.diag(known + jitter)
        factor = cho_factor(kernel, lower=True)
        alpha = cho_solve(factor, y)
        pull = cho_solve(factor, one) - np.outer(alpha, alpha)
        by_square = -5 / 6 * (1 + distance) * decay  # of the kernel, by the squared distance
        lengths = -2 * weights * np.einsum("ij,ij,ijk->k", pull, by_square, gaps)
        gradient = 0.5 * np.array([*lengths, np.trace(pull) * jitter, (pull * inner).sum() * linear])
        off = (theta - usual) / wide
        value = 0.5 * (y @ alpha + off @ off) + np.log(np.diag(factor[0])).sum()
        return float(value), gradient + off / wide

    limits = [(-2.0, 3.0)] * x.shape[1] + [(log(1e-3), 0.0), (log(0.01), log(5.0))]
    best = minimize(loss, usual, jac=True, method="L-BFGS-B", bounds=limits, options={"maxiter": STEPS}).x
    return np.exp(best[:-2]), exp(best[-2]), exp(best[-1])


def expected_gain(
    observations: Sequence[Observation],
    candidates: Sequence[Point],
    distributions: Mapping[str, BaseDistribution],
    target: Target,
    best: float,
) -> Array:
    """Expected improvement of the measured Score over ``best`` for each candidate, (m,).

    The best so far is the luckiest of what was measured; a candidate is granted luck of the same size. Of
    what the models doubt only a part counts, see ``DOUBT``.
    """
    encode = Encoder(distributions)
    asked = [one for one in observations if one.quality is not None]
    quality = Process(
        np.array([encode(one.point.params) for one in asked]),
        np.array([one.quality for one in asked], dtype=float),
        np.array([one.quality_error for one in asked]),
    )
    timed = [one for one in observations if one.speed is not None]
    speed = Process(
        np.array([shape_vector(one.point.shape, target) for one in timed]),
        np.array([one.speed for one in timed], dtype=float),
        np.zeros(len(timed)),
    )
    perf, perf_sd = quality.at(np.array([encode(point.params) for point in candidates]))
    fast, fast_sd = speed.at(np.array([shape_vector(point.shape, target) for point in candidates]))
    gain = 0.5 * perf + 0.5 * fast - best
    doubt = DOUBT**2 * (perf_sd**2 + fast_sd**2)
    spread = 0.5 * np.sqrt(doubt + quality.noise**2 + speed.noise**2)
    z = gain / spread
    return np.asarray(gain * ndtr(z) + spread * np.exp(-0.5 * z * z) / sqrt(2 * pi))
