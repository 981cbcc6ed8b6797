"""Measuring a real model: rungs, the baseline in turn, empty answers, the baseline's engine."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest

from objectives import competition
from search import bench as command
from squeeze.bench import rungs, turns
from squeeze.bench.clocks import Sample
from squeeze.bench.gpu import User
from squeeze.bench.measure import Bench
from squeeze.bench.reference import Beside, Bracketed
from squeeze.bench.served import Asked
from squeeze.bench.workload import EngineArguments, Workload
from squeeze.decoder import Decoder
from squeeze.demo import DATA_DIR, MODEL_DIR
from squeeze.errors import CandidateError, SetupError
from squeeze.records import Measurement, Rung, Timing
from squeeze.target import Target

pytestmark = pytest.mark.engine

WORKLOAD = Workload(
    name="test",
    data=str(DATA_DIR),
    questions={"kmmlu_redux": 12, "ko_longrag": 4, "komt_bench": 2},
    max_tokens=24,
    probe=2,
    divergence=(8, 40),
    probes=2,
    repeats=2,
    start_deadline_s=300,
    part_deadline_s=120,
    engine=EngineArguments(max_model_len=2048, kv_cache_gib=1),
)


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    target = Target.here(Decoder.read(MODEL_DIR))
    log = tmp_path_factory.mktemp("logs") / "baseline.log"
    with Bench(WORKLOAD, MODEL_DIR, target, log=log) as one:
        one.measure_baseline()
        yield one


@pytest.fixture(scope="module")
def baseline(bench: Bench) -> Measurement:
    assert bench.baseline is not None
    return bench.baseline


def test_on_a_gpu_both_answer_turn_by_turn_until_the_ratio_is_steady_and_who_else_uses_it_is_refused(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench, "_share_gpu", True)
    monkeypatch.setattr(rungs, "_is_steady", lambda laps: len(laps) == 4)
    monkeypatch.setattr(turns, "TURN_S", 0.05)
    paused: list[bool] = []
    go_on = Asked.go_on
    monkeypatch.setattr(Asked, "go_on", lambda asked: paused.append(not (done := go_on(asked))) or done)
    # As on a GPU, for all that does not start engines.
    monkeypatch.setattr(bench, "_target", replace(bench._target, device="cuda"))
    monkeypatch.setattr("squeeze.bench.clocks.look_nvml", lambda: Sample(1980, 50, 400.0, 1.0, 0))
    engines = User(1, "python", 1 << 30), User(2, "python", 1 << 30)
    somebody: list[User] = []
    monkeypatch.setattr("squeeze.bench.gpu.read_nvml", lambda: None)
    monkeypatch.setattr("squeeze.bench.gpu.users", lambda read=None: (*engines, *somebody))
    *begun, found = bench.measure(MODEL_DIR, log=tmp_path / "log")
    assert len(begun) == 5
    assert len(found.passes) == len(found.reference) == 4
    assert sum(paused) > len(paused) / 2
    assert {name: len(asked) for name, asked in found.questions.items()} == WORKLOAD.questions
    assert found.clocks is not None
    assert found.clocks.sm_mhz == (1980, 1980, 1980)
    with contextlib.closing(bench.measure(MODEL_DIR, log=tmp_path / "log")) as measured:
        next(measured)
        somebody.append(User(4711, "train", 1 << 30))
        with pytest.raises(SetupError, match=r"pid 4711 \(train, 1.0 GiB\) began to use it meanwhile"):
            next(measured)


def lap(*, mine: float, other: float) -> rungs._Lap:
    """A pass of one benchmark, a hundred tokens on either side."""
    return rungs._Lap(
        mine={"kmmlu_redux": Timing(seconds=mine, tokens=100)},
        others={"kmmlu_redux": Timing(seconds=other, tokens=100)},
    )


def test_a_ratio_is_steady_when_its_error_is_small_or_enough_time_has_been_spent() -> None:
    alike, apart = [lap(mine=1.0, other=1.0)] * 5, [lap(mine=1.0 + 0.1 * one, other=1.0) for one in range(5)]
    assert rungs._is_steady(alike)
    assert not rungs._is_steady(alike[:4])  # where one was first more often than the other
    assert not rungs._is_steady(alike[:1])  # which tells nothing of the error
    assert not rungs._is_steady(apart)
    assert rungs._is_steady(apart * 3)
    assert not rungs._is_steady(apart * 2)
    assert rungs._is_steady([lap(mine=10.0, other=10.0)] * 4)


@pytest.mark.parametrize(("memory_gib", "shared"), [(140, True), (22, False)])
def test_only_a_gpu_with_room_for_both_engines_is_shared(memory_gib: int, shared: bool) -> None:
    decoder = Decoder.read(MODEL_DIR)
    target = replace(Target.contest(decoder), memory_bytes=memory_gib << 30)
    assert Bench(WORKLOAD, MODEL_DIR, target, log=Path("unused.log"))._share_gpu == shared


def test_the_baseline_is_measured_whole_and_without_a_reference(baseline: Measurement) -> None:
    assert baseline.complete
    assert {name: len(found) for name, found in baseline.questions.items()} == WORKLOAD.questions
    assert len(baseline.passes) == 2
    assert baseline.reference == ()
    assert baseline.workload == WORKLOAD.key


def test_a_candidate_grows_rung_by_rung_with_the_baseline_timed_in_turn(
    bench: Bench, baseline: Measurement, tmp_path: Path
) -> None:
    told: list[Any] = []
    rungs = list(bench.measure(MODEL_DIR, log=tmp_path / "log", tell=told.append))
    assert [one.rung for one in rungs] == list(get_args(Rung))
    assert [one.complete for one in rungs] == [False] * 5 + [True]
    assert [len(one.questions.get("kmmlu_redux", ())) for one in rungs] == [0, 0, 0, 3, 12, 12]
    assert [len(one.passes) for one in rungs] == [0, 0, 0, 1, 1, 2]
    told_of = [one.divergence.tokens for one in rungs if one.divergence]
    assert 8 <= told_of[0] < told_of[1] == sum(len(one.tokens) for one in baseline.sampled) >= 40
    assert all(one.divergence.mean == 0.0 for one in rungs if one.divergence)  # the same model
    for one in rungs:
        assert len(one.reference) == len(one.passes)
        assert len(one.probe) == len(one.probe_reference) == 2
        for timed, other in zip(
            (*one.passes, *one.probe), (*one.reference, *one.probe_reference), strict=True
        ):
            # The same model answers the same questions with as many tokens.
            assert {name: timing.tokens for name, timing in timed.timings.items()} == {
                name: timing.tokens for name, timing in other.timings.items()
            }
        assert Measurement.model_validate_json(one.model_dump_json()) == one
        assert 0 < competition.optimistic(one, baseline) < 2
    assert rungs[-1].questions == baseline.questions
    assert competition.score(rungs[-1], baseline).perf_norm == 1.0
    assert {event["stage"] for event in told} >= {"engine", "kmmlu_redux"}


def test_a_candidate_that_is_given_up_leaves_no_engine_nor_the_baselines_beside_it(
    bench: Bench, tmp_path: Path
) -> None:
    measuring = bench.measure(MODEL_DIR, log=tmp_path / "log")
    assert next(measuring).rung == "speed"
    reference = bench._reference
    assert isinstance(reference, Beside) and reference._served is not None
    frame = measuring.gi_frame  # type: ignore[attr-defined]
    candidate, beside = frame.f_locals["served"], reference._served
    assert candidate.alive and beside.alive
    measuring.close()  # type: ignore[attr-defined]
    assert not candidate.alive
    assert not beside.alive


def test_a_baseline_engine_that_was_killed_is_started_again(bench: Bench, tmp_path: Path) -> None:
    measuring = bench.measure(MODEL_DIR, log=tmp_path / "log")
    next(measuring)
    reference = bench._reference
    assert isinstance(reference, Beside) and reference._served is not None
    pid = reference._served._child.pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    assert [one.rung for one in measuring] == list(get_args(Rung))[1:]


def test_a_model_that_says_nothing_fails_as_empty_output(bench: Bench, tmp_path: Path) -> None:
    mute = tmp_path / "mute"
    shutil.copytree(MODEL_DIR, mute)
    weights = mute / "model.safetensors"
    blob = weights.read_bytes()
    head = 8 + int.from_bytes(blob[:8], "little")
    weights.write_bytes(blob[:head] + bytes(len(blob) - head))  # all zero: always token 0, which is padding
    with pytest.raises(CandidateError) as caught:
        list(bench.measure(mute, log=tmp_path / "log"))
    assert (caught.value.stage, caught.value.kind) == ("questions", "empty_output")


def test_where_two_engines_do_not_fit_the_baseline_is_timed_before_every_few_candidates(
    tmp_path: Path,
) -> None:
    reference = Bracketed(MODEL_DIR, WORKLOAD, tmp_path / "log", every=2)
    times = []
    for _ in range(3):
        reference.begin({"kmmlu_redux": 8}, lambda event: None)
        assert reference._served is None  # it has made room
        times.append(dict(reference._times))
    assert times[0] == times[1] != times[2]
    assert {repeat for _, repeat in times[0]} == set(range(max(WORKLOAD.repeats, WORKLOAD.probes)))
    mine: Any = None  # it need not wait for it
    assert all(
        reference.time(part, repeat, mine, first=True) == timing
        for (part, repeat), timing in times[2].items()
    )
    reference.close()


def test_the_key_of_a_baseline_changes_with_the_model_and_the_workload(bench: Bench) -> None:
    other = Bench(
        Workload(**{**WORKLOAD.model_dump(), "repeats": 3}), MODEL_DIR, bench._target, log=Path("unused.log")
    )
    assert len({bench.baseline_key("a"), bench.baseline_key("b"), other.baseline_key("a")}) == 3
    assert bench.baseline_key("a") == bench.baseline_key("a")


def test_the_command_scores_a_model_against_a_baseline_as_json(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    workload = tmp_path / "short.yaml"
    workload.write_text(
        f"data: {DATA_DIR}\nquestions: {{kmmlu_redux: 8}}\nprobe: 2\nmax_tokens: 24\nrepeats: 2\n"
        "engine: {max_model_len: 1024, kv_cache_gib: 1}\n"
    )
    model = str(MODEL_DIR)
    assert command.main([model, "--baseline", model, "--workload", str(workload), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["score"]["perf_norm"] == 1.0
    assert found["score"]["low"] <= found["score"]["value"] <= found["score"]["high"]
    assert len(found["reference"]) == len(found["passes"]) == 2
    assert found["baseline"]["accuracy"] == found["accuracy"]
