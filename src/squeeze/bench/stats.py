"""How sure the numbers are: paired questions, paired times, within a process and between processes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from math import exp, inf, log, pi, sqrt
from statistics import fmean, median, stdev, variance
from typing import Any, NamedTuple

from squeeze.records import Measurement, Pass, Question

RESAMPLES = 1999
"""Of the questions; an end of the interval is then known to a few percent of its width."""

BOOTSTRAP_SEED = 42


class Between(NamedTuple):
    """How much the time ratio of the same two models differs between processes.

    deviation: the standard deviation of its logarithm. freedom: the degrees of freedom it is known with.
    """

    deviation: float
    freedom: float


BETWEEN = {"cpu": Between(0.03, 4), "gpu": Between(0.02, 5), "gpu, not in turn": Between(0.05, 2)}
"""What is assumed before a second process has been measured.

cpu, gpu: a model beside itself, docs/performance.md, "The same model against itself" and "How far two timings
of one model agree on a GPU"; the latter holds what differs within a process too. Not in turn: three engines
of the same files on an H200 took 124.2, 124.7 and 132.1 µs per token: 0.034 for one, times √2 for a ratio.
"""


def between(measurement: Measurement) -> Between:
    """What is known beforehand of the spread between processes of such an engine."""
    if measurement.engine.get("device", "cpu") == "cpu":
        return BETWEEN["cpu"]
    return BETWEEN["gpu" if measurement.engine.get("in_turn") else "gpu, not in turn"]


def t_quantile(probability: float, freedom: float) -> float:
    """The quantile of Student's t; infinite without a degree of freedom."""
    from scipy.special import stdtrit

    return float(stdtrit(freedom, probability)) if freedom > 0 else inf


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


def time_ratio(
    passes: Sequence[Pass], reference: Sequence[Pass], known: Between
) -> tuple[float, float, float]:
    """Time per token over the baseline's, pooled over the benchmarks: (ratio, error, degrees of freedom).

    Two levels. Within a process, ``_in_one_process``. Between processes, the ratio is the geometric mean; its
    error comes from the spread between the processes' ratios and from ``known``, what such engines are known
    to differ by, which counts as so many further processes as it has degrees of freedom. A measurement in
    one process has nothing but that. The error is the standard error of the ratio's logarithm, the freedom
    Welch and Satterthwaite's. One pass alone tells nothing of the spread: (ratio, inf, 0).

    Passes of a process are compared with the reference's passes of the same process, or with all of them
    where it has none. Needs one pass of each.
    """
    theirs = _by_process(reference)
    found = [
        _in_one_process(mine, theirs.get(process, reference)) for process, mine in _by_process(passes).items()
    ]
    logs = [one.log_ratio for one in found]
    ratio = exp(fmean(logs)) if all(one < inf for one in logs) else inf
    within = [one for one in found if one.variance < inf]
    if ratio == inf or not within:
        return ratio, inf, 0.0
    # What one process is expected to be off by, from what is known and from the spread within.
    prior = known.deviation**2 + fmean(one.variance for one in within)
    parts = [known.deviation**4 / known.freedom]
    parts += [(one.variance / len(within)) ** 2 / one.freedom for one in within if one.freedom]
    more = len(found) - 1
    share = known.freedom / (known.freedom + more)
    spread = more * variance(logs) / (known.freedom + more) if more else 0.0
    total = share * prior + spread
    if total == 0:
        return ratio, 0.0, known.freedom + more
    doubt = share**2 * sum(parts) + (spread**2 / more if more else 0.0)
    return ratio, sqrt(total / len(found)), total**2 / doubt if doubt else inf


class _Process(NamedTuple):
    """The logarithm of a time ratio from the passes of one process, its variance, degrees of freedom."""

    log_ratio: float
    variance: float
    freedom: float


def _in_one_process(passes: Sequence[Pass], reference: Sequence[Pass]) -> _Process:
    """The time per token over the baseline's, and how much it varies from pass to pass.

    Each benchmark's time is the baseline's median time, times the median over the repeats of the ratio to
    it; the ratio is that of the pass beside it when the passes were interleaved (equal numbers), which
    cancels drift and compares like with like, else that to the median. A disturbance thus costs one repeat
    of one benchmark and not a whole pass. The variance is that of the spread over the repeats of each
    benchmark, in its share of the time. One repeat tells nothing of it: infinite.
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
    if not tokens:
        return _Process(inf, inf, 0)
    found = log(time / tokens / (sum(others.values()) / _tokens(reference)))
    if len(passes) < 2:
        return _Process(found, inf, 0)
    # The median of a few is a little less sure than their mean; pi/2 is its limit for many.
    variances = [_MEDIAN * (mine[name] / time) ** 2 * variance(logs[name]) / len(passes) for name in names]
    total = sum(variances)
    if total == 0:
        return _Process(found, 0.0, len(passes) - 1)
    return _Process(found, total, total**2 / sum(one**2 / (len(passes) - 1) for one in variances))


_MEDIAN = pi / 2


def _by_process(passes: Sequence[Pass]) -> dict[int, list[Pass]]:
    ordered = sorted(passes, key=lambda one: one.process)
    return {process: list(group) for process, group in groupby(ordered, key=lambda one: one.process)}


def _tokens(passes: Sequence[Pass]) -> float:
    """Generated tokens of a pass, the median."""
    return median(sum(timing.tokens for timing in timed.timings.values()) for timed in passes)


def ratio_interval(
    passes: Sequence[Pass], reference: Sequence[Pass], probability: float, known: Between
) -> tuple[float, float, float]:
    """``time_ratio`` with an interval that holds the truth with that probability: (low, ratio, high)."""
    ratio, error, freedom = time_ratio(passes, reference, known)
    if error == inf or ratio == inf:
        return 0.0, ratio, inf
    reach = t_quantile((1 + probability) / 2, freedom) * error
    return ratio * exp(-reach), ratio, ratio * exp(reach)
