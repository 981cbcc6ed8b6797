"""A table of everything in a space, recorded once by the real pipeline, on which searches are replayed."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

from pydantic import ValidationError

from search.records import TrialRecord
from search.speeds import Shape
from squeeze.decoder import Decoder, read_config
from squeeze.errors import RETRIED, ConfigError
from squeeze.records import Estimate, Record
from squeeze.target import Target


class Row(Record):
    """One configuration, measured to the end.

    params: what a sampler asked for. key, shape: of the configuration and of its shape. score: its Score,
    with perf_norm, speed_norm, low, high; None for a candidate that failed. bounds: rung -> the highest
    Score still possible after it. estimates: rung -> what it said. reached: rung -> s since measuring
    began. stages: key of each stage's output -> s to make it. shape_s: to build its shape the cheapest way
    and probe it; 0 where the model itself is that.
    """

    params: Mapping[str, Any]
    key: str
    shape: str
    score: float | None
    low: float | None
    high: float | None
    perf_norm: float | None
    speed_norm: float | None
    bounds: Mapping[str, float]
    estimates: Mapping[str, Estimate]
    reached: Mapping[str, float]
    stages: Mapping[str, float]
    shape_s: float


class Table(Record):
    """What was recorded: model says of what, machine and versions where.

    config: the base's config.json; target: the other fields of the Target that the space was asked with.
    """

    model: str
    config: Mapping[str, Any]
    target: Mapping[str, Any]
    versions: Mapping[str, str]
    machine: str
    rows: tuple[Row, ...]

    @property
    def best(self) -> float:
        """The highest Score in it."""
        return max(row.score for row in self.rows if row.score is not None)

    def made_for(self) -> Target:
        """The target that it was recorded on."""
        fields = dict(self.target)
        if fields["capability"] is not None:
            fields["capability"] = tuple(fields["capability"])
        return Target(Decoder.of(self.config, "the table's base"), **fields)


def load_table(path: Path) -> Table:
    """Read a table. Raises ConfigError, one line, when it cannot be read or holds nothing that was scored."""
    try:
        table = Table.model_validate_json(path.read_bytes())
    except OSError as error:
        raise ConfigError(f"--table must be a readable file; {path}: {error.strerror}") from error
    except ValidationError as error:
        raise ConfigError(
            f"--table must be what --record wrote; {path}: {error.errors()[0]['msg']}; record it again"
        ) from error
    if not any(row.score is not None for row in table.rows):
        raise ConfigError(f"a table must have a row with a Score; {path} has none; record it again")
    return table


def target_fields(base: Path, target: Target) -> dict[str, Any]:
    """``config`` and ``target`` of a table."""
    fields = asdict(target)
    del fields["decoder"]
    return {"config": read_config(base), "target": fields}


def make_rows(records: list[TrialRecord], decoder: Decoder) -> tuple[Row, ...]:
    """A row for each configuration that was measured to the end or failed, of the first such trial.

    Where a trial failed for a reason of the machine, the one that tried the same again counts instead.
    decoder: of the base. A stage's time is the longest that any record gives it: the others found its output
    in the cache. A shape that needed no probe, because another told enough of it, is charged the median of
    those that did.
    """
    seconds: dict[str, float] = defaultdict(float)
    probes: dict[Shape, float] = {}
    for record in records:
        for name, key in (record.artifact.keys if record.artifact else {}).items():
            seconds[key] = max(seconds[key], record.seconds.get(name, 0.0))
        if "shape" in record.seconds:
            probes[Shape.of(record.config, decoder)] = record.seconds["shape"]
    usual = median(probes.values()) if probes else 0.0
    rows: dict[str, Row] = {}
    for record in sorted(records, key=lambda record: record.failure in RETRIED):  # stable: those come last
        if record.state == "pruned" or record.config.key in rows:
            continue
        score, bounds, costly = record.score, dict(record.bounds), record.config.untrained != record.config
        shape = Shape.of(record.config, decoder)
        if costly and "speed" in bounds:
            bounds.setdefault("shape", bounds["speed"])
        rows[record.config.key] = Row(
            params=record.params,
            key=record.config.key,
            shape=shape.name,
            score=score.value if score else None,
            low=score.low if score else None,
            high=score.high if score else None,
            perf_norm=score.perf_norm if score else None,
            speed_norm=score.speed_norm if score else None,
            bounds=bounds,
            estimates=record.estimates,
            reached=record.reached,
            stages={key: seconds[key] for key in (record.artifact.keys if record.artifact else {}).values()},
            shape_s=probes.get(shape, usual) if costly else 0.0,
        )
    return tuple(rows.values())
