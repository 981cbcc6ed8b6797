"""Decoder: the shape of a causal decoder, where it keeps its weights, and how its config is rewritten.

A family is data: to add one, add a ``Family`` to ``FAMILIES``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from squeeze.errors import ConfigError

CONFIG = "config.json"
"""The file of a model folder that says what the model is."""


@dataclass(frozen=True)
class Family:
    """Where the models of one architecture keep things.

    layer: prefix of a layer's weights. gate, up, down: feed-forward projections inside a layer.
    embedding, head: of the tokens. per_layer: config keys that list one value a layer.
    """

    model_type: str
    architecture: str
    layer: str = "model.layers.{}."
    gate: str = "mlp.gate_proj"
    up: str = "mlp.up_proj"
    down: str = "mlp.down_proj"
    embedding: str = "model.embed_tokens"
    head: str = "lm_head"
    per_layer: tuple[str, ...] = ("layer_types",)


FAMILIES: Mapping[str, Family] = {"exaone4": Family("exaone4", "Exaone4ForCausalLM")}
"""config.json's model_type -> the family."""


@dataclass(frozen=True)
class Decoder:
    """The shape of a model.

    layers: decoder layers. hidden: width of the residual stream. width: intermediate_size. heads,
    kv_heads, head_dim: of attention. vocab: tokens. tied: the head is the embedding. quantization: how
    the weights are stored already, e.g. ``compressed-tensors``; None when they are plain.
    """

    family: Family
    layers: int
    hidden: int
    width: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    tied: bool
    quantization: str | None = None

    @classmethod
    def read(cls, folder: Path) -> Decoder:
        """The decoder in a model folder. Raises ConfigError when it is not one of a known family."""
        return cls.of(read_config(folder), str(folder))

    @classmethod
    def of(cls, config: Mapping[str, Any], origin: str) -> Decoder:
        """The decoder that a config.json describes; ``origin`` is named in errors."""
        family = FAMILIES.get(str(config.get("model_type")))
        architectures = config.get("architectures") or []
        if family is None or family.architecture not in architectures:
            known = ", ".join(
                f"{one.architecture} (model_type {one.model_type})" for one in FAMILIES.values()
            )
            raise ConfigError(
                f"the model must be a causal decoder of a known family; {origin} is "
                f"{', '.join(map(str, architectures)) or 'of no architecture'} "
                f"(model_type {config.get('model_type')}); known: {known}"
            )

        def whole(key: str) -> int:
            value = config.get(key)
            if not isinstance(value, int) or value < 1:
                raise ConfigError(
                    f"{key} in {CONFIG} must be a whole number of 1 or more; {origin} has {value!r}; "
                    f"fetch the model again"
                )
            return value

        layers = whole("num_hidden_layers")
        for key in family.per_layer:
            values = config.get(key)
            if values is not None and (not isinstance(values, list) or len(values) != layers):
                raise ConfigError(
                    f"{key} must have one entry for each of the {layers} layers; {origin} has "
                    f"{len(values) if isinstance(values, list) else repr(values)}; fetch the model again"
                )
        heads = whole("num_attention_heads")
        hidden = whole("hidden_size")
        return cls(
            family=family,
            layers=layers,
            hidden=hidden,
            width=whole("intermediate_size"),
            heads=heads,
            kv_heads=whole("num_key_value_heads") if "num_key_value_heads" in config else heads,
            head_dim=whole("head_dim") if config.get("head_dim") else hidden // heads,
            vocab=whole("vocab_size"),
            tied=bool(config.get("tie_word_embeddings", False)),
            quantization=(config.get("quantization_config") or {}).get("quant_method"),
        )

    def layer_prefix(self, layer: int) -> str:
        """What the names of that layer's weights start with (0-based)."""
        return self.family.layer.format(layer)

    def layer_of(self, name: str) -> tuple[int, str] | None:
        """The layer (0-based) a weight belongs to and its name in there; None for weights of no layer."""
        start, end = self.family.layer.split("{}")
        if not name.startswith(start):
            return None
        number, separator, rest = name.removeprefix(start).partition(end)
        return (int(number), rest) if separator and number.isdigit() else None

    @property
    def linears(self) -> Mapping[str, tuple[int, int]]:
        """(inputs, outputs) of a layer's linear layers as vLLM runs them: q, k, v and gate, up are fused."""
        attention = self.heads * self.head_dim
        return {
            "qkv_proj": (self.hidden, attention + 2 * self.kv_heads * self.head_dim),
            "o_proj": (attention, self.hidden),
            "gate_up_proj": (self.hidden, 2 * self.width),
            "down_proj": (self.width, self.hidden),
        }


def read_config(folder: Path) -> dict[str, Any]:
    """The config.json of a model folder. Raises ConfigError when there is none or it is no JSON object."""
    return read_json(folder / CONFIG)


def read_json(path: Path) -> dict[str, Any]:
    """A JSON file of a model folder. Raises ConfigError when it is missing or holds no JSON object."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(
            f"a model folder must hold a readable {path.name}; {path.parent}: {error.strerror}; "
            f"give the folder of a whole model"
        ) from error
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path.name} must be JSON; {path}: {error}; fetch the model again") from error
    if not isinstance(content, dict):
        raise ConfigError(
            f"{path.name} must be a JSON object; {path} holds a {type(content).__name__}; "
            f"fetch the model again"
        )
    return content


def with_layers(config: Mapping[str, Any], keep: Sequence[int]) -> dict[str, Any]:
    """The config of the same model with only the layers ``keep`` (0-based, in order).

    Every other key stays as it is, so both ways to write RoPE (rope_theta and rope_scaling of transformers 4,
    rope_parameters of 5) survive.
    """
    family = FAMILIES[config["model_type"]]
    new = {**config, "num_hidden_layers": len(keep)}
    for key in family.per_layer:
        if config.get(key) is not None:
            new[key] = [config[key][layer] for layer in keep]
    return new


def with_width(config: Mapping[str, Any], width: int) -> dict[str, Any]:
    """The config of the same model with another intermediate_size."""
    return {**config, "intermediate_size": width}
