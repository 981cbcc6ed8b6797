"""How sure the numbers are: paired questions, paired times. No model of the noise but its own spread."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import exp, inf, log, sqrt
from statistics import NormalDist, fmean, median, stdev

from squeeze.records import Measurement, Pass, Question


def t_quantile(probability: float, freedom: int) -> float:
    """The quantile of Student's t with ``freedom`` ≥ 1 degrees of freedom.

    Hill's expansion (Communications of the ACM 13, 1970, algorithm 396): within 1 % for 1 and 2 degrees at
    the probabilities used here, far closer above.
    """
    if freedom < 1:
        return inf
    if freedom == 1:
        return _tan_pi(probability - 0.5)
    if freedom == 2:
        centred = 2 * probability - 1
        return centred * sqrt(2 / (1 - centred * centred))
    z = NormalDist().inv_cdf(probability)
    n = freedom
    first = (z**3 + z) / 4
    second = (5 * z**5 + 16 * z**3 + 3 * z) / 96
    third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    fourth = (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160
    return z + first / n + second / n**2 + third / n**3 + fourth / n**4


def _tan_pi(turn: float) -> float:
    from math import pi, tan

    return tan(pi * turn)


def mean_and_error(values: Sequence[float]) -> tuple[float, float]:
    """The mean and its standard error; the error of a single value is infinite. values: at least one."""
    if len(values) < 2:
        return fmean(values), inf
    return fmean(values), stdev(values) / sqrt(len(values))


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
    pairs = {}
    for name in weights:
        mine, others = paired_scores(measurement.questions.get(name, ()), baseline.questions.get(name, ()))
        if mine:
            pairs[name] = mine, others
    total = sum(weights[name] for name in pairs)
    base = sum(weights[name] / total * fmean(others) for name, (_, others) in pairs.items())
    if not pairs or base <= 0:
        return inf, inf
    ratio = sum(weights[name] / total * fmean(mine) for name, (mine, _) in pairs.items()) / base
    variance = 0.0
    for name, (mine, others) in pairs.items():
        residuals = [one - ratio * other for one, other in zip(mine, others, strict=True)]
        _, error = mean_and_error([*residuals, *([1.0, -1.0] * phantoms)])
        variance += (weights[name] / total * error) ** 2
    return ratio, sqrt(variance) / base


def time_ratios(passes: Sequence[Pass], reference: Sequence[Pass]) -> list[float]:
    """Time per token over the baseline's: of each pass to the one beside it, or of each to the median.

    Passes that were interleaved come in equal numbers and are compared pair by pair, which cancels drift.
    """
    if len(passes) == len(reference):
        pairs = zip(passes, reference, strict=True)
        return [one.seconds_per_token / other.seconds_per_token for one, other in pairs]
    middle = median(other.seconds_per_token for other in reference)
    return [one.seconds_per_token / middle for one in passes]


def ratio_interval(ratios: Sequence[float], probability: float) -> tuple[float, float]:
    """An interval of the typical ratio, from the spread of its logarithm (t): (low, high).

    probability: that the truth is inside. One ratio alone tells nothing: (0, inf).
    """
    mean, error = mean_and_error([log(ratio) for ratio in ratios])
    if error == inf:
        return 0.0, inf
    reach = t_quantile((1 + probability) / 2, len(ratios) - 1) * error
    return exp(mean - reach), exp(mean + reach)
