"""Verifying a model folder: what is told of a good one, and of each way one can be bad."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from search import answer, verify
from squeeze.demo import MODEL_DIR
from squeeze.errors import CandidateError, ConfigError
from squeeze.shards import Output, Weight, all_weights, rewrite, same


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A copy of the embedded model that may be damaged."""
    return Path(shutil.copytree(MODEL_DIR, tmp_path / "model"))


def with_nan(folder: Path, name: str) -> None:
    """One element of that weight becomes NaN (BF16)."""
    source = folder.with_name("sound")
    shutil.copytree(folder, source)

    def spoilt(weight: Weight) -> Output:
        if weight.name != name:
            return same(weight)
        data = b"".join(weight.chunks())
        return Output(weight.name, weight.dtype, weight.shape, lambda: [b"\xc0\x7f" + data[2:]])

    rewrite(source, folder, spoilt)


def rows(capsys: pytest.CaptureFixture[str]) -> dict[str, dict[str, str]]:
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    return {row["rule"]: row for row in found}


@pytest.mark.engine
@pytest.mark.parametrize("options", [["--safe"], ["--engine", "transformers"]])
def test_the_embedded_model_answers(options: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert verify.main([str(MODEL_DIR), "--json", *options]) == 0
    found = rows(capsys)
    assert {row["state"] for row in found.values()} == {"ok"}
    engine = "transformers" if "transformers" in options else "vllm"
    assert "4 answers" in found[f"answers in {engine}"]["detail"]
    assert ("no code" in found) == ("--safe" in options)


@pytest.mark.engine
@pytest.mark.parametrize("engine", ["vllm", "transformers"])
def test_a_model_whose_probabilities_are_no_numbers_does_not_answer(
    engine: answer.EngineName, model: Path
) -> None:
    with_nan(model, "model.norm.weight")
    with pytest.raises(CandidateError) as caught:
        answer.answers(model, engine=engine)
    assert caught.value.kind == "diverged"


def without_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()


def without_template(folder: Path) -> None:
    (folder / "chat_template.jinja").unlink()
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings.pop("chat_template", None)
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


def cut_short(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])


def not_a_number(folder: Path) -> None:
    with_nan(folder, "model.embed_tokens.weight")


@pytest.mark.parametrize(
    ("damage", "rule", "told"),
    [
        (without_tokenizer, "whole", "tokenizer.json"),
        (without_template, "whole", "chat template"),
        (cut_short, "whole", "bytes"),
        (not_a_number, "weights", "model.embed_tokens.weight"),
    ],
)
def test_a_damaged_folder_gives_code_1_and_names_the_damage(
    damage: Callable[[Path], None],
    rule: str,
    told: str,
    model: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(answer, "answers", lambda *_, **__: pytest.fail("an engine was started"))
    damage(model)
    assert verify.main([str(model), "--json"]) == 1
    found = rows(capsys)
    assert found[rule]["state"] == "broken"
    assert told in found[rule]["detail"]
    assert list(found)[-1] == rule


@pytest.mark.parametrize(("texts", "state"), [(["하나", " \n"], "broken"), (["하나", "둘"], "ok")])
def test_an_empty_answer_among_others_is_not_good(
    texts: list[str], state: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answer, "answers", lambda *_, **__: texts)
    assert verify.main([str(MODEL_DIR), "--json"]) == (1 if state == "broken" else 0)
    assert rows(capsys)["answers in vllm"]["state"] == state


@pytest.mark.parametrize("name", ["modeling_x.py", "pytorch_model.bin"])
def test_safe_refuses_code_and_pickles_before_anything_else(
    name: str, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (model / name).write_bytes(b"")
    assert verify.main([str(model), "--safe", "--json"]) == 1
    found = rows(capsys)
    assert list(found) == ["no code"]
    assert name in found["no code"]["detail"]


def test_what_is_no_model_gives_one_line_and_code_2(tmp_path: Path) -> None:
    (tmp_path / "file.zip").write_text("x")
    for path in (tmp_path / "none", tmp_path / "file.zip"):
        with pytest.raises(ConfigError, match="a model must be a folder"):
            verify.main([str(path)])
    command = [sys.executable, "-m", "search.verify", str(tmp_path / "none")]
    run = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert (run.returncode, run.stdout, len(run.stderr.splitlines())) == (2, "", 1)


def test_the_embedded_models_weights_are_finite() -> None:
    assert all(weight.is_finite() for weight in all_weights(MODEL_DIR).values())
