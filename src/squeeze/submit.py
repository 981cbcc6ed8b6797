"""submit.zip: one folder ``model/`` with all that the contest's server needs; written whole or not at all."""

from __future__ import annotations

import contextlib
import json
import os
import zipfile
from collections.abc import Iterator
from pathlib import Path

from squeeze import contest
from squeeze.contest import Json
from squeeze.errors import ConfigError, SetupError
from squeeze.folder import flush, partial_path, writer_lives
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
    shrink. The zip is written beside ``out``, read again, checked by every rule, and only then renamed. What
    an export that was killed had written there is removed first.

    Raises ConfigError when the folder is no model, breaks a rule, or ``out`` is a folder; SetupError when
    the model cannot be read or the place cannot be written.
    """
    if not (model / "config.json").is_file():
        raise ConfigError(f"an export needs a model folder with config.json; {model} has none")
    if out.is_dir():
        raise ConfigError(f"--out must name a file; {out} is a folder")
    partial = partial_path(out)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        for left in out.parent.iterdir():
            if left.name.startswith(f".{out.name}.partial-") and not writer_lives(left):
                left.unlink()
        _write(model, partial)
        broken = [rule for rule in rules(partial) if not rule.ok]
        if broken:
            raise ConfigError(f"{model} cannot be submitted; {broken[0].name}: {broken[0].detail}")
        partial.replace(out)
        flush(out.parent)
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
                if isinstance(content, Path):
                    with _reading(content):
                        info.file_size = content.stat().st_size
                    chunks = _chunks(content)
                else:
                    info.file_size, chunks = len(content), iter([content])
                with archive.open(info, "w") as entry:
                    for chunk in chunks:
                        entry.write(chunk)
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


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Tell an error of the model's disk as that, not as one of the zip's."""
    try:
        yield
    except OSError as error:
        raise SetupError(
            f"a model must be readable; {path}: {error.strerror}; mend its disk, or build it again"
        ) from error


def _chunks(path: Path) -> Iterator[bytes]:
    with _reading(path), path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            yield chunk


def _read(path: Path) -> Json:
    try:
        with _reading(path):
            value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ConfigError(f"{path} must be JSON; {error}") from error
    if not isinstance(value, dict):
        raise ConfigError(f"{path} must be a JSON object; got {type(value).__name__}")
    return value


def _bytes(value: Json) -> bytes:
    return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode()
