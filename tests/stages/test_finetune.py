"""LoRA fine-tuning: what is learned, what changes, what is written."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from squeeze.config import Calibration, FinetuneConfig, QuantizeConfig, WidthConfig
from squeeze.errors import ConfigError
from squeeze.folder import validate
from squeeze.shards import all_weights
from squeeze.stages import Context, finetune, quantize, width

SHORT: dict[str, Any] = {
    "text": Calibration(samples=96, length=128),
    "batch": 512,
    "steps": 12,
    "warmup": 2,
    "learning_rate": 3e-3,
    "rank": 8,
}
ADAPTED = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def trained(source: Path, out: Path, data: Path, state: Path | None = None, **part: Any) -> dict[str, Any]:
    out.mkdir()
    context = Context(str(data), source, state=state)
    return finetune.run(source, FinetuneConfig(**{**SHORT, **part}), out, context)


def changes(source: Path, out: Path) -> dict[str, Any]:
    """Of each weight that differs: what was added, float32."""
    before, after = all_weights(source), all_weights(out)
    added = {name: after[name].floats() - before[name].floats() for name in before}
    return {name: change for name, change in added.items() if change.any()}


@pytest.fixture(scope="module")
def exact(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model stored in 32 bits, where merging rounds next to nothing away."""
    import torch
    from safetensors.torch import load_file, save_file

    folder = Path(shutil.copytree(tiny, tmp_path_factory.mktemp("exact") / "model"))
    weights = load_file(folder / "model.safetensors")
    exactly = {name: value.to(torch.float32) for name, value in weights.items()}
    save_file(exactly, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    for key in ("dtype", "torch_dtype"):
        if key in config:
            config[key] = "float32"
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_it_learns_and_writes_a_whole_model_like_its_source(
    tiny: Path, talk: Path, tmp_path: Path, logits: Callable[..., Any]
) -> None:
    import torch

    out = tmp_path / "out"
    notes = trained(tiny, out, talk)
    assert notes["validation_last"] < 0.9 * notes["validation_first"]
    assert validate(out) == validate(tiny)
    assert {path.name for path in out.iterdir()} == {path.name for path in tiny.iterdir()}
    for path in tiny.iterdir():
        if path.suffix != ".safetensors" and path.name != "config.json":
            assert (out / path.name).read_bytes() == path.read_bytes()
    assert json.loads((out / "config.json").read_text()) == json.loads((tiny / "config.json").read_text())
    before, after = all_weights(tiny), all_weights(out)
    assert {name: (one.dtype, one.shape) for name, one in before.items()} == {
        name: (one.dtype, one.shape) for name, one in after.items()
    }
    answers = logits(out)
    assert torch.isfinite(answers).all()
    assert not torch.equal(answers, logits(tiny))


def test_every_linear_layer_of_the_decoder_changes_and_nothing_else(
    tiny: Path, talk: Path, tmp_path: Path
) -> None:
    notes = trained(tiny, tmp_path / "out", talk)
    changed = set(changes(tiny, tmp_path / "out"))
    linear = {name for name in all_weights(tiny) if name.split(".")[-2] in ADAPTED}
    assert changed == linear
    assert notes["adapters"] == len(linear) == 4 * 7


@pytest.mark.parametrize("rank", [2, 5])
def test_what_is_added_to_a_weight_has_the_rank_asked_for(
    rank: int, exact: Path, talk: Path, tmp_path: Path
) -> None:
    import numpy as np

    notes = trained(exact, tmp_path / "out", talk, rank=rank, learning_rate=1e-2)
    assert notes["rank"] == rank
    assert notes["parameters"] == sum(
        rank * sum(weight.shape)
        for name, weight in all_weights(exact).items()
        if name.split(".")[-2] in ADAPTED
    )
    for change in changes(exact, tmp_path / "out").values():
        sizes = np.linalg.svd(change, compute_uv=False)
        assert sizes[rank - 1] > 1e-2 * sizes[0]
        assert sizes[rank] < 1e-4 * sizes[0]


def test_alpha_scales_what_is_added_and_is_twice_the_rank_unless_given(
    exact: Path, talk: Path, tmp_path: Path
) -> None:
    import numpy as np

    size = {}
    for name, alpha in (("default", None), ("twice", 16.0), ("small", 0.16)):
        notes = trained(exact, tmp_path / name, talk, alpha=alpha, steps=4)
        assert notes["alpha"] == (alpha or 16.0)
        added = changes(exact, tmp_path / name)
        size[name] = sum(float(np.square(change).sum()) for change in added.values()) ** 0.5
    assert size["default"] == size["twice"]
    # AdamW's steps do not depend on the size of gradients, so what is added goes with alpha.
    assert size["small"] == pytest.approx(size["twice"] / 100, rel=0.5)


def test_a_longer_training_goes_on_from_a_shorter_one_to_the_same_weights(
    tiny: Path, talk: Path, tmp_path: Path
) -> None:
    trained(tiny, tmp_path / "short", talk, tmp_path / "state", steps=4)
    assert trained(tiny, tmp_path / "long", talk, tmp_path / "state", steps=8)["resumed_from"] == 3
    assert trained(tiny, tmp_path / "alone", talk, steps=8)["resumed_from"] is None
    one, other = (tmp_path / name / "model.safetensors" for name in ("long", "alone"))
    assert one.read_bytes() == other.read_bytes()


def test_trainings_of_different_ranks_do_not_share_state(tiny: Path, talk: Path, tmp_path: Path) -> None:
    trained(tiny, tmp_path / "one", talk, tmp_path / "state", rank=2, steps=4)
    assert trained(tiny, tmp_path / "two", talk, tmp_path / "state", rank=4, steps=4)["resumed_from"] is None


def test_a_pruned_model_can_be_trained_and_then_quantized(
    tiny: Path, talk: Path, tmp_path: Path, logits: Callable[..., Any]
) -> None:
    import torch

    context = Context(str(talk), tiny)
    for name in ("narrow", "rounded"):
        (tmp_path / name).mkdir()
    width.run(tiny, WidthConfig(width=256, method="magnitude"), tmp_path / "narrow", context)
    notes = trained(tmp_path / "narrow", tmp_path / "trained", talk)
    assert notes["validation_last"] < notes["validation_first"]
    quantize.run(tmp_path / "trained", QuantizeConfig(scheme="W8A8"), tmp_path / "rounded", context)
    assert validate(tmp_path / "rounded").width == 256
    near = torch.nn.functional.cosine_similarity(
        logits(tmp_path / "rounded"), logits(tmp_path / "trained"), dim=-1
    )
    assert float(near.mean()) > 0.99


def test_a_quantized_model_is_refused(tiny: Path, talk: Path, tmp_path: Path) -> None:
    (tmp_path / "rounded").mkdir()
    quantize.run(tiny, QuantizeConfig(scheme="W8A8"), tmp_path / "rounded", Context(str(talk), tiny))
    with pytest.raises(ConfigError, match="must not be quantized yet"):
        trained(tmp_path / "rounded", tmp_path / "out", talk)
