"""A model by folder or by hub id: fetched once, whole or not at all, and checked before use."""

from __future__ import annotations

import errno
import os
import re
import shutil
import sys
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from squeeze.errors import ConfigError, SetupError
from squeeze.folder import validate

# Weights, configuration, tokenizer, template, license: nothing that runs and nothing that unpickles.
_WANTED = ("*.safetensors", "*.json", "merges.txt", "tokenizer.model", "*.jinja", "LICENSE*")
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_TIMEOUT_S = 20


def fetch(model: str, models: Path) -> Path:
    """The validated folder of a model.

    model: a folder, or a hub id ``owner/name``, which is fetched into ``models/base/<owner>--<name>``; what
    is there already is used without asking the network. A fetch that was cut off goes on where it stopped.
    HF_TOKEN and HF_ENDPOINT are taken from the environment.

    Raises ConfigError for a folder that is no model and for an id that the hub does not know, SetupError
    when the hub cannot be reached, refuses, or the disk is full.
    """
    folder = Path(model).expanduser()
    if folder.exists() or not _HUB_ID.fullmatch(model) or Path(model).parts[0] in (models.name, "."):
        validate(folder)
        return folder
    owner, name = model.split("/")
    place = models / "base" / f"{owner}--{name}"
    if not place.exists():
        _download(model, place)
    validate(place)
    return place


def _download(model: str, place: Path) -> None:
    """Fetch into a hidden folder beside ``place``, check it, and rename it."""
    import httpx
    from huggingface_hub import HfApi, snapshot_download

    # The hidden folder has a fixed name: it is what lets the next start go on with the same bytes.
    partial = place.with_name(f".{place.name}.fetching")
    endpoint = os.environ.get("HF_ENDPOINT")
    token = os.environ.get("HF_TOKEN") or False  # False: no token that some login left on this machine
    try:
        info = HfApi(endpoint=endpoint, token=token).model_info(
            model, files_metadata=True, timeout=_TIMEOUT_S
        )
        sizes = {file.rfilename: file.size or 0 for file in info.siblings or []}
        wanted = [name for name in sizes if any(fnmatch(name, pattern) for pattern in _WANTED)]
        wanted = [name for name in wanted if "/" not in name]  # other formats of the model lie in folders
        partial.mkdir(parents=True, exist_ok=True)
        _check_space(partial, sum(sizes[name] for name in wanted), model)
        print(f"fetching {model} at {info.sha} into {place}", file=sys.stderr)
        snapshot_download(
            model,
            revision=info.sha,
            local_dir=partial,
            allow_patterns=wanted,
            endpoint=endpoint,
            token=token,
            etag_timeout=_TIMEOUT_S,
        )
    except (OSError, ValueError, httpx.HTTPError) as error:
        raise _refusal(error, model) from error
    # Without the network snapshot_download may return a folder that is not whole:
    # https://github.com/huggingface/huggingface_hub/pull/3009
    cut = [name for name in wanted if not _has(partial / name, sizes[name])]
    if cut:
        raise SetupError(
            f"{model} was not fetched whole; {cut[0]} is incomplete; run the same command to go on"
        )
    try:
        validate(partial)
    except ConfigError as error:
        raise ConfigError(f"{model} on the hub is no model that can be used: {error}") from error
    shutil.rmtree(partial / ".cache", ignore_errors=True)
    try:
        partial.rename(place)
    except OSError:
        if not place.exists():  # else another process was first, with the same files
            raise
        shutil.rmtree(partial, ignore_errors=True)


def _has(path: Path, size: int) -> bool:
    return path.is_file() and path.stat().st_size == size


def _check_space(folder: Path, size: int, model: str) -> None:
    there = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    free = shutil.disk_usage(folder).free
    if size - there > free:
        raise SetupError(
            f"{model} needs {size - there:,} more bytes, {folder.parent} has {free:,} free; make room there"
        )


def _refusal(error: Exception, model: str) -> ConfigError | SetupError:
    """One clear line for whatever the hub's library raised."""
    from huggingface_hub import errors

    causes: list[Any] = [error, error.__cause__, error.__context__]
    names = {type(cause).__name__ for cause in causes}
    status = next((r.status_code for c in causes if (r := getattr(c, "response", None)) is not None), None)
    full = any(getattr(cause, "errno", None) == errno.ENOSPC for cause in causes)
    if full:
        return SetupError(
            f"the disk is full while fetching {model}; make room and run the same command to go on"
        )
    if isinstance(error, errors.GatedRepoError) or "GatedRepoError" in names or status == 403:
        return SetupError(
            f"{model} is gated; accept its terms on its hub page, set HF_TOKEN to a token of that account, "
            f"or give a local folder"
        )
    if isinstance(error, errors.RepositoryNotFoundError) or status in (401, 404):
        return ConfigError(
            f"a model must be a folder or a hub id; {model} is no folder here and the hub does not show it; "
            f"mend the name, or set HF_TOKEN if it is private"
        )
    if names & {"OfflineModeIsEnabled"}:
        return SetupError(
            f"{model} is not on this machine and HF_HUB_OFFLINE is set; unset it or give a folder"
        )
    if status is not None:
        return SetupError(f"the hub answered {status} for {model}; try again later or give a local folder")
    if isinstance(error, PermissionError):
        return SetupError(f"{model} cannot be stored: {error}; mend the rights of that folder")
    return SetupError(
        f"{model} is no folder here and the hub cannot be reached ({type(error).__name__}); go online and "
        f"run the same command to go on, or give a local folder"
    )
