"""Two engines that answer the same questions turn by turn, so that a spell of the machine meets both alike.

One engine's whole pass beside another's whole pass compares two moments of the machine. The cores of a host
that others use compute at two thirds of their speed for seconds at a time, and where a step waits for the
host that is what the ratio then says. So the two hand over to each other between steps, several times a
second, and the threads that make the steps take turns on one and the same core. On a CPU that is not worth
it: threads of the one that waits look for work a while longer, on the cores of the other one.
"""

from __future__ import annotations

import contextlib
import os
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import inf
from typing import Any

from squeeze.bench.resolved import in_this_process
from squeeze.child import TURN, Event

TURN_S = 0.2
"""Seconds of a turn: many steps, and a fraction of a spell. It ends with the step that passes it."""


@dataclass(frozen=True)
class Turn:
    """seconds: of each turn. core: on which the thread stays that makes the steps."""

    seconds: float
    core: int

    @classmethod
    def drawn(cls) -> Turn:
        """The turns of the next questions, on a core drawn for them of those that this process may use."""
        return cls(TURN_S, random.choice(sorted(os.sched_getaffinity(0))))


class Away:
    """Hands over between the steps of an engine. seconds: for how long the other one had its turns."""

    def __init__(self, turn_s: float, tell: Callable[[Event], None]) -> None:
        self.seconds = 0.0
        self._turn_s = turn_s
        self._tell = tell
        self._ends = time.perf_counter() + turn_s

    def after_step(self, more: bool) -> None:
        """Hand over if the turn is over and there are more steps."""
        if more and time.perf_counter() >= self._ends:
            _finish_work()
            left = time.perf_counter()
            self._tell({"stage": TURN})
            self._ends = time.perf_counter() + self._turn_s
            self.seconds += time.perf_counter() - left


@contextlib.contextmanager
def in_turns(engine: Any, turn: Turn | None, tell: Callable[[Event], None]) -> Iterator[Away]:
    """Within the block, ``vllm.LLM.generate`` on this ``LLMEngine`` hands over.

    None: never; nor does an engine whose model is in other processes, which would work on meanwhile.
    """
    if turn is None or not _whole(engine):
        yield Away(inf, tell)
        return
    cores, threads = os.sched_getaffinity(0), set(os.listdir(_THREADS))
    away = Away(turn.seconds, tell)
    step = engine.step

    def handing_over() -> Any:
        found = step()
        away.after_step(engine.has_unfinished_requests())
        return found

    _stay_on({turn.core})
    engine.step = handing_over
    try:
        yield away
    finally:
        del engine.step
        _stay_on(cores)
        for begun in set(os.listdir(_THREADS)) - threads:  # on one core, as this thread was
            _stay_on(cores, int(begun))


_THREADS = "/proc/self/task"


def _whole(engine: Any) -> bool:
    """Whether core and model are in this process."""
    return in_this_process(engine) and bool(engine.vllm_config.parallel_config.world_size == 1)


def _stay_on(cores: set[int], thread: int = 0) -> None:
    """Keep a thread (0: this one) on some cores, where that is allowed and they are still there."""
    with contextlib.suppress(OSError):
        os.sched_setaffinity(thread, cores)


def _finish_work() -> None:
    """Wait for what the device was given to do: it is part of this turn."""
    import torch

    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
