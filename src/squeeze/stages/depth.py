"""Layer drop: fewer decoder layers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from squeeze.config import CompressionConfig, DepthConfig
from squeeze.decoder import Decoder, read_config, with_layers
from squeeze.errors import ConfigError
from squeeze.folder import copy_others, write_config
from squeeze.shards import Output, Weight, rewrite, same
from squeeze.stages import Context
from squeeze.target import refuse_shape


def run(source: Path, part: DepthConfig, out: Path, context: Context) -> dict[str, Any]:
    """Write ``source`` with ``part.layers`` layers to ``out``.

    Notes: ``dropped``, layers of ``source`` (0-based); ``influence``, of each layer, where it was measured.
    """
    decoder = Decoder.read(source)
    for line in refuse_shape(CompressionConfig(depth=part), decoder):
        raise ConfigError(line)
    influence: list[float] | None = None
    if part.method == "influence" and part.layers < decoder.layers:
        from squeeze.data.chat import calibration_tokens
        from squeeze.stages.statistics import block_influence

        influence = block_influence(source, calibration_tokens(source, part.calibration, context.data))
    drop = choose(part, decoder.layers, influence)
    keep = [layer for layer in range(decoder.layers) if layer not in drop]
    place = {old: new for new, old in enumerate(keep)}

    def change(weight: Weight) -> Output | None:
        of = decoder.layer_of(weight.name)
        if of is None:
            return same(weight)
        layer, name = of
        return same(weight, decoder.layer_prefix(place[layer]) + name) if layer in place else None

    rewrite(source, out, change)
    write_config(out, with_layers(read_config(source), keep))
    copy_others(source, out)
    notes: dict[str, Any] = {"dropped": drop}
    if influence is not None:
        notes["influence"] = [round(value, 6) for value in influence]
    return notes


def choose(part: DepthConfig, layers: int, influence: Sequence[float] | None) -> list[int]:
    """The layers that go, 0-based, ascending. influence: of each of the ``layers``, where measured."""
    count = layers - part.layers
    spare = range(1, layers - 1) if part.keep_ends else range(layers)
    if part.method == "explicit":
        return sorted(part.drop)
    if part.method == "uniform":
        return [spare[(2 * step + 1) * len(spare) // (2 * count)] for step in range(count)]
    if part.method == "top":
        return list(spare[len(spare) - count :])
    if count and influence is None:
        raise ConfigError("the method influence needs the influence of each layer; measure it first")
    ranked = sorted(spare, key=lambda layer: influence[layer] if influence else 0.0)
    return sorted(ranked[:count])
