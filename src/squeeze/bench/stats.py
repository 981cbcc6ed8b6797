"""How sure the times are: within a process, between processes, and over the questions drawn."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from math import exp, inf, log, pi, sqrt
from statistics import fmean, median, stdev, variance
from typing import NamedTuple

from squeeze.records import Measurement, Pass


class Between(NamedTuple):
    """How much the time ratio of the same two models differs between processes.

    deviation: the standard deviation of its logarithm. freedom: the degrees of freedom it is known with.
    """

    deviation: float
    freedom: float


BETWEEN = {"cpu": Between(0.03, 4), "gpu": Between(0.02, 5), "gpu, not in turn": Between(0.05, 2)}
"""What is assumed before a second process has been measured.

cpu, gpu: a model beside itself, docs/performance.md, "The same model against itself" and "How far two timings
of one model agree on a GPU". Turn by turn a model beside itself differs by 0.009 there; where a candidate
waits for the host more or less than the baseline, a slow host changes their ratio, too. Not in turn: three
engines of the same files on an H200 took 124.2, 124.7 and 132.1 µs per token: 0.034 for one, times √2 for a
ratio.
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
    found = _processes(passes, reference)
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


def time_of_all(passes: Sequence[Pass], reference: Sequence[Pass]) -> float:
    """The time for the same questions over the baseline's, which talking more does not lower.

    It is what ``time_ratio`` is made of before tokens divide it. Needs one pass of each.
    """
    return exp(fmean(one.log_time for one in _processes(passes, reference)))


def error_within(passes: Sequence[Pass], reference: Sequence[Pass]) -> float:
    """What more passes of one process would lessen: the standard error of its ratio's logarithm.

    Infinite while it is not known, as with one pass.
    """
    return sqrt(_in_one_process(passes, reference).variance)


class _Process(NamedTuple):
    """What the passes of one process say: logarithms of the ratio of the times and of the times per token,
    the variance of both, its degrees of freedom."""

    log_time: float
    log_ratio: float
    variance: float
    freedom: float


def _processes(passes: Sequence[Pass], reference: Sequence[Pass]) -> list[_Process]:
    theirs = _by_process(reference)
    return [
        _in_one_process(mine, theirs.get(process, reference)) for process, mine in _by_process(passes).items()
    ]


def _in_one_process(passes: Sequence[Pass], reference: Sequence[Pass]) -> _Process:
    """The time per token over the baseline's, and how much it varies from pass to pass.

    The first pass asks in smaller batches (a block and then the rest), which is another workload than what is
    scored: it is left out where three later ones are left of both. Two would tell too little of their spread:
    with one degree of freedom an interval is six errors wide.

    Each benchmark's time is the baseline's median time, times the median over the repeats of the ratio to
    it; the ratio is that of the pass beside it when the passes were interleaved (equal numbers), which
    cancels drift and compares like with like, else that to the median. A disturbance thus costs one repeat
    of one benchmark and not a whole pass. The variance is that of the spread over the repeats of each
    benchmark, in its share of the time. One repeat tells nothing of it: infinite.
    """
    if min(len(passes), len(reference)) > 3:
        passes, reference = passes[1:], reference[1:]
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
    slower = log(time / sum(others.values()))
    if not tokens:
        return _Process(slower, inf, inf, 0)
    found = slower - log(tokens / _tokens(reference))
    if len(passes) < 2:
        return _Process(slower, found, inf, 0)
    # The median of a few is a little less sure than their mean; pi/2 is its limit for many.
    variances = [_MEDIAN * (mine[name] / time) ** 2 * variance(logs[name]) / len(passes) for name in names]
    total = sum(variances)
    if total == 0:
        return _Process(slower, found, 0.0, len(passes) - 1)
    return _Process(slower, found, total, total**2 / sum(one**2 / (len(passes) - 1) for one in variances))


_MEDIAN = pi / 2


def _by_process(passes: Sequence[Pass]) -> dict[int, list[Pass]]:
    ordered = sorted(passes, key=lambda one: one.process)
    return {process: list(group) for process, group in groupby(ordered, key=lambda one: one.process)}


def _tokens(passes: Sequence[Pass]) -> float:
    """Generated tokens of a pass, the median."""
    return median(sum(timing.tokens for timing in timed.timings.values()) for timed in passes)


def drawn_lengths(measurement: Measurement, baseline: Measurement) -> tuple[float, float]:
    """What the draw of the questions adds to the variance of ``time_ratio``'s logarithm: (variance, freedom).

    Another draw has answers of other lengths, a model's and the baseline's to the same question together:
    the variance of the ratio of their tokens (delta method), each benchmark's questions drawn among
    themselves. As if the time did not depend on these lengths; where it does, that is a little wide. (0, inf)
    where every answer is as long as the baseline's, or so many times as long; (inf, 0) with one common
    question of a benchmark.
    """
    common = []
    for name, questions in measurement.questions.items():
        theirs = {question.index: question.tokens for question in baseline.questions.get(name, ())}
        pairs = [(one.tokens, theirs[one.index]) for one in questions if one.index in theirs]
        if pairs:
            common.append(pairs)
    mine, others = (sum(pair[side] for pairs in common for pair in pairs) for side in (0, 1))
    if not mine or not others:
        return 0.0, inf
    if min(map(len, common)) < 2:
        return inf, 0.0
    parts = [
        len(pairs) * variance([one - mine / others * other for one, other in pairs]) / mine**2
        for pairs in common
    ]
    total = sum(parts)
    doubt = sum(part**2 / (len(pairs) - 1) for part, pairs in zip(parts, common, strict=True))
    return total, total**2 / doubt if doubt else inf


def ratio_interval(
    passes: Sequence[Pass],
    reference: Sequence[Pass],
    probability: float,
    known: Between,
    drawn: tuple[float, float] = (0.0, inf),
) -> tuple[float, float, float]:
    """``time_ratio`` with an interval that holds the truth with that probability: (low, ratio, high).

    drawn: of ``drawn_lengths``; without it the interval is of the time for these very questions.
    """
    ratio, error, freedom = time_ratio(passes, reference, known)
    more, its_freedom = drawn
    if inf in (ratio, error, more):
        return 0.0, ratio, inf
    total = error**2 + more
    doubt = error**4 / freedom + more**2 / its_freedom
    reach = t_quantile((1 + probability) / 2, total**2 / doubt if doubt else freedom) * sqrt(total)
    return ratio * exp(-reach), ratio, ratio * exp(reach)


def speed_interval(
    measurement: Measurement, baseline: Measurement, probability: float
) -> tuple[float, float, float]:
    """Time per token over the baseline's with its interval, of a complete measurement: (low, ratio, high).

    The baseline's passes are those timed in between, or its own where there are none.
    """
    reference = measurement.reference or baseline.passes
    drawn = drawn_lengths(measurement, baseline)
    return ratio_interval(measurement.passes, reference, probability, between(measurement), drawn)
