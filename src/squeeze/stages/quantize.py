"""Quantization of the linear layers with llmcompressor, written in the compressed-tensors format."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from squeeze.config import CompressionConfig, QuantizeConfig
from squeeze.decoder import Decoder, read_config
from squeeze.errors import ConfigError
from squeeze.folder import copy_others, write_config
from squeeze.stages import Context
from squeeze.target import refuse_shape


def run(source: Path, part: QuantizeConfig, out: Path, context: Context) -> dict[str, Any]:
    """Write ``source`` with quantized linear layers, lm_head and embedding as they are, to ``out``.

    llmcompressor keeps its state in the process, so a process should make one model. Notes:
    ``gptq_fallbacks``, the linear layers that GPTQ gave up on and rounded to nearest; ``samples``, how many
    calibrated.
    """
    decoder = Decoder.read(source)
    for line in refuse_shape(CompressionConfig(quantize=part), decoder):
        raise ConfigError(line)
    from llmcompressor import oneshot
    from llmcompressor.core import reset_session

    from squeeze import versions
    from squeeze.data.chat import calibration_tokens

    samples = calibration_tokens(source, part.calibration, context.data) if part.calibrates else []
    reset_session()
    model = versions.load_model(source, "cpu")  # llmcompressor takes it to the GPU, layer by layer
    recipe = versions.quantize_recipe(
        {"group_0": _group(part)},
        part.algorithm,
        part.dampening,
        # Post-norm: no norm feeds a linear layer, so this is the only pair whose scales cancel in EXAONE-4
        # (with grouped-query attention v_proj and o_proj differ in size).
        awq_mappings=[(f"re:.*{decoder.family.up}$", [f"re:.*{decoder.family.down}$"])],
    )
    with _warnings() as warned, versions.without_pinning():
        oneshot(
            model=model,
            recipe=recipe,
            dataset=_dataset(samples),
            processor=versions.load_tokenizer(source),
            **versions.oneshot_arguments(len(samples), part.calibration.length),
        )
    model.save_pretrained(out, save_compressed=True)
    reset_session()
    _as_source(source, out)
    notes: dict[str, Any] = {"samples": len(samples)}
    if part.algorithm == "gptq":
        notes["gptq_fallbacks"] = versions.gptq_fallbacks(warned)
    return notes


def _group(part: QuantizeConfig) -> dict[str, Any]:
    """The config group: how the weights and the inputs of every Linear are rounded.

    Written out, not taken from the presets of compressed-tensors: those differ by version (W8A16 is
    channelwise in 0.13 and grouped in 0.19, observers have changed).
    """
    bits = 4 if part.scheme.startswith("W4") else 8
    kind = "float" if part.scheme.startswith("FP8") else "int"
    strategy = "group" if bits == 4 else "tensor" if part.scheme == "FP8" else "channel"
    weights = {
        "num_bits": bits,
        "type": kind,
        "symmetric": part.scheme != "W4A16_ASYM",
        "strategy": strategy,
        "group_size": part.group_size if strategy == "group" else None,
        "dynamic": False,
        "observer": "memoryless_minmax",
    }
    inputs: dict[str, Any] | None = None
    if part.scheme == "FP8":
        inputs = {"strategy": "tensor", "dynamic": False, "observer": "static_minmax"}
    elif part.scheme in ("W8A8", "FP8_DYNAMIC"):
        inputs = {"strategy": "token", "dynamic": True, "observer": None}
    if inputs is not None:
        inputs |= {"num_bits": 8, "type": kind, "symmetric": True}
    return {
        "targets": ["Linear"],
        "weights": weights,
        "input_activations": inputs,
        "output_activations": None,
    }


def _dataset(samples: list[list[int]]) -> Any:
    """The samples as llmcompressor takes them; None without any."""
    if not samples:
        return None
    from datasets import Dataset

    masks = [[1] * len(sample) for sample in samples]
    return Dataset.from_dict({"input_ids": samples, "attention_mask": masks})


def _as_source(source: Path, out: Path) -> None:
    """Give the saved model the config, tokenizer and template of ``source``: saving changes or omits them."""
    quantization = read_config(out)["quantization_config"]
    for group in quantization["config_groups"].values():
        if group["weights"]["strategy"] != "group":
            # The order in which GPTQ went is of no use to an engine, and compressed-tensors 0.13 refuses to
            # read it for anything but groups.
            group["weights"]["actorder"] = None
    for path in out.iterdir():
        if not path.name.startswith("model"):  # weights and their index
            path.unlink()
    write_config(out, {**read_config(source), "quantization_config": quantization})
    copy_others(source, out)


@contextlib.contextmanager
def _warnings() -> Iterator[list[str]]:
    """The warnings that llmcompressor logs meanwhile: it tells some failures in no other way."""
    from loguru import logger

    heard: list[str] = []
    sink = logger.add(lambda message: heard.append(str(message.record["message"])), level="WARNING")
    try:
        yield heard
    finally:
        with contextlib.suppress(ValueError):  # llmcompressor may have taken all sinks away
            logger.remove(sink)
