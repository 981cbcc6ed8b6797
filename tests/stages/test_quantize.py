"""Quantization: every scheme and algorithm gives a model that loads and is near the one it came from."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from squeeze.config import ALGORITHMS, Calibration, QuantizeConfig
from squeeze.errors import ConfigError
from squeeze.folder import validate
from squeeze.shards import all_weights
from squeeze.stages import Context, quantize
from squeeze.versions import major

STORED = {
    "W8A8": "I8",
    "W8A16": "I32",
    "W4A16": "I32",
    "W4A16_ASYM": "I32",
    "FP8": "F8_E4M3",
    "FP8_DYNAMIC": "F8_E4M3",
}
LEAST_LIKENESS = {
    "W8A8": 0.99,
    "W8A16": 0.99,
    "FP8": 0.97,
    "FP8_DYNAMIC": 0.97,
    # A random model has no structure that 4 bits could keep well.
    "W4A16": 0.8,
    "W4A16_ASYM": 0.8,
}
"""Mean cosine of the logits; a wrongly read scale or packing gives about 0."""

ALL = [(scheme, algorithm) for scheme, algorithms in ALGORITHMS.items() for algorithm in algorithms]
FEW = Calibration(samples=16, length=64)


def rounded(source: Path, out: Path, data: Path, **part: Any) -> dict[str, Any]:
    out.mkdir()
    return quantize.run(
        source, QuantizeConfig(**{"calibration": FEW, **part}), out, Context(str(data), source)
    )


def likeness(one: Any, other: Any) -> float:
    import torch

    return float(torch.nn.functional.cosine_similarity(one, other, dim=-1).mean())


@pytest.mark.parametrize(("scheme", "algorithm"), ALL)
def test_each_scheme_loads_and_answers_like_its_source(
    scheme: str, algorithm: str, tiny: Path, talk: Path, tmp_path: Path, logits: Callable[..., Any]
) -> None:
    out = tmp_path / "out"
    notes = rounded(tiny, out, talk, scheme=scheme, algorithm=algorithm)
    assert validate(out).quantization == "compressed-tensors"
    assert notes["samples"] == (16 if algorithm != "rtn" or scheme == "FP8" else 0)
    assert notes.get("gptq_fallbacks") == (0 if algorithm == "gptq" else None)

    weights = all_weights(out)
    linear = "model.layers.0.mlp.up_proj.weight"
    packed = weights.get(linear) or weights[f"{linear}_packed"]
    assert packed.dtype == STORED[scheme]
    embedding = "model.embed_tokens.weight"
    assert (weights[embedding].raw() == all_weights(tiny)[embedding].raw()).all()
    assert "lm_head.weight" not in weights

    if scheme == "W4A16_ASYM" and major("compressed-tensors") < (0, 14):
        # transformers cannot read it there, engines can:
        # https://github.com/vllm-project/llm-compressor/issues/1704
        assert weights[f"{linear}_zero_point"].shape == (512 // 8, 2)
        return
    assert likeness(logits(out), logits(tiny)) > LEAST_LIKENESS[scheme]


def test_all_but_weights_and_the_quantization_is_as_in_the_source(
    tiny: Path, talk: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    rounded(tiny, out, talk, scheme="W8A8")
    assert {path.name for path in out.iterdir()} == {path.name for path in tiny.iterdir()}
    for path in tiny.iterdir():
        if path.name not in ("config.json", "model.safetensors"):
            assert (out / path.name).read_bytes() == path.read_bytes()
    config = json.loads((out / "config.json").read_text())
    quantization = config.pop("quantization_config")
    assert config == json.loads((tiny / "config.json").read_text())
    assert quantization["ignore"] == ["lm_head"]


@pytest.mark.parametrize("size", [32, 64])
def test_the_group_size_is_the_one_asked_for(size: int, tiny: Path, talk: Path, tmp_path: Path) -> None:
    rounded(tiny, tmp_path / "out", talk, scheme="W4A16", group_size=size)
    scale = all_weights(tmp_path / "out")["model.layers.0.mlp.down_proj.weight_scale"]
    assert scale.shape == (256, 512 // size)


def test_w8a16_has_a_scale_for_each_channel(tiny: Path, talk: Path, tmp_path: Path) -> None:
    rounded(tiny, tmp_path / "out", talk, scheme="W8A16")
    scale = all_weights(tmp_path / "out")["model.layers.0.mlp.down_proj.weight_scale"]
    assert scale.shape == (256, 1)


def test_what_the_contests_server_refuses_to_read_is_not_written(
    tiny: Path, talk: Path, tmp_path: Path
) -> None:
    rounded(tiny, tmp_path / "out", talk, scheme="W8A8", algorithm="gptq")
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    weights = config["quantization_config"]["config_groups"]["group_0"]["weights"]
    assert (weights["strategy"], weights["actorder"]) == ("channel", None)


def test_gptq_is_nearer_than_rounding_to_nearest(
    tiny: Path, talk: Path, tmp_path: Path, logits: Callable[..., Any]
) -> None:
    near = {}
    for algorithm in ("gptq", "rtn"):
        rounded(tiny, tmp_path / algorithm, talk, scheme="W4A16", algorithm=algorithm)
        near[algorithm] = likeness(logits(tmp_path / algorithm), logits(tiny))
    assert near["gptq"] > near["rtn"]


def test_gptqs_silent_fallback_is_counted(tiny: Path, talk: Path, tmp_path: Path) -> None:
    notes = rounded(
        tiny,
        tmp_path / "out",
        talk,
        scheme="W4A16",
        algorithm="gptq",
        dampening=1e-12,
        calibration=Calibration(samples=1, length=16),
    )
    # 16 tokens make Hessians of rank 16; none of the 4 × 7 linear layers can be inverted.
    assert notes["gptq_fallbacks"] == 28


def test_the_same_settings_give_the_same_weights(tiny: Path, talk: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        rounded(tiny, tmp_path / name, talk, scheme="W4A16_ASYM", algorithm="awq")
    one, two = (tmp_path / name / "model.safetensors" for name in ("one", "two"))
    assert one.read_bytes() == two.read_bytes()


def test_a_quantized_model_is_not_quantized_again(tiny: Path, talk: Path, tmp_path: Path) -> None:
    rounded(tiny, tmp_path / "once", talk, scheme="W8A8")
    with pytest.raises(ConfigError, match="must not be quantized yet"):
        rounded(tmp_path / "once", tmp_path / "twice", talk, scheme="W8A8")
