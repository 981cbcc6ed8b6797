"""Settings of a process that serves a model, each for the time of a block: what spread.py compares."""

from __future__ import annotations

import contextlib
import functools
import gc
import os
import sys
from collections.abc import Callable, Iterator, Mapping


@contextlib.contextmanager
def without_text() -> Iterator[None]:
    """Answers stay tokens."""
    import vllm

    plain = vllm.SamplingParams
    vllm.SamplingParams = functools.partial(plain, detokenize=False)
    try:
        yield
    finally:
        vllm.SamplingParams = plain


@contextlib.contextmanager
def short_turns() -> Iterator[None]:
    """A thread that waits for Python asks for it after 0.1 ms."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-4)
    try:
        yield
    finally:
        sys.setswitchinterval(before)


@contextlib.contextmanager
def uncollected() -> Iterator[None]:
    """No garbage collection."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


@contextlib.contextmanager
def own_core() -> Iterator[None]:
    """The scheduling thread, this one, stays on the last core and goes before all others where it may."""
    cores, level = os.sched_getaffinity(0), os.getpriority(os.PRIO_PROCESS, 0)
    os.sched_setaffinity(0, {max(cores)})
    try:
        os.setpriority(os.PRIO_PROCESS, 0, -20)
    except PermissionError:
        print("own core: no leave to go before others", file=sys.stderr, flush=True)
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)
        with contextlib.suppress(PermissionError):
            os.setpriority(os.PRIO_PROCESS, 0, level)


SETTINGS: Mapping[str, Callable[[], contextlib.AbstractContextManager[None]]] = {
    "as it is": contextlib.nullcontext,
    "without text": without_text,
    "short turns": short_turns,
    "without garbage collection": uncollected,
    "own core": own_core,
}
"""Name -> context manager."""
