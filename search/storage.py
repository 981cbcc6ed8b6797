"""The database of a study: opened, or refused with the remedy; what it raises later is told in one line."""

from __future__ import annotations

import contextlib
import re
import sqlite3
import sys
import time
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import optuna
from optuna.exceptions import ExperimentalWarning, StorageInternalError
from optuna.storages import RDBStorage
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, IntegrityError, OperationalError, ProgrammingError, SQLAlchemyError

from search import workers
from search.records import STUDIES
from squeeze.errors import ConfigError, SetupError

BUSY_S = 60
"""How long a write waits while another process writes to the same SQLite file."""

STORAGE_ERRORS = (SQLAlchemyError, StorageInternalError)
"""What a database raises that is lost, full or locked."""

NETWORKED = (
    *("nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "virtiofs", "afs", "ceph", "lustre", "gpfs", "beegfs"),
    *("fuse", "fuse.sshfs", "fuse.ceph", "fuse.glusterfs", "fuse.s3fs", "fuse.gcsfuse", "fuse.rclone"),
    *("fuse.juicefs", "fuse.mfs", "fuse.lustre"),
)
"""File systems, as Linux calls them, that lie on another machine, or may."""

SANDBOXES = ("9p", "virtiofs")
"""Of those the ones that some containers have for their root: then every path is on one, local or not."""

_SECRET = re.compile(r"pass(word|wd)?|secret|token|key", re.IGNORECASE)


def default_storage(study: str) -> str:
    """The URL of a study's database when none is given."""
    return f"sqlite:///{STUDIES / study}.db"


def open_storage(url: str, *, create: bool) -> RDBStorage:
    """Open the database of a URL; with ``create`` make it when it is not there.

    Raises ConfigError when the URL is none or names no database, SetupError when it cannot be opened, is of
    another version of Optuna, or is a SQLite file on another machine's disk.
    """
    parsed = parse_url(url)
    name = shown(parsed)
    options: dict[str, Any] = {"pool_pre_ping": True}
    if parsed.get_backend_name() == "sqlite":
        if parsed.database in (None, "", ":memory:"):
            raise ConfigError(f"--storage must name a file, or nothing could be resumed; got {name}")
        _prepare_sqlite(Path(str(parsed.database)), create=create)
        options["connect_args"] = {"timeout": BUSY_S}
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        return _made(parsed.render_as_string(hide_password=False), options)
    except ImportError as error:
        raise SetupError(f"the storage {name} needs a driver: {error}; install it") from error
    except ValueError as error:  # SQLAlchemy's, of a driver's name in three parts
        raise _no_url(url) from error
    except STORAGE_ERRORS as error:
        raise SetupError(
            f"the storage {name} must be a database that opens; {_cause(error)}; check its address"
        ) from error
    except RuntimeError as error:  # of a version of Optuna whose tables are not this one's
        raise SetupError(
            f"the storage {name} must have the tables of Optuna {optuna.__version__}; {_line(error)}; "
            "upgrade a copy with `optuna storage upgrade`, or give another --storage"
        ) from error


def parse_url(url: str) -> URL:
    """A database's URL with our driver. Raises ConfigError when it is none."""
    try:
        parsed = make_url(url)
        parsed.get_backend_name()
    except (ArgumentError, ValueError) as error:
        raise _no_url(url) from error
    if parsed.drivername == "postgresql":  # which driver that means differs between versions of SQLAlchemy
        return parsed.set(drivername="postgresql+psycopg")
    return parsed


def _no_url(url: str) -> ConfigError:
    return ConfigError(
        f"--storage must be a database URL like sqlite:///studies/demo.db; got {_hidden(url)!r}"
    )


def shown(url: URL) -> str:
    """A URL without its password, also where that is one of the arguments behind the question mark."""
    query = {name: "***" if _SECRET.search(name) else value for name, value in url.query.items()}
    return url.set(query=query).render_as_string(hide_password=True)


def _hidden(url: str) -> str:
    """As much of a text that should have been a URL as cannot be a password."""
    return re.split("[:@?]", url)[0] + "***" if re.search("[@?]", url) else url


def _made(url: str, options: Mapping[str, Any]) -> RDBStorage:
    for again in (True, True, False):
        try:
            with warnings.catch_warnings(action="ignore", category=ExperimentalWarning):
                return RDBStorage(
                    url,
                    engine_kwargs=dict(options),
                    heartbeat_interval=workers.BEAT_S,
                    grace_period=workers.GRACE_S,
                    heartbeat_stale_trial_callback=workers.retry,
                )
        except (IntegrityError, OperationalError, ProgrammingError) as error:
            # Two workers made the tables at once: https://github.com/optuna/optuna/issues/1092
            if not again or not re.search("already exists|duplicate key|UNIQUE constraint", str(error)):
                raise
            time.sleep(1)
    raise AssertionError


def _prepare_sqlite(path: Path, *, create: bool) -> None:
    """Make or open the file in write-ahead mode, so that a reader never blocks the search."""
    if not create and not path.is_file():
        raise ConfigError(
            f"there is no study database {path}; run `python -m search.run` first, or give --storage"
        )
    kind = file_system(path)
    if kind in SANDBOXES and kind == file_system(Path("/")):
        print(
            f"warning: a SQLite database must lie on a disk of this machine; {path} is on {kind}, as is the "
            "root of this container; where that is a network's, give the URL of a PostgreSQL database",
            file=sys.stderr,
        )
    elif kind in NETWORKED:
        raise SetupError(
            f"a SQLite database must lie on a disk of this machine, or it breaks; {path} is on {kind}; "
            "give --storage sqlite:////a/local/folder/study.db, or the URL of a PostgreSQL database"
        )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.closing(sqlite3.connect(path, timeout=BUSY_S)) as connection:
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


def file_system(path: Path, table: Path = Path("/proc/self/mountinfo")) -> str:
    """The type of the file system that holds a path, which need not exist; empty when that is not known.

    table: the mounts, as Linux tells them (proc(5)); later ones hide earlier ones of the same place.
    """
    real = path.resolve()
    found, depth = "", -1
    try:
        lines = table.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    for line in lines:
        before, _, after = line.partition(" - ")
        place = Path(re.sub(r"\\([0-7]{3})", lambda code: chr(int(code[1], 8)), before.split()[4]))
        if real.is_relative_to(place) and len(place.parts) >= depth:
            found, depth = after.split()[0], len(place.parts)
    return found


@contextlib.contextmanager
def told_in_a_line() -> Iterator[None]:
    """Turn what a database raises while it is used (full disk, lock, lost server) into a SetupError."""
    try:
        yield
    except STORAGE_ERRORS as error:
        raise SetupError(
            f"the study's database must stay usable; {_cause(error)}; mend that, the same command goes on"
        ) from error


def _cause(error: BaseException) -> str:
    cause = error.__cause__ if isinstance(error, StorageInternalError) else error
    return _line(getattr(cause, "orig", None) or cause or error)


def _line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
