"""Builds: from a base and a configuration to a whole folder, or to nothing and one clear error."""

from __future__ import annotations

import errno
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from squeeze import shards
from squeeze.child import Child
from squeeze.config import CompressionConfig
from squeeze.errors import CandidateError, ConfigError
from squeeze.folder import content_key, read_manifest, validate, verify_manifest
from squeeze.keys import stage_keys
from squeeze.pipeline import build, build_in_child
from squeeze.stages import width
from squeeze.versions import installed

ALL_STAGES = {
    "depth": {"layers": 3, "method": "uniform"},
    "width": {"width": 256, "method": "magnitude"},
    "quantize": {"scheme": "W8A8"},
}


def config(**parts: Any) -> CompressionConfig:
    return CompressionConfig.model_validate(parts)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_all_stages_in_order_make_one_whole_folder(tiny: Path, talk: Path, tmp_path: Path) -> None:
    heard: list[Any] = []
    out = tmp_path / "out"
    artifact = build(config(**ALL_STAGES), tiny, out, str(talk), heard.append)
    assert heard == [{"stage": "depth"}, {"stage": "width"}, {"stage": "quantize"}]
    assert names(tmp_path) == ["out"]
    decoder = validate(out)
    assert (decoder.layers, decoder.width, decoder.quantization) == (3, 256, "compressed-tensors")
    assert (artifact.layers, artifact.width, artifact.path) == (3, 256, out)
    assert artifact.key == content_key(out) != content_key(tiny)
    assert set(artifact.seconds) == set(artifact.notes) == {"depth", "width", "quantize"}
    assert artifact.size_bytes < sum(path.stat().st_size for path in tiny.iterdir())

    manifest = verify_manifest(out)
    assert manifest.config == config(**ALL_STAGES)
    assert manifest.base == content_key(tiny)
    assert manifest.versions == installed()
    assert manifest.notes["depth"] == {"dropped": [2]}
    assert set(manifest.files) == {*names(tiny)}


def test_the_same_configuration_gives_the_same_key(tiny: Path, talk: Path, tmp_path: Path) -> None:
    wanted = config(depth={"layers": 2, "method": "influence"}, width={"width": 128})
    one, two = (build(wanted, tiny, tmp_path / name, str(talk)) for name in ("one", "two"))
    assert one.key == two.key


def test_no_stage_gives_a_copy_that_costs_no_room(tiny: Path, tmp_path: Path) -> None:
    artifact = build(CompressionConfig(), tiny, tmp_path / "out", "nowhere")
    assert artifact.key == content_key(tiny)
    assert (tmp_path / "out" / "model.safetensors").samefile(tiny / "model.safetensors")
    verify_manifest(tmp_path / "out")


def test_the_base_is_never_changed(copied: Path, talk: Path, tmp_path: Path) -> None:
    before = {path.name: path.read_bytes() for path in copied.iterdir()}
    build(config(**ALL_STAGES), copied, tmp_path / "out", str(talk))
    build(CompressionConfig(), copied, tmp_path / "same", str(talk))
    shutil.rmtree(tmp_path / "same")
    assert {path.name: path.read_bytes() for path in copied.iterdir()} == before


@pytest.mark.parametrize(
    ("wanted", "words"),
    [
        ({"depth": {"layers": 5}}, "at most the base's 4"),
        ({"width": {"width": 640}}, "at most the base's 512"),
        ({"depth": {"layers": 3, "calibration": {"source": "/none.jsonl"}}}, "is no file"),
    ],
)
def test_what_cannot_be_built_is_said_before_anything_is_written(
    wanted: dict[str, Any], words: str, tiny: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=words):
        build(config(**wanted), tiny, tmp_path / "out", "nowhere")
    assert names(tmp_path) == []


def test_an_existing_folder_is_kept(tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "precious").touch()
    with pytest.raises(ConfigError, match="exists"):
        build(CompressionConfig(), tiny, tmp_path / "out", "nowhere")
    assert names(tmp_path / "out") == ["precious"]


def test_a_full_disk_is_told_as_such_and_leaves_nothing(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = shards._write

    def full(path: Path, outputs: Any) -> None:
        write(path, outputs[:3])
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(shards, "_write", full)
    with pytest.raises(CandidateError, match="disk is full") as caught:
        build(config(**ALL_STAGES), tiny, tmp_path / "out", "nowhere")
    assert (caught.value.stage, caught.value.kind) == ("depth", "disk")
    assert names(tmp_path) == []


def test_a_stage_that_fails_leaves_nothing_of_the_stages_before(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> None:
        raise RuntimeError("went\nwrong")

    monkeypatch.setattr(width, "run", broken)
    with pytest.raises(CandidateError, match="RuntimeError: went wrong") as caught:
        build(config(**ALL_STAGES), tiny, tmp_path / "out", "nowhere")
    assert (caught.value.stage, caught.value.kind) == ("width", "build")
    assert names(tmp_path) == []


def test_a_folder_that_was_half_written_is_no_model(tiny: Path, tmp_path: Path) -> None:
    build(CompressionConfig(), tiny, tmp_path / "out", "nowhere")
    (tmp_path / "out" / "manifest.json").unlink()
    with pytest.raises(ConfigError, match="must have a manifest"):
        read_manifest(tmp_path / "out")


def test_a_child_builds_what_this_process_builds(tiny: Path, talk: Path, tmp_path: Path) -> None:
    heard: list[Any] = []
    artifact = build_in_child(
        config(**ALL_STAGES),
        tiny,
        tmp_path / "child",
        str(talk),
        log=tmp_path / "log",
        deadline_s=300,
        tell=heard.append,
    )
    here = build(config(**ALL_STAGES), tiny, tmp_path / "here", str(talk))
    assert artifact.key == here.key
    assert [event["stage"] for event in heard] == ["depth", "width", "quantize"]


def test_a_child_that_is_killed_leaves_nothing(tiny: Path, talk: Path, tmp_path: Path) -> None:
    out = tmp_path / "models" / "out"
    slow = {"scheme": "W4A16", "algorithm": "gptq", "calibration": {"samples": 96}}

    def die(event: Any) -> None:
        if event["stage"] == "quantize":
            assert any(name.startswith(".out.stages.partial-") for name in names(out.parent))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_in_child(
            config(depth=ALL_STAGES["depth"], quantize=slow),
            tiny,
            out,
            str(talk),
            log=tmp_path / "log",
            deadline_s=300,
            tell=die,
        )
    assert names(out.parent) == []


def test_a_stage_that_passes_its_limit_is_tried_once_more_with_twice_as_much(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[dict[str, float]] = []
    heard: list[Any] = []

    def late(self: Child, request: Any, **options: Any) -> Any:
        given.append({"": options["deadline_s"], **options["limits"]})
        if len(given) <= slow:
            raise CandidateError("no answer within", stage="depth", kind="timeout")
        return build(config(**request["config"]), tiny, Path(request["out"]), "nowhere").model_dump()

    monkeypatch.setattr(Child, "call", late)

    def built(out: str) -> Any:
        return build_in_child(
            config(depth=ALL_STAGES["depth"]), tiny, tmp_path / out, "nowhere",
            log=tmp_path / "log", deadline_s=100, tell=heard.append, limits=limits,
        )  # fmt: skip

    limits, slow = {"depth": 40.0, "width": 7.0}, 1
    assert built("one").layers == 3
    assert given == [{"": 100, **limits}, {"": 140, "depth": 80.0, "width": 7.0}]
    given.clear()
    slow = 2
    with pytest.raises(CandidateError, match="no answer"):
        built("two")
    assert len(given) == 2
    assert names(tmp_path) == ["log", "one"]


def test_a_mistake_found_in_a_child_is_the_users(tiny: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"must hold manta\.parquet"):
        build_in_child(
            config(depth={"layers": 3}),
            tiny,
            tmp_path / "out",
            str(tmp_path),
            log=tmp_path / "log",
            deadline_s=300,
        )


Change = Callable[[dict[str, Any]], object]


@pytest.mark.parametrize(
    ("change", "same"),
    [
        (lambda parts: None, ["depth", "width", "quantize"]),
        (lambda parts: parts["quantize"].update(scheme="W4A16"), ["depth", "width"]),
        (lambda parts: parts["width"].update(width=128), ["depth"]),
        (lambda parts: parts["depth"].update(layers=2), []),
        # Rounding to nearest looks at no text.
        (lambda parts: parts["quantize"].update(calibration={"seed": 1}), ["depth", "width", "quantize"]),
        (lambda parts: parts["quantize"].update(dampening=0.05), ["depth", "width", "quantize"]),
        (lambda parts: parts["depth"].update(method="influence"), []),
    ],
)
def test_a_stages_key_follows_all_that_it_depends_on(change: Change, same: list[str], talk: Path) -> None:
    parts = json.loads(json.dumps(ALL_STAGES))
    before = stage_keys(config(**parts), "base", str(talk))
    change(parts)
    after = stage_keys(config(**parts), "base", str(talk))
    assert [name for name in before if before[name] == after[name]] == same
    others = stage_keys(config(**parts), "other", str(talk)).values()
    assert {key.output for key in others}.isdisjoint(key.output for key in after.values())


def test_what_other_code_has_made_has_another_key(talk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = stage_keys(config(**ALL_STAGES), "base", str(talk))
    monkeypatch.setattr("squeeze.keys.code_key", lambda: "another")
    after = stage_keys(config(**ALL_STAGES), "base", str(talk))
    assert {key.output for key in before.values()}.isdisjoint(key.output for key in after.values())
