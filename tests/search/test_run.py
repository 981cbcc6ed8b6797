"""Real searches in processes of their own: the embedded model, real vLLM, real SQLite."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import optuna
import psutil
import pytest
from optuna.trial import TrialState

from objectives import competition
from search import export
from search.records import (
    TrialRecord,
    best_first,
    load_again,
    load_baseline,
    load_measurement,
    load_trials,
    save_trial,
)
from search.speeds import Shape, Speeds
from squeeze.decoder import Decoder
from squeeze.demo import MODEL_DIR
from squeeze.records import Timing

WORKLOAD = """
questions: {kmmlu_redux: 16, kmmlu_pro: 16, ko_longrag: 8, komt_bench: 4}
repeats: 2
probe: 4
divergence: [32, 128]
engine: {max_model_len: 2048, kv_cache_gib: 1}
"""

pytestmark = pytest.mark.engine


def command(trials: int, space: str = "prune_quantize", finalists: int = 0) -> list[str]:
    Path("quick.yaml").write_text(WORKLOAD)
    of = ["--trials", str(trials), "--workload", "quick.yaml", "--space", space]
    of += ["--finalists", str(finalists)]
    return [sys.executable, "-m", "search.run", *of]


def wait_until(process: subprocess.Popen[str], doing: str, stage: str) -> None:
    """Wait until a search does that and is at that stage of it."""
    ends = time.monotonic() + 300
    live = Path("studies/demo/live.json")
    while time.monotonic() < ends and process.poll() is None:
        if live.is_file():
            state = json.loads(live.read_text())
            if state["doing"] == doing and state["stage"] == stage:
                return
        time.sleep(0.05)
    raise AssertionError(f"the search never came to {stage} of {doing}: {process.communicate()[1]}")


def check_finished_study(trials: int) -> list[TrialRecord]:
    """Every record agrees with the study and its mirror; only whole models are left."""
    records = load_trials("demo")
    storage = "sqlite:///studies/demo.db"
    study = optuna.load_study(study_name="demo", storage=storage)
    mirror = optuna.load_study(study_name="demo-pareto", storage=storage)
    told = study.get_trials(states=(TrialState.COMPLETE, TrialState.PRUNED))
    assert len(told) == len(records) == trials
    assert [trial.number for trial in told] == [record.number for record in records]
    complete = [record for record in records if record.score]
    assert {trial.user_attrs["trial"] for trial in mirror.get_trials()} == {r.number for r in complete}
    assert study.best_value == max(record.score.value for record in complete if record.score)
    for record in complete:
        measurement = load_measurement("demo", record.number)
        assert measurement is not None and measurement.complete
    kept = sorted(int(path.name) for path in Path("models/demo").iterdir())
    assert set(kept) <= {record.number for record in complete}
    assert 1 <= len(kept) <= 3
    assert not Path("studies/demo/live.json").exists()
    return records


def test_a_search_of_three_trials_ends_with_a_zip(workplace: Path) -> None:
    ended = subprocess.run(command(3), capture_output=True, text=True, timeout=600, check=False)
    assert ended.returncode == 0, ended.stderr
    records = check_finished_study(3)
    assert ended.stdout.count("\n") == 1 + len(records)
    assert export.main(["--study", "demo", "--out", "submit.zip"]) == 0
    assert Path("submit.zip").stat().st_size > 1e6
    again = subprocess.run(command(3), capture_output=True, text=True, timeout=60, check=False)
    assert again.returncode == 0
    assert again.stdout == ended.stdout
    assert load_trials("demo") == records
    check_that_a_slow_shape_is_never_built(records)
    check_that_finalists_are_measured_again(load_trials("demo"))


def check_that_a_slow_shape_is_never_built(records: list[TrialRecord]) -> None:
    """The fourth trial's scheme is made known as very slow: the trial ends before anything is built."""
    key = records[0].baseline
    assert key is not None
    baseline = load_baseline("demo", key)
    assert baseline is not None
    speeds = Speeds.load("demo", key, baseline, Decoder.read(MODEL_DIR))
    speed = speeds.known[Shape(8, 1024, "W8A8")]
    assert speed.rung == "speed" and Shape(8, 1024, "W4A16", 128) in speeds.known
    crawls = [timed.model_copy(update={"timings": slower(timed.timings)}) for timed in speed.probe]
    slow = Shape(7, 1024, "W4A16_ASYM", 128)
    speeds.save(slow, speed.model_copy(update={"probe": tuple(crawls)}))
    ended = subprocess.run(command(4), capture_output=True, text=True, timeout=120, check=False)
    assert ended.returncode == 0, ended.stderr
    last = load_trials("demo")[-1]
    assert last.config.quantize is not None and last.config.quantize.algorithm == "awq"
    assert (
        last.state == "pruned"
        and last.reason is not None
        and last.reason.startswith("after shape: no faster than 7x1024-W4A16_ASYM-g128")
    )
    assert last.artifact is None and last.measurement is None


def check_that_finalists_are_measured_again(records: list[TrialRecord]) -> None:
    """An interrupted start, one that measures, one that has nothing to do, one that finds damaged models."""
    leader = best_first(records)[0][0]
    assert leader.confirmation is None
    process = subprocess.Popen(command(4, finalists=3), stderr=subprocess.PIPE, text=True)
    wait_until(process, f"trial {leader.number} again", "engine")
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == 130
    assert load_trials("demo") == records

    ended = subprocess.run(command(4, finalists=3), capture_output=True, text=True, timeout=600, check=False)
    assert ended.returncode == 0, ended.stderr
    found = load_trials("demo")
    chosen = [record for record in found if record.confirmation]
    assert leader.number in {record.number for record in chosen}
    assert [record.score for record in found] == [record.score for record in records]
    for record in chosen:
        check_confirmation(record)
    best = best_first(found)[0][0]
    assert f"best: trial {best.number}, Score" in ended.stderr
    study = optuna.load_study(study_name="demo", storage="sqlite:///studies/demo.db")
    assert set(study.user_attrs["confirmed"]) == {f"trial {record.number}" for record in chosen}
    again = subprocess.run(command(4, finalists=3), capture_output=True, text=True, timeout=60, check=False)
    assert (again.returncode, again.stdout) == (0, ended.stdout)
    assert load_trials("demo") == found

    for record in records:
        save_trial("demo", record)
    for model in Path("models/demo").glob("*/config.json"):
        model.write_text("{}")
    ended = subprocess.run(command(4, finalists=3), capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 0
    assert f"trial {leader.number} stays unconfirmed: disk in load: a built model must be" in ended.stderr
    assert load_trials("demo") == records


def check_confirmation(record: TrialRecord) -> None:
    """Both raw measurements are there, of other questions; the confirmed Score is that of both together."""
    first, again = load_measurement("demo", record.number), load_again("demo", record.number)
    assert record.confirmation is not None and record.baseline is not None
    baseline = load_baseline("demo", record.baseline)
    base_again = load_baseline("demo", record.confirmation.baseline)
    assert first is not None and again is not None and baseline is not None and base_again is not None
    assert record.confirmation.first_baseline == record.baseline != record.confirmation.baseline
    assert record.confirmation.held_out == {
        name: len(questions) for name, questions in first.questions.items()
    }
    assert len(again.passes) == len(first.passes) + 1
    assert again.complete and again.passes[0].started > first.passes[-1].started
    assert again.probe == first.probe
    assert record.confirmation.again == competition.score(again, base_again)
    together = competition.score(first.joined(again), baseline.joined(base_again))
    assert record.confirmed == together


def slower(timings: Mapping[str, Timing]) -> dict[str, Timing]:
    return {name: Timing(seconds=10 * one.seconds, tokens=one.tokens) for name, one in timings.items()}


def test_a_search_trains_what_it_prunes(workplace: Path) -> None:
    ended = subprocess.run(command(2, "recover"), capture_output=True, text=True, timeout=600, check=False)
    assert ended.returncode == 0, ended.stderr
    trained, other = load_trials("demo")
    assert trained.config.families == ("width", "distill")
    assert other.config.families == ("depth", "width", "distill")
    assert trained.state == "complete"
    assert trained.artifact is not None
    notes = trained.artifact.notes["distill"]
    assert notes["taken"] == (notes["validation_last"] < notes["validation_first"])
    assert set(trained.artifact.keys) == {"width", "distill"}
    assert all((Path("models/.cache/stages") / key).is_dir() for key in trained.artifact.keys.values())


def test_a_search_cut_off_in_a_trial_goes_on(workplace: Path) -> None:
    process = subprocess.Popen(command(3), stderr=subprocess.PIPE, text=True)
    wait_until(process, "trial 1", "quantize")
    children = psutil.Process(process.pid).children(recursive=True)
    first = Path("studies/demo/trials/0000.json").read_bytes()
    baseline = next(Path("studies/demo/baselines").iterdir())
    measured = baseline.stat().st_mtime_ns
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == 130
    gone, alive = psutil.wait_procs(children, timeout=20)
    assert gone and not alive

    ended = subprocess.run(command(3), capture_output=True, text=True, timeout=600, check=False)
    assert ended.returncode == 0, ended.stderr
    records = check_finished_study(3)
    assert Path("studies/demo/trials/0000.json").read_bytes() == first
    assert baseline.stat().st_mtime_ns == measured
    assert [record.number for record in records] == [0, 2, 3]
    schemes = [record.params["scheme"] for record in records]
    assert schemes == ["W8A8", "W4A16", "W8A8"]  # as the recipes have it, nothing lost, nothing twice
