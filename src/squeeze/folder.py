"""Model folders: valid or not, written whole or not at all, with a manifest of what they hold."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from math import inf
from pathlib import Path
from typing import Any

from squeeze.config import CompressionConfig, digest
from squeeze.decoder import CONFIG, Decoder, read_json
from squeeze.errors import ConfigError
from squeeze.records import Record
from squeeze.shards import INDEX, Weight, read_header, read_index, shard_paths

MANIFEST = "manifest.json"
"""The file of a built folder that says what is in it and how it was made."""

_NOT_CONTENT = (MANIFEST, "README.md", "LICENSE", "LICENSE.md", "LICENSE.txt")
"""Files that do not change what a model answers."""

_KEPT_SUFFIXES = (".json", ".jinja", ".model", ".txt")
"""Of the files beside weights and config: tokenizer, chat template, generation config."""


class Manifest(Record):
    """How a model folder was made.

    files: name -> SHA-256. config: what has been done to the base so far. base: the base's content key.
    data: where calibration data came from. versions: distribution -> version. notes, seconds: by stage.
    """

    files: Mapping[str, str]
    config: CompressionConfig
    base: str
    data: str
    versions: Mapping[str, str]
    notes: Mapping[str, Any] = {}
    seconds: Mapping[str, float] = {}


def validate(folder: Path) -> Decoder:
    """Check that a folder holds a whole model of a known family, and return its shape.

    Looks at: config.json, every shard against the index, the header and length of each safetensors file, the
    weights of every layer, the tokenizer, the chat template. Raises ConfigError with the first broken rule.
    """
    if not folder.is_dir():
        what = "is a file" if folder.exists() else "does not exist"
        raise ConfigError(f"a model must be a folder; {folder} {what}; give the folder of a model")
    if not any(folder.iterdir()):
        raise ConfigError(f"a model folder must not be empty; {folder} is; give the folder of a model")
    decoder = Decoder.read(folder)
    weights = _weights(folder)
    layers = {place[0] for name in weights if (place := decoder.layer_of(name))}
    if layers != set(range(decoder.layers)):
        absent = sorted(set(range(decoder.layers)) - layers)
        extra = sorted(layers - set(range(decoder.layers)))
        raise ConfigError(
            f"the weights must be of the {decoder.layers} layers that config.json has; {folder} "
            + (f"lacks layer {absent[0]}" if absent else f"also has layer {extra[0]}")
            + "; fetch the model again"
        )
    for name in (decoder.family.embedding, *(() if decoder.tied else (decoder.family.head,))):
        if f"{name}.weight" not in weights:
            raise ConfigError(f"a model must have {name}.weight; {folder} lacks it; fetch the model again")
    _validate_tokenizer(folder)
    return decoder


def content_files(folder: Path) -> list[Path]:
    """The files that make the model what it is, by name: not the manifest, licenses and hidden ones."""
    return sorted(
        path
        for path in folder.iterdir()
        if path.is_file() and path.name not in _NOT_CONTENT and not path.name.startswith(".")
    )


def content_key(folder: Path) -> str:
    """A hash of the model's files; equal models have equal keys, wherever they lie."""
    return digest({path.name: file_hash(path) for path in content_files(folder)})


def free_bytes(folder: Path) -> float:
    """Bytes that can be written there; infinite where a file system tells nothing, so that it is tried."""
    usage = shutil.disk_usage(folder)
    return usage.free if usage.total else inf


def size_bytes(folder: Path) -> int:
    """Bytes of the model's files."""
    return sum(path.stat().st_size for path in content_files(folder))


def write_config(folder: Path, config: Mapping[str, Any]) -> None:
    """Write config.json into a model folder."""
    (folder / CONFIG).write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def copy_others(source: Path, out: Path) -> None:
    """Copy what is neither weights nor config.json: tokenizer, chat template, generation config, license."""
    for path in source.iterdir():
        kept = path.suffix in _KEPT_SUFFIXES and path.name not in (CONFIG, INDEX, MANIFEST)
        if path.is_file() and (kept or path.name.startswith("LICENSE")):
            shutil.copyfile(path, out / path.name)


def file_hash(path: Path) -> str:
    """SHA-256 of a file, in hex; computed once as long as the file does not change."""
    stat = path.stat()
    # The inode stays when a folder is renamed into place, so a built model is read once, not twice.
    return _hash(_Identified(path, (stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns)))


@dataclass(frozen=True)
class _Identified:
    """A file, equal to any other path of the same file as long as it does not change."""

    path: Path = field(compare=False)
    identity: tuple[int, ...]


@lru_cache(maxsize=4096)
def _hash(file: _Identified) -> str:
    return _read(file.path)


def _read(path: Path) -> str:
    with path.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write the manifest into the folder; its files must be written already."""
    text = manifest.model_dump_json(indent=2) + "\n"
    (folder / MANIFEST).write_text(text, encoding="utf-8")


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a built folder. Raises ConfigError when there is none or it cannot be read."""
    path = folder / MANIFEST
    try:
        return Manifest.model_validate_json(path.read_bytes())
    except OSError as error:
        raise ConfigError(
            f"a built model must have a {MANIFEST}; {path}: {error.strerror}; build it again"
        ) from error
    except ValueError as error:
        raise ConfigError(
            f"{MANIFEST} must be what a build wrote; {path} is not; build the model again, or take that file "
            f"away if the model was not built here"
        ) from error


def verify_manifest(folder: Path, *, anew: bool = False) -> Manifest:
    """Check every file against its hash. Raises ConfigError naming the first that is missing or changed.

    anew: read every byte now, also of files that this process has hashed and that seem not to have changed
    since: a disk that fails changes no time of modification.
    """
    manifest = read_manifest(folder)
    for name, expected in manifest.files.items():
        path = folder / name
        if not path.is_file():
            raise ConfigError(f"a built model must be whole; {folder} lacks {name}; build it again")
        if (_read(path) if anew else file_hash(path)) != expected:
            raise ConfigError(f"a built model must be as it was built; {path} has changed; build it again")
    return manifest


@contextlib.contextmanager
def publish(out: Path) -> Iterator[Path]:
    """A hidden folder beside ``out`` to write into; on success it becomes ``out``, else it is removed.

    The rename is atomic, so nobody ever sees half a folder under the name ``out``. Raises ConfigError when
    ``out`` exists.
    """
    if out.exists():
        raise ConfigError(
            f"a model must be written to a new folder; {out} exists; remove it or choose another"
        )
    partial = partial_path(out)
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        yield partial
        for path in partial.iterdir():
            flush(path)
        flush(partial)
        try:
            partial.rename(out)
        except OSError as error:
            if error.errno in (errno.EEXIST, errno.ENOTEMPTY):
                raise ConfigError(
                    f"a model must be written to a new folder; {out} appeared meanwhile"
                ) from error
            raise
        flush(out.parent)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def partial_path(out: Path) -> Path:
    """Where this process writes what is to become ``out``."""
    return out.with_name(f".{out.name}.partial-{os.getpid()}")


def remove_partials(out: Path) -> None:
    """Remove what processes that were killed had written of ``out``; nobody may be writing it now."""
    if out.parent.is_dir():
        for path in out.parent.iterdir():
            if path.name.startswith(f".{out.name}.") and ".partial-" in path.name:
                shutil.rmtree(path, ignore_errors=True)


def writer_lives(partial: Path) -> bool:
    """Whether the process that writes a path of ``partial_path`` still runs."""
    pid = partial.name.rpartition("-")[2]
    return pid.isdigit() and Path(f"/proc/{pid}").exists()


def flush(path: Path) -> None:
    """Have the kernel write a file or a folder's entries to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _weights(folder: Path) -> dict[str, Weight]:
    """Every weight of the folder, after each shard has been checked against the index."""
    weights: dict[str, Weight] = {}
    for path in shard_paths(folder):
        weights.update(read_header(path))
    index = folder / INDEX
    for name, shard in (read_index(index) if index.is_file() else {}).items():
        if name not in weights or weights[name].path.name != shard:
            raise ConfigError(
                f"every weight must be in the shard that {INDEX} names; {shard} in {folder} lacks {name}; "
                f"fetch the model again"
            )
    return weights


def _validate_tokenizer(folder: Path) -> None:
    read_json(folder / "tokenizer.json")
    settings = read_json(folder / "tokenizer_config.json")
    if not (folder / "chat_template.jinja").is_file() and not settings.get("chat_template"):
        raise ConfigError(
            f"a model must have a chat template; {folder} has neither chat_template.jinja nor one in "
            f"tokenizer_config.json; put one there"
        )
