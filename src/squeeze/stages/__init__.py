"""The stages: one file each, named as its part of CompressionConfig.

A stage is a module with ``run(source, part, out, context)``: it reads the model folder ``source``, writes a
whole model folder into the empty folder ``out`` and returns its notes. It owns ``out`` and changes nothing
else.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol


@dataclass(frozen=True)
class Context:
    """What stages share. data: ``"hub"`` or the folder that holds the study's data sets."""

    data: str


class Stage(Protocol):
    """What a module of this package offers."""

    def run(self, source: Path, part: Any, out: Path, context: Context) -> dict[str, Any]: ...
