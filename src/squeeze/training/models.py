"""Models as they are trained, and back into a folder."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch  # noqa: TID253  only processes that train import this module

from squeeze.config import Training
from squeeze.decoder import Decoder, read_config
from squeeze.errors import ConfigError
from squeeze.folder import copy_others, write_config
from squeeze.shards import Output, Weight, all_weights, rewrite, same
from squeeze.training import packed
from squeeze.training.optimizer import stored_in

_DTYPES = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32}


@dataclass(frozen=True)
class Student:
    """A model that can be trained.

    parameters: name -> parameter, as in the folder's files, all requiring gradients. precision: the dtype of
    matrix products, None: that of the weights.
    """

    model: Any
    parameters: dict[str, torch.Tensor]
    device: str
    precision: torch.dtype | None


def device() -> str:
    """Where training happens: ``cuda`` if there is one, else ``cpu``."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def precision(where: str) -> torch.dtype | None:
    """The dtype of matrix products there: bfloat16 where the processor has instructions for it.

    On a CPU that has them, products of the embedded model take a sixth of the time of 32-bit ones.
    """
    fast = where == "cuda" or torch.cpu._is_avx512_bf16_supported()
    return torch.bfloat16 if fast else None


def load(folder: Path, part: Training) -> Student:
    """The model in a folder, ready to be trained whole, with packed attention."""
    from squeeze.versions import load_model

    where = device()
    model = load_model(folder, where)
    model.to(stored_in(where))
    packed.attach(model)
    model.requires_grad_(True)
    if part.gradient_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    if part.compile:
        compile_layers(model)
    parameters = dict(model.named_parameters())  # a tied head is named once
    return Student(model, parameters, where, precision(where) if where == "cpu" else None)


def load_frozen(folder: Path) -> Any:
    """The model in a folder, in the dtype it is run in, to be asked only."""
    from squeeze.versions import load_model

    where = device()
    model = load_model(folder, where)
    model.to(torch.bfloat16 if where == "cuda" else torch.float32)
    return model


def compile_layers(model: Any) -> None:
    """Have torch compile each decoder layer; they share the compiled code.

    What differs from batch to batch, the number of documents, becomes a variable of that code at the second
    batch; with ``dynamic=False`` every number of documents would be compiled for.
    """
    torch._dynamo.config.recompile_limit = 64  # with and without gradients, student and teacher
    for layer in model.get_decoder().layers:
        layer.compile()


def save(source: Path, parameters: Mapping[str, torch.Tensor], out: Path) -> None:
    """Write ``source`` with those weights, each in the dtype and shard it has in ``source``, to ``out``."""
    tied = Decoder.read(source).tied
    head = f"{Decoder.read(source).family.head}.weight"
    missing = [name for name in all_weights(source) if name not in parameters and not (tied and name == head)]
    if missing:
        raise ConfigError(f"every weight must have been trained; {source} also has {missing[0]}")

    def change(weight: Weight) -> Output | None:
        if tied and weight.name == head:
            return None
        value = parameters[weight.name]
        return Output(weight.name, weight.dtype, weight.shape, lambda: _raw(value, _DTYPES[weight.dtype]))

    rewrite(source, out, change)
    write_config(out, read_config(source))
    copy_others(source, out)


def keep(source: Path, out: Path) -> None:
    """Write ``source`` as it is to ``out``: for a training that made it no better."""
    rewrite(source, out, same)
    write_config(out, read_config(source))
    copy_others(source, out)


def _raw(value: torch.Tensor, dtype: torch.dtype) -> Iterator[bytes]:
    yield value.detach().to("cpu", dtype).contiguous().view(torch.uint8).numpy().tobytes()
