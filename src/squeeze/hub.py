"""A model by folder or by hub id: fetched once, whole or not at all, and checked before use."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import re
import shutil
import sys
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from squeeze.errors import ConfigError, SetupError, SqueezeError
from squeeze.folder import MANIFEST, validate, verify_manifest
from squeeze.secret import hub_token

# Weights, configuration, tokenizer, template, license: nothing that runs and nothing that unpickles.
_WANTED = ("*.safetensors", "*.json", "merges.txt", "tokenizer.model", "*.jinja", "LICENSE*")
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_TIMEOUT_S = 20


def fetch(model: str, models: Path) -> Path:
    """The validated folder of a model.

    model: a folder, or a hub id ``owner/name``, which is fetched into ``models/base/<owner>--<name>``; what
    is there already is used without asking the network. A fetch that was cut off goes on where it stopped. A
    folder that was built here is checked against its hashes.
    HF_TOKEN and HF_ENDPOINT are taken from the environment.

    Raises ConfigError for a folder that is no model and for an id that the hub does not know, SetupError
    when the hub cannot be reached, refuses, or the disk is full.
    """
    folder = Path(model).expanduser()
    if folder.exists() or not _HUB_ID.fullmatch(model) or folder.parts[0] == models.name:
        validate(folder)
        if (folder / MANIFEST).is_file():
            verify_manifest(folder)
        return folder
    place = models / "base" / model.replace("/", "--")
    if not place.exists():
        try:
            _fetch(model, place)
        except SqueezeError:
            raise
        except Exception as error:  # two HTTP libraries, by version, and the hub's own errors
            raise _refusal(error, model) from error
    validate(place)
    return place


def _fetch(model: str, place: Path) -> None:
    """Fetch into a hidden folder beside ``place``, check it, and rename it."""
    from huggingface_hub import HfApi, get_hf_file_metadata, hf_hub_url
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]

    endpoint = os.environ.get("HF_ENDPOINT")
    token = hub_token()
    hub = HfApi(endpoint=endpoint, token=token)
    info = hub.model_info(model, files_metadata=True, timeout=_TIMEOUT_S)
    files = [file for file in info.siblings or [] if any(fnmatch(file.rfilename, one) for one in _WANTED)]
    files = [file for file in files if "/" not in file.rfilename]  # other formats of the model lie in folders
    if not any(file.rfilename.endswith(".safetensors") for file in files):
        raise ConfigError(
            f"weights must be safetensors, because a pickle runs code when it is read; {model} has none on "
            f"the hub; choose another model, or save it as safetensors and give the folder"
        )
    # The name is what lets the next start find the same bytes of the same commit.
    partial = place.with_name(f".{place.name}.{str(info.sha)[:12]}.fetching")
    with _alone(partial, model):
        _check_space(partial, sum(file.size or 0 for file in files), model)
        print(f"fetching {model} at {info.sha} into {place}", file=sys.stderr)
        for file in files:
            path = partial / file.rfilename
            url = hf_hub_url(model, file.rfilename, revision=info.sha, endpoint=endpoint)
            found = get_hf_file_metadata(url, token=token, timeout=_TIMEOUT_S, endpoint=endpoint)
            elsewhere = urlsplit(found.location).netloc != urlsplit(url).netloc
            # snapshot_download would begin each file anew: since 1.18 it keeps no partial file.
            # https://github.com/huggingface/huggingface_hub/issues/4196
            with path.open("ab") as sink:
                http_get(
                    found.location,
                    sink,
                    resume_size=sink.tell(),
                    headers=build_hf_headers(token=False if elsewhere else token),
                    expected_size=found.size,
                    displayed_filename=file.rfilename,
                )
            if not _is_whole(path, file):
                path.unlink()
                raise SetupError(
                    f"{file.rfilename} of {model} must have the hub's size and hash; it was fetched damaged; "
                    f"run the same command to fetch it again"
                )
        try:
            validate(partial)
        except ConfigError as error:
            raise ConfigError(f"{model} on the hub cannot be used: {error}") from error
        partial.rename(place)
    for left in place.parent.glob(f".{place.name}.*.fetching"):  # of earlier commits
        shutil.rmtree(left, ignore_errors=True)


@contextlib.contextmanager
def _alone(partial: Path, model: str) -> Iterator[None]:
    """Hold the folder: two processes that append to one file would spoil it."""
    partial.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(partial, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError as error:
        raise SetupError(f"{model} is being fetched by another process; wait until that is done") from error
    finally:
        os.close(descriptor)


def _is_whole(path: Path, file: Any) -> bool:
    """Whether a file has the size and, where the hub tells it, the SHA-256 of the original."""
    if file.size is not None and path.stat().st_size != file.size:
        return False
    if file.lfs is None:
        return True
    with path.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest() == str(file.lfs["sha256"])


def _check_space(folder: Path, size: int, model: str) -> None:
    missing = size - sum(path.stat().st_size for path in folder.iterdir())
    free = shutil.disk_usage(folder).free
    if missing > free:
        raise SetupError(
            f"{model} needs {missing:,} bytes in {folder.parent}; {free:,} are free; make room there"
        )


def _refusal(error: Exception, model: str) -> ConfigError | SetupError:
    """One clear line for whatever the hub's library raised."""
    causes = [cause for cause in (error, error.__cause__, error.__context__) if cause is not None]
    names = {kind.__name__ for cause in causes for kind in type(cause).__mro__}
    answers = [answer for cause in causes if (answer := getattr(cause, "response", None)) is not None]
    status = answers[0].status_code if answers else None
    if any(getattr(cause, "errno", None) in (errno.ENOSPC, errno.EDQUOT) for cause in causes):
        return SetupError(
            f"{model} must fit on the disk, which is full; make room, then run the same command"
        )
    if isinstance(error, PermissionError):
        return SetupError(
            f"{error.filename} must be writable to store {model}; mend the rights of that folder"
        )
    if "GatedRepoError" in names or status == 403:
        return SetupError(
            f"{model} is gated; accept its terms on its hub page, set HF_TOKEN to a token of that account, "
            f"or give a local folder"
        )
    if "RepositoryNotFoundError" in names or status in (401, 404):
        return ConfigError(
            f"a model must be a folder or a hub id; {model} is no folder here and the hub does not show it; "
            f"mend the name, or set HF_TOKEN if it is private"
        )
    if "OfflineModeIsEnabled" in names:
        return SetupError(f"{model} is not here and HF_HUB_OFFLINE is set; unset it or give a local folder")
    if status is not None:
        return SetupError(f"the hub answered {status} for {model}; try again later or give a local folder")
    return SetupError(
        f"{model} is no folder here and the hub cannot be reached ({type(error).__name__}); go online and "
        f"run the same command again, or give a local folder"
    )
