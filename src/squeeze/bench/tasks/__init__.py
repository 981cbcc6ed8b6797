"""The benchmarks: one module each; the module's name is the benchmark's name.

A benchmark module has

- ``MAX_TOKENS``: the most tokens one answer may have in a quick workload (else the workload says it);
- ``TURNS``: how many turns a conversation has;
- ``messages(row, answers)``: the chat up to the next user turn, given the answers so far;
- ``score(row, answers)``: 0.0–1.0, or None where answers are not scored here;
- ``temperature(row)``, if it likes: what answers are drawn with; without it they are greedy.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Protocol, cast

from squeeze.data.sets import Row
from squeeze.errors import ConfigError

Message = dict[str, str]
"""One chat message: ``{"role": …, "content": …}``."""


class Task(Protocol):
    """What a benchmark module offers; see the package's docstring."""

    MAX_TOKENS: int
    TURNS: int

    def messages(self, row: Row, answers: Sequence[str] = ()) -> list[Message]: ...

    def score(self, row: Row, answers: Sequence[str]) -> float | None: ...


def names() -> tuple[str, ...]:
    """The benchmarks there are, sorted."""
    return tuple(sorted(path.stem for path in Path(__file__).parent.glob("[!_]*.py")))


def load(name: str) -> Task:
    """The benchmark of that name. Raises ConfigError when there is none."""
    if name not in names():
        raise ConfigError(f"a benchmark must be one of {', '.join(names())}; got {name!r}")
    return cast(Task, import_module(f"{__name__}.{name}"))
