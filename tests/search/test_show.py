from __future__ import annotations

import errno
import json
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from objectives import competition
from search import show, status
from search.keep import delete_others
from search.records import Confirmation, TrialRecord, model_folder, save_again, save_baseline, save_trial
from squeeze.config import CompressionConfig
from squeeze.errors import ConfigError
from squeeze.folder import Manifest, file_hash, write_manifest
from squeeze.records import Measurement, Pass, Question, Score, Timing


def confirmed(again: float, pooled: float) -> Confirmation:
    """Intervals of ± 0.01 and ± 0.005."""
    scores = {
        name: Score(value=value, low=value - reach, high=value + reach, perf_norm=1.0, speed_norm=0.0)
        for name, value, reach in (("again", again, 0.01), ("pooled", pooled, 0.005))
    }
    return Confirmation(baseline="b", **scores)


def timed(first: float, second: float, beside: float) -> Measurement:
    """Two passes of so many seconds, each beside one of the baseline's; four questions, all right."""

    def one(seconds: float) -> Pass:
        return Pass(started=0.0, timings={"kmmlu_pro": Timing(seconds=seconds, tokens=100)})

    questions = tuple(Question(index=i, answers=("1",), tokens=25, score=1.0) for i in range(4))
    return Measurement(
        model="m",
        workload="w",
        engine={},
        complete=True,
        questions={"kmmlu_pro": questions},
        passes=(one(first), one(second)),
        reference=(one(beside), one(beside)),
    )


def test_json_has_the_fields_scripts_rely_on(
    workplace: Path, scored: Callable[..., TrialRecord], capsys: pytest.CaptureFixture[str]
) -> None:
    save_trial("demo", scored(0, 0.6, perf=0.9, speed=0.3))
    pruned = TrialRecord(
        number=1, state="pruned", params={}, config=CompressionConfig(), reason="after speed"
    )
    save_trial("demo", pruned)
    assert show.main(["--study", "demo", "--json"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    fields = "number state score low high perf_norm speed_norm config seconds reason audit wrongly_pruned"
    fields += " tokens_per_answer baseline_tokens_per_answer confirmed left_out best tie again flags"
    fields += " seconds_per_token baseline_seconds_per_token time_ratio benchmarks"
    assert [list(row) for row in rows] == [fields.split()] * 2
    assert (rows[0]["score"], rows[0]["perf_norm"], rows[0]["speed_norm"]) == (0.6, 0.9, 0.3)
    assert (rows[1]["state"], rows[1]["score"], rows[1]["reason"]) == ("pruned", None, "after speed")
    assert [row["best"] for row in rows] == [True, False]


def test_json_tells_the_first_and_the_confirmed_score_and_ties(
    workplace: Path, scored: Callable[..., TrialRecord], capsys: pytest.CaptureFixture[str]
) -> None:
    confirmation = confirmed(again=0.58, pooled=0.59)
    for record in (
        scored(0, 0.55),
        scored(1, 0.575),
        scored(2, 0.6).model_copy(update={"confirmation": confirmation}),
    ):
        save_trial("demo", record)
    show.main(["--study", "demo", "--json"])
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["score"] for row in rows] == [0.55, 0.575, 0.6]
    assert [row["confirmed"] for row in rows] == [None, None, {"value": 0.59, "low": 0.585, "high": 0.595}]
    assert [(row["best"], row["tie"]) for row in rows] == [(False, False), (False, True), (True, False)]
    show.main(["--study", "demo"])
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines[1][:5] == ["2", "complete", "best", "0.6000", "0.5900–0.6100"]
    assert lines[1][5:11] == ["(0.5800", "±", "0.0100)", "0.5900", "±", "0.0050"]  # in brackets: not held out
    assert [line[2] for line in lines[2:]] == ["tie", "0.5500"]


def test_the_best_is_told_with_both_its_scores_and_what_ties_with_it(
    scored: Callable[..., TrialRecord],
) -> None:
    confirmation = confirmed(again=0.58, pooled=0.59)
    records = [scored(0, 0.6).model_copy(update={"confirmation": confirmation}), scored(1, 0.575)]
    assert show.best_told([]) is None
    assert show.best_told(records[1:]) == "best: trial 1, Score 0.5750 ± 0.0100 (measured once)"
    assert show.best_told(records) == (
        "best: trial 0, Score 0.5900 ± 0.0050 (first 0.6000, again 0.5800); "
        "not known to be better than trial 1"
    )
    held_out = confirmation.model_copy(update={"held_out": {"kmmlu_pro": 36, "ko_longrag": 18}})
    told = show.best_told([records[0].model_copy(update={"confirmation": held_out})])
    assert told is not None and "(first 0.6000, on 54 held-out questions 0.5800)" in told


def test_the_second_score_is_shown_with_the_questions_that_were_held_out(
    workplace: Path, scored: Callable[..., TrialRecord], capsys: pytest.CaptureFixture[str]
) -> None:
    confirmation = confirmed(again=0.58, pooled=0.59).model_copy(update={"held_out": {"kmmlu_pro": 36}})
    save_trial("demo", scored(2, 0.6).model_copy(update={"confirmation": confirmation}))
    show.main(["--study", "demo", "--json"])
    (row,) = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert row["again"] == {"value": 0.58, "low": 0.57, "high": 0.59, "held_out": {"kmmlu_pro": 36}}
    show.main(["--study", "demo"])
    heading, line = capsys.readouterr().out.splitlines()
    assert "held out" in heading
    assert line.split()[5:11] == ["0.5800", "±", "0.0100", "0.5900", "±", "0.0050"]


def test_a_flagged_best_is_called_so_wherever_the_best_is_told(
    workplace: Path, scored: Callable[..., TrialRecord], capsys: pytest.CaptureFixture[str]
) -> None:
    record = scored(3, 0.6)
    assert record.score is not None
    flag = "kmmlu_pro: 31.2 tokens an answer, the baseline 16.4"
    flagged = record.model_copy(update={"score": record.score.model_copy(update={"flags": (flag,)})})
    save_trial("demo", flagged)
    assert flag in (show.best_told([flagged]) or "")
    show.main(["--study", "demo"])
    line = capsys.readouterr().out.splitlines()[1]
    assert line.split()[2:4] == ["best", "flagged"] and flag in " ".join(line.split())
    show.main(["--study", "demo", "--json"])
    assert json.loads(capsys.readouterr().out)["flags"] == [flag]
    status.main(["--study", "demo"])
    assert f"best 0.6000 (trial 3); flagged: {flag}" in capsys.readouterr().out


def test_another_objective_scores_both_measurements_again(
    workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, again, baseline = timed(1.0, 1.1, 2.0), timed(1.4, 1.5, 2.0), timed(2.0, 2.0, 2.0)
    record = TrialRecord(
        number=4,
        state="complete",
        params={},
        config=CompressionConfig(),
        measurement=first,
        score=confirmed(0.0, 0.0).again,
        baseline="b",
        confirmation=confirmed(0.1, 0.1),
    )
    save_trial("demo", record)
    save_again("demo", 4, again)
    save_baseline("demo", "b", baseline)
    show.main(["--study", "demo", "--objective", "competition", "--trial", "4"])
    found = TrialRecord.model_validate_json(capsys.readouterr().out)
    assert found.score == competition.score(first, baseline)
    assert found.confirmation is not None and found.confirmed is not None
    assert found.confirmation.again == competition.score(again, baseline)
    assert found.confirmation.again.value < found.confirmed.value < found.score.value
    # Made beside another engine's baseline, so not to be pooled with the first.
    elsewhere = found.confirmation.model_copy(update={"baseline": "c", "first_baseline": None})
    save_baseline("demo", "c", baseline)
    save_trial("demo", record.model_copy(update={"confirmation": elsewhere}))
    show.main(["--study", "demo", "--objective", "competition", "--trial", "4"])
    found = TrialRecord.model_validate_json(capsys.readouterr().out)
    assert found.confirmation is not None and found.confirmed == found.confirmation.again


def test_the_pareto_front_leaves_out_what_is_beaten_in_both_parts(
    scored: Callable[..., TrialRecord],
) -> None:
    records = [
        scored(0, 0.5, 1.0, 0.0),
        scored(1, 0.5, 0.8, 0.3),
        scored(2, 0.4, 0.8, 0.2),
        scored(3, 0.5, 0.7, 0.1),
    ]
    assert [record.number for record in show.pareto_front(records)] == [0, 1]


def test_the_table_lists_the_best_first(
    workplace: Path, scored: Callable[..., TrialRecord], capsys: pytest.CaptureFixture[str]
) -> None:
    for number, value in enumerate((0.5, 0.7, 0.6)):
        save_trial("demo", scored(number, value))
    show.main(["--study", "demo"])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[1:]] == ["1", "2", "0"]


def test_the_best_with_recovery_is_told_beside_the_best_without(
    workplace: Path, scored: Callable[..., TrialRecord], capsys: pytest.CaptureFixture[str]
) -> None:
    trained = CompressionConfig.model_validate({"depth": {"layers": 4}, "distill": {}})
    records = [scored(0, 0.5), scored(1, 0.55), scored(2, 0.6).model_copy(update={"config": trained})]
    assert show.with_and_without_training(records[:2]) is None
    assert show.with_and_without_training(records[2:]) == (
        "best Score with recovery: 0.6000 (0.5900–0.6100, trial 2); without: none was measured to the end"
    )
    for record in records:
        save_trial("demo", record)
    show.main(["--study", "demo"])
    assert capsys.readouterr().err == (
        "best Score with recovery: 0.6000 (0.5900–0.6100, trial 2); "
        "without: 0.5500 (0.5400–0.5600, trial 1)\n"
        "0 trials pruned; prunes audited to the end: 0, of which wrong: 0\n"
    )


@pytest.mark.parametrize(
    "argv", [["--study", "none"], ["--study", "../x"], ["--study", "demo", "--trial", "7"]]
)
def test_what_does_not_exist_is_one_line(
    workplace: Path, scored: Callable[..., TrialRecord], argv: list[str]
) -> None:
    save_trial("demo", scored(0, 0.5))
    with pytest.raises(ConfigError):
        show.main(argv)


def test_a_study_that_is_not_running_is_told_so(
    workplace: Path, scored: Callable[..., TrialRecord], capsys: pytest.CaptureFixture[str]
) -> None:
    save_trial("demo", scored(0, 0.5))
    (workplace / "studies/demo/live.json").write_text(
        json.dumps({"owner": f"{socket.gethostname()}:1:of-another-life", "since": 0})
    )
    status.main(["--study", "demo"])
    assert (
        capsys.readouterr().out
        == "demo: not running; 1 complete, 0 pruned, 0 failed; best 0.5000 (trial 0)\n"
    )


def built(record: TrialRecord) -> Path:
    """The folder of a trial's model, of one file."""
    folder = model_folder("demo", record.number)
    folder.mkdir(parents=True)
    (folder / "weights").write_text(str(record.number))
    files = {"weights": file_hash(folder / "weights")}
    write_manifest(folder, Manifest(files=files, config=record.config, base="b", data="d", versions={}))
    return folder


def test_a_model_that_cannot_be_read_stays_and_takes_nobodys_place(
    workplace: Path, scored: Callable[..., TrialRecord], monkeypatch: pytest.MonkeyPatch
) -> None:
    from search import keep
    from squeeze import folder

    records = [scored(number, value) for number, value in enumerate((0.5, 0.9, 0.6, 0.7, 0.8))]
    for record in records:
        built(record)
    verify = folder.verify_manifest

    def failing(path: Path, *, anew: bool) -> Manifest:
        if path.name == "0001":
            raise OSError(errno.EIO, "Input/output error")
        return verify(path, anew=anew)

    monkeypatch.setattr(keep, "verify_manifest", failing)
    assert delete_others("demo", records) == [0]


def test_only_the_best_three_whole_models_stay(workplace: Path, scored: Callable[..., TrialRecord]) -> None:
    records = [scored(number, value) for number, value in enumerate((0.5, 0.9, 0.6, 0.7, 0.8))]
    for record in records:
        built(record)
    (model_folder("demo", 1) / "weights").write_text("flipped")
    half = workplace / "models/demo/.0007.partial-1"
    half.mkdir()
    assert delete_others("demo", records) == [0, 1]
    assert sorted(path.name for path in (workplace / "models/demo").iterdir()) == ["0002", "0003", "0004"]


def test_before_a_model_is_deleted_those_that_stay_are_read_anew(
    workplace: Path, scored: Callable[..., TrialRecord]
) -> None:
    records = [scored(number, value) for number, value in enumerate((0.6, 0.7, 0.8))]
    for record in records:
        built(record)
    assert delete_others("demo", records) == []  # all have been verified in this process now
    weights = model_folder("demo", 2) / "weights"
    times = weights.stat().st_atime_ns, weights.stat().st_mtime_ns
    damaged = bytearray(weights.read_bytes())
    damaged[0] ^= 1
    weights.write_bytes(damaged)
    os.utime(weights, ns=times)  # as a disk that fails does it
    records.append(scored(3, 0.9))
    built(records[3])
    assert delete_others("demo", records) == [2]


def test_a_model_that_cannot_be_deleted_ends_no_search(
    workplace: Path, scored: Callable[..., TrialRecord], monkeypatch: pytest.MonkeyPatch
) -> None:
    records = [scored(number, number / 10) for number in range(5)]
    for record in records:
        built(record)
    unlink = os.unlink

    def busy(path: str, **options: Any) -> None:
        if str(path) == "weights" and busy_now:
            raise OSError(errno.EBUSY, "Device or resource busy")
        unlink(path, **options)

    busy_now = True
    monkeypatch.setattr(os, "unlink", busy)
    assert delete_others("demo", records) == []
    busy_now = False
    assert delete_others("demo", records) == [0, 1]


def test_a_benchmark_that_is_left_out_of_the_scores_is_said_with_the_reason(
    workplace: Path, scored: Callable[..., TrialRecord], capsys: pytest.CaptureFixture[str]
) -> None:
    for number in (0, 1):
        record = scored(number, 0.6)
        assert record.score is not None
        score = record.score.model_copy(update={"left_out": {"komt_bench": "no judge was given"}})
        save_trial("demo", record.model_copy(update={"score": score}))
    save_trial("demo", scored(2, 0.5))
    assert show.main(["--study", "demo"]) == 0
    told = capsys.readouterr().err
    assert told.count("komt_bench counts for speed alone") == 1
    assert "no judge was given" in told
    assert show.main(["--study", "demo", "--json"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["left_out"] for row in rows] == [{"komt_bench": "no judge was given"}] * 2 + [{}]
