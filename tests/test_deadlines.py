from __future__ import annotations

from pathlib import Path

import pytest

from squeeze.config import CompressionConfig, DepthConfig, DistillConfig, QuantizeConfig
from squeeze.deadlines import EPOCH_S, FLOOR_S, STAGE_S, Deadlines
from squeeze.records import Artifact

CONFIG = CompressionConfig(
    depth=DepthConfig(layers=6), distill=DistillConfig(epochs=2), quantize=QuantizeConfig(scheme="W8A8")
)


def built(cached: tuple[str, ...] = (), resumed: int | None = None) -> Artifact:
    return Artifact(
        path=Path("out"),
        key="k",
        config=CONFIG,
        layers=6,
        width=512,
        size_bytes=1,
        seconds={"depth": 400.0, "distill": 1000.0, "quantize": 1.0},
        notes={"distill": {"resumed_from": resumed}, "quantize": {"gptq_fallbacks": 0}},
        cached=cached,
    )


def test_the_first_limits_are_those_of_the_kind() -> None:
    assert Deadlines().stages(CONFIG) == {"depth": STAGE_S, "distill": 2 * EPOCH_S, "quantize": STAGE_S}


def test_limits_follow_the_slowest_seen_between_floor_and_first() -> None:
    deadlines = Deadlines()
    deadlines.learn(built())
    limits = deadlines.stages(CONFIG)
    assert limits == {"depth": 2000.0, "distill": 5000.0, "quantize": FLOOR_S["stage"]}
    longer = CONFIG.model_copy(update={"distill": DistillConfig(epochs=3)})
    assert deadlines.stages(longer)["distill"] == 7500.0
    deadlines.saw("stage", "depth", 10.0)
    assert deadlines.stages(CONFIG)["depth"] == 2000.0
    deadlines.saw("stage", "depth", STAGE_S / 4)
    assert deadlines.stages(CONFIG)["depth"] == STAGE_S


def test_a_machine_that_needs_longer_than_the_first_limit_is_given_it_again() -> None:
    deadlines = Deadlines()
    deadlines.saw("stage", "depth", STAGE_S + 60)
    assert deadlines.stages(CONFIG)["depth"] == 2 * (STAGE_S + 60)
    deadlines.saw("training", "distill", EPOCH_S + 60)
    assert deadlines.stages(CONFIG)["distill"] == 2 * 2 * (EPOCH_S + 60)


def test_what_was_found_or_gone_on_with_says_nothing_of_how_long_it_takes() -> None:
    deadlines = Deadlines()
    deadlines.learn(built(cached=("depth", "quantize"), resumed=30))
    assert deadlines.seen == {}


@pytest.mark.parametrize(("seconds", "limit"), [(1.0, 300.0), (30.0, 600.0), (90.0, 1200.0)])
def test_answers_may_take_twenty_times_as_long_as_any_before(seconds: float, limit: float) -> None:
    deadlines = Deadlines()
    deadlines.saw("answers", "part", seconds)
    assert deadlines.limit("answers", "part", 1200.0) == limit
    assert deadlines.limit("answers", "another", 1200.0) == 1200.0
