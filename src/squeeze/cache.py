"""What stages have made, found again by key: a folder with a budget, shared by processes and studies.

    <root>/stages/<key>/    a stage's output, a whole model folder with its manifest
    <root>/state/<key>/     what a training stage goes on from: checkpoints, the trunk of longer trainings
    <root>/shared/<kind>/<key>/   what stages of any configuration share, such as a teacher's answers
    <root>/needed/<owner>.json    keys that stay whatever the budget: see ``Cache.need``

Nothing here is needed for correctness: whatever is missing or damaged is made again.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from squeeze.errors import ConfigError
from squeeze.folder import Manifest, content_files, verify_manifest

GRACE_S = 600.0
"""What was used so recently stays: a build on its way may be about to read it."""

NEEDED_S = 30 * 24 * 3600.0
"""How long what an owner needs stays after it last said so: a study may have been deleted."""


@dataclass(frozen=True)
class Cache:
    """Stage outputs under ``root``. It need not exist yet."""

    root: Path

    def stage(self, key: str) -> Path:
        """Where the output of that key is or will be."""
        return self.root / "stages" / key

    def state(self, key: str) -> Path:
        """The folder of a training's state; made, and marked as used now."""
        return _used(self.root / "state" / key)

    @property
    def shared(self) -> Path:
        """The folder of what any stage can use; made."""
        folder = self.root / "shared"
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def find(self, key: str) -> Manifest | None:
        """The manifest of a stage's output, which is marked as used now; what is damaged is removed."""
        folder = self.stage(key)
        if not folder.is_dir():
            return None
        try:
            manifest = verify_manifest(folder)
        except (ConfigError, OSError):  # a failing disk reads nothing
            manifest = None
        if manifest is None or {path.name for path in content_files(folder)} != set(manifest.files):
            shutil.rmtree(folder, ignore_errors=True)
            return None
        _used(folder)
        return manifest

    @contextlib.contextmanager
    def reading(self, key: str) -> Iterator[None]:
        """Keep a stage's output from being removed while it is read; others may read and find it too."""
        with _lock(self.root, _read(key), shared=True):
            yield

    @contextlib.contextmanager
    def alone(self, key: str, waits: Callable[[], None] = lambda: None) -> Iterator[bool]:
        """Hold a key, so that of several processes that want it one makes it and the others find it.

        waits: called when another holds it, before it is waited for. Yields whether it was.
        """
        with contextlib.ExitStack() as held:
            try:
                held.enter_context(_lock(self.root, key, wait=False))
                waited = False
            except BlockingIOError:
                waits()
                held.enter_context(_lock(self.root, key))
                waited = True
            yield waited

    @property
    def size_bytes(self) -> int:
        """Bytes on the disk; of a file with several names, the share of this one."""
        return sum(_size(entry) for entry in self._entries())

    def remove_partials(self) -> None:
        """Remove what processes that are gone had begun to make: nobody holds its key."""
        for left in (self.root / "stages").glob(".*.partial-*"):
            key = left.name[1:].rpartition(".partial-")[0]
            with contextlib.suppress(OSError), _lock(self.root, key, wait=False):
                shutil.rmtree(left, ignore_errors=True)

    def need(self, owner: str, keys: Collection[str]) -> None:
        """Let these keys stay whatever the budget, in place of those that this owner needed before.

        owner: a study, whose best model was made from them; a plain name. Says so for ``NEEDED_S``.
        """
        path = self.root / "needed" / f"{owner}.json"
        partial = path.with_name(f".{path.name}.{os.getpid()}")
        with contextlib.suppress(OSError):  # on a full disk what was said before holds
            path.parent.mkdir(parents=True, exist_ok=True)
            partial.write_text(json.dumps(sorted(keys)), encoding="utf-8")
            partial.replace(path)

    def _needed(self) -> set[str]:
        found: set[str] = set()
        for path in (self.root / "needed").glob("[!.]*.json"):
            with contextlib.suppress(OSError, ValueError):  # another search may be about to replace it
                if path.stat().st_mtime > time.time() - NEEDED_S:
                    found.update(json.loads(path.read_text(encoding="utf-8")))
        return found

    def shrink(self, budget_bytes: int, needed: Collection[str] = ()) -> list[str]:
        """Remove what was used least recently until the rest is within the budget. Returns the names.

        needed: further keys that stay whatever the budget, as do those that ``need`` was told, what is made
        or read now and what was used just now.
        """
        self.remove_partials()
        needed = {*needed, *self._needed()}
        sized = []
        for entry in self._entries():
            with contextlib.suppress(FileNotFoundError):  # another search removed it meanwhile
                sized.append((entry.stat().st_mtime, _size(entry), entry))
        sized.sort()
        total = sum(size for _, size, _ in sized)
        removed = []
        for used, size, entry in sized:
            if total <= budget_bytes or used > time.time() - GRACE_S:
                break
            if entry.name in needed:
                continue
            with contextlib.ExitStack() as held:
                try:
                    for name in (entry.name, _read(entry.name)):
                        held.enter_context(_lock(self.root, name, wait=False))
                except OSError:  # held; or no lock can be made, on a full disk say
                    continue
                shutil.rmtree(entry, ignore_errors=True)
                total -= size
                removed.append(entry.name)
        return removed

    def _entries(self) -> list[Path]:
        found = [*self.root.glob("stages/*"), *self.root.glob("state/*"), *self.root.glob("shared/*/*")]
        return [entry for entry in found if not entry.name.startswith(".")]


def _used(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    now = time.time()
    os.utime(folder, (now, now))
    return folder


def _size(entry: Path) -> int:
    """Bytes that removing it would free at least; a file that other folders link to costs its share."""
    total = 0
    for path in [entry, *entry.rglob("*")]:
        with contextlib.suppress(OSError):  # it may go meanwhile
            stat = path.lstat()
            if path.is_file():
                total += stat.st_size // max(1, stat.st_nlink)
    return total


def _read(key: str) -> str:
    """The name of the lock that those who read a key's output share."""
    return f"{key}.read"


@contextlib.contextmanager
def _lock(root: Path, name: str, *, wait: bool = True, shared: bool = False) -> Iterator[None]:
    """An advisory lock that ends with the process; BlockingIOError when it is held and ``wait`` is false."""
    folder = root / "locks"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / name).open("w") as file:
        fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB))
        yield
