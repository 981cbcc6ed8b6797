"""Which models of a study stay on disk: the best few; the best goes only after a better one is verified."""

from __future__ import annotations

import shutil
from pathlib import Path

from search.records import MODELS, TrialRecord, best_first, load_trials, model_folder
from squeeze.errors import ConfigError
from squeeze.folder import verify_manifest
from squeeze.pipeline import stage_keys

KEPT = 3
"""How many models of a study are kept."""


def kept_numbers(study: str, records: list[TrialRecord]) -> list[int]:
    """The trials whose models stay: the best ``KEPT`` whose folders are there and whole, best first."""
    kept: list[int] = []
    for record, _ in best_first(records):
        if len(kept) == KEPT:
            break
        if is_whole(model_folder(study, record.number)):
            kept.append(record.number)
    return kept


def needed_outputs(study: str, base_key: str, data: str) -> set[str]:
    """The keys of the stage outputs that the study's best model was made from."""
    for best, _ in best_first(load_trials(study)):
        keys = stage_keys(best.config, base_key, data).values()
        return {key.output for key in keys}
    return set()


def is_whole(folder: Path) -> bool:
    """Whether a model folder is there and no file is known to differ from its manifest.

    A file that cannot be read now is no proof of damage: the folder counts as whole and stays.
    """
    if not folder.is_dir():
        return False
    try:
        verify_manifest(folder)
    except ConfigError:
        return False
    except OSError:
        return True
    return True


def delete_others(study: str, records: list[TrialRecord]) -> list[int]:
    """Delete models of finished trials that are not kept, and half-written folders. Returns the numbers.

    A model was measured in the engine before its trial could be complete, so a kept one loads; its hashes are
    checked here, and what is worse goes only then. Folders of trials without a record are left alone.
    """
    kept = kept_numbers(study, records)
    deleted = []
    for record in records:
        folder = model_folder(study, record.number)
        if record.number not in kept and folder.exists():
            shutil.rmtree(folder)
            deleted.append(record.number)
    for partial in (MODELS / study).glob(".*.partial-*"):
        shutil.rmtree(partial, ignore_errors=True)
    return deleted
