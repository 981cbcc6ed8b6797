"""Two workers share a study in PostgreSQL; one is killed and the other does its trial."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import optuna
import pytest
import searches
from optuna.exceptions import StorageInternalError
from optuna.trial import FrozenTrial, TrialState
from searches import CANARIES, LONG, STUDY

from search.dashboard import open_read_only
from search.storage import open_storage
from search.workers import RETRY_OF

PASSWORD = "database-canary8e0c"

WORKER = """
import sys, time
import optuna
from search.propose import next_trial
from search.records import TrialRecord
from search.settle import Past, catch_up, reap, settle
from search.study import alone, finished, open_study, this_worker
from search.workers import Reaper, beating
from squeeze.config import CompressionConfig
from squeeze.decoder import Decoder
from squeeze.demo import MODEL_DIR
from squeeze.target import Target

class Space:
    def suggest(self, trial, target):
        return CompressionConfig.model_validate({"depth": {"layers": trial.suggest_int("x", 1, 9)}})
    def recipes(self, target):
        return [{"x": number} for number in range(1, 10)]

url, trials, seconds = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
keys = ("model_key", "model", "workload", "space", "objective")
study, mirror = open_study("chaos", url, {**dict.fromkeys(keys, "same"), "schemes": []})
target, space = Target.contest(Decoder.read(MODEL_DIR)), Space()
with alone("chaos"):
    past = Past.load(study, mirror)
    reaper = Reaper(study, this_worker("chaos"))
    catch_up(study, mirror, past, reaper)
    while finished(study) < trials:
        reap(study, past, reaper)
        if finished(study) + len(reaper.running()) >= trials:
            time.sleep(0.2)
            continue
        trial = next_trial(study, space, target, "random", 1, reaper.me)
        config = space.suggest(trial, target)
        print(trial.number, flush=True)
        with beating(study, trial):
            time.sleep(seconds)
        record = TrialRecord(
            number=trial.number, state="pruned", params=trial.params, config=config, reason="as asked for"
        )
        settle(study, mirror, past, record)
"""
"""A worker as search.run is one, whose trials are a pause instead of an engine."""


@pytest.fixture
def database() -> Iterator[str]:
    """The URL of a database of a server of its own."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if not found:
        pytest.skip("Debian's postgresql is not installed: there is no /usr/lib/postgresql/*/bin/initdb")
    tools = found[-1].parent
    place = Path(tempfile.mkdtemp(prefix="chaos-pg-"))
    user = "postgres" if os.geteuid() == 0 else pwd.getpwuid(os.geteuid()).pw_name

    def tool(name: str, *arguments: str) -> None:
        lowered = ["runuser", "-u", user, "--"] if os.geteuid() == 0 else []
        done = subprocess.run(
            [*lowered, str(tools / name), *arguments], cwd=place, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr

    (place / "password").write_text(PASSWORD)
    if os.geteuid() == 0:
        for path in (place, place / "password"):
            shutil.chown(path, user)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    tool("initdb", "-D", "data", "-U", "squeeze", "-A", "scram-sha-256", "--pwfile", "password", "--no-sync")
    settings = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={place}"
    try:
        tool("pg_ctl", "-D", "data", "-l", "log", "-o", settings, "-w", "start")
        yield f"postgresql://squeeze:{PASSWORD}@127.0.0.1:{port}/postgres"
    finally:
        tool("pg_ctl", "-D", "data", "-m", "immediate", "-w", "stop")
        shutil.rmtree(place)


def trials_of(url: str) -> list[FrozenTrial]:
    """All trials of the study."""
    study = optuna.load_study(study_name=STUDY, storage=open_storage(url, create=False))
    return study.get_trials()


def check_retried(url: str, cut_off: int, finished: int) -> None:
    """The trial that was cut off failed and was done again, once; there are so many finished trials."""
    trials = trials_of(url)
    assert trials[cut_off].state == TrialState.FAIL
    retries = [trial for trial in trials if trial.user_attrs.get(RETRY_OF) == cut_off]
    assert [trial.state in (TrialState.COMPLETE, TrialState.PRUNED) for trial in retries] == [True]
    assert retries[0].params == trials[cut_off].params
    ended = [trial for trial in trials if trial.state in (TrialState.COMPLETE, TrialState.PRUNED)]
    assert len(ended) == finished
    assert len({tuple(sorted(trial.params.items())) for trial in ended}) == finished
    assert not [trial for trial in trials if trial.state in (TrialState.RUNNING, TrialState.WAITING)]


def test_the_trial_of_a_killed_worker_is_done_by_the_other(workplace: Path, database: str) -> None:
    open_storage(database, create=True)
    workers = []
    for name, seconds in (("one", 600.0), ("two", 1.0)):
        Path(name).mkdir()
        command = [sys.executable, "-c", WORKER, database, "5", str(seconds)]
        with Path(name, "talk.txt").open("w") as log:
            workers.append(subprocess.Popen(command, cwd=name, stdout=log, stderr=subprocess.STDOUT))
    one, two = workers
    try:
        first = Path("one/talk.txt")
        ends = time.monotonic() + 120
        while not first.read_text().strip() and time.monotonic() < ends:
            time.sleep(0.05)
        cut_off = int(first.read_text())
        one.kill()
        one.wait()
        assert two.wait(240) == 0, Path("two/talk.txt").read_text()
    finally:
        for worker in workers:
            worker.kill()
            worker.wait()
    check_retried(database, cut_off, 5)
    check_no_password(workplace)
    storage, number = open_read_only(STUDY, database)
    with pytest.raises(StorageInternalError) as caught:
        storage.delete_study(number)
    assert "read-only transaction" in str(caught.value.__cause__)


@pytest.mark.engine
@pytest.mark.skipif(not LONG, reason="the long form: make chaos")
def test_a_search_does_the_trial_of_another_one_that_was_killed(
    workplace: Path, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    places = [workplace / "one", workplace / "two"]
    processes = []
    for place in places:
        place.mkdir()
        monkeypatch.chdir(place)
        searches.prepare()
        processes.append(searches.start(3, "--finalists", "0", "--storage", database))
    one, two = processes
    try:
        monkeypatch.chdir(places[0])
        assert searches.wait_for(lambda: searches.live(one)[1] == "distill", one, 600), searches.talk()
        cut_off = int(searches.live(one)[0].split()[1])
        assert searches.kill_tree(one) > 0
        monkeypatch.chdir(places[1])
        assert two.wait(900) == 0, searches.talk()
    finally:
        for process in processes:
            searches.kill_tree(process)
    check_retried(database, cut_off, 3)
    check_no_password(workplace)


def check_no_password(folder: Path) -> None:
    """Neither the database's password nor any other secret is in a file."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert files
    for path in files:
        content = path.read_bytes()
        for canary in (PASSWORD, *CANARIES.values()):
            assert canary.encode() not in content, path
