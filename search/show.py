"""Show the trials of a study: best first, the Pareto front, or one trial in full."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from typing import IO, TYPE_CHECKING, Any

from search.cli import command_parser, positive, printable, run_command, tables

if TYPE_CHECKING:
    from objectives import Objective
    from search.records import Confirmation, TrialRecord
    from squeeze.records import Score


def parser() -> argparse.ArgumentParser:
    """The options of the command."""
    options = command_parser(__doc__ or "", "python -m search.show --study demo --pareto")
    options.add_argument("--study", default="demo")
    options.add_argument("--json", action="store_true", help="one JSON object a trial a line, by number")
    options.add_argument("--objective", help="score the stored measurements again with another objective")
    what = options.add_mutually_exclusive_group()
    what.add_argument("--trial", type=int, help="one trial in full")
    what.add_argument("--pareto", action="store_true", help="only the trials that none beats in both parts")
    what.add_argument("--top", type=positive, help="only so many")
    return options


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command. Returns the exit code."""
    arguments = parser().parse_args(argv)
    from search.records import check_name, load_trials, standing, study_folder
    from squeeze.errors import ConfigError

    name = check_name(arguments.study)
    if not study_folder(name).is_dir():
        raise ConfigError(f"--study must be one that was run here; there is no {study_folder(name)}")
    records = load_trials(name)
    if arguments.objective:
        import objectives

        objective = objectives.load(arguments.objective)
        records = [_rescored(name, record, objective) for record in records]
    places = standing(records)
    if arguments.trial is not None:
        chosen = [record for record in records if record.number == arguments.trial]
        if not chosen:
            raise ConfigError(f"--trial must be a finished trial of {name!r}; got {arguments.trial}")
        print(printable(chosen[0].model_dump_json(indent=1)))
        return 0
    if arguments.pareto:
        records = pareto_front(records)
    if arguments.top:
        records = ranked(records)[: arguments.top]
    if arguments.json:
        for record in records:
            row = as_json(record, places.get(record.number))
            print(printable(json.dumps(row, ensure_ascii=False)))
    else:
        print_table(records, places, sys.stdout)
        for line in closing_lines(records):
            print(line, file=sys.stderr)
    return 0


def as_json(record: TrialRecord, place: str | None) -> dict[str, Any]:
    """The fields that scripts rely on. place: of ``search.records.standing``."""
    score, confirmed, final = record.score, record.confirmed, record.final
    return {
        "number": record.number,
        "state": record.state,
        "score": score.value if score else None,
        "low": score.low if score else None,
        "high": score.high if score else None,
        "perf_norm": score.perf_norm if score else None,
        "speed_norm": score.speed_norm if score else None,
        "config": record.config.model_dump(mode="json"),
        "seconds": dict(record.seconds),
        "reason": record.reason,
        "audit": record.audit,
        "wrongly_pruned": record.wrongly_pruned,
        "tokens_per_answer": score.parts.get("tokens_per_answer") if score else None,
        "baseline_tokens_per_answer": score.parts.get("baseline_tokens_per_answer") if score else None,
        "confirmed": (
            {"value": confirmed.value, "low": confirmed.low, "high": confirmed.high} if confirmed else None
        ),
        "left_out": dict(score.left_out) if score else {},
        "best": place == "best",
        "tie": place == "tie",
        "again": (
            {
                "value": again.value,
                "low": again.low,
                "high": again.high,
                "held_out": dict(record.confirmation.held_out),
            }
            if record.confirmation and (again := record.confirmation.again)
            else None
        ),
        "flags": list(flags(record)),
        "seconds_per_token": final.parts.get("seconds_per_token") if final else None,
        "baseline_seconds_per_token": final.parts.get("baseline_seconds_per_token") if final else None,
        "time_ratio": final.parts.get("time_ratio") if final else None,
        "benchmarks": {name: one.model_dump(mode="json") for name, one in final.talk.items()}
        if final
        else {},
    }


def pareto_front(records: list[TrialRecord]) -> list[TrialRecord]:
    """The scored trials that no other beats in one of PerfNorm and SpeedNorm without losing in the other."""
    scored = [(record, record.final) for record in records if record.final]

    def beaten(perf: float, speed: float) -> bool:
        return any(
            other.perf_norm >= perf
            and other.speed_norm >= speed
            and (other.perf_norm, other.speed_norm) != (perf, speed)
            for _, other in scored
        )

    return [record for record, score in scored if not beaten(score.perf_norm, score.speed_norm)]


def ranked(records: list[TrialRecord]) -> list[TrialRecord]:
    """The scored trials, best first, then the others by number."""
    from search.records import best_first

    scored = [record for record, _ in best_first(records)]
    return [*scored, *(record for record in records if record not in scored)]


def print_table(records: list[TrialRecord], places: Mapping[int, str], file: IO[str]) -> None:
    """All trials, the scored ones first, best on top. places: of ``search.records.standing``."""
    from rich.table import Table

    from search.progress import compression

    table = Table(box=None, pad_edge=False, header_style="bold")
    figures_of = ("Score", "90 % interval", "held out", "confirmed", "PerfNorm", "SpeedNorm", "tokens")
    for header in ("trial", "state", "", *figures_of, "compression", "s"):
        table.add_column(
            header, justify="left" if header in ("state", "", "compression") else "right", no_wrap=True
        )
    table.add_column("reason", overflow="fold")
    for record in ranked(records):
        table.add_row(
            str(record.number),
            record.state,
            " ".join(one for one in (places.get(record.number), "flagged" if flags(record) else "") if one),
            *_figures(record),
            compression(record),
            f"{sum(record.seconds.values()):.0f}",
            printable(record.reason or "; ".join(flags(record))),
        )
    tables(file, 200).print(table)


def _figures(record: TrialRecord) -> tuple[str, ...]:
    """First Score, its interval, the second one, that of both, then the parts of the one that counts.

    The second is in brackets where it is of questions that were all asked at first.
    """
    from search.progress import plus_minus

    if record.score is None or record.final is None:
        return ("",) * 7
    return (
        f"{record.score.value:.4f}",
        f"{record.score.low:.4f}–{record.score.high:.4f}",
        _held_out(record.confirmation) if record.confirmation else "",
        plus_minus(record.confirmed) if record.confirmed else "",
        f"{record.final.perf_norm:.3f}",
        f"{record.final.speed_norm:+.3f}",
        _talk(record.final),
    )


def best_told(records: list[TrialRecord]) -> str | None:
    """The best trial in a line, with how sure that is; None when none was measured to the end."""
    from search.progress import plus_minus
    from search.records import best_first, standing

    if not (leading := best_first(records)):
        return None
    record, score = leading[0]
    line = f"best: trial {record.number}, Score {plus_minus(score)}"
    if record.score and record.confirmation:
        again = record.confirmation.again.value
        how = f"on {held} held-out questions" if (held := _held(record.confirmation)) else "again"
        line += f" (first {record.score.value:.4f}, {how} {again:.4f})"
    else:
        line += " (measured once)"
    if told := flags(record):
        line += f"; FLAGGED, its speed is doubtful: {'; '.join(told)}"
    ties = [str(number) for number, place in standing(records).items() if place == "tie"]
    return f"{line}; not known to be better than trial {', '.join(ties)}" if ties else line


def flags(record: TrialRecord) -> tuple[str, ...]:
    """What makes the speed of the Score that counts doubtful; nothing where there is none."""
    return record.final.flags if record.final else ()


def _held(confirmation: Confirmation) -> int:
    return sum(confirmation.held_out.values())


def _held_out(confirmation: Confirmation) -> str:
    from search.progress import plus_minus

    told = plus_minus(confirmation.again)
    return told if _held(confirmation) else f"({told})"


def with_and_without_training(records: list[TrialRecord]) -> str | None:
    """The best trial with recovery beside the best without, in a line; None when none was tried with it."""
    from search.records import best_first

    if not any(record.config.trains for record in records):
        return None
    firsts = []
    for trained in (True, False):
        found = best_first([record for record in records if record.config.trains == trained])
        told = "none was measured to the end"
        bounds = [
            list(one.bounds.values())[-1] for one in records if one.bounds and one.config.trains == trained
        ]
        if bounds:
            told += f", at best {max(bounds):.4f}"
        for record, score in found[:1]:
            told = f"{score.value:.4f} ({score.low:.4f}–{score.high:.4f}, trial {record.number})"
        firsts.append(told)
    return f"best Score with recovery: {firsts[0]}; without: {firsts[1]}"


def closing_lines(records: list[TrialRecord]) -> list[str]:
    """What the table does not say: what no Score counts, what recovery brings, how often pruning erred."""
    from search.records import audits_told

    training = with_and_without_training(records)
    return [*left_out_lines(records), *([training] if training else []), audits_told(records)]


def left_out_lines(records: list[TrialRecord]) -> list[str]:
    """A line for each benchmark that was asked and has no part in the Scores, and each reason."""
    from search.progress import left_out_told

    told = [item for record in records if record.final for item in record.final.left_out.items()]
    return [left_out_told(name, why) for name, why in dict.fromkeys(told)]


def _talk(score: Score) -> str:
    """Tokens of the mean answer, and the baseline's: who talks more has a lower time per token for it."""
    mine, base = (score.parts.get(f"{whose}tokens_per_answer") for whose in ("", "baseline_"))
    return f"{mine:.1f}/{base:.1f}" if mine is not None and base is not None else ""


def _rescored(study: str, record: TrialRecord, objective: Objective) -> TrialRecord:
    """The record with the Scores of another objective, from the stored raw numbers."""
    from search.records import load_baseline, load_measurement

    if record.state != "complete" or record.baseline is None:
        return record
    measurement = load_measurement(study, record.number)
    baseline = load_baseline(study, record.baseline)
    if measurement is None or baseline is None:
        lost = {"score": None, "confirmation": None, "reason": "its raw measurement is missing"}
        return record.model_copy(update=lost)
    scores = {
        "score": objective.score(measurement, baseline),
        "confirmation": _judged_again(study, record, objective),
    }
    return record.model_copy(update=scores)


def _judged_again(study: str, record: TrialRecord, objective: Objective) -> Confirmation | None:
    """The confirmation by another objective; None where there is none, or its raw numbers are missing."""
    from search.finalists import judge, load_pair
    from search.records import load_again, load_baseline

    if record.confirmation is None:
        return None
    key, first_key = record.confirmation.baseline, record.confirmation.first_baseline
    again, baseline = load_again(study, record.number), load_baseline(study, key)
    if again is None or baseline is None:
        return None
    if first_key is None and key == record.baseline:  # records of before there were questions held out
        first_key = key
    judged = judge(load_pair(study, record.number, first_key), again, key, baseline, objective)
    return judged.model_copy(update={"first_baseline": first_key})


if __name__ == "__main__":
    run_command(main)
