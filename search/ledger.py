"""What the contest's server said of what was submitted, and what it would say of the other trials."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from search.advice import advice, barred_by, next_trials
from search.cli import command_parser, natural, run_command, share, tables
from search.pairs import (
    NOTHING,
    LocalScore,
    Pair,
    entered_on,
    load_pairs,
    local_score,
    parse_family,
    save_pairs,
)
from search.records import TrialRecord, best_first, check_name, load_trials, study_folder
from squeeze.errors import ConfigError


def parser() -> argparse.ArgumentParser:
    """The options of the command's three verbs."""
    example = "python -m search.ledger add --study exaone --trial 17 --server-score 0.6132"
    options = command_parser(__doc__ or "", example)
    # Without prog argparse names the verbs' parsers after the file.
    verbs = options.add_subparsers(dest="verb", required=True, prog="ledger", metavar="add|list|predict")

    adding = _verb(verbs, "add", "Enter what the server said of a submitted model.", example)
    which = adding.add_mutually_exclusive_group(required=True)
    which.add_argument("--trial", type=natural, help="the trial that was submitted")
    which.add_argument("--local", type=share, help="or the local Score of a model that is no trial")
    adding.add_argument("--server-score", type=share, required=True, help="what the server said, 0 to 1")
    adding.add_argument("--note", default="", help="anything worth remembering")

    listing = _verb(verbs, "list", "Show the pairs.", "python -m search.ledger list --study exaone")
    listing.add_argument("--json", action="store_true", help="one JSON object a pair a line")

    about = "Tell what the server would say of the trials, best first, and which to submit next."
    predicting = _verb(verbs, "predict", about, "python -m search.ledger predict --study exaone")
    predicting.add_argument("--local", type=share, help="instead, of a model that has this local Score")
    predicting.add_argument("--json", action="store_true", help="one JSON object a trial a line")

    for verb in (adding, predicting):
        told = f"with --local: how it was compressed, e.g. W4A16, depth+W8A8, or {NOTHING}"
        verb.add_argument("--family", help=told)
    return options


def _verb(verbs: Any, name: str, about: str, example: str) -> argparse.ArgumentParser:
    options: argparse.ArgumentParser = verbs.add_parser(
        name,
        help=about,
        description=about,
        epilog=f"example: {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    options.add_argument("--study", default="demo", help="the study's name (default: demo)")
    return options


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command. Returns the exit code."""
    arguments = parser().parse_args(argv)
    study = check_name(arguments.study)
    begins = arguments.verb == "add" and arguments.local is not None
    if not begins and not study_folder(study).is_dir():
        raise ConfigError(f"--study must be one that was run here; there is no {study_folder(study)}")
    if arguments.verb == "add":
        add(study, _pair(study, arguments))
    elif arguments.verb == "list":
        show(load_pairs(study), as_json=arguments.json)
    else:
        predict(study, _by_hand(arguments), as_json=arguments.json)
    return 0


def add(study: str, pair: Pair) -> None:
    """Enter a pair, unless the server is known to have said just that of the model."""
    pairs = load_pairs(study)
    for known in pairs:
        if (known.model, known.server) == (pair.model, pair.server):
            print(f"known since {known.date}, not entered again: {_told(known)}", file=sys.stderr)
            return
    save_pairs(study, [*pairs, pair])
    print(f"entered: {_told(pair)}; pairs of {study}: {len(pairs) + 1}", file=sys.stderr)


def _pair(study: str, arguments: argparse.Namespace) -> Pair:
    """The pair that the options give."""
    said = {
        "server": arguments.server_score,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "note": arguments.note,
    }
    if model := _by_hand(arguments):
        return Pair(**model.model_dump(), **said)
    records = {record.number: record for record, _ in best_first(load_trials(study))}
    record = records.get(arguments.trial)
    model = local_score(record) if record else None
    if record is None or model is None:
        best = ", ".join(map(str, list(records)[:5])) or "none"
        raise ConfigError(
            f"--trial must be one of {study} that was measured to the end, the best of which are {best}; got "
            f"{arguments.trial}; for a model that is no trial give --local and --family"
        )
    measured = "twice" if record.confirmed else "once"
    return Pair(**model.model_dump(), **said, trial=record.number, measured=measured)


def _by_hand(arguments: argparse.Namespace) -> LocalScore | None:
    """The model of --local and --family; None without both. Raises ConfigError with one alone."""
    if (arguments.local is None) != (arguments.family is None):
        raise ConfigError(
            f"--local and --family go together, for a model that is no trial; got --local {arguments.local} "
            f"and --family {arguments.family}; a family is e.g. W4A16, depth+W8A8, or {NOTHING}"
        )
    if arguments.local is None:
        return None
    return LocalScore(families=parse_family(arguments.family), local=arguments.local)


def show(pairs: Sequence[Pair], *, as_json: bool) -> None:
    """Print the pairs, oldest first."""
    if as_json:
        for pair in pairs:
            print(pair.model_dump_json())
        return
    figures = ("local", "PerfNorm", "SpeedNorm", "server", "difference")
    _print_table(
        ("date", "trial", "compression", "measured", *figures, "note"),
        [
            (
                pair.date[:10],
                _number(pair.trial),
                pair.family,
                pair.measured,
                f"{pair.local:.4f}",
                "" if pair.perf_norm is None else f"{pair.perf_norm:.3f}",
                "" if pair.speed_norm is None else f"{pair.speed_norm:+.3f}",
                f"{pair.server:.4f}",
                f"{pair.server - pair.local:+.4f}",
                pair.note,
            )
            for pair in pairs
        ],
    )


def predict(study: str, by_hand: LocalScore | None, *, as_json: bool) -> None:
    """Print what the server would say of a study's trials, or of the one model given by hand; and why."""
    from search.calibration import calibrate

    pairs = load_pairs(study)
    records = {} if by_hand else _trials(study)
    models: dict[int | None, LocalScore] = {None: by_hand} if by_hand else {}
    models |= {number: model for number, record in records.items() if (model := local_score(record))}
    calibration = calibrate(pairs, asked_has_parts=by_hand is None)
    forecasts = {number: calibration.forecast(model) for number, model in models.items()}
    submitted = {number: _said(pairs, number) for number in models}
    ranked = next_trials({number: told for number, told in forecasts.items() if not submitted[number]})
    barred = {number: barred_by(study, record) for number, record in records.items()}
    chosen, told_next = advice(ranked, barred, entered_on(datetime.now(UTC).date().isoformat()))
    rows = [
        {
            "number": number,
            "family": models[number].family,
            "local": models[number].local,
            "server": told.server,
            "low": told.low,
            "high": told.high,
            "unseen": told.unseen,
            "submitted": submitted[number],
            "barred": () if number is None else barred[number],
            "next": number in chosen,
        }
        for number, told in sorted(forecasts.items(), key=lambda item: -item[1].server)
    ]
    if as_json:
        for row in rows:
            print(json.dumps(row))
    else:
        _print_forecasts(rows)
    lines = calibration.explained()
    print("\n".join(lines if by_hand else [*lines, told_next]), file=sys.stderr)


def _said(pairs: Sequence[Pair], number: int | None) -> list[float]:
    """What the server said of a trial; nothing of a model that is none."""
    return [pair.server for pair in pairs if number is not None and pair.trial == number]


def _trials(study: str) -> dict[int, TrialRecord]:
    """The trials of a study that have a Score. Raises ConfigError when none has."""
    records = {record.number: record for record, _ in best_first(load_trials(study))}
    if not records:
        raise ConfigError(
            f"a prediction needs trials that were measured to the end; {study} has none; run more trials, or "
            f"give --local and --family of a model that is no trial"
        )
    return records


def _print_forecasts(rows: Sequence[Mapping[str, Any]]) -> None:
    _print_table(
        ("trial", "compression", "local", "server would say", "90 % interval", "submitted", ""),
        [
            (
                _number(row["number"]),
                row["family"] + ("*" if row["unseen"] else ""),
                f"{row['local']:.4f}",
                f"{row['server']:.4f}",
                f"{row['low']:.4f}–{row['high']:.4f}",
                ", ".join(f"{one:.4f}" for one in row["submitted"]),
                "next" if row["next"] else ", ".join(row["barred"]),
            )
            for row in rows
        ],
    )


def _print_table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for header in headers:
        words = header in ("date", "compression", "measured", "submitted", "", "note")
        table.add_column(header, justify="left" if words else "right", no_wrap=header != "note")
    for row in rows:
        table.add_row(*row)
    tables(sys.stdout, 200).print(table)


def _told(pair: Pair) -> str:
    what = pair.family if pair.trial is None else f"trial {pair.trial} ({pair.family})"
    return f"{what}, local {pair.local:.4f} (measured {pair.measured}), server {pair.server:.4f}"


def _number(trial: int | None) -> str:
    return "–" if trial is None else str(trial)


if __name__ == "__main__":
    run_command(main)
