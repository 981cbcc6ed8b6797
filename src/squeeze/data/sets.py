"""The data sets by name: hub address, split, columns; one loader for the hub and for local files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from squeeze.errors import ConfigError, SetupError

Row = Mapping[str, Any]
"""One example of a data set: column name -> value."""

HUB = "hub"
"""The source that means: load every set from the Hugging Face hub."""


@dataclass(frozen=True)
class DataSet:
    """Where a data set lives on the hub and the columns its rows must have."""

    hub_id: str
    split: str
    columns: tuple[str, ...]
    config: str | None = None
    gated: bool = False


SETS: Mapping[str, DataSet] = {
    "kmmlu_pro": DataSet("LGAI-EXAONE/KMMLU-Pro", "test", ("question", "options", "solution"), gated=True),
    "kmmlu_redux": DataSet(
        "LGAI-EXAONE/KMMLU-Redux", "test", ("question", "options", "solution"), gated=True
    ),
    "ko_longrag": DataSet(
        "LGAI-EXAONE/Ko-LongRAG",
        "test",
        ("id", "titles", "context", "question", "answer", "prompt", "task"),
        config="ko_longrag",
    ),
    "komt_bench": DataSet(
        "LGAI-EXAONE/KoMT-Bench", "train", ("question_id", "category", "turns", "reference")
    ),
    "manta": DataSet("LGAI-EXAONE/MANTA-1M", "train", ("conversations",)),
}


def load_rows(name: str, source: str = HUB, limit: int | None = None) -> Sequence[Row]:
    """Load the rows of a data set, in their stored order.

    name: a key of ``SETS``. source: ``"hub"``, or a folder that holds ``<name>.parquet`` or
    ``<name>.jsonl`` with the hub's columns. limit: at most that many rows, from the start; a
    negative one: from the end.

    Raises ConfigError for an unknown set, a missing file or a missing column, SetupError when the
    hub cannot be reached or the set is gated.
    """
    spec = SETS.get(name)
    if spec is None:
        raise ConfigError(f"a data set must be one of {', '.join(SETS)}; got {name!r}")
    import datasets  # heavy: only a child process loads rows

    datasets.disable_progress_bars()
    if source == HUB:
        split = spec.split if limit is None else f"{spec.split}[{f':{limit}' if limit > 0 else f'{limit}:'}]"
        try:
            table = datasets.load_dataset(spec.hub_id, spec.config, split=split)
        except Exception as error:
            remedy = (
                "accept its terms on the hub and set HF_TOKEN, or give a folder of local files"
                if spec.gated
                else "go online once, or give a folder of local files"
            )
            raise SetupError(
                f"the data set {spec.hub_id} could not be loaded ({type(error).__name__}); {remedy}"
            ) from error
    else:
        table = _local_table(name, Path(source))
    missing = [column for column in spec.columns if column not in table.column_names]
    if missing:
        raise ConfigError(
            f"{name} must have the columns {', '.join(spec.columns)}; {source} lacks {', '.join(missing)}"
        )
    rows = range(len(table))
    return [table[index] for index in (rows[limit:] if limit and limit < 0 else rows[:limit])]


def _local_table(name: str, folder: Path) -> Any:
    """The one file of that set in a folder, as a ``datasets.Dataset``."""
    import datasets

    for suffix, loader in ((".parquet", "parquet"), (".jsonl", "json")):
        path = folder / f"{name}{suffix}"
        if path.is_file():
            return datasets.load_dataset(loader, data_files=str(path), split="train")
    raise ConfigError(
        f"a data folder must hold {name}.parquet or {name}.jsonl; neither is in {folder}; "
        f"put one there or choose another source"
    )
