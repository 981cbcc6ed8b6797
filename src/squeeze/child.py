"""Work in a child process of its own process group, with a deadline for every request.

The parent stays light: it never imports torch or vllm. Children come from a fork server that has imported
them once (no device is touched there), so a fresh process costs little. A child answers requests one at a
time over a pipe; what it prints goes to its log file.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import multiprocessing
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Protocol

from squeeze.errors import CandidateError, ConfigError, FailureClass, SetupError

Event = Mapping[str, Any]
"""A child's word on its progress, e.g. ``{"stage": "quantize"}``."""


class Handler(Protocol):
    """What a child runs: answers one request; may tell events while it works."""

    def __call__(self, request: Any, tell: Callable[[Event], None]) -> Any: ...


class Child:
    """A child process that answers requests.

    handler: made in the child by calling ``make()``; must be importable (a module-level function or class).
    stage: what failures are filed under. log: where stdout and stderr of the child go (appended).
    """

    def __init__(self, make: Callable[[], Handler], *, stage: str, log: Path) -> None:
        log.parent.mkdir(parents=True, exist_ok=True)
        self.stage = stage
        self.log = log
        context = multiprocessing.get_context("forkserver")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, make, stage, str(log)), daemon=True)
        self._process.start()
        theirs.close()

    @property
    def pid(self) -> int | None:
        """The process id, which is the process group's too."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether the process still runs."""
        return self._process.is_alive()

    def call(self, request: Any, *, deadline_s: float, tell: Callable[[Event], None] = lambda _: None) -> Any:
        """Send a request and wait for its answer.

        Raises CandidateError (timeout, killed, or what the child says), ConfigError or SetupError as the
        child raised them. After a timeout or a death the whole process group is gone.
        """
        ends = time.monotonic() + deadline_s
        try:
            self._pipe.send(request)
            while True:
                if not self._pipe.poll(max(0.0, ends - time.monotonic())):
                    self.kill()
                    raise CandidateError(
                        f"no answer within {deadline_s:.0f} s; see {self.log}", stage=self.stage, kind="timeout"
                    )
                kind, value = self._pipe.recv()
                if kind == "event":
                    tell(value)
                elif kind == "result":
                    return value
                else:
                    raise value
        except (EOFError, ConnectionError) as error:
            self._process.join(5)
            code = self._process.exitcode
            self.kill()
            # 137 / -9 is what the kernel's out-of-memory killer leaves behind.
            failure: FailureClass = "oom" if code in (-9, 137) else "killed"
            raise CandidateError(
                f"the process ended (exit {code}); see {self.log}", stage=self.stage, kind=failure
            ) from error

    def kill(self) -> None:
        """End the whole process group now."""
        if self._process.pid is not None and self._process.is_alive():
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.kill()
        self._process.join(10)
        self._pipe.close()

    def __enter__(self) -> Child:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()


def preload(modules: list[str]) -> None:
    """Name the modules that the fork server imports once. Must come before the first Child."""
    multiprocessing.set_forkserver_preload(modules)


def _serve(pipe: Connection, make: Callable[[], Handler], stage: str, log: str) -> None:
    """The child's whole life: own session, log file, then requests until the pipe closes."""
    os.setsid()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if sys.platform == "linux":
        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)
    sink = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(sink, 1)
    os.dup2(sink, 2)
    handler: Handler | None = None
    while True:
        try:
            request = pipe.recv()
        except EOFError:
            return
        try:
            handler = handler or make()
            pipe.send(("result", handler(request, lambda event: pipe.send(("event", dict(event))))))
        except (CandidateError, ConfigError, SetupError) as error:
            traceback.print_exc()
            pipe.send(("error", error))
        except Exception as error:
            traceback.print_exc()
            pipe.send(("error", _classified(error, stage)))


def _classified(error: Exception, stage: str) -> CandidateError:
    """The CandidateError for whatever a library raised."""
    text = " ".join(str(error).split())
    lowered = f"{type(error).__name__} {text}".lower()
    kind: FailureClass = "other"
    if isinstance(error, MemoryError) or "out of memory" in lowered or "outofmemory" in lowered:
        kind = "oom"
    elif isinstance(error, OSError) and error.errno == errno.ENOSPC:
        kind = "disk"
    elif "no kernel" in lowered or "not supported" in lowered or "notimplemented" in lowered:
        kind = "kernel"
    return CandidateError(f"{type(error).__name__}: {text[:500]}", stage=stage, kind=kind)
