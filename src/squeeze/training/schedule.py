"""Warm-up–stable–decay: how many steps, and the learning rate of each (arXiv:2404.06395).

The trunk, which is warm-up and stable phase, is the same whatever the number of steps. A training leaves it
at its branch and falls to zero; a longer one goes on along the trunk from there.
"""

from __future__ import annotations

from dataclasses import dataclass

from squeeze.config import Training


@dataclass(frozen=True)
class Schedule:
    """steps: optimizer steps in all. branch: the first of those in which the rate falls."""

    steps: int
    branch: int

    def learning_rate(self, step: int, part: Training) -> float:
        """Of step ``step`` (0-based)."""
        rate = part.learning_rate * min(1.0, (step + 1) / (part.warmup + 1))
        if step >= self.branch:
            rate *= (self.steps - step) / (self.steps - self.branch + 1)
        return rate


def plan(part: Training, rows: int, length: int) -> Schedule:
    """The schedule of a training on ``rows`` rows of ``length`` tokens."""
    steps = part.steps or max(2, round(part.epochs * rows / rows_a_step(part, length)))
    return Schedule(steps, steps - max(1, round(part.decay * steps)))


def cut_short(schedule: Schedule, step: int, part: Training) -> Schedule:
    """The schedule whose decay begins at ``step``, as long for those steps as it would have been planned."""
    decay = max(1, round(step * part.decay / (1 - part.decay))) if part.decay < 1 else schedule.steps
    return Schedule(min(schedule.steps, step + decay), step)


def rows_a_step(part: Training, length: int) -> int:
    """Rows that a step's batch is made of."""
    return max(1, part.batch // length)


def stalled(looks: list[float], patience: int) -> bool:
    """Whether the last ``patience`` looks have all failed to fall below the best before them."""
    return len(looks) > patience and min(looks[-patience:]) >= min(looks[:-patience])
