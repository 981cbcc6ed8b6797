"""What the contest's server would say of a model, learnt from pairs of a local Score and the server's.

Pairs are few and local Scores mislead. So several calibrations, the plainest first, are judged by what they
say of models they were not shown, and the plainest that is not worse than the best of them is used.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations
from math import sqrt
from statistics import fmean, stdev

import numpy as np

from search.pairs import LocalScore, Pair
from squeeze.errors import ConfigError

LEAST = 3
"""Different models that must have been submitted before anything is concluded from them."""

LEAST_FOR_SLOPES = 6
"""Likewise, before PerfNorm and SpeedNorm get a slope each."""

PRIOR = 1.0
"""The ridge's weight: a shift or a slope is drawn towards none as strongly as one pair pulls it away."""

CONFIDENCE = 0.90
"""Of the interval of what the server would say."""

WIDENED = sqrt(2)
"""The interval of a family never submitted is at least so many times as wide: as if its unknown shift were
one more error, as large as all others together."""


Predict = Callable[[LocalScore], float]


@dataclass(frozen=True)
class Way:
    """One way to calibrate: what it says in words, and how it learns from pairs."""

    words: str
    fit: Callable[[Sequence[Pair]], Predict]


@dataclass(frozen=True)
class Forecast:
    """What the server would say, with a 90 % interval. unseen: the model's families never submitted."""

    server: float
    low: float
    high: float
    unseen: tuple[str, ...]


@dataclass(frozen=True)
class Calibration:
    """What was learnt from the pairs.

    way: the one that is used. tried: every way with its error: the root mean square of what it says of each
    model without having been shown it, less what the server said. error: of the choice and the way chosen
    together, likewise, for the choice too may be lucky. unseen_error: the same for a model of a family that
    was not shown at all.
    """

    pairs: tuple[Pair, ...]
    way: Way
    predict: Predict
    tried: tuple[tuple[Way, float], ...]
    error: float
    unseen_error: float

    def forecast(self, model: LocalScore) -> Forecast:
        """What the server would say of a model.

        The interval is t-based, from the errors on models left out. Were one shift the only way, these would
        be the errors of a prediction; with several it is an approximation.
        """
        from scipy.special import stdtrit

        seen = {family for pair in self.pairs for family in pair.families}
        unseen = tuple(family for family in model.families if family not in seen)
        freedom = len({pair.model for pair in self.pairs}) - 1
        reach = float(stdtrit(freedom, (1 + CONFIDENCE) / 2)) * (self.unseen_error if unseen else self.error)
        server = max(self.predict(model), 0.0)
        return Forecast(server, max(server - reach, 0.0), server + reach, unseen)

    def explained(self) -> list[str]:
        """How the prediction is made and how far it can be trusted, in lines."""
        agree, comparisons = agreement(self.pairs)
        lines = [
            f"{len(self.pairs)} pairs; of {comparisons} comparisons of two, local Scores order {agree} as "
            f"the server did",
            "error for a model left out (root mean square), the plainest way first:",
        ]
        lines += [
            f"  {error:.4f}  {way.words}{' (used)' if way == self.way else ''}" for way, error in self.tried
        ]
        if len(self.tried) == len(PLAIN):
            needs = f"needs {LEAST_FOR_SLOPES} models, all of them trials, as what is asked about"
            lines.append(f"  -       {BY_PARTS.words}: {needs}")
        return [
            *lines,
            "used: the plainest that is not worse than the best by more than a standard error",
            f"interval: 90 %, from the error of choice and way together, {self.error:.4f}; "
            f"{self.unseen_error:.4f} for families never submitted, marked *",
        ]


def calibrate(pairs: Sequence[Pair], *, asked_has_parts: bool = True) -> Calibration:
    """Learn from the pairs. Raises ConfigError when they are of fewer than ``LEAST`` models.

    asked_has_parts: whether PerfNorm and SpeedNorm are known of the models that it will be asked about.
    """
    models = len({pair.model for pair in pairs})
    if models < LEAST:
        raise ConfigError(
            f"a calibration needs pairs of {LEAST} different models or more; the ledger has {models}; submit "
            f"more and enter what the server says with python -m search.ledger add"
        )
    has_parts = asked_has_parts and all(pair.has_parts for pair in pairs)
    ways = (*PLAIN, BY_PARTS) if has_parts and models >= LEAST_FOR_SLOPES else PLAIN

    def choose_and_fit(shown: Sequence[Pair]) -> Predict:
        return best_way(shown, ways)[0].fit(shown)

    way, errors = best_way(pairs, ways)
    error = _root_mean_square(left_out_errors(choose_and_fit, pairs))
    return Calibration(
        pairs=tuple(pairs),
        way=way,
        predict=way.fit(pairs),
        tried=tuple(zip(ways, errors, strict=True)),
        error=error,
        unseen_error=max(WIDENED * error, _root_mean_square(unseen_errors(choose_and_fit, pairs))),
    )


def best_way(pairs: Sequence[Pair], ways: Sequence[Way]) -> tuple[Way, list[float]]:
    """The way to use, and the error of each on models left out. Needs pairs of two models."""
    errors = [left_out_errors(way.fit, pairs) for way in ways]
    return ways[choose(errors)], [_root_mean_square(its) for its in errors]


def left_out_errors(fit: Callable[[Sequence[Pair]], Predict], pairs: Sequence[Pair]) -> list[float]:
    """Of each pair: what is said of it, learnt from the pairs of other models, less what the server said."""
    return [
        fit([other for other in pairs if other.model != pair.model])(pair) - pair.server for pair in pairs
    ]


def unseen_errors(fit: Callable[[Sequence[Pair]], Predict], pairs: Sequence[Pair]) -> list[float]:
    """The same, learnt from pairs without one of its families; where two models or more are left for that."""
    errors = []
    for pair in pairs:
        for family in pair.families:
            others = [other for other in pairs if family not in other.families]
            if len({other.model for other in others}) >= LEAST - 1:
                errors.append(fit(others)(pair) - pair.server)
    return errors


def choose(errors: Sequence[Sequence[float]]) -> int:
    """The place of the first of these ways that is not worse than the best.

    Worse: its squared errors are larger, pair by pair, by more than one standard error of the mean difference
    (the one-standard-error rule of Breiman and others, Classification and Regression Trees, 1984).
    """
    squares = [[error**2 for error in its] for its in errors]
    best = min(squares, key=fmean)

    def is_worse(own: Sequence[float]) -> bool:
        more = [mine - least for mine, least in zip(own, best, strict=True)]
        return fmean(more) > stdev(more) / sqrt(len(more))

    return next(place for place, own in enumerate(squares) if not is_worse(own))


def agreement(pairs: Sequence[Pair]) -> tuple[int, int]:
    """How many comparisons of two pairs come out locally as on the server, and of how many; ties left out."""
    signs = [(a.local - b.local) * (a.server - b.server) for a, b in combinations(pairs, 2)]
    return sum(sign > 0 for sign in signs), sum(sign != 0 for sign in signs)


def as_measured(pairs: Sequence[Pair]) -> Predict:
    """The server says what was measured here."""
    return lambda model: model.local


def shifted(pairs: Sequence[Pair]) -> Predict:
    """The server says what was measured here and the mean difference."""
    shift = fmean(pair.server - pair.local for pair in pairs)
    return lambda model: model.local + shift


def by_family(pairs: Sequence[Pair]) -> Predict:
    """As ``shifted``, and each family has a shift of its own, drawn towards none; they add up."""
    families = _families(pairs)
    return _fit_gap(pairs, lambda model: _indicators(model, families), [-np.inf] * len(families))


def monotone(pairs: Sequence[Pair]) -> Predict:
    """Isotonic regression on the local Score; straight lines between the pairs, level outside of them."""
    from scipy.optimize import isotonic_regression

    local = sorted({pair.local for pair in pairs})
    groups = [[pair.server for pair in pairs if pair.local == one] for one in local]
    means, counts = [fmean(group) for group in groups], [len(group) for group in groups]
    level = isotonic_regression(means, weights=counts).x
    return lambda model: float(np.interp(model.local, local, level))


def by_parts(pairs: Sequence[Pair]) -> Predict:
    """Linear in PerfNorm and SpeedNorm, with a shift per family; never falling with either.

    Both slopes are drawn towards 0.5, which the local Score has. All pairs have both parts.
    """
    parts = np.array([_parts(pair) for pair in pairs])
    mean, spread = parts.mean(axis=0), parts.std(axis=0)
    spread[spread == 0] = 1.0
    families = _families(pairs)

    def features(model: LocalScore) -> list[float]:
        return [*((np.array(_parts(model)) - mean) / spread), *_indicators(model, families)]

    return _fit_gap(pairs, features, [*(-0.5 * spread), *[-np.inf] * len(families)])


def _fit_gap(
    pairs: Sequence[Pair], features: Callable[[LocalScore], list[float]], lowest: list[float]
) -> Predict:
    """Least squares for server − local: a constant, and the features' weights, drawn towards 0 (ridge).

    lowest: of each weight.
    """
    from scipy.optimize import lsq_linear

    rows = [[1.0, *features(pair)] for pair in pairs]
    gaps = [pair.server - pair.local for pair in pairs]
    prior = np.eye(len(lowest) + 1)[1:] * sqrt(PRIOR)
    matrix = np.vstack([np.array(rows), prior])
    target = np.concatenate([gaps, np.zeros(len(prior))])
    weights = lsq_linear(matrix, target, bounds=([-np.inf, *lowest], np.inf)).x
    return lambda model: float(model.local + weights @ np.array([1.0, *features(model)]))


def _families(pairs: Sequence[Pair]) -> list[str]:
    return sorted({family for pair in pairs for family in pair.families})


def _indicators(model: LocalScore, families: Sequence[str]) -> list[float]:
    return [float(family in model.families) for family in families]


def _parts(model: LocalScore) -> tuple[float, float]:
    assert model.perf_norm is not None and model.speed_norm is not None
    return model.perf_norm, model.speed_norm


def _root_mean_square(errors: Sequence[float]) -> float:
    return sqrt(fmean(error**2 for error in errors)) if errors else 0.0


PLAIN = (
    Way("server = local", as_measured),
    Way("server = local + one shift", shifted),
    Way("server = local + a shift per family", by_family),
    Way("monotone in the local Score", monotone),
)
"""The plainest first."""

BY_PARTS = Way("linear in PerfNorm and SpeedNorm, a shift per family", by_parts)
