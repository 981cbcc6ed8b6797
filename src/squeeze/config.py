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
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from squeeze.errors import ConfigError

DepthMethod = Literal["uniform", "top", "influence", "explicit"]
WidthMethod = Literal["activation", "magnitude"]
Scheme = Literal["W8A8", "W4A16", "W4A16_ASYM", "W8A16", "FP8_DYNAMIC", "FP8"]
Algorithm = Literal["rtn", "gptq", "awq"]
Divergence = Literal["forward", "reverse", "js"]
Teacher = Literal["live", "sampled", "top"]


class Part(BaseModel):
    """A frozen record that refuses unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Calibration(Part):
    """The text that a stage looks at.

    source: ``manta`` (the study's chat set), ``random`` (random tokens), or a path of a ``.jsonl`` or
    ``.parquet`` file with a ``conversations`` column. length: tokens a sample is cut to.
    """

    source: str = "manta"
    samples: int = Field(64, ge=1, le=1_000_000)
    length: int = Field(512, ge=16, le=16384)
    seed: int = 42


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


class Training(Part):
    """What every training stage is told.

    text: the conversations that are trained on, and the length of a packed row; ``text.seed`` also orders
    them. epochs: passes over the text; steps, if given, is the number of optimizer steps instead.
    learning_rate: of the stable phase. batch: tokens of a step. The rate warms up over ``warmup`` steps,
    stays, and falls to zero over the last ``decay`` of all steps (warm-up–stable–decay, arXiv:2404.06395):
    all but that last share is the same whatever the number of epochs, so that a longer training goes on from
    a shorter one. validate_every: steps between looks at text that is kept apart; after ``patience`` looks
    without a fall the rate starts to fall at once. gradient_checkpointing saves memory for time; compile uses
    torch.compile, which pays for itself in long trainings on a GPU.
    """

    text: Calibration = Calibration(samples=2048)
    epochs: int = Field(1, ge=1, le=1000)
    steps: int | None = Field(None, ge=2)
    learning_rate: float = Field(1e-3, gt=0, lt=1)
    batch: int = Field(4096, ge=16)
    warmup: int = Field(20, ge=0)
    decay: float = Field(0.2, gt=0, le=1)
    validate_every: int = Field(20, ge=1)
    patience: int = Field(3, ge=1)
    gradient_checkpointing: bool = False
    compile: bool = False

    @model_validator(mode="after")
    def _rows_fit_a_step(self) -> Self:
        if self.text.source == "random":
            raise ValueError("training needs conversations; text.source random has none")
        if self.batch < self.text.length:
            raise ValueError(
                f"batch, in tokens, must hold a row of text.length {self.text.length}; got {self.batch}"
            )
        return self


class DistillConfig(Training):
    """How the base teaches the pruned model (knowledge distillation) on the assistant's text.

    divergence: of the teacher's distribution p and the student's q: ``forward`` KL(p‖q), ``reverse`` KL(q‖p),
    ``js`` the Jensen–Shannon divergence. temperature: both are flattened by it; the loss is multiplied by its
    square. cross_entropy: share, 0 to 1, of the loss that is plain cross-entropy on the text. hidden: weight
    of the mean squared error of the hidden states of kept layers, relative to the teacher's mean square.
    teacher: ``live`` runs it at each step; ``sampled`` runs it once and keeps ``draws`` tokens a position,
    sampled by importance so that the loss is unbiased (arXiv:2503.16870); ``top`` keeps the ``draws`` most
    likely ones, which is biased: their probabilities are scaled to a sum of one.
    """

    learning_rate: float = Field(2e-4, gt=0, lt=1)
    divergence: Divergence = "forward"
    temperature: float = Field(2.0, gt=0, le=20)
    cross_entropy: float = Field(0.0, ge=0, lt=1)
    hidden: float = Field(0.0, ge=0)
    teacher: Teacher = "live"
    draws: int = Field(64, ge=1, le=1024)

    @model_validator(mode="after")
    def _kept_tokens_suffice(self) -> Self:
        if self.teacher != "live" and (self.divergence != "forward" or self.hidden > 0):
            raise ValueError(
                f"teacher {self.teacher} keeps a few tokens' probabilities, enough for divergence forward "
                f"and hidden 0 only; got {self.divergence} and {self.hidden}; use teacher live"
            )
        return self


class FinetuneConfig(Training):
    """How low-rank adapters (LoRA, arXiv:2106.09685) are trained on the assistant's text and merged.

    rank: of the adapters on every linear layer of the decoder. alpha: their product is scaled by alpha/rank;
    None means 2·rank.
    """

    learning_rate: float = Field(2e-4, gt=0, lt=1)
    rank: int = Field(16, ge=1, le=1024)
    alpha: float | None = Field(None, gt=0)


class TuneNormsConfig(Training):
    """How the norm weights of the quantized model are trained towards the base (forward KL).

    A few dozen steps suffice for so few weights; three times the default rate makes a W8A8 model worse.
    """

    text: Calibration = Calibration(samples=1024)
    learning_rate: float = Field(1e-3, gt=0, lt=1)
    batch: int = Field(2048, ge=16)
    warmup: int = Field(5, ge=0)


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
    def key(self) -> str:
        """A hash of the content; equal configurations have equal keys."""
        return digest(self.model_dump(mode="json"))


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
