"""Points of a space: drawn at random, near another one, or the one that parameters name."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from math import exp, log
from typing import Any, cast

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from spaces import Space
from squeeze.config import CompressionConfig
from squeeze.target import Target


class Draw:
    """One point: what a space asks for is taken from ``given`` where that has a possible value, else drawn.

    Answers as an Optuna trial does, without a study behind it: hundreds are drawn for each proposal, and
    asking a study for one takes some ten times as long. params and distributions: what was asked for.
    """

    def __init__(self, chance: random.Random, given: Mapping[str, Any]) -> None:
        self.params: dict[str, Any] = {}
        self.distributions: dict[str, BaseDistribution] = {}
        self._chance, self._given = chance, given

    def config(self, space: Space, target: Target) -> CompressionConfig:
        """What the point means in a space."""
        return space.suggest(cast(optuna.Trial, self), target)

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        """One of the choices."""
        kind = CategoricalDistribution(choices)
        return self._take(name, kind, lambda: self._chance.choice(kind.choices))

    def suggest_int(self, name: str, low: int, high: int, *, step: int = 1, log: bool = False) -> int:
        """A whole number; with ``log`` as likely below its geometric mean as above."""
        kind = IntDistribution(low, high, log=log, step=step)

        def drawn() -> int:
            if log:
                return min(high, max(low, round(self._between(low, high, log=True))))
            return low + step * self._chance.randrange((high - low) // step + 1)

        return int(self._take(name, kind, drawn))

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float:
        """A number; with ``log`` as likely below its geometric mean as above."""
        kind = FloatDistribution(low, high, log=log, step=step)

        def drawn() -> float:
            if step is not None:
                return low + step * self._chance.randrange(round((high - low) / step) + 1)
            return self._between(low, high, log=log)

        return float(self._take(name, kind, drawn))

    def _between(self, low: float, high: float, *, log: bool) -> float:
        return _geometric(self._chance, low, high) if log else self._chance.uniform(low, high)

    def _take(self, name: str, kind: BaseDistribution, drawn: Any) -> Any:
        if name not in self.params:
            there = name in self._given and _possible(kind, self._given[name])
            self.params[name] = self._given[name] if there else drawn()
            self.distributions[name] = kind
        return self.params[name]


def _geometric(chance: random.Random, low: float, high: float) -> float:
    return min(high, max(low, exp(chance.uniform(log(low), log(high)))))


def _possible(kind: BaseDistribution, value: Any) -> bool:
    try:
        return bool(kind._contains(kind.to_internal_repr(value)))
    except ValueError:
        return False
