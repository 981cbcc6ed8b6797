"""Training of the embedded model: EXAONE-4's architecture at a small size, AdamW, bf16."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch  # noqa: TID253  only a process that trains imports this module
from safetensors.torch import save_file
from torch.nn import functional  # noqa: TID253

from squeeze.demo.batches import IGNORED, Ids


@dataclass(frozen=True)
class Size:
    """The widths of the model. ffn in steps of 128; heads of ``head_dim``."""

    hidden: int = 256
    layers: int = 8
    ffn: int = 1024
    heads: int = 4
    kv_heads: int = 2
    head_dim: int = 64
    vocab: int = 2048


@dataclass(frozen=True)
class Recipe:
    """How to train.

    layer_drop: chance that a row skips an inner layer. decay: weight decay of the matrices.
    """

    steps: int = 4200
    lr: float = 2e-3
    warmup: int = 200
    decay: float = 0.1
    layer_drop: float = 0.03
    seed: int = 42


def config_json(size: Size) -> dict[str, Any]:
    """config.json as transformers 4.57 writes it; transformers 5 reads it too."""
    return {
        "architectures": ["Exaone4ForCausalLM"],
        "attention_dropout": 0.0,
        "bos_token_id": 1,
        "eos_token_id": 361,
        "head_dim": size.head_dim,
        "hidden_act": "silu",
        "hidden_size": size.hidden,
        "initializer_range": 0.02,
        "intermediate_size": size.ffn,
        "layer_types": ["full_attention"] * size.layers,
        "max_position_embeddings": 65536,
        "model_type": "exaone4",
        "num_attention_heads": size.heads,
        "num_hidden_layers": size.layers,
        "num_key_value_heads": size.kv_heads,
        "pad_token_id": 0,
        "rms_norm_eps": 1e-05,
        "rope_scaling": {
            "factor": 16.0,
            "high_freq_factor": 4.0,
            "low_freq_factor": 1.0,
            "original_max_position_embeddings": 8192,
            "rope_type": "llama3",
        },
        "rope_theta": 1000000.0,
        "sliding_window": None,
        "tie_word_embeddings": True,
        "torch_dtype": "bfloat16",
        "transformers_version": "4.57.3",
        "use_cache": True,
        "vocab_size": size.vocab,
    }


def new_model(size: Size, seed: int) -> Any:
    """A fresh Exaone4ForCausalLM in float32."""
    from transformers import Exaone4Config, Exaone4ForCausalLM

    torch.manual_seed(seed)
    settings = config_json(size)
    for key in ("architectures", "torch_dtype", "transformers_version", "model_type"):
        settings.pop(key)
    model = Exaone4ForCausalLM(Exaone4Config(**settings))
    with torch.no_grad():
        # Post-norm layers add a vector of the norm's scale: start small, so that embeddings count.
        model.model.embed_tokens.weight.normal_(0.0, 0.1)
        for layer in model.model.layers:
            layer.post_attention_layernorm.weight.fill_(0.3)
            layer.post_feedforward_layernorm.weight.fill_(0.3)
    return model


def _block(layer: Any, h: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, keep: torch.Tensor) -> Any:
    out = layer(h, position_embeddings=(cos, sin), attention_mask=None)
    return h + keep * (out - h)


def _head(h: torch.Tensor, weight: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    logits = functional.linear(h, weight).float()
    return functional.cross_entropy(
        logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORED, reduction="sum"
    )


def train(
    model: Any, data: Iterator[tuple[Ids, Ids]], parts: int, recipe: Recipe, device: str
) -> list[float]:
    """Train in place; ``parts`` chunks of data make one step. Returns the mean loss every 50 steps."""
    model.to(device).train()
    matrices = [p for n, p in model.named_parameters() if p.ndim == 2 and "embed" not in n]
    others = [p for n, p in model.named_parameters() if p.ndim != 2 or "embed" in n]
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": recipe.decay}, {"params": others, "weight_decay": 0.0}],
        lr=recipe.lr,
        betas=(0.9, 0.98),
        fused=device != "cpu",
    )
    block: Callable[..., Any] = _block
    head: Callable[..., Any] = _head
    if device != "cpu":
        torch._dynamo.config.recompile_limit = 64
        torch.set_float32_matmul_precision("high")
        block = torch.compile(_block, dynamic=False)
        head = torch.compile(_head, dynamic=False)
    inner = model.model
    drops = torch.Generator().manual_seed(recipe.seed)
    losses: list[float] = []
    window: list[torch.Tensor] = []
    begun = time.monotonic()
    for step in range(recipe.steps):
        batches = [next(data) for _ in range(parts)]
        count = sum(int((labels != IGNORED).sum()) for _, labels in batches)
        warm = min(1.0, (step + 1) / max(1, recipe.warmup))
        for group in optimizer.param_groups:
            group["lr"] = recipe.lr * warm * (1 - step / recipe.steps)
        total = torch.zeros((), device=device)
        for ids, labels in batches:
            x = torch.from_numpy(ids.astype("int64")).to(device, non_blocking=True)
            y = torch.from_numpy(labels.astype("int64")).to(device, non_blocking=True)
            keep = torch.ones(len(inner.layers), len(x), 1, 1)
            skipped = torch.rand(keep[1:-1].shape, generator=drops) < recipe.layer_drop
            keep[1:-1][skipped] = 0.0
            keep = keep.to(device)
            with torch.autocast(device, torch.bfloat16):
                h = inner.embed_tokens(x)
                positions = torch.arange(x.shape[1], device=device)[None]
                cos, sin = inner.rotary_emb(h, positions)
                for layer, kept in zip(inner.layers, keep, strict=True):
                    h = block(layer, h, cos, sin, kept)
                loss = head(inner.norm(h), inner.embed_tokens.weight, y) / count
            loss.backward()
            total += loss.detach()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        window.append(total)
        if len(window) == 50 or step + 1 == recipe.steps:
            losses.append(float(torch.stack(window).mean()))
            window.clear()
            spent = time.monotonic() - begun
            print(
                f"step {step + 1}/{recipe.steps} loss {losses[-1]:.4f} {spent:.0f} s",
                file=sys.stderr,
                flush=True,
            )
    return losses


def spread_neurons(model: Any, seed: int) -> None:
    """Scale each FFN neuron's up row by 1/2, 1, 2 or 4 and its down column by the inverse, in place.

    What the model computes stays the same to the last bit (powers of two), but its weights and
    activations now differ in size from channel to channel, as those of large models do: rounding
    weights blindly to few bits costs something, and what looks at activations can win it back.
    """
    generator = torch.Generator().manual_seed(seed)
    for layer in model.model.layers:
        up, down = layer.mlp.up_proj.weight, layer.mlp.down_proj.weight
        exponents = torch.randint(-1, 3, (up.shape[0],), generator=generator)
        factors = torch.pow(2.0, exponents.float()).to(up.device)
        up.data.mul_(factors[:, None])
        down.data.div_(factors[None, :])


def save_model(model: Any, size: Size, folder: Path) -> None:
    """Write config.json, generation_config.json and model.safetensors (bfloat16, tied head left out)."""
    weights = {
        name: tensor.detach().to("cpu", torch.bfloat16).contiguous()
        for name, tensor in model.state_dict().items()
        if name != "lm_head.weight"
    }
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    _write(folder / "config.json", config_json(size))
    _write(
        folder / "generation_config.json",
        {
            "_from_model_config": True,
            "bos_token_id": 1,
            "do_sample": False,
            "eos_token_id": 361,
            "pad_token_id": 0,
            "transformers_version": "4.57.3",
        },
    )


def _write(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")


def describe(size: Size, recipe: Recipe) -> str:
    """Size and recipe on one line of JSON."""
    return json.dumps({"size": asdict(size), "recipe": asdict(recipe)})
