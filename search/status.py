"""What searches are doing here: which studies there are, how far each is, and what runs now."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from search.cli import command_parser, in_a_line, printable, run_command


def parser() -> argparse.ArgumentParser:
    """The options of the command."""
    options = command_parser(__doc__ or "", "python -m search.status --json")
    options.add_argument("--study", help="only that one")
    options.add_argument("--json", action="store_true", help="one JSON object a study a line")
    return options


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command. Returns the exit code."""
    arguments = parser().parse_args(argv)
    from search.records import STUDIES, check_name
    from squeeze.errors import ConfigError, SetupError

    if arguments.study:
        names = [check_name(arguments.study)]
        if not (STUDIES / names[0]).is_dir():
            raise ConfigError(f"--study must be one that was run here; there is no {STUDIES / names[0]}")
    else:
        names = sorted(
            path.name
            for path in STUDIES.glob("*")
            if (path / "baselines").is_dir() or (path / "logs").is_dir()
        )
        if not names:
            print(
                f"no study in {STUDIES}; begin one with `python -m search.run --trials 40`", file=sys.stderr
            )
    code = 0
    for name in names:
        try:
            state = study_state(name)
        except SetupError as error:  # of one study; the others can be told all the same
            print(f"error: {name}: {in_a_line(error)}", file=sys.stderr)
            code = error.exit_code
            continue
        print(printable(json.dumps(state, ensure_ascii=False) if arguments.json else _line(state)))
    return code


def study_state(name: str) -> dict[str, Any]:
    """The state of a study from its files: counts by state, the best, what its search does now."""
    from search.records import best_first, load_trials, study_folder
    from search.study import is_searched

    records = load_trials(name)
    best = best_first(records)
    counts = {
        state: sum(record.state == state for record in records) for state in ("complete", "pruned", "failed")
    }
    state: dict[str, Any] = {"study": name, **counts, "best": None, "running": None}
    if best:
        record, score = best[0]
        state["best"] = {"trial": record.number, "score": score.value, "flags": list(score.flags)}
    if is_searched(name):
        state["running"] = _running(study_folder(name) / "live.json")
    return state


def _running(path: Path) -> dict[str, Any] | None:
    """What the search that writes that file does now; None when it has not begun or has ended."""
    try:
        live: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        live.pop("owner", None)
        live["for_s"] = round(time.time() - live.pop("since"), 1)
    except (OSError, ValueError, TypeError, KeyError, AttributeError):  # somebody else's file
        return None
    return live


def _line(state: dict[str, Any]) -> str:
    done = f"{state['complete']} complete, {state['pruned']} pruned, {state['failed']} failed"
    best = (
        f"best {state['best']['score']:.4f} (trial {state['best']['trial']})"
        + "".join(f"; flagged: {one}" for one in state["best"]["flags"])
        if state["best"]
        else "no best yet"
    )
    live = state["running"]
    if live is None:
        return f"{state['study']}: not running; {done}; {best}"
    left = f", about {live['seconds_left'] / 60:.0f} min left" if live["seconds_left"] else ""
    doing = f"{live['doing']}, {live['stage'] or 'start'}, for {live['for_s']:.0f} s"
    return f"{state['study']}: running {live['finished']}/{live['trials']}: {doing}{left}; {done}; {best}"


if __name__ == "__main__":
    run_command(main)
