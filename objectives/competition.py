"""The contest's Score: half quality, half speed, both relative to the unchanged base model.

    Score     = max(0.5 · PerfNorm + 0.5 · SpeedNorm, 0)
    PerfNorm  = Perf / Perf of the base
    SpeedNorm = 1 − (Time / Tokens) / (Time / Tokens of the base)

Perf is the weighted mean over the scored benchmarks; the contest has not published its weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import inf, log, sqrt
from statistics import variance

from squeeze.bench import verbosity
from squeeze.bench.quality import paired_perf, perf_interval
from squeeze.bench.stats import (
    between,
    ratio_interval,
    speed_interval,
    t_quantile,
    time_of_all,
    time_ratio,
)
from squeeze.errors import ConfigError
from squeeze.records import Estimate, Measurement, Pass, Score

WEIGHTS = {"kmmlu_redux": 1 / 4, "kmmlu_pro": 1 / 4, "ko_longrag": 1 / 4, "komt_bench": 1 / 4}
"""Equal over the benchmarks; renormalised over those that have scores. KoMT-Bench has some with a judge."""

CONFIDENCE = 0.90
"""Of the Score's interval."""

PERF_CEILING = 1.05
"""The PerfNorm that no compression is believed to exceed; the best known entries are below 1.02."""

PROBE_MARGIN = 0.05
"""How far the time ratio over a few questions may be above the one over all of them."""

WORDIER = 1.1
"""Tokens of the answers over the baseline's beyond which the probe says nothing of the time per token."""


def value(perf: float, perf_base: float, spt: float, spt_base: float) -> float:
    """The Score itself. perf: 0–1. spt: seconds per generated token. The unchanged base has 0.5."""
    return max(0.5 * perf / perf_base + 0.5 * (1 - spt / spt_base), 0.0)


def score(measurement: Measurement, baseline: Measurement) -> Score:
    """The Score with its interval.

    PerfNorm compares the questions that both were asked. SpeedNorm compares with the baseline's passes that
    were timed in between, or with the baseline's own measurement where there are none; medians over the
    repeats, see ``squeeze.bench.stats.time_ratio``. A model that talks more than the baseline has a lower
    time per token for it: ``flags`` tells so, the part ``time_ratio`` what the same questions take. The
    interval joins that of PerfNorm, a bootstrap over questions, and that of SpeedNorm, from the spread over
    repeats, over processes and of the answers' lengths over questions, taken as independent: each side's
    reach is the root of the sum of both squared.

    Raises ConfigError when there is no common scored question or the baseline's Perf is 0, and when a
    benchmark that the baseline has scores for has none here: such a Score could be compared with no other.
    """
    if unscored := _yet_unscored(measurement, baseline):
        raise ConfigError(
            f"a measurement must have scores where its baseline has; {', '.join(unscored)} has none; "
            f"measure it again"
        )
    perf_low, perf_norm, perf_high = perf_interval(measurement, baseline, WEIGHTS, CONFIDENCE)
    if perf_norm == inf:
        raise ConfigError(
            f"a baseline must score above 0 on the benchmarks {', '.join(WEIGHTS)}; it has "
            f"{dict(baseline.accuracy)}; use a model that answers them"
        )
    low, ratio, high = speed_interval(measurement, baseline, CONFIDENCE)
    raw = 0.5 * perf_norm + 0.5 * (1 - ratio)
    better = perf_high - perf_norm if perf_high < inf else perf_norm  # the Score's upper end stays finite
    up = 0.5 * sqrt(better**2 + max(ratio - low, 0.0) ** 2)
    down = 0.5 * sqrt((perf_norm - perf_low) ** 2 + max(high - ratio, 0.0) ** 2)
    accuracy = {f"accuracy_{name}": found for name, found in measurement.accuracy.items()}
    return Score(
        value=value(perf_norm, 1.0, ratio, 1.0),
        low=max(raw - down, 0.0),
        high=max(raw + up, 0.0),
        perf_norm=perf_norm,
        speed_norm=1 - ratio,
        parts={
            **accuracy,
            "perf": perf(measurement),
            "seconds_per_token": measurement.seconds_per_token,
            "baseline_seconds_per_token": (
                measurement.reference_seconds_per_token or baseline.seconds_per_token
            ),
            "tokens_per_answer": measurement.tokens_per_answer,
            "baseline_tokens_per_answer": baseline.tokens_per_answer,
            "time_ratio": time_of_all(measurement.passes, measurement.reference or baseline.passes),
        },
        talk=verbosity.talk(measurement, baseline),
        flags=verbosity.flags(measurement, baseline),
        left_out={
            name: baseline.unscored.get(name, "its answers have no scores")
            for name in WEIGHTS
            if name in measurement.questions and name not in measurement.accuracy
        },
    )


def perf(measurement: Measurement) -> float:
    """The weighted mean accuracy over the scored benchmarks that are there; 0 when none is."""
    accuracy = {name: found for name, found in measurement.accuracy.items() if name in WEIGHTS}
    total = sum(WEIGHTS[name] for name in accuracy)
    return sum(WEIGHTS[name] / total * found for name, found in accuracy.items())


def optimistic(measurement: Measurement, baseline: Measurement, ceiling: float = inf) -> float:
    """The highest Score that a partial measurement could still reach, with a risk of a few percent.

    ceiling: of PerfNorm, as others know it; it counts until every question is answered.

    Quality: before any question ``PERF_CEILING``; after the first block
    the upper end of a one-sided 97.5 % bound from the questions answered so far, each paired with the
    baseline's, with a phantom gain and loss added to every benchmark, and never above the ceiling; what is
    not rated yet may still reach ``PERF_CEILING``; then, with every question answered, PerfNorm itself.
    Speed: the lower end of a two-sided 90 % interval of the time ratio, or the ratio less a margin while not
    every repeat is timed, whichever is lower: of the passes once every question has been asked, of the probe
    before; that is made with answers of equal length, and an untried candidate is taken to talk as much as
    the baseline. The margin is ``PROBE_MARGIN``, or twice the spread between passes of one model made one
    after the other where that is more: on a busy machine little is pruned, rather than the wrong ones. A
    candidate whose first answers are longer than the baseline's may yet have any time per token: nothing is
    concluded from the probe then.
    """
    ceiling = min(ceiling, PERF_CEILING)
    if measurement.rung in ("rest", "repeats"):
        ceiling, _ = paired_perf(measurement, baseline, WEIGHTS)
    elif measurement.rung == "block":
        ratio, error = paired_perf(measurement, baseline, WEIGHTS, phantoms=1)
        if error < inf:
            count = sum(len(measurement.questions[name]) for name in measurement.accuracy if name in WEIGHTS)
            known = ratio + t_quantile(0.975, max(1, count - 1)) * error
            unrated = _share(_yet_unscored(measurement, baseline), baseline)
            ceiling = min(ceiling, (1 - unrated) * known + unrated * PERF_CEILING)
    return max(0.5 * ceiling + 0.5 * (1 - _least_ratio(measurement, baseline)), 0.0)


def estimate(measurement: Measurement, baseline: Measurement) -> Estimate:
    """PerfNorm on the questions asked so far, SpeedNorm over the passes, or over the probe before any."""
    passes, reference = measurement.passes, measurement.reference
    if not passes:
        passes, reference = measurement.probe, measurement.probe_reference
    ratio, _, _ = time_ratio(passes, reference or baseline.passes, between(measurement))
    apart = measurement.divergence.mean if measurement.divergence else None
    if not measurement.questions:
        return Estimate(speed_norm=1 - ratio, divergence=apart)
    perf_norm, error = paired_perf(measurement, baseline, WEIGHTS)
    return Estimate(speed_norm=1 - ratio, divergence=apart, perf_norm=perf_norm, perf_error=error)


def _yet_unscored(measurement: Measurement, baseline: Measurement) -> list[str]:
    """Benchmarks that the baseline has scores for and this measurement has answers but no scores."""
    asked = [name for name in WEIGHTS if name in measurement.questions and name in baseline.accuracy]
    return [name for name in asked if name not in measurement.accuracy]


def _share(benchmarks: Sequence[str], baseline: Measurement) -> float:
    """Their share of the baseline's Perf."""
    parts = {name: WEIGHTS[name] * found for name, found in baseline.accuracy.items() if name in WEIGHTS}
    total = sum(parts.values())
    return sum(parts[name] for name in benchmarks) / total if total else 0.0


def _least_ratio(measurement: Measurement, baseline: Measurement) -> float:
    """The lowest time ratio that the whole workload may yet have."""
    if measurement.rung in ("rest", "repeats"):
        passes, reference = measurement.passes, measurement.reference or baseline.passes
    else:
        passes, reference = measurement.probe, measurement.probe_reference
        wordy = any(
            _tokens(mine) > WORDIER * _tokens(other)
            for mine, other in zip(measurement.passes[:1], measurement.reference[:1], strict=False)
        )
        if not passes or not reference or wordy:
            return 0.0
    low, ratio, _ = ratio_interval(passes, reference, CONFIDENCE, between(measurement))
    margin = 0.0
    if measurement.rung != "repeats":
        margin = max(PROBE_MARGIN, 2 * ratio * _spread(measurement, baseline))
    return max(0.0, min(ratio - margin, low if low > 0 else ratio))


def _spread(measurement: Measurement, baseline: Measurement) -> float:
    """The standard deviation of the logarithm of a time per token between passes made one after the other.

    Pooled over the groups of like passes that are known; a drift between the groups does not count, since it
    hits a candidate and the baseline beside it alike. The first pass over the questions is none of them: its
    batches are smaller. Where both answered turn by turn, it is that of the ratio to the pass beside it, of
    which a slow host is no part. 0 when no group has two passes.
    """
    if measurement.engine.get("turn_s"):
        pairs = (
            (measurement.probe, measurement.probe_reference),
            (measurement.passes[1:], measurement.reference[1:]),
        )
        return _pooled(
            [
                [log(a.seconds_per_token / b.seconds_per_token) for a, b in zip(*pair, strict=False)]
                for pair in pairs
            ]
        )
    later = baseline.passes[1:], measurement.reference[1:]
    groups = (*later, measurement.probe_reference, measurement.probe)
    return _pooled([[log(timed.seconds_per_token) for timed in group] for group in groups])


def _pooled(groups: Sequence[Sequence[float]]) -> float:
    """The standard deviation within groups; 0 when none has two values."""
    groups = [group for group in groups if len(group) > 1]
    freedom = sum(len(group) - 1 for group in groups)
    return sqrt(sum((len(group) - 1) * variance(group) for group in groups) / freedom) if freedom else 0.0


def _tokens(timed: Pass) -> int:
    return sum(timing.tokens for timing in timed.timings.values())
