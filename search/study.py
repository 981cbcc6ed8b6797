"""The Optuna side of a study: its storage, its identity, its mirror, and the trials of dead runs.

A study maximizes the Score and can prune. Its mirror ``<study>-pareto`` holds the finished trials again with
the values (PerfNorm, SpeedNorm): Optuna draws a Pareto front only for a study of two directions, and such a
study cannot prune.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import socket
import sqlite3
import uuid
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.exceptions import ExperimentalWarning, StorageInternalError
from optuna.storages import RDBStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from search.pruning import OptimisticPruner
from search.records import STUDIES, TrialRecord, load_trials, study_folder, write_whole
from squeeze.errors import ConfigError, SetupError

IDENTITY = "identity"
"""User attribute of a study: what must not change over its life, and an id that its files carry too."""

KEPT = ("model_key", "workload", "space", "objective", "schemes")
"""The keys of an identity that must not change."""

RETRY_OF = "retry_of"
"""User attribute of a trial that repeats one that was cut off: that one's number."""

CONFIG = "config_key"
"""User attribute of a finished trial: the key of its configuration."""

OWNER = "owner"
"""User attribute of a trial: the process that runs it, as host:pid:start."""


FINISHED = (TrialState.COMPLETE, TrialState.PRUNED)
"""The states of trials that count."""


def default_storage(study: str) -> str:
    """The URL of a study's database when none is given."""
    return f"sqlite:///{STUDIES / study}.db"


def open_storage(url: str, *, create: bool) -> RDBStorage:
    """Open the database of a URL; with ``create`` make it when it is not there.

    Raises ConfigError when the URL is none or names no database, SetupError when it cannot be opened.
    """
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError) as error:
        raise ConfigError(
            f"--storage must be a database URL like sqlite:///studies/demo.db; got {_hidden(url)!r}"
        ) from error
    shown = parsed.render_as_string(hide_password=True)
    if parsed.get_backend_name() == "sqlite":
        if parsed.database in (None, "", ":memory:"):
            raise ConfigError(f"--storage must name a file, or nothing could be resumed; got {shown}")
        _prepare_sqlite(Path(str(parsed.database)), create=create)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        return RDBStorage(url, engine_kwargs={"pool_pre_ping": True})
    except ImportError as error:
        raise SetupError(f"the storage {shown} needs a driver: {error}; install it") from error
    except (SQLAlchemyError, RuntimeError) as error:
        line = str(getattr(error, "orig", None) or error).splitlines()[0]
        raise SetupError(
            f"the storage {shown} must be a database that opens; {line}; check its address"
        ) from error


def _hidden(url: str) -> str:
    """A text that should have been a URL, without what may be a password."""
    return re.sub(r"//[^@]*@", "//***@", url)


def _prepare_sqlite(path: Path, *, create: bool) -> None:
    """Make or open the file in write-ahead mode, so that a reader never blocks the search."""
    if not create and not path.is_file():
        raise ConfigError(
            f"there is no study database {path}; run `python -m search.run` first, or give --storage"
        )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.closing(sqlite3.connect(path, timeout=30)) as connection:
            if create:
                connection.execute("PRAGMA journal_mode=WAL")
                connection.execute("BEGIN IMMEDIATE")  # fails at once where it cannot be written
            else:
                connection.execute("SELECT count(*) FROM sqlite_master")
    except (OSError, sqlite3.Error) as error:
        raise SetupError(
            f"the study's database must be a writable SQLite file; {path}: {error}; "
            "mend the rights of its folder or give another --storage"
        ) from error


def open_study(name: str, url: str, identity: Mapping[str, Any]) -> tuple[optuna.Study, optuna.Study]:
    """Create a study and its mirror, or open them again.

    identity: the values of ``KEPT`` and ``model``, its readable name. Raises ConfigError when the stored
    study was made with other values, or the study's files belong to another database.
    """
    storage = open_storage(url, create=True)
    study = optuna.create_study(
        study_name=name,
        storage=storage,
        direction=StudyDirection.MAXIMIZE,
        pruner=OptimisticPruner(),
        load_if_exists=True,
    )
    _check_identity(study, identity)
    mirror = optuna.create_study(
        study_name=f"{name}-pareto",
        storage=storage,
        directions=[StudyDirection.MAXIMIZE, StudyDirection.MAXIMIZE],
        load_if_exists=True,
    )
    if IDENTITY not in study.user_attrs:
        with warnings.catch_warnings(action="ignore", category=ExperimentalWarning):
            study.set_metric_names(["Score"])
            mirror.set_metric_names(["PerfNorm", "SpeedNorm"])
        study.set_user_attr(IDENTITY, {**identity, "id": uuid.uuid4().hex})
    _bind_files(study)
    return study, mirror


def _check_identity(study: optuna.Study, identity: Mapping[str, Any]) -> None:
    name = study.study_name
    if len(study.directions) != 1:
        raise ConfigError(f"the study {name!r} has several directions; choose another --study")
    stored = study.user_attrs.get(IDENTITY)
    if stored is None:
        if study.get_trials(deepcopy=False):
            raise ConfigError(f"the study {name!r} was not made by this program; choose another --study")
        return
    for key in KEPT:
        if stored.get(key) != identity[key]:
            told = "model" if key == "model_key" else key
            raise ConfigError(
                f"a study keeps its {told}; {name!r} was made with {stored.get(told)}, "
                f"now {identity[told]}; give the same {told} or another --study"
            )


def _bind_files(study: optuna.Study) -> None:
    """Tie the study's folder to its database. Raises ConfigError when the folder belongs to another one."""
    path = study_folder(study.study_name) / "study.json"
    here = {"id": study.user_attrs[IDENTITY]["id"]}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        if load_trials(study.study_name):
            found = None
        else:
            write_whole(path, json.dumps(here))
            return
    except (OSError, ValueError):
        found = None
    if found != here:
        raise ConfigError(
            f"a study's files and its database belong together; {path.parent} belongs to another database; "
            "give that one as --storage, choose another --study, or move the folder away"
        )


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


def owner() -> str:
    """This process, told apart from a later one of the same pid."""
    return f"{socket.gethostname()}:{os.getpid()}:{_process_start(os.getpid())}"


@contextlib.contextmanager
def told_in_a_line() -> Iterator[None]:
    """Turn what a database raises while it is used (full disk, lock, lost server) into a SetupError."""
    try:
        yield
    except (SQLAlchemyError, StorageInternalError) as error:
        cause = error.__cause__ if isinstance(error, StorageInternalError) else error
        line = str(getattr(cause, "orig", None) or cause or error).splitlines()[0]
        raise SetupError(
            f"the study's database must stay usable; {line}; mend that, the same command goes on"
        ) from error


@contextlib.contextmanager
def alone(study: str) -> Iterator[None]:
    """Keep a second search of the same study on this machine away. Raises SetupError when one runs."""
    folder = study_folder(study)
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise SetupError(
                f"one search of a study runs at a time; {study!r} is being searched already; "
                "see `python -m search.status`, or choose another --study"
            ) from error
        yield


def is_abandoned(trial: FrozenTrial) -> bool:
    """Whether a running trial belongs to a process of this host that is gone. Other hosts' never are."""
    return is_owner_gone(str(trial.user_attrs.get(OWNER, "")))


def is_owner_gone(owned_by: str) -> bool:
    """Whether the process of an ``owner()`` text ran on this host and is gone, or nobody is named."""
    host, _, process = owned_by.partition(":")
    pid, _, start = process.partition(":")
    return not host or (host == socket.gethostname() and _process_start(int(pid)) != start)


def requeue(study: optuna.Study, trial: FrozenTrial) -> None:
    """Queue a trial's parameters again, once; the new trial inherits nothing else."""
    waiting = study.get_trials(deepcopy=False, states=(TrialState.WAITING,))
    # What was queued, which is all of it even where the trial was cut off while it asked for its parameters.
    params = trial.system_attrs.get("fixed_params") or trial.params
    if params and all(other.user_attrs.get(RETRY_OF) != trial.number for other in waiting):
        study.enqueue_trial(params, user_attrs={RETRY_OF: trial.number})


def _process_start(pid: int) -> str | None:
    """The start time of a process in clock ticks since boot; None when there is no such process."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
    except OSError:
        return None
    return stat.rpartition(")")[2].split()[19]
