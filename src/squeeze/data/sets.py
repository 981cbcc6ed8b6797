"""The data sets by name: hub address, split, columns; one loader for the hub and for local files."""

from __future__ import annotations

import json
import re
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from squeeze.config import digest
from squeeze.data import rows as must
from squeeze.data.rows import Check, Misfit, misfits
from squeeze.data.rows import Row as Row
from squeeze.errors import ConfigError, SetupError
from squeeze.secret import hub_token

HUB = "hub"
"""The source that means: load every set from the Hugging Face hub."""

TOLD = 3
"""Rows that do not fit which are named one by one."""


@dataclass(frozen=True)
class DataSet:
    """Where a data set lives on the hub, and its columns with what each must hold."""

    hub_id: str
    split: str
    columns: Mapping[str, Check]
    config: str | None = None


_CHOICE = {"question": must.text, "options": must.options, "solution": must.solution}

SETS: Mapping[str, DataSet] = {
    "kmmlu_pro": DataSet("LGAI-EXAONE/KMMLU-Pro", "test", _CHOICE),
    "kmmlu_redux": DataSet("LGAI-EXAONE/KMMLU-Redux", "test", _CHOICE),
    "ko_longrag": DataSet(
        "LGAI-EXAONE/Ko-LongRAG",
        "test",
        {
            "id": must.label,
            "titles": must.texts,
            "context": must.text,
            "question": must.text,
            "answer": must.words,
            "prompt": must.wording,
            "task": must.text,
        },
        config="ko_longrag",
    ),
    "komt_bench": DataSet(
        "LGAI-EXAONE/KoMT-Bench",
        "train",
        {
            "question_id": must.number,
            "category": must.text,
            "turns": must.two_turns,
            "reference": must.references,
        },
    ),
    "manta": DataSet("LGAI-EXAONE/MANTA-1M", "train", {}),  # read by squeeze.data.chat
}


@dataclass(frozen=True)
class Questions:
    """The rows of a benchmark that fit, each with its place in the set (from 0), and those left out.

    key: a hash of what these rows hold in the columns of the set. revision: the hub's commit, where known.
    """

    rows: Sequence[tuple[int, Row]]
    left_out: Sequence[Misfit]
    key: str
    revision: str | None


def load_questions(name: str, source: str = HUB, *, skip_bad_rows: bool = False) -> Questions:
    """Load the rows of a benchmark and hold each against what its columns must be.

    skip_bad_rows: leave those out that do not fit. Raises what ``load_rows`` does, and ConfigError, with the
    first rows that do not fit and their number, unless they are to be left out or fewer than 2 would remain.
    """
    found, revision = _loaded(name, source)
    columns = SETS[name].columns
    bad = misfits(columns, found)
    told = f"{len(bad)} of {len(found)} do not: " + "; ".join(map(str, bad[:TOLD]))
    told += f"; and {len(bad) - TOLD} more" if len(bad) > TOLD else ""
    if bad and not skip_bad_rows:
        raise ConfigError(
            f"every row of {name} must fit its columns; {told}; mend the data, or let the workload say "
            f"skip_bad_rows: true"
        )
    if len(found) - len(bad) < 2:
        raise ConfigError(
            f"{name} must have 2 rows or more that fit; {source} has {len(found) - len(bad)}"
            + (f" ({told})" if bad else "")
            + "; mend the data"
        )
    left_out = {one.row - 1 for one in bad}
    fitting = [(index, row) for index, row in enumerate(found) if index not in left_out]
    key = digest([[row.get(column) for column in columns] for _, row in fitting])
    return Questions(fitting, bad, key, revision)


def load_rows(name: str, source: str = HUB, limit: int | None = None) -> Sequence[Row]:
    """Load the rows of a data set, in their stored order, whatever their columns hold.

    name: a key of ``SETS``. source: ``"hub"``, or a folder that holds ``<name>.parquet`` or
    ``<name>.jsonl`` with the hub's columns. limit: at most that many rows, from the start; a
    negative one: from the end.

    Raises ConfigError for an unknown set, a missing or unreadable file or a missing column, SetupError when
    the hub does not give the set.
    """
    return _loaded(name, source, limit)[0]


def _loaded(name: str, source: str, limit: int | None = None) -> tuple[Sequence[Row], str | None]:
    """The rows, and their revision on the hub where it is known."""
    spec = SETS.get(name)
    if spec is None:
        raise ConfigError(f"a data set must be one of {', '.join(SETS)}; got {name!r}")
    found: Sequence[Row]
    if source == HUB:
        found, revision = _from_hub(spec, limit)
    else:
        found, revision = read_rows(local_file(name, Path(source)), limit), None
    given = {column for row in found for column in row}
    missing = [column for column in spec.columns if column not in given]
    if missing:
        raise ConfigError(
            f"{name} must have the columns {', '.join(spec.columns)}; {source} lacks {', '.join(missing)}; "
            f"mend the data"
        )
    return found, revision


def local_file(name: str, folder: Path) -> Path:
    """The file of a data set in a folder. Raises ConfigError when there is none."""
    paths = [folder / f"{name}{suffix}" for suffix in (".parquet", ".jsonl")]
    for path in paths:
        if path.is_file():
            return path
    raise ConfigError(
        f"a data folder must hold {paths[0].name} or {paths[1].name}; neither is in {folder}; "
        f"put one there or choose another source"
    )


def read_rows(path: Path, limit: int | None = None) -> list[Row]:
    """The rows of a ``.parquet`` or ``.jsonl`` file. limit: as of ``load_rows``.

    Raises ConfigError for a file that cannot be read.
    """
    rows = _parquet(path) if path.suffix == ".parquet" else _jsonl(path)
    try:
        return list(deque(rows, -limit) if limit and limit < 0 else islice(rows, limit))
    except (OSError, ValueError) as error:  # what pyarrow raises is one of them too
        told = " ".join(str(error).split())[:200]
        raise ConfigError(
            f"a data file must be readable {path.suffix}; {path}: {told}; write it again"
        ) from error


def _parquet(path: Path) -> Iterator[Row]:
    from pyarrow import parquet

    with parquet.ParquetFile(path) as file:
        for batch in file.iter_batches():
            yield from batch.to_pylist()


def _jsonl(path: Path) -> Iterator[Row]:
    blank = 0
    with path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():  # allowed at the end alone: the number of a row is that of its line
                blank = blank or number
                continue
            if blank:
                raise ValueError(f"line {blank} is blank")
            try:
                row = json.loads(line)
            except ValueError as error:
                raise ValueError(f"line {number} is no JSON: {error}") from error
            if not isinstance(row, dict):
                raise ValueError(f"line {number} is no JSON object")
            yield row


def _from_hub(spec: DataSet, limit: int | None) -> tuple[list[Row], str | None]:
    import datasets  # heavy: only a child process loads rows

    datasets.disable_progress_bars()
    split = spec.split if limit is None else f"{spec.split}[{f':{limit}' if limit > 0 else f'{limit}:'}]"
    try:
        table = datasets.load_dataset(spec.hub_id, spec.config, split=split, token=hub_token())
    except Exception as error:
        told = " ".join(str(error).split())
        remedy = "go online once, with HF_TOKEN set if the set needs one"
        if "gated" in told:
            remedy = f"accept its terms at https://huggingface.co/datasets/{spec.hub_id} and set HF_TOKEN"
        raise SetupError(
            f"the data set {spec.hub_id} could not be loaded ({type(error).__name__}: {told[:160]}); "
            f"{remedy}, or give a folder of local files"
        ) from error
    # The library keeps a set under the hash of the hub's commit, and tells it nowhere else.
    kept = [Path(file["filename"]).parent.name for file in table.cache_files]
    return list(table), next((name for name in kept if re.fullmatch("[0-9a-f]{40}", name)), None)
