"""CompressionConfig: what is to be done to a model; one frozen part per stage, None = stage off.

A configuration is intent. It is hashable, goes to JSON and back unchanged, and refuses unknown keys.
What the base model or the engine cannot take is told by ``squeeze.target``, before anything is built.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, Literal, Self

import yaml
from pydantic import BaseModel, Field, ValidationError, model_validator

from squeeze.errors import ConfigError
from squeeze.parts import Calibration as Calibration
from squeeze.parts import DistillConfig as DistillConfig
from squeeze.parts import FinetuneConfig as FinetuneConfig
from squeeze.parts import Part as Part
from squeeze.parts import Training as Training
from squeeze.parts import TuneNormsConfig as TuneNormsConfig

DepthMethod = Literal["uniform", "top", "influence", "explicit"]
WidthMethod = Literal["activation", "magnitude"]
Scheme = Literal["W8A8", "W4A16", "W4A16_ASYM", "W8A16", "FP8_DYNAMIC", "FP8"]
Algorithm = Literal["rtn", "gptq", "awq"]


class DepthConfig(Part):
    """Which decoder layers stay.

    layers: how many stay. method: ``uniform`` drops evenly spread ones, ``top`` the last ones,
    ``influence`` those that turn the residual stream least (Block Influence, ShortGPT,
    arXiv:2403.03853), ``explicit`` those listed in ``drop`` (0-based). Unless ``keep_ends`` is false
    the first and the last layer stay.
    """

    layers: int = Field(ge=1)
    method: DepthMethod = "influence"
    drop: tuple[int, ...] = ()
    keep_ends: bool = True
    calibration: Calibration = Calibration()

    @model_validator(mode="after")
    def _drop_goes_with_explicit(self) -> Self:
        if (self.method == "explicit") != bool(self.drop):
            raise ValueError("drop lists layers if and only if method is 'explicit'")
        if len(set(self.drop)) != len(self.drop):
            raise ValueError(f"drop must not name a layer twice; got {list(self.drop)}")
        return self

    @property
    def calibrates(self) -> bool:
        """Whether it looks at calibration text."""
        return self.method == "influence"


class WidthConfig(Part):
    """How many feed-forward neurons stay in each layer, the same number in all.

    width: the new intermediate_size, a multiple of ``step``. method: which neurons are important:
    ``activation`` = mean |act(gate)·up| on calibration text × norm of the down column, ``magnitude`` =
    norms of the weights.
    """

    width: int = Field(ge=1)
    method: WidthMethod = "activation"
    step: int = Field(128, ge=1)
    calibration: Calibration = Calibration()

    @model_validator(mode="after")
    def _width_is_a_multiple(self) -> Self:
        if self.width % self.step:
            raise ValueError(
                f"width must be a multiple of {self.step}; got {self.width}; "
                f"nearest: {max(1, round(self.width / self.step)) * self.step}"
            )
        return self

    @property
    def calibrates(self) -> bool:
        """Whether it looks at calibration text."""
        return self.method == "activation"


class QuantizeConfig(Part):
    """How the linear layers (never lm_head) are quantized.

    scheme: a compressed-tensors preset. algorithm: ``rtn`` rounds to nearest without data, ``gptq``
    (arXiv:2210.17323) and ``awq`` (arXiv:2306.00978) look at calibration text. dampening: GPTQ's share
    of the mean Hessian diagonal that is added to it. group_size: weights a scale is shared by, for the
    W4 schemes.
    """

    scheme: Scheme
    algorithm: Algorithm = "rtn"
    dampening: float = Field(0.01, gt=0, lt=1)
    group_size: Literal[32, 64, 128] = 128
    calibration: Calibration = Calibration()

    @model_validator(mode="after")
    def _algorithm_fits_scheme(self) -> Self:
        allowed = ALGORITHMS[self.scheme]
        if self.algorithm not in allowed:
            raise ValueError(f"{self.scheme} takes algorithm {' or '.join(allowed)}; got {self.algorithm}")
        if self.group_size != 128 and not self.scheme.startswith("W4"):
            raise ValueError(f"group_size is for the W4 schemes; got {self.group_size} with {self.scheme}")
        return self

    @property
    def calibrates(self) -> bool:
        """Whether it looks at calibration text."""
        return self.algorithm != "rtn" or self.scheme == "FP8"


ALGORITHMS: dict[Scheme, tuple[Algorithm, ...]] = {
    "W8A8": ("rtn", "gptq"),
    "W4A16": ("gptq", "rtn"),
    "W4A16_ASYM": ("awq", "rtn"),
    "W8A16": ("rtn", "gptq"),
    "FP8_DYNAMIC": ("rtn",),
    "FP8": ("rtn",),
}
"""The algorithms each scheme may be made with."""


class CompressionConfig(Part):
    """Everything that is done to a base model, in the order of the fields."""

    depth: DepthConfig | None = None
    width: WidthConfig | None = None
    distill: DistillConfig | None = None
    finetune: FinetuneConfig | None = None
    quantize: QuantizeConfig | None = None
    tune_norms: TuneNormsConfig | None = None

    @model_validator(mode="after")
    def _norms_are_tuned_after_quantization(self) -> Self:
        if self.tune_norms is not None and self.quantize is None:
            raise ValueError("tune_norms mends a quantized model; give quantize too, or use distill")
        return self

    @property
    def parts(self) -> tuple[tuple[str, Part], ...]:
        """The stages that are on, in order: (stage name, its part)."""
        named = ((name, getattr(self, name)) for name in type(self).model_fields)
        return tuple((name, part) for name, part in named if part is not None)

    @property
    def families(self) -> tuple[str, ...]:
        """The kinds of compression in it, for tables: e.g. ``("depth", "W8A8")``."""
        return tuple(part.scheme if isinstance(part, QuantizeConfig) else name for name, part in self.parts)

    @property
    def trains(self) -> bool:
        """Whether some stage trains weights."""
        return any(isinstance(part, Training) for _, part in self.parts)

    @property
    def epochs(self) -> int:
        """Epochs of all trainings together."""
        return sum(part.epochs for _, part in self.parts if isinstance(part, Training))

    @property
    def untrained(self) -> CompressionConfig:
        """The same shape and scheme made the cheapest way, which is as fast: no training, no calibration."""
        quantize = self.quantize
        if quantize is not None and "rtn" in ALGORITHMS[quantize.scheme]:
            quantize = QuantizeConfig(scheme=quantize.scheme, group_size=quantize.group_size)
        return CompressionConfig(depth=self.depth, width=self.width, quantize=quantize)

    @property
    def normal(self) -> CompressionConfig:
        """The same with what has no effect in it as it is by default; not validated anew."""
        parts: dict[str, Part] = dict(self.parts)
        for name, part in parts.items():
            idle = []
            if isinstance(part, DepthConfig | WidthConfig | QuantizeConfig) and not part.calibrates:
                idle.append("calibration")
            if isinstance(part, WidthConfig):
                idle.append("step")
            if isinstance(part, QuantizeConfig) and part.algorithm != "gptq":
                idle.append("dampening")
            if isinstance(part, DistillConfig) and part.teacher == "live":
                idle.append("draws")
            parts[name] = part.model_copy(update={field: _default(part, field) for field in idle})
        return self.model_copy(update=parts)

    @property
    def key(self) -> str:
        """A hash of the content: configurations that come to the same have equal keys."""
        return digest(self.normal.model_dump(mode="json"))


def _default(part: Part, field: str) -> Any:
    return type(part).model_fields[field].default


def digest(value: Any) -> str:
    """The first 16 hex digits of the SHA-256 of a JSON value written canonically."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def read_yaml(path: Path, kind: str) -> Any:
    """The plain data of a YAML file. Raises ConfigError, one line that calls the file ``kind``."""
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{kind} must be readable; {path}: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{kind} must be YAML; {path}: {' '.join(str(error).split())}") from error


def load_config(path: Path) -> CompressionConfig:
    """Read a configuration from a YAML (or JSON) file. Raises ConfigError, one line, for any mistake."""
    data = read_yaml(path, "a configuration file")
    return parse_config(data if data is not None else {}, str(path))


def parse_config(data: Any, origin: str) -> CompressionConfig:
    """A configuration from plain data. Raises ConfigError naming the first broken rule and ``origin``."""
    try:
        return CompressionConfig.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(step) for step in first["loc"]) or "the whole"
        if first["type"] == "extra_forbidden":
            raise ConfigError(
                f"{origin}: unknown key {where}; known there: {', '.join(_known(first['loc']))}"
            ) from error
        message = str(first["msg"]).removeprefix("Value error, ")
        raise ConfigError(f"{origin}: {where}: {message} (got {first['input']!r})") from error


def _known(location: tuple[Any, ...]) -> tuple[str, ...]:
    """The keys that are allowed beside the unknown one at that place."""
    model: type[BaseModel] = CompressionConfig
    children: dict[str, type[BaseModel]] = {
        "depth": DepthConfig,
        "width": WidthConfig,
        "distill": DistillConfig,
        "finetune": FinetuneConfig,
        "quantize": QuantizeConfig,
        "tune_norms": TuneNormsConfig,
        "calibration": Calibration,
        "text": Calibration,
    }
    for step in location[:-1]:
        model = children.get(str(step), model)
    return tuple(model.model_fields)
