"""What the programs for a GPU count, and that the one of checkpoints works, which a CPU can run."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks" / "gpu"))

import agreement
import parts
import watch


@pytest.mark.parametrize(
    ("gpu", "gb_s"),
    [
        ("NVIDIA L4", 300.0),
        ("NVIDIA L40S", None),
        ("NVIDIA H100 PCIe", 2000.0),
        ("NVIDIA H100 80GB HBM3", 3350.0),
        ("NVIDIA H200", 4800.0),
        ("NVIDIA A100-SXM4-40GB", None),
    ],
)
def test_the_bandwidth_is_that_of_the_very_gpu(gpu: str, gb_s: float | None) -> None:
    assert parts.bandwidth_gb_s(gpu) == gb_s


def test_a_linked_model_is_whole_even_after_one_that_was_not(tmp_path: Path) -> None:
    model, folder = tmp_path / "model", tmp_path / "copy"
    model.mkdir()
    (model / "a").write_text("1")
    (model / "b").write_text("2")
    (tmp_path / "copy.half").mkdir()
    (tmp_path / "copy.half" / "a").write_text("cut off")
    assert parts.linked(model, folder) == folder
    assert {path.name: path.read_text() for path in folder.iterdir()} == {"a": "1", "b": "2"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["copy", "model"]


def test_utilization_is_of_the_samples_within_the_stretches() -> None:
    watched = watch.Watch()
    watched._samples = [(10.0, 1.0), (11.0, 0.5), (12.0, 0.0), (20.0, 0.8)]
    assert watched.busy_within([(10.5, 12.5)]) == 0.25
    assert watched.busy_within([(9.0, 10.0), (20.0, 30.0)]) == 0.9
    assert watched.busy_within([(13.0, 14.0)]) is None


def test_one_gpu_is_watched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert watch._chosen() == ["--id=0"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1,0")
    assert watch._chosen() == ["--id=1"]


def test_the_errors_of_a_model_against_itself_are_of_all_pairs_of_groups() -> None:
    found = agreement.errors([1.0, 1.0, 1.1], 1)
    # 0 twice, 1/1.1 - 1 and 1.1 - 1 twice each
    assert found == {"median": round((1 - 1 / 1.1 + 1 - 1 / 1.1) / 2, 5), "p90": 0.1, "pairs": 6}


def test_the_benchmark_of_checkpoints_measures_both_ways(result_of: Callable[..., Any]) -> None:
    program = Path(parts.__file__).parents[1] / "checkpoint.py"
    found = result_of(program, "--gib", "0.125", "--repeats", "2")
    assert found["gib"] == 0.125 and found["device"] == "cpu"
    for way in ("a thread of its own", "the training's thread"):
        assert [0 <= one["blocked_s"] <= one["written_s"] for one in found[way]] == [True, True]
