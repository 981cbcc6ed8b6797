"""The files of a study: trials, raw measurements, baselines, speeds of shapes; written whole or not at all.

Raw measurements are large and lie apart, so that a study's table is read at once.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from squeeze.config import CompressionConfig
from squeeze.errors import ConfigError, FailureClass, SetupError
from squeeze.failures import is_full
from squeeze.folder import flush
from squeeze.records import Artifact, Estimate, Measurement, Record, Score

STUDIES = Path("studies")
MODELS = Path("models")
CACHE = ".cache"
"""The folder of ``MODELS`` where outputs of stages are kept, for all studies."""

RESERVE = "reserve"
"""The file of a study's folder that only holds disk space, for the record of a trial that finds none."""

RESERVE_BYTES = 32 << 20
"""More than a record, its raw measurement and what the database writes about it."""

_LONGEST_NAME = 200
"""Bytes of a study's name: with what is added to it, it is a file's name still."""

State = Literal["complete", "pruned", "failed"]


class Confirmation(Record):
    """What a trial's second measurement, in fresh processes, came to.

    baseline: key of the baseline's measurement that it was scored against. again: from it alone, so that the
    luck that made the trial a finalist has no part in it. pooled: from the questions and timed passes of
    both, which is surer; ``again`` once more where the first was made beside another engine's baseline.
    first_baseline: key of the baseline's measurement that goes with the first; None where nothing is pooled,
    or where it is ``baseline``, too. held_out: benchmark -> questions that were not asked at first.
    """

    baseline: str
    again: Score
    pooled: Score
    first_baseline: str | None = None
    held_out: Mapping[str, int] = {}


class TrialRecord(Record):
    """All that is known of a finished trial.

    number: Optuna's trial number. params: what the sampler chose. measurement: raw numbers, stored apart
    and not loaded with the record. baseline: key of the baseline's measurement that it was scored against.
    bounds: rung -> the highest Score still possible after it. estimates: rung -> what it said. reached:
    rung -> s since measuring began. seconds: stage -> s. reason: why it was pruned or failed; None when it
    was measured to the end. failure: its class. log_tail: what its process printed last, when it failed.
    audit: why it would have been pruned, had it not been drawn to be measured to the end all the same.
    audit_best: what was to beat then. score: what it measured, which Optuna has too and which never changes.
    confirmation: what a finalist's second measurement said.
    """

    number: int
    state: State
    params: Mapping[str, Any]
    config: CompressionConfig
    artifact: Artifact | None = None
    measurement: Measurement | None = None
    score: Score | None = None
    baseline: str | None = None
    bounds: Mapping[str, float] = {}
    estimates: Mapping[str, Estimate] = {}
    reached: Mapping[str, float] = {}
    seconds: Mapping[str, float] = {}
    reason: str | None = None
    failure: FailureClass | None = None
    log_tail: str | None = None
    audit: str | None = None
    audit_best: float | None = None
    confirmation: Confirmation | None = None

    @property
    def confirmed(self) -> Score | None:
        """The Score from both measurements; None when the trial was measured once or not at all."""
        return self.confirmation.pooled if self.confirmation else None

    @property
    def final(self) -> Score | None:
        """The confirmed Score, or else the first one."""
        return self.confirmed or self.score

    @property
    def wrongly_pruned(self) -> bool | None:
        """Whether a prune that was audited would have lost a new best; None where none was, or it failed."""
        if self.audit_best is None or self.score is None:
            return None
        return self.score.value > self.audit_best


def study_folder(study: str) -> Path:
    """The folder of a study's files."""
    return STUDIES / study


def model_folder(study: str, number: int) -> Path:
    """Where a trial's model is, while it is kept."""
    return MODELS / study / f"{number:04d}"


def save_trial(study: str, record: TrialRecord) -> None:
    """Write a trial's record, replacing an older one of its number; its raw measurement, apart, first.

    On a full disk it takes the space that was set aside. Raises SetupError when it cannot be written.
    """
    try:
        _write_trial(study, record)
    except SetupError as error:
        reserve = study_folder(study) / RESERVE
        if not is_full(error) or not reserve.exists():
            raise
        reserve.unlink()
        _write_trial(study, record)


def set_aside(study: str) -> None:
    """Hold ``RESERVE_BYTES`` of disk for ``save_trial``; nothing where there is no room."""
    path = study_folder(study) / RESERVE
    try:
        with path.open("ab") as file:
            if file.tell() < RESERVE_BYTES:
                os.posix_fallocate(file.fileno(), 0, RESERVE_BYTES)
    except OSError:
        with contextlib.suppress(OSError):
            path.unlink()


def _write_trial(study: str, record: TrialRecord) -> None:
    folder, name = study_folder(study), f"{record.number:04d}.json"
    if record.measurement is not None:
        write_whole(folder / "measurements" / name, record.measurement.model_dump_json(indent=1))
    write_whole(folder / "trials" / name, record.model_dump_json(indent=1, exclude={"measurement"}))


def has_record(study: str, number: int) -> bool:
    """Whether a trial's record is on the disk."""
    return (study_folder(study) / "trials" / f"{number:04d}.json").is_file()


def forget_trial(study: str, number: int) -> None:
    """Remove what there is of a trial that is done again: its record first, measurements and model."""
    raw = study_folder(study) / "measurements" / f"{number:04d}.json"
    for path in (study_folder(study) / "trials" / raw.name, raw, _again(study, number)):
        with contextlib.suppress(OSError):
            path.unlink()
    shutil.rmtree(model_folder(study, number), ignore_errors=True)


def load_trials(study: str) -> list[TrialRecord]:
    """The records of a study in order of number, without their measurements; empty when there are none.

    Raises SetupError for a record that cannot be read.
    """
    records = []
    for path in sorted((study_folder(study) / "trials").glob("[0-9]*.json")):
        try:
            records.append(TrialRecord.model_validate_json(path.read_text(encoding="utf-8")))
        except (OSError, ValueError) as error:  # ValidationError is one, and so is what is no UTF-8
            raise SetupError(
                f"a trial's record must be readable; {path}: {str(error).splitlines()[0]}; "
                f"move it away to go on without it"
            ) from error
    return records


def best_first(records: list[TrialRecord]) -> list[tuple[TrialRecord, Score]]:
    """The trials measured to the end with their final Scores: the best, then the others, highest first.

    The best is the confirmed trial with the highest confirmed Score, if any is confirmed: the highest of many
    first Scores is also the luckiest, and one that was not measured again must not beat those that were. It
    comes next where it is higher, so that its model is kept until it is measured again itself. Ties go to the
    smaller number.
    """
    scored = [(record, record.final) for record in records if record.state == "complete" and record.final]
    scored.sort(key=lambda pair: (-pair[1].value, pair[0].number))
    best = next((place for place, (record, _) in enumerate(scored) if record.confirmed), 0)
    return [*scored[best : best + 1], *scored[:best], *scored[best + 1 :]]


def standing(records: list[TrialRecord]) -> dict[int, Literal["best", "tie"]]:
    """Number -> ``best``, or ``tie`` where the interval is not wholly below the best's."""
    ranked = best_first(records)
    found: dict[int, Literal["best", "tie"]] = {
        record.number: "tie" for record, score in ranked if score.high >= ranked[0][1].low
    }
    if ranked:
        found[ranked[0][0].number] = "best"
    return found


def audits(records: list[TrialRecord]) -> tuple[int, int]:
    """How many prunes were audited to the end, and how many of those were wrong."""
    judged = [record.wrongly_pruned for record in records if record.wrongly_pruned is not None]
    return len(judged), sum(judged)


def audits_told(records: list[TrialRecord]) -> str:
    """How many trials were pruned, how many prunes were audited instead, and how those came out."""
    judged, wrong = audits(records)
    pruned = sum(record.state == "pruned" for record in records)
    return f"{pruned} trials pruned; prunes audited to the end: {judged}, of which wrong: {wrong}"


def load_measurement(study: str, number: int) -> Measurement | None:
    """A trial's raw measurement; None when there is none that can be read."""
    return read_measurement(study_folder(study) / "measurements" / f"{number:04d}.json")


def save_again(study: str, number: int, measurement: Measurement) -> None:
    """Write the raw second measurement of a trial beside its first."""
    write_whole(_again(study, number), measurement.model_dump_json(indent=1))


def load_again(study: str, number: int) -> Measurement | None:
    """A trial's raw second measurement; None when there is none that can be read."""
    return read_measurement(_again(study, number))


def _again(study: str, number: int) -> Path:
    return study_folder(study) / "measurements" / f"{number:04d}-again.json"


def save_baseline(study: str, key: str, baseline: Measurement) -> None:
    """Write the baseline's measurement under its key."""
    write_whole(study_folder(study) / "baselines" / f"{key}.json", baseline.model_dump_json(indent=1))


def load_baseline(study: str, key: str) -> Measurement | None:
    """The baseline's measurement of that key; None when there is none that can be read."""
    return read_measurement(study_folder(study) / "baselines" / f"{key}.json")


def read_measurement(path: Path) -> Measurement | None:
    """A stored measurement; None when there is none that can be read."""
    try:
        return Measurement.model_validate_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def write_whole(path: Path, text: str) -> None:
    """Write a file so that a reader, or the next start, sees the old or the new content, nothing between.

    Raises SetupError when the place cannot be written.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
        flush(path.parent)  # else the rename itself may be lost with the power
    except OSError as error:
        with contextlib.suppress(OSError):
            partial.unlink()
        raise SetupError(
            f"{path} must be writable; {error.strerror}; free space or mend its rights"
        ) from error


def check_name(study: str) -> str:
    """The name of a study, once it is known to be fit for a file name. Raises ConfigError."""
    if not study or not all(char.isalnum() or char in "-_." for char in study) or study.startswith("."):
        raise ConfigError(f"a study's name has letters, digits, '-', '_' and '.'; got {study!r}")
    if len(study.encode()) > _LONGEST_NAME:
        raise ConfigError(f"a study's name has at most {_LONGEST_NAME} bytes; got {len(study.encode())}")
    if study.endswith("-pareto"):
        raise ConfigError(f"a study's name must not end in '-pareto', its mirror's ending; got {study!r}")
    return study
