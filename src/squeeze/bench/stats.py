"""How sure the numbers are: paired questions, paired times. No model of the noise but its own spread."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import exp, floor, inf, log, pi, sqrt, tan
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
        return tan(pi * (probability - 0.5))
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


def time_ratio(passes: Sequence[Pass], reference: Sequence[Pass]) -> tuple[float, float, float]:
    """Time per token over the baseline's, pooled over the benchmarks: (ratio, error, degrees of freedom).

    Each benchmark's time is the baseline's median time, times the median over the repeats of the ratio to
    it; the ratio is that of the pass beside it when the passes were interleaved (equal numbers), which
    cancels drift, else that to the median. A disturbance thus costs one repeat of one benchmark and not a
    whole pass. The error is the standard error of the ratio's logarithm: the spread over the repeats of each
    benchmark, in its share of the time; the freedom is Welch and Satterthwaite's. One repeat tells nothing
    of the spread: (ratio, inf, 0). Needs one pass of each.
    """
    names = list(passes[0].timings)
    paired = len(passes) == len(reference)
    mine, others, logs = {}, {}, {}
    for name in names:
        beside = [timed.timings[name].seconds for timed in reference]
        others[name] = median(beside)
        beside = beside if paired else [others[name]] * len(passes)
        took = [timed.timings[name].seconds for timed in passes]
        logs[name] = [log(one / other) for one, other in zip(took, beside, strict=True)]
        mine[name] = others[name] * exp(median(logs[name]))
    time, tokens = sum(mine.values()), _tokens(passes)
    ratio = time / tokens / (sum(others.values()) / _tokens(reference)) if tokens else inf
    if len(passes) < 2:
        return ratio, inf, 0.0
    # The median of a few is a little less sure than their mean; pi/2 is its limit for many.
    variances = [_MEDIAN * (mine[name] / time) ** 2 * stdev(logs[name]) ** 2 / len(passes) for name in names]
    total = sum(variances)
    if total == 0:
        return ratio, 0.0, float(len(passes) - 1)
    freedom = total**2 / sum(one**2 / (len(passes) - 1) for one in variances)
    return ratio, sqrt(total), freedom


_MEDIAN = pi / 2


def _tokens(passes: Sequence[Pass]) -> float:
    """Generated tokens of a pass, the median."""
    return median(sum(timing.tokens for timing in timed.timings.values()) for timed in passes)


def ratio_interval(
    passes: Sequence[Pass], reference: Sequence[Pass], probability: float
) -> tuple[float, float, float]:
    """``time_ratio`` with an interval that holds the truth with that probability: (low, ratio, high)."""
    ratio, error, freedom = time_ratio(passes, reference)
    if error == inf or ratio == inf:
        return 0.0, ratio, inf
    reach = t_quantile((1 + probability) / 2, max(1, floor(freedom))) * error
    return ratio * exp(-reach), ratio, ratio * exp(reach)
