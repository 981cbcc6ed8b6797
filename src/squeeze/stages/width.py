"""Feed-forward width: keep the important neurons, the same number in each layer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from squeeze.config import CompressionConfig, WidthConfig
from squeeze.decoder import Decoder, read_config, with_width
from squeeze.errors import ConfigError
from squeeze.folder import copy_others, write_config
from squeeze.shards import Output, Weight, all_weights, rewrite, same, sliced
from squeeze.stages import Context
from squeeze.target import refuse_shape

Array = np.ndarray[Any, Any]


def run(source: Path, part: WidthConfig, out: Path, context: Context) -> dict[str, Any]:
    """Write ``source`` with an intermediate_size of ``part.width`` to ``out``.

    Notes: ``dropped``, neurons a layer; ``lost``, the share of each layer's importance that went with them.
    """
    decoder = Decoder.read(source)
    for line in refuse_shape(CompressionConfig(width=part), decoder):
        raise ConfigError(line)
    family = decoder.family
    scores: list[Array] = []
    if part.width < decoder.width:
        scores = importance(source, decoder, part, context)
    keep = [np.sort(np.argsort(-score, kind="stable")[: part.width]) for score in scores]

    def change(weight: Weight) -> Output | None:
        of = decoder.layer_of(weight.name)
        if of is None or not keep:
            return same(weight)
        layer, name = of
        projection, _, kind = name.rpartition(".")
        if projection in (family.gate, family.up):  # rows are neurons, of a bias too
            return sliced(weight, 0, keep[layer])
        if projection == family.down and kind == "weight":
            return sliced(weight, 1, keep[layer])
        return same(weight)

    rewrite(source, out, change)
    write_config(out, with_width(read_config(source), part.width))
    copy_others(source, out)
    lost = [1 - float(score[kept].sum() / score.sum()) for score, kept in zip(scores, keep, strict=True)]
    return {"dropped": decoder.width - part.width, "lost": [round(share, 6) for share in lost]}


def importance(source: Path, decoder: Decoder, part: WidthConfig, context: Context) -> list[Array]:
    """How important each neuron is: an array of ``decoder.width`` for each layer.

    activation: mean |act(gate)·up| on calibration text × norm of its column of down. magnitude: the product
    of the norms of its rows of gate and up and its column of down.
    """
    weights = all_weights(source)
    family = decoder.family

    def norms(layer: int, projection: str, axis: int) -> Array:
        weight = weights[f"{decoder.layer_prefix(layer)}{projection}.weight"]
        return np.asarray(np.linalg.norm(weight.floats(), axis=axis))

    down = [norms(layer, family.down, 0) for layer in range(decoder.layers)]
    if part.method == "magnitude":
        return [
            norms(layer, family.gate, 1) * norms(layer, family.up, 1) * column
            for layer, column in enumerate(down)
        ]
    from squeeze.data.chat import calibration_tokens
    from squeeze.stages.statistics import mean_activation

    fired = mean_activation(source, calibration_tokens(source, part.calibration, context.data))
    return [activation * column for activation, column in zip(fired, down, strict=True)]
