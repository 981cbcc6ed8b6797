"""The Optuna side of a study: its identity, its mirror, and the folder whose files go with it.

A study maximizes the Score and can prune. Its mirror ``<study>-pareto`` holds the finished trials again with
the values (PerfNorm, SpeedNorm): Optuna draws a Pareto front only for a study of two directions, and such a
study cannot prune.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import time
import uuid
import warnings
from collections.abc import Iterator, Mapping
from typing import IO, Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.exceptions import DuplicatedStudyError, ExperimentalWarning
from optuna.storages import RDBStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from search.pruning import OptimisticPruner
from search.records import TrialRecord, load_trials, study_folder, write_whole
from search.storage import open_storage, told_in_a_line
from search.workers import owner
from squeeze.errors import ConfigError, SetupError

IDENTITY = "identity"
"""User attribute of a study: what must not change over its life, and an id that its files carry too."""

BINDING = "study.json"
"""The file of a study's folder with the id of its database, and a name for the searches of this folder."""

VERSION = 1
"""Of what is stored in a study; another version's is refused. Studies that tell none have 1."""

KEPT = ("model_key", "workload", "space", "objective", "schemes")
"""The keys of an identity that must not change."""

LOCK_S = 1.0
"""How long a search that starts waits for its folder, which ``is_searched`` may be looking at."""

IDENTITY_S = 5.0
"""How long the worker that makes a study may take to write its identity, before another does it."""

FINISHED = (TrialState.COMPLETE, TrialState.PRUNED)
"""The states of trials that count."""


def open_study(name: str, url: str, identity: Mapping[str, Any]) -> tuple[optuna.Study, optuna.Study]:
    """Create a study and its mirror, or open them again.

    identity: the values of ``KEPT`` and ``model``, its readable name. Raises ConfigError when the stored
    study was made with other values, or the study's files belong to another database.
    """
    storage = open_storage(url, create=True)
    with told_in_a_line():
        study, mine = _created(name, storage)
        _check_identity(study, identity)
        mirror = optuna.create_study(
            study_name=f"{name}-pareto",
            storage=storage,
            directions=[StudyDirection.MAXIMIZE, StudyDirection.MAXIMIZE],
            load_if_exists=True,
        )
        if mine:
            with warnings.catch_warnings(action="ignore", category=ExperimentalWarning):
                study.set_metric_names(["Score"])
                mirror.set_metric_names(["PerfNorm", "SpeedNorm"])
            made = {**identity, "version": VERSION, "id": uuid.uuid4().hex}
            study.set_user_attr(IDENTITY, made)
        _bind_files(study)
    return study, mirror


def _created(name: str, storage: RDBStorage) -> tuple[optuna.Study, bool]:
    """The study, made if there is none, and whether its identity is to be written by this process."""
    pruner = OptimisticPruner()
    with contextlib.suppress(DuplicatedStudyError):
        return optuna.create_study(
            study_name=name, storage=storage, direction=StudyDirection.MAXIMIZE, pruner=pruner
        ), True
    study = optuna.load_study(study_name=name, storage=storage, pruner=pruner)
    ends = time.monotonic() + IDENTITY_S
    while IDENTITY not in study.user_attrs and not study.get_trials(deepcopy=False):
        if time.monotonic() > ends:  # who made it has died before that
            return study, True
        time.sleep(0.2)
    return study, False


def _check_identity(study: optuna.Study, identity: Mapping[str, Any]) -> None:
    name = study.study_name
    if len(study.directions) != 1:
        raise ConfigError(f"the study {name!r} has several directions; choose another --study")
    stored = study.user_attrs.get(IDENTITY)
    if stored is None:
        if study.get_trials(deepcopy=False):
            raise ConfigError(f"the study {name!r} was not made by this program; choose another --study")
        return
    if stored.get("version", 1) != VERSION:
        raise ConfigError(
            f"a study keeps the version of its contents; {name!r} has {stored.get('version')}, this program "
            f"reads {VERSION}; go on with the program that made it, or choose another --study"
        )
    for key in KEPT:
        if stored.get(key) != identity[key]:
            told = "model" if key == "model_key" else key
            raise ConfigError(
                f"a study keeps its {told}; {name!r} was made with {stored.get(told)}, "
                f"now {identity[told]}; give the same {told} or another --study"
            )


def _bind_files(study: optuna.Study) -> None:
    """Tie the study's folder to its database. Raises ConfigError when the folder belongs to another one."""
    folder = study_folder(study.study_name)
    here = study.user_attrs[IDENTITY]["id"]
    found = _binding(study.study_name)
    if found is None and not (folder / BINDING).exists() and not load_trials(study.study_name):
        found = {"id": here}
    if found is None or found.get("id") != here:
        raise ConfigError(
            f"a study's files and its database belong together; {folder} belongs to another database; "
            "give that one as --storage, choose another --study, or move the folder away"
        )
    if "worker" not in found:
        write_whole(folder / BINDING, json.dumps({**found, "worker": uuid.uuid4().hex[:12]}))


def _binding(study: str) -> dict[str, Any] | None:
    try:
        found = json.loads((study_folder(study) / BINDING).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def this_worker(study: str) -> str:
    """``owner()`` of this process, with the name of the worker whose files are in the study's folder here."""
    return owner(str((_binding(study) or {}).get("worker", "")))


def finished(study: optuna.Study) -> int:
    """How many trials count: complete or pruned."""
    return len(study.get_trials(deepcopy=False, states=FINISHED))


def mirrored(mirror: optuna.Study) -> set[int]:
    """The numbers of the trials that a mirror holds."""
    trials = mirror.get_trials(deepcopy=False)
    return {trial.user_attrs["trial"] for trial in trials if "trial" in trial.user_attrs}


def add_to_mirror(mirror: optuna.Study, record: TrialRecord, source: FrozenTrial, seen: set[int]) -> None:
    """Put a scored trial into the mirror, once. seen: the numbers that it holds; added to."""
    if record.score is None or record.number in seen:
        return
    distributions: dict[str, BaseDistribution] = source.distributions
    mirror.add_trial(
        optuna.trial.create_trial(
            state=TrialState.COMPLETE,
            values=[record.score.perf_norm, record.score.speed_norm],
            params=source.params,
            distributions=distributions,
            user_attrs={
                "trial": record.number,
                "Score": record.score.value,
                "compression": " + ".join(record.config.families) or "none",
            },
        )
    )
    seen.add(record.number)


@contextlib.contextmanager
def alone(study: str) -> Iterator[None]:
    """Keep a second search of the same study in this folder away. Raises SetupError when one runs.

    Searches in other folders may join the study where they can reach its database.
    """
    folder = study_folder(study)
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        ends = time.monotonic() + LOCK_S
        while not _locked(lock, fcntl.LOCK_EX):
            if time.monotonic() > ends:
                raise SetupError(
                    f"one search of a study runs in a folder at a time; {study!r} is being searched already; "
                    "see `python -m search.status`, choose another --study, or join it from another checkout"
                )
            time.sleep(0.05)
        yield


def is_searched(study: str) -> bool:
    """Whether a search of the study runs in this folder now."""
    try:
        with (study_folder(study) / "lock").open("r") as lock:
            return not _locked(lock, fcntl.LOCK_SH)
    except FileNotFoundError:
        return False


def _locked(lock: IO[str], kind: int) -> bool:
    """Whether the file could be locked. Raises SetupError where its file system has no locks."""
    try:
        fcntl.flock(lock, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        raise SetupError(
            f"a study's folder must be on a file system with locks; {lock.name}: {error.strerror}; "
            "run in a folder on a disk of this machine"
        ) from error
    return True
