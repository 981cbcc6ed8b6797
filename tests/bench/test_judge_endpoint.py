"""The judge against a real HTTP server that is busy, broken, out of quota or picky."""

from __future__ import annotations

import json
import sys
import time
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest
from judge_server import KEY, RATED, VERDICT, Reply, Server, fault, judging, said, talk

from squeeze.bench.judge import Judge, JudgeError
from squeeze.bench.judge_endpoint import LONGEST_WAIT_S, TRIES
from squeeze.errors import SetupError

# An endpoint that is busy or broken.


def test_a_storm_of_429_is_waited_out_as_the_endpoint_asks(
    judge: Judge, server: Server, waits: list[float]
) -> None:
    date = formatdate(time.time() + 100, usegmt=True)
    gemini = [{"error": {"code": 429, "details": [{"@type": "RetryInfo", "retryDelay": "17s"}]}}]
    server.replies = [
        fault(429, headers={"Retry-After": "20"}),
        fault(429, headers={"Retry-After": date}),
        Reply(429, json.dumps(gemini)),
    ]
    assert judge.rate([talk()]) == [RATED]
    assert 20 <= waits[0] <= 21
    assert 90 <= waits[1] <= 101
    assert 17 <= waits[2] <= 18
    assert len(server.asked) == 4


@pytest.mark.parametrize("header", ["soon", "nan", "inf", "1e999", "", "-5", "99 Foo 2026"])
def test_without_a_sensible_retry_after_the_waits_double_with_jitter(
    judge: Judge, server: Server, waits: list[float], header: str
) -> None:
    server.replies = [fault(429), fault(503), fault(429), fault(429, headers={"Retry-After": header})]
    assert judge.rate([talk()]) == [RATED]
    for attempt, wait_s in enumerate(waits[:3]):
        assert 2**attempt / 2 <= wait_s <= 2**attempt
    assert 0 <= waits[3] <= 8


def test_errors_of_the_server_dropped_connections_and_hanging_ones_are_tried_again(
    server: Server, waits: list[float], tmp_path: Path
) -> None:
    server.replies = [
        fault(500),
        Reply(502, "<html>bad gateway</html>"),
        Reply(0),
        Reply(200, "late", after_s=1.0),
    ]
    assert judging(server, tmp_path, waits, timeout_s=0.3).rate([talk()]) == [RATED]
    assert len(waits) == 4


def test_an_endpoint_that_stays_broken_ends_the_judging_with_one_line(
    judge: Judge, server: Server, waits: list[float]
) -> None:
    server.answer = lambda asked: fault(500, "out of order")
    with pytest.raises(JudgeError) as caught:
        judge.rate([talk(number) for number in range(81, 161)])
    text = str(caught.value)
    assert "80 of 80 are not" in text
    assert "500: out of order" in text
    assert "\n" not in text
    # Those that were under way at once tried, and no other.
    assert len(server.asked) <= judge.endpoint.parallel * TRIES


def test_an_endpoint_that_is_not_there_is_told(waits: list[float], server: Server, tmp_path: Path) -> None:
    judge = judging(server, tmp_path, waits)
    server.close()
    with pytest.raises(JudgeError, match=r"no connection to http://127\.0\.0\.1"):
        judge.rate([talk()])
    assert len(waits) == TRIES - 1


# A quota is not a rate limit.

DAILY = "Quota exceeded for quota metric, quotaId GenerateRequestsPerDayPerProjectPerModel-FreeTier"


@pytest.mark.parametrize(
    "reply",
    [
        fault(429, "You exceeded your current quota", type="insufficient_quota", code="insufficient_quota"),
        fault(429, "Rate limit reached on requests per day (RPD): Limit 200, Used 200"),
        Reply(429, json.dumps([{"error": {"message": DAILY, "details": [{"retryDelay": "10s"}]}}])),
        fault(429, "Quota exceeded for metric: free_tier_requests, limit: 0, model: x"),
        fault(429, "Slow down", {"Retry-After": str(LONGEST_WAIT_S + 1)}),
        fault(402, "Insufficient credits"),
        fault(403, "Project has no access"),
    ],
)
def test_a_used_up_quota_stops_at_once_with_what_and_the_remedy(
    server: Server, waits: list[float], tmp_path: Path, reply: Reply
) -> None:
    server.replies = [said(VERDICT), reply]
    judge = judging(server, tmp_path, waits, parallel=1)
    with pytest.raises(
        JudgeError, match=r"2 of 3 are not: .*(quota|rest).*; (raise|wait).*run again"
    ) as caught:
        judge.rate([talk(81), talk(82), talk(83)])
    assert "\n" not in str(caught.value)
    assert len(server.asked) == 2
    assert waits == []


def test_a_limit_a_minute_is_waited_out_although_gemini_calls_it_a_quota(
    judge: Judge, server: Server, waits: list[float]
) -> None:
    minute = "You exceeded your current quota, please check your plan and billing details. limit: 15"
    server.replies = [
        Reply(429, json.dumps([{"error": {"message": minute, "status": "RESOURCE_EXHAUSTED"}}]))
    ]
    assert judge.rate([talk()]) == [RATED]
    assert len(waits) == 1


@pytest.mark.parametrize(
    ("reply", "remedy"),
    [
        (
            fault(401, f"Incorrect API key provided: {KEY[:8]}****{KEY[-4:]}"),
            "put a valid one into JUDGE_API_KEY",
        ),
        (Reply(400, json.dumps([{"error": {"message": "API key not valid."}}])), "put a valid one into"),
        (fault(404, "model fair does not exist"), "see that base_url and model are right"),
    ],
)
def test_a_wrong_key_or_model_stops_at_once(judge: Judge, server: Server, reply: Reply, remedy: str) -> None:
    server.answer = lambda asked: reply
    with pytest.raises(JudgeError, match=remedy) as caught:
        judge.rate([talk()])
    assert len(server.asked) == 1
    assert KEY[:8] not in str(caught.value)


def test_an_endpoint_that_refuses_the_option_is_asked_without_it_and_remembered(
    server: Server, waits: list[float], tmp_path: Path
) -> None:
    def answer(asked: dict[str, Any]) -> Reply:
        if "response_format" in asked:
            return fault(400, "response_format is not supported")
        return said("```json\n" + json.dumps(VERDICT) + "\n```")

    server.answer = answer
    judge = judging(server, tmp_path, waits, parallel=1)
    assert judge.rate([talk(81), talk(82), talk(83)]) == [RATED] * 3
    assert ["response_format" in asked for asked in server.asked] == [True, True, False, False, False]
    assert waits == []


def test_an_endpoint_that_takes_no_limit_on_a_text_is_asked_for_the_form_without_one(
    server: Server, waits: list[float], tmp_path: Path
) -> None:
    def answer(asked: dict[str, Any]) -> Reply:
        if "maxLength" in json.dumps(asked.get("response_format")):
            return fault(400, "Invalid schema: 'maxLength' is not permitted")
        return said(VERDICT)

    server.answer = answer
    judge = judging(server, tmp_path, waits, parallel=1)
    assert judge.rate([talk(81), talk(82)]) == [RATED] * 2
    limited = ["maxLength" in json.dumps(asked["response_format"]) for asked in server.asked]
    assert limited == [True, False, False]
    assert waits == []


def test_a_request_that_is_refused_either_way_stops_with_the_endpoints_words(
    judge: Judge, server: Server
) -> None:
    server.answer = lambda asked: fault(422, "max_completion_tokens\nis too large")
    with pytest.raises(JudgeError, match=r"422: max_completion_tokens is too large.*settings"):
        judge.rate([talk()])
    assert len(server.asked) == 3


def test_a_conversation_too_long_for_the_judge_is_named_and_the_others_are_rated(
    server: Server, waits: list[float], tmp_path: Path
) -> None:
    def answer(asked: dict[str, Any]) -> Reply:
        if "긴 답" in asked["messages"][1]["content"]:
            return fault(400, "This model's maximum context length is 32768 tokens; you asked for 40000")
        return said(VERDICT)

    server.answer = answer
    judge = judging(server, tmp_path, waits, parallel=1)
    told = r"1 of 3 are not: question 82: .*context length is 32768 .*; give the judge more context"
    with pytest.raises(JudgeError, match=told):
        judge.rate([talk(81), talk(82, "긴 답"), talk(83)])
    asked = len(server.asked)
    assert judge.rate([talk(81), talk(83)]) == [RATED] * 2
    assert len(server.asked) == asked


def test_without_the_package_that_asks_a_judge_the_remedy_is_told(
    judge: Judge, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "openai", None)
    with pytest.raises(SetupError, match=r"openai, which comes with vLLM; .*install one of the extras"):
        judge.rate([talk()])
    assert server.asked == []


def test_a_judge_that_takes_no_temperature_is_sent_none(
    server: Server, waits: list[float], tmp_path: Path
) -> None:
    judging(server, tmp_path, waits, temperature=None).rate([talk()])
    assert "temperature" not in server.asked[0]
