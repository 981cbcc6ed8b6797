"""Feed-forward width: important neurons stay, each with its row of gate and up and its column of down."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from squeeze.config import WidthConfig
from squeeze.folder import validate
from squeeze.shards import SINGLE, all_weights
from squeeze.stages import Context, width

METHODS = ["activation", "magnitude"]


def narrow(source: Path, out: Path, data: Path, **part: Any) -> dict[str, Any]:
    out.mkdir()
    return width.run(source, WidthConfig(**part), out, Context(str(data), source))


@pytest.mark.parametrize("method", METHODS)
def test_keeping_all_changes_no_weight(method: str, tiny: Path, talk: Path, tmp_path: Path) -> None:
    narrow(tiny, tmp_path / "out", talk, width=512, method=method)
    before, after = all_weights(tiny), all_weights(tmp_path / "out")
    assert set(before) == set(after)
    assert all((before[name].raw() == after[name].raw()).all() for name in before)


@pytest.mark.parametrize("method", METHODS)
def test_dead_neurons_go_first_and_the_function_stays(
    method: str, copied: Path, talk: Path, tmp_path: Path, logits: Callable[..., Any]
) -> None:
    from safetensors.torch import load_file, save_file

    weights = load_file(copied / SINGLE)
    dead = [np.random.default_rng(layer).permutation(512)[:256] for layer in range(4)]
    for layer in range(4):
        weights[f"model.layers.{layer}.mlp.up_proj.weight"][dead[layer]] = 0
    save_file(weights, copied / SINGLE, {"format": "pt"})
    notes = narrow(copied, tmp_path / "out", talk, width=256, method=method)
    assert notes == {"dropped": 256, "lost": [0.0] * 4}
    assert validate(tmp_path / "out").width == 256
    gate = "model.layers.1.mlp.gate_proj.weight"
    alive = np.setdiff1d(np.arange(512), dead[1])
    kept = all_weights(tmp_path / "out")[gate].raw()
    assert (kept == all_weights(copied)[gate].raw()[alive]).all()
    # The sums run over the same numbers in another order.
    assert np.allclose(logits(tmp_path / "out"), logits(copied), atol=0.05)


@pytest.mark.parametrize("method", METHODS)
def test_the_most_important_neurons_stay(method: str, tiny: Path, talk: Path, tmp_path: Path) -> None:
    from squeeze.decoder import Decoder

    part = WidthConfig(width=128, method=method)
    scores = width.importance(tiny, Decoder.read(tiny), part, Context(str(talk), tiny))
    notes = narrow(tiny, tmp_path / "out", talk, width=128, method=method)
    down = "model.layers.3.mlp.down_proj.weight"
    best = np.sort(np.argsort(-scores[3])[:128])
    assert (all_weights(tmp_path / "out")[down].raw() == all_weights(tiny)[down].raw()[:, best]).all()
    assert all(0 < lost < 0.75 for lost in notes["lost"])


def test_activation_is_what_the_down_projection_sees(tiny: Path, talk: Path) -> None:
    import torch

    from squeeze.config import Calibration
    from squeeze.data.chat import calibration_tokens
    from squeeze.stages.statistics import mean_activation
    from squeeze.versions import load_model

    samples = calibration_tokens(tiny, Calibration(samples=1), str(talk))
    found = mean_activation(tiny, samples)[0]
    model = load_model(tiny, "cpu")
    layer = model.model.layers[0]
    seen = []
    layer.mlp.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    with torch.inference_mode():
        model(input_ids=torch.tensor(samples))
        fired = layer.mlp.act_fn(layer.mlp.gate_proj(seen[0])) * layer.mlp.up_proj(seen[0])
    assert np.allclose(found, fired[0].float().abs().mean(0), rtol=1e-3)
