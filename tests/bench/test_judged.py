"""A judged KoMT-Bench in a real measurement: rated whole, left out for everybody, or a failed candidate."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from judge_server import RATED, VERDICT, Reply, Server, fault, said

from objectives import competition
from search import bench as command
from squeeze.bench.judge_endpoint import Endpoint
from squeeze.bench.measure import Bench
from squeeze.bench.workload import EngineArguments, Workload
from squeeze.decoder import Decoder
from squeeze.demo import DATA_DIR, MODEL_DIR
from squeeze.errors import CandidateError
from squeeze.records import Measurement
from squeeze.target import Target

pytestmark = pytest.mark.engine

WORKLOAD = Workload(
    name="test",
    data=str(DATA_DIR),
    questions={"kmmlu_redux": 6, "komt_bench": 4},
    max_tokens=16,
    probe=2,
    divergence=None,
    probes=1,
    repeats=2,
    start_deadline_s=300,
    part_deadline_s=120,
    engine=EngineArguments(max_model_len=2048, kv_cache_gib=1),
)


@pytest.fixture
def bench(server: Server, tmp_path: Path) -> Iterator[Bench]:
    workload = WORKLOAD.model_copy(update={"judge": Endpoint(base_url=server.url, model="fair")})
    target = Target.here(Decoder.read(MODEL_DIR))
    with Bench(workload, MODEL_DIR, target, log=tmp_path / "log", ratings=tmp_path / "ratings") as one:
        yield one


def test_conversations_are_rated_between_timed_passes_and_what_was_rated_is_not_asked_for_again(
    bench: Bench, server: Server, tmp_path: Path
) -> None:
    moments: list[float] = []

    def answer(asked: dict[str, Any]) -> Reply:
        moments.append(time.time())
        return said(VERDICT)

    server.answer = answer
    baseline = bench.measure_baseline()
    assert [question.score for question in baseline.questions["komt_bench"]] == [RATED.score] * 4
    assert baseline.unscored == {}
    for question in baseline.questions["komt_bench"]:
        shown = [asked["messages"][1]["content"] for asked in server.asked]
        assert any(all(answer in text for answer in question.answers) for text in shown)
    assert len(moments) == 4
    last = baseline.passes[-1]
    assert min(moments) > last.started + sum(timing.seconds for timing in last.timings.values())

    *_, rest, repeats = bench.measure(MODEL_DIR, log=tmp_path / "candidate")
    assert len(moments) == 4  # the same answers
    assert rest.accuracy["komt_bench"] == pytest.approx(RATED.score)
    assert repeats.questions == baseline.questions

    moments.clear()
    shutil.rmtree(tmp_path / "ratings")
    rungs = list(bench.measure(MODEL_DIR, log=tmp_path / "candidate"))
    assert [one.accuracy.get("komt_bench") is not None for one in rungs] == [False, False, True, True]
    assert len(moments) == 4
    first, second = rungs[-1].passes
    timings = (*first.timings.values(), *rungs[-1].reference[0].timings.values())
    assert first.started + sum(timing.seconds for timing in timings) < min(moments)
    assert max(moments) < second.started
    score = competition.score(rungs[-1], baseline)
    assert (score.perf_norm, score.left_out) == (1.0, {})
    assert Measurement.model_validate_json(rungs[-1].model_dump_json()) == rungs[-1]


def test_a_judge_that_fails_at_the_baseline_is_not_asked_about_candidates_and_the_reason_is_kept(
    bench: Bench, server: Server, tmp_path: Path
) -> None:
    server.answer = lambda asked: said("10 points!")
    server.replies = [said(VERDICT)]
    baseline = bench.measure_baseline()
    assert "komt_bench" not in baseline.accuracy
    assert "3 of 4 are not" in baseline.unscored["komt_bench"]
    server.asked.clear()
    *_, measured = bench.measure(MODEL_DIR, log=tmp_path / "candidate")
    assert server.asked == []
    score = competition.score(measured, baseline)
    assert score.perf_norm == 1.0
    assert score.left_out == baseline.unscored


def test_a_judge_that_fails_at_a_candidate_fails_the_candidate_after_its_answers_and_before_more_passes(
    bench: Bench, server: Server, tmp_path: Path
) -> None:
    bench.measure_baseline()
    shutil.rmtree(tmp_path / "ratings")
    server.answer = lambda asked: fault(429, "Requests per day: limit reached")
    measuring = bench.measure(MODEL_DIR, log=tmp_path / "candidate")
    reached = []
    with pytest.raises(CandidateError, match=r"4 of 4 are not: .*new day; then run again") as caught:
        for measurement in measuring:
            reached.append(measurement)
    assert (caught.value.stage, caught.value.kind) == ("judge", "judge")
    assert [one.rung for one in reached] == ["speed", "block", "block"]
    assert len(reached[-1].questions["komt_bench"]) == 4 and "komt_bench" not in reached[-1].accuracy


def test_the_command_scores_with_a_judge_and_says_what_a_garbled_one_leaves_out(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("tiny.yaml").write_text(WORKLOAD.model_dump_json(exclude={"name"}))

    def run(name: str) -> tuple[dict[str, Any], str]:
        of = [str(MODEL_DIR), "--baseline", str(MODEL_DIR), "--workload", "tiny.yaml", "--json"]
        assert command.main([*of, "--judge-url", server.url, "--judge-model", name]) == 0
        captured = capsys.readouterr()
        return json.loads(captured.out), captured.err

    found, told = run("fair")
    assert found["accuracy"]["komt_bench"] == found["baseline"]["accuracy"]["komt_bench"] == RATED.score
    assert found["score"]["left_out"] == {}
    assert "counts for speed alone" not in told

    server.answer = lambda asked: said({**VERDICT, "first_rating": 11})
    found, told = run("garbled")
    assert "komt_bench" not in found["accuracy"]
    why = found["score"]["left_out"]["komt_bench"]
    assert "4 of 4 are not" in why and "first_rating Input should be less than or equal to 10" in why
    assert f"komt_bench counts for speed alone, the other benchmarks make up Perf: {why}" in told
    assert found["baseline"]["unscored"] == found["score"]["left_out"]
