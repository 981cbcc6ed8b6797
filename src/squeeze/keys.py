"""What the output of a stage depends on, as keys: equal keys, equal outputs."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

from squeeze.config import (
    Calibration,
    CompressionConfig,
    DepthConfig,
    Part,
    QuantizeConfig,
    Training,
    WidthConfig,
    digest,
)
from squeeze.data.chat import source_key
from squeeze.folder import file_hash
from squeeze.versions import installed

_PACKAGE = Path(__file__).parent
_MAKES_MODELS = (
    "stages/**/*.py",
    "training/**/*.py",
    "data/**/*.py",
    "decoder.py",
    "shards.py",
    "versions.py",
)


@dataclass(frozen=True)
class StageKeys:
    """output: of a stage's model folder. state: of what trainings that differ in length alone share."""

    output: str
    state: str


def stage_keys(config: CompressionConfig, base_key: str, data: str) -> dict[str, StageKeys]:
    """The keys of each stage: of the base, this part and all before it, text, versions, our code."""
    keys: dict[str, StageKeys] = {}
    before = digest([base_key, installed(), code_key()])
    for name, part in config.normal.parts:
        wanted = text_of(part)
        text = source_key(wanted, data) if wanted is not None else None
        told = part.model_dump(mode="json", exclude={"calibration", "text"})
        output = digest([before, name, text, told])
        told = {name: value for name, value in told.items() if name not in ("epochs", "steps")}
        keys[name] = StageKeys(output, state=digest(["state", before, name, text, told]))
        before = keys[name].output
    return keys


@cache
def code_key() -> str:
    """A hash of the modules that make models: what other code has made is not taken for ours."""
    paths = sorted(path for pattern in _MAKES_MODELS for path in _PACKAGE.glob(pattern))
    return digest({str(path.relative_to(_PACKAGE)): file_hash(path) for path in paths})


def text_of(part: Part) -> Calibration | None:
    """The text that a stage looks at; None when it needs none."""
    if isinstance(part, Training):
        return part.text
    if isinstance(part, DepthConfig | WidthConfig | QuantizeConfig) and part.calibrates:
        return part.calibration
    return None
