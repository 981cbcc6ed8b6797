"""Whether the GPU is ours alone and its memory is free: asked of NVML before each engine starts there."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from squeeze.errors import SetupError

PATIENCE_S = 120.0
"""How long an engine that has ended, or somebody else's short work, may take to give memory back."""

POLL_S = 0.5

SMALL_BYTES = 256 << 20
"""A process with less does not compute: a desktop's. The context of one that does is larger."""


@dataclass(frozen=True)
class User:
    """A process that computes on a GPU. used_bytes: None where the driver does not tell."""

    pid: int
    name: str
    used_bytes: int | None


@dataclass(frozen=True)
class Reading:
    """What NVML says of a GPU."""

    name: str
    free_bytes: int
    total_bytes: int
    users: tuple[User, ...]


def await_room(
    share: float,
    *,
    read: Callable[[], Reading | None] | None = None,
    patience_s: float = PATIENCE_S,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Wait until no process computes on the GPU and ``share`` of its memory is free.

    To be called while no engine of ours runs there: whoever is seen is somebody else, or one of ours that has
    not yet given back its memory. Does nothing where NVML cannot be asked. Raises SetupError that says who it
    is when the patience is over: what is timed beside others is worth nothing.
    """
    ask = read or read_nvml
    left = patience_s
    while (reading := ask()) is not None:
        reading = replace(reading, users=tuple(user for user in reading.users if _computes(user)))
        if not reading.users and reading.free_bytes >= share * reading.total_bytes:
            return
        if left <= 0:
            raise SetupError(
                f"a GPU must be free to be timed on; {reading.name} is used by {_who(reading)}; "
                "end that, or choose another GPU with CUDA_VISIBLE_DEVICES"
            )
        sleep(POLL_S)
        left -= POLL_S


def users(read: Callable[[], Reading | None] | None = None) -> tuple[User, ...] | None:
    """Who computes on the GPU now, engines of ours included; None where NVML cannot be asked."""
    reading = (read or read_nvml)()
    return None if reading is None else tuple(user for user in reading.users if _computes(user))


def refuse_newcomers(before: tuple[User, ...], read: Callable[[], Reading | None] | None = None) -> None:
    """Raise SetupError, with who it is, when more processes compute on the GPU than did before.

    before: ``users`` once our engines had started. An engine of ours that was started anew has another pid,
    so that it is their number that tells: in a container the pids are not ours to look up.
    """
    now = users(read)
    if now is None or len(now) <= len(before):
        return
    known = {user.pid for user in before}
    new = tuple(user for user in now if user.pid not in known)
    raise SetupError(
        f"a GPU must be free while it is timed; {_named(new)} began to use it meanwhile; "
        "end that, or choose another GPU with CUDA_VISIBLE_DEVICES"
    )


def _computes(user: User) -> bool:
    return user.used_bytes is None or user.used_bytes >= SMALL_BYTES


def _who(reading: Reading) -> str:
    if reading.users:
        return _named(reading.users)
    # As in a container, whose driver does not show the processes of others.
    used = reading.total_bytes - reading.free_bytes
    return f"somebody whom the driver does not name, with {_gib(used)} of {_gib(reading.total_bytes)}"


def _named(found: tuple[User, ...]) -> str:
    return ", ".join(
        f"pid {user.pid} ({user.name}{'' if user.used_bytes is None else f', {_gib(user.used_bytes)}'})"
        for user in found
    )


def _gib(size: int) -> str:
    return f"{size / 2**30:.1f} GiB"


def device() -> Any | None:
    """NVML's handle of the GPU that CUDA shows first; None where NVML is missing, or where it is not known.

    NVML counts GPUs by their place on the bus. Children do too (``squeeze.server.ENVIRONMENT``), unless
    CUDA_DEVICE_ORDER says otherwise: of several GPUs it is not known then which is the first. Of a slice of
    a GPU nothing is told.
    """
    try:
        import pynvml
    except ImportError:
        return None
    try:
        pynvml.nvmlInit()
        chosen = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")[0].strip()
        if chosen.startswith("MIG-"):
            return None
        if chosen.startswith("GPU-"):
            found = pynvml.nvmlDeviceGetHandleByUUID(chosen)
        else:
            ordered = os.environ.get("CUDA_DEVICE_ORDER", "PCI_BUS_ID") == "PCI_BUS_ID"
            if not ordered and pynvml.nvmlDeviceGetCount() > 1:
                return None
            found = pynvml.nvmlDeviceGetHandleByIndex(int(chosen) if chosen.isdecimal() else 0)
        return None if _is_sliced(found) else found
    except pynvml.NVMLError:
        return None


def read_nvml() -> Reading | None:
    """What NVML says of ``device``; None where it does not tell."""
    if (asked := device()) is None:
        return None
    import pynvml

    try:
        memory = pynvml.nvmlDeviceGetMemoryInfo(asked)
        found = [
            User(one.pid, _name(one.pid), one.usedGpuMemory)
            for one in pynvml.nvmlDeviceGetComputeRunningProcesses(asked)
            if one.pid != os.getpid()
        ]
        return Reading(_text(pynvml.nvmlDeviceGetName(asked)), memory.free, memory.total, tuple(found))
    except pynvml.NVMLError:
        return None


def _is_sliced(handle: object) -> bool:
    """Whether a GPU is in MIG mode: CUDA then shows a slice, NVML under this handle the whole."""
    import pynvml

    try:
        current, _ = pynvml.nvmlDeviceGetMigMode(handle)
    except pynvml.NVMLError:  # older than MIG
        return False
    return bool(current == pynvml.NVML_DEVICE_MIG_ENABLE)


def _name(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return "of another user or container"


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value
