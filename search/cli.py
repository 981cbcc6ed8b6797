"""What every command does the same way: exit codes, one line for an error, the options they share."""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import re
import signal
import socket
import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import IO, TYPE_CHECKING, Any, NoReturn, cast

from squeeze.errors import ConfigError, SetupError, SqueezeError
from squeeze.secret import hidden

if TYPE_CHECKING:
    from rich.console import Console

    from squeeze.bench.judge_endpoint import Endpoint

# Before anything imports NumPy. The sampler's matrices are small: threads that share one wait for each other,
# on a busy machine for a hundred times as long as the work takes.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")

CACHE_GIB = 20
"""Disk for outputs of stages and states of trainings, unless a search is told another budget."""

INTERRUPTED = 130
"""Exit code of a command that was interrupted and can be started again."""


def run_command(main: Callable[[], int]) -> NoReturn:
    """Run a command and leave with its exit code.

    ConfigError → 2, SetupError and OSError → 3, CandidateError → 1, each as one line on stderr; an interrupt,
    SIGTERM or SIGHUP → 130. A second interrupt leaves at once. What cannot be written to stderr is lost and
    changes no exit code.
    """
    _heed_signals()
    sys.stdout, sys.stderr = sys.stdout or io.StringIO(), sys.stderr or io.StringIO()  # none after `2>&-`
    with contextlib.redirect_stderr(cast(IO[str], _Lossy(sys.stderr))):
        try:
            code = main()
            sys.stdout.flush()
        except SqueezeError as error:
            print(f"error: {in_a_line(error)}", file=sys.stderr)
            code = error.exit_code
        except KeyboardInterrupt:
            print("interrupted; the same command continues", file=sys.stderr)
            code = INTERRUPTED
        except BrokenPipeError:  # the reader of stdout has gone, as with `| head`
            code = 0
        except OSError as error:  # of the machine, wherever it was met: a full disk, rights, a lost mount
            print(f"error: {in_a_line(error)}; mend that and run the same command again", file=sys.stderr)
            code = SetupError.exit_code
    for file in (sys.stdout, sys.stderr):
        try:
            file.flush()
        except OSError:  # nor can it be at the end, for which Python would leave with 120
            os.dup2(os.open(os.devnull, os.O_WRONLY), file.fileno())
    sys.exit(code)


class _Lossy:
    """A stream that drops what it cannot write: the disk is full, the terminal or the reader has gone."""

    def __init__(self, file: IO[str]) -> None:
        self._file = file

    def write(self, text: str) -> int:
        with contextlib.suppress(OSError):
            self._file.write(text)
        return len(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError):
            self._file.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


def in_a_line(error: Exception) -> str:
    """What an error says, in one line that may be shown: it may repeat what a user or a library wrote."""
    return printable(" ".join(hidden(str(error), typed=True).split()))


def printable(text: str) -> str:
    """A text without what a terminal would obey: control characters and turns of direction, as ``\\u001b``.

    Names, reasons and answers come from models and libraries. Tabs and line ends stay, and JSON stays JSON.
    """
    return _CONTROL.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def tables(file: IO[str], width: int) -> Console:
    """Where tables are printed: as wide as the terminal, ``width`` elsewhere. Nothing in them is markup."""
    from rich.console import Console

    class Tables(Console):
        def on_broken_pipe(self) -> None:
            raise BrokenPipeError  # rich would leave with 1, where `| head` has all that it wanted

    shown = None if file.isatty() else width
    return Tables(file=file, width=shown, highlight=False, markup=False)


_HEEDED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def _heed_signals() -> None:
    """Have the first SIGINT, SIGTERM or SIGHUP unwind, and a second one leave at once, whatever goes on."""
    for number in _HEEDED:
        if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:  # as under nohup
            signal.signal(number, _interrupt)
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    signal.set_wakeup_fd(theirs.detach(), warn_on_full_buffer=False)
    threading.Thread(target=_leave_at_second, args=(ours,), name="signals", daemon=True).start()


def _interrupt(signum: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _leave_at_second(signals: socket.socket) -> None:
    # A thread: while the main one waits inside a library, for a locked database say, no handler is called.
    heard = 0
    while heard < 2:
        heard += signals.recv(1)[0] in _HEEDED
    os._exit(INTERRUPTED)  # children follow: they die with the process they came from


class _Parser(argparse.ArgumentParser):
    """Reports a wrong option as every other mistake is reported: one line."""

    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message}; see `python -m search.{self.prog.removesuffix('.py')} --help`")


def command_parser(description: str, example: str) -> argparse.ArgumentParser:
    """A parser whose --help ends with an example; a wrong option raises ConfigError."""
    return _Parser(
        description=description,
        epilog=f"example: {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def add_judge_options(options: argparse.ArgumentParser) -> None:
    """The options that name a judge for KoMT-Bench."""
    options.add_argument(
        "--judge-url",
        metavar="URL",
        help="an OpenAI-compatible endpoint that rates the answers to KoMT-Bench, e.g. "
        "http://localhost:8000/v1; its key is read from JUDGE_API_KEY (default: the workload's; without any, "
        "KoMT-Bench counts for speed alone)",
    )
    options.add_argument("--judge-model", metavar="NAME", help="the model to ask there")


def judge_of(arguments: argparse.Namespace) -> Endpoint | None:
    """The judge that the options name; None when they name none. Raises ConfigError for half a judge."""
    if not arguments.judge_url and not arguments.judge_model:
        return None
    if not arguments.judge_url or not arguments.judge_model:
        lacks = "--judge-model" if arguments.judge_url else "--judge-url"
        raise ConfigError(
            f"a judge must have an address and a model; {lacks} is missing; give both or neither"
        )
    from squeeze.bench.judge_endpoint import Endpoint

    return Endpoint(base_url=arguments.judge_url, model=arguments.judge_model)


def positive(text: str) -> int:
    """An option's value that must be a whole number of 1 or more."""
    return _at_least(1, text)


def natural(text: str) -> int:
    """An option's value that must be a whole number of 0 or more."""
    return _at_least(0, text)


def _at_least(least: int, text: str) -> int:
    try:
        number = int(text)
    except ValueError:
        number = least - 1
    if number < least:
        raise argparse.ArgumentTypeError(f"must be a whole number of {least} or more; got {text!r}")
    return number


def share(text: str) -> float:
    """An option's value that must be a number from 0 to 1."""
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0 <= number <= 1:
        raise argparse.ArgumentTypeError(f"must be a number from 0 to 1; got {text!r}")
    return number
