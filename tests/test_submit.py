"""submit.zip: what goes in, how it is written, and that every rule is noticed when it is broken."""

from __future__ import annotations

import errno
import io
import json
import os
import re
import shutil
import stat
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from squeeze import contest
from squeeze.demo import MODEL_DIR
from squeeze.errors import ConfigError, SetupError
from squeeze.submit import export, rules

Edit = Callable[[dict[str, Any]], object]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A copy of the embedded model as transformers 5 writes it, with files that must stay at home."""
    folder = tmp_path / "built"
    shutil.copytree(MODEL_DIR, folder)
    config = json.loads((folder / "config.json").read_text())
    theta = config.pop("rope_theta", None)
    scaling = config.pop("rope_scaling", None) or {"rope_type": "default"}
    config.setdefault("rope_parameters", {**scaling, "rope_theta": theta})
    config["dtype"] = config.pop("torch_dtype", None) or config["dtype"]
    config["transformers_version"] = "5.17.0"
    (folder / "config.json").write_text(json.dumps(config))
    tokenizer = json.loads((folder / "tokenizer_config.json").read_text())
    tokenizer |= {"tokenizer_class": "TokenizersBackend", "extra_special_tokens": ["[|user|]"]}
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer))
    (folder / "manifest.json").write_text("{}")
    (folder / "recipe.yaml").write_text("a: 1")
    return folder


@pytest.fixture
def unpacked(model: Path, tmp_path: Path) -> Path:
    """The folder ``model`` of an export, to be spoiled."""
    with zipfile.ZipFile(export(model, tmp_path / "good.zip")) as archive:
        archive.extractall(tmp_path / "unpacked")
    return tmp_path / "unpacked" / "model"


def edit(path: Path, change: Edit) -> None:
    """Change a JSON file in place."""
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


def no_template(folder: Path) -> None:
    """Take the chat template out, wherever it is."""
    (folder / "chat_template.jinja").unlink()
    edit(folder / "tokenizer_config.json", lambda config: config.pop("chat_template", None))


def broken(path: Path) -> dict[str, str]:
    """Rule -> detail of the broken ones."""
    return {rule.name: rule.detail for rule in rules(path) if not rule.ok}


def test_an_export_has_one_root_and_only_what_the_server_needs(model: Path, tmp_path: Path) -> None:
    out = export(model, tmp_path / "deep" / "submit.zip")
    with zipfile.ZipFile(out) as archive:
        names = archive.namelist()
    assert {name.split("/")[0] for name in names} == {"model"}
    wanted = {"config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"}
    assert {f"model/{name}" for name in wanted | {"model.safetensors", "chat_template.jinja"}} <= set(names)
    assert not {"model/manifest.json", "model/recipe.yaml"} & set(names)
    assert broken(out) == {}
    assert [path.name for path in out.parent.iterdir()] == ["submit.zip"]


def test_the_weights_arrive_unchanged(model: Path, unpacked: Path) -> None:
    name = "model.safetensors"
    assert (unpacked / name).read_bytes() == (model / name).read_bytes()


def test_the_config_is_in_the_words_of_transformers_4(model: Path, unpacked: Path) -> None:
    before = json.loads((model / "config.json").read_text())
    after = json.loads((unpacked / "config.json").read_text())
    assert after["rope_theta"] == before["rope_parameters"]["rope_theta"]
    assert after["torch_dtype"] == before["dtype"] == "bfloat16"
    assert after["transformers_version"] == "4.57.3"
    assert not {"rope_parameters", "dtype"} & set(after)
    assert len(after["layer_types"]) == after["num_hidden_layers"]


def test_llama3_scaling_survives_without_theta_in_it() -> None:
    scaling = {
        "rope_type": "llama3",
        "factor": 16.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }
    new = contest.model_config({"rope_parameters": {**scaling, "rope_theta": 1e6}, "dtype": "bfloat16"})
    assert (new["rope_theta"], new["rope_scaling"]) == (1e6, scaling)


def test_the_transformers_here_reads_the_exported_config_as_the_same_model(
    model: Path, unpacked: Path
) -> None:
    from transformers import AutoConfig

    before, after = AutoConfig.from_pretrained(model), AutoConfig.from_pretrained(unpacked)
    different = {
        key
        for key in {*before.to_dict(), *after.to_dict()} - {"transformers_version", "_name_or_path"}
        if getattr(before, key, None) != getattr(after, key, None)
    }
    assert different == set()


def test_the_exported_tokenizer_encodes_the_same(model: Path, unpacked: Path) -> None:
    from transformers import AutoTokenizer

    chat = [{"role": "user", "content": "안녕하세요, 정답은? 42"}]
    before, after = (AutoTokenizer.from_pretrained(folder) for folder in (MODEL_DIR, unpacked))
    texts = [
        one.apply_chat_template(chat, tokenize=False, add_generation_prompt=True) for one in (before, after)
    ]
    assert texts[0] == texts[1]
    assert before.encode(texts[0]) == after.encode(texts[0])
    settings = json.loads((unpacked / "tokenizer_config.json").read_text())
    assert settings["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert settings["additional_special_tokens"] == ["[|user|]"]


def test_a_generation_config_is_made_where_there_is_none(model: Path, tmp_path: Path) -> None:
    (model / "generation_config.json").unlink(missing_ok=True)
    config = json.loads((model / "config.json").read_text())
    with zipfile.ZipFile(export(model, tmp_path / "submit.zip")) as archive:
        made = json.loads(archive.read("model/generation_config.json"))
    assert made["eos_token_id"] == config["eos_token_id"]


def test_equal_input_gives_equal_bytes(model: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(model, other)
    for path in sorted(other.iterdir(), reverse=True):
        path.touch()
    assert export(model, tmp_path / "a.zip").read_bytes() == export(other, tmp_path / "b.zip").read_bytes()


def test_a_model_that_breaks_a_rule_leaves_the_older_zip_alone(model: Path, tmp_path: Path) -> None:
    out = export(model, tmp_path / "submit.zip")
    before = out.read_bytes()
    edit(model / "config.json", lambda config: config["layer_types"].pop())
    with pytest.raises(ConfigError, match="cannot be submitted; config: layer_types must have"):
        export(model, out)
    assert out.read_bytes() == before
    assert not list(tmp_path.glob(".*.partial-*"))


def test_an_export_of_no_model_is_the_users_mistake(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="an export needs a model folder"):
        export(tmp_path, tmp_path / "submit.zip")


def test_a_place_that_cannot_be_written_gives_one_line(model: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SetupError, match="must be writable"):
        export(model, tmp_path / "file" / "submit.zip")
    with pytest.raises(ConfigError, match="--out must name a file"):
        export(model, tmp_path)


def test_what_a_killed_export_left_is_removed_by_the_next(model: Path, tmp_path: Path) -> None:
    out = tmp_path / "zips" / "submit.zip"
    out.parent.mkdir()
    dead, alive, other = (
        out.with_name(name)
        for name in (
            ".submit.zip.partial-999999999",
            f".submit.zip.partial-{os.getppid()}",
            ".mine.zip.partial-999999999",
        )
    )
    for path in (dead, alive, other):
        path.touch()
    export(model, out)
    assert set(out.parent.iterdir()) == {out, alive, other}


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_a_model_that_cannot_be_read_is_told_as_that(
    name: str, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = io.open

    def failing(path: Any, *arguments: Any, **options: Any) -> Any:
        if Path(path) == model / name:
            raise OSError(errno.EIO, "Input/output error")
        return opened(path, *arguments, **options)

    monkeypatch.setattr(io, "open", failing)  # what Path.open calls
    with pytest.raises(SetupError, match=rf"a model must be readable; .*{name}: Input/output error"):
        export(model, tmp_path / "submit.zip")
    assert not (tmp_path / "submit.zip").exists()


def test_sizes_beyond_the_old_zip_format_are_written_as_zip64(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(zipfile, "ZIP64_LIMIT", 1 << 16)  # stands for 2 GiB, which would take its time
    path = export(model, tmp_path / "submit.zip")
    monkeypatch.undo()
    with zipfile.ZipFile(path) as archive:
        assert archive.getinfo("model/model.safetensors").extract_version == zipfile.ZIP64_VERSION
    assert broken(path) == {}


SPOILED: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "config is missing": ("config", lambda m: (m / "config.json").unlink(), "config.json is missing"),
    "config is no JSON": ("config", lambda m: (m / "config.json").write_text("{"), "no JSON"),
    "rope of transformers 5": (
        "config",
        lambda m: edit(
            m / "config.json", lambda c: c.update(rope_parameters={"rope_theta": c.pop("rope_theta")})
        ),
        "rope_parameters is not read",
    ),
    "dtype of transformers 5": (
        "config",
        lambda m: edit(m / "config.json", lambda c: c.update(dtype=c.pop("torch_dtype"))),
        "torch_dtype must be",
    ),
    "another architecture": (
        "config",
        lambda m: edit(m / "config.json", lambda c: c.update(architectures=["LlamaForCausalLM"])),
        "Exaone4ForCausalLM",
    ),
    "no head_dim": ("config", lambda m: edit(m / "config.json", lambda c: c.pop("head_dim")), "head_dim"),
    "layer_types too long": (
        "config",
        lambda m: edit(m / "config.json", lambda c: c["layer_types"].append("full_attention")),
        "layer_types must have",
    ),
    "remote code": (
        "no code",
        lambda m: edit(m / "config.json", lambda c: c.update(auto_map={"AutoConfig": "x.Y"})),
        "auto_map",
    ),
    "a script": ("no code", lambda m: (m / "modeling.py").write_text(""), r"modeling\.py is code"),
    "a pickle": ("no code", lambda m: (m / "pytorch_model.bin").write_bytes(b""), "code or a pickle"),
    "no weights": ("weights", lambda m: (m / "model.safetensors").unlink(), r"no \.safetensors"),
    "weights cut short": (
        "weights",
        lambda m: (m / "model.safetensors").write_bytes((m / "model.safetensors").read_bytes()[:-9]),
        "must have .* bytes by its header",
    ),
    "weights that are none": (
        "weights",
        lambda m: (m / "model.safetensors").write_bytes(b"\xff" * 64),
        "no safetensors file",
    ),
    "a layer too few": (
        "weights",
        lambda m: edit(m / "config.json", lambda c: c.update(num_hidden_layers=c["num_hidden_layers"] + 1)),
        r"model\.layers\.\d+.* is missing",
    ),
    "a layer too many": (
        "weights",
        lambda m: edit(
            m / "config.json",
            lambda c: c.update(
                num_hidden_layers=c["num_hidden_layers"] - 1, layer_types=c["layer_types"][1:]
            ),
        ),
        "belongs to no layer",
    ),
    "an index that names another shard": (
        "weights",
        lambda m: (m / "model.safetensors.index.json").write_text(
            json.dumps({"weight_map": {"model.norm.weight": "model-2.safetensors"}})
        ),
        "it is not there",
    ),
    "two shards without an index": (
        "weights",
        lambda m: (m / "more.safetensors").write_bytes(struct.pack("<Q", 2) + b"{}"),
        "need model.safetensors.index.json",
    ),
    "no tokenizer": ("tokenizer", lambda m: (m / "tokenizer.json").unlink(), r"tokenizer\.json is missing"),
    "tokenizer of transformers 5": (
        "tokenizer",
        lambda m: edit(m / "tokenizer_config.json", lambda c: c.update(tokenizer_class="TokenizersBackend")),
        "unknown to transformers 4.57.3",
    ),
    "more tokens than embeddings": (
        "tokenizer",
        lambda m: edit(
            m / "tokenizer.json", lambda c: c["added_tokens"].append({"id": 10**6, "content": "[far]"})
        ),
        "the tokenizer's ids go to 1000000",
    ),
    "no chat template": ("chat template", lambda m: no_template(m), "neither chat_template"),
    "no generation config": (
        "generation config",
        lambda m: (m / "generation_config.json").unlink(),
        "is missing",
    ),
}


@pytest.mark.parametrize("case", SPOILED)
def test_a_broken_rule_is_found_in_folder_and_zip(case: str, unpacked: Path, tmp_path: Path) -> None:
    rule, spoil, detail = SPOILED[case]
    assert broken(unpacked) == {}
    spoil(unpacked)
    path = tmp_path / "spoiled.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for file in unpacked.iterdir():
            archive.write(file, f"model/{file.name}")
    for place in (unpacked, unpacked.parent, path):
        found = broken(place)
        assert rule in found, found
        assert re.search(detail, found[rule])


NAMED = {
    "a second folder at the top": ("one root", "other/config.json"),
    "a file at the top": ("one root", "config.json"),
    "a name that climbs out": ("names", "model/../../etc/passwd"),
    "an absolute name": ("names", "/etc/passwd"),
    "a Windows name": ("names", "model\\config.json"),
}


@pytest.mark.parametrize("case", NAMED)
def test_a_foreign_name_is_refused(case: str, model: Path, tmp_path: Path) -> None:
    rule, name = NAMED[case]
    path = export(model, tmp_path / "submit.zip")
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(name, "x")
    assert rule in broken(path)


def test_a_link_in_the_zip_is_refused(model: Path, tmp_path: Path) -> None:
    path = export(model, tmp_path / "submit.zip")
    link = zipfile.ZipInfo("model/link")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(link, "/etc/passwd")
    assert "model/link" in broken(path)["plain files"]


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_name_that_comes_twice_is_refused(model: Path, tmp_path: Path) -> None:
    path = export(model, tmp_path / "submit.zip")
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("model/config.json", "{}")
    assert "twice" in broken(path)["names"]


def test_a_zip_bomb_is_refused_before_it_is_read(model: Path, tmp_path: Path) -> None:
    path = export(model, tmp_path / "submit.zip")
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("model/zeros.json", b"\0" * (64 << 20))
    found = rules(path)
    assert [rule.name for rule in found] == ["size"]
    assert "bomb" in found[0].detail


def test_a_zip_bomb_of_many_small_files_is_refused_before_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "submit.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for number in range(50):
            archive.writestr(f"model/{number}.json", b"\0" * 200_000)
    assert [(rule.name, rule.ok) for rule in rules(path)] == [("size", False)]


def test_json_that_is_nested_too_deep_is_told(unpacked: Path) -> None:
    (unpacked / "config.json").write_text("[" * 100_000)
    assert "no JSON" in broken(unpacked)["config"]


@pytest.mark.parametrize("limit", ["ZIPPED_BYTES", "UNPACKED_BYTES"])
def test_a_zip_beyond_the_limits_is_refused(
    limit: str, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = export(model, tmp_path / "submit.zip")
    monkeypatch.setattr(contest, limit, 1000)
    assert [(rule.name, rule.ok) for rule in rules(path)] == [("size", False)]


def test_a_damaged_zip_is_told(model: Path, tmp_path: Path) -> None:
    path = export(model, tmp_path / "submit.zip")
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    assert "damaged" in broken(path)["checksums"]
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(ConfigError, match="a submission is a zip file"):
        rules(path)


def test_a_name_that_is_no_text_is_told(tmp_path: Path) -> None:
    path = tmp_path / "submit.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("한", b"")
    path.write_bytes(path.read_bytes().replace("한".encode(), b"\xff\xff\xff"))
    assert "the archive is damaged" in broken(path)["zip"]


def test_what_is_no_zip_or_not_there_is_the_users_mistake(tmp_path: Path) -> None:
    (tmp_path / "text.zip").write_text("no zip")
    with pytest.raises(ConfigError, match=r"a submission is a zip file; .*text\.zip is none"):
        rules(tmp_path / "text.zip")
    with pytest.raises(ConfigError, match="does not exist"):
        rules(tmp_path / "none.zip")


def group(**changes: Any) -> dict[str, Any]:
    """A W8A8 group as compressed-tensors 0.19 writes it."""
    weights = {"num_bits": 8, "type": "int", "strategy": "channel", "symmetric": True, "actorder": None}
    return {"targets": ["Linear"], "weights": {**weights, **changes}, "format": "int-quantized"}


def quantized(ignore: list[str], **groups: Any) -> dict[str, Any]:
    return {"quant_method": "compressed-tensors", "ignore": ignore, "config_groups": groups}


def test_a_calibration_order_that_0_13_refuses_is_dropped() -> None:
    config = {"quantization_config": quantized(["lm_head"], group_0=group(actorder="static", new_in_9=1))}
    assert contest.quantization_faults(config["quantization_config"])
    after = contest.model_config(config)["quantization_config"]
    assert contest.quantization_faults(after) == []
    assert after["config_groups"]["group_0"]["weights"]["actorder"] is None


@pytest.mark.parametrize(
    ("quantization", "fault"),
    [
        (quantized([], group_0=group()), "lm_head must be in ignore"),
        (quantized(["lm_head"], group_0=group(novelty=1)), "novelty is unknown"),
        ({**quantized(["lm_head"], group_0=group()), "quant_method": "gptq"}, "quant_method must be"),
        ({**quantized(["lm_head"]), "config_groups": None}, "config_groups must map"),
    ],
)
def test_a_quantization_that_the_server_refuses_is_told(quantization: dict[str, Any], fault: str) -> None:
    assert any(fault in found for found in contest.quantization_faults(quantization))


def test_an_exact_target_wins_over_the_class_and_ignore_over_both() -> None:
    config = quantized(["lm_head", "re:.*o_proj"], a=group(), b={**group(), "targets": ["re:.*down_proj"]})
    assert contest.scheme_of("model.layers.0.mlp.down_proj", config) == "b"
    assert contest.scheme_of("model.layers.0.mlp.up_proj", config) == "a"
    assert contest.scheme_of("model.layers.0.self_attn.o_proj", config) is None
    assert contest.scheme_of("lm_head", config) is None


def test_fused_layers_with_two_schemes_are_refused(unpacked: Path) -> None:
    split = quantized(["lm_head", "re:.*k_proj"], group_0=group())
    edit(unpacked / "config.json", lambda config: config.update(quantization_config=split))
    assert "are fused and need one scheme" in broken(unpacked)["quantization"]
