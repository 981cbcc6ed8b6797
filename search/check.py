"""Check a submission: every rule of the contest, then whether the model loads and answers in vLLM.

PATH is a zip, an unpacked submission, or a model folder. Exit code 0 when all is well, 1 when a rule is
broken, 2 when there is nothing to check.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from search.cli import command_parser, printable, run_command
from squeeze.errors import CandidateError
from squeeze.rules import Rule, rules


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command. Returns the exit code."""
    options = command_parser(__doc__ or "", "python -m search.check submit.zip")
    options.add_argument("path", type=Path, metavar="PATH", help="a zip or a folder")
    options.add_argument("--no-load", action="store_true", help="the rules only; start no engine")
    options.add_argument("--json", action="store_true", help="one JSON object a rule a line")
    arguments = options.parse_args(argv)

    found = rules(arguments.path)
    for rule in found:
        show(rule, arguments.json)
    sound = all(rule.ok for rule in found)
    if sound and not arguments.no_load:
        answer = answers(arguments.path)
        show(answer, arguments.json)
        sound = answer.ok
    broken = sum(not rule.ok for rule in found)
    print("acceptable" if sound else f"not acceptable: {max(broken, 1)} broken", file=sys.stderr)
    return 0 if sound else 1


def show(rule: Rule, as_json: bool) -> None:
    """Print one rule."""
    state = "ok" if rule.ok else "broken"
    if as_json:
        line = json.dumps({"rule": rule.name, "state": state, "detail": rule.detail}, ensure_ascii=False)
    else:
        line = f"{state:6}  {rule.name:18} {rule.detail}"
    print(printable(line), flush=True)


def answers(path: Path) -> Rule:
    """Whether the model loads in vLLM and answers one question with text."""
    from search.answer import one_answer

    name = "loads and answers"
    try:
        text = one_answer(path)[0].strip()
    except CandidateError as error:
        return Rule(name, False, f"{error} ({error.kind})")
    return Rule(
        name, bool(text.strip()), f"answered {text.strip()[:40]!r}" if text.strip() else "empty answer"
    )


if __name__ == "__main__":
    run_command(main)
