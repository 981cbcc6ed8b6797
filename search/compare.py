"""Compare models with a base: speed, how alike their answers are, how much they say, perplexity.

Each MODEL is measured in turn with the base, as search.bench does it. A model that fails has its class in
the table and does not stop the others; an interrupt prints what is there. The columns, by their names in JSON
and CSV:

speedup            the base's time per generated token over the model's; with a 90 % interval
similarity         share of words in common with the base's answer, in order (difflib), the mean over answers
exact_match        share of answers that are the base's to the letter
non_empty          share of answers with any text
tokens_per_answer  generated tokens of the mean answer
flags              what makes the speedup doubtful: more talk than the base's, answers cut off or in a loop
perplexity         of the assistant's turns in held-out conversations: the last --held-out rows of the chat
                   set, but for those that a calibration reads (its first 4,000 rows). On the hub the
                   whole set is fetched for it, once; --held-out 0 goes without

No judge is asked: nothing here is a rating.
Exit code 1 when some model failed.
"""

from __future__ import annotations

import csv
import io
import json
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from search.cli import command_parser, natural, printable, run_command, tables

if TYPE_CHECKING:
    from search.compared import Compared

HELD_OUT_ROWS = 256


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command. Returns the exit code."""
    options = command_parser(
        __doc__ or "", "python -m search.compare models/demo/* --baseline src/squeeze/demo/model"
    )
    options.add_argument("models", metavar="MODEL", nargs="+", help="a model folder or a hub id")
    options.add_argument("--baseline", metavar="MODEL", help="the base (default: the first MODEL)")
    options.add_argument("--json", action="store_true", help="one JSON object a model a line, as they come")
    options.add_argument("--csv", type=Path, metavar="FILE", help="also write a CSV file")
    options.add_argument("--data", metavar="DIR|hub", help="as of search.bench")
    options.add_argument("--workload", metavar="NAME|FILE", help="as of search.bench")
    options.add_argument(
        "--held-out",
        type=natural,
        default=HELD_OUT_ROWS,
        metavar="ROWS",
        help=f"of the text of perplexity; 0: none is taken (default: {HELD_OUT_ROWS})",
    )
    arguments = options.parse_args(argv)

    # Late, so that --help answers at once.
    from search.bench import Talk
    from search.compared import base_row, compared, failed
    from search.records import MODELS
    from squeeze.bench.measure import Bench
    from squeeze.bench.workload import choose
    from squeeze.decoder import Decoder
    from squeeze.errors import CandidateError, ConfigError
    from squeeze.hub import fetch
    from squeeze.server import PRELOADED, preload
    from squeeze.target import Target

    first, *others = arguments.models
    named, candidates = (arguments.baseline, arguments.models) if arguments.baseline else (first, others)
    if not candidates:
        raise ConfigError(f"there must be a model to compare with the base; got {first} alone; name another")
    base = fetch(named, MODELS)
    for one in candidates:
        if not Path(one).expanduser().is_dir():  # what is wrong with a folder is told in its row
            fetch(one, MODELS)
    target = Target.here(Decoder.read(base))
    workload = choose(arguments.workload, arguments.data, base).model_copy(
        update={"divergence": None, "perplexity": arguments.held_out or None, "judge": None}
    )
    workload.key  # noqa: B018 — reads the data files: what is wrong with them is told before anything starts
    rows: list[Compared] = []

    def add(row: Compared) -> None:
        rows.append(row)
        if arguments.json:
            print(printable(json.dumps(row.plain(), ensure_ascii=False)), flush=True)
        if arguments.csv:
            write_csv(arguments.csv, rows)

    if arguments.csv:
        write_csv(arguments.csv, rows)  # a place that cannot be written is told before anything is measured
    preload([name for name in PRELOADED if name != "llmcompressor"])
    descriptor, name = tempfile.mkstemp(prefix="squeeze-compare-", suffix=".log")
    os.close(descriptor)
    log = Path(name)
    try:
        with Talk() as talk, Bench(workload, base, target, log=log) as bench:
            talk.about("base")
            baseline = bench.measure_baseline(tell=talk.tell)
            if workload.perplexity and baseline.perplexity is None:
                talk.say(
                    f"no perplexity: the chat set in {workload.data} has no rows after its first 4,000, or "
                    f"could not be loaded"
                )
            add(base_row(named, baseline))
            for one in candidates:
                talk.about(one)
                try:
                    model = fetch(one, MODELS)
                    *_, measured = bench.measure(model, log=log, tell=talk.tell, empty=True)
                    add(compared(one, measured, baseline))
                    talk.say(f"{measured.seconds_per_token * 1e6:.1f} µs per token")
                except CandidateError as error:
                    talk.say(f"failed: {error}")
                    add(failed(one, error.kind, str(error)))
                except ConfigError as error:
                    talk.say(f"failed: {error}")
                    add(failed(one, "load", str(error)))
    finally:  # also of an interrupt
        if rows and not arguments.json:
            print_table(rows)
    if any(row.failed for row in rows):
        print(f"what the engines said: {log}", file=sys.stderr)
        return 1
    log.unlink()
    return 0


def write_csv(path: Path, rows: Sequence[Compared]) -> None:
    """Write the rows, or the header alone, whole."""
    from search.compared import FIGURES
    from search.records import write_whole

    text = io.StringIO()
    columns = ("model", *FIGURES, "flags", "failed", "reason")
    writer = csv.DictWriter(text, columns, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(row.plain() | {"flags": "; ".join(row.flags)} for row in rows)
    write_whole(path, text.getvalue())


def print_table(rows: Sequence[Compared]) -> None:
    """Print the rows that there are."""
    from rich.table import Table

    console = tables(sys.stdout, 160)
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("model", no_wrap=True)
    headers = ("speedup", "90 % interval", "similarity", "exact", "non-empty", "tokens", "perplexity")
    for header in headers:
        table.add_column(header, justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)

    def shown(figure: float | None, form: str) -> str:
        return "" if figure is None else format(figure, form)

    for row in rows:
        known = row.speedup_low is not None and row.speedup_high is not None
        interval = f"{row.speedup_low:.3f}–{row.speedup_high:.3f}" if known else ""
        table.add_row(
            printable(row.model),
            shown(row.speedup, ".3f"),
            interval,
            shown(row.similarity, ".3f"),
            shown(row.exact_match, ".3f"),
            shown(row.non_empty, ".3f"),
            shown(row.tokens_per_answer, ".1f"),
            shown(row.perplexity, ".3f"),
            row.failed or ("flagged" if row.flags else ""),
        )
    console.print(table)
    for row in rows:
        for flag in row.flags:
            console.print(printable(f"{row.model}: flagged: its speed is doubtful: {flag}"))


if __name__ == "__main__":
    run_command(main)
