"""Replay searches on a recorded table: no engine, no model, thousands of trials, the same for a seed.

A table holds everything in a space, measured to the end. Record one's own: measure the space whole with
`python -m search.run --study grid --space grid --sampler brute --audit 1 --trials 219 --finalists 0`, then
`python -m search.replay --record grid --table grid.json`.
`python benchmarks/record.py` does both on many cores at once.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from search.cli import command_parser, positive, run_command

if TYPE_CHECKING:
    from search.table import Table

TABLE = Path("benchmarks/data/grid.json")
"""All of the space ``grid`` on the embedded model, recorded by ``benchmarks/record.py``."""


def parser() -> argparse.ArgumentParser:
    """The options of the command."""
    options = command_parser(
        __doc__ or "", "python -m search.replay --sampler ours --trials 40 --seeds 24 --json"
    )
    options.add_argument(
        "--table",
        type=Path,
        help=f"a recorded table (default: {TABLE}, of the embedded model), or the one to write",
    )
    options.add_argument(
        "--sampler",
        default="ours",
        help="ours, as search.run has it; seeds: its recipes and then random; random, tpe, gp, group: "
        "Optuna's as they are, without recipes (default: ours)",
    )
    options.add_argument("--pruner", default="ours", help="ours, Optuna's median, or none (default: ours)")
    options.add_argument("--trials", type=positive, default=40, help="of each search (default: 40)")
    options.add_argument(
        "--seeds", type=positive, default=24, help="searches, with the seeds 0, 1, … (default: 24)"
    )
    options.add_argument("--json", action="store_true", help="one JSON object a search a line")
    options.add_argument(
        "--record", metavar="STUDY", nargs="+", help="write --table from the records of these studies instead"
    )
    options.add_argument("--model", help="the base of those studies (default: the embedded model)")
    return options


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command. Returns the exit code."""
    arguments = parser().parse_args(argv)

    # Late, so that --help answers at once.
    from search.simulation import PRUNERS, SAMPLERS, replay
    from search.table import load_table
    from squeeze.errors import ConfigError

    if arguments.record:
        if arguments.table is None:
            raise ConfigError("--record must be told where to write; got no --table; give a new file's name")
        table = _record(arguments.record, arguments.model)
        arguments.table.write_text(table.model_dump_json(indent=1) + "\n", encoding="utf-8")
        print(f"{arguments.table}: {len(table.rows)} configurations, best {table.best:.4f}", file=sys.stderr)
        return 0
    if arguments.sampler not in SAMPLERS:
        raise ConfigError(f"--sampler must be one of {', '.join(SAMPLERS)}; got {arguments.sampler!r}")
    if arguments.pruner not in PRUNERS:
        raise ConfigError(f"--pruner must be one of {', '.join(PRUNERS)}; got {arguments.pruner!r}")
    table = load_table(arguments.table or TABLE)
    for seed in range(arguments.seeds):
        found = replay(table, arguments.sampler, arguments.trials, seed, arguments.pruner)
        if arguments.json:
            print(found.model_dump_json())
        else:
            print(
                f"seed {seed}: best {table.best - found.regret[-1]:.4f}, regret {found.regret[-1]:.4f}, "
                f"{found.seconds[-1]:.0f} s recorded, {found.pruned} pruned, {found.wrong} of them wrongly"
            )
    return 0


def _record(studies: Sequence[str], model: str | None) -> Table:
    """The table of studies of one space that were searched on this machine."""
    from search.records import MODELS, check_name, load_trials
    from search.table import Table, make_rows, target_fields
    from squeeze.bench.resolved import versions
    from squeeze.decoder import Decoder
    from squeeze.demo import MODEL_DIR
    from squeeze.errors import ConfigError
    from squeeze.hub import fetch
    from squeeze.target import Target

    base = fetch(model or str(MODEL_DIR), MODELS)
    records = [record for study in studies for record in load_trials(check_name(study))]
    rows = make_rows(records, Decoder.read(base))
    if not rows:
        raise ConfigError(
            f"a table is made from trials that were measured to the end; {', '.join(studies)} has none here; "
            f"search it with --audit 1 first"
        )
    return Table(
        model=model or "the embedded model",
        versions=versions(),
        machine=f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores",
        rows=rows,
        **target_fields(base, Target.here(Decoder.read(base))),
    )


if __name__ == "__main__":
    run_command(main)
