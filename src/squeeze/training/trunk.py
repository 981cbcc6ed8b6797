"""The checkpoints of trainings that share a trunk: which are kept, which one to go on from."""

from __future__ import annotations

import os
import re
import shutil
import sys
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
    those. ``decay-ofN-STEP`` belong to the training that was planned to take N steps. The time of the folder
    around this one tells a cache that it is in use.

    aside: a thread writes them, one at a time, while the training goes on with a GPU that would otherwise
    wait for the disk; from a copy, whose memory on the host is kept for the next one. writing_s: what the
    last one took.
    """

    def __init__(self, folder: Path, aside: bool = False) -> None:
        self.folder = folder
        self.writing_s = 0.0
        self._writer = ThreadPoolExecutor(1, "checkpoint") if aside else None
        self._begun: Future[float] | None = None
        self._host: dict[str, torch.Tensor] = {}  # kept: new memory is many times slower to fill

    def save(self, tensors: Mapping[str, torch.Tensor], facts: Mapping[str, Any]) -> None:
        """Write one of the values of this moment, or begin to; what was begun before is waited for.

        When it is written, what it makes superfluous is deleted: all but the newest two of its kind so far.
        Later ones are a longer training's, and stay. So do all branches. Raises what the write before raised.
        """
        self.settle()
        if self._writer is None:
            self.writing_s = self._write(lambda: tensors, facts)
        else:
            self._begun = self._writer.submit(self._write, self._copied(tensors), dict(facts))

    @property
    def busy(self) -> bool:
        """Whether one is being written."""
        return self._begun is not None and not self._begun.done()

    def settle(self) -> None:
        """Wait until what was begun is on the disk. Raises what its write raised, once."""
        if self._begun is not None:
            begun, self._begun = self._begun, None
            self.writing_s = begun.result()

    def close(self) -> None:
        """End the thread when it has written what was begun."""
        if self._writer is not None:
            self._writer.shutdown()
            torch.cuda.empty_cache()  # of copies: what comes next looks how much is free

    def _write(self, values: Callable[[], Mapping[str, torch.Tensor]], facts: Mapping[str, Any]) -> float:
        began = time.monotonic()
        of = f"of{facts['planned']:08d}-" if facts["kind"] == "decay" else ""
        checkpoint.write(self.folder / f"{facts['kind']}-{of}{facts['step']:08d}", values(), facts)
        past = [one for one in self._all() if one.step <= facts["step"]]
        trunk = [one.path for one in past if one.kind == "trunk"]
        decay = [one.path for one in past if one.kind == "decay" and one.planned == facts["planned"]]
        for path in (*trunk[:-_KEPT], *decay[:-_KEPT]):
            shutil.rmtree(path, ignore_errors=True)
        os.utime(self.folder.parent)
        return time.monotonic() - began

    def _copied(self, tensors: Mapping[str, torch.Tensor]) -> Callable[[], Mapping[str, torch.Tensor]]:
        """What returns copies on the host, in the thread that writes, of the values of this moment.

        Where the GPU has room for it they are copied there first, which takes no time; else to the host now.
        """
        clones = _clones(tensors)
        if not clones:
            copies = self._bring(tensors)
            return lambda: copies
        made = torch.cuda.Event()
        made.record()

        def brought() -> Mapping[str, torch.Tensor]:
            # On a stream of its own: the training's kernels are not waited for, nor do they wait.
            aside = torch.cuda.Stream()
            aside.wait_event(made)
            with torch.cuda.stream(aside):
                copies = self._bring(clones)
            clones.clear()
            return copies

        return brought

    def _bring(self, tensors: Mapping[str, torch.Tensor]) -> Mapping[str, torch.Tensor]:
        """Copies on the host."""
        before, self._host = self._host, {}
        for name, value in tensors.items():
            host = before.get(name)
            if host is None or host.shape != value.shape or host.dtype != value.dtype:
                host = torch.empty_like(value, device="cpu")
                if value.is_cuda:
                    host.zero_()  # new memory appears now: the training's kernels seem to wait for a copy's
            self._host[name] = host.copy_(value.detach())
        return self._host

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
        """Delete the checkpoints of a decay that has come to its end, as soon as none is being written.

        The training is over: if its last checkpoint could not be written that is only told. A longer one
        then goes on from an earlier step.
        """
        try:
            self.settle()
        except Exception as error:
            print(f"the last checkpoint was not written: {error}", file=sys.stderr, flush=True)
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


def _clones(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Copies where the tensors are, if some are on a GPU that has room for them; else none."""
    size = sum(value.nbytes for value in tensors.values() if value.is_cuda)
    if not size:
        return {}
    kept = torch.cuda.memory_reserved() - torch.cuda.memory_allocated()  # for what comes next
    if torch.cuda.mem_get_info()[0] + kept < 2 * size:
        return {}
    try:
        return {name: value.detach().clone() for name, value in tensors.items()}
    except torch.OutOfMemoryError:  # this process may be allowed less than the GPU has
        return {}
