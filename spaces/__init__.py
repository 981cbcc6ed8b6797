"""What may be tried: one module a space; the module's name is the space's name.

A space module has

- ``suggest(trial, target)``: ask an Optuna trial for parameters and return the CompressionConfig they mean;
- ``recipes(target)``: parameters known to be good elsewhere, tried first, in order.

Both ask the target, so that what cannot run is never proposed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol, cast

import optuna

from squeeze.config import CompressionConfig
from squeeze.errors import ConfigError
from squeeze.target import Target


class Space(Protocol):
    """What a space module offers; see the package's docstring."""

    def suggest(self, trial: optuna.Trial, target: Target) -> CompressionConfig: ...

    def recipes(self, target: Target) -> Sequence[Mapping[str, Any]]: ...


def names() -> tuple[str, ...]:
    """The spaces there are, sorted."""
    return tuple(sorted(path.stem for path in Path(__file__).parent.glob("[!_]*.py")))


def load(name: str) -> Space:
    """The space of that name. Raises ConfigError when there is none."""
    if name not in names():
        raise ConfigError(f"--space must be one of {', '.join(names())}; got {name!r}")
    return cast(Space, import_module(f"spaces.{name}"))
