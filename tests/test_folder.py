"""Model folders: whole or refused, written whole or not at all."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from squeeze.config import CompressionConfig
from squeeze.errors import ConfigError
from squeeze.folder import (
    Manifest,
    content_files,
    content_key,
    file_hash,
    publish,
    remove_partials,
    validate,
    verify_manifest,
    write_manifest,
)
from squeeze.shards import INDEX, SINGLE, read_header

DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "no config": (lambda model: (model / "config.json").unlink(), "config.json"),
    "no weights": (lambda model: (model / SINGLE).unlink(), "lacks model.safetensors"),
    "a cut weight file": (lambda model: os.truncate(model / SINGLE, 3_000_000), "as long as its header"),
    "an empty weight file": (lambda model: os.truncate(model / SINGLE, 0), "start with the length"),
    "a web page for weights": (
        lambda model: (model / SINGLE).write_text("<html>not found</html>"),
        "start with the length",
    ),
    "no tokenizer": (lambda model: (model / "tokenizer.json").unlink(), "tokenizer.json"),
    "a cut tokenizer": (lambda model: os.truncate(model / "tokenizer.json", 100), "must be JSON"),
    "no template": (lambda model: (model / "chat_template.jinja").unlink(), "chat template"),
    "a shard of the index that is missing": (
        lambda model: (model / INDEX).write_text(json.dumps({"weight_map": {"a": "b.safetensors"}})),
        "lacks b.safetensors",
    ),
    "a weight of the index that is missing": (
        lambda model: (model / INDEX).write_text(json.dumps({"weight_map": {"a": SINGLE}})),
        "lacks a;",
    ),
    "an index that is no JSON": (lambda model: (model / INDEX).write_text("x"), "weight_map"),
    "fewer layers than config.json says": (lambda model: change(model, num_hidden_layers=5), "layer 4"),
    "more layers than config.json says": (lambda model: change(model, num_hidden_layers=3), "layer 3"),
    "no head": (lambda model: change(model, tie_word_embeddings=False), "lm_head"),
}


def change(model: Path, **values: object) -> None:
    config = json.loads((model / "config.json").read_text())
    config["layer_types"] = ["full_attention"] * int(str(values.get("num_hidden_layers", 4)))
    (model / "config.json").write_text(json.dumps({**config, **values}))


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_model_is_refused_in_one_line(damage: str, copied: Path) -> None:
    do, words = DAMAGE[damage]
    validate(copied)
    do(copied)
    with pytest.raises(ConfigError, match=words) as caught:
        validate(copied)
    assert "\n" not in str(caught.value)
    assert str(copied) in str(caught.value)


def test_what_is_no_folder_of_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="does not exist"):
        validate(tmp_path / "none")
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="is a file"):
        validate(tmp_path / "file")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match="must not be empty"):
        validate(tmp_path / "empty")


def test_a_template_inside_tokenizer_config_is_enough(copied: Path) -> None:
    template = (copied / "chat_template.jinja").read_text()
    (copied / "chat_template.jinja").unlink()
    settings = json.loads((copied / "tokenizer_config.json").read_text())
    (copied / "tokenizer_config.json").write_text(json.dumps({**settings, "chat_template": template}))
    assert validate(copied).layers == 4


def test_equal_models_have_equal_keys_wherever_they_lie(tiny: Path, copied: Path) -> None:
    assert content_key(copied) == content_key(tiny)
    (copied / "README.md").write_text("words")
    assert content_key(copied) == content_key(tiny)
    flip_a_bit(copied)
    assert content_key(copied) != content_key(tiny)


def test_publishing_shows_the_folder_only_when_it_is_whole(tmp_path: Path) -> None:
    out = tmp_path / "deep" / "model"
    with publish(out) as folder:
        (folder / "a").write_text("a")
        assert not out.exists()
        assert folder.parent == out.parent
        assert folder.name.startswith(".model.partial-")
    assert [path.name for path in out.iterdir()] == ["a"]
    assert [path.name for path in out.parent.iterdir()] == ["model"]


def test_a_failure_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), publish(tmp_path / "model") as folder:
        (folder / "a").write_text("a")
        raise RuntimeError("midway")
    assert list(tmp_path.iterdir()) == []


def test_an_existing_folder_is_not_written_over(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    with pytest.raises(ConfigError, match="exists"), publish(tmp_path / "model"):
        pytest.fail("never begins")


def test_what_a_killed_process_left_is_removed_and_nothing_else(tmp_path: Path) -> None:
    for name in (".a.partial-7", ".a.stages.partial-7", ".ab.partial-7", "a", ".a.log"):
        (tmp_path / name).mkdir()
    remove_partials(tmp_path / "a")
    assert sorted(path.name for path in tmp_path.iterdir()) == [".a.log", ".ab.partial-7", "a"]


def flip_a_bit(model: Path) -> None:
    with (model / SINGLE).open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        last = file.read(1)[0]
        file.seek(-1, os.SEEK_END)
        file.write(bytes([last ^ 1]))


def sign(model: Path) -> None:
    files = {path.name: file_hash(path) for path in content_files(model)}
    write_manifest(
        model, Manifest(files=files, config=CompressionConfig(), base="b", data="hub", versions={})
    )


def test_a_manifest_finds_a_flipped_bit(copied: Path) -> None:
    sign(copied)
    verify_manifest(copied)
    flip_a_bit(copied)
    with pytest.raises(ConfigError, match=r"model\.safetensors has changed"):
        verify_manifest(copied)


def test_a_flip_that_changes_no_time_is_found_by_reading_anew(copied: Path) -> None:
    sign(copied)
    verify_manifest(copied)
    times = (copied / SINGLE).stat()
    flip_a_bit(copied)
    os.utime(copied / SINGLE, ns=(times.st_atime_ns, times.st_mtime_ns))
    with pytest.raises(ConfigError, match=r"model\.safetensors has changed"):
        verify_manifest(copied, anew=True)


def test_a_manifest_finds_a_missing_file(copied: Path) -> None:
    sign(copied)
    (copied / "tokenizer.json").unlink()
    with pytest.raises(ConfigError, match=r"lacks tokenizer\.json"):
        verify_manifest(copied)


def test_a_folder_without_a_manifest_was_not_built(tiny: Path) -> None:
    with pytest.raises(ConfigError, match=r"must have a manifest\.json"):
        verify_manifest(tiny)


def test_headers_agree_with_the_safetensors_library(tiny: Path) -> None:
    from safetensors import safe_open

    weights = read_header(tiny / SINGLE)
    with safe_open(tiny / SINGLE, "pt") as file:
        assert set(file.keys()) == set(weights)
        name = "model.layers.0.mlp.down_proj.weight"
        assert tuple(file.get_tensor(name).shape) == weights[name].shape
        assert (file.get_tensor(name).float().numpy() == weights[name].floats()).all()


def test_a_header_that_is_too_long_is_refused(tmp_path: Path) -> None:
    path = tmp_path / SINGLE
    path.write_bytes((2**40).to_bytes(8, "little") + b"{}")
    with pytest.raises(ConfigError, match="length of its header"):
        read_header(path)


def test_a_copy_is_a_model_too(tiny: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny, tmp_path / "copy")
    assert validate(tmp_path / "copy") == validate(tiny)
