"""Verify a model: it is whole, its weights are numbers, it loads, and it answers a few questions with text.

MODEL is a folder or a hub id. The questions go through the model's chat template, in a child process with a
deadline; code that lies in the model's folder is never run. --safe is for a model that is not trusted or a
machine that has other work: a folder with code or pickled weights is refused before anything is loaded, and
the engine is eager, takes one question at a time, a context of 1,024 tokens and no more memory than the
weights ask for (transformers stays on the CPU). Exit code 0 when all is well, 1 when the model is not good,
2 when there is no model.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from search.answer import EngineName
from search.check import show
from search.cli import command_parser, run_command
from squeeze.errors import CandidateError, ConfigError
from squeeze.rules import Rule


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command. Returns the exit code."""
    options = command_parser(__doc__ or "", "python -m search.verify models/demo/0007 --safe")
    options.add_argument("model", metavar="MODEL", help="a model folder or a hub id")
    options.add_argument("--engine", choices=("vllm", "transformers"), default="vllm", help="what loads it")
    options.add_argument("--safe", action="store_true", help="as careful as can be; see above")
    options.add_argument("--json", action="store_true", help="one JSON object a rule a line")
    arguments = options.parse_args(argv)

    from search.records import MODELS
    from squeeze.hub import fetch

    folder = Path(arguments.model).expanduser()
    if not folder.is_dir():  # what is wrong with a folder is told below
        folder = fetch(arguments.model, MODELS)
    sound = True
    for rule in verified(folder, arguments.engine, arguments.safe):
        show(rule, arguments.json)
        sound = sound and rule.ok
    print("verified" if sound else "not good", file=sys.stderr)
    return 0 if sound else 1


def verified(folder: Path, engine: EngineName, safe: bool) -> Iterator[Rule]:
    """The rules one after another, up to the first that is broken."""
    rules: list[Callable[[], Rule]] = [
        lambda: _whole(folder),
        lambda: _numbers(folder),
        lambda: _answers(folder, engine, safe),
    ]
    if safe:
        rules.insert(0, lambda: _no_code(folder))
    for rule in rules:
        found = rule()
        yield found
        if not found.ok:
            return


def _no_code(folder: Path) -> Rule:
    """Whether there is nothing in the folder that runs or unpickles."""
    from squeeze.package import open_folder
    from squeeze.rules import code_faults

    try:
        faults = code_faults(open_folder(folder))
    except ValueError as error:
        faults = [str(error)]
    return Rule("no code", not faults, "; ".join(faults[:3]) or "safetensors and JSON only")


def _whole(folder: Path) -> Rule:
    """Whether config, every shard, tokenizer and chat template are there, and as they were built."""
    from search.records import MODELS
    from squeeze.decoder import Decoder
    from squeeze.folder import size_bytes
    from squeeze.hub import fetch

    try:
        decoder = Decoder.read(fetch(str(folder), MODELS))
    except ConfigError as error:
        return Rule("whole", False, str(error))
    size = f"{size_bytes(folder) / 1e6:,.1f} MB"
    return Rule("whole", True, f"{decoder.layers} layers, FFN {decoder.width}, {size}")


def _numbers(folder: Path) -> Rule:
    """Whether every weight is a finite number."""
    from squeeze.shards import all_weights

    weights = all_weights(folder).values()
    bad = [weight.name for weight in weights if not weight.is_finite()]
    if bad:
        return Rule("weights", False, f"weights must be finite numbers; {len(bad)} hold others: {bad[0]}")
    return Rule("weights", True, f"{len(weights)}, all finite")


def _answers(folder: Path, engine: EngineName, safe: bool) -> Rule:
    """Whether the model loads and answers every question with text."""
    from search.answer import QUESTIONS, answers

    name = f"answers in {engine}"
    try:
        texts = [text.strip() for text in answers(folder, engine=engine, safe=safe)]
    except CandidateError as error:
        return Rule(name, False, f"{error} ({error.kind})")
    empty = texts.count("")
    if empty:
        return Rule(
            name, False, f"every answer must have text; {empty} of {len(QUESTIONS)} are empty (empty_output)"
        )
    return Rule(name, True, f"{len(texts)} answers, first {texts[0][:40]!r}")


if __name__ == "__main__":
    run_command(main)
