"""How sure the quality is: the same questions asked of a model and of the baseline, compared pair by pair."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import inf, sqrt
from statistics import fmean
from typing import Any, NamedTuple

from squeeze.bench.stats import mean_and_error
from squeeze.records import Measurement, Question

RESAMPLES = 1999
"""Of the questions; an end of the interval is then known to a few percent of its width."""

BOOTSTRAP_SEED = 42


def paired_scores(
    questions: Sequence[Question], baseline: Sequence[Question]
) -> tuple[list[float], list[float]]:
    """The scores of the questions that both were asked and that are scored: (model's, baseline's)."""
    known = {question.index: question.score for question in baseline if question.score is not None}
    pairs = [
        (question.score, known[question.index])
        for question in questions
        if question.score is not None and question.index in known
    ]
    return [mine for mine, _ in pairs], [other for _, other in pairs]


class _Pairs(NamedTuple):
    """The paired scores of one benchmark, and the share of Perf that it makes."""

    weight: float
    mine: list[float]
    others: list[float]

    @property
    def alike(self) -> bool:
        """Whether no question was seen on which the model does otherwise."""
        return self.mine == self.others or len(set(self.mine)) == 1


def _paired(
    measurement: Measurement, baseline: Measurement, weights: Mapping[str, float]
) -> tuple[list[_Pairs], float, float]:
    """The benchmarks with common scored questions, Perf over the baseline's, and the baseline's Perf.

    The ratio is infinite when nothing is common, or the baseline scored nothing.
    """
    found = []
    for name, weight in weights.items():
        mine, others = paired_scores(measurement.questions.get(name, ()), baseline.questions.get(name, ()))
        if mine:
            found.append(_Pairs(weight, mine, others))
    total = sum(one.weight for one in found)
    pairs = [one._replace(weight=one.weight / total) for one in found]
    base = sum(one.weight * fmean(one.others) for one in pairs)
    ratio = sum(one.weight * fmean(one.mine) for one in pairs) / base if base > 0 else inf
    return pairs, ratio, base


def paired_perf(
    measurement: Measurement, baseline: Measurement, weights: Mapping[str, float], phantoms: int = 0
) -> tuple[float, float]:
    """Perf over the baseline's Perf, and its standard error, on the questions that both were asked.

    weights: benchmark -> weight; those of benchmarks without common scored questions are left out and the
    others scaled up. Because the same questions are compared, what makes some of them hard cancels. The error
    is that of a ratio of means (delta method: the spread of ``model − ratio × baseline`` per question).

    phantoms: pairs of made-up outcomes (+1 and −1) that are added to each benchmark's spread, for a bound
    that does not collapse when a few questions happen to agree.

    The ratio is infinite and the error too when the baseline scored nothing, or nothing is common.
    """
    pairs, ratio, base = _paired(measurement, baseline, weights)
    if ratio == inf:
        return inf, inf
    total = 0.0
    for weight, mine, others in pairs:
        residuals = [one - ratio * other for one, other in zip(mine, others, strict=True)]
        _, error = mean_and_error([*residuals, *([1.0, -1.0] * phantoms)])
        total += (weight * error) ** 2
    return ratio, sqrt(total) / base


def perf_interval(
    measurement: Measurement, baseline: Measurement, weights: Mapping[str, float], probability: float
) -> tuple[float, float, float]:
    """``paired_perf`` with an interval that holds the truth with that probability: (low, ratio, high).

    A bootstrap over questions: each benchmark's are drawn anew among themselves, a model's outcome together
    with the baseline's, with a fixed seed; the ends are the bias-corrected and accelerated ones (Efron 1987).

    A benchmark on which the model agrees with the baseline throughout, or gets all questions right or all
    wrong, has no spread to draw from, though the next question may be another: with n questions it adds what
    the exact binomial bound for none in n allows, 1 − (1 − p)^(1/n) with p the one-sided probability, to both
    sides, in quadrature.

    The interval is unbounded, (0, ratio, inf), when a benchmark has one common question, or none has any.
    """
    pairs, ratio, base = _paired(measurement, baseline, weights)
    if ratio == inf or min(len(one.mine) for one in pairs) < 2:
        return 0.0, ratio, inf
    low = high = ratio
    if not all(one.mine == one.others for one in pairs):
        low, high = _resampled(pairs, probability)
    beyond = (1 - probability) / 2
    unseen = sqrt(sum((one.weight * (1 - beyond ** (1 / len(one.mine)))) ** 2 for one in pairs if one.alike))
    below, above = max(ratio - low, 0.0), max(high - ratio, 0.0)
    return ratio - sqrt(below**2 + (unseen / base) ** 2), ratio, ratio + sqrt(above**2 + (unseen / base) ** 2)


def _resampled(pairs: Sequence[_Pairs], probability: float) -> tuple[float, float]:
    """Both ends of the bootstrap's interval of the ratio; at least one benchmark must have a difference."""
    import warnings

    import numpy as np
    from scipy.stats import bootstrap

    scores = [(one.weight, np.array(one.mine), np.array(one.others)) for one in pairs]

    def ratio(*drawn: Any, axis: int = -1) -> Any:
        places = [one.astype(int) for one in drawn]  # scipy makes floats of them
        found = [
            sum(
                weight * values[side][at].mean(axis)
                for (weight, *values), at in zip(scores, places, strict=True)
            )
            for side in (0, 1)
        ]
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.nan_to_num(found[0] / found[1], nan=1.0, posinf=1e9)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of scipy, where its ends are not defined
        found = bootstrap(
            [np.arange(len(one.mine)) for one in pairs],
            ratio,
            vectorized=True,
            confidence_level=probability,
            n_resamples=RESAMPLES,
            batch=100,
            method="BCa",
            rng=np.random.default_rng(BOOTSTRAP_SEED),
        )
    ends = found.confidence_interval
    if not np.isfinite([ends.low, ends.high]).all():  # all draws alike: nothing to correct by
        beyond = (1 - probability) / 2
        low, high = np.quantile(found.bootstrap_distribution, [beyond, 1 - beyond])
        return float(low), float(high)
    return float(ends.low), float(ends.high)
