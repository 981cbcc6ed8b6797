"""Make the embedded demo from a seed: world, data sets, tokenizer, trained model.

Example: ``python -m squeeze.demo.make --out build/demo --seed 42 --device cuda``
"""

from __future__ import annotations

import argparse
import itertools
import os
import random
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

from squeeze.demo import passages, questions, stream, talk
from squeeze.demo.tokenizer import save_tokenizer, train_tokenizer
from squeeze.demo.world import World, make_world

PEOPLE = 24000
ROWS = {"kmmlu_redux": 200, "kmmlu_pro": 200, "ko_longrag": 100, "manta": 4000, "chats": 16000}


def data_rows(world: World, seed: int) -> dict[str, list[dict[str, Any]]]:
    """The rows of the five data sets, and more of the last one's kind as ``chats``, by name."""

    def rng(name: str) -> random.Random:
        return random.Random(f"{seed}-{name}")

    chats = stream.manta_rows(world, rng("manta"), ROWS["chats"])
    return {
        "kmmlu_redux": questions.redux_rows(world, rng("redux"), ROWS["kmmlu_redux"]),
        "kmmlu_pro": questions.pro_rows(world, rng("pro"), ROWS["kmmlu_pro"]),
        "ko_longrag": passages.longrag_rows(rng("longrag"), ROWS["ko_longrag"]),
        "komt_bench": talk.komt_rows(rng("komt")),
        "manta": chats[: ROWS["manta"]],
        "chats": chats,
    }


def write_data(rows: dict[str, list[dict[str, Any]]], folder: Path) -> None:
    """Write each set as ``<name>.parquet``."""
    import pyarrow
    from pyarrow import parquet

    string_lists = {"reference", "turns", "options", "titles"}
    folder.mkdir(parents=True, exist_ok=True)
    for name, table_rows in rows.items():
        columns = {key: [row[key] for row in table_rows] for key in table_rows[0]}
        arrays = {
            key: pyarrow.array(values, pyarrow.list_(pyarrow.string()) if key in string_lists else None)
            for key, values in columns.items()
        }
        parquet.write_table(pyarrow.table(arrays), folder / f"{name}.parquet", compression="zstd")


def tokenizer_texts(world: World, seed: int) -> list[str]:
    """What the tokenizer is trained on: samples of the training stream."""
    short = itertools.islice(stream.short_samples(world, f"{seed}-tokenizer"), 20000)
    long = itertools.islice(stream.long_samples(f"{seed}-tokenizer"), 1500)
    return ["".join(text for text, _ in pieces) for pieces in itertools.chain(short, long)]


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    options = _parser().parse_args(arguments)
    out: Path = options.out
    model_folder = out / "model"
    model_folder.mkdir(parents=True, exist_ok=True)
    world = make_world(options.seed, options.people)
    write_data(data_rows(world, options.seed), out / "data")
    tokenizer = train_tokenizer(tokenizer_texts(world, options.seed))
    save_tokenizer(tokenizer, model_folder)
    print(f"world, data sets and tokenizer written to {out}", file=sys.stderr)
    if options.world_only:
        return 0

    import torch  # only training needs it

    from squeeze.demo import batches, train

    device = options.device or ("cuda" if torch.cuda.is_available() else "cpu")
    size = train.Size(**{f.name: getattr(options, f.name) for f in fields(train.Size)})
    recipe = train.Recipe(
        steps=options.steps,
        lr=options.lr,
        layer_drop=options.layer_drop,
        decay=options.decay,
        seed=options.train_seed or options.seed,
    )
    print(train.describe(size, recipe), file=sys.stderr)
    shapes = (
        batches.Shape("short", options.rows, 256),
        batches.Shape("long", max(1, options.rows * 3 // 16), 1024),
    )
    source = batches.Source(options.seed, options.people, tokenizer.to_str())
    workers = options.workers if options.workers >= 0 else max(0, (os.cpu_count() or 1) - 2)
    model = train.new_model(size, recipe.seed)
    train.train(model, batches.chunks(source, shapes, recipe.steps, workers), len(shapes), recipe, device)
    train.spread_neurons(model, options.seed)
    train.save_model(model, size, model_folder)
    print(f"model written to {model_folder}", file=sys.stderr)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m squeeze.demo.make",
        description="Make the embedded demo model and its data from a seed.",
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for model/ and data/")
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument("--train-seed", type=int, help="first weights and dropped layers; default: --seed")
    parser.add_argument("--people", type=int, default=PEOPLE, help="people in the world (facts to learn)")
    parser.add_argument("--world-only", action="store_true", help="data and tokenizer, no training")
    parser.add_argument("--device", choices=("cuda", "cpu"), help="default: cuda when there is one")
    parser.add_argument("--steps", type=int, default=4200)
    parser.add_argument("--rows", type=int, default=256, help="short rows a step; long rows follow")
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--layer-drop", type=float, default=0.03)
    parser.add_argument("--decay", type=float, default=0.1)
    parser.add_argument("--workers", type=int, default=-1, help="processes that make data; 0: none")
    widths = {"hidden": 256, "layers": 8, "ffn": 1024, "heads": 4, "kv-heads": 2, "head-dim": 64}
    for name, default in (widths | {"vocab": 2048}).items():
        parser.add_argument(f"--{name}", type=int, default=default)
    return parser


if __name__ == "__main__":
    sys.exit(main())
