"""Distillation: the student comes nearer to its teacher, and its folder stays what it was."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from squeeze.config import Calibration, CompressionConfig, DepthConfig, DistillConfig, QuantizeConfig
from squeeze.decoder import read_config
from squeeze.errors import ConfigError
from squeeze.folder import Manifest, validate, write_manifest
from squeeze.shards import all_weights
from squeeze.stages import Context, depth, distill

TEXT = Calibration(samples=48, length=128)


@pytest.fixture(scope="module")
def pruned(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model with three of its four layers, and a manifest that tells which."""
    out = tmp_path_factory.mktemp("pruned") / "model"
    out.mkdir()
    notes = depth.run(
        tiny, DepthConfig(layers=3, method="explicit", drop=(1,)), out, Context("nowhere", tiny)
    )
    manifest = Manifest(
        files={}, config=CompressionConfig(), base="", data="", versions={}, notes={"depth": notes}
    )
    write_manifest(out, manifest)
    return out


@pytest.fixture(autouse=True)
def one_core(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def teach(
    source: Path, base: Path, talk: Path, out: Path, shared: Path | None = None, **changes: Any
) -> dict[str, Any]:
    settings: dict[str, Any] = {"text": TEXT, "steps": 12, "batch": 512, "warmup": 2, "validate_every": 6}
    out.mkdir()
    part = DistillConfig(**{**settings, **changes})
    return distill.run(source, part, out, Context(str(talk), base, shared=shared))


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"divergence": "js", "temperature": 2.0, "hidden": 0.5},
        {"divergence": "reverse", "gradient_checkpointing": True},
        {"teacher": "sampled", "draws": 32},
    ],
)
def test_the_student_comes_nearer_to_the_teacher(
    changes: dict[str, Any], pruned: Path, tiny: Path, talk: Path, tmp_path: Path, logits: Callable[..., Any]
) -> None:
    notes = teach(pruned, tiny, talk, tmp_path / "out", **changes)
    validate(tmp_path / "out")
    goal = logits(tiny).log_softmax(-1)

    def distance(model: Path) -> float:
        return float((goal.exp() * (goal - logits(model).log_softmax(-1))).sum(-1).mean())

    assert distance(tmp_path / "out") < 0.8 * distance(pruned)
    assert notes["validation_last"] < notes["validation_first"]
    assert notes["steps"] == 12
    assert notes["conversations"] == 48


def test_the_folder_keeps_its_config_and_the_dtype_and_names_of_its_weights(
    pruned: Path, tiny: Path, talk: Path, tmp_path: Path
) -> None:
    teach(pruned, tiny, talk, tmp_path / "out", steps=2)
    assert read_config(tmp_path / "out") == read_config(pruned)
    before, after = all_weights(pruned), all_weights(tmp_path / "out")
    assert {name: (one.dtype, one.shape) for name, one in before.items()} == {
        name: (one.dtype, one.shape) for name, one in after.items()
    }
    assert "lm_head.weight" not in after
    assert any((before[name].raw() != after[name].raw()).any() for name in before)
    for path in pruned.iterdir():
        if path.name not in ("model.safetensors", "manifest.json"):
            assert (tmp_path / "out" / path.name).read_bytes() == path.read_bytes()


def test_the_teacher_is_asked_once_for_many_trainings(
    pruned: Path, tiny: Path, talk: Path, tmp_path: Path
) -> None:
    settings = {"shared": tmp_path / "shared", "teacher": "top", "steps": 2}
    assert teach(pruned, tiny, talk, tmp_path / "one", **settings)["teacher"] == "made"
    assert teach(pruned, tiny, talk, tmp_path / "two", **settings)["teacher"] == "found"
    one, two = all_weights(tmp_path / "one"), all_weights(tmp_path / "two")
    assert all((one[name].raw() == two[name].raw()).all() for name in one)


def test_the_layers_that_were_kept_are_told_by_the_manifest(pruned: Path, tiny: Path) -> None:
    assert distill.kept_layers(pruned, validate(pruned), validate(tiny)) == [0, 2, 3]


def test_hidden_states_without_a_manifest_are_refused(
    pruned: Path, tiny: Path, talk: Path, tmp_path: Path
) -> None:
    import shutil

    bare = Path(shutil.copytree(pruned, tmp_path / "bare"))
    (bare / "manifest.json").unlink()
    with pytest.raises(ConfigError, match="no manifest"):
        teach(bare, tiny, talk, tmp_path / "out", hidden=1.0)


def test_hidden_states_with_a_manifest_that_does_not_fit_are_refused(
    pruned: Path, tiny: Path, talk: Path, tmp_path: Path
) -> None:
    import shutil

    odd = Path(shutil.copytree(pruned, tmp_path / "odd"))
    manifest = Manifest(
        files={},
        config=CompressionConfig(),
        base="",
        data="",
        versions={},
        notes={"depth": {"dropped": [1, 2]}},
    )
    write_manifest(odd, manifest)
    with pytest.raises(ConfigError, match="3 layers"):
        teach(odd, tiny, talk, tmp_path / "out", hidden=1.0)


def test_a_quantized_student_is_refused(tiny: Path, talk: Path, tmp_path: Path) -> None:
    from squeeze.stages import quantize

    (tmp_path / "w8a8").mkdir()
    quantize.run(tiny, QuantizeConfig(scheme="W8A8"), tmp_path / "w8a8", Context(str(talk), tiny))
    with pytest.raises(ConfigError, match="plain weights"):
        teach(tmp_path / "w8a8", tiny, talk, tmp_path / "out")
