"""Build one configuration into a model folder, without a study; its record goes to stdout as JSON.

CONFIG is YAML: any of the keys depth, width, quantize, each with the fields of its part in squeeze.config.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Sequence
from math import inf
from pathlib import Path

from search.cli import CACHE_GIB, command_parser, positive, run_command


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command. Returns the exit code."""
    options = command_parser(__doc__ or "", "python -m search.build w8a8.yaml --out models/w8a8")
    options.add_argument("config", type=Path, metavar="CONFIG", help="a YAML file")
    options.add_argument("--model", help="a model folder or a hub id (default: the embedded model)")
    options.add_argument("--out", type=Path, required=True, help="the folder to write; must not exist")
    options.add_argument(
        "--data",
        help="a folder of data sets for calibration, or hub (default: hub; the embedded model's own)",
    )
    options.add_argument("--deadline", type=positive, help="seconds it may take (default: no limit)")
    options.add_argument(
        "--no-cache",
        action="store_true",
        help="neither find nor keep outputs of stages, states of trainings",
    )
    arguments = options.parse_args(argv)

    # Late, so that --help answers at once.
    from search.records import CACHE, MODELS
    from squeeze.cache import Cache
    from squeeze.config import load_config
    from squeeze.data.sets import HUB
    from squeeze.decoder import Decoder
    from squeeze.demo import DATA_DIR, MODEL_DIR
    from squeeze.errors import CandidateError, ConfigError, SetupError
    from squeeze.hub import fetch
    from squeeze.pipeline import build_in_child
    from squeeze.server import preload
    from squeeze.target import Target

    out: Path = arguments.out
    if out.exists():
        raise ConfigError(f"--out must be a new folder; {out} exists; remove it or choose another")
    config = load_config(arguments.config)
    embedded = arguments.model is None
    base = fetch(str(MODEL_DIR) if embedded else arguments.model, MODELS)
    Target.here(Decoder.read(base)).check(config)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryDirectory(dir=out.parent, prefix=".writable-").cleanup()
    except OSError as error:
        raise SetupError(
            f"--out must be in a writable folder; {out.parent}: {error.strerror}; choose another"
        ) from error
    data = arguments.data or (str(DATA_DIR) if embedded else HUB)
    preload(())  # one child: let it import only what its stages need
    descriptor, log = tempfile.mkstemp(prefix="squeeze-build-", suffix=".log")
    os.close(descriptor)
    try:
        artifact = build_in_child(
            config,
            base,
            out,
            data,
            log=Path(log),
            deadline_s=arguments.deadline or inf,
            tell=lambda event: print(event.get("stage", ""), file=sys.stderr, flush=True),
            cache=None if arguments.no_cache else Cache(MODELS / CACHE),
        )
    except CandidateError as error:
        raise CandidateError(f"{error}; log: {log}", stage=error.stage, kind=error.kind) from error
    Path(log).unlink(missing_ok=True)
    if not arguments.no_cache:
        Cache(MODELS / CACHE).shrink(CACHE_GIB << 30)
    print(artifact.model_dump_json())
    return 0


if __name__ == "__main__":
    run_command(main)
