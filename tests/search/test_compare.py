"""Comparing models: the row of one, many at once, and what is left of an interrupt."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from search import compare
from search.compared import base_row, compared, failed
from squeeze.bench.measure import Bench
from squeeze.demo import MODEL_DIR
from squeeze.errors import CandidateError, ConfigError, SetupError
from squeeze.records import Measurement, Pass, Perplexity, Question, Timing

SMALL = """
questions: {kmmlu_redux: 6, komt_bench: 2}
max_tokens: 16
repeats: 2
probes: 1
engine: {max_model_len: 2048, kv_cache_gib: 1}
"""


def measured(model: str, texts: tuple[str, ...], seconds: float, nats: float = 0.0) -> Measurement:
    """A model's answers to one benchmark, 10 tokens each, three passes of so many seconds."""
    questions = tuple(
        Question(index=index, answers=(text,), tokens=10, score=1.0) for index, text in enumerate(texts)
    )
    timing = {"kmmlu_redux": Timing(seconds=seconds, tokens=10 * len(texts))}
    return Measurement(
        model=model,
        workload="w",
        engine={},
        complete=True,
        questions={"kmmlu_redux": questions},
        passes=tuple(Pass(started=float(number), timings=timing) for number in range(3)),
        perplexity=Perplexity(tokens=10, mean=nats, error=0.1),
    )


BASE = measured("base", ("하나 둘", "셋", "넷"), seconds=2.0)


def test_a_row_is_speedup_likeness_emptiness_and_perplexity() -> None:
    row = compared("m", measured("m", ("하나 셋", "셋", ""), seconds=1.6, nats=1.0), BASE)
    assert row.speedup == pytest.approx(1.25)
    assert row.speedup_low is not None and row.speedup_high is not None
    assert row.speedup_low <= row.speedup <= row.speedup_high
    assert row.similarity == pytest.approx((0.5 + 1 + 0) / 3)
    assert row.exact_match == pytest.approx(1 / 3)
    assert row.non_empty == pytest.approx(2 / 3)
    assert row.tokens_per_answer == 10
    assert row.perplexity == pytest.approx(2.718, abs=1e-3)
    assert row.benchmarks["kmmlu_redux"]["answers"] == 3


def test_the_base_is_like_itself() -> None:
    row = base_row("base", BASE)
    assert (row.speedup, row.similarity, row.exact_match, row.non_empty) == (1.0, 1.0, 1.0, 1.0)
    assert row.speedup_low is None


def test_a_model_that_talks_more_is_flagged_in_table_and_csv(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wordy = measured("m", ("하나 둘", "셋", "넷"), seconds=2.0)
    longer = [one.model_copy(update={"tokens": 20 + one.index}) for one in wordy.questions["kmmlu_redux"]]
    row = compared("m", wordy.model_copy(update={"questions": {"kmmlu_redux": tuple(longer)}}), BASE)
    assert "tokens an answer" in row.flags[0]
    compare.print_table([row])
    assert capsys.readouterr().out.count("flagged") == 2
    compare.write_csv(tmp_path / "rows.csv", [row])
    assert "tokens an answer" in next(csv.DictReader((tmp_path / "rows.csv").open()))["flags"]


def test_what_is_not_finite_is_null() -> None:
    endless = measured("m", ("a",), seconds=1.0, nats=1000.0)
    row = compared("m", endless, BASE).plain()
    assert row["perplexity"] is None
    assert "Infinity" not in json.dumps(row) and "NaN" not in json.dumps(row)


def test_csv_has_a_line_for_each_model_also_for_one_that_failed(tmp_path: Path) -> None:
    out = tmp_path / "rows.csv"
    compare.write_csv(out, [base_row("base", BASE), failed("bad, worse", "oom", "too\nlarge")])
    lines = list(csv.DictReader(out.open(encoding="utf-8")))
    assert [line["model"] for line in lines] == ["base", "bad, worse"]
    assert lines[0]["speedup"] == "1.0"
    assert (lines[1]["speedup"], lines[1]["failed"], lines[1]["reason"]) == ("", "oom", "too\nlarge")


@pytest.fixture
def models(tmp_path: Path) -> list[str]:
    for name in ("one", "two", "three"):
        shutil.copytree(MODEL_DIR, tmp_path / name)
    return [str(tmp_path / name) for name in ("one", "two", "three")]


@pytest.fixture
def measuring(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Puts what a measurement comes to, or raises, in the place of engines: folder's name -> outcome."""
    outcomes: dict[str, Any] = {}

    def measure(self: Bench, model: Path, *, empty: bool, **_: Any) -> Iterator[Measurement]:
        assert empty and self.workload.judge is None
        outcome = outcomes[model.name]
        if isinstance(outcome, BaseException):
            raise outcome
        yield outcome

    monkeypatch.setattr(Bench, "measure_baseline", lambda self, **_: BASE)
    monkeypatch.setattr(Bench, "measure", measure)
    monkeypatch.setattr("squeeze.server.preload", lambda *_: None)
    return outcomes


def test_a_model_that_fails_does_not_stop_the_others(
    models: list[str], measuring: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    (Path(models[0]) / "tokenizer.json").unlink()
    measuring["two"] = CandidateError("no room", stage="engine", kind="oom")
    measuring["three"] = BASE
    assert compare.main([*models, "--baseline", str(MODEL_DIR), "--json"]) == 1
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["failed"] for row in rows] == [None, "load", "oom", None]
    assert "tokenizer.json" in rows[1]["reason"]
    assert rows[3]["exact_match"] == 1.0


def test_a_model_of_mostly_empty_answers_has_its_rate_and_no_judge_of_the_workload_is_asked(
    models: list[str],
    measuring: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("JUDGE_API_KEY", "any")
    judge = "judge: {base_url: 'http://127.0.0.1:1/v1', model: fair}\n"
    (tmp_path / "judged.yaml").write_text(SMALL + judge)
    measuring["two"] = measured("two", ("", " ", "넷"), seconds=2.0)
    assert compare.main([*models[:2], "--workload", str(tmp_path / "judged.yaml"), "--json"]) == 0
    _, row = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert (row["failed"], row["non_empty"]) == (None, pytest.approx(1 / 3))


def test_an_interrupt_prints_and_writes_what_is_there(
    models: list[str], measuring: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    measuring["two"], measuring["three"] = BASE, KeyboardInterrupt()
    out = tmp_path / "rows.csv"
    with pytest.raises(KeyboardInterrupt):
        compare.main([*models, "--csv", str(out)])
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == 3  # the header, the base and one model
    assert "two" in printed[2]
    assert len(out.read_text(encoding="utf-8").splitlines()) == 3


def test_mistakes_are_told_before_anything_is_measured(models: list[str], measuring: Any) -> None:
    with pytest.raises(ConfigError, match="name another"):
        compare.main([models[0]])
    with pytest.raises(ConfigError, match="does not exist"):
        compare.main([*models, f"{models[0]}-none"])
    with pytest.raises(SetupError, match="must be writable"):
        compare.main([*models, "--csv", "/proc/none/rows.csv"])


@pytest.mark.engine
def test_a_copy_of_the_base_answers_and_reads_as_the_base(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = Path(shutil.copytree(MODEL_DIR, tmp_path / "copy"))
    heads = Path(shutil.copytree(MODEL_DIR, tmp_path / "heads"))
    config = json.loads((heads / "config.json").read_text())
    config["num_attention_heads"] *= 2
    (heads / "config.json").write_text(json.dumps(config))
    (tmp_path / "small.yaml").write_text(SMALL)
    arguments = [str(heads), str(copy), "--baseline", str(MODEL_DIR), "--held-out", "40", "--json"]
    assert compare.main([*arguments, "--workload", str(tmp_path / "small.yaml")]) == 1
    base, broken, same = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert broken["failed"] == "load"
    assert (same["similarity"], same["exact_match"], same["non_empty"]) == (1.0, 1.0, 1.0)
    assert same["speedup"] > 0
    assert same["tokens_per_answer"] == base["tokens_per_answer"]
    assert 1 < base["perplexity"] < 20
    assert same["perplexity"] == pytest.approx(base["perplexity"])
    assert set(same["benchmarks"]) == {"kmmlu_redux", "komt_bench"}
