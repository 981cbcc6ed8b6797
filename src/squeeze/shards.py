"""Safetensors files without torch: read headers, copy and slice weights, write shards.

Weights are raw bytes here, so every dtype (BF16, FP8, packed INT4) is copied exactly. Format:
https://huggingface.co/docs/safetensors
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from squeeze.errors import ConfigError

INDEX = "model.safetensors.index.json"
"""The file that says which shard holds which weight."""

SINGLE = "model.safetensors"
"""The one file of a model without an index."""

_BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "I16": 16, "U16": 16, "F16": 16,
    "BF16": 16, "I32": 32, "U32": 32, "F32": 32, "I64": 64, "U64": 64, "F64": 64,
}  # fmt: skip
_NOT_FINITE = {
    "F16": ("<u2", 0x7C00), "BF16": ("<u2", 0x7F80), "F32": ("<u4", 0x7F80 << 16),
    "F64": ("<u8", 0x7FF0 << 48), "F8_E4M3": ("u1", 0x7F), "F8_E5M2": ("u1", 0x7C), "F8_E8M0": ("u1", 0xFF),
}  # fmt: skip
"""dtype -> an unsigned integer of its size, and the bits that are all set in what is no finite number."""

_PICKLES = (".bin", ".pt", ".pth", ".ckpt")
_LONGEST_HEADER = 100_000_000
_CHUNK = 16 << 20


@dataclass(frozen=True)
class Weight:
    """One weight in a file: its dtype as safetensors names it, its shape, its bytes from begin to end."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    path: Path
    begin: int
    end: int

    @property
    def size_bytes(self) -> int:
        """Bytes of the data."""
        return self.end - self.begin

    def chunks(self) -> Iterator[bytes]:
        """The data, in pieces of at most 16 MiB."""
        with self.path.open("rb") as file:
            file.seek(self.begin)
            left = self.size_bytes
            while left:
                piece = file.read(min(left, _CHUNK))
                if not piece:
                    raise ConfigError(f"{self.path} ends inside {self.name}; fetch the model again")
                left -= len(piece)
                yield piece

    def is_finite(self) -> bool:
        """Whether every element is a finite number; integers always are."""
        if self.dtype not in _NOT_FINITE:
            return True
        kind, bits = _NOT_FINITE[self.dtype]
        return not any(((np.frombuffer(piece, kind) & bits) == bits).any() for piece in self.chunks())

    def raw(self) -> np.ndarray[Any, Any]:
        """The data as an array of unsigned integers of the same size and shape, mapped from the file."""
        kind = np.dtype(f"u{_BITS[self.dtype] // 8}")
        return np.memmap(self.path, dtype=kind, mode="r", offset=self.begin, shape=self.shape)

    def floats(self) -> np.ndarray[Any, Any]:
        """The data as 32-bit floats. Raises ConfigError for a dtype that is not BF16, F16 or F32."""
        raw = self.raw()
        if self.dtype == "BF16":  # the upper half of a 32-bit float
            return (raw.astype(np.uint32) << 16).view(np.float32)
        if self.dtype in ("F16", "F32"):
            return raw.view(f"f{raw.itemsize}").astype(np.float32)
        raise ConfigError(
            f"{self.name} must be BF16, F16 or F32; it is {self.dtype}; give an unquantized model"
        )


@dataclass(frozen=True)
class Output:
    """One weight to be written: where its bytes come from is asked only when they are written."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    chunks: Callable[[], Iterable[bytes]]

    @property
    def size_bytes(self) -> int:
        """Bytes of the data."""
        return prod(self.shape) * _BITS[self.dtype] // 8


def read_header(path: Path) -> dict[str, Weight]:
    """The weights of a safetensors file by name.

    Raises ConfigError unless the header is readable and its offsets fill the file exactly.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > min(size - 8, _LONGEST_HEADER):
            raise ConfigError(
                f"a safetensors file must start with the length of its header; {path} has {size} bytes and "
                f"says {length}; fetch the model again"
            )
        text = file.read(length)
    try:
        header = json.loads(text)
        header.pop("__metadata__", None)
        start = 8 + length
        weights = {
            name: Weight(
                name,
                entry["dtype"],
                tuple(entry["shape"]),
                path,
                start + entry["data_offsets"][0],
                start + entry["data_offsets"][1],
            )
            for name, entry in header.items()
        }
    except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        raise ConfigError(
            f"the header of a safetensors file must be its JSON; {path}: {type(error).__name__}; "
            f"fetch the model again"
        ) from error
    for weight in weights.values():
        expected = prod(weight.shape) * _BITS.get(weight.dtype, 0) // 8
        if weight.dtype in _BITS and weight.size_bytes != expected:
            raise ConfigError(
                f"{weight.name} in {path} must have {expected} bytes "
                f"({weight.dtype} {list(weight.shape)}); its offsets give {weight.size_bytes}; "
                "fetch the model again"
            )
    ends = max((weight.end for weight in weights.values()), default=start)
    if ends != size:
        raise ConfigError(
            f"a safetensors file must be as long as its header says; {path} has {size} bytes, not {ends}; "
            f"fetch the model again"
        )
    return weights


def shard_paths(folder: Path) -> list[Path]:
    """The weight files of a model folder, in order of their names.

    Raises ConfigError when there are none or one that the index names is missing.
    """
    index = folder / INDEX
    if index.is_file():
        paths = sorted({folder / name for name in read_index(index).values()})
    else:
        paths = [folder / SINGLE]
    for path in paths:
        if not path.is_file():
            if found := sorted(one.name for one in folder.iterdir() if one.suffix in _PICKLES):
                raise ConfigError(
                    f"weights must be safetensors, because a pickle runs code when it is read; {folder} "
                    f"lacks {path.name} and has {found[0]}; save it again with safe_serialization=True"
                )
            raise ConfigError(
                f"a model folder must hold every file of its weights; {folder} lacks {path.name}; "
                f"fetch the model again"
            )
    return paths


def read_index(path: Path) -> dict[str, str]:
    """The index's map from a weight's name to its shard's file name. Raises ConfigError when unreadable."""
    try:
        weights = json.loads(path.read_text(encoding="utf-8"))["weight_map"]
        return {str(name): str(shard) for name, shard in weights.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(
            f"{INDEX} must be JSON with a weight_map; {path}: {type(error).__name__}; fetch the model again"
        ) from error


def all_weights(folder: Path) -> dict[str, Weight]:
    """Every weight of a model folder by name."""
    return {name: weight for path in shard_paths(folder) for name, weight in read_header(path).items()}


def rewrite(source: Path, out: Path, change: Callable[[Weight], Output | None]) -> None:
    """Write the weights of folder ``source`` to ``out``, each as ``change`` gives it; None leaves it out.

    Shards keep their names; one that would be empty is left out.
    """
    written: dict[str, str] = {}
    total = 0
    for path in shard_paths(source):
        outputs = [output for weight in read_header(path).values() if (output := change(weight)) is not None]
        if not outputs:
            continue
        _write(out / path.name, outputs)
        written.update(dict.fromkeys((output.name for output in outputs), path.name))
        total += sum(output.size_bytes for output in outputs)
    if (source / INDEX).is_file():
        index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(written.items()))}
        (out / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def same(weight: Weight, name: str | None = None) -> Output:
    """The weight as it is, under another name if one is given."""
    return Output(name or weight.name, weight.dtype, weight.shape, weight.chunks)


def sliced(weight: Weight, axis: int, keep: np.ndarray[Any, Any]) -> Output:
    """The weight with only the indices ``keep`` of ``axis``, in their order."""
    shape = (*weight.shape[:axis], len(keep), *weight.shape[axis + 1 :])
    return Output(
        weight.name, weight.dtype, shape, lambda: [np.take(weight.raw(), keep, axis=axis).tobytes()]
    )


def _write(path: Path, outputs: list[Output]) -> None:
    header: dict[str, Mapping[str, Any]] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for output in outputs:
        ends = offset + output.size_bytes
        header[output.name] = {
            "dtype": output.dtype,
            "shape": list(output.shape),
            "data_offsets": [offset, ends],
        }
        offset = ends
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the format wants the data aligned
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little"))
        file.write(text)
        for output in outputs:
            before = file.tell()
            for piece in output.chunks():
                file.write(piece)
            if file.tell() - before != output.size_bytes:
                raise ConfigError(f"{output.name} must have {output.size_bytes} bytes in {path}")
        file.flush()
        os.fsync(file.fileno())
