"""Everything that differs between the supported versions of the libraries; nothing else knows them.

Supported: transformers 4.57 with llmcompressor 0.9.0 and compressed-tensors 0.13, transformers 5.15–5.17 with
llmcompressor 0.14 and compressed-tensors 0.19. Run in child processes only: torch and the like are imported
inside the functions.
"""

from __future__ import annotations

import contextlib
import inspect
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from squeeze.errors import SetupError

THAT_MATTER = (
    "squeeze-search",
    "torch",
    "transformers",
    "llmcompressor",
    "compressed-tensors",
    "peft",
    "torchao",
    "bitsandbytes",
)
"""Distributions whose version changes what a stage writes."""

_WORTH_THREADS = 1024
"""Width of the residual stream from which on matrices are large enough for threads."""


def installed(names: Sequence[str] = THAT_MATTER) -> dict[str, str]:
    """Distribution -> version; what is not installed is left out."""
    found = {}
    for name in names:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def major(distribution: str) -> tuple[int, int]:
    """Major and minor version of an installed distribution. Raises SetupError when it is not installed."""
    try:
        numbers = re.findall(r"\d+", metadata.version(distribution))
    except metadata.PackageNotFoundError as error:
        raise SetupError(
            f"{distribution} is needed; it is not installed; run `uv sync --extra cpu`"
        ) from error
    return int(numbers[0]), int(numbers[1])


def rope_for_4(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config with RoPE and dtype as transformers 4 reads them (rope_theta, rope_scaling, torch_dtype).

    transformers 5 writes rope_parameters and dtype, which 4.57 reads wrongly without a word.
    """
    new = dict(config)
    rope = new.pop("rope_parameters", None)
    if rope is not None:
        scaling = {key: value for key, value in rope.items() if key != "rope_theta"}
        new["rope_theta"] = rope.get("rope_theta", new.get("rope_theta", 10000.0))
        new["rope_scaling"] = None if scaling.get("rope_type", "default") == "default" else scaling
    dtype = new.pop("dtype", None)
    if dtype is not None:
        new.setdefault("torch_dtype", dtype)
    return new


def load_model(folder: Path, device: str) -> Any:
    """The transformers model in a folder, in the dtype it is stored in, on a device, ready to evaluate.

    A small model takes the process to one thread: more only wait for each other (GPTQ of hidden 256 took half
    the time with one of two busy cores), and results no longer depend on the number of cores.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from squeeze.decoder import Decoder, read_config

    if Decoder.read(folder).hidden < _WORTH_THREADS:
        torch.set_num_threads(1)
    config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    stored = read_config(folder)
    if major("transformers") < (5, 0) and "rope_parameters" in stored:
        readable = rope_for_4(stored)
        config.rope_theta, config.rope_scaling = readable["rope_theta"], readable["rope_scaling"]
    model = AutoModelForCausalLM.from_pretrained(folder, config=config, dtype="auto", use_safetensors=True)
    return model.to(device).eval()


def load_tokenizer(folder: Path) -> Any:
    """The tokenizer in a folder with its chat template."""
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    from squeeze.decoder import read_json

    settings = read_json(folder / "tokenizer_config.json")
    if major("transformers") < (5, 0) and settings.get("tokenizer_class") == "TokenizersBackend":
        # transformers 5's name for a plain tokenizer.json, which 4 does not know.
        return PreTrainedTokenizerFast.from_pretrained(folder)
    return AutoTokenizer.from_pretrained(folder, trust_remote_code=False)


def quantize_recipe(
    groups: Mapping[str, Any], algorithm: str, dampening: float, awq_mappings: list[tuple[str, list[str]]]
) -> list[Any]:
    """llmcompressor's recipe for an algorithm (rtn, gptq, awq) over config groups; lm_head stays as it is.

    awq_mappings: (layer whose outputs are scaled down, layers whose inputs are scaled up).
    """
    from llmcompressor.modifiers.quantization import QuantizationModifier

    new = major("llmcompressor") >= (0, 14)
    common: dict[str, Any] = {"config_groups": dict(groups), "ignore": ["lm_head"]}
    if algorithm == "rtn":
        return [QuantizationModifier(**common)]
    if algorithm == "gptq":
        if new:
            from llmcompressor.modifiers.gptq import GPTQModifier

            common["batched_quantization"] = "auto"
        else:
            from llmcompressor.modifiers.quantization import GPTQModifier
        return [GPTQModifier(block_size=128, dampening_frac=dampening, actorder="static", **common)]
    if new:
        from llmcompressor.modifiers.transform.awq import AWQMapping, AWQModifier
    else:
        from llmcompressor.modifiers.awq import AWQMapping, AWQModifier
    mappings = [AWQMapping(smooth, balance) for smooth, balance in awq_mappings]
    settings: dict[str, Any] = {
        "mappings": mappings,
        "offload_device": None,
        "duo_scaling": True,
        "n_grid": 20,
    }
    if new:  # scales only; the rounding is another modifier's
        return [AWQModifier(**settings), QuantizationModifier(**common)]
    return [AWQModifier(sequential_targets=None, **settings, **common)]


def oneshot_arguments(samples: int, length: int) -> dict[str, Any]:
    """Every argument of oneshot but model, recipe, dataset and processor; the defaults differ by version.

    samples: calibration samples. length: tokens of the longest.
    """
    arguments: dict[str, Any] = {
        "config_name": None,
        "tokenizer": None,
        "precision": "auto",
        "tie_word_embeddings": True,  # leave tied weights tied
        "trust_remote_code_model": False,
        "save_compressed": True,
        "model_revision": "main",
        "recipe_args": None,
        "clear_sparse_session": False,
        "stage": None,
        "dataset_config_name": None,
        "dataset_path": None,
        "splits": None,
        "batch_size": 1,
        "data_collator": "truncation",
        "num_calibration_samples": samples,
        "shuffle_calibration_samples": False,
        "max_seq_length": length,
        "pad_to_max_length": False,
        "text_column": "text",
        "concatenate_data": False,
        "streaming": False,
        "overwrite_cache": False,
        "preprocessing_num_workers": None,
        "min_tokens_per_module": None,
        "moe_calibrate_all_experts": True,
        "quantization_aware_calibration": True,
        "output_dir": None,
        "log_dir": None,
        "pipeline": "independent",
        "sequential_targets": None,
    }
    if major("llmcompressor") >= (0, 14):
        arguments |= {
            "dataloader_num_workers": 0,
            "sequential_offload_device": "cpu",
            "sequential_prefetch": False,
        }
    else:
        arguments |= {"use_auth_token": False}
    return arguments


@contextlib.contextmanager
def without_pinning() -> Iterator[None]:
    """Let AWQ of llmcompressor 0.14 run on a machine without an accelerator.

    There it pins its cache for copies to the GPU without asking whether there is one
    (https://github.com/vllm-project/llm-compressor/pull/2813), and torch refuses.
    """
    import torch
    from llmcompressor.pipelines.cache import IntermediatesCache

    pin = getattr(IntermediatesCache, "pin_memory", None)
    if pin is None or torch.cuda.is_available():
        yield
        return
    IntermediatesCache.pin_memory = lambda *_, **__: None
    try:
        yield
    finally:
        IntermediatesCache.pin_memory = pin


def gptq_fallbacks(warnings: Iterable[str]) -> int:
    """How many linear layers GPTQ rounded to nearest because their Hessian could not be inverted.

    llmcompressor 0.9 warns for each, 0.14 once with the count; neither tells otherwise.
    """
    count = 0
    for warning in warnings:
        summary = re.search(r"inversion failed for (\d+)/\d+ modules", warning)
        if summary:
            count += int(summary[1])
        elif "Falling back to round-to-nearest for this module" in warning:
            count += 1
    return count


def model_with(folder: Path, weights: Mapping[str, Any]) -> Any:
    """The plain transformers model that a folder's config.json describes, with those weights, on the CPU.

    What config.json says of quantization is left out. weights: name -> tensor, all of one floating dtype,
    which the model takes; a tied head may be absent.
    """
    import transformers
    from transformers import AutoConfig

    from squeeze.decoder import Decoder, read_config

    config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    stored = read_config(folder)
    if major("transformers") < (5, 0) and "rope_parameters" in stored:
        readable = rope_for_4(stored)
        config.rope_theta, config.rope_scaling = readable["rope_theta"], readable["rope_scaling"]
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    dtype = next(iter(weights.values())).dtype
    kind = getattr(transformers, Decoder.read(folder).family.architecture)
    return kind.from_pretrained(None, config=config, state_dict=dict(weights), dtype=dtype).eval()


def unpacked_weight(stored: Mapping[str, Any], arguments: Mapping[str, Any]) -> Any:
    """The weight matrix of a linear layer in the format pack-quantized, in the dtype of its scales.

    stored: weight_packed, weight_scale, weight_shape and, where it is asymmetric, weight_zero_point.
    arguments: the ``weights`` of its config group.
    """
    from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme

    args = QuantizationArgs.model_validate(arguments)
    if major("compressed-tensors") >= (0, 14):
        from compressed_tensors.compressors import BaseCompressor

        compressor = BaseCompressor.get_value_from_registry("pack-quantized")
        scheme = QuantizationScheme(targets=["Linear"], weights=args)
        return compressor.decompress(dict(stored), scheme)["weight"]
    from compressed_tensors.compressors import PackedQuantizationCompressor

    return PackedQuantizationCompressor().decompress_weight(
        compressed_data=dict(stored), quantization_args=args
    )


def varlen_kernel() -> Callable[..., Any] | None:
    """torch's attention of sequences that lie one after another, causal, for 16-bit floats on CUDA.

    Call it with query [tokens, heads, head_dim], key and value likewise with heads or fewer, bounds (int32
    [sequences + 1]), the length of the longest, and the scale. None before torch 2.10, which has none.
    """
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return None
    known = inspect.signature(varlen_attn).parameters
    causal: dict[str, Any] = {"window_size": (-1, 0)} if "window_size" in known else {"is_causal": True}
    grouped = "enable_gqa" in known
    if grouped:
        causal["enable_gqa"] = True

    def attention(query: Any, key: Any, value: Any, bounds: Any, longest: int, scale: float) -> Any:
        if not grouped and key.shape[1] != query.shape[1]:
            repeats = query.shape[1] // key.shape[1]
            key, value = (states.repeat_interleave(repeats, dim=1) for states in (key, value))
        return varlen_attn(query, key, value, bounds, bounds, longest, longest, scale=scale, **causal)

    return attention
