"""The Optuna side of a study: its storage, its identity, its mirror, and the trials of dead runs.

A study maximizes the Score and can prune. Its mirror ``<study>-pareto`` holds the finished trials again with
the values (PerfNorm, SpeedNorm): Optuna draws a Pareto front only for a study of two directions, and such a
study cannot prune.
"""

from __future__ import annotations

import contextlib
import os
import socket
import sqlite3
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import TPESampler
from optuna.storages import RDBStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from search.pruning import OptimisticPruner
from search.records import STUDIES, TrialRecord
from squeeze.errors import ConfigError, SetupError

IDENTITY = ("model_key", "space", "objective", "schemes")
"""User attributes of a study that must not change over its life."""

RETRY_OF = "retry_of"
"""User attribute of a trial that repeats one that was cut off: that one's number."""

OWNER = "owner"
"""User attribute of a trial: the process that runs it, as host:pid:start."""


def default_storage(study: str) -> str:
    """The URL of a study's database when none is given."""
    return f"sqlite:///{STUDIES / study}.db"


def open_storage(url: str, *, create: bool) -> RDBStorage:
    """Open the database of a URL; with ``create`` make it when it is not there.

    Raises ConfigError when the URL is none or names no database, SetupError when it cannot be opened.
    """
    try:
        parsed = make_url(url)
    except ArgumentError as error:
        raise ConfigError(
            f"--storage must be a database URL like sqlite:///studies/demo.db; got {url!r}"
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

    identity: the values of ``IDENTITY`` and ``model``, its readable name. Raises ConfigError when the
    stored study was made with other values.
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
    if not study.user_attrs:
        with warnings.catch_warnings(action="ignore", category=ExperimentalWarning):
            study.set_metric_names(["Score"])
            mirror.set_metric_names(["PerfNorm", "SpeedNorm"])
        for key, value in identity.items():
            study.set_user_attr(key, value)
    return study, mirror


def _check_identity(study: optuna.Study, identity: Mapping[str, Any]) -> None:
    stored = study.user_attrs
    if len(study.directions) != 1:
        raise ConfigError(f"the study {study.study_name!r} has several directions; choose another --study")
    if not stored:
        if study.get_trials(deepcopy=False):
            raise ConfigError(
                f"the study {study.study_name!r} was not made by this program; choose another --study"
            )
        return
    for key in IDENTITY:
        if stored.get(key) != identity[key]:
            told = "model" if key == "model_key" else key
            raise ConfigError(
                f"a study keeps its {told}; {study.study_name!r} was made with {stored.get(told)}, "
                f"now {identity[told]}; give the same {told} or another --study"
            )


def finished(study: optuna.Study) -> int:
    """How many trials count: complete or pruned."""
    states = (TrialState.COMPLETE, TrialState.PRUNED)
    return len(study.get_trials(deepcopy=False, states=states))


def next_trial(study: optuna.Study, recipes: Sequence[Mapping[str, Any]], seed: int) -> optuna.Trial:
    """The next trial: one that waits, else the next recipe, else what the sampler proposes.

    Recipes are queued one at a time and the sampler is seeded by how many trials are finished, so that an
    interrupted search goes on as an uninterrupted one would.
    """
    count = finished(study)
    waiting = study.get_trials(deepcopy=False, states=(TrialState.WAITING,))
    if not waiting and count < len(recipes):
        study.enqueue_trial(dict(recipes[count]))
    study.sampler = TPESampler(seed=seed + count)
    return study.ask()


def add_to_mirror(mirror: optuna.Study, record: TrialRecord, source: FrozenTrial) -> None:
    """Put a scored trial into the mirror, once."""
    if record.score is None:
        return
    for seen in mirror.get_trials(deepcopy=False):
        if seen.user_attrs.get("trial") == record.number:
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


def owner() -> str:
    """This process, told apart from a later one of the same pid."""
    return f"{socket.gethostname()}:{os.getpid()}:{_process_start(os.getpid())}"


def is_abandoned(trial: FrozenTrial) -> bool:
    """Whether a running trial belongs to a process of this host that is gone. Other hosts' never are."""
    return is_owner_gone(str(trial.user_attrs.get(OWNER, "")))


def is_owner_gone(owned_by: str) -> bool:
    """Whether the process of an ``owner()`` text ran on this host and is gone, or nobody is named."""
    host, _, process = owned_by.partition(":")
    pid, _, start = process.partition(":")
    return not host or (host == socket.gethostname() and _process_start(int(pid)) != start)


def requeue(study: optuna.Study, trial: FrozenTrial) -> None:
    """Queue a trial's parameters again; the new trial inherits nothing else."""
    if trial.params:
        study.enqueue_trial(trial.params, user_attrs={RETRY_OF: trial.number})


def _process_start(pid: int) -> str | None:
    """The start time of a process in clock ticks since boot; None when there is no such process."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
    except OSError:
        return None
    return stat.rpartition(")")[2].split()[19]
