"""LoRA fine-tuning on conversations, merged into the weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from squeeze.config import CompressionConfig, FinetuneConfig
from squeeze.decoder import Decoder
from squeeze.errors import ConfigError, SetupError
from squeeze.folder import content_key
from squeeze.stages import Context
from squeeze.target import refuse_shape


def run(source: Path, part: FinetuneConfig, out: Path, context: Context) -> dict[str, Any]:
    """Write ``source`` to ``out`` with low-rank adapters trained by cross-entropy on the assistant's text.

    Each linear layer of the decoder gets an adapter; head, embedding and norms stay as they are. The adapters
    are added to the weights in 32 bits and rounded once to the stored dtype. Notes: rank, alpha, adapters
    (how many), parameters (trained), and those of ``training.loop.fit``, whose losses are nats a token.
    Raises SetupError without peft.
    """
    decoder = Decoder.read(source)
    for line in refuse_shape(CompressionConfig(finetune=part), decoder):
        raise ConfigError(line)
    import torch

    from squeeze.training import models, packed
    from squeeze.training.learner import Learner
    from squeeze.training.loop import fit
    from squeeze.training.text import prepare

    text = prepare(source, part.text, context.data)
    model = models.load_frozen(source).requires_grad_(False)
    packed.attach(model)
    torch.manual_seed(part.text.seed)  # the adapters' first weights
    adapted = _adapt(model, part)
    trainable = {name: value for name, value in model.named_parameters() if value.requires_grad}
    if part.gradient_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    if part.compile:
        models.compile_layers(model)
    notes = fit(
        Learner(model, trainable, precision=models.precision(models.device())),
        part,
        text,
        stage="finetune",
        key=content_key(source),
        state=context.state,
        tell=context.tell,
    )
    # On the CPU, where 32 bits of every weight find room.
    merged = adapted.to("cpu", torch.float32).merge_and_unload()
    taken = notes["validation_last"] < notes["validation_first"]
    if taken:
        models.save(source, dict(merged.named_parameters()), out)
    else:
        models.keep(source, out)
    return {
        **notes,
        "taken": taken,
        "rank": part.rank,
        "alpha": _alpha(part),
        "adapters": len(trainable) // 2,
        "parameters": sum(value.numel() for value in trainable.values()),
    }


def _adapt(model: Any, part: FinetuneConfig) -> Any:
    """Put an adapter, in 32 bits, beside each linear layer of the decoder's layers, in the model itself.

    Returns peft's wrapper, which can merge them.
    """
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError as error:
        raise SetupError("LoRA needs peft; it is not installed; run `uv sync --extra cpu`") from error
    settings: dict[str, Any] = {
        "r": part.rank,
        "lora_alpha": _alpha(part),
        "lora_dropout": 0.0,
        "bias": "none",
        "target_modules": "all-linear",  # but the head
        "task_type": "CAUSAL_LM",
    }
    return get_peft_model(model, LoraConfig(**settings))


def _alpha(part: FinetuneConfig) -> float:
    return part.alpha if part.alpha is not None else 2.0 * part.rank
