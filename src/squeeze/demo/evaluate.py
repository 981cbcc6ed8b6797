"""Measure how the embedded model reacts to compression, in plain torch: the table of docs/demo.md.

Example: ``python -m squeeze.demo.evaluate src/squeeze/demo --json table.json``
"""

from __future__ import annotations

import argparse
import copy
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch  # noqa: TID253  only a process that measures imports this module
from torch import nn  # noqa: TID253
from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: TID253

from squeeze.bench import tasks
from squeeze.data.sets import Row

SETS = ("kmmlu_redux", "kmmlu_pro", "ko_longrag")
GROUP = 128


def read_rows(folder: Path, name: str) -> list[Row]:
    """The rows of a shipped set."""
    from pyarrow import parquet

    rows: list[Row] = parquet.read_table(folder / f"{name}.parquet").to_pylist()
    return rows


def answers(model: Any, tokenizer: Any, rows: list[Row], name: str, batch: int) -> list[str]:
    """Greedy answers to a set's rows, in order; the longest prompts are answered together."""
    task = tasks.load(name)
    prompts = [
        tokenizer.apply_chat_template(task.messages(row), tokenize=False, add_generation_prompt=True)
        for row in rows
    ]
    order = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
    out = [""] * len(prompts)
    for start in range(0, len(order), batch):
        chosen = order[start : start + batch]
        inputs = tokenizer(
            [prompts[i] for i in chosen], return_tensors="pt", padding=True, add_special_tokens=False
        ).to(model.device)
        inputs.pop("token_type_ids", None)
        with torch.inference_mode():
            made = model.generate(**inputs, max_new_tokens=task.MAX_TOKENS, do_sample=False, pad_token_id=0)
        texts = tokenizer.batch_decode(made[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        for index, text in zip(chosen, texts, strict=True):
            out[index] = text.strip()
    return out


def quality(model: Any, tokenizer: Any, data: Path, batch: int = 256) -> dict[str, float]:
    """Mean score of each set, and ``perf``, the mean of the three."""
    found: dict[str, float] = {}
    for name in SETS:
        rows = read_rows(data, name)
        task = tasks.load(name)
        said = answers(model, tokenizer, rows, name, batch)
        scores = [task.score(row, [text]) or 0.0 for row, text in zip(rows, said, strict=True)]
        found[name] = sum(scores) / len(scores)
    return found | {"perf": sum(found.values()) / len(SETS)}


def without_layers(model: Any, dropped: set[int]) -> Any:
    """A copy without those layers."""
    out = copy.deepcopy(model)
    kept = [layer for index, layer in enumerate(out.model.layers) if index not in dropped]
    for index, layer in enumerate(kept):
        layer.self_attn.layer_idx = index
    out.model.layers = nn.ModuleList(kept)
    out.config.num_hidden_layers = len(kept)
    out.config.layer_types = ["full_attention"] * len(kept)
    return out


def neuron_importance(model: Any, tokenizer: Any, data: Path, samples: int = 256) -> list[torch.Tensor]:
    """For each layer, mean |act(gate)·up| of each FFN neuron times the norm of its down column."""
    sums = [torch.zeros(layer.mlp.down_proj.in_features, device=model.device) for layer in model.model.layers]
    hooks = []
    mask: torch.Tensor | None = None
    for layer, total in zip(model.model.layers, sums, strict=True):

        def hook(_: Any, inputs: Any, total: torch.Tensor = total) -> None:
            assert mask is not None
            total += inputs[0].float().abs()[mask].sum(0)

        hooks.append(layer.mlp.down_proj.register_forward_pre_hook(hook))
    chats = [row["conversations"] for row in read_rows(data, "manta")[:samples]]
    texts = [tokenizer.apply_chat_template(chat, tokenize=False) for chat in chats]
    for start in range(0, len(texts), 32):
        inputs = tokenizer(texts[start : start + 32], return_tensors="pt", padding=True).to(model.device)
        mask = inputs["attention_mask"].bool()
        with torch.inference_mode():
            model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"])
    for handle in hooks:
        handle.remove()
    norms = [layer.mlp.down_proj.weight.float().norm(dim=0) for layer in model.model.layers]
    return [total * norm for total, norm in zip(sums, norms, strict=True)]


def with_ffn(model: Any, width: int, importance: list[torch.Tensor]) -> Any:
    """A copy with the ``width`` most important neurons of each layer."""
    out = copy.deepcopy(model)
    for layer, scores in zip(out.model.layers, importance, strict=True):
        kept = scores.topk(width).indices.sort().values
        for name in ("gate_proj", "up_proj"):
            getattr(layer.mlp, name).weight = nn.Parameter(getattr(layer.mlp, name).weight[kept])
        layer.mlp.down_proj.weight = nn.Parameter(layer.mlp.down_proj.weight[:, kept])
    out.config.intermediate_size = width
    return out


def _linears(model: Any) -> list[nn.Linear]:
    return [m for n, m in model.named_modules() if isinstance(m, nn.Linear) and n != "lm_head"]


def rounded_w4(model: Any) -> Any:
    """A copy with weights rounded to symmetric 4 bit, groups of 128 inputs."""
    out = copy.deepcopy(model)
    for linear in _linears(out):
        weight = linear.weight.data.float()
        grouped = weight.view(weight.shape[0], -1, min(GROUP, weight.shape[1]))
        scale = grouped.abs().amax(-1, keepdim=True).clamp_min(1e-8) / 7.5
        rounded = (grouped / scale).round().clamp(-8, 7) * scale
        linear.weight.data = rounded.view_as(weight).to(linear.weight.dtype)
    return out


def rounded_w8a8(model: Any) -> Any:
    """A copy with 8-bit weights for each output and 8-bit activations for each token."""
    out = copy.deepcopy(model)

    def to8(x: torch.Tensor) -> torch.Tensor:
        scale = x.float().abs().amax(-1, keepdim=True).clamp_min(1e-8) / 127.5
        return ((x / scale).round().clamp(-128, 127) * scale).to(x.dtype)

    for linear in _linears(out):
        linear.weight.data = to8(linear.weight.data)
        linear.register_forward_pre_hook(lambda _, inputs: (to8(inputs[0]),))
    return out


def variants(model: Any, tokenizer: Any, data: Path) -> dict[str, Callable[[], Any]]:
    """Each row of the table: its name and how to make the model."""
    depth = len(model.model.layers)
    width = model.config.intermediate_size
    rows: dict[str, Callable[[], Any]] = {
        "base": lambda: model,
        "W8A8": lambda: rounded_w8a8(model),
        "W4A16 rounded": lambda: rounded_w4(model),
    }
    for index in range(depth):
        rows[f"without layer {index}"] = lambda index=index: without_layers(model, {index})  # type: ignore[misc]
    rows["every second layer"] = lambda: without_layers(model, set(range(1, depth - 1, 2)) | {depth // 2})
    importance = neuron_importance(model, tokenizer, data)
    for eighths in (7, 6, 5, 4):
        kept = width * eighths // 8
        rows[f"FFN {kept}"] = lambda kept=kept: with_ffn(model, kept, importance)  # type: ignore[misc]
    return rows


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m squeeze.demo.evaluate", description=__doc__)
    parser.add_argument("folder", type=Path, help="folder with model/ and data/")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--only", nargs="*", help="names of rows")
    parser.add_argument("--json", type=Path, help="also write the table here")
    options = parser.parse_args(arguments)
    tokenizer = AutoTokenizer.from_pretrained(options.folder / "model", padding_side="left")
    model = AutoModelForCausalLM.from_pretrained(options.folder / "model", dtype=torch.bfloat16)
    model.to(options.device).eval()
    data = options.folder / "data"
    table: dict[str, dict[str, float]] = {}
    for name, make in variants(model, tokenizer, data).items():
        if options.only and name not in options.only:
            continue
        begun = time.monotonic()
        table[name] = quality(make(), tokenizer, data)
        share = table[name]["perf"] / max(table.get("base", table[name])["perf"], 1e-9) - 1
        figures = " ".join(f"{key} {value:.3f}" for key, value in table[name].items())
        print(f"{name:20s} {figures} {share:+.1%} {time.monotonic() - begun:.0f}s", flush=True)
    if options.json:
        options.json.write_text(json.dumps(table, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
