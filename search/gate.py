"""What a model's divergence from the baseline says of its quality, learnt from the study's own trials.

Divergence does not tell which of two good models is better, and what it is worth differs from model to
model. So it only bounds: a candidate is not believed to be better than the trials that were as far from the
baseline, or almost as near as it, turned out to be. Compared are divergences over the same words, and trials
that were fine-tuned alike: training on text changes the words more than the answers. How often the bound was
wrong on the recorded table is in docs/search.md.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from math import inf

from search.records import TrialRecord
from squeeze.config import CompressionConfig
from squeeze.records import Estimate, Measurement, Rung

NEARER = 1.5
"""A trial tells of a candidate that is up to this many times as far from the baseline."""

COMPARABLE = 2
"""So many trials that were no farther than the candidate make a bound."""

ERRORS = 2.0
"""Standard errors of a trial's PerfNorm that are added to it."""

DIVERGENCES: tuple[Rung, ...] = ("divergence", "divergence_more")
"""The rungs that tell it; the second's stays."""


@dataclass
class Gate:
    """What the trials that answered everything tell.

    seen: (rung, whether fine-tuned) -> of each its divergence there, nats per token, and its highest credible
    PerfNorm.
    """

    seen: dict[tuple[str, bool], list[tuple[float, float]]] = field(default_factory=lambda: defaultdict(list))

    @classmethod
    def of(cls, records: Iterable[TrialRecord], baseline_key: str) -> Gate:
        """What these trials tell, of those that were measured beside that baseline."""
        gate = cls()
        for record in records:
            if record.baseline == baseline_key:
                gate.learn(record.config, record.estimates)
        return gate

    def learn(self, config: CompressionConfig, estimates: Mapping[str, Estimate]) -> None:
        """Take in a trial, if it came so far that every question was asked."""
        told = estimates.get("rest") or estimates.get("repeats")
        if told is None or told.perf_norm is None:
            return
        for rung in DIVERGENCES:
            apart = estimates[rung].divergence if rung in estimates else None
            if apart is not None:
                perf = told.perf_norm + ERRORS * (told.perf_error or 0.0)
                self.seen[rung, config.finetune is not None].append((apart, perf))

    def ceiling(self, config: CompressionConfig, measurement: Measurement) -> float:
        """The highest PerfNorm that a candidate is believed to have; inf where too few trials are comparable.

        Comparable are those that are no farther from the baseline than the candidate, and not nearer than by
        ``NEARER``; with ``COMPARABLE`` of them, all that are farther count too.
        """
        if measurement.divergence is None:
            return inf
        rung = DIVERGENCES[0] if measurement.rung == DIVERGENCES[0] else DIVERGENCES[-1]
        divergence = measurement.divergence.mean
        known = self.seen.get((rung, config.finetune is not None), [])
        reach = [(apart, perf) for apart, perf in known if apart * NEARER >= divergence]
        if sum(apart <= divergence for apart, _ in reach) < COMPARABLE:
            return inf
        return max(perf for _, perf in reach)
