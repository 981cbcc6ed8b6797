"""submit.zip: one folder ``model/`` with all that the contest's server needs; written whole or not at all."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path

from squeeze import contest
from squeeze.contest import Json
from squeeze.errors import ConfigError, SetupError
from squeeze.package import ROOT
from squeeze.rules import Rule, rules

__all__ = ["Rule", "export", "rules"]

# Everything a model folder may hand over, but no code, no pickles, and nothing of ours (manifest, recipes).
_FILES = (
    "*.safetensors",
    "model.safetensors.index.json",
    "tokenizer.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "LICENSE*",
)
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest date a zip can hold: equal input gives equal bytes
_CHUNK = 1 << 20


def export(model: Path, out: Path) -> Path:
    """Write a model folder as submit.zip and return its path.

    Files are stored, not deflated: equal input gives a byte-identical zip with any zlib, and weights hardly
    shrink. The zip is written beside ``out``, read again, checked by every rule, and only then renamed.

    Raises ConfigError when the folder is no model, breaks a rule, or ``out`` is a folder; SetupError when
    the place cannot be written.
    """
    if not (model / "config.json").is_file():
        raise ConfigError(f"an export needs a model folder with config.json; {model} has none")
    if out.is_dir():
        raise ConfigError(f"--out must name a file; {out} is a folder")
    partial = out.with_name(f".{out.name}.{os.getpid()}.partial")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        _write(model, partial)
        broken = [rule for rule in rules(partial) if not rule.ok]
        if broken:
            raise ConfigError(f"{model} cannot be submitted; {broken[0].name}: {broken[0].detail}")
        partial.replace(out)
        folder = os.open(out.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        raise SetupError(
            f"{out} must be writable; {error.strerror}; free space or choose another --out"
        ) from error
    finally:
        with contextlib.suppress(OSError):
            partial.unlink()
    return out


def _write(model: Path, path: Path) -> None:
    """The zip, flushed to the disk."""
    with path.open("wb") as file:
        with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
            for name, content in sorted(_contents(model), key=lambda pair: pair[0]):
                info = zipfile.ZipInfo(f"{ROOT}/{name}", _EPOCH)
                info.create_system = 3  # Unix, wherever it is written
                info.external_attr = 0o100644 << 16
                info.file_size = content.stat().st_size if isinstance(content, Path) else len(content)
                with archive.open(info, "w") as entry:
                    if isinstance(content, Path):
                        with content.open("rb") as source:
                            shutil.copyfileobj(source, entry, _CHUNK)
                    else:
                        entry.write(content)
        file.flush()
        os.fsync(file.fileno())


def _contents(model: Path) -> Iterator[tuple[str, Path | bytes]]:
    """(name, the file or the rewritten bytes) of everything that goes in."""
    for pattern in _FILES:
        for path in model.glob(pattern):
            if path.is_file():
                yield path.name, path
    config = _read(model / "config.json")
    yield "config.json", _bytes(contest.model_config(config))
    tokenizer = _read(model / "tokenizer_config.json") if (model / "tokenizer_config.json").exists() else {}
    yield "tokenizer_config.json", _bytes(contest.tokenizer_config(tokenizer))
    path = model / "generation_config.json"
    generation = contest.generation_config(_read(path) if path.exists() else {}, config)
    yield "generation_config.json", _bytes(generation)


def _read(path: Path) -> Json:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ConfigError(f"{path} must be JSON; {error}") from error
    if not isinstance(value, dict):
        raise ConfigError(f"{path} must be a JSON object; got {type(value).__name__}")
    return value


def _bytes(value: Json) -> bytes:
    return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode()
