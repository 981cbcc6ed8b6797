"""Which models of a study stay on disk: the best few; the best goes only after a better one is verified."""

from __future__ import annotations

import shutil
from pathlib import Path

from search.records import MODELS, TrialRecord, best_first, model_folder
from squeeze.errors import CandidateError, ConfigError
from squeeze.folder import verify_manifest
from squeeze.keys import stage_keys

KEPT = 3
"""How many models of a study are kept."""


def kept_numbers(study: str, records: list[TrialRecord], *, anew: bool = False) -> list[int]:
    """The trials whose models stay, best first: the best ``KEPT`` that are verified by their hashes.

    A model that cannot be read now stays too, but takes nobody's place: it is neither damaged nor known to be
    whole. anew: read every byte now, also of models that this process has verified before.
    """
    there = _models(study)
    kept: list[int] = []
    verified = 0
    for record, _ in best_first([record for record in records if record.number in there]):
        if verified == KEPT:
            break
        whole = is_whole(there[record.number], anew=anew)
        verified += whole is True
        if whole is not False:
            kept.append(record.number)
    return kept


def needed_outputs(best: TrialRecord | None, base_key: str, data: str) -> set[str]:
    """The keys of the stage outputs that the study's best model was made from."""
    if best is None:
        return set()
    return {key.output for key in stage_keys(best.config, base_key, data).values()}


def is_whole(folder: Path, *, anew: bool = False) -> bool | None:
    """Whether a model folder is there with every file as its manifest says; None: it cannot be read now."""
    if not folder.is_dir():
        return False
    try:
        verify_manifest(folder, anew=anew)
    except ConfigError as error:
        cause = error.__cause__
        return None if isinstance(cause, OSError) and not isinstance(cause, FileNotFoundError) else False
    except OSError:
        return None
    return True


def refuse_damaged(folder: Path) -> None:
    """Check a built model against its manifest before it is measured, reading every byte.

    Raises CandidateError (disk: it may be the machine's fault) where a file is missing, differs or cannot be
    read.
    """
    try:
        verify_manifest(folder, anew=True)
    except (ConfigError, OSError) as error:
        raise CandidateError(str(error), stage="load", kind="disk") from error


def delete_others(study: str, records: list[TrialRecord]) -> list[int]:
    """Delete models of finished trials that are not kept, and half-written folders. Returns the numbers.

    A model was measured in the engine before its trial could be complete, so a kept one loads; its hashes are
    checked here, and what is worse goes only then. Folders of trials without a record are left alone; what
    cannot be deleted stays, and is tried again when the next trial ends.
    """
    others = {record.number for record in records} & _models(study).keys()
    if others - set(kept_numbers(study, records)):  # something would go: every byte of what stays is read
        others -= set(kept_numbers(study, records, anew=True))
    else:
        others = set()
    for number in others:
        shutil.rmtree(model_folder(study, number), ignore_errors=True)
    deleted = sorted(number for number in others if not model_folder(study, number).exists())
    for partial in (MODELS / study).glob(".*.partial-*"):
        shutil.rmtree(partial, ignore_errors=True)
    return deleted


def _models(study: str) -> dict[int, Path]:
    """The models that are there: few, however many trials the study has."""
    numbers = {int(path.name) for path in (MODELS / study).glob("[0-9]*") if path.name.isdecimal()}
    folders = {number: model_folder(study, number) for number in numbers}
    return {number: folder for number, folder in folders.items() if folder.exists()}
