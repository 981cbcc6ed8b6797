"""How much of the Perf that pruning costs comes back: distillation against plain training on the same text.

The embedded model is pruned by the stages of the pipeline (half of each feed-forward layer; one layer; a
quarter of the layers), then trained whole on conversations of its made world: ``distill`` by the stage, from
the base; ``text`` with the same loop, order, steps and schedule, but with cross-entropy on the assistant's
text and no teacher. Each is done for some seeds, which choose and order the text, and for three budgets of
tokens; where two budgets share their settings the longer goes on from the shorter. Stopping early is off, so
that both see the same tokens. Perf is the mean score of the three answered benchmarks, all questions, greedy,
in torch and bfloat16 (not in vLLM); recovered is the share (Perf after - before) / (base - before). Tokens an
answer are those of its text; a model that talks more than the base shows there.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from importlib import metadata
from multiprocessing.queues import SimpleQueue
from pathlib import Path
from typing import Any

from squeeze.cache import Cache
from squeeze.config import CompressionConfig, digest, parse_config
from squeeze.demo import DATA_DIR, MODEL_DIR
from squeeze.folder import content_key, read_manifest

CASES: dict[str, dict[str, Any]] = {
    "ffn_half": {"width": {"width": 512}},
    "one_layer": {"depth": {"layers": 7, "method": "explicit", "drop": [5]}},
    "quarter_of_layers": {"depth": {"layers": 6, "method": "explicit", "drop": [5, 6]}},
}
"""Layers 5 and 6 are the two that turn the residual stream least."""

CHATS = str(DATA_DIR / "chats.parquet")
_LONG = {"text": {"source": CHATS, "samples": 16000, "length": 1024}, "batch": 8192, "learning_rate": 1e-4}
BUDGETS: dict[str, dict[str, Any]] = {
    "minute": {
        "text": {"source": CHATS, "samples": 860, "length": 1024},
        "batch": 2048,
        "learning_rate": 2e-4,
    },
    "epoch": _LONG,
    "four_epochs": {**_LONG, "epochs": 4},
    "eight_epochs": {**_LONG, "epochs": 8},
}
"""``minute`` is about what two busy cores of a CPU train in a minute."""

QUICK = {"text": {"source": CHATS, "samples": 120, "length": 1024}, "batch": 2048, "learning_rate": 2e-4}
METHODS = ("distill", "text")
COMMON = {"temperature": 2.0, "validate_every": 100, "patience": 1000}
VERSIONS = ("squeeze-search", "torch", "transformers")


def training(budget: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """The part ``distill`` of a configuration for that budget and seed, as plain data."""
    return {**COMMON, **budget, "text": {**budget["text"], "seed": seed}}


def recovered(before: float, after: float, base: float) -> float:
    """The share of the lost Perf that came back; 1.0 is all of it, below 0 more was lost."""
    return (after - before) / (base - before)


def perform(job: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """One case trained by one method with one seed for each budget, or (without a method) only pruned."""
    work, questions = Path(job["work"]), job["questions"]
    config = CASES.get(job["case"], {})
    facts = {key: job[key] for key in ("case", "method", "seed")}
    pruned = build(config, work)
    if job["method"] is None:
        yield facts | {"budget": None} | judged(pruned, questions)
        return
    for name, budget in job["budgets"].items():
        started = time.monotonic()
        part = training(budget, job["seed"])
        if job["method"] == "distill":
            folder = build({**config, "distill": part}, work)
            notes = read_manifest(folder).notes["distill"]
        else:
            folder, notes = train_on_text(pruned, config, part, work)
        kept = ("steps", "tokens", "supervised", "validation_first", "validation_last", "tokens_per_s")
        facts_of = {key: notes[key] for key in kept} | {"seconds": round(time.monotonic() - started, 1)}
        record = facts | {"budget": name} | judged(folder, questions) | facts_of
        say(
            f"{job['case']}, {job['method']}, seed {job['seed']}, {name}: Perf {record['perf']:.3f} after "
            f"{notes['tokens']} tokens, {facts_of['seconds']:.0f} s"
        )
        yield record


def build(config: Mapping[str, Any], work: Path) -> Path:
    """The model folder of a configuration, made by the pipeline unless it is there."""
    from squeeze.pipeline import build as run_stages

    parsed: CompressionConfig = parse_config(dict(config), "the benchmark")
    if not parsed.parts:
        return MODEL_DIR
    out = work / "models" / f"{parsed.key}-{os.getpid()}"
    if not out.exists():
        out.parent.mkdir(parents=True, exist_ok=True)
        run_stages(parsed, MODEL_DIR, out, str(DATA_DIR), cache=Cache(work / "cache"))
    return out


def train_on_text(
    source: Path, config: Mapping[str, Any], part: Mapping[str, Any], work: Path
) -> tuple[Path, dict[str, Any]]:
    """What the stage ``distill`` does, without a teacher: a folder and the notes."""
    from squeeze.training import models
    from squeeze.training.learner import Learner
    from squeeze.training.loop import fit
    from squeeze.training.text import prepare

    settings = parse_config({**config, "distill": dict(part)}, "the benchmark").distill
    assert settings is not None
    text = prepare(source, settings.text, str(DATA_DIR))
    student = models.load(source, settings)
    key = digest(["text", content_key(source)])
    notes = fit(
        Learner(student.model, student.parameters, precision=student.precision),
        settings,
        text,
        stage="text",
        key=key,
        state=Cache(work / "cache").state(key),
    )
    out = work / "models" / f"text-{digest([key, settings.model_dump(mode='json')])}"
    out.mkdir(parents=True)
    models.save(source, student.parameters, out)
    return out, notes


def judged(folder: Path, questions: int | None) -> dict[str, Any]:
    """Score of each set, their mean ``perf``, and ``tokens_per_answer``."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from squeeze.bench import tasks
    from squeeze.demo import evaluate

    tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
    model.to("cuda" if torch.cuda.is_available() else "cpu").eval()
    scores: dict[str, float] = {}
    lengths: list[int] = []
    for name in evaluate.SETS:
        task = tasks.load(name)
        rows = evaluate.read_rows(DATA_DIR, name)[:questions]
        said = evaluate.answers(model, tokenizer, rows, name, 256)
        scores[name] = statistics.mean(
            task.score(row, [text]) or 0.0 for row, text in zip(rows, said, strict=True)
        )
        lengths += [len(ids) for ids in tokenizer(said, add_special_tokens=False)["input_ids"]]
    return {
        **{name: round(value, 4) for name, value in scores.items()},
        "perf": round(statistics.mean(scores.values()), 4),
        "tokens_per_answer": round(statistics.mean(lengths), 2),
    }


def summary(records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """For each case: Perf before, and for each budget and method mean, min and max over the seeds."""
    plain = {record["case"]: record for record in records if record["method"] is None}
    base = plain.pop("base")
    out: dict[str, Any] = {"base": {key: base[key] for key in ("perf", "tokens_per_answer")}}
    for case, before in plain.items():
        trained: dict[str, Any] = {}
        for record in records:
            if record["case"] == case and record["method"] is not None:
                trained.setdefault(record["budget"], {}).setdefault(record["method"], []).append(record)
        out[case] = {
            "before": {key: before[key] for key in ("perf", "tokens_per_answer")},
            **{
                budget: {name: over_seeds(some, before, base) for name, some in methods.items()}
                for budget, methods in trained.items()
            },
        }
    return out


def over_seeds(
    records: Sequence[Mapping[str, Any]], before: Mapping[str, Any], base: Mapping[str, Any]
) -> dict[str, Any]:
    """Mean, min and max of one cell of the table."""

    def spread(values: list[float]) -> dict[str, float]:
        figures = {"mean": statistics.mean(values), "min": min(values), "max": max(values)}
        return {name: round(value, 4) for name, value in figures.items()}

    perfs = [record["perf"] for record in records]
    return {
        "perf": spread(perfs),
        "recovered": spread([recovered(before["perf"], perf, base["perf"]) for perf in perfs]),
        "tokens": round(statistics.mean(record["tokens"] for record in records)),
        "tokens_per_answer": spread([record["tokens_per_answer"] for record in records]),
        "seconds": round(statistics.mean(record["seconds"] for record in records), 1),
        "seeds": len(records),
    }


def table(found: Mapping[str, Any]) -> str:
    """The summary for people."""
    base = found["base"]
    lines = [
        f"base: Perf {base['perf']:.3f}, {base['tokens_per_answer']:.1f} tokens an answer",
        f"{'case':18s} {'budget':12s} {'method':8s} {'tokens':>9s} {'Perf (min–max)':>22s} "
        f"{'recovered (min–max)':>24s} {'tokens/answer':>14s}",
    ]
    for case, cells in found.items():
        if case == "base":
            continue
        before = cells["before"]
        lines.append(
            f"{case:18s} {'before':12s} {'':8s} {0:9d} {before['perf']:22.3f} {'':24s} "
            f"{before['tokens_per_answer']:14.1f}"
        )
        for budget, methods in cells.items():
            for method, cell in methods.items() if budget != "before" else ():
                perf, share = cell["perf"], cell["recovered"]
                perf_text = f"{perf['mean']:.3f} ({perf['min']:.3f}–{perf['max']:.3f})"
                share_text = f"{share['mean']:+.0%} ({share['min']:+.0%}–{share['max']:+.0%})"
                lines.append(
                    f"{case:18s} {budget:12s} {method:8s} {cell['tokens']:9d} {perf_text:>22s} "
                    f"{share_text:>24s} {cell['tokens_per_answer']['mean']:14.1f}"
                )
    return "\n".join(lines)


def work_on(jobs: SimpleQueue[Any], results: SimpleQueue[Any], threads: int) -> None:
    """A process: take jobs until there is None."""
    import torch
    from transformers.utils import logging

    logging.disable_progress_bar()
    torch.set_num_threads(threads)
    while (job := jobs.get()) is not None:
        try:
            for record in perform(job):
                results.put(record)
        except Exception as error:
            named = {key: job[key] for key in ("case", "method", "seed")}
            results.put(named | {"error": f"{type(error).__name__}: {error}"})
        results.put(None)


def measure(options: argparse.Namespace, work: Path) -> dict[str, Any]:
    """Everything, in ``options.jobs`` processes; the result as plain data."""
    chosen = {"quick": QUICK} if options.quick else {name: BUDGETS[name] for name in options.budgets}
    if options.learning_rate:
        chosen = {name: {**one, "learning_rate": options.learning_rate} for name, one in chosen.items()}
    common = {"work": str(work), "questions": options.questions, "budgets": chosen}
    planned = [
        {"case": case, "method": method, "seed": seed}
        for seed in options.seeds
        for case in options.cases
        for method in options.methods
    ]
    planned += [{"case": case, "method": None, "seed": None} for case in ("base", *options.cases)]
    context = multiprocessing.get_context("spawn")
    jobs, results = context.SimpleQueue(), context.SimpleQueue()
    count = min(options.jobs, len(planned))
    cores = max(1, len(os.sched_getaffinity(0)) // count)
    workers = [context.Process(target=work_on, args=(jobs, results, cores)) for _ in range(count)]
    for worker in workers:
        worker.start()
    for job in planned:
        jobs.put(job | common)
    for _ in workers:
        jobs.put(None)
    records: list[dict[str, Any]] = []
    waiting = len(planned)
    while waiting:
        record = results.get()
        if record is None:
            waiting -= 1
            continue
        records.append(record)
        if options.log:
            options.log.write_text(json.dumps(records, indent=1) + "\n", encoding="utf-8")
    for worker in workers:
        worker.join()
    failed = [record for record in records if "error" in record]
    for record in failed:
        say(f"failed: {json.dumps(record)}")
    if failed:
        raise SystemExit(1)
    found = summary(records)
    say(table(found))
    return {
        **found,
        "model": "embedded (8.4 M parameters)",
        "settings": {"budgets": chosen, "common": COMMON, "cases": CASES, "seeds": options.seeds},
        "questions_of_a_set": options.questions,
        "records": records,
        "versions": {name: version(name) for name in VERSIONS},
        "machine": machine(),
        "date": time.strftime("%Y-%m-%d"),
    }


def version(name: str) -> str | None:
    """Of an installed distribution."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def machine() -> dict[str, Any]:
    """What it ran on."""
    import torch

    cuda = torch.cuda.is_available()
    return {
        "python": platform.python_version(),
        "cores": os.cpu_count(),
        "gpu": torch.cuda.get_device_name() if cuda else None,
    }


def say(line: str) -> None:
    """Talk."""
    print(line, file=sys.stderr, flush=True)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="example: python benchmarks/recovery.py --jobs 15 --log recovery.json",
    )
    parser.add_argument(
        "--quick", action="store_true", help="one case, one seed, 17,000 tokens, 24 questions a set"
    )
    parser.add_argument("--cases", nargs="+", choices=tuple(CASES), default=list(CASES))
    parser.add_argument(
        "--budgets", nargs="+", choices=tuple(BUDGETS), default=["minute", "epoch", "four_epochs"]
    )
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--learning-rate", type=float, help="instead of each budget's")
    parser.add_argument("--questions", type=int, help="of each set; default: all")
    parser.add_argument("--jobs", type=int, default=1, help="processes at work side by side")
    parser.add_argument(
        "--work", type=Path, help="folder for models and caches, kept; default: a temporary one"
    )
    parser.add_argument("--log", type=Path, help="write each record there as soon as it is there")
    options = parser.parse_args(arguments)
    if options.quick:
        options.cases, options.seeds, options.questions = ["ffn_half"], [0], options.questions or 24
    return options


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print; the last line on stdout is one JSON object."""
    options = parse(arguments)
    if options.work:
        options.work.mkdir(parents=True, exist_ok=True)
        print(json.dumps(measure(options, options.work.resolve())))
        return
    with tempfile.TemporaryDirectory(prefix="recovery-") as folder:
        print(json.dumps(measure(options, Path(folder))))


if __name__ == "__main__":
    main()
