"""Configurations that come to the same are the same."""

from __future__ import annotations

from typing import Any

import pytest

from squeeze.config import CompressionConfig

TEXT = {"calibration": {"samples": 7}}


@pytest.mark.parametrize(
    ("one", "other", "equal"),
    [
        ({"depth": {"layers": 3, "method": "top"}}, {"depth": {"layers": 3, "method": "top", **TEXT}}, True),
        ({"depth": {"layers": 3}}, {"depth": {"layers": 3, **TEXT}}, False),
        ({"depth": {"layers": 3}}, {"depth": {"layers": 3, "method": "top"}}, False),
        ({"width": {"width": 256}}, {"width": {"width": 256, "step": 256}}, True),
        ({"width": {"width": 256}}, {"width": {"width": 256, **TEXT}}, False),
        ({"quantize": {"scheme": "W8A8"}}, {"quantize": {"scheme": "W8A8", "dampening": 0.1, **TEXT}}, True),
        ({"quantize": {"scheme": "FP8"}}, {"quantize": {"scheme": "FP8", **TEXT}}, False),
        (
            {"quantize": {"scheme": "W4A16", "algorithm": "gptq"}},
            {"quantize": {"scheme": "W4A16", "algorithm": "gptq", "dampening": 0.1}},
            False,
        ),
        ({"distill": {}}, {"distill": {"draws": 8}}, True),
        ({"distill": {"teacher": "sampled"}}, {"distill": {"teacher": "sampled", "draws": 8}}, False),
    ],
)
def test_what_has_no_effect_makes_no_other_key(
    one: dict[str, Any], other: dict[str, Any], equal: bool
) -> None:
    first, second = CompressionConfig.model_validate(one), CompressionConfig.model_validate(other)
    assert first != second
    assert (first.key == second.key) is equal
    assert (first.normal == second.normal) is equal
    assert second.normal == second.normal.normal
