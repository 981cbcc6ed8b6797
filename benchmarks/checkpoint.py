"""How long a training waits for a checkpoint: written by a thread while it goes on, or before it goes on.

Example: ``python benchmarks/checkpoint.py --gib 2`` (``--device cuda --gib 15`` is what the 1.2B shape keeps)

Steps that multiply matrices stand for the training's. In turn, a checkpoint of so many GiB is asked for of
``squeeze.training.trunk.Checkpoints``: aside, as a training on a GPU does it, and in the training's own
thread, as one on a CPU does. The last line on stdout is JSON, for each way: blocked_s (until the next step
may begin), written_s (until it is on the disk), lost_s (the time until it is on the disk, less what the steps
made meanwhile take undisturbed), of each repeat, the first of which fills new memory; ratio_of_lost (of the
medians); step_ms (undisturbed), gib, device, torch, cores and date. Every checkpoint is read back and must
have the values that were asked for, which the steps change meanwhile.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median

import torch  # noqa: TID253  it is what is measured

from squeeze.training import checkpoint
from squeeze.training.trunk import Checkpoints

ASIDE, BEFORE = "a thread of its own", "the training's thread"
ENDS = (slice(1024), slice(-1024, None))
"""What the steps change of each tensor."""

FACTS = {"kind": "branch", "planned": 1, "step": 0}


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--gib", type=float, default=2.0)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--folder", type=Path, help="where to write (default: a new one under the system's)")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="checkpoint-", dir=options.folder))
    try:
        print(json.dumps(measured(folder, options.gib, options.device, options.repeats)))
    finally:
        shutil.rmtree(folder)


def measured(folder: Path, gib: float, device: str, repeats: int) -> dict[str, object]:
    """The figures; see the module's docstring."""
    count = max(1, round(gib * 8))
    tensors = {f"t{place}": torch.randn(1 << 25, device=device) for place in range(count)}  # 128 MiB each
    step = stepper(device, [value[place] for value in tensors.values() for place in ENDS])
    alone = median(timed(step) for _ in range(20))
    ways = {
        ASIDE: Checkpoints(folder / "aside", aside=True),
        BEFORE: Checkpoints(folder / "before"),
    }
    found: dict[str, list[dict[str, float]]] = {way: [] for way in ways}
    for way, kept in list(ways.items()) * repeats:
        asked = ends(tensors)
        began = time.perf_counter()
        kept.save(tensors, FACTS)
        blocked = time.perf_counter() - began
        steps = 0
        while kept.busy:
            step()
            steps += 1
        written = time.perf_counter() - began
        kept.settle()
        saved = checkpoint.read(next(kept.folder.glob("branch-*")))
        if saved is None or ends(saved.tensors) != asked:
            raise SystemExit("the checkpoint does not have the values that were asked for")
        found[way].append(
            {
                "blocked_s": round(blocked, 3),
                "written_s": round(written, 3),
                "lost_s": round(written - steps * alone, 3),
            }
        )
    for kept in ways.values():
        kept.close()
    lost = {way: median(one["lost_s"] for one in runs) for way, runs in found.items()}
    return {
        **found,
        "ratio_of_lost": round(lost[ASIDE] / lost[BEFORE], 3),
        "step_ms": round(1000 * alone, 2),
        "gib": count / 8,
        "device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
        "torch": torch.__version__,
        "cores": os.cpu_count(),
        "date": time.strftime("%Y-%m-%d"),
    }


def ends(tensors: Mapping[str, torch.Tensor]) -> dict[str, list[list[float]]]:
    """The values of each tensor that the steps change."""
    return {name: [value[place].tolist() for place in ENDS] for name, value in tensors.items()}


def stepper(device: str, changed: Sequence[torch.Tensor]) -> Callable[[], None]:
    """A step that keeps the device busy: on a CPU one core, so that the thread has another.

    changed: what it adds 1 to.
    """
    size = 8192 if device == "cuda" else 512
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    one = torch.randn(size, size, device=device, dtype=dtype)
    if device == "cpu":
        torch.set_num_threads(1)

    def step() -> None:
        for _ in range(20):
            torch.mm(one, one)
        for value in changed:
            value += 1
        if device == "cuda":
            torch.cuda.synchronize()

    return step


def timed(step: Callable[[], None]) -> float:
    """Seconds of a step."""
    began = time.perf_counter()
    step()
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
