"""The stages: one file each, named as its part of CompressionConfig.

A stage is a module with ``run(source, part, out, context)``: it reads the model folder ``source``, writes a
whole model folder into the empty folder ``out`` and returns its notes. It owns ``out`` and changes nothing
else.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol


@dataclass(frozen=True)
class Context:
    """What stages share.

    data: ``"hub"`` or the folder that holds the study's data sets. base: the folder of the model that all
    began with, the teacher. state: a folder of the stage's own that outlives it, for checkpoints and what
    longer trainings of the same kind go on from; None: nothing is kept. shared: a folder for what stages of
    any configuration can use, keyed by its content, such as a teacher's answers; None likewise. tell: hears
    of progress.
    """

    data: str
    base: Path
    state: Path | None = None
    shared: Path | None = None
    tell: Callable[[Mapping[str, Any]], None] = lambda _: None


class Stage(Protocol):
    """What a module of this package offers."""

    def run(self, source: Path, part: Any, out: Path, context: Context) -> dict[str, Any]: ...
