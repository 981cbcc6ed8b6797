"""What the benchmark of our own overhead counts, and that its sides do the same work."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from squeeze.records import Timing

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import bench_overhead


def test_the_ratio_is_of_tokens_per_second_over_all_benchmarks() -> None:
    taken = {
        "ours": {"a": Timing(seconds=3.0, tokens=30), "b": Timing(seconds=1.0, tokens=10)},
        "raw": {"a": Timing(seconds=1.5, tokens=30), "b": Timing(seconds=0.5, tokens=20)},
    }
    assert bench_overhead.ratio(taken, "ours", "raw") == pytest.approx(10 / 25)
    assert bench_overhead.ratio(taken, "ours", "raw", ["b"]) == pytest.approx(10 / 40)


@pytest.mark.engine
def test_all_sides_answer_the_same_prompts_with_as_many_tokens_and_ours_costs_little_more(
    result_of: Callable[..., Any],
) -> None:
    few = ("--questions", "24", "--max-tokens", "24", "--rounds", "3")
    found = result_of(bench_overhead.__file__, "--quick", *few)
    # So little work on a machine with other work says no more than this.
    assert 0.5 < found["ratio"] < 2
    # What a Score counts is within what the parent sees.
    assert found["ratio"] <= found["ratio_clock"] + 1e-4
    assert len(found["rounds"]) == 3 and sorted(found["rounds"])[1] == found["ratio"]
    assert found["questions"] == {"kmmlu_redux": 24}
    assert len(set(found["tokens"].values())) == 1
    assert 24 < found["tokens"]["ours"] <= 24 * 24
    assert "torch" in found["versions"] and found["machine"]["device"]
