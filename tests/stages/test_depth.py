"""Layer drop: the model is the same model without those layers."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from squeeze.config import DepthConfig
from squeeze.errors import ConfigError
from squeeze.folder import validate
from squeeze.shards import INDEX, SINGLE, all_weights
from squeeze.stages import Context, depth


def drop(source: Path, out: Path, data: Path | str = "nowhere", **part: Any) -> dict[str, Any]:
    out.mkdir()
    return depth.run(source, DepthConfig(**part), out, Context(str(data), source))


@pytest.mark.parametrize("layer", [1, 2])
def test_dropping_a_layer_gives_the_logits_of_the_model_without_it(
    layer: int, tiny: Path, tmp_path: Path, logits: Callable[..., Any]
) -> None:
    from squeeze.versions import load_model

    notes = drop(tiny, tmp_path / "out", layers=3, method="explicit", drop=[layer])
    reference = load_model(tiny, "cpu")
    del reference.model.layers[layer]
    assert notes == {"dropped": [layer]}
    assert (logits(tmp_path / "out") == logits(reference)).all()


def test_dropping_nothing_changes_no_weight(tiny: Path, tmp_path: Path) -> None:
    notes = drop(tiny, tmp_path / "out", layers=4)
    before, after = all_weights(tiny), all_weights(tmp_path / "out")
    assert notes == {"dropped": []}
    assert set(before) == set(after)
    assert all((before[name].raw() == after[name].raw()).all() for name in before)


def test_the_folder_is_whole_and_renumbered(tiny: Path, tmp_path: Path) -> None:
    drop(tiny, tmp_path / "out", layers=2, method="uniform")
    assert validate(tmp_path / "out").layers == 2
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert (config["num_hidden_layers"], config["layer_types"]) == (2, ["full_attention"] * 2)
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {path.name for path in tiny.iterdir()}


def test_a_layer_that_does_nothing_has_no_influence_and_goes_first(
    copied: Path, talk: Path, tmp_path: Path, logits: Callable[..., Any]
) -> None:
    from safetensors.torch import load_file, save_file

    weights = load_file(copied / SINGLE)
    for norm in ("post_attention_layernorm", "post_feedforward_layernorm"):
        weights[f"model.layers.2.{norm}.weight"].zero_()
    save_file(weights, copied / SINGLE, {"format": "pt"})
    notes = drop(copied, tmp_path / "out", talk, layers=3, method="influence")
    assert notes["dropped"] == [2]
    assert notes["influence"][2] == pytest.approx(0, abs=1e-6)
    assert min(notes["influence"][:2]) > 0.01
    assert (logits(tmp_path / "out") == logits(copied)).all()


def test_a_sharded_model_stays_sharded(tiny: Path, tmp_path: Path, logits: Callable[..., Any]) -> None:
    from squeeze.versions import load_model

    sharded = tmp_path / "sharded"
    load_model(tiny, "cpu").save_pretrained(sharded, max_shard_size="2MB")
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        (sharded / name).write_bytes((tiny / name).read_bytes())
    drop(sharded, tmp_path / "out", layers=2, method="top")
    drop(tiny, tmp_path / "single", layers=2, method="top")
    validate(tmp_path / "out")
    assert (tmp_path / "out" / INDEX).is_file()
    assert (logits(tmp_path / "out") == logits(tmp_path / "single")).all()


@pytest.mark.parametrize(
    ("part", "dropped"),
    [
        ({"layers": 28, "method": "uniform"}, [8, 22]),
        ({"layers": 15, "method": "uniform"}, list(range(1, 29, 2))[:0]),
        ({"layers": 27, "method": "top"}, [26, 27, 28]),
        ({"layers": 27, "method": "top", "keep_ends": False}, [27, 28, 29]),
        ({"layers": 27, "method": "influence"}, [1, 2, 3]),
        ({"layers": 27, "method": "influence", "keep_ends": False}, [0, 1, 2]),
        ({"layers": 28, "method": "explicit", "drop": [9, 4]}, [4, 9]),
        ({"layers": 30, "method": "top"}, []),
        ({"layers": 2, "method": "uniform"}, list(range(1, 29))),
    ],
)
def test_each_method_drops_what_it_says(part: dict[str, Any], dropped: list[int]) -> None:
    chosen = depth.choose(DepthConfig(**part), 30, influence=[layer / 30 for layer in range(30)])
    assert len(chosen) == 30 - part["layers"]
    assert len(set(chosen)) == len(chosen)
    if dropped or part["layers"] == 30:
        assert chosen == dropped


def test_a_drop_that_cannot_be_is_refused(tiny: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="at most the base's 4"):
        drop(tiny, tmp_path / "out", layers=5)
