"""Write a trial's model as submit.zip, as the contest's server reads it.

Without --trial it is the best trial of the study, of those that were measured again if any was. The zip is
written beside the target, checked by every rule, and renamed into place.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from search.cli import command_parser, run_command
from search.records import TrialRecord, best_first, check_name, load_trials, model_folder, study_folder
from squeeze.errors import ConfigError


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command. Prints the zip's path. Returns the exit code."""
    options = command_parser(
        __doc__ or "", "python -m search.export --study demo --trial 17 --out submit.zip"
    )
    options.add_argument("--study", default="demo", help="the study's name (default: demo)")
    options.add_argument("--trial", type=int, help="the trial's number (default: the best trial)")
    options.add_argument("--out", type=Path, default=Path("submit.zip"), help="default: submit.zip")
    arguments = options.parse_args(argv)

    from squeeze.submit import export

    record, folder = choose(arguments.study, arguments.trial)
    path = export(folder, arguments.out)
    score = f"score {record.final.value:.4f}" if record.final else "no score"
    score += ", measured twice" if record.confirmed else ""
    for flag in record.final.flags if record.final else ():
        print(f"flagged: its speed is doubtful: {flag}", file=sys.stderr)
    print(
        f"trial {record.number} of {arguments.study} ({score}), {path.stat().st_size:,} bytes; "
        f"check that it answers with: python -m search.check {path}",
        file=sys.stderr,
    )
    print(path)
    return 0


def choose(study: str, number: int | None) -> tuple[TrialRecord, Path]:
    """The trial to export and its model folder. Raises ConfigError when it has no model to hand over."""
    from squeeze.folder import verify_manifest

    records = load_trials(check_name(study))
    if not records:
        raise ConfigError(
            f"an export needs a study with finished trials; {study} has none under {study_folder(study)}; "
            f"run python -m search.run --study {study} --trials 40"
        )
    record = best(study, records) if number is None else numbered(study, records, number)
    folder = model_folder(study, record.number)
    if not folder.is_dir():
        kept = [one.number for one, _ in best_first(records) if model_folder(study, one.number).is_dir()]
        raise ConfigError(
            f"only the best models are kept; trial {record.number} of {study} is not among them "
            f"({', '.join(map(str, kept)) or 'none'}); build its config again with python -m search.build, "
            f"from {study_folder(study) / 'trials' / f'{record.number:04d}.json'}"
        )
    verify_manifest(folder)
    return record, folder


def best(study: str, records: Sequence[TrialRecord]) -> TrialRecord:
    """The trial that is the best by ``best_first``."""
    ranked = best_first(list(records))
    if not ranked:
        raise ConfigError(
            f"an export needs a trial that was measured to the end; {study} has {len(records)} trials, none "
            f"complete; run more trials"
        )
    return ranked[0][0]


def numbered(study: str, records: Sequence[TrialRecord], number: int) -> TrialRecord:
    """The trial of that number, if it is complete."""
    record = next((one for one in records if one.number == number), None)
    complete = ", ".join(str(one.number) for one, _ in best_first(list(records))[:5]) or "none"
    if record is None:
        raise ConfigError(
            f"--trial must be a finished trial of {study}, {records[0].number} to {records[-1].number}; got "
            f"{number}; the best complete ones: {complete}"
        )
    if record.state != "complete":
        reason = f" ({record.reason})" if record.reason else ""
        raise ConfigError(
            f"only a complete trial can be exported; trial {number} of {study} was {record.state}{reason}; "
            f"the best complete ones: {complete}"
        )
    return record


if __name__ == "__main__":
    run_command(main)
