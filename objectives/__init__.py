"""What is good: one module an objective; the module's name is the objective's name.

An objective module has

- ``score(measurement, baseline)``: the Score of a complete measurement;
- ``optimistic(measurement, baseline, ceiling)``: the highest value that a partial measurement could still
  reach; ceiling: of the quality, where something else is known to bound it;
- ``estimate(measurement, baseline)``: what a partial measurement says so far, for samplers to learn from.
"""

from __future__ import annotations

from importlib import import_module
from math import inf
from pathlib import Path
from typing import Protocol, cast

from squeeze.errors import ConfigError
from squeeze.records import Estimate, Measurement, Score


class Objective(Protocol):
    """What an objective module offers; see the package's docstring."""

    def score(self, measurement: Measurement, baseline: Measurement) -> Score: ...

    def optimistic(self, measurement: Measurement, baseline: Measurement, ceiling: float = inf) -> float: ...

    def estimate(self, measurement: Measurement, baseline: Measurement) -> Estimate: ...


def names() -> tuple[str, ...]:
    """The objectives there are, sorted."""
    return tuple(sorted(path.stem for path in Path(__file__).parent.glob("[!_]*.py")))


def load(name: str) -> Objective:
    """The objective of that name. Raises ConfigError when there is none."""
    if name not in names():
        raise ConfigError(f"an objective must be one of {', '.join(names())}; got {name!r}")
    return cast(Objective, import_module(f"{__name__}.{name}"))
