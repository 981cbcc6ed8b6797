"""Shapes bound each other: what is nowhere larger is not slower."""

from __future__ import annotations

from pathlib import Path

import pytest

from objectives import competition
from search.speeds import Shape, Speeds, fast_enough, too_slow
from squeeze.config import CompressionConfig
from squeeze.decoder import Decoder
from squeeze.demo import MODEL_DIR
from squeeze.records import Measurement, Pass, Timing

WHOLE = Decoder.read(MODEL_DIR)


def measured(seconds: float) -> Measurement:
    timed = Pass(started=0.0, timings={"kmmlu_redux": Timing(seconds=seconds, tokens=1000)})
    return Measurement(
        model="m",
        workload="w",
        engine={},
        complete=False,
        rung="speed",
        questions={},
        passes=(timed,),
        probe=(timed,),
    )


def bound(speed: Measurement) -> float:
    return 1 - speed.seconds_per_token * 1000


@pytest.mark.parametrize(
    ("parts", "name"),
    [
        ({}, "8x1024--"),
        ({"depth": {"layers": 7}, "distill": {"epochs": 2}}, "7x1024--"),
        ({"width": {"width": 896}, "quantize": {"scheme": "W8A8"}}, "8x896-W8A8-"),
        ({"quantize": {"scheme": "W4A16", "algorithm": "gptq", "group_size": 32}}, "8x1024-W4A16-g32"),
    ],
)
def test_a_shape_is_told_by_its_name(parts: dict[str, object], name: str) -> None:
    shape = Shape.of(CompressionConfig.model_validate(parts), WHOLE)
    assert shape.name == name
    assert Shape.read(name) == shape


def test_a_shape_is_within_another_of_the_same_making_that_is_nowhere_smaller() -> None:
    assert Shape(7, 896).within(Shape(8, 896)) and Shape(7, 896).within(Shape(7, 896))
    assert not Shape(7, 1024).within(Shape(8, 896))
    assert not Shape(7, 896, "W8A8").within(Shape(8, 1024))
    assert not Shape(7, 896, "W4A16", 32).within(Shape(8, 1024, "W4A16", 128))


def test_what_is_known_of_one_shape_bounds_others(workplace: Path) -> None:
    speeds = Speeds.load("demo", "key", measured(0.5), WHOLE)
    speeds.save(Shape(6, 768, "W4A16", 128), measured(0.8))
    again = Speeds.load("demo", "key", measured(0.5), WHOLE)
    assert again.known.keys() == speeds.known.keys() == {Shape(8, 1024), Shape(6, 768, "W4A16", 128)}
    larger, smaller = Shape(7, 768, "W4A16", 128), Shape(5, 768, "W4A16", 128)
    bounds = again.bounds(bound)
    assert too_slow(larger, bounds, 0.4) == (Shape(6, 768, "W4A16", 128), pytest.approx(0.2))
    assert too_slow(larger, bounds, 0.1) is None
    assert too_slow(smaller, bounds, 0.4) is None
    assert fast_enough(smaller, bounds, 0.1)
    assert not fast_enough(larger, bounds, 0.1)
    assert fast_enough(Shape(7, 1024), bounds, 0.5), "the base is as fast as itself"
    assert Speeds.load("demo", "other", measured(0.5), WHOLE).known.keys() == {Shape(8, 1024)}


def test_the_nearest_of_several_smaller_shapes_tells_how_slow_one_is() -> None:
    unlucky = {Shape(4, 512): 0.3, Shape(6, 768): 0.6}
    assert too_slow(Shape(7, 768), unlucky, 0.5) is None
    assert too_slow(Shape(5, 512), unlucky, 0.5) == (Shape(4, 512), 0.3)


def test_the_base_beside_itself_has_a_bound_by_the_contests_objective() -> None:
    base = measured(0.5).model_copy(update={"rung": "repeats", "complete": True, "probe": ()})
    itself = Speeds.load("demo", "key", base, WHOLE).known[Shape(8, 1024)]
    assert competition.optimistic(itself, base) == pytest.approx(
        0.5 * competition.PERF_CEILING + 0.5 * competition.PROBE_MARGIN
    )


def test_a_probe_that_cannot_be_read_is_as_if_it_were_not_there(workplace: Path) -> None:
    Speeds.load("demo", "key", measured(0.5), WHOLE).save(Shape(7, 896), measured(0.4))
    folder = workplace / "studies" / "demo" / "speeds" / "key"
    (folder / "7x896--.json").write_text("{")
    (folder / "nonsense.json").write_text(measured(0.4).model_dump_json())
    assert Speeds.load("demo", "key", measured(0.5), WHOLE).known.keys() == {Shape(8, 1024)}
