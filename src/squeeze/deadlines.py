"""How long work may take before it counts as hung: told by how long work of its kind has taken."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from squeeze.config import CompressionConfig, Training
from squeeze.records import Artifact

Kind = Literal["stage", "training", "start", "answers"]

FACTOR: Mapping[Kind, float] = {"stage": 5, "training": 5, "start": 5, "answers": 20}
"""A limit is so many times the slowest of its kind. Answers: a candidate may write far more of them."""

FLOOR_S: Mapping[Kind, float] = {"stage": 900, "training": 1800, "start": 600, "answers": 300}
"""No limit is shorter: a stage may find less in the cache, an engine may have to compile."""

STAGE_S, EPOCH_S, COPY_S = 3600.0, 7200.0, 600.0
"""First limits: of a stage, of each epoch of a training, and of what a build does besides its stages."""


@dataclass
class Deadlines:
    """Limits in seconds, from what was seen in this process. seen: (kind, name) -> the slowest, s a unit."""

    seen: dict[tuple[Kind, str], float] = field(default_factory=dict)

    def limit(self, kind: Kind, name: str, first: float, units: float = 1.0) -> float:
        """How long such work may take: ``first`` at first; later that, or twice the slowest, at most."""
        slowest = self.seen.get((kind, name))
        if slowest is None:
            return first
        most = max(first, 2 * slowest * units)
        return min(most, max(FLOOR_S[kind] * units, FACTOR[kind] * slowest * units))

    def saw(self, kind: Kind, name: str, seconds: float, units: float = 1.0) -> None:
        """Such work has taken so long."""
        known = self.seen.get((kind, name), 0.0)
        self.seen[kind, name] = max(known, seconds / units)

    def stages(self, config: CompressionConfig) -> dict[str, float]:
        """Stage -> how long it may take."""
        limits = {}
        for name, part in config.parts:
            if isinstance(part, Training):
                limits[name] = self.limit("training", name, EPOCH_S * part.epochs, part.epochs)
            else:
                limits[name] = self.limit("stage", name, STAGE_S)
        return limits

    def learn(self, built: Artifact) -> None:
        """Take in how long the stages of a build took, but for those found in the cache or gone on with."""
        for name, part in built.config.parts:
            notes = built.notes.get(name, {})
            resumed = isinstance(notes, Mapping) and notes.get("resumed_from") is not None
            if name in built.cached or resumed or name not in built.seconds:
                continue
            if isinstance(part, Training):
                self.saw("training", name, built.seconds[name], part.epochs)
            else:
                self.saw("stage", name, built.seconds[name])
