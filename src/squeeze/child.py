"""Work in a child process of its own process group, with a deadline for every request.

The parent stays light: it never imports torch or vllm. Children are forked from a server that has imported
them once (no device is touched there), so a fresh process costs milliseconds. A child answers requests one
at a time over a pipe; what it prints goes to its log file. Linux only.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import socket
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from math import inf
from multiprocessing.connection import Pipe
from pathlib import Path
from typing import Any, NoReturn, Protocol

from squeeze.errors import CandidateError, FailureClass
from squeeze.folder import free_bytes
from squeeze.server import send

Event = Mapping[str, Any]
"""A child's word on its progress, e.g. ``{"stage": "quantize"}``."""

WAIT = "wait"
"""The stage of a child that waits for what another process holds: it counts towards no deadline."""

TURN = "turn"
"""The stage of a child that waits, in the middle of a request, for the next word: see ``Child.answer``."""

PAUSED = object()
"""What ``Child.answer`` returns instead of the answer when the child has told ``TURN``."""

_NO_ROOM = 64 << 10
"""Bytes beside a log with less of which a child that ended of itself is taken to have met a full disk."""

_CRASHES = (signal.SIGSEGV, signal.SIGABRT, signal.SIGILL, signal.SIGFPE)
"""Signals that native code brings upon itself: the candidate's fault, not the machine's."""


class Handler(Protocol):
    """What a child runs: answers one request; may tell events while it works."""

    def __call__(self, request: Any, tell: Callable[[Event], None]) -> Any: ...


class Child:
    """A child process that answers requests.

    handler: made in the child by calling ``make()``, at the first request; must be importable (a
    module-level function or class, or a partial of one). stage: what failures are filed under. log: where
    stdout and stderr of the child go (appended). secrets: of the environment variables that hold secrets
    (``squeeze.secret``), the ones it is to have; what children start has them too.
    """

    def __init__(
        self, make: Callable[[], Handler], *, stage: str, log: Path, secrets: Sequence[str] = ()
    ) -> None:
        log.parent.mkdir(parents=True, exist_ok=True)
        self.stage = stage
        self.log = log
        self._words: dict[str, int] = {}
        self._pipe, theirs = Pipe()
        self._leash, guards = socket.socketpair()
        given = {name: os.environ[name] for name in secrets if name in os.environ}
        message = pickle.dumps((sys.path, os.getcwd(), str(log.absolute()), stage, given, pickle.dumps(make)))
        try:
            send(message, [theirs.fileno(), guards.fileno()])
        finally:
            theirs.close()
            guards.close()

    @property
    def pid(self) -> int | None:
        """The process id, which is the process group's too; None while the server is not ready yet."""
        self._listen(0)
        return self._words.get("pid")

    @property
    def alive(self) -> bool:
        """Whether the process still runs (or has yet to start)."""
        return self._listen(0)

    def call(
        self,
        request: Any,
        *,
        deadline_s: float,
        tell: Callable[[Event], None] = lambda _: None,
        limits: Mapping[str, float] | None = None,
        spent_s: float = 0.0,
    ) -> Any:
        """Send a request and wait for its answer.

        deadline_s: seconds for the whole answer, spent_s of which were spent before a pause (``PAUSED``);
        the first call also waits for the server's imports. limits:
        of the stages that the child tells of; a timeout is filed under the stage that took longer. Waiting
        for others (``WAIT``) is not counted.
        Raises CandidateError (timeout, killed, or what the child says), ConfigError or SetupError as the
        child raised them. After a timeout, a death or any exception here (Ctrl-C too) that leaves an
        answer outstanding, the child and everything it started is gone.
        """
        self.ask(request)
        return self.answer(deadline_s=deadline_s, tell=tell, limits=limits, spent_s=spent_s)

    def ask(self, request: Any) -> None:
        """Send a request without waiting for its answer; see ``answer``. Raises CandidateError (killed)."""
        try:
            self._request(request)
        except BaseException:
            self.kill()
            raise

    def answer(
        self,
        *,
        deadline_s: float,
        tell: Callable[[Event], None] = lambda _: None,
        limits: Mapping[str, float] | None = None,
        spent_s: float = 0.0,
    ) -> Any:
        """Wait for the answer to the request that was sent; see ``call``.

        ``PAUSED`` if the child tells ``TURN`` first: it goes on after ``ask(TURN)``, and takes no other
        request meanwhile; the answer is still to come.
        """
        limits = limits or {}
        whole = (time.monotonic() + deadline_s - spent_s, deadline_s, self.stage)
        now, answered, waits_since = whole, False, 0.0
        try:
            while True:
                kind, value = self._receive(*now)
                if kind == "event":
                    begun = str(value.get("stage", ""))
                    if begun == TURN:
                        answered = True
                        return PAUSED
                    if now[2] == WAIT and begun != WAIT:
                        whole = (whole[0] + time.monotonic() - waits_since, deadline_s, self.stage)
                        now = whole
                    if begun == WAIT and now[2] != WAIT:
                        now, waits_since = (inf, inf, WAIT), time.monotonic()
                    elif begun in limits and begun != now[2]:
                        now = min(whole, (time.monotonic() + limits[begun], limits[begun], begun))
                    tell(value)
                    continue
                answered = True
                if kind == "result":
                    return value
                raise value
        finally:
            if not answered:
                self.kill()

    def _request(self, request: Any) -> None:
        try:
            self._pipe.send(request)
        except OSError as error:
            self._died(error)

    def _receive(self, ends: float, deadline_s: float, stage: str) -> tuple[str, Any]:
        try:
            if self._pipe.poll(None if ends == inf else max(0.0, ends - time.monotonic())):
                kind, value = self._pipe.recv()
                return kind, value
        except (EOFError, OSError) as error:
            self._died(error)
        raise CandidateError(
            f"no answer within {deadline_s:.0f} s; see {self.log}", stage=stage, kind="timeout"
        )

    def kill(self) -> None:
        """End the process, and everything it started, now. Once it is dead this does nothing.

        While the server imports there is none to wait for: what it forks later ends at once.
        """
        with contextlib.suppress(OSError):
            self._leash.shutdown(socket.SHUT_WR)
        self._listen(10 if self.pid is not None else 0.5)
        self._leash.close()
        self._pipe.close()

    def __enter__(self) -> Child:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def _died(self, error: BaseException) -> NoReturn:
        ends = time.monotonic() + 10
        while self._listen(max(0.0, ends - time.monotonic())) and time.monotonic() < ends:
            pass
        code = self._words.get("exit")
        kind: FailureClass = "killed"
        told = f"the process ended (exit {'unknown' if code is None else code}); see {self.log}"
        if code == 128 + signal.SIGKILL:  # what the kernel's out-of-memory killer leaves behind
            kind = "oom"
        elif code in [128 + crash for crash in _CRASHES]:
            kind = "kernel"
        elif code == 1 and _is_full(self.log.parent):
            kind = "disk"  # too full to say so
            told = f"the disk is full; {told}; free some space and start again"
        raise CandidateError(told, stage=self.stage, kind=kind) from error

    def _listen(self, wait_s: float) -> bool:
        """Take in what the guard says, until it is gone or ``wait_s`` is over; whether it is still there."""
        if self._leash.fileno() < 0:
            return False
        ends = time.monotonic() + wait_s
        text = b""
        while True:
            self._leash.settimeout(max(1e-6, ends - time.monotonic()))
            try:
                data = self._leash.recv(4096)
            except TimeoutError:
                gone = False
                break
            except OSError:
                data = b""
            if not data:
                gone = True
                break
            text += data
        for line in text.decode().splitlines():
            word, _, number = line.partition(" ")
            self._words[word] = int(number)
        if gone:
            self._leash.close()
        return not gone


def _is_full(folder: Path) -> bool:
    with contextlib.suppress(OSError):
        return free_bytes(folder) < _NO_ROOM
    return False
