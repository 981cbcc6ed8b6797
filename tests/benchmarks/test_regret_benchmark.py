"""What the comparison of samplers says in JSON."""

import sys
from pathlib import Path

import pytest

from search.simulation import SAMPLERS

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import regret


@pytest.mark.parametrize(
    ("ours", "stock", "ratio"), [(0.1, 0.2, 0.5), (0.0, 0.2, 0.0), (0.0, 0.0, 1.0), (0.1, 0.0, None)]
)
def test_a_ratio_is_a_number_that_json_has_or_null(ours: float, stock: float, ratio: float | None) -> None:
    found = {name: {"40": {"p50": ours if name == "ours" else stock}} for name in SAMPLERS}
    assert regret._ratio(found, "40", "p50") == ratio
