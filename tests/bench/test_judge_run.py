"""What a judge keeps, what it keeps to itself, and how it ends."""

from __future__ import annotations

import logging
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from judge_server import KEY, RATED, VERDICT, Reply, Server, fault, judging, said, talk

from squeeze.bench.judge import Judge, JudgeError, Rating
from squeeze.bench.judge_endpoint import TRIES, Endpoint
from squeeze.errors import ConfigError, SetupError

# The cache.


def test_what_was_rated_is_not_asked_for_again_even_without_a_key(
    judge: Judge, server: Server, waits: list[float], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = [talk(81), talk(82, "다른 답")]
    judge.rate(asked)
    monkeypatch.delenv("JUDGE_API_KEY")
    assert judging(server, tmp_path / "cache", waits).rate(asked) == [RATED] * 2
    assert len(server.asked) == 2


@pytest.mark.parametrize(
    "changed", [{"model": "other"}, {"temperature": 0.5}, {"max_tokens": 99}], ids=["model", "heat", "length"]
)
def test_another_model_or_parameter_is_asked_anew(
    judge: Judge, server: Server, tmp_path: Path, changed: dict[str, Any]
) -> None:
    judge.rate([talk()])
    Judge(judge.endpoint.model_copy(update=changed), tmp_path / "cache").rate([talk()])
    assert len(server.asked) == 2


def test_texts_that_only_look_alike_without_their_marks_are_told_apart(judge: Judge, server: Server) -> None:
    within = "가\n end\n\n second question\n나"
    judge.rate([talk(1, "가"), talk(1, within)])
    assert len(server.asked) == 2


def test_a_damaged_cache_is_asked_anew_and_mended(judge: Judge, server: Server, tmp_path: Path) -> None:
    for damage in ("", "{", '{"first": 11, "second": 4}', '{"first": "7", "second": 4}'):
        judge.rate([talk()])
        (path,) = (tmp_path / "cache").iterdir()
        path.write_text(damage)
    assert judge.rate([talk()]) == [RATED]
    assert len(server.asked) == 5
    assert Rating.model_validate_json(path.read_text()) == RATED


def test_a_cache_that_cannot_be_written_is_told(server: Server, waits: list[float], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SetupError, match="cache must be writable"):
        judging(server, tmp_path / "file" / "cache", waits).rate([talk()])


# The key.


def test_the_key_goes_to_the_endpoint_and_nowhere_else(
    judge: Judge,
    server: Server,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-of-somebody-else")
    monkeypatch.setenv("OPENAI_CUSTOM_HEADERS", "Authorization: Bearer sk-of-somebody-else")
    caplog.set_level(logging.DEBUG)
    for name in ("openai", "httpx2", "httpcore2", "asyncio"):
        caplog.set_level(logging.DEBUG, logger=name)
    echoes = [
        fault(429, f"slow down, {KEY}"),
        said({**VERDICT, "first_reason": KEY}),
        said({**VERDICT, KEY: 1}),
        said({**VERDICT, KEY: 1}),
        said({**VERDICT, KEY: 1}),
        *[fault(500, f"{'x' * 190} {KEY}")] * TRIES,
    ]
    errors = []
    server.replies = list(echoes)
    judge.rate([talk(81)])
    for number in (82, 83):
        with pytest.raises(JudgeError) as caught:
            judge.rate([talk(number)])
        errors.append(repr(caught.value) + str(caught.getrepr(style="long", showlocals=False)))
    assert len(server.asked) == len(echoes)
    assert {headers["Authorization"] for headers in server.headers} == {f"Bearer {KEY}"}
    kept = [path.read_text() for path in tmp_path.rglob("*") if path.is_file()]
    assert kept
    assert any(record.name.startswith("openai") for record in caplog.records)
    for text in (*errors, *kept, caplog.text, repr(judge), repr(vars(judge)), repr(judge.endpoint)):
        assert KEY[:10] not in text
    assert "[key]" in errors[0]


@pytest.mark.parametrize("key", [None, "", f"{KEY}\n", f" {KEY}", "열쇠-" + KEY])
def test_a_key_that_is_none_is_a_mistake_told_without_it(
    judge: Judge, server: Server, monkeypatch: pytest.MonkeyPatch, key: str | None
) -> None:
    if key is None:
        monkeypatch.delenv("JUDGE_API_KEY")
    else:
        monkeypatch.setenv("JUDGE_API_KEY", key)
    with pytest.raises(ConfigError, match="JUDGE_API_KEY") as caught:
        judge.rate([talk()])
    assert KEY not in str(caught.value)
    assert server.asked == []


@pytest.mark.parametrize(
    "url", ["", "localhost:8000/v1", "file:///etc", f"http://me:{KEY}@h/v1", f"http://h/v1?key={KEY}"]
)
def test_an_address_that_is_none_or_holds_a_secret_is_a_mistake(url: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="base_url") as caught:
        Judge(Endpoint(base_url=url, model="fair"), tmp_path)
    assert KEY not in str(caught.value)


def test_the_client_is_not_imported_before_it_is_needed() -> None:
    code = "import sys, squeeze.bench.judge; sys.exit('openai' in sys.modules or 'torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@pytest.mark.parametrize(
    "handled", ["", "signal.signal(signal.SIGINT, lambda *_: exec('raise KeyboardInterrupt'))"]
)
def test_an_interrupt_ends_it_at_once_and_what_was_rated_is_kept(
    server: Server, tmp_path: Path, handled: str
) -> None:
    server.replies = [said(VERDICT)]
    server.answer = lambda asked: Reply(200, "late", after_s=60)
    code = f"""
import signal
from pathlib import Path
from squeeze.bench.judge import Judge, Conversation
from squeeze.bench.judge_endpoint import Endpoint
{handled}
talks = [Conversation(number=n, turns=("a", "b"), answers=(str(n), "d")) for n in range(9)]
try:
    Judge(Endpoint(base_url={server.url!r}, model="fair"), Path({str(tmp_path)!r})).rate(talks)
except KeyboardInterrupt:
    print("interrupted")
"""
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    try:
        deadline = time.monotonic() + 60
        while len(server.asked) < 5 and time.monotonic() < deadline:
            time.sleep(0.05)
        assert len(server.asked) == 5
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=45)  # a request would take 60 s
    finally:
        process.kill()
    assert out == "interrupted\n"
    assert len(list(tmp_path.glob("*.json"))) == 1
