"""What comes from a model or a database is data: it runs no code, and a terminal obeys none of it."""

from __future__ import annotations

import inspect
import json
import pickle
from pathlib import Path

import optuna
import pytest

from search import show
from search.cli import printable
from search.propose import make_sampler
from search.records import TrialRecord, save_trial
from search.run import SAMPLERS
from squeeze.config import CompressionConfig
from squeeze.errors import ConfigError
from squeeze.folder import validate

CODE = "import pathlib; pathlib.Path({marker!r}).write_text('ran')\n"


def test_a_models_own_code_is_not_run(copied: Path, tmp_path: Path) -> None:
    from squeeze.versions import load_model, load_tokenizer

    marker = tmp_path / "marker"
    (copied / "theirs.py").write_text(
        CODE.format(marker=str(marker)) + "class Model: ...\nclass Words: ...\n"
    )
    for name, entry in (
        ("config.json", {"AutoConfig": "theirs.Model", "AutoModelForCausalLM": "theirs.Model"}),
        ("tokenizer_config.json", {"AutoTokenizer": ["theirs.Words", "theirs.Words"]}),
    ):
        settings = json.loads((copied / name).read_text())
        (copied / name).write_text(json.dumps({**settings, "auto_map": entry}))
    assert load_model(copied, "cpu").config.num_hidden_layers == 4
    assert load_tokenizer(copied)("문제").input_ids
    assert not marker.exists()


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt"])
def test_weights_that_are_a_pickle_are_refused_unread(copied: Path, tmp_path: Path, name: str) -> None:
    marker = tmp_path / "marker"

    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return exec, (CODE.format(marker=str(marker)),)

    (copied / "model.safetensors").unlink()
    (copied / name).write_bytes(pickle.dumps(Evil()))
    with pytest.raises(ConfigError, match=rf"must be safetensors.* has {name}; save it again"):
        validate(copied)
    assert not marker.exists()


@pytest.mark.parametrize("name", [name for name in SAMPLERS if name != "ours"])
def test_no_sampler_that_is_offered_unpickles_what_a_database_holds(name: str) -> None:
    home = Path(inspect.getfile(type(make_sampler(name, 1))))
    files = [home] if home.parent.name == "samplers" else list(home.parent.glob("*.py"))
    assert not [file for file in files if "pickle" in file.read_text(encoding="utf-8")]
    unpickles = Path(inspect.getfile(optuna.samplers)).with_name("_cmaes.py")  # one that is not offered
    assert "pickle.loads" in unpickles.read_text(encoding="utf-8")


def test_a_terminal_is_shown_no_control_characters(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    reason = "build in quantize: \x1b[2J\x1b]0;title\x07 [bold red]markup[/] \x9b31m \u202eback"
    record = TrialRecord(number=0, state="failed", params={}, config=CompressionConfig(), reason=reason)
    save_trial("demo", record)
    for options in ([], ["--json"], ["--trial", "0"]):
        assert show.main(options) == 0
        out = capsys.readouterr().out
        assert out.isprintable() or set(filter(lambda char: not char.isprintable(), out)) == {"\n"}
        assert "[bold red]markup[/]" in out
        if options:
            assert json.loads(out)["reason"] == reason


def test_json_stays_json_when_it_is_made_printable() -> None:
    value = {"text": "".join(map(chr, range(0x300))) + "\u2028\u202e\u2066 한국어\\"}
    assert json.loads(printable(json.dumps(value, ensure_ascii=False))) == value
