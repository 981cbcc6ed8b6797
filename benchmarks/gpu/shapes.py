"""Every scheme, and several depths and widths, at EXAONE-4.0-1.2B's shape: built, served and timed.

Example: ``python benchmarks/gpu/shapes.py --out shapes.jsonl --minutes 9`` (a GPU; random weights)

Each candidate goes through the product's own build and engine. The last line on stdout is JSON; candidates:
name -> build_s (stage -> s), size_gib, build (peak GPU and private host memory, from outside), start_s, serve
(the same while it is served, with clocks), kernels (kind of layer -> what vLLM computes it with), us (batch
-> microseconds per generated token of each repeat), ratio (batch -> median over the median of the unchanged
model before it, and after it where there was time), floor (batch of 1 -> share that reading the weights once
a token takes of the time), or failed (class and reason). --quick takes the embedded model and three
candidates, on a CPU too: it shows that the program works; names are of the large shape. Results are written
as they come; the next run goes on where this one stopped.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from parts import (
    MIX,
    Book,
    about,
    bandwidth_gb_s,
    make_models,
    make_questions,
    mixed,
    say,
    shared_options,
    with_places,
)
from watch import Watch

from squeeze.bench.served import Served, Slice
from squeeze.bench.workload import Workload
from squeeze.config import CompressionConfig, DepthConfig, QuantizeConfig, Scheme, WidthConfig
from squeeze.decoder import Decoder
from squeeze.errors import CandidateError
from squeeze.parts import Calibration
from squeeze.pipeline import build_in_child
from squeeze.target import Target

TEXT = Calibration(samples=64, length=512)
BASE = "unchanged"


def candidates(decoder: Decoder) -> dict[str, CompressionConfig]:
    """What is tried, the most wanted first."""
    layers, width = decoder.layers, decoder.width

    def scheme(name: Scheme, algorithm: str = "rtn") -> QuantizeConfig:
        return QuantizeConfig.model_validate(
            {"scheme": name, "algorithm": algorithm, "calibration": TEXT.model_dump()}
        )

    def depth(count: int) -> DepthConfig:
        return DepthConfig(layers=count, method="uniform")

    def narrow(eighths: int) -> WidthConfig:
        return WidthConfig(width=width * eighths // 8, method="magnitude")

    found = {
        "W8A8 rtn": CompressionConfig(quantize=scheme("W8A8")),
        "FP8 dynamic": CompressionConfig(quantize=scheme("FP8_DYNAMIC")),
        "W4A16 gptq": CompressionConfig(quantize=scheme("W4A16", "gptq")),
        "28 layers": CompressionConfig(depth=depth(layers - max(1, layers // 15))),
        "FFN 3072": CompressionConfig(width=narrow(6)),
        "FP8 static": CompressionConfig(quantize=scheme("FP8")),
        "W8A16 rtn": CompressionConfig(quantize=scheme("W8A16")),
        "W4A16_ASYM awq": CompressionConfig(quantize=scheme("W4A16_ASYM", "awq")),
        "FFN 3584, W8A8 rtn": CompressionConfig(width=narrow(7), quantize=scheme("W8A8")),
        "26 layers": CompressionConfig(depth=depth(layers - max(2, 2 * layers // 15))),
        "W8A8 gptq": CompressionConfig(quantize=scheme("W8A8", "gptq")),
        "FFN 3584": CompressionConfig(width=narrow(7)),
        "26 layers, W4A16 rtn": CompressionConfig(
            depth=depth(layers - max(2, 2 * layers // 15)), quantize=scheme("W4A16")
        ),
        "22 layers": CompressionConfig(depth=depth(layers - max(3, 4 * layers // 15))),
    }
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command. Returns the exit code."""
    options = parse(argv)
    ends = time.monotonic() + 60 * options.minutes
    options.work.mkdir(parents=True, exist_ok=True)
    base = make_models(options.work, options.quick, {"base": 1.0})["base"]
    workload = mixed(make_questions(options.work / "data"), options.quick)
    decoder = Decoder.read(base)
    target = Target.here(decoder)
    batches = {
        name: slice for name, slice in MIX.items() if slice.stop <= (workload.questions[slice.benchmark] or 0)
    }
    book = Book(options.out)
    tried = {
        name: config
        for name, config in candidates(decoder).items()
        if not target.refuse(config) and (options.only is None or name in options.only)
    }
    if options.quick:
        tried = dict(list(tried.items())[:3])

    def unchanged(when: str) -> None:
        if f"{BASE}, {when}" not in book.found:
            book.add(f"{BASE}, {when}", timed(base, workload, batches, options))

    unchanged("first")
    for name, config in tried.items():
        if name in book.found:
            continue
        if time.monotonic() > ends:
            break
        say(f"{name} …")
        book.add(name, one(name, config, base, workload, batches, options))
        say(f"{name}: {json.dumps(book.found[name], ensure_ascii=False)}")
    else:
        unchanged("last")
    print(json.dumps(report(book, base, tried, options), ensure_ascii=False))
    return 0


def one(
    name: str,
    config: CompressionConfig,
    base: Path,
    workload: Workload,
    batches: Mapping[str, Slice],
    options: argparse.Namespace,
) -> dict[str, Any]:
    """Build a candidate, time it, remove it."""
    out = options.work / "candidate"
    shutil.rmtree(out, ignore_errors=True)
    try:
        with Watch() as watch:
            began = time.perf_counter()
            artifact = build_in_child(
                config,
                base,
                out,
                str(options.work / "data"),
                log=options.work / "logs" / "build.log",
                deadline_s=1200,
            )
            took = time.perf_counter() - began
        found = {
            "build_s": {**artifact.seconds, "in all": round(took, 2)},
            "size_gib": round(artifact.size_bytes / 2**30, 3),
            "build": watch.told(),
        }
        return found | timed(out, workload, batches, options)
    except CandidateError as error:
        return {"failed": f"{error.kind} in {error.stage}: {str(error)[:300]}"}


def timed(
    model: Path, workload: Workload, batches: Mapping[str, Slice], options: argparse.Namespace
) -> dict[str, Any]:
    """Serve a model and time the batches, in turn, after once to warm up."""
    log = options.work / "logs" / "serve.log"
    began = time.perf_counter()
    with Watch() as watch, Served(model, workload, log) as served:
        served.wait()
        started = time.perf_counter() - began
        for part in batches.values():
            served.time(part)
        us: dict[str, list[float]] = {name: [] for name in batches}
        for _ in range(options.repeats):
            for name, part in batches.items():
                timing = served.time(part)
                us[name].append(round(1e6 * timing.seconds / timing.tokens, 2))
        kernels = served.engine.get("kernels", {})
    return {"start_s": round(started, 1), "serve": watch.told(), "kernels": kernels, "us": us}


def report(book: Book, base: Path, tried: Mapping[str, Any], options: argparse.Namespace) -> dict[str, Any]:
    """The JSON object: what was found, with ratios to the unchanged model."""
    ours = [found for name, found in book.found.items() if name.startswith(BASE)]
    before = {
        batch: median([time for found in ours for time in found["us"][batch]]) for batch in ours[0]["us"]
    }
    weights = sum(file.stat().st_size for file in base.glob("*.safetensors")) / 2**30
    told = about()
    rate = bandwidth_gb_s(told["machine"].get("gpu", ""))
    for name, found in book.found.items():
        if "us" not in found:
            continue
        found["ratio"] = {
            batch: round(median(times) / before[batch], 4) for batch, times in found["us"].items()
        }
        size = weights if name.startswith(BASE) else found["size_gib"]
        single = next(iter(found["us"]))
        if rate:
            floor_us = size * 2**30 / rate / 1e3
            found["floor"] = round(floor_us / median(found["us"][single]), 3)
    return {
        "candidates": book.found,
        "missing": [name for name in tried if name not in book.found],
        "bandwidth_gb_s": rate,
        "model": "embedded" if options.quick else "EXAONE-4.0-1.2B's shape, random weights",
        **told,
    }


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The options of the command."""
    parser = shared_options(__doc__, minutes=30)
    parser.add_argument("--repeats", type=int, default=5, help="timed repeats of each batch")
    parser.add_argument("--only", nargs="*", help="the names of those that are tried (default: all)")
    options = with_places(parser.parse_args(argv), "shapes")
    if options.quick:
        options.repeats = 2
    return options


if __name__ == "__main__":
    sys.exit(main())
