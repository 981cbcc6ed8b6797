"""Calibration text: conversations as the model would see them, as token ids."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from squeeze.config import Calibration, digest
from squeeze.data.sets import HUB, load_rows, read_rows
from squeeze.errors import ConfigError

_ROLES = {
    "human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "model": "assistant",
    "system": "system",
}  # fmt: skip
_LOOKED_AT = 2
_LEAST = 4000
"""Rows that are looked at for each sample that is asked for, and at least: the set has a million."""


def calibration_tokens(folder: Path, calibration: Calibration, data: str) -> list[list[int]]:
    """Calibration samples as token ids, each at most ``calibration.length`` long.

    folder: the model whose tokenizer and chat template are used. data: ``"hub"`` or the folder with the
    study's sets. The same arguments give the same samples; fewer than asked for when the source has no more.
    Raises ConfigError when the source is missing or has no conversation with an assistant's turn.
    """
    from squeeze.versions import load_tokenizer

    tokenizer = load_tokenizer(folder)
    chance = random.Random(calibration.seed)
    if calibration.source == "random":
        special = set(tokenizer.all_special_ids)
        plain = [token for token in range(len(tokenizer)) if token not in special]
        return [chance.choices(plain, k=calibration.length) for _ in range(calibration.samples)]
    rows = list(source_rows(calibration, data))
    chance.shuffle(rows)
    samples: list[list[int]] = []
    for row in rows:
        messages = conversation(row)
        if messages is None:
            continue
        text = tokenizer.apply_chat_template(messages, tokenize=False)
        tokens = list(tokenizer(text, add_special_tokens=False)["input_ids"])[: calibration.length]
        if len(tokens) > 1:
            samples.append(tokens)
        if len(samples) == calibration.samples:
            break
    if not samples:
        raise ConfigError(
            f"calibration needs conversations with an assistant's turn; {calibration.source} has none in its "
            f"first {len(rows)} rows; choose another calibration.source"
        )
    return samples


def conversation(row: Mapping[str, Any]) -> list[dict[str, str]] | None:
    """The messages of a row ({role, content} each), or None when no turn is the assistant's.

    Reads the columns conversations or messages, and turns of role or from, content or value.
    """
    turns = row.get("conversations") or row.get("messages") or []
    messages = []
    for turn in turns:
        role = _ROLES.get(str(turn.get("role") or turn.get("from") or ""))
        content = turn.get("content") or turn.get("value")
        if role is None or not isinstance(content, str):
            return None
        messages.append({"role": role, "content": content})
    return messages if any(message["role"] == "assistant" for message in messages) else None


def check_source(calibration: Calibration, data: str) -> None:
    """Raise ConfigError when the source cannot be there; cheap, before anything is built."""
    source = calibration.source
    if source == "manta" and data != HUB and not _manta_files(data):
        raise ConfigError(
            f"a data folder must hold manta.parquet or manta.jsonl for calibration; neither is in {data}; "
            f"put one there or choose another source"
        )
    if source in ("manta", "random"):
        return
    path = Path(source)
    if path.suffix not in (".jsonl", ".parquet"):
        raise ConfigError(
            f"calibration.source must be manta, random, or a .jsonl or .parquet file; "
            f"got {source!r}; choose one"
        )
    if not path.is_file():
        raise ConfigError(f"calibration.source must be there; {source} is no file; correct the path")


def _manta_files(data: str) -> list[Path]:
    paths = [Path(data) / f"manta{suffix}" for suffix in (".parquet", ".jsonl")]
    return [path for path in paths if path.is_file()]


def source_key(calibration: Calibration, data: str) -> str:
    """A hash of what the samples depend on beside the tokenizer: the settings, a local file's content."""
    from squeeze.folder import file_hash

    content = None
    if calibration.source == "manta" and data != HUB:
        content = next(map(file_hash, _manta_files(data)), None)
    elif calibration.source not in ("manta", "random"):
        content = file_hash(Path(calibration.source))
    return digest([calibration.model_dump(mode="json"), content])


def source_rows(calibration: Calibration, data: str) -> Sequence[Mapping[str, Any]]:
    """The first rows of a source, enough to draw the samples from. Raises ConfigError for a wrong source."""
    limit = max(_LEAST, _LOOKED_AT * calibration.samples)
    if calibration.source == "manta":
        rows = load_rows("manta", data, limit)
    else:
        check_source(calibration, data)
        rows = read_rows(Path(calibration.source), limit)
    columns = {column for row in rows for column in row}
    if not {"conversations", "messages"} & columns:
        where = calibration.source if calibration.source != "manta" else f"manta of {data}"
        raise ConfigError(
            f"calibration.source must have a column conversations or messages; {where} has "
            f"{', '.join(sorted(columns)) or 'none'}; rename one"
        )
    return rows
