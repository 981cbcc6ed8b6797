"""The process that children are forked from: ``python -m squeeze.forkserver FD PID MODULE...``.

It imports the modules once, touches no device, and forks on request. multiprocessing's own fork server is
not used, because it imports the caller's ``__main__`` again in every child, cannot be given an environment,
leaves grandchildren alive, and dies when a preloaded module raises anything but ImportError.

    caller ── server ── guard ── worker (own session and process group) ── whatever it starts
                          │
                          └ holds the leash: when the caller lets go (or dies), or the worker ends,
                            everything below the guard is killed, then the guard itself ends
"""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import gc
import importlib
import os
import pickle
import select
import signal
import socket
import sys
import traceback
from collections.abc import Iterator
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path

from squeeze.child import TURN, Event
from squeeze.errors import CandidateError, ConfigError, SetupError
from squeeze.failures import classified

MESSAGE_BYTES = 1 << 20
_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36


def main() -> None:
    """Import, then fork a guard for each message until the caller's end of the socket closes.

    FD: this end of the socket. PID: the caller, whose death also ends an import; 0: only the socket tells.
    """
    door = socket.socket(fileno=int(sys.argv[1]))
    if caller := int(sys.argv[2]):
        _die_with(caller)
    for name in sys.argv[3:]:
        try:
            importlib.import_module(name)
        except (Exception, SystemExit):  # a library that is missing or broken is its user's error, later
            print(f"not preloaded: {name}", file=sys.stderr)
            traceback.print_exc()
    gc.collect()
    gc.freeze()  # collections in the children then leave the shared pages alone
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # guards need no reaping
    while True:
        message, descriptors, _, _ = socket.recv_fds(door, MESSAGE_BYTES, 2)
        if not message:
            return
        sys.stdout.flush()
        sys.stderr.flush()
        if os.fork() == 0:
            door.close()
            _guard(message, *descriptors)
        for descriptor in descriptors:
            os.close(descriptor)


def _guard(message: bytes, pipe: int, leash_descriptor: int) -> None:
    """Fork the worker, and see to it that nothing outlives it or the caller. Never returns."""
    code = 1
    try:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        # Orphans below come to the guard, also those that left the process group.
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1)
        guard = os.getpid()
        worker = os.fork()
        if worker == 0:
            os.close(leash_descriptor)
            _work(message, pipe, guard)
        os.close(pipe)
        leash = socket.socket(fileno=leash_descriptor)
        ended = os.pidfd_open(worker)
        with contextlib.suppress(ConnectionError):
            leash.sendall(f"pid {worker}\n".encode())
        select.select([leash.fileno(), ended], [], [])
        status = _kill_all(worker)
        with contextlib.suppress(ConnectionError):
            leash.sendall(f"exit {status}\n".encode())
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def _die_with(parent: int) -> None:
    """Have the kernel kill this process when the thread of the parent that started it ends."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # dead before that
        os._exit(1)


def _kill_all(worker: int) -> int:
    """Kill every descendant and wait for it; the worker's exit code, 128 + signal if a signal ended it."""
    status = 0
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(worker, signal.SIGKILL)
    while True:
        for child in _children():
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
        try:
            pid, raw = os.wait()
        except ChildProcessError:
            return status
        if pid == worker:
            code = os.waitstatus_to_exitcode(raw)
            status = code if code >= 0 else 128 - code


def _children() -> Iterator[int]:
    """The direct children of this process, read from /proc."""
    me = os.getpid()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                # "pid (name, may hold anything) state parent ..."
                if int((entry / "stat").read_text(errors="replace").rpartition(")")[2].split()[1]) == me:
                    yield int(entry.name)


def _work(message: bytes, pipe_descriptor: int, guard: int) -> None:
    """The worker's whole life: own session, log file, then requests until the pipe closes. Never returns."""
    code = 1
    try:
        os.setsid()
        _die_with(guard)
        path, folder, log, stage, secrets, make = pickle.loads(message)
        os.environ.update(secrets)
        sink = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.dup2(sink, 1)
        os.dup2(sink, 2)
        faulthandler.enable()
        sys.path[:] = path
        os.chdir(folder)
        _answer(Connection(pipe_descriptor), make, stage)
        code = 0
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)  # no clean-up of libraries: it can hang, and the guard ends everything


def _answer(pipe: Connection, make: bytes, stage: str) -> None:
    """Make the handler at the first request, then answer each with a result or an error."""
    handler = None
    while True:
        try:
            request = pipe.recv()
        except EOFError:
            return
        try:
            handler = handler or pickle.loads(make)()
            result = handler(request, partial(_tell, pipe))
            pipe.send(("result", result))
        except (CandidateError, ConfigError, SetupError) as error:
            traceback.print_exc()
            pipe.send(("error", error))
        except Exception as error:
            traceback.print_exc()
            pipe.send(("error", classified(error, stage)))
        sys.stdout.flush()
        sys.stderr.flush()


def _tell(pipe: Connection, event: Event) -> None:
    """Say it to the caller; after ``TURN`` wait until the caller says to go on."""
    pipe.send(("event", dict(event)))
    if event.get("stage") == TURN and (said := pipe.recv()) != TURN:
        raise RuntimeError(f"a child in the middle of a request can only go on; asked {said!r}")


if __name__ == "__main__":
    main()
