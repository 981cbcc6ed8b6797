"""What a model's divergence from the baseline says of its quality, learnt from the study's own trials.

Divergence does not tell which of two good models is better, and what it is worth differs from model to
model. So it only bounds: a candidate is not believed to be better than the trials that were as far from the
baseline, or almost as near as it, turned out to be. On the recorded table (docs/search.md) the bound was
below a candidate's quality in about one case of a hundred.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from math import inf

from squeeze.records import Estimate

NEARER = 1.5
"""A trial tells of a candidate that is up to this many times as far from the baseline."""

ERRORS = 2.0
"""Standard errors of a trial's PerfNorm that are added to it."""


@dataclass
class Gate:
    """Of each trial that answered everything: divergence, nats per token, and highest credible PerfNorm."""

    seen: list[tuple[float, float]] = field(default_factory=list)

    @classmethod
    def of(cls, trials: Iterable[Mapping[str, Estimate]]) -> Gate:
        """What the estimates of these trials tell; rung -> estimate."""
        gate = cls()
        for estimates in trials:
            gate.learn(estimates)
        return gate

    def learn(self, estimates: Mapping[str, Estimate]) -> None:
        """Take in a trial, if it came so far that every question was asked."""
        told = estimates.get("rest")
        if told and told.divergence is not None and told.perf_norm is not None:
            self.seen.append((told.divergence, told.perf_norm + ERRORS * (told.perf_error or 0.0)))

    def ceiling(self, divergence: float | None) -> float:
        """The highest PerfNorm that a candidate is believed to have; inf where no trial is comparable.

        Comparable is one that is no farther from the baseline than the candidate, and not nearer than by
        ``NEARER``; with one, all that are farther count too.
        """
        if divergence is None:
            return inf
        reach = [(apart, perf) for apart, perf in self.seen if apart * NEARER >= divergence]
        if not any(apart <= divergence for apart, _ in reach):
            return inf
        return max(perf for _, perf in reach)
