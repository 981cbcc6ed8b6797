"""The pairs of a study: what was known here of a model that was submitted, and what the server said of it.

They lie in ``studies/<study>/ledger.jsonl``, one a line; the file is written whole or not at all.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal, get_args

from pydantic import ValidationError

from search.records import STUDIES, TrialRecord, study_folder, write_whole
from squeeze.config import CompressionConfig, Scheme
from squeeze.errors import ConfigError, SetupError
from squeeze.records import Record

NOTHING = "nothing"
"""The family of a model that was not compressed."""


class LocalScore(Record):
    """What is known here of a model: the families of its compression, its Score, and the Score's parts.

    perf_norm, speed_norm: None where only the Score is known.
    """

    families: tuple[str, ...]
    local: float
    perf_norm: float | None = None
    speed_norm: float | None = None

    @property
    def has_parts(self) -> bool:
        """Whether both parts are known."""
        return self.perf_norm is not None and self.speed_norm is not None

    @property
    def family(self) -> str:
        """The families in one word, e.g. ``depth+W8A8``."""
        return "+".join(self.families) or NOTHING


class Pair(LocalScore):
    """A submitted model: what was known here and what the server said.

    trial: its number; None where it is no trial of the study. measured: how the local Score came about.
    date: when it was entered, ISO 8601, UTC.
    """

    server: float
    date: str
    trial: int | None = None
    measured: Literal["once", "twice", "elsewhere"] = "elsewhere"
    note: str = ""

    @property
    def model(self) -> tuple[object, ...]:
        """What tells one model from another; a model that was submitted twice has two pairs."""
        return (self.trial,) if self.trial is not None else (self.families, self.local)


def load_pairs(study: str) -> list[Pair]:
    """The pairs of a study, oldest first. Raises SetupError for a line that cannot be read."""
    path = ledger_path(study)
    pairs: list[Pair] = []
    try:
        for line in path.read_text(encoding="utf-8").splitlines():
            pairs.append(Pair.model_validate_json(line))
    except FileNotFoundError:
        return []
    except (OSError, UnicodeDecodeError, ValidationError) as error:
        raise SetupError(
            f"the ledger must be readable; {path}, line {len(pairs) + 1}: {str(error).splitlines()[0]}; mend "
            f"that line or delete it"
        ) from error
    return pairs


def save_pairs(study: str, pairs: list[Pair]) -> None:
    """Write all pairs of a study."""
    write_whole(ledger_path(study), "".join(f"{pair.model_dump_json()}\n" for pair in pairs))


def entered_on(day: str) -> int:
    """How many pairs were entered on a day (ISO 8601, UTC), in all studies here: the contest counts them all.

    Raises SetupError for a ledger that cannot be read.
    """
    studies = [path.parent.name for path in STUDIES.glob("*/ledger.jsonl")]
    return sum(pair.date.startswith(day) for study in studies for pair in load_pairs(study))


def ledger_path(study: str) -> Path:
    """The file of a study's pairs."""
    return study_folder(study) / "ledger.jsonl"


def local_score(record: TrialRecord) -> LocalScore | None:
    """What is known of a trial, by its confirmed Score where there is one; None without any Score."""
    if (score := record.final) is None:
        return None
    return LocalScore(
        families=record.config.families,
        local=score.value,
        perf_norm=score.perf_norm,
        speed_norm=score.speed_norm,
    )


def parse_family(text: str) -> tuple[str, ...]:
    """The families in a text such as ``finetune+W4A16``, in the order of the stages. Raises ConfigError."""
    named = set() if text == NOTHING else set(text.split("+"))
    known: list[str] = []
    for stage in CompressionConfig.model_fields:
        known += get_args(Scheme) if stage == "quantize" else [stage]
    if unknown := sorted(named - set(known)):
        raise ConfigError(
            f"--family must be {NOTHING}, or some of {', '.join(known)}, joined by '+'; got {unknown[0]!r}"
        )
    return tuple(family for family in known if family in named)
