"""The dashboard in a process of its own, over a real database: it shows, and nothing can be changed."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import optuna
import pytest
from optuna.exceptions import StorageInternalError

from search import dashboard
from search.records import TrialRecord
from search.settle import Past, settle
from search.storage import default_storage
from search.study import open_study
from squeeze.errors import ConfigError, SetupError

IDENTITY = {"model_key": "k", "model": "m", "workload": "w", "space": "s", "objective": "o", "schemes": []}


@pytest.fixture
def study(workplace: Path, scored: Callable[..., TrialRecord]) -> optuna.Study:
    """A study with one finished trial."""
    study, mirror = open_study("demo", default_storage("demo"), IDENTITY)
    study.enqueue_trial({"x": 1})
    study.ask().suggest_int("x", 1, 2)
    settle(study, mirror, Past.load(study, mirror), scored(0, 0.5))
    return study


@pytest.fixture
def served(study: optuna.Study) -> Iterator[str]:
    """The address that the command prints."""
    command = [sys.executable, "-m", "search.dashboard", "--port", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    yield process.stdout.readline().strip()
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=120)[1] == "stopped\n"
    assert process.returncode == 0


def ask(url: str, method: str = "GET", body: bytes | None = None) -> tuple[int, str]:
    request = urllib.request.Request(url, data=body, method=method)
    request.add_header("Content-Type", "application/json")
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def test_the_study_can_be_looked_at_and_not_changed(served: str, study: optuna.Study) -> None:
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+/dashboard/studies/\d+", served)
    root = served.partition("/dashboard")[0]
    code, page = ask(served)
    assert code == 200
    assert "<html" in page
    number = served.rpartition("/")[2]
    before = ask(f"{root}/api/studies/{number}")
    assert before[0] == 200
    assert '"values": [0.5]' in before[1]
    for method, place, body in (
        ("DELETE", f"/api/studies/{number}", None),
        ("POST", "/api/studies", b'{"study_name": "new", "directions": ["minimize"]}'),
        ("POST", f"/api/studies/{number}/rename", b'{"study_name": "renamed"}'),
        ("PUT", f"/api/studies/{number}/note", b'{"body": "<script>", "version": 1}'),
    ):
        assert ask(root + place, method, body) == (403, '{"reason": "this dashboard is for looking only"}')
    assert ask(f"{root}/api/studies/{number}") == before
    assert study.trials[0].value == 0.5


def test_the_database_itself_is_opened_for_reading(study: optuna.Study) -> None:
    storage, number = dashboard.open_read_only("demo", default_storage("demo"))
    with pytest.raises(StorageInternalError) as caught:
        storage.delete_study(number)
    assert "readonly database" in str(caught.value.__cause__)
    study.set_user_attr("while", "it is looked at")
    assert storage.get_study_user_attrs(number)["while"] == "it is looked at"


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (["--study", "never"], "there is no study database"),
        (
            ["--study", "other", "--storage", "sqlite:///studies/demo.db"],
            "must be one of .* demo, demo-pareto",
        ),
        (["--study", "../x"], "a study's name has letters"),
        (["--storage", "nonsense"], "must be a database URL"),
        (["--storage", "sqlite://"], "there is no study database"),
    ],
)
def test_what_cannot_be_shown_is_the_users_mistake(
    study: optuna.Study, options: list[str], line: str
) -> None:
    with pytest.raises(ConfigError, match=line):
        dashboard.main(options)
    assert sorted(path.name for path in Path("studies").glob("*.db")) == ["demo.db"]


def test_an_address_that_cannot_be_had_is_one_line(study: optuna.Study, served: str) -> None:
    port = re.findall(r":(\d+)/", served)[0]
    for options in (["--port", port], ["--port", "99999"], ["--host", "203.0.113.7"]):
        with pytest.raises(SetupError, match="--host and --port must be free"):
            dashboard.main(options)


def test_a_file_that_is_no_database_is_one_line(workplace: Path) -> None:
    Path("studies/demo.db").write_text("this is a letter, not a database\n" * 100)
    with pytest.raises(SetupError, match="not a database"):
        dashboard.main([])
