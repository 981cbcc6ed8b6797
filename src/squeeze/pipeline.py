"""Build: from a base model and a configuration to a model folder, stage by stage."""

from __future__ import annotations

import contextlib
import importlib
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, cast

from squeeze import secret
from squeeze.cache import Cache
from squeeze.child import WAIT, Child, Event
from squeeze.config import CompressionConfig, Part, Training
from squeeze.data.chat import check_source
from squeeze.data.sets import HUB
from squeeze.decoder import Decoder
from squeeze.disk import check_room
from squeeze.errors import CandidateError, ConfigError
from squeeze.failures import told_as
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
from squeeze.keys import StageKeys, stage_keys, text_of
from squeeze.records import Artifact
from squeeze.stages import Context, Stage
from squeeze.target import refuse_shape
from squeeze.versions import installed

Tell = Callable[[Event], None]


def build(
    config: CompressionConfig,
    base: Path,
    out: Path,
    data: str,
    tell: Tell = lambda _: None,
    cache: Cache | None = None,
) -> Artifact:
    """Build a model folder at ``out``, which must not exist; a failure leaves nothing behind.

    data: ``"hub"`` or the folder of the study's data sets, for calibration. tell: hears
    ``{"stage": name}`` before each stage. cache: where outputs of stages are found and kept, and trainings go
    on from; None: none is kept. Imports torch where a stage needs it: call it in a child process.

    Raises ConfigError for a base, data or configuration that cannot be, CandidateError when a stage fails
    (kind disk when the disk is full).
    """
    decoder = validate(base)
    for line in refuse_shape(config, decoder):
        raise ConfigError(line)
    _check_texts(config, data)
    if out.exists():
        raise ConfigError(
            f"a model must be written to a new folder; {out} exists; remove it or choose another"
        )
    work = work_path(out)
    try:
        return _build(config, base, out, data, tell, cache or Cache(work), lasting=cache is not None)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _build(
    config: CompressionConfig,
    base: Path,
    out: Path,
    data: str,
    tell: Tell,
    cache: Cache,
    *,
    lasting: bool,
) -> Artifact:
    keys = stage_keys(config, content_key(base), data)
    seconds: dict[str, float] = {}
    cached: list[str] = []
    manifest = Manifest(
        files={}, config=CompressionConfig(), base=content_key(base), data=data, versions=installed()
    )
    source = base
    with contextlib.ExitStack() as reading:
        for name, part in config.parts:
            tell({"stage": name})
            with told_as(name), _alone(cache, keys[name].output, name, tell):
                started = time.monotonic()
                found = cache.find(keys[name].output)
                if found is None:
                    found = _make(name, part, source, base, data, tell, cache, keys[name], manifest, lasting)
                    seconds[name] = found.seconds[name]
                else:
                    seconds[name] = round(time.monotonic() - started, 3)
                    cached.append(name)
                reading.enter_context(cache.reading(keys[name].output))
            manifest, source = found, cache.stage(keys[name].output)
        started = time.monotonic()
        with told_as("copy"), publish(out) as folder:
            _link(source, folder)
            seconds = seconds or {"copy": round(time.monotonic() - started, 3)}
            files = _hashes(folder)
            write_manifest(
                folder, manifest.model_copy(update={"files": files, "config": config, "seconds": seconds})
            )
    built = Decoder.read(out)
    return Artifact(
        path=out,
        key=content_key(out),
        config=config,
        layers=built.layers,
        width=built.width,
        size_bytes=size_bytes(out),
        seconds=seconds,
        notes=manifest.notes,
        cached=tuple(cached),
        keys={name: key.output for name, key in keys.items()},
    )


def _make(
    name: str,
    part: Part,
    source: Path,
    base: Path,
    data: str,
    tell: Tell,
    cache: Cache,
    keys: StageKeys,
    before: Manifest,
    lasting: bool,
) -> Manifest:
    """Run a stage into the cache. Returns its manifest, which goes on from that of the stage before."""
    context = Context(
        data,
        base,
        state=cache.state(keys.state) if isinstance(part, Training) and lasting else None,
        shared=cache.shared if lasting else None,
        tell=tell,
    )
    with _alone(cache, keys.state, name, tell), publish(cache.stage(keys.output)) as folder:
        started = time.monotonic()
        notes = _stage(name).run(source, part, folder, context)
        manifest = before.model_copy(
            update={
                "files": _hashes(folder),
                "config": before.config.model_copy(update={name: part}),
                "notes": {**before.notes, name: notes},
                "seconds": {**before.seconds, name: round(time.monotonic() - started, 3)},
            }
        )
        write_manifest(folder, manifest)
    return manifest


@contextlib.contextmanager
def _alone(cache: Cache, key: str, name: str, tell: Tell) -> Iterator[None]:
    """Hold a key in a stage. While another build has it the stage is told to wait, then to begin anew."""
    with cache.alone(key, lambda: tell({"stage": WAIT})) as waited:
        if waited:
            tell({"stage": name})
        yield


class Builder:
    """What a child process runs: the arguments of ``build`` in plain data -> an Artifact in plain data."""

    def __call__(self, request: Mapping[str, Any], tell: Tell) -> dict[str, Any]:
        artifact = build(
            CompressionConfig.model_validate(request["config"]),
            Path(request["base"]),
            Path(request["out"]),
            request["data"],
            tell,
            Cache(Path(request["cache"])) if request["cache"] else None,
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
    cache: Cache | None = None,
    limits: Mapping[str, float] | None = None,
) -> Artifact:
    """``build`` in a process of its own, which is gone afterwards, with a deadline in seconds.

    limits: stage -> seconds that it may take; after the first timeout of one it is given twice as much, once.
    log: what the libraries print. Raises what ``build`` raises, and CandidateError (timeout, killed, oom;
    disk, before anything is begun, when it would not fit).
    """

    def keys() -> Mapping[str, StageKeys]:
        _check_texts(config, data)
        return stage_keys(config, content_key(base), data)

    check_room(config, base, out, cache, keys)
    request = {
        "config": config.model_dump(mode="json"),
        "base": str(base.absolute()),
        "out": str(out.absolute()),
        "data": data,
        "cache": str(cache.root.absolute()) if cache else None,
    }
    secrets = secret.HUB if data == HUB else ()
    given = dict(limits or {})
    while True:
        try:
            with Child(Builder, stage="build", log=log, secrets=secrets) as child:
                return Artifact.model_validate(
                    child.call(request, deadline_s=deadline_s, tell=tell, limits=given)
                )
        except CandidateError as error:
            stage = error.stage
            if error.kind != "timeout" or stage not in given or given != (limits or {}):
                raise
            deadline_s += given[stage]
            given[stage] *= 2
        finally:
            remove_partials(out)  # a killed child could not
            if cache is not None:
                cache.remove_partials()


def work_path(out: Path) -> Path:
    """Where this process keeps the outputs of the stages before the last."""
    return out.with_name(f".{out.name}.stages.partial-{os.getpid()}")


def _check_texts(config: CompressionConfig, data: str) -> None:
    for _, part in config.parts:
        if (text := text_of(part)) is not None:
            check_source(text, data)


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


def _hashes(folder: Path) -> dict[str, str]:
    return {path.name: file_hash(path) for path in content_files(folder)}
