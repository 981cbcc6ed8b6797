"""Faults from outside: with this folder on PYTHONPATH, engines and builds of chosen trials misbehave.

CHAOS_FAULTS is JSON: the trial's number -> hang, exit, orphan, empty or flip. Python imports this module when
it starts; it changes two classes of the program as they are imported. The program itself knows nothing of it.
"""

from __future__ import annotations

import importlib.machinery
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

FAULTS = {
    f"{int(number):04d}": fault for number, fault in json.loads(os.environ.get("CHAOS_FAULTS", "{}")).items()
}


def spoil_engine(module: Any) -> None:
    """Engines of chosen trials fail when they are asked."""
    inner = module.Engine.__call__

    def call(self: Any, request: Any, tell: Any) -> Any:
        fault = FAULTS.get(Path(os.path.realpath(self._model)).name)
        if isinstance(request, module.Generate):
            if fault == "hang":
                time.sleep(10_000)
            if fault == "exit":
                os._exit(137)
            if fault == "orphan":
                orphan = subprocess.Popen(["sleep", "10000"], start_new_session=True)
                Path("orphan.pid").write_text(str(orphan.pid))
                os._exit(3)
        result = inner(self, request, tell)
        if fault == "empty" and isinstance(request, module.Generate):
            questions, timing = result
            return [one.model_copy(update={"answers": ("",) * len(one.answers)}) for one in questions], timing
        return result

    module.Engine.__call__ = call


def spoil_builder(module: Any) -> None:
    """What is built for chosen trials has a flipped byte afterwards."""
    inner = module.Builder.__call__

    def call(self: Any, request: Any, tell: Any) -> Any:
        made = inner(self, request, tell)
        if FAULTS.get(Path(request["out"]).name) == "flip":
            flip(Path(request["out"]) / "model.safetensors")
        return made

    module.Builder.__call__ = call


def flip(weights: Path) -> None:
    """Another last byte; the file gets its own copy first, because it may be linked to the cache's."""
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.unlink()
    weights.write_bytes(content)


class Finder:
    """Finds the two modules as usual, and spoils them once they are loaded."""

    spoilers = {"squeeze.bench.engine": spoil_engine, "squeeze.pipeline": spoil_builder}  # noqa: RUF012

    @classmethod
    def find_spec(cls, name: str, path: Any = None, target: Any = None) -> Any:
        if name not in cls.spoilers:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        assert spec is not None and spec.loader is not None
        load = spec.loader.exec_module

        def exec_module(module: Any) -> None:
            load(module)
            cls.spoilers[name](module)

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


if FAULTS:
    sys.meta_path.insert(0, Finder)  # type: ignore[arg-type]
