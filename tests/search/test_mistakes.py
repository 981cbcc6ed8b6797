"""A user's mistake, or a machine that cannot run a search: one line, the right exit code, nothing lost."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import sqlite3
from importlib import metadata
from pathlib import Path

import pytest
from sqlalchemy.exc import OperationalError

from search import bench, export, run, show
from search.cli import run_command
from search.prepare import open_search
from search.records import load_trials
from squeeze.bench.measure import Bench
from squeeze.demo import MODEL_DIR
from squeeze.records import Measurement, Pass, Question, Timing


def told(capsys: pytest.CaptureFixture[str], command: object, argv: list[str]) -> tuple[int, str]:
    """Run a command's main as the command line does: its exit code and what it told on stderr."""
    with pytest.raises(SystemExit) as ended:
        run_command(lambda: command.main(argv))  # type: ignore[attr-defined]
    captured = capsys.readouterr()
    assert captured.out == ""
    code = ended.value.code
    assert isinstance(code, int)
    return code, captured.err


def check_one_line(text: str, *words: str) -> None:
    assert text.startswith("error: ")
    assert text.count("\n") == 1
    assert "Traceback" not in text
    for word in words:
        assert word in text


def contents(database: Path) -> list[str]:
    with contextlib.closing(sqlite3.connect(database)) as connection:
        return list(connection.iterdump())


def copy_without(folder: Path, name: str) -> Path:
    shutil.copytree(MODEL_DIR, folder)
    (folder / name).unlink()
    return folder


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--judge-url", "http://localhost:8000/v1"], ["--judge-model is missing"]),
        (["--judge-model", "fair"], ["--judge-url is missing"]),
        (["--judge-url", "localhost", "--judge-model", "fair"], ["base_url must be http"]),
        (["--judge-url", "http://h/v1", "--judge-model", "fair"], ["JUDGE_API_KEY is not set"]),
    ],
)
def test_a_judge_that_cannot_be_asked_is_told_before_anything_starts(
    workplace: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    options: list[str],
    words: list[str],
) -> None:
    monkeypatch.delenv("JUDGE_API_KEY", raising=False)
    for command, first in ((run, ["--trials", "1"]), (bench, [str(MODEL_DIR)])):
        code, text = told(capsys, command, [*first, "--workload", "quick", *options])
        assert code == 2
        check_one_line(text, *words)
    assert not list((workplace / "studies").glob("*.db"))


@pytest.mark.parametrize("trials", ["0", "-1", "many", "1.5"])
def test_trials_must_be_one_or_more(workplace: Path, capsys: pytest.CaptureFixture[str], trials: str) -> None:
    code, text = told(capsys, run, ["--trials", trials])
    assert code == 2
    check_one_line(text, "--trials", trials, "1 or more")


@pytest.mark.parametrize(
    ("option", "value", "word"),
    [
        ("--space", "nowhere", "prune_quantize"),
        ("--objective", "nothing", "competition"),
        ("--study", "../up", "letters"),
        ("--study", "x-pareto", "mirror"),
        ("--storage", "nonsense", "database URL"),
        ("--workload", "none.yaml", "none.yaml"),
        ("--data", "nowhere", "nowhere"),
        ("--model", "no/such/folder", "no/such/folder"),
        ("--colour", "red", "--help"),
    ],
)
def test_a_value_that_cannot_be_is_refused_before_anything_is_made(
    workplace: Path, capsys: pytest.CaptureFixture[str], option: str, value: str, word: str
) -> None:
    code, text = told(capsys, run, ["--trials", "1", option, value])
    assert code in (2, 3)
    check_one_line(text, word)
    assert not list(workplace.rglob("*.db"))


@pytest.mark.parametrize(
    "words",
    [
        ["--storages", "postgresql://u:canary@h/db"],
        ["--storage", "sqlite:///u:canary@h.db/no/folder?password=canary"],
        ["--finalists", "postgresql://u:canary@h/db"],
        ["--sampler", "u:canary@h/db"],
        ["postgresql://u:canary@h/db?password=canary"],
    ],
)
def test_no_password_is_told_wherever_a_url_was_given(
    workplace: Path, capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    (workplace / "u:canary@h.db").touch()
    code, text = told(capsys, run, ["--trials", "1", *words])
    assert code in (2, 3)
    check_one_line(text, "@h")
    assert "canary" not in text


@pytest.mark.parametrize("missing", ["config.json", "model.safetensors", "tokenizer.json"])
def test_a_model_folder_that_lacks_a_file_is_refused(
    workplace: Path, capsys: pytest.CaptureFixture[str], missing: str
) -> None:
    folder = copy_without(workplace / "model", missing)
    code, text = told(capsys, run, ["--trials", "1", "--model", str(folder)])
    assert code == 2
    check_one_line(text, str(folder))


def test_a_model_that_lacks_a_shard_is_refused(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = workplace / "model"
    shutil.copytree(MODEL_DIR, folder)
    index = {"metadata": {}, "weight_map": {"model.norm.weight": "model-00002-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    code, text = told(capsys, run, ["--trials", "1", "--model", str(folder)])
    assert code == 2
    check_one_line(text, "model-00002-of-00002.safetensors")


def test_an_empty_folder_and_a_model_that_is_no_decoder_are_refused(
    workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (workplace / "empty").mkdir()
    code, text = told(capsys, run, ["--trials", "1", "--model", "empty"])
    assert code == 2
    check_one_line(text, "empty")
    shutil.copytree(MODEL_DIR, workplace / "bert")
    (workplace / "bert/config.json").write_text('{"model_type": "bert", "architectures": ["BertModel"]}')
    code, text = told(capsys, run, ["--trials", "1", "--model", "bert"])
    assert code == 2
    check_one_line(text, "BertModel", "Exaone4ForCausalLM")


def test_a_study_made_with_another_model_is_kept_as_it_is(
    workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    open_search(run.parser().parse_args(["--trials", "1"]))
    before = contents(workplace / "studies/demo.db")
    shutil.copytree(MODEL_DIR, workplace / "other")
    config = json.loads((workplace / "other/config.json").read_text())
    (workplace / "other/config.json").write_text(json.dumps({**config, "rms_norm_eps": 1e-6}))
    code, text = told(capsys, run, ["--trials", "1", "--study", "demo", "--model", "other", "--data", "hub"])
    assert code == 2
    check_one_line(text, "keeps its model", "the embedded model", "other")
    assert contents(workplace / "studies/demo.db") == before


def test_without_an_engine_the_setup_is_at_fault(
    workplace: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    known = metadata.version

    def version(name: str) -> str:
        if name.startswith("vllm"):
            raise metadata.PackageNotFoundError(name)
        return known(name)

    monkeypatch.setattr(metadata, "version", version)
    code, text = told(capsys, run, ["--trials", "1"])
    assert code == 3
    check_one_line(text, "vllm", "uv sync")


def test_a_place_that_cannot_be_written_is_the_setups_fault(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir("/proc")  # even root cannot write here
    code, text = told(capsys, run, ["--trials", "1"])
    assert code == 3
    check_one_line(text, "studies", "writable")


def test_two_searches_that_start_at_once_do_not_meet_in_what_they_probe(
    workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    probed: list[Path] = []
    monkeypatch.setattr("search.prepare.write_whole", lambda path, _: probed.append(path))  # and it is gone
    assert open_search(run.parser().parse_args(["--trials", "1"])).name == "demo"
    assert {path.parent.name for path in probed} == {"studies", "models"}


def test_a_database_that_is_lost_while_a_folder_is_tied_to_it_is_told_in_one_line(
    workplace: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def lost(study: object) -> None:
        raise OperationalError("SELECT 1", {}, Exception("server closed the connection"))

    monkeypatch.setattr("search.study._bind_files", lost)
    code, text = told(capsys, run, ["--trials", "1"])
    assert code == 3
    check_one_line(text, "database", "server closed the connection")


def test_what_the_machine_refuses_anywhere_is_told_in_one_line(
    workplace: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(study: str) -> None:
        raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT), "studies/demo/lock")

    monkeypatch.setattr("search.study.alone", refused)
    code, text = told(capsys, run, ["--trials", "1"])
    assert code == 3
    check_one_line(text, "quota", "studies/demo/lock", "run the same command again")


@pytest.mark.parametrize("command", [show, export])
def test_a_study_that_was_never_run_is_refused(
    workplace: Path, capsys: pytest.CaptureFixture[str], command: object
) -> None:
    code, text = told(capsys, command, ["--study", "never"])
    assert code == 2
    check_one_line(text, "never")


@pytest.mark.parametrize("command", ["run", "bench"])
def test_a_baseline_that_gets_nothing_right_is_refused_before_a_candidate_is_measured(
    workplace: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    wrong = tuple(Question(index=index, answers=("?",), tokens=5, score=0.0) for index in range(4))
    timed = Pass(started=0.0, timings={"kmmlu_pro": Timing(seconds=1.0, tokens=20)})
    nothing = Measurement(
        model="m", workload="w", engine={}, complete=True, questions={"kmmlu_pro": wrong}, passes=(timed,) * 3
    )
    asked: list[Path] = []
    monkeypatch.setattr(Bench, "measure_baseline", lambda self, **_: nothing)
    monkeypatch.setattr(Bench, "measure", lambda self, model, **_: asked.append(model))
    monkeypatch.setattr("squeeze.server.preload", lambda *_: None)
    argv = {"run": ["--trials", "1"], "bench": [str(MODEL_DIR), "--baseline", str(MODEL_DIR)]}
    code, text = told(capsys, {"run": run, "bench": bench}[command], argv[command])
    assert code == 2
    assert "a baseline must score above 0" in text
    assert not asked
    assert load_trials("demo") == []
    assert not list((workplace / "studies").rglob("baselines/*"))
