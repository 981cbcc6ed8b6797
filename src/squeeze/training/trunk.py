"""The checkpoints of trainings that share a trunk: which are kept, which one to go on from."""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
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


class Checkpoints:
    """A folder of checkpoints. Only one process may use it at a time.

    ``trunk-STEP`` are on the way, ``branch-STEP`` where a training left the trunk: any training goes on from
    those. ``decay-ofN-STEP`` belong to the training that was planned to take N steps.

    A thread writes them, one at a time, while the training goes on with a GPU that would otherwise wait for
    the disk. writing_s: what the last one took.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.writing_s = 0.0
        self._writer = ThreadPoolExecutor(1, "checkpoint")
        self._begun: Future[float] | None = None
        self._host: dict[str, torch.Tensor] = {}  # kept: new memory is many times slower to fill

    def save(self, tensors: Mapping[str, torch.Tensor], facts: Mapping[str, Any]) -> None:
        """Begin to write one, of the values of this moment; what is asked before that is waited for.

        When it is written, what it makes superfluous is deleted: all but the newest two of its kind so far.
        Later ones are a longer training's, and stay. So do all branches. Raises as ``settle`` does.
        """
        self.settle()
        self._begun = self._writer.submit(self._write, self._copied(tensors), dict(facts))

    def settle(self, wait: bool = True) -> None:
        """Return when everything is on the disk; not wait: at once. Raises OSError for what is not."""
        if self._begun is not None and (wait or self._begun.done()):
            begun, self._begun = self._begun, None
            self.writing_s = begun.result()

    @property
    def busy(self) -> bool:
        """Whether one is being written."""
        return self._begun is not None and not self._begun.done()

    def close(self) -> None:
        """End the thread when it has written what was begun."""
        self._writer.shutdown()

    def _write(self, copies: Callable[[], dict[str, torch.Tensor]], facts: Mapping[str, Any]) -> float:
        began = time.monotonic()
        of = f"of{facts['planned']:08d}-" if facts["kind"] == "decay" else ""
        checkpoint.write(self.folder / f"{facts['kind']}-{of}{facts['step']:08d}", copies(), facts)
        past = [one for one in self._all() if one.step <= facts["step"]]
        trunk = [one.path for one in past if one.kind == "trunk"]
        decay = [one.path for one in past if one.kind == "decay" and one.planned == facts["planned"]]
        for path in (*trunk[:-_KEPT], *decay[:-_KEPT]):
            shutil.rmtree(path, ignore_errors=True)
        os.utime(self.folder.parent)  # in use: a cache that makes room leaves it alone
        return time.monotonic() - began

    def _copied(self, tensors: Mapping[str, torch.Tensor]) -> Callable[[], dict[str, torch.Tensor]]:
        """What returns copies on the CPU, in the thread that writes, of the values that the tensors have now.

        Where a GPU has room for it the values are copied there first, which takes no time; else to the host.
        """
        size = sum(value.nbytes for value in tensors.values() if value.is_cuda)
        if not size or torch.cuda.mem_get_info()[0] < 2 * size:
            self._bring(tensors)
            return lambda: self._host
        clones = {name: value.detach().clone() for name, value in tensors.items()}
        made = torch.cuda.Event()
        made.record()

        def brought() -> dict[str, torch.Tensor]:
            # On a stream of its own: the training's kernels are not waited for, nor do they wait.
            aside = torch.cuda.Stream()
            aside.wait_event(made)
            with torch.cuda.stream(aside):
                self._bring(clones)
            clones.clear()
            return self._host

        return brought

    def _bring(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Copy values to the host."""
        for name, value in tensors.items():
            if name not in self._host:
                self._host[name] = torch.empty_like(value, device="cpu")
            self._host[name].copy_(value.detach())

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
        """Delete the checkpoints of a decay that has come to its end. Raises as ``settle`` does."""
        self.settle()
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
