"""Tensors and facts on the disk: whole or not at all, and known to be whole when read."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch  # noqa: TID253  only processes that train import this module

from squeeze.folder import flush

_TENSORS, _FACTS, _COMPLETE = "tensors.safetensors", "facts.json", "complete.json"


@dataclass(frozen=True)
class Saved:
    """What was read: tensors on the CPU, and facts as JSON has them."""

    tensors: dict[str, torch.Tensor]
    facts: dict[str, Any]


def write(folder: Path, tensors: Mapping[str, torch.Tensor], facts: Mapping[str, Any]) -> None:
    """Write a folder that ``read`` takes, in place of one of that name. It is on the disk when this returns.

    It is written beside its place, flushed, and renamed; the marker of completeness has the files' hashes.
    """
    from safetensors.torch import save_file

    partial = folder.with_name(f".{folder.name}.partial-{os.getpid()}")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        save_file({name: value.detach().contiguous() for name, value in tensors.items()}, partial / _TENSORS)
        (partial / _FACTS).write_text(json.dumps(facts), encoding="utf-8")
        hashes = {name: _hash(partial / name) for name in (_TENSORS, _FACTS)}
        (partial / _COMPLETE).write_text(json.dumps(hashes), encoding="utf-8")
        for path in (*partial.iterdir(), partial):
            flush(path)
        shutil.rmtree(folder, ignore_errors=True)
        partial.rename(folder)
        flush(folder.parent)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def read(folder: Path) -> Saved | None:
    """What ``write`` wrote; None when there is nothing, or when it is damaged in any way."""
    from safetensors.torch import load_file

    try:
        hashes = json.loads((folder / _COMPLETE).read_text(encoding="utf-8"))
        if any(_hash(folder / name) != hashes[name] for name in (_TENSORS, _FACTS)):
            return None
        facts = json.loads((folder / _FACTS).read_text(encoding="utf-8"))
        return Saved(load_file(folder / _TENSORS), facts)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def remove_partials(folder: Path) -> None:
    """Remove what killed processes had begun to write in there; nobody may be writing in it now."""
    for path in folder.glob(".*.partial-*"):
        shutil.rmtree(path, ignore_errors=True)


def _hash(path: Path) -> str:
    with path.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
