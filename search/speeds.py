"""How fast each shape is: probed once in a study, and bounding the shapes that are larger or smaller."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from search.records import read_measurement, study_folder, write_whole
from squeeze.config import CompressionConfig
from squeeze.decoder import Decoder
from squeeze.records import Measurement


@dataclass(frozen=True)
class Shape:
    """What time per token depends on, of one base: layers, intermediate_size, scheme and group size."""

    layers: int
    width: int
    scheme: str | None = None
    group_size: int | None = None

    @classmethod
    def of(cls, config: CompressionConfig, decoder: Decoder) -> Shape:
        """The shape that a configuration gives the base ``decoder``."""
        quantize = config.quantize
        grouped = quantize is not None and quantize.scheme.startswith("W4")
        return cls(
            layers=config.depth.layers if config.depth else decoder.layers,
            width=config.width.width if config.width else decoder.width,
            scheme=quantize.scheme if quantize else None,
            group_size=quantize.group_size if quantize and grouped else None,
        )

    @classmethod
    def read(cls, name: str) -> Shape:
        """The shape of that name. Raises ValueError for another text."""
        size, scheme, group = name.split("-")
        layers, width = size.split("x")
        return cls(int(layers), int(width), scheme or None, int(group[1:]) if group else None)

    @property
    def name(self) -> str:
        """E.g. ``7x896-W4A16-g128`` or ``7x896--``."""
        group = f"g{self.group_size}" if self.group_size else ""
        return f"{self.layers}x{self.width}-{self.scheme or ''}-{group}"

    def within(self, other: Shape) -> bool:
        """Whether it is made in the same way and nowhere larger, so that it is not slower."""
        same = (self.scheme, self.group_size) == (other.scheme, other.group_size)
        return same and self.layers <= other.layers and self.width <= other.width


@dataclass
class Speeds:
    """The speed probes of a study beside one baseline, on disk under ``speeds/<baseline>/``."""

    folder: Path
    known: dict[Shape, Measurement] = field(default_factory=dict)

    @classmethod
    def load(cls, study: str, baseline_key: str, baseline: Measurement, decoder: Decoder) -> Speeds:
        """What is known so far. The base itself is as fast as itself."""
        folder = study_folder(study) / "speeds" / baseline_key
        itself = baseline.model_copy(
            update={
                "rung": "speed",
                "questions": {},
                "passes": (),
                "probe": baseline.passes,
                "probe_reference": baseline.passes,
            }
        )
        speeds = cls(folder, {Shape(decoder.layers, decoder.width): itself})
        for path in sorted(folder.glob("*.json")):
            with contextlib.suppress(ValueError):
                found = read_measurement(path)
                if found is not None:
                    speeds.known[Shape.read(path.stem)] = found
        return speeds

    def save(self, shape: Shape, speed: Measurement) -> None:
        """Remember a shape's probe."""
        self.known[shape] = speed
        write_whole(self.folder / f"{shape.name}.json", speed.model_dump_json(indent=1))

    def bounds(self, bound: Callable[[Measurement], float]) -> dict[Shape, float]:
        """The highest Score that each known shape may have."""
        return {shape: bound(speed) for shape, speed in self.known.items()}


def too_slow(shape: Shape, bounds: Mapping[Shape, float], best: float) -> tuple[Shape, float] | None:
    """The largest known shape within this one, which is not faster, if its bound is below the best.

    One, and the nearest: the lowest bound of many would be that of the unluckiest probe.
    """
    within = [(other.layers * other.width, other.name, other) for other in bounds if other.within(shape)]
    if not within:
        return None
    other = max(within)[-1]
    return (other, bounds[other]) if bounds[other] < best else None


def fast_enough(shape: Shape, bounds: Mapping[Shape, float], best: float) -> bool:
    """Whether a known shape that this one is within has a bound of the best or more."""
    return any(shape.within(other) and bound >= best for other, bound in bounds.items())
