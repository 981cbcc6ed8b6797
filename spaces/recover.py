"""Pruning, recovery by distillation or LoRA, quantization, norm tuning: everything that can be tried."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import optuna

from spaces import prune_quantize, quantize
from squeeze.config import (
    Calibration,
    CompressionConfig,
    DistillConfig,
    FinetuneConfig,
    TuneNormsConfig,
)
from squeeze.target import Target

EPOCHS = {"cpu": (0, 1, 2), "cuda": (0, 1, 2, 3)}
"""Passes of the teacher over its text; a longer distillation goes on from a shorter one."""

TEXT = {
    "cpu": Calibration(samples=64, length=512),
    "cuda": Calibration(samples=20_000, length=2048),
}
"""What is trained on: on a CPU some 6,000 tokens of the embedded model's world."""

BATCH = {"cpu": 1024, "cuda": 32_768}
"""Tokens of a step."""

NORMS_BATCH = 2048
"""Tokens of a step where norms are tuned: there are few of them."""

WARMUP = {"cpu": 2, "cuda": 20}
"""Steps until the learning rate is reached; on a CPU an epoch has some 6."""

VALIDATE_EVERY = {"cpu": 4, "cuda": 50}
"""Steps between looks at the text kept apart."""

ROOMY_BYTES = 60 << 30
"""Memory of a GPU from which activations need not be computed twice."""

TEMPERATURE = 2.0
"""Of distillation; at equal tokens it recovered more of the embedded model than 1."""

RATES = {"cpu": (5e-5, 1.6e-4, 5e-4), "cuda": (5e-6, 1e-5, 2.2e-5, 4.7e-5, 1e-4)}
"""Learning rates of distillation; the usual one is the middle. A large model, of small weights, takes smaller
ones. Few and the same for all, so that a scheme is laid over a distillation that is in the cache, and a
longer one goes on from a shorter one."""

RANKS = (0, 8, 32)
"""Ranks of LoRA; 0: none."""


def suggest(trial: optuna.Trial, target: Target) -> CompressionConfig:
    """Shape and quantization as in ``prune_quantize``, and training where it can mend something.

    Only a pruned model is distilled (an unpruned one is its own teacher), adapters are trained only where
    nothing is distilled, norms are tuned only after rounding to four bits (eight leave them nothing to mend).
    """
    config = prune_quantize.suggest(trial, target)
    common: dict[str, Any] = {
        "text": TEXT[target.device],
        "batch": BATCH[target.device],
        "warmup": WARMUP[target.device],
        "validate_every": VALIDATE_EVERY[target.device],
    }
    if target.device == "cuda":  # what a large model gains from
        common |= {"compile": True, "gradient_checkpointing": target.memory_bytes < ROOMY_BYTES}
    distill = finetune = tune_norms = None
    if config.depth or config.width:
        epochs = trial.suggest_categorical("kd_epochs", list(EPOCHS[target.device]))
        if epochs:
            rate = trial.suggest_categorical("kd_learning_rate", list(RATES[target.device]))
            distill = DistillConfig(epochs=epochs, learning_rate=rate, temperature=TEMPERATURE, **common)
    if distill is None:
        rank = trial.suggest_categorical("lora_rank", list(RANKS))
        if rank:
            rate = trial.suggest_float("lora_learning_rate", 2e-5, 1e-3, log=True)
            finetune = FinetuneConfig(rank=rank, learning_rate=rate, **common)
    four_bits = config.quantize is not None and config.quantize.scheme.startswith("W4")
    if four_bits and trial.suggest_categorical("tune_norms", [False, True]):
        few = common["text"].model_copy(update={"samples": min(1024, common["text"].samples)})
        tune_norms = TuneNormsConfig(**{**common, "text": few, "batch": NORMS_BATCH})
    return config.model_copy(update={"distill": distill, "finetune": finetune, "tune_norms": tune_norms})


def recipes(target: Target) -> Sequence[Mapping[str, Any]]:
    """A little pruning, distilled; the same quantized; quantization alone; adapters; norms: each kind once.

    What promises most comes first, so that the others can be stopped early. Layers are 28/30 and 26/30 of
    the base's, the width 7/8, as did well at 1.2 B. Distillations are few and not the longest: a scheme is
    laid over one that is in the cache, and a longer one goes on from there.
    """
    decoder = target.decoder
    step = prune_quantize.width_step(decoder.width)
    whole: dict[str, Any] = {"layers": decoder.layers}
    if step is not None:
        whole["width"] = decoder.width
    known = list(quantize.recipes(target))
    if target.device == "cpu":  # where rounding is slow to make and to run: each scheme once
        known = list({one["scheme"]: one for one in reversed(known)}.values())[::-1]
    as_it_is = {"kd_epochs": 0, "lora_rank": 0, "tune_norms": False}
    kd = {"kd_epochs": EPOCHS[target.device][-2], "kd_learning_rate": usual_rate(target), "tune_norms": False}
    lora = {"lora_rank": RANKS[1], "lora_learning_rate": 2e-4, "tune_norms": False}
    fewer: list[dict[str, Any]] = [
        {**whole, "layers": max(1, decoder.layers - max(drop, round(drop * 2 * decoder.layers / 30)))}
        | {"depth_method": "influence"}
        for drop in (1, 2)
    ]
    narrow: list[dict[str, Any]] = []
    if step is not None:
        neurons = {"width": decoder.width - max(1, decoder.width // 8 // step) * step}
        narrow = [{**shape, **neurons, "width_method": "activation"} for shape in (whole, fewer[0])]
    plain: dict[str, Any] = {"scheme": None}
    eight = next((one for one in known if one["scheme"] == "W8A8"), plain)
    four = next((one for one in known if one["scheme"] == "W4A16"), plain)
    # Eight bits are what makes a GPU fast; on a CPU they were no faster than none.
    first, second = (plain, eight) if target.device == "cpu" else (eight, plain)
    wanted = [
        *({**shape, **kd, **first} for shape in (*narrow, *fewer)),
        *({**shape, **kd, **second} for shape in narrow[:1]),
        *({**shape, **kd, **four} for shape in fewer),
        *({**whole, **as_it_is, **one} for one in known),
        {**whole, **lora, **eight},
        {**whole, **as_it_is, **four, "tune_norms": True},
    ]
    return _asked(wanted, target)


def usual_rate(target: Target) -> float:
    """The learning rate of distillation in the middle of those that are tried."""
    rates = RATES[target.device]
    return rates[len(rates) // 2]


def _asked(wanted: Sequence[Mapping[str, Any]], target: Target) -> list[dict[str, Any]]:
    """Each recipe with the parameters that ``suggest`` asks for, once each."""
    found: dict[str, dict[str, Any]] = {}
    for params in wanted:
        trial = optuna.trial.FixedTrial(dict(params))
        config = suggest(trial, target)  # type: ignore[arg-type]
        found.setdefault(config.key, trial.params)
    return list(found.values())
