"""What ``distill.py`` measures on: two models, conversations, and which of them each step takes."""

from __future__ import annotations

import json
import math
import random
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any


def samples(options: SimpleNamespace, small: bool) -> int:
    """Conversations to ask for: enough for the steps, as what is read and not used costs memory too."""
    return max(64, options.batch * options.steps // 100) if small else 1_000_000


def prepare(options: SimpleNamespace) -> dict[str, Any]:
    """Make teacher, student, text and the plan, and return facts about them.

    The plan: the conversations of each step, as ours packs and orders them.
    """
    from squeeze.config import Calibration, WidthConfig
    from squeeze.decoder import Decoder
    from squeeze.demo import DATA_DIR, MODEL_DIR
    from squeeze.stages import Context, width
    from squeeze.training import text

    folder = Path(options.folder)
    teacher, student = folder / "teacher", folder / "student"
    small = options.device == "cpu" or options.tiny
    if small:
        teacher.symlink_to(MODEL_DIR)
        student.mkdir()
        half = WidthConfig(width=512, method="magnitude")
        width.run(teacher, half, student, Context(data=str(DATA_DIR), base=teacher))
        source = "manta"
    else:
        random_models(teacher, student, options.layers)
        source = str(long_conversations(folder / "conversations.jsonl", options))
    rows_a_step = options.batch // options.length
    calibration = Calibration(source=source, samples=samples(options, small), length=options.length)
    rows = text.prepare(teacher, calibration, str(DATA_DIR)).train
    order = text.stream(len(rows), calibration.seed, 0, rows_a_step * options.steps)
    steps = [order[at : at + rows_a_step] for at in range(0, len(order), rows_a_step)]
    plan = [documents(rows.pick(step)) for step in steps]
    (folder / "plan.json").write_text(json.dumps(plan))
    rows = rows.pick(order)
    (folder / "text.json").write_text(calibration.model_dump_json())
    lengths = sorted(length for row in rows.lengths for length in row)
    shapes = [Decoder.read(path) for path in (teacher, student)]
    flops = flops_per_token(shapes[0], shapes[1], rows)
    if options.lora:
        shapes = shapes[:1]
        flops = lora_flops_per_token(shapes[0], rows, options.lora)
    return {
        "tokens": [sum(len(row["input_ids"]) for row in step) for step in plan],
        "tokens_per_step": rows.tokens / len(plan),
        "conversations_per_step": round(len(lengths) / len(plan), 1),
        "conversation_tokens_median": lengths[len(lengths) // 2],
        "conversation_tokens_max": lengths[-1],
        "supervised_share": round(rows.supervised / rows.tokens, 3),
        "weights": "embedded model" if small else "random",
        "shape": [f"{one.layers} layers, hidden {one.hidden}, FFN {one.width}" for one in shapes],
        "flops_per_token": flops,
    }


def random_models(teacher: Path, student: Path, layers: int) -> None:
    """A teacher of EXAONE-4.0-1.2B's shape with random weights, and a student that lacks layers of it."""
    import torch

    from squeeze.config import DepthConfig
    from squeeze.demo import DATA_DIR, MODEL_DIR
    from squeeze.demo.train import Size, new_model, save_model
    from squeeze.stages import Context, depth

    size = Size(hidden=2048, layers=30, ffn=4096, heads=32, kv_heads=8, head_dim=64, vocab=102400)
    teacher.mkdir()
    student.mkdir()
    with torch.device("cuda"):
        save_model(new_model(size, seed=42), size, teacher)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copyfile(MODEL_DIR / name, teacher / name)
    part = DepthConfig(layers=layers, method="uniform")
    depth.run(teacher, part, student, Context(data=str(DATA_DIR), base=teacher))


def long_conversations(path: Path, options: SimpleNamespace) -> Path:
    """Made conversations of the length that chat sets have: several of the embedded set's joined into one.

    Tokens wanted: log-normal, median 600, sigma 0.7, 64 to ``options.length``.
    """
    from squeeze.data.chat import conversation
    from squeeze.data.sets import load_rows
    from squeeze.demo import DATA_DIR, MODEL_DIR
    from squeeze.versions import load_tokenizer

    tokenizer = load_tokenizer(MODEL_DIR)
    parts = [messages for row in load_rows("manta", str(DATA_DIR), 4000) if (messages := conversation(row))]
    parts = [messages for messages in parts if messages[0]["role"] == "user"]
    texts = [tokenizer.apply_chat_template(messages, tokenize=False) for messages in parts]
    sizes = [len(ids) for ids in tokenizer(texts, add_special_tokens=False)["input_ids"]]
    chance = random.Random(42)
    needed = int(1.15 * options.batch * options.steps)
    with path.open("w") as out:
        while needed > 0:
            target = min(max(chance.lognormvariate(math.log(600), 0.7), 64), options.length)
            turns: list[dict[str, str]] = []
            while target > 0:
                pick = chance.randrange(len(parts))
                turns += parts[pick]
                target -= sizes[pick]
                needed -= sizes[pick]
            out.write(json.dumps({"conversations": turns}, ensure_ascii=False) + "\n")
    return path


def documents(rows: Any) -> list[dict[str, list[int]]]:
    """The rows' conversations as TRL wants them: a label stands beside its token, not before it."""
    found = []
    for ids, labels, lengths in zip(rows.ids.tolist(), rows.labels.tolist(), rows.lengths, strict=True):
        at = 0
        for length in lengths:
            learned = labels[at : at + length - 1]
            found.append({"input_ids": ids[at : at + length], "labels": [-100, *learned]})
            at += length
    return found


def flops_per_token(teacher: Any, student: Any, rows: Any, attention: bool = True) -> dict[str, float]:
    """FLOPs that a token of a conversation costs: 6·N for the student, 2·N for the teacher, attention beside.

    N: weights of the linear layers; the head's for supervised positions only (``needed``), or for every
    position (``all_positions``); the look-up of embeddings costs none. Attention: causal, so half of
    2 products · 2 · length² · heads · head_dim a layer and conversation, three times for the student.
    """
    body = 3 * sum(_layers(student, rows, attention)) + sum(_layers(teacher, rows, attention))
    return _with_head(body, (6 + 2) * student.hidden * student.vocab, rows)


def lora_flops_per_token(model: Any, rows: Any, rank: int, attention: bool = True) -> dict[str, float]:
    """FLOPs of a token with LoRA: 4·N, as frozen weights have no gradients, and 6·N of the adapters."""
    linear, attended = _layers(model, rows, attention)
    adapters = model.layers * rank * sum(inputs + outputs for inputs, outputs in model.linears.values())
    return _with_head(2 * linear + 3 * attended + 6 * adapters, 4 * model.hidden * model.vocab, rows)


def _layers(model: Any, rows: Any, attention: bool) -> tuple[float, float]:
    """FLOPs of a token on its way forward: of the linear layers, and inside of attention."""
    squares = sum(length**2 for row in rows.lengths for length in row) / rows.tokens if attention else 0.0
    linear = sum(inputs * outputs for inputs, outputs in model.linears.values())
    return float(model.layers * 2 * linear), float(model.layers * 2 * squares * model.heads * model.head_dim)


def _with_head(body: float, head: float, rows: Any) -> dict[str, float]:
    return {"needed": body + head * rows.supervised / rows.tokens, "all_positions": body + head}


def micro_batches(rows: list[dict[str, Any]], tokens: int) -> list[list[dict[str, Any]]]:
    """The rows of a step, longest first, in groups of at most ``tokens`` tokens with their padding."""
    groups: list[list[dict[str, Any]]] = []
    for row in sorted(rows, key=lambda row: -len(row["input_ids"])):
        if groups and (len(groups[-1]) + 1) * len(groups[-1][0]["input_ids"]) <= tokens:
            groups[-1].append(row)
        else:
            groups.append([row])
    return groups


def halved(groups: list[list[dict[str, Any]]], count: int) -> list[list[dict[str, Any]]]:
    """``count`` groups: the largest are halved until there are enough."""
    groups = list(groups)
    while len(groups) < count:
        largest = max(range(len(groups)), key=lambda at: len(groups[at]))
        if len(groups[largest]) < 2:
            raise ValueError(f"{count} groups need as many conversations; there are {len(groups)}")
        group = groups.pop(largest)
        groups[largest:largest] = [group[: len(group) // 2], group[len(group) // 2 :]]
    return groups
