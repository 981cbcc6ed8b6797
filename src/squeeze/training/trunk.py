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
class _Found:
    """A checkpoint's folder. planned: the steps of the training that a decay belongs to."""

    step: int
    kind: str
    planned: int | None
    path: Path


@dataclass(frozen=True)
class Checkpoints:
    """A folder of checkpoints. Only one process may use it at a time.

    ``trunk-STEP`` are on the way, ``branch-STEP`` where a training left the trunk: any training goes on from
    those. ``decay-ofN-STEP`` belong to the training that was planned to take N steps.
    """

    folder: Path

    def save(self, tensors: Mapping[str, torch.Tensor], facts: Mapping[str, Any]) -> None:
        """Write one, then delete what it makes superfluous: all but the newest two of its kind so far.

        Later ones are a longer training's, and stay. So do all branches.
        """
        of = f"of{facts['planned']:08d}-" if facts["kind"] == "decay" else ""
        checkpoint.write(self.folder / f"{facts['kind']}-{of}{facts['step']:08d}", tensors, facts)
        past = [one for one in self._all() if one.step <= facts["step"]]
        trunk = [one.path for one in past if one.kind == "trunk"]
        decay = [one.path for one in past if one.kind == "decay" and one.planned == facts["planned"]]
        for path in (*trunk[:-_KEPT], *decay[:-_KEPT]):
            shutil.rmtree(path, ignore_errors=True)

    def newest(self, planned: Schedule) -> Iterator[Saved]:
        """The checkpoints a training of that plan can go on from, the farthest first; damaged ones never."""
        checkpoint.remove_partials(self.folder)
        # A decay is only gone on with when it is this plan's; the trunk only as far as this plan's goes.
        decay = [one for one in self._all() if one.kind == "decay" and one.planned == planned.steps]
        trunk = [one for one in self._all() if one.kind != "decay" and one.step <= planned.branch]
        for one in (*reversed(decay), *reversed(trunk)):
            saved = checkpoint.read(one.path)
            if saved is not None:
                yield saved

    def forget_decay(self, planned: int) -> None:
        """Delete the checkpoints of a decay that has come to its end."""
        for one in self._all():
            if one.kind == "decay" and one.planned == planned:
                shutil.rmtree(one.path, ignore_errors=True)

    def _all(self) -> list[_Found]:
        """All checkpoints, by step."""
        found = []
        for path in self.folder.iterdir():
            if name := _NAME.fullmatch(path.name):
                found.append(_Found(int(name[3]), name[1], int(name[2]) if name[2] else None, path))
        return sorted(found, key=lambda one: one.step)
