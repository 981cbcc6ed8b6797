"""Two engines that answer the same questions turn by turn, so that a spell of the machine meets both alike.

One engine's whole pass beside another's whole pass compares two moments of the machine. The cores of a host
that others use compute at two thirds of their speed for seconds at a time, and where a step waits for the
host that is what the ratio then says. So the two hand over to each other between steps, several times a
second, and on a GPU the threads that make the steps take turns on one and the same core.
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

from squeeze.child import TURN, Event

TURN_S = 0.2
"""Seconds of a turn: many steps, and a fraction of a spell. It ends with the step that passes it."""


@dataclass(frozen=True)
class Turn:
    """seconds: of each turn. core: on which the thread stays that makes the steps; None: any."""

    seconds: float
    core: int | None = None

    @classmethod
    def drawn(cls, *, gpu: bool) -> Turn:
        """The turns of the next questions. On a GPU with a core drawn for them; a CPU engine has its own."""
        return cls(TURN_S, random.choice(sorted(os.sched_getaffinity(0))) if gpu else None)


class Away:
    """Hands over between the steps of an engine. seconds: for how long the other one had its turns."""

    def __init__(self, turn: Turn, tell: Callable[[Event], None]) -> None:
        self.seconds = 0.0
        self._turn = turn
        self._tell = tell
        self._ends = time.perf_counter() + turn.seconds

    def after_step(self, more: bool) -> None:
        """Hand over if the turn is over and there are more steps."""
        if more and time.perf_counter() >= self._ends:
            _finish_work()
            left = time.perf_counter()
            self._tell({"stage": TURN})
            self._ends = time.perf_counter() + self._turn.seconds
            self.seconds += time.perf_counter() - left


@contextlib.contextmanager
def in_turns(engine: Any, turn: Turn | None, tell: Callable[[Event], None]) -> Iterator[Away]:
    """Within the block, ``vllm.LLM.generate`` on this ``LLMEngine``, in its own process, hands over.

    None: never.
    """
    if turn is None:
        yield Away(Turn(inf), tell)
        return
    away = Away(turn, tell)
    step = engine.step

    def handing_over() -> Any:
        found = step()
        away.after_step(engine.has_unfinished_requests())
        return found

    cores = os.sched_getaffinity(0)
    if turn.core is not None:
        os.sched_setaffinity(0, {turn.core})  # of this thread alone
    engine.step = handing_over
    try:
        yield away
    finally:
        del engine.step
        os.sched_setaffinity(0, cores)


def _finish_work() -> None:
    """Wait for what the device was given to do: it is part of this turn."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()
