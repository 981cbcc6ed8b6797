"""A whole search on a GPU, watched: how many trials an hour, where the time goes, how busy the GPU is.

Example: ``python benchmarks/gpu/busy.py --seconds 540 --work w``; again, with ``--export``, to go on and end

Runs ``python -m search.run`` itself, with the embedded model, or with ``--shape`` a model of the shape of
EXAONE-4.0-1.2B with random weights, whose answers are chance: its Scores say nothing, its times do. --export
then runs ``search.export`` and ``search.check``. --naive builds and measures the first so many complete
trials once more, each by ``search.build --no-cache`` and ``search.bench --baseline``, all of it in fresh
processes. Whatever stands after ``--`` goes to ``search.run``.

The last line on stdout is JSON. trials (finished, by state), failures (class and reason of each), schemes
(scheme -> finished trials), wall_s (of the searches watched so far), trials_an_hour (after the baseline),
phases (share of the trials' time: probes of shapes, engine starts, answering and divergence, training, other
building), gpu (of each watched stretch: mean utilization by NVML, in all, from the study's first trial on and
in the trials' timed passes, taken from each one's beginning for as long as the answers of both models took:
pauses within it shift that by as much; share of the samples with more than 1 GiB in use), best, check (exit
code and last line), naive (trial -> s of its stages in the search, whose baseline is measured once and not
counted; s by itself, all told).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from math import inf
from pathlib import Path
from typing import Any

import optuna
from parts import LONG, SHORT, Book, about, make_models, make_questions, say
from watch import Watch

from search.records import best_first, load_measurement, load_trials
from search.storage import default_storage
from squeeze.demo import DATA_DIR, MODEL_DIR

ROOT = Path(__file__).resolve().parents[2]
STUDY = "busy"
TRAINING = ("distill", "finetune", "tune_norms")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command. Returns the exit code."""
    options = parse(argv)
    options.work.mkdir(parents=True, exist_ok=True)
    book = Book(options.work / "busy.jsonl")
    short, long = options.questions
    model = with_shape(options.work, short, long, options.chats) if options.shape else []
    command = ["--trials", str(options.trials), "--study", STUDY, "--timeout", str(options.seconds)]
    began = time.perf_counter()
    with Watch() as watch:
        code, said = run_module(
            options.work, "search.run", *command, *model, *options.more, ends=options.interrupt
        )
    say(said[-4000:])
    name = f"search {len(book.found)}"
    book.add(
        name,
        {"code": code, "wall_s": round(time.perf_counter() - began, 1), **watch.told()},
    )
    book.add(name, {**book.found[name], **within(options.work, watch)})
    watch.save(options.work / f"{name.replace(' ', '-')}-busy.csv")
    checked = None
    if options.export:
        run_module(options.work, "search.export", "--study", STUDY, "--out", "submit.zip")
        code_of_check, said = run_module(options.work, "search.check", "submit.zip")
        checked = [code_of_check, said.strip().rpartition("\n")[2]]
    with contextlib.chdir(options.work):
        found = report()
        found["naive"] = by_themselves(options.naive, model)
    stretches = list(book.found.values())
    found |= {
        "wall_s": sum(one["wall_s"] for one in stretches),
        "gpu": stretches,
        "check": checked,
        "model": "EXAONE-4.0-1.2B's shape, random weights" if options.shape else "embedded",
        **about(),
    }
    print(json.dumps(found, ensure_ascii=False))
    return code


def within(work: Path, watch: Watch) -> dict[str, float | None]:
    """Mean utilization of this stretch from the first trial on, and while answers were timed."""
    with contextlib.chdir(work):
        study = optuna.load_study(study_name=STUDY, storage=default_storage(STUDY))
        measured = [load_measurement(STUDY, record.number) for record in load_trials(STUDY)]
    begun = [trial.datetime_start.timestamp() for trial in study.trials if trial.datetime_start]
    answering = []
    for mine, other in ((one.passes, one.reference) for one in measured if one is not None):
        for lap, beside in zip(mine, other, strict=True):
            took = sum(timing.seconds for one in (lap, beside) for timing in one.timings.values())
            answering.append((lap.started, lap.started + took))
    return {
        "busy_in_trials": watch.busy_within([(min(begun, default=inf), inf)]),
        "busy_in_answers": watch.busy_within(answering),
    }


def with_shape(work: Path, short: int, long: int, chats: int) -> list[str]:
    """Options of a search at the 1.2B shape; the model's every token is spelt as some answer."""
    base = make_models(work, False, {"base": 1.0})["base"]
    tokenizer = json.loads((base / "tokenizer.json").read_text())
    words = {token: word for word, token in tokenizer["model"]["vocab"].items()}
    words |= {token: f"ĠAnswer:Ġ{'ABCD'[token % 4]}Ġ<{token}>" for token in words if token >= 2048}
    tokenizer["model"]["vocab"] = {word: token for token, word in words.items()}
    (base / "tokenizer.json").write_text(json.dumps(tokenizer))
    data = make_questions(work / "data", short, long, chats)
    workload = work / "workload.yaml"
    workload.write_text(
        f"data: {data}\nquestions: {{{SHORT}: {short}, {LONG}: {long}}}\nmax_tokens: 128\n"
        "first_block: 0.1\nengine: {max_model_len: 4096}\n"
    )
    return ["--model", str(base), "--workload", str(workload)]


def run_module(folder: Path, module: str, *arguments: str, ends: float | None = None) -> tuple[int, str]:
    """Run a command of ours in a folder: its exit code, and what it said. ends: Ctrl-C after so many s."""
    paths = [str(ROOT), str(ROOT / "src"), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    process = subprocess.Popen(
        [sys.executable, "-m", module, *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        said, _ = process.communicate(timeout=ends)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGINT)
        try:
            said, _ = process.communicate(timeout=60)
        except subprocess.TimeoutExpired:
            process.kill()
            said, _ = process.communicate()
    return process.returncode, said


def by_themselves(count: int, model: Sequence[str]) -> dict[str, list[float]]:
    """Trial -> what it took in the search, and what a loop that reuses nothing takes for it, s."""
    found = {}
    asked = dict(zip(model[::2], model[1::2], strict=True))
    base = asked.pop("--model", str(MODEL_DIR))
    data = Path(asked["--workload"]).with_name("data") if asked else DATA_DIR
    done = [record for record in load_trials(STUDY) if record.state == "complete"]
    for record in done[:count]:
        own = Path(f"naive-{record.number}")
        Path(f"{own}.yaml").write_text(record.config.model_dump_json(exclude_none=True), encoding="utf-8")
        measured = ["--baseline", base, "--json", *(word for pair in asked.items() for word in pair)]
        began = time.perf_counter()
        built = [f"{own}.yaml", "--out", str(own), "--no-cache", "--model", base, "--data", str(data)]
        for module, arguments in (("search.build", built), ("search.bench", [str(own), *measured])):
            code, said = run_module(Path(), module, *arguments)
            if code:
                raise SystemExit(f"{module} ended with {code}: {said[-1000:]}")
        found[str(record.number)] = [
            round(sum(record.seconds.values()), 1),
            round(time.perf_counter() - began, 1),
        ]
    return found


def report() -> dict[str, Any]:
    """What the study's files say. To be called in the folder of the search."""
    records = load_trials(STUDY)
    spent: defaultdict[str, float] = defaultdict(float)
    for record in records:
        for name, seconds in record.seconds.items():
            if name == "measure":
                measured = load_measurement(STUDY, record.number)
                parts: Mapping[str, float] = measured.seconds if measured else {}
                starting = seconds - parts.get("measure", 0.0)
                spent["engine starts"] += starting
                spent["answers and divergence"] += seconds - starting
            elif name == "shape":
                spent["probes of shapes"] += seconds
            else:
                spent["training" if name in TRAINING else "other building"] += seconds
    whole = sum(spent.values())
    leading = best_first(records)
    return {
        "trials": dict(Counter(record.state for record in records)),
        "failures": [[record.number, record.failure, record.reason] for record in records if record.failure],
        "schemes": dict(
            Counter(record.config.quantize.scheme if record.config.quantize else "none" for record in records)
        ),
        "trials_an_hour": round(3600 * len(records) / whole, 1) if whole else None,
        "phases": {name: round(seconds / whole, 3) for name, seconds in spent.items()},
        "seconds": {str(record.number): round(sum(record.seconds.values()), 1) for record in records},
        "best": [leading[0][0].number, leading[0][1].value] if leading else None,
    }


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The options of the command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", type=Path, required=True, help="the search's folder; again the same: go on")
    parser.add_argument("--seconds", type=int, default=540, help="begin no trial after so many")
    parser.add_argument("--interrupt", type=float, help="interrupt the search after so many")
    parser.add_argument("--trials", type=int, default=1000, help="as of search.run")
    parser.add_argument("--shape", action="store_true", help="the 1.2B shape with random weights")
    parser.add_argument(
        "--questions", type=int, nargs=2, default=(1024, 64), help="short, long; with --shape"
    )
    parser.add_argument("--chats", type=int, default=0, help="of 500 tokens, to train on; with --shape")
    parser.add_argument("--export", action="store_true", help="then export the best and check it")
    parser.add_argument("--naive", type=int, default=0, help="so many trials by themselves, for comparison")
    parser.add_argument("more", nargs="*", help="after --: more options of search.run")
    options = parser.parse_args(argv)
    options.work = options.work.resolve()
    return options


if __name__ == "__main__":
    sys.exit(main())
