"""Conversations that no calibration looks at, to see how likely a model finds them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from squeeze.config import Calibration
from squeeze.data.chat import conversation, source_rows
from squeeze.data.sets import HUB, load_rows
from squeeze.errors import ConfigError, SetupError


def held_out(data: str, rows: int) -> list[list[dict[str, str]]]:
    """The conversations of the last ``rows`` rows of the chat set, in their order.

    The set is ``manta`` on the hub; in a folder ``chats``, a longer version of it, or else ``manta``. A
    calibration reads a set from its start, 4,000 rows or twice its samples where that is more: what is among
    the first 4,000 is left out, so that of a set that is no longer, or that cannot be loaded, nothing is
    held out; the reason is printed. The hub's whole set is fetched once and kept.
    """
    try:
        last = load_rows("manta", data, -rows) if data == HUB else _file(Path(data))[-rows:]
        read = {_text(row) for row in source_rows(Calibration(), data)}
    except (ConfigError, SetupError) as error:  # without it there is all but perplexity
        print(f"no held-out text: {error}", flush=True)
        return []
    return [messages for row in last if _text(row) not in read and (messages := conversation(row))]


def _file(folder: Path) -> Sequence[Mapping[str, Any]]:
    """All rows of the longest chat set in a folder. Raises ConfigError when there is none."""
    names = [f"{name}{suffix}" for name in ("chats", "manta") for suffix in (".parquet", ".jsonl")]
    found = [folder / name for name in names if (folder / name).is_file()]
    if not found:
        raise ConfigError(f"a data folder must hold manta for held-out text; {folder} does not")
    return source_rows(Calibration(source=str(found[0]), samples=_ALL), str(folder))


_ALL = 1_000_000
"""The most samples that may be asked for: so many of a file are read."""


def _text(row: Mapping[str, Any]) -> str:
    return json.dumps(row.get("conversations") or row.get("messages"), ensure_ascii=False, sort_keys=True)
