"""Proof that an exported, pruned BF16 model answers the same with the contest's versions.

Builds a pruned model from the embedded one, writes and checks submit.zip, unpacks it, and has both stacks
answer the same 20 chats greedily in vLLM, in two ways:

- in float32, where every answer must be identical, and transformers' logits must agree: what the files mean;
- in bfloat16, as the server runs it, where an answer may part only at a tie: two tokens that one of the
  stacks has no more than one step of bfloat16 apart, which another kernel may order the other way.

Quantized exports are read by transformers with both versions of compressed-tensors; the CPU engine of the
contest's version runs none.

    python tests/competition/proof.py --peer .venv-competition/bin/python
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

from squeeze.bench import tasks
from squeeze.config import Calibration, CompressionConfig, DepthConfig, QuantizeConfig, WidthConfig
from squeeze.data.sets import load_rows
from squeeze.decoder import Decoder
from squeeze.demo import DATA_DIR, MODEL_DIR
from squeeze.pipeline import build
from squeeze.submit import export

ASKED = {"kmmlu_redux": 8, "kmmlu_pro": 4, "ko_longrag": 4, "komt_bench": 4}
LOGIT_TOLERANCE = 1e-4  # of logits around 10, in float32; a misread RoPE moves them by more than 1
TIE = 0.125  # one step of bfloat16 (8 bits) at logits from 16 to 32
# W4A16_ASYM is left out: transformers with compressed-tensors 0.13 does not find its zero points (vLLM does).
QUANTIZED = (
    QuantizeConfig(scheme="W8A8", algorithm="gptq", calibration=Calibration(samples=8, length=256)),
    QuantizeConfig(scheme="W4A16", algorithm="gptq", calibration=Calibration(samples=8, length=256)),
    QuantizeConfig(scheme="FP8_DYNAMIC"),
)


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--peer", type=Path, required=True, help="the Python of the other stack")
    arguments = options.parse_args()
    with tempfile.TemporaryDirectory(prefix="squeeze-proof-") as name:
        outcome = prove(Path(name), arguments.peer)
    print(json.dumps(outcome, ensure_ascii=False))
    return 0 if outcome["same"] else 1


def prove(place: Path, peer: Path) -> dict[str, Any]:
    """The figures of the proof; ``same`` when it holds."""
    model = pruned(place)
    exact = compare(*both(model, place, peer, "float32"))
    served = compare(*both(model, place, peer, "bfloat16"))
    exact_holds = exact["identical"] == exact["chats"] and exact["logit_distance"] < LOGIT_TOLERANCE
    served_holds = all(tie["gap"] <= TIE for tie in served["differ"])
    quantized = {part.scheme: read_quantized(part, place, peer) for part in QUANTIZED}
    same = exact_holds and served_holds and exact["same_reading"] and served["same_reading"]
    same = same and all(distance < LOGIT_TOLERANCE for distance in quantized.values())
    return {"same": same, "quantized": quantized, "float32": exact, "bfloat16": served}


def read_quantized(part: QuantizeConfig, place: Path, peer: Path) -> float:
    """The largest distance between the logits of the two stacks for a quantized export."""
    model = exported(CompressionConfig(quantize=part), place)
    return float(compare(*both(model, place, peer, "none"))["logit_distance"])


def pruned(place: Path) -> Path:
    """The model folder of an exported zip: a layer less, a narrower feed-forward, BF16."""
    base = Decoder.read(MODEL_DIR)
    config = CompressionConfig(
        depth=DepthConfig(layers=base.layers - max(1, base.layers // 8), method="influence"),
        width=WidthConfig(width=base.width * 7 // 8 // 128 * 128, method="activation"),
    )
    return exported(config, place)


def exported(config: CompressionConfig, place: Path) -> Path:
    """The model folder of the zip of a configuration of the embedded model, unpacked below ``place``."""
    artifact = build(config, MODEL_DIR, place / f"built-{config.key}", str(DATA_DIR))
    path = export(artifact.path, place / f"{config.key}.zip")
    with zipfile.ZipFile(path) as archive:
        archive.extractall(place / config.key)
    return place / config.key / "model"


def both(model: Path, place: Path, peer: Path, dtype: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """What this Python's stack and the peer's make of the model."""
    chats = [
        tasks.load(name).messages(row, ())
        for name, count in ASKED.items()
        for row in load_rows(name, str(DATA_DIR), count)
    ]
    (place / "chats.json").write_text(json.dumps(chats, ensure_ascii=False), encoding="utf-8")
    script = Path(__file__).with_name("answers.py")
    found = []
    for number, python in enumerate((Path(sys.executable), peer.absolute())):
        out = place / f"answers{number}.json"
        command = [str(python), str(script), str(model), str(place / "chats.json"), str(out), dtype]
        run = subprocess.run(command, cwd=place, capture_output=True, text=True, timeout=600, check=False)
        if run.returncode:
            raise SystemExit(
                f"{python} failed ({run.returncode}):\n{run.stdout[-2000:]}\n{run.stderr[-4000:]}"
            )
        found.append(json.loads(out.read_text(encoding="utf-8")))
    return found[0], found[1]


def compare(ours: dict[str, Any], peers: dict[str, Any]) -> dict[str, Any]:
    """The two stacks side by side; ``differ`` lists the first token at which answers part."""
    pairs = zip(ours["logits"], peers["logits"], strict=True)
    distances = [abs(a - b) for mine, other in pairs for a, b in zip(mine, other, strict=True)]
    parted = []
    for index, (mine, other) in enumerate(zip(ours["tokens"], peers["tokens"], strict=True)):
        steps = enumerate(zip(mine, other, strict=False))
        first = next((step for step, (a, b) in steps if a != b), None)
        if first is not None:
            gaps = [found["gaps"][index][first] for found in (ours, peers)]
            parted.append({"chat": index, "token": first, "gap": min(gaps), "gaps": gaps})
    same_texts = [mine == other for mine, other in zip(ours["texts"], peers["texts"], strict=True)]
    return {
        "chats": len(same_texts),
        "identical": sum(same_texts),
        "differ": parted,
        "empty": sum(not text.strip() for text in ours["texts"]),
        "logit_distance": max(distances, default=0.0),
        "same_reading": ours["prompts"] == peers["prompts"] and ours["rope"] == peers["rope"],
        "config": ours["rope"],
        "example": ours["texts"][:1],
        "versions": [ours["versions"], peers["versions"]],
        "seconds": [ours["seconds"], peers["seconds"]],
    }


if __name__ == "__main__":
    sys.exit(main())
