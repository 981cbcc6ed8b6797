"""The checkpoints of trainings that share a trunk: which are kept, which one to go on from."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch  # noqa: TID253  only processes that train import this module

from squeeze.training import checkpoint
from squeeze.training.checkpoint import Saved
from squeeze.training.schedule import Schedule

_KEPT = 2
_NAME = re.compile(r"(trunk|branch|decay)-(?:of(\d+)-)?(\d+)")


@dataclass(frozen=True)
class Checkpoints:
    """A folder of checkpoints. Only one process may use it at a time.

    ``trunk-STEP`` are on the way, ``branch-STEP`` where a training left the trunk: any training goes on from
    those. ``decay-ofN-STEP`` belong to the training that was planned to take N steps.
    """

    folder: Path

    def save(self, tensors: Mapping[str, torch.Tensor], facts: Mapping[str, Any]) -> None:
        """Write one, then delete what it makes superfluous: all but the newest two of its kind.

        Of the trunk the newest two checkpoints and all branches are kept.
        """
        of = f"of{facts['planned']:08d}-" if facts["kind"] == "decay" else ""
        checkpoint.write(self.folder / f"{facts['kind']}-{of}{facts['step']:08d}", tensors, facts)
        trunk = [path for kind, _, path in self._all() if kind == "trunk"]
        decay = [
            path for kind, planned, path in self._all() if kind == "decay" and planned == facts["planned"]
        ]
        for path in (*trunk[:-_KEPT], *decay[:-_KEPT]):
            shutil.rmtree(path, ignore_errors=True)

    def newest(self, planned: Schedule) -> Iterator[Saved]:
        """The checkpoints a training of that plan can go on from, the farthest first; damaged ones never."""
        checkpoint.remove_partials(self.folder)
        of_trunk = [path for kind, _, path in self._all() if kind != "decay"]
        of_decay = [path for kind, steps, path in self._all() if kind == "decay" and steps == planned.steps]
        for path in (*reversed(of_decay), *reversed(of_trunk)):
            saved = checkpoint.read(path)
            # A decay is only gone on with when it is this plan's; the trunk only as far as this plan's goes.
            if saved is None or (saved.facts["kind"] != "decay" and saved.facts["step"] > planned.branch):
                continue
            yield saved

    def forget_decay(self, planned: int) -> None:
        """Delete the checkpoints of a decay that has come to its end."""
        for kind, steps, path in self._all():
            if kind == "decay" and steps == planned:
                shutil.rmtree(path, ignore_errors=True)

    def _all(self) -> list[tuple[str, int | None, Path]]:
        """(kind, planned steps of a decay, path) of all, by step."""
        found = []
        for path in self.folder.iterdir():
            if name := _NAME.fullmatch(path.name):
                found.append((int(name[3]), name[1], int(name[2]) if name[2] else None, path))
        return [(kind, planned, path) for _, kind, planned, path in sorted(found, key=lambda one: one[0])]
