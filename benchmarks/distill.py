"""Distillation, ours and TRL's GKDTrainer: tokens a second, peak memory, and whether the losses agree.

Both train the same student from the same teacher on the same conversations, step by step, each in a process
of its own; they take turns, a few steps each, so that a change of the machine's mood meets both. The loss is
off-policy forward KL at temperature 1, averaged over a step's assistant tokens: TRL with lmbda 0 and beta 0.
TRL has no packing for GKD; it is given the step's conversations sorted by length, in padded micro-batches, so
that it loses as little as it can to padding. Tokens are those of the conversations; padding does not count.
Peak memory is that of the steps after the first ones: what CUDA's allocator gave out, or on a CPU the
resident memory above what the imports took. mfu, of ours: 6·N FLOPs a token for the student and 2·N for the
teacher plus attention, over the dense bf16 rate of the datasheet; N counts the head for the supervised
positions only (mfu_all_positions: for all); null on a CPU. --lora RANK measures our stage finetune instead,
alone: LoRA on the unpruned model, whose frozen weights need no gradients of their own.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

VERSIONS = ("squeeze-search", "torch", "transformers", "trl", "accelerate", "datasets")


class Side:
    """One of the two trainers, waiting in a process for leave to run some steps."""

    def __init__(self, name: str, settings: Path, log: Path, threads: int) -> None:
        self.name = name
        self.seconds: list[list[float]] = []
        self.report: dict[str, Any] = {}
        self._log = log
        with log.open("w") as errors:
            self._process = subprocess.Popen(
                [sys.executable, str(Path(__file__).with_name("distill_sides.py")), name, str(settings)],
                env={**os.environ, "OMP_NUM_THREADS": str(threads)},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )

    def ask(self, word: str) -> dict[str, Any]:
        """The side's answer to one word. Raises SystemExit with the end of its log when it has died."""
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None and stdout is not None
        try:
            stdin.write(word + "\n")
            stdin.flush()
        except BrokenPipeError:
            pass
        line = stdout.readline()
        if not line:
            code = self._process.wait()
            end = "\n".join(self._log.read_text(errors="replace").splitlines()[-25:])
            raise SystemExit(f"{self.name} died (exit {code}); the end of its log:\n{end}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def close(self) -> None:
        """End the process."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        try:
            self._process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print; the last line on stdout is one JSON object."""
    options = parse(arguments)
    with tempfile.TemporaryDirectory(prefix="distill-", dir=options.work) as folder:
        print(json.dumps(measure(options, Path(folder))))


def measure(options: argparse.Namespace, work: Path) -> dict[str, Any]:
    """Prepare, then let both run in turns."""
    settings = work / "settings.json"
    settings.write_text(json.dumps({**vars(options), "folder": str(work)}))
    say(f"preparing models and {options.steps} steps of conversations")
    prepare = Side("prepare", settings, work / "prepare.log", options.threads)
    facts = prepare.ask("go")
    prepare.close()
    say(
        f"{facts['tokens_per_step']:.0f} tokens a step, {facts['supervised_share']:.0%} supervised, "
        f"teacher and student: {facts['shape']}"
    )

    names = [name for name in ("trl", "ours") if name not in options.without]
    sides = [Side(name, settings, work / f"{name}.log", options.threads) for name in names]
    try:
        warm = 1 if options.quick else options.warmup
        for side in sides:  # one after the other: loading and compiling must not disturb the other's
            begun = time.monotonic()
            side.ask(f"run {warm}")
            say(f"{side.name}: loaded and warm after {time.monotonic() - begun:.1f} s")
        for turn in range(options.repeats):
            for side in sides if turn % 2 == 0 else sides[::-1]:
                answer = side.ask(f"run {options.block}")
                tokens = sum(facts["tokens"][warm + turn * options.block :][: options.block])
                side.seconds.append([answer["seconds"], tokens])
                say(f"turn {turn + 1}, {side.name}: {tokens / answer['seconds']:.0f} tokens/s")
        for side in sides:
            side.report = side.ask("stop")
            if options.show:
                say(json.dumps({side.name: side.report["notes"]}))
    except SystemExit as error:
        say(str(error))
        raise SystemExit(1) from error
    finally:
        for side in sides:
            side.close()
    return result(options, facts, {side.name: side for side in sides}, warm)


def result(
    options: argparse.Namespace, facts: dict[str, Any], sides: dict[str, Side], warm: int
) -> dict[str, Any]:
    """The figures. mfu is of ours: 6·N a token for the student, 2·N for the teacher, causal attention."""
    rates = {name: [tokens / seconds for seconds, tokens in side.seconds] for name, side in sides.items()}
    out: dict[str, Any] = {}
    if len(sides) == 2:
        pairs = [ours / trl for ours, trl in zip(rates["ours"], rates["trl"], strict=True)]
        losses = {name: side.report["losses"] for name, side in sides.items()}
        off = [abs(a - b) / abs(b) for a, b in zip(losses["ours"], losses["trl"], strict=True)]
        memory = {name: side.report["peak_bytes"] for name, side in sides.items()}
        out = {
            "tokens_per_s_ratio": round(statistics.median(pairs), 3),
            "tokens_per_s_ratios": [round(pair, 3) for pair in pairs],
            "peak_memory_ratio": round(memory["ours"] / memory["trl"], 3),
            "loss_difference": off[0],
            "loss_difference_later_max": max(off[1:]),
        }
    for name, side in sides.items():
        rate = statistics.median(rates[name])
        peak = side.report["peak_flops"]
        flops = {kind: count * rate for kind, count in facts["flops_per_token"].items()}
        if name == "ours":
            out["mfu"] = round(flops["needed"] / peak, 4) if peak else None
            out["mfu_all_positions"] = round(flops["all_positions"] / peak, 4) if peak else None
            out["peak_flops"] = peak
        out[name] = {
            "tokens_per_s": round(rate, 1),
            "tokens_per_s_range": [round(min(rates[name]), 1), round(max(rates[name]), 1)],
            "peak_gib": round(side.report["peak_bytes"] / 2**30, 3),
            "losses": [round(loss, 5) for loss in side.report["losses"][:4]],
            "notes": side.report["notes"],
        }
    kept = (
        "device",
        "quick",
        "steps",
        "block",
        "repeats",
        "batch",
        "length",
        "micro_batch",
        "checkpointing",
        "compile",
        "memory",
        "threads",
        "lora",
    )
    return out | {
        "facts": {key: value for key, value in facts.items() if key != "tokens"},
        "settings": {key: getattr(options, key) for key in kept} | {"warmup": warm},
        "versions": {name: metadata.version(name) for name in VERSIONS if installed(name)},
        "machine": {
            "python": platform.python_version(),
            "cpu": cpu_name(),
            "cores": os.cpu_count(),
            **next(iter(sides.values())).report["machine"],
        },
        "date": time.strftime("%Y-%m-%d"),
    }


def installed(name: str) -> bool:
    """Whether the distribution is there: a checkout that was copied is not."""
    try:
        return bool(metadata.version(name))
    except metadata.PackageNotFoundError:
        return False


def cpu_name() -> str:
    """The processor's name as Linux gives it."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def say(line: str) -> None:
    """Talk."""
    print(line, file=sys.stderr, flush=True)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options; what was not given depends on device and --quick."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="example: python benchmarks/distill.py --quick",
    )
    parser.add_argument("--quick", action="store_true", help="a run of less than a minute")
    parser.add_argument("--device", choices=("cpu", "cuda"), help="default: cuda where there is one")
    parser.add_argument("--repeats", type=int, help="turns of each side")
    parser.add_argument("--block", type=int, help="steps of a turn")
    parser.add_argument("--warmup", type=int, help="steps before anything is timed")
    parser.add_argument("--batch", type=int, help="tokens of a step")
    parser.add_argument("--length", type=int, help="tokens of a packed row, and the longest conversation")
    parser.add_argument("--micro-batch", type=int, help="padded tokens of a micro-batch of TRL")
    parser.add_argument("--threads", type=int, default=1, help="of each side on a CPU")
    parser.add_argument("--peer-f32", dest="bf16", action="store_false", help="TRL in 32 bits on a CPU")
    parser.add_argument("--memory", type=float, help="GiB of a smaller GPU that is to be imitated")
    parser.add_argument("--layers", type=int, default=28, help="of the student at the 1.2B shape")
    parser.add_argument("--checkpointing", action="store_true", help="gradient checkpointing in both")
    parser.add_argument(
        "--no-compile", dest="compile", action="store_false", help="ours without torch.compile"
    )
    parser.add_argument("--tiny", action="store_true", help="the embedded model on a GPU too")
    parser.add_argument("--without", nargs="*", default=[], choices=("ours", "trl"), help="leave a side out")
    parser.add_argument("--show", action="store_true", help="tell each side's notes")
    parser.add_argument("--lora", type=int, metavar="RANK", help="LoRA instead of distillation, ours alone")
    parser.add_argument("--work", type=Path, help="folder for temporary files")
    options = parser.parse_args(arguments)
    if options.lora:
        options.without = ["trl"]
    if options.device is None:
        options.device = (
            "cuda" if Path("/proc/driver/nvidia").exists() or Path("/dev/nvidia0").exists() else "cpu"
        )
    small = options.device == "cpu" or options.tiny
    preset: dict[str, int] = (
        {"repeats": 5, "block": 2, "warmup": 2, "batch": 8192, "length": 1024, "micro_batch": 2048}
        if small
        else {"repeats": 5, "block": 3, "warmup": 3, "batch": 32768, "length": 2048, "micro_batch": 8192}
    )
    if options.quick:
        preset |= {"repeats": 2, "block": 1, "warmup": 1}
    if options.quick and small:
        preset |= {"batch": 1024, "micro_batch": 1024}
    for key, value in preset.items():
        if getattr(options, key) is None:
            setattr(options, key, value)
    options.steps = options.warmup + options.repeats * options.block
    options.work = str(options.work) if options.work else None
    return options


if __name__ == "__main__":
    main()
