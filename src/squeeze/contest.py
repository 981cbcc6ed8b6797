"""What the contest's server runs, and model files as its versions read them.

The server has transformers 4.57.3, compressed-tensors 0.13.0 and vLLM 0.14.1. A config.json saved by
transformers 5 keeps RoPE under ``rope_parameters``; 4.57 does not look there and falls back to a theta of
10,000 without a word. Hence everything that leaves the house is rewritten, and checked for it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from squeeze.versions import rope_for_4

Json = dict[str, Any]

PINS: Mapping[str, str] = {
    "python": "3.11",
    "torch": "2.9.0",
    "transformers": "4.57.3",
    "tokenizers": "0.22.1",
    "safetensors": "0.7.0",
    "compressed-tensors": "0.13.0",
    "vllm": "0.14.1",
}
"""Distribution -> version on the contest's server."""

ZIPPED_BYTES = 10 * 10**9
UNPACKED_BYTES = 32 * 10**9
ARCHITECTURE = "Exaone4ForCausalLM"

# Only found in tokenizers saved by transformers 5.
_TOKENIZERS_OF_5 = ("TokenizersBackend", "PythonBackend", "SentencePieceBackend")
# The fields of QuantizationArgs in compressed-tensors 0.13, which forbids any other.
_ARGS = (
    *("num_bits", "type", "symmetric", "group_size", "strategy", "block_structure", "dynamic", "actorder"),
    *("scale_dtype", "zp_dtype", "observer", "observer_kwargs"),
)
_SCHEME = ("targets", "weights", "input_activations", "output_activations", "format")
_REORDERED = ("group", "dynamic")


def model_config(config: Json) -> Json:
    """config.json as transformers 4.57.3 reads it: the same model, in the older words."""
    new = rope_for_4(config)
    new["transformers_version"] = PINS["transformers"]
    if "head_dim" not in new and {"hidden_size", "num_attention_heads"} <= new.keys():
        new["head_dim"] = new["hidden_size"] // new["num_attention_heads"]
    if "layer_types" not in new and new.get("sliding_window") is None and "num_hidden_layers" in new:
        new["layer_types"] = ["full_attention"] * new["num_hidden_layers"]
    if isinstance(new.get("quantization_config"), dict):
        new["quantization_config"] = _quantization(new["quantization_config"])
    return dict(sorted(new.items()))


def tokenizer_config(config: Json) -> Json:
    """tokenizer_config.json as transformers 4.57.3 reads it."""
    new = {key: value for key, value in config.items() if key not in ("backend", "is_local")}
    if new.get("tokenizer_class") in (*_TOKENIZERS_OF_5, None):
        new["tokenizer_class"] = "PreTrainedTokenizerFast"
    if isinstance(new.get("extra_special_tokens"), list):  # a mapping in 4.57, where a list raises
        new["additional_special_tokens"] = new.pop("extra_special_tokens")
    return dict(sorted(new.items()))


def generation_config(config: Json, model: Json) -> Json:
    """generation_config.json for 4.57.3; ids that it lacks are taken from the model's config."""
    ids: Json = {key: model[key] for key in ("bos_token_id", "eos_token_id", "pad_token_id") if key in model}
    new: Json = {**ids, **config, "transformers_version": PINS["transformers"]}
    return dict(sorted(new.items()))


def config_faults(config: Json) -> list[str]:
    """What transformers 4.57.3 or vLLM 0.14.1 would misread or refuse in a config.json."""
    faults = []
    if config.get("architectures") != [ARCHITECTURE]:
        faults.append(f"architectures must be [{ARCHITECTURE}]; got {config.get('architectures')}")
    if "rope_parameters" in config:
        faults.append("rope_parameters is not read by transformers 4.57.3; use rope_theta and rope_scaling")
    if not isinstance(config.get("rope_theta"), int | float):
        faults.append(f"rope_theta must be a number, else 10000 is taken; got {config.get('rope_theta')}")
    scaling = config.get("rope_scaling")
    if scaling is not None and not (isinstance(scaling, dict) and "rope_type" in scaling):
        faults.append(f"rope_scaling must be null or have a rope_type; got {scaling}")
    if config.get("torch_dtype") not in ("bfloat16", "float16"):
        faults.append(f"torch_dtype must be bfloat16 or float16; got {config.get('torch_dtype')}")
    if "dtype" in config:
        faults.append("dtype is transformers 5's word for torch_dtype; have one of them")
    sizes = (
        *("hidden_size", "intermediate_size", "num_hidden_layers", "vocab_size"),
        *("num_attention_heads", "num_key_value_heads", "head_dim"),
    )
    wrong = [name for name in sizes if not (isinstance(config.get(name), int) and config[name] > 0)]
    if wrong:
        return [*faults, f"{', '.join(wrong)} must be positive whole numbers"]
    if config["num_attention_heads"] % config["num_key_value_heads"]:
        faults.append("num_attention_heads must be a multiple of num_key_value_heads")
    types = config.get("layer_types")
    if not isinstance(types, list) or len(types) != config["num_hidden_layers"]:
        length = len(types) if isinstance(types, list) else None
        faults.append(f"layer_types must have {config['num_hidden_layers']} entries; got {length}")
    return faults


def tokenizer_faults(config: Json) -> list[str]:
    """What transformers 4.57.3 would refuse in a tokenizer_config.json."""
    faults = []
    if config.get("tokenizer_class") in _TOKENIZERS_OF_5:
        faults.append(f"tokenizer_class {config['tokenizer_class']} is unknown to transformers 4.57.3")
    if isinstance(config.get("extra_special_tokens"), list):
        faults.append("extra_special_tokens must be a mapping in transformers 4.57.3, not a list")
    return faults


def quantization_faults(config: Json) -> list[str]:
    """What compressed-tensors 0.13.0 or vLLM 0.14.1 would refuse in a quantization_config."""
    faults = []
    if config.get("quant_method") != "compressed-tensors":
        faults.append(f"quant_method must be compressed-tensors; got {config.get('quant_method')}")
    groups = config.get("config_groups")
    if not isinstance(groups, dict) or not all(isinstance(group, dict) for group in groups.values()):
        return [*faults, "config_groups must map names to schemes"]
    for name, group in groups.items():
        unknown = sorted(set(group) - set(_SCHEME))
        for side in ("weights", "input_activations", "output_activations"):
            args = group.get(side) or {}
            unknown += sorted(set(args) - set(_ARGS))
            if args.get("actorder") and args.get("strategy") != "group":
                faults.append(f"{name}: actorder needs the strategy group in compressed-tensors 0.13")
        if unknown:
            faults.append(f"{name}: {', '.join(unknown)} is unknown to compressed-tensors 0.13")
    if scheme_of("lm_head", config) is not None:
        faults.append("lm_head must be in ignore: vLLM cannot load a quantized tied head")
    return faults


def scheme_of(module: str, config: Json) -> str | None:
    """The name of the group that quantizes a linear module, None when it is left alone.

    Matching as in compressed-tensors: ``re:`` patterns from the name's start, else the whole name or its
    class; an exact name wins over a class.
    """
    if any(_matches(module, target) for target in config.get("ignore") or []):
        return None
    groups: Json = config.get("config_groups") or {}
    found = {target: name for name, group in groups.items() for target in group.get("targets") or []}
    by_name = [name for target, name in found.items() if target != "Linear" and _matches(module, target)]
    return by_name[0] if by_name else found.get("Linear")


def _matches(module: str, target: str) -> bool:
    if target.startswith("re:"):
        return re.match(target[3:], module) is not None
    return module == target or target == "Linear"


def _quantization(config: Json) -> Json:
    """quantization_config in the words of compressed-tensors 0.13."""
    groups = {}
    for name, group in config.get("config_groups", {}).items():
        groups[name] = {
            key: _args(value) if isinstance(value, dict) else value for key, value in group.items()
        }
        groups[name] = {key: groups[name].get(key) for key in _SCHEME}
    return {**config, "config_groups": groups}


def _args(args: Json) -> Json:
    """One side's arguments; actorder says how they were found and matters to no reader unless it reorders."""
    kept = {key: value for key, value in args.items() if key in _ARGS}
    if kept.get("actorder") not in _REORDERED:
        kept["actorder"] = None
    return kept
