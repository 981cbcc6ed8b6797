"""What a model does on calibration text: how far layers turn the residual stream, which neurons fire."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from squeeze.decoder import Decoder


def block_influence(folder: Path, samples: Sequence[Sequence[int]]) -> list[float]:
    """Block Influence of each layer: mean over tokens of 1 − cosine(residual before, residual after).

    samples: token ids. 0 means that a layer changes nothing but the length (ShortGPT, arXiv:2403.03853).
    """
    import torch

    decoder = Decoder.read(folder)
    sums = [0.0] * decoder.layers

    def watch(layer: int) -> Callable[..., None]:
        def hook(_module: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
            before = (args[0] if args else kwargs["hidden_states"]).float()
            after = (output[0] if isinstance(output, tuple) else output).float()
            cosine = torch.nn.functional.cosine_similarity(before, after, dim=-1)
            sums[layer] += float((1 - cosine).sum())

        return hook

    def attach(model: Any) -> None:
        # Hooks, because the last of transformers' hidden_states has gone through the final norm.
        for layer in range(decoder.layers):
            module = model.get_submodule(decoder.layer_prefix(layer).rstrip("."))
            module.register_forward_hook(watch(layer), with_kwargs=True)

    tokens = _forward(folder, samples, attach)
    return [total / tokens for total in sums]


def mean_activation(folder: Path, samples: Sequence[Sequence[int]]) -> list[np.ndarray[Any, Any]]:
    """Mean over tokens of |act(gate)·up| of each neuron, an array of ``width`` for each layer."""
    decoder = Decoder.read(folder)
    sums: dict[int, Any] = {}

    def watch(layer: int) -> Callable[..., None]:
        def hook(_module: Any, args: tuple[Any, ...]) -> None:
            fired = args[0].detach().float().abs().flatten(0, -2).sum(0).double()
            sums[layer] = fired + sums.get(layer, 0.0)

        return hook

    def attach(model: Any) -> None:
        for layer in range(decoder.layers):
            module = model.get_submodule(decoder.layer_prefix(layer) + decoder.family.down)
            module.register_forward_pre_hook(watch(layer))

    tokens = _forward(folder, samples, attach)
    return [(sums[layer] / tokens).cpu().numpy() for layer in range(decoder.layers)]


def _forward(folder: Path, samples: Sequence[Sequence[int]], attach: Callable[[Any], None]) -> int:
    """Run the samples through the model with hooks attached, one at a time. Returns the number of tokens."""
    import torch

    from squeeze.versions import load_model

    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = load_model(folder, device)
    attach(model)
    with torch.inference_mode():
        for sample in samples:
            # The decoder alone: logits over a large vocabulary would cost more than a layer.
            model.get_decoder()(input_ids=torch.tensor([sample], device=device), use_cache=False)
    return sum(len(sample) for sample in samples)
