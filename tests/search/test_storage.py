"""Databases that cannot be used, each told in one line."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path

import optuna
import pytest
from sqlalchemy.engine import make_url

from search import storage, workers
from search.storage import default_storage, file_system, open_storage, shown, told_in_a_line
from search.study import IDENTITY, VERSION, open_study
from squeeze.errors import ConfigError, SetupError

IDENTITY_OF = dict.fromkeys(
    ("model_key", "model", "workload", "space", "objective", "schemes"), "of the test"
)
MOUNTS = """\
22 27 0:21 / /proc rw,nosuid - proc proc rw
27 1 252:1 / / rw,relatime - ext4 /dev/vda1 rw
40 27 0:50 / {place}/far rw,relatime shared:1 - nfs4 host:/export rw,vers=4.2
41 40 0:51 / {place}/far/near rw - ext4 /dev/vdb rw
42 27 0:52 / {place}/with\\040space rw - fuse.sshfs me@host:/ rw
43 27 0:53 / {place}/twice rw - ext4 /dev/vdc rw
44 43 0:54 / {place}/twice rw - 9p share rw
"""


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("here/demo.db", "ext4"),
        ("far/demo.db", "nfs4"),
        ("farther/demo.db", "ext4"),
        ("far/near/demo.db", "ext4"),
        ("with space/demo.db", "fuse.sshfs"),
        ("twice/demo.db", "9p"),
        ("link/demo.db", "nfs4"),
    ],
)
def test_the_file_system_of_a_path_is_that_of_the_nearest_mount(tmp_path: Path, path: str, kind: str) -> None:
    (tmp_path / "far").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "far")
    (tmp_path / "mounts").write_text(MOUNTS.format(place=tmp_path))
    assert file_system(tmp_path / path, tmp_path / "mounts") == kind


def test_the_file_system_here_is_one_of_this_machine(tmp_path: Path) -> None:
    assert file_system(tmp_path) not in ("", *storage.NETWORKED)
    assert file_system(tmp_path, tmp_path / "missing") == ""


@pytest.mark.parametrize(
    "kind",
    ["nfs4", "cifs", "fuse", "fuse.sshfs", "fuse.mfs", "fuse.lustre", "lustre", "ceph", "9p", "virtiofs"],
)
def test_sqlite_on_another_machines_disk_is_refused_with_the_remedy(
    workplace: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr(storage, "file_system", lambda path: "overlay" if path == Path("/") else kind)
    with pytest.raises(SetupError, match=f"studies/demo.db is on {kind}; give --storage"):
        open_storage(default_storage("demo"), create=True)
    assert not Path("studies/demo.db").exists()


def test_in_a_container_whose_root_is_no_disk_either_sqlite_is_used_with_a_warning(
    workplace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(storage, "file_system", lambda _: "9p")
    open_storage(default_storage("demo"), create=True)
    told = capsys.readouterr().err
    assert told.startswith("warning: ") and "studies/demo.db is on 9p, as is the root" in told
    assert told.count("\n") == 1
    assert Path("studies/demo.db").exists()


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://me:canary@localhost:1/x",
        "postgresql://localhost:1/x?user=me&password=canary",
        "postgresql+psycopg://me:canary@localhost:1/x?sslpassword=canary",
        "postgresql://me:can@ary:canary@@/x:y",
        "no url?password=canary",
        "no url?password=can@canary",
        "postgresql:me:canary@localhost/x",
        "postgresql:/me:canary?a=canary@localhost/x",
        "me:canary@localhost/x",
    ],
)
def test_no_password_is_told_when_a_database_cannot_be_reached(workplace: Path, url: str) -> None:
    with pytest.raises((ConfigError, SetupError)) as caught:
        open_storage(url, create=True)
    assert "canary" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_url_is_shown_without_its_passwords() -> None:
    url = make_url("postgresql://me:canary@host/x?password=canary&sslmode=require&passfile=canary")
    assert shown(url) == "postgresql://me:***@host/x?passfile=%2A%2A%2A&password=%2A%2A%2A&sslmode=require"


def test_the_tables_of_another_optuna_are_refused_with_the_remedy(workplace: Path) -> None:
    open_storage(default_storage("demo"), create=True)
    with sqlite3.connect("studies/demo.db") as connection:
        connection.execute("UPDATE alembic_version SET version_num = 'v3.0.0.d'")
    with pytest.raises(SetupError, match=r"must have the tables of Optuna .*; upgrade a copy with") as caught:
        open_storage(default_storage("demo"), create=True)
    assert "\n" not in str(caught.value)


def test_a_study_of_another_version_is_refused_and_left_alone(workplace: Path) -> None:
    study, _ = open_study("demo", default_storage("demo"), IDENTITY_OF)
    assert study.user_attrs[IDENTITY]["version"] == VERSION
    study.set_user_attr(IDENTITY, {**study.user_attrs[IDENTITY], "version": VERSION + 1})
    with pytest.raises(ConfigError, match=f"'demo' has {VERSION + 1}, this program reads {VERSION}"):
        open_study("demo", default_storage("demo"), IDENTITY_OF)


HOLD = """
import sqlite3, sys, time
connection = sqlite3.connect("studies/demo.db", isolation_level=None)
connection.execute("BEGIN IMMEDIATE")
print("held", flush=True)
time.sleep(float(sys.argv[1]))
"""


@pytest.mark.parametrize(("held_s", "waits"), [(2, True), (600, False)])
def test_a_locked_database_is_waited_for_and_then_told_in_a_line(
    workplace: Path, monkeypatch: pytest.MonkeyPatch, held_s: float, waits: bool
) -> None:
    monkeypatch.setattr(storage, "BUSY_S", 30 if waits else 1)
    study, _ = open_study("demo", default_storage("demo"), IDENTITY_OF)
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(held_s)], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    try:
        if waits:
            with told_in_a_line():
                study.enqueue_trial({"x": 1})
            assert len(study.get_trials()) == 1
        else:
            with pytest.raises(SetupError, match="database is locked; mend that"), told_in_a_line():
                study.enqueue_trial({"x": 1})
    finally:
        holder.kill()
        holder.wait()


def test_heartbeats_beside_the_search_lock_nothing(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study, _ = open_study("demo", default_storage("demo"), IDENTITY_OF)
    monkeypatch.setattr(workers, "BEAT_S", 0.001)
    failed = []
    beat = workers.record_heartbeat

    def watched(study: optuna.Study, number: int) -> None:
        try:
            beat(study, number)
        except Exception as error:
            failed.append(error)

    monkeypatch.setattr(workers, "record_heartbeat", watched)
    with pytest.warns(UserWarning, match="Heartbeat"):
        trial = study.ask()
    before = threading.active_count()  # other libraries of this process keep threads of their own
    with workers.beating(study, trial):
        ends = time.monotonic() + 1
        while time.monotonic() < ends:
            trial.set_user_attr("now", time.monotonic())
    assert failed == []
    assert threading.active_count() < before + 10


@pytest.mark.parametrize("url", ["+x+x://", "sqlite+a+b:///x.db", "a.b.c://"])
def test_a_drivers_name_in_three_parts_is_no_url(workplace: Path, url: str) -> None:
    with pytest.raises(ConfigError, match=r"^--storage must be"):
        open_storage(url, create=True)
