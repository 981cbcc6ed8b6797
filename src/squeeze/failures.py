"""Of which class a failure is, and what its process said last: the one place that tells them apart."""

from __future__ import annotations

import contextlib
import errno
import re
from collections.abc import Iterator
from pathlib import Path

from squeeze import secret
from squeeze.errors import CandidateError, FailureClass, SqueezeError

TAIL_BYTES = 4000
"""How much of a log's end is kept in a record."""

_BEFORE_BYTES = 64 << 10
"""How much before it is read too: a secret that the cut would halve is known only while it is whole."""

_MEMORY = (
    "out of memory",
    "outofmemory",
    "can't allocate memory",
    "cannot allocate memory",
    "kv cache is needed, which is larger than the available",
    "no available memory for the cache blocks",
    "less than requested memory for kv",
    "less than desired gpu memory utilization",
    "less than desired cpu memory utilization",
)
_DISK = ("no space left on device", "os error 28", "os error 122", "disk quota exceeded", "disk is full")
"""As safetensors tells it, whose errors have no number, and SQLite."""

_KERNEL = ("kernel", "not supported", "unsupported", "notimplemented", "minimum capability", "no backend")


def classified(error: Exception, stage: str, otherwise: FailureClass = "other") -> CandidateError:
    """The CandidateError for whatever a library raised; ``otherwise`` is the class of what is not known."""
    text = " ".join(str(error).split())
    lowered = f"{type(error).__name__} {text}".lower()
    kind = otherwise
    if _number(error) == errno.ENOMEM or isinstance(error, MemoryError) or _any(_MEMORY, lowered):
        kind = "oom"
    elif is_full(error) or _any(_DISK, lowered):
        kind = "disk"
        text = f"the disk is full; {text}; free some space and start again"
    elif "architecture" not in lowered and _any(_KERNEL, lowered):
        kind = "kernel"
    return CandidateError(f"{type(error).__name__}: {secret.hidden(text)[:500]}", stage=stage, kind=kind)


def is_full(error: BaseException) -> bool:
    """Whether an error, or what caused it, is a full disk."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        cause = cause.__cause__
    return False


@contextlib.contextmanager
def told_as(stage: str) -> Iterator[None]:
    """Turn what a stage's libraries raise into a CandidateError of that stage."""
    try:
        yield
    except SqueezeError:
        raise
    except Exception as error:
        raise classified(error, stage, otherwise="build") from error


def log_tail(log: Path) -> str | None:
    """The last lines of a child's log, without secrets and control characters; None when it said nothing."""
    try:
        with log.open("rb") as file:
            read = TAIL_BYTES + _BEFORE_BYTES
            file.seek(max(0, log.stat().st_size - read))
            text = file.read(read).decode("utf-8", errors="replace")
    except OSError:
        return None
    text = re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", text)
    text = re.sub(r"[^\S\n]*\r", "\n", text)  # progress bars
    text = "".join(char for char in text if char in "\n\t" or char.isprintable())
    tail = secret.hidden(text).encode()[-TAIL_BYTES:].decode("utf-8", errors="ignore")
    return tail.strip() or None


def _number(error: Exception) -> int | None:
    return error.errno if isinstance(error, OSError) else None


def _any(words: tuple[str, ...], text: str) -> bool:
    return any(word in text for word in words)
