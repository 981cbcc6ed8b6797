"""Measure one model folder; with --baseline, score it against another.

Without --baseline the table holds raw numbers: accuracy and time per generated token.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from search.cli import add_judge_options, command_parser, judge_of, run_command, tables

if TYPE_CHECKING:
    from squeeze.records import Measurement, Score


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command. Returns the exit code."""
    options = command_parser(
        __doc__ or "", "python -m search.bench models/demo/0007 --baseline src/squeeze/demo/model"
    )
    options.add_argument("model", metavar="MODEL", help="a model folder or a hub id")
    options.add_argument("--baseline", metavar="MODEL", help="what the Score compares with")
    options.add_argument("--json", action="store_true", help="one JSON object instead of a table")
    options.add_argument("--data", metavar="DIR|hub", help="default: hub; the embedded model's own sets")
    options.add_argument(
        "--workload",
        metavar="NAME|FILE",
        help="contest, quick, decode, demo or a YAML file (default: as the model)",
    )
    add_judge_options(options)
    options.add_argument("--objective", default="competition", help="a module of objectives/")
    arguments = options.parse_args(argv)

    # Late, so that --help answers at once.
    import objectives
    from search.progress import left_out_told
    from search.records import MODELS
    from squeeze.bench.measure import Bench
    from squeeze.bench.workload import choose
    from squeeze.decoder import Decoder
    from squeeze.hub import fetch
    from squeeze.server import PRELOADED, preload
    from squeeze.target import Target

    objective = objectives.load(arguments.objective)
    model = fetch(arguments.model, MODELS)
    base = fetch(arguments.baseline, MODELS) if arguments.baseline else model
    target = Target.here(Decoder.read(base))
    # A model that is measured to the end needs no cheaper evidence first.
    workload = choose(arguments.workload, arguments.data, base, judge_of(arguments))
    workload = workload.model_copy(update={"divergence": None})
    workload.key  # noqa: B018 — reads the data files: what is wrong with them is told before anything starts
    preload([name for name in PRELOADED if name != "llmcompressor"])
    descriptor, name = tempfile.mkstemp(prefix="squeeze-bench-", suffix=".log")
    os.close(descriptor)
    log = Path(name)
    score = None
    with Talk() as talk, Bench(workload, base, target, log=log) as bench:
        talk.about("baseline" if arguments.baseline else model.name)
        baseline = measured = bench.measure_baseline(tell=talk.tell)
        for benchmark, why in baseline.unscored.items():
            talk.say(left_out_told(benchmark, why))
        if arguments.baseline:
            objective.score(baseline, baseline)  # what can be compared with nothing is refused here
            talk.about(model.name)
            for measured in bench.measure(model, log=log, tell=talk.tell):
                talk.say(f"{measured.rung}: {measured.seconds_per_token * 1e6:.1f} µs per token")
            score = objective.score(measured, baseline)
        for remark in baseline.remarks:
            talk.say(remark)
    log.unlink()
    if arguments.json:
        print(
            json.dumps(_plain(measured, baseline if arguments.baseline else None, score), ensure_ascii=False)
        )
    else:
        _print_table(measured, baseline if arguments.baseline else None, score)
    return 0


def _plain(measured: Measurement, baseline: Measurement | None, score: Score | None) -> dict[str, Any]:
    """What --json prints."""

    def numbers(one: Measurement) -> dict[str, Any]:
        return {
            "model": one.model,
            "accuracy": dict(one.accuracy),
            "tokens_per_answer": one.tokens_per_answer,
            "questions": {name: len(found) for name, found in one.questions.items()},
            "shortened": {
                name: sum(question.shortened for question in found) for name, found in one.questions.items()
            },
            "unscored": dict(one.unscored),
            "seconds_per_token": one.seconds_per_token,
            "passes": [timed.model_dump(mode="json") for timed in one.passes],
            "reference": [timed.model_dump(mode="json") for timed in one.reference],
            "seconds": dict(one.seconds),
        }

    return {
        **numbers(measured),
        "engine": dict(measured.engine),
        "workload": measured.workload,
        "baseline": numbers(baseline) if baseline else None,
        "score": score.model_dump(mode="json") if score else None,
    }


def _print_table(measured: Measurement, baseline: Measurement | None, score: Score | None) -> None:
    from statistics import median

    from rich.table import Table

    console = tables(sys.stdout, 120)
    table = Table(box=None, pad_edge=False, header_style="bold")
    columns = [measured] if baseline is None else [measured, baseline]
    table.add_column("")
    for header in ("model",) if baseline is None else ("model", "baseline"):
        table.add_column(header, justify="right")

    def speed(one: Measurement, benchmark: str) -> str:
        times = [timed.timings[benchmark] for timed in one.passes]
        tokens = sum(timing.tokens for timing in times) / len(times)
        return (
            f"{median(timing.seconds / max(timing.tokens, 1) for timing in times) * 1e6:.1f} ({tokens:.0f})"
        )

    for name, accuracy in measured.accuracy.items():
        others = [f"{one.accuracy.get(name, 0.0):.4f}" for one in columns[1:]]
        table.add_row(f"{name}, {len(measured.questions[name])} questions", f"{accuracy:.4f}", *others)
    for name in measured.passes[0].timings:
        table.add_row(f"{name}, µs per token (tokens)", *(speed(one, name) for one in columns))
    table.add_row("µs per token", *(f"{one.seconds_per_token * 1e6:.1f}" for one in columns))
    table.add_row("tokens per answer", *(f"{one.tokens_per_answer:.1f}" for one in columns))
    if score is not None:
        beside = measured.reference_seconds_per_token
        if beside is not None:
            table.add_row("µs per token, the baseline in between", "", f"{beside * 1e6:.1f}")
        table.add_row("PerfNorm", f"{score.perf_norm:.4f}", "1.0000")
        table.add_row("SpeedNorm", f"{score.speed_norm:+.4f}", "+0.0000")
        table.add_row("Score", f"{score.value:.4f}", "0.5000")
        table.add_row("Score, 90 % interval", f"{score.low:.4f}–{score.high:.4f}", "")
        if (ratio := score.parts.get("time_ratio")) is not None:
            table.add_row("time for the same questions", f"{ratio:.4f}", "1.0000")
    console.print(table)
    for flag in score.flags if score else ():
        console.print(f"flagged: its speed is doubtful: {flag}")


class Talk:
    """Progress on stderr: a live line in a terminal, a plain line for each step elsewhere."""

    def __init__(self) -> None:
        from rich.console import Console

        self._console = Console(stderr=True, highlight=False)
        self._status = self._console.status("starting")
        self._subject = ""

    def about(self, subject: str) -> None:
        """What the next words are about."""
        self._subject = subject
        self.tell({"stage": "engine"})

    def say(self, text: str) -> None:
        """One line."""
        self._console.print(f"{self._subject}: {text}", markup=False, soft_wrap=True)

    def tell(self, event: Any) -> None:
        """A child's word on its progress."""
        if self._console.is_terminal:
            self._status.update(f"{self._subject}: {event.get('stage', '')}")

    def __enter__(self) -> Talk:
        if self._console.is_terminal:
            self._status.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._status.stop()


if __name__ == "__main__":
    run_command(main)
