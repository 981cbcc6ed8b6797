"""Build: from a base model and a configuration to a model folder, stage by stage."""

from __future__ import annotations

import errno
import importlib
import os
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

from squeeze.child import Child, Event
from squeeze.config import CompressionConfig, Part, QuantizeConfig, digest
from squeeze.data.chat import check_source, source_key
from squeeze.decoder import Decoder
from squeeze.errors import CandidateError, ConfigError, FailureClass, SqueezeError
from squeeze.folder import (
    Manifest,
    content_files,
    content_key,
    file_hash,
    publish,
    remove_partials,
    size_bytes,
    validate,
    write_manifest,
)
from squeeze.records import Artifact
from squeeze.stages import Context, Stage
from squeeze.target import calibrates, refuse_shape
from squeeze.versions import installed

Tell = Callable[[Event], None]


def build(
    config: CompressionConfig, base: Path, out: Path, data: str, tell: Tell = lambda _: None
) -> Artifact:
    """Build a model folder at ``out``, which must not exist; a failure leaves nothing behind.

    data: ``"hub"`` or the folder of the study's data sets, for calibration. tell: hears
    ``{"stage": name}`` before each stage. Imports torch where a stage needs it: call it in a child process.

    Raises ConfigError for a base, data or configuration that cannot be, CandidateError when a stage fails
    (kind disk when the disk is full).
    """
    decoder = validate(base)
    for line in refuse_shape(config, decoder):
        raise ConfigError(line)
    for _, wanted in config.parts:
        if _looks_at_text(wanted):
            check_source(cast(Any, wanted).calibration, data)
    work = work_path(out)
    base_key = content_key(base)
    seconds: dict[str, float] = {}
    notes: dict[str, Any] = {}
    done = CompressionConfig()
    source = base
    stages: tuple[tuple[str, Part | None], ...] = config.parts or (("copy", None),)
    try:
        for position, (name, part) in enumerate(stages):
            tell({"stage": name})
            started = time.monotonic()
            last = position == len(stages) - 1
            target = out if last else work / name
            with _told_as(name), publish(target) as folder:
                if part is None:
                    _link(source, folder)
                else:
                    notes[name] = _stage(name).run(source, part, folder, Context(data, base))
                    done = done.model_copy(update={name: part})
                seconds[name] = round(time.monotonic() - started, 3)
                _sign(folder, done, base_key, data, notes, seconds)
            source = target
    finally:
        shutil.rmtree(work, ignore_errors=True)
    built = Decoder.read(out)
    return Artifact(
        path=out,
        key=content_key(out),
        config=config,
        layers=built.layers,
        width=built.width,
        size_bytes=size_bytes(out),
        seconds=seconds,
        notes=notes,
    )


class Builder:
    """What a child process runs: ``{config, base, out, data}`` in plain data -> an Artifact in plain data."""

    def __call__(self, request: Mapping[str, Any], tell: Tell) -> dict[str, Any]:
        artifact = build(
            CompressionConfig.model_validate(request["config"]),
            Path(request["base"]),
            Path(request["out"]),
            request["data"],
            tell,
        )
        return artifact.model_dump(mode="json")


def build_in_child(
    config: CompressionConfig,
    base: Path,
    out: Path,
    data: str,
    *,
    log: Path,
    deadline_s: float,
    tell: Tell = lambda _: None,
) -> Artifact:
    """``build`` in a process of its own, which is gone afterwards, with a deadline in seconds.

    log: what the libraries print. Raises what ``build`` raises, and CandidateError (timeout, killed, oom).
    """
    request = {
        "config": config.model_dump(mode="json"),
        "base": str(base.absolute()),
        "out": str(out.absolute()),
        "data": data,
    }
    try:
        with Child(Builder, stage="build", log=log) as child:
            return Artifact.model_validate(child.call(request, deadline_s=deadline_s, tell=tell))
    finally:
        remove_partials(out)  # a killed child could not


def stage_keys(config: CompressionConfig, base_key: str, data: str) -> dict[str, str]:
    """The key of each stage's output: of the base, this part and all before it, their text, the versions."""
    keys: dict[str, str] = {}
    key = digest([base_key, installed()])
    for name, part in config.parts:
        text = source_key(cast(Any, part).calibration, data) if _looks_at_text(part) else None
        key = digest([key, name, part.model_dump(mode="json", exclude={"calibration"}), text])
        keys[name] = key
    return keys


def work_path(out: Path) -> Path:
    """Where this process keeps the outputs of the stages before the last."""
    return out.with_name(f".{out.name}.stages.partial-{os.getpid()}")


def _looks_at_text(part: Part) -> bool:
    if isinstance(part, QuantizeConfig):
        return calibrates(part)
    return getattr(part, "method", None) in ("influence", "activation")


def _stage(name: str) -> Stage:
    return cast(Stage, importlib.import_module(f"squeeze.stages.{name}"))


def _link(source: Path, folder: Path) -> None:
    """The same model in another folder, without a second copy on the disk where that can be."""
    for path in content_files(source):
        real = path.resolve()  # the hub's cache holds links
        try:
            os.link(real, folder / path.name)
        except OSError:
            shutil.copyfile(real, folder / path.name)


def _sign(
    folder: Path,
    done: CompressionConfig,
    base_key: str,
    data: str,
    notes: Mapping[str, Any],
    seconds: Mapping[str, float],
) -> None:
    files = {path.name: file_hash(path) for path in content_files(folder)}
    manifest = Manifest(
        files=files,
        config=done,
        base=base_key,
        data=data,
        versions=installed(),
        notes=notes,
        seconds=seconds,
    )
    write_manifest(folder, manifest)


class _told_as:
    """Turns what a stage's libraries raise into a CandidateError of that stage."""

    def __init__(self, stage: str) -> None:
        self.stage = stage

    def __enter__(self) -> None:
        return None

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if error is None or isinstance(error, SqueezeError) or not isinstance(error, Exception):
            return
        text = " ".join(str(error).split())[:500]
        kind: FailureClass = "build"
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            kind = "disk"
            text = f"the disk is full; {text}; free some space and start again"
        elif isinstance(error, MemoryError) or "out of memory" in text.lower():
            kind = "oom"
        raise CandidateError(f"{type(error).__name__}: {text}", stage=self.stage, kind=kind) from error
