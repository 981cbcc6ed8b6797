"""The files of a submission, packed or not, read without unpacking: JSON and the headers of weights."""

from __future__ import annotations

import json
import struct
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from squeeze.contest import Json

ROOT = "model"
"""The one folder at the top of a submission."""

Tensors = dict[str, tuple[str, tuple[int, ...]]]
"""Tensor name -> (dtype as safetensors writes it, shape)."""

_MAX_HEADER = 100_000_000  # what the safetensors library itself allows
_MAX_JSON = 200_000_000


@dataclass(frozen=True)
class Package:
    """The files of a submission: name -> size in bytes, and a way to open one."""

    sizes: Mapping[str, int]
    open: Callable[[str], IO[bytes]]

    def json(self, name: str) -> Json:
        """A JSON object. Raises ValueError with one clear line."""
        full = f"{ROOT}/{name}"
        if full not in self.sizes:
            raise ValueError(f"{name} is missing")
        if self.sizes[full] > _MAX_JSON:
            raise ValueError(f"{name} is too large: {self.sizes[full]} bytes")
        with self.open(full) as file:
            try:
                value = json.loads(file.read())
            except (ValueError, RecursionError, zipfile.BadZipFile) as error:
                raise ValueError(f"{name} is no JSON: {error}") from error
        if not isinstance(value, dict):
            raise ValueError(f"{name} must be a JSON object")
        return value

    def has(self, name: str) -> bool:
        """Whether that file is in the model folder, with content."""
        return self.sizes.get(f"{ROOT}/{name}", 0) > 0


def open_folder(path: Path) -> Package:
    """A model folder, or an unpacked submission (which holds the folder ``model``)."""
    prefix = f"{ROOT}/" if (path / "config.json").exists() else ""
    found = [file for file in sorted(path.rglob("*")) if file.is_file()]
    files = {prefix + file.relative_to(path).as_posix(): file for file in found}
    sizes = {name: file.stat().st_size for name, file in files.items()}
    return Package(sizes, lambda name: files[name].open("rb"))


def read_tensors(package: Package) -> Tensors:
    """All tensors by their headers. Raises ValueError when a file or the index is incomplete."""
    shards = [name for name in package.sizes if name.endswith(".safetensors")]
    if not shards:
        raise ValueError("there is no .safetensors file")
    where: dict[str, str] = {}
    tensors: Tensors = {}
    for shard in shards:
        with package.open(shard) as file:
            for name, entry in read_header(file, package.sizes[shard], shard).items():
                if name in where:
                    raise ValueError(f"{name} is in {where[name]} and in {shard}")
                where[name] = shard
                tensors[name] = (entry["dtype"], tuple(entry["shape"]))
    if package.has("model.safetensors.index.json"):
        index = package.json("model.safetensors.index.json").get("weight_map")
        if not isinstance(index, dict):
            raise ValueError("the index has no weight_map")
        for name, shard in index.items():
            if where.get(name) != f"{ROOT}/{shard}":
                raise ValueError(f"the index has {name} in {shard}; it is not there")
        if set(where) - set(index):
            raise ValueError(f"the index lacks {min(set(where) - set(index))}")
    elif len(shards) > 1:
        raise ValueError("several .safetensors files need model.safetensors.index.json")
    return tensors


def read_header(file: IO[bytes], size: int, name: str) -> dict[str, Any]:
    """The header of a safetensors file without its metadata: tensor name -> dtype, shape, data_offsets.

    Format: https://github.com/huggingface/safetensors#format. Raises ValueError unless the tensors fill
    the file exactly, without gaps.
    """
    start = file.read(8)
    length = struct.unpack("<Q", start)[0] if len(start) == 8 else size
    if 8 + length > size or length > _MAX_HEADER:
        raise ValueError(f"{name} is no safetensors file, or cut short")
    try:
        header = json.loads(file.read(length))
        header.pop("__metadata__", None)
        spans = sorted(tuple(entry["data_offsets"]) for entry in header.values())
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{name} has no readable safetensors header") from error
    end = 0
    for first, last in spans:
        if first != end or last < first:
            raise ValueError(f"{name} has tensors that overlap or leave gaps")
        end = last
    if 8 + length + end != size:
        raise ValueError(f"{name} must have {8 + length + end} bytes by its header; it has {size}")
    return dict(header)
