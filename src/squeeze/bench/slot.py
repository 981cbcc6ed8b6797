"""A fixed name for whichever model is served, under which vLLM finds what it compiled for the one before.

The key of vLLM's torch.compile cache holds the model's path as it was given (ModelConfig.compute_hash: none
of 0.14.1, 0.26, 0.32 resolves the links of a path that is a str), so equal shapes in two folders are compiled
twice. Behind one symlink they share a key, in which only shape and scheme still tell them apart.
"""

from __future__ import annotations

import fcntl
import os
from itertools import count
from pathlib import Path
from typing import Literal

from squeeze.errors import SetupError

Role = Literal["baseline", "candidate"]
"""Each has names of its own: served side by side or in turn, both find their own again."""


def hold(model: Path, role: Role, folder: Path) -> Path:
    """A symlink to a model folder that is this process's until it ends: the first that nobody holds.

    folder: where ``candidate-0`` and the like are kept, the same from run to run. However the process ends,
    the kernel takes the lock back. Raises SetupError when the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for number in count():
            slot = folder / f"{role}-{number}"
            if _locked(slot.with_name(f"{slot.name}.lock")):
                slot.unlink(missing_ok=True)
                slot.symlink_to(model.resolve())
                break
    except OSError as error:
        raise SetupError(
            f"the folder of vLLM's cache must be writable; {folder}: {error.strerror}; "
            f"set VLLM_CACHE_ROOT to one that is"
        ) from error
    return slot


def _locked(path: Path) -> bool:
    """Lock a file for the rest of this process's life; False when another holds it."""
    # A bare descriptor, which nothing closes but the process's end; programs that it starts do not get it.
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return False
    return True
