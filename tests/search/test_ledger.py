"""The ledger remembers what the server said, and says how sure it is of what it would say."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from datetime import UTC, datetime
from math import isclose, sqrt
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from search import ledger
from search.calibration import (
    BY_PARTS,
    LEAST_FOR_SLOPES,
    PLAIN,
    WIDENED,
    Way,
    agreement,
    by_family,
    by_parts,
    calibrate,
    choose,
    left_out_errors,
    monotone,
    shifted,
    unseen_errors,
)
from search.cli import run_command
from search.pairs import LocalScore, Pair, ledger_path, load_pairs, parse_family
from search.records import Confirmation, TrialRecord, save_trial
from squeeze.config import CompressionConfig, DepthConfig, QuantizeConfig
from squeeze.errors import ConfigError, SetupError
from squeeze.records import Score

PUBLIC = (
    ("W4A16", 0.5724, 0.4678),
    ("FP8_DYNAMIC", 0.5395, 0.4936),
    ("FP8", 0.5915, 0.4929),
    ("finetune+W4A16", 0.5421, 0.3202),
)
"""Reported by participants: how it was compressed, local Score, the server's."""


def pair(family: str, local: float, server: float, trial: int | None = None, **known: float) -> Pair:
    families = parse_family(family)
    return Pair(families=families, local=local, server=server, date="2026-01-01", trial=trial, **known)


def of_gaps(*gaps: tuple[str, float]) -> list[Pair]:
    """Trials of that family whose server Score differs from the local one by that much."""
    return [
        pair(family, 0.5 + place / 100, 0.5 + place / 100 + gap, place)
        for place, (family, gap) in enumerate(gaps)
    ]


def public() -> list[Pair]:
    return [pair(*one) for one in PUBLIC]


def enter(study: str, *pairs: tuple[str, float, float]) -> None:
    for family, local, server in pairs:
        argv = ["add", "--study", study, "--local", str(local), "--family", family]
        assert ledger.main([*argv, "--server-score", str(server)]) == 0


def with_scheme(record: TrialRecord, scheme: str, layers: int | None = None) -> TrialRecord:
    depth = DepthConfig(layers=layers) if layers else None
    config = CompressionConfig(depth=depth, quantize=QuantizeConfig.model_validate({"scheme": scheme}))
    return record.model_copy(update={"config": config})


def mistake(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, str]:
    """The exit code and the one line on stderr."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        run_command(lambda: ledger.main(argv))
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ")
    assert captured.err.count("\n") == 1
    assert isinstance(ended.value.code, int)
    return ended.value.code, captured.err


# The command


def test_a_trial_is_entered_with_what_is_known_of_it(
    workplace: Path, scored: Callable[..., TrialRecord], capsys: pytest.CaptureFixture[str]
) -> None:
    save_trial("demo", with_scheme(scored(7, 0.55, perf=0.9, speed=0.2), "W8A8", layers=7))
    before = datetime.now(UTC).replace(microsecond=0)
    assert ledger.main(["add", "--trial", "7", "--server-score", "0.61", "--note", "quiet server"]) == 0
    (known,) = load_pairs("demo")
    assert (known.trial, known.local, known.server, known.measured) == (7, 0.55, 0.61, "once")
    assert (known.perf_norm, known.speed_norm) == (0.9, 0.2)
    assert (known.families, known.note) == (("depth", "W8A8"), "quiet server")
    assert before <= datetime.fromisoformat(known.date) <= datetime.now(UTC)
    assert "pairs of demo: 1" in capsys.readouterr().err


def test_the_confirmed_score_is_the_local_one(workplace: Path, scored: Callable[..., TrialRecord]) -> None:
    pooled = Score(value=0.57, low=0.56, high=0.58, perf_norm=0.97, speed_norm=0.17)
    confirmation = Confirmation(baseline="b", again=pooled, pooled=pooled)
    save_trial("demo", scored(0, 0.6).model_copy(update={"confirmation": confirmation}))
    ledger.main(["add", "--trial", "0", "--server-score", "0.5"])
    (known,) = load_pairs("demo")
    assert (known.local, known.perf_norm, known.speed_norm) == (0.57, 0.97, 0.17)
    assert known.measured == "twice"


def test_the_same_pair_is_said_and_not_doubled(
    workplace: Path, scored: Callable[..., TrialRecord], capsys: pytest.CaptureFixture[str]
) -> None:
    save_trial("demo", scored(0, 0.6))
    for _ in range(2):
        assert ledger.main(["add", "--trial", "0", "--server-score", "0.5"]) == 0
        enter("demo", ("W4A16", 0.57, 0.46))
    assert len(load_pairs("demo")) == 2
    assert capsys.readouterr().err.count("not entered again") == 2
    ledger.main(["add", "--trial", "0", "--server-score", "0.52"])
    assert [known.server for known in load_pairs("demo")] == [0.5, 0.46, 0.52]


def test_the_list_shows_every_pair_as_table_and_as_json(
    workplace: Path, scored: Callable[..., TrialRecord], capsys: pytest.CaptureFixture[str]
) -> None:
    save_trial("demo", with_scheme(scored(3, 0.55, perf=0.9, speed=0.2), "W8A8"))
    ledger.main(["add", "--trial", "3", "--server-score", "0.61"])
    enter("demo", PUBLIC[0])
    capsys.readouterr()
    ledger.main(["list"])
    first, second = (line.split() for line in capsys.readouterr().out.splitlines()[1:])
    assert first[1:] == ["3", "W8A8", "once", "0.5500", "0.900", "+0.200", "0.6100", "+0.0600"]
    assert second[1:] == ["–", "W4A16", "elsewhere", "0.5724", "0.4678", "-0.1046"]
    ledger.main(["list", "--json"])
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(row["trial"], row["families"], row["server"]) for row in rows] == [
        (3, ["W8A8"], 0.61),
        (None, ["W4A16"], 0.4678),
    ]


def long_ago(study: str) -> None:
    """All pairs of the study become of another year."""
    path = ledger_path(study)
    path.write_text(path.read_text().replace(f"{datetime.now(UTC).year}-", "2001-"))


def test_predictions_come_best_first_and_mark_the_submitted_and_the_next(
    workplace: Path,
    keep: Callable[..., None],
    scored: Callable[..., TrialRecord],
    capsys: pytest.CaptureFixture[str],
) -> None:
    keep(1, 2, 4, 5)
    locals_ = (0.56, 0.60, 0.58, 0.52, 0.57)
    for number, value in enumerate(locals_):
        save_trial("demo", with_scheme(scored(number, value, perf=1.0, speed=2 * value - 1), "W8A8"))
    save_trial("demo", with_scheme(scored(5, 0.565), "FP8"))
    enter("demo", ("W8A8", 0.50, 0.41), ("W8A8", 0.55, 0.45))
    long_ago("demo")
    ledger.main(["add", "--trial", "1", "--server-score", "0.505"])
    capsys.readouterr()
    ledger.main(["predict", "--json"])
    captured = capsys.readouterr()
    rows = {row["number"]: row for row in map(json.loads, captured.out.splitlines())}
    servers = [row["server"] for row in rows.values()]
    assert servers == sorted(servers, reverse=True)
    assert all(row["low"] <= row["server"] <= row["high"] for row in rows.values())
    assert {number: row["submitted"] for number, row in rows.items() if row["submitted"]} == {1: [0.505]}
    # One was entered today, so two are left; trial 5 is less sure and so reaches higher than trial 4.
    assert [number for number, row in rows.items() if row["next"]] == [2, 5]
    assert rows[5]["unseen"] == ["FP8"]
    uppers = [rows[number]["high"] for number in (2, 5, 4)]
    assert "submit next: trial 2, 5," in captured.err and uppers == sorted(uppers, reverse=True)
    ledger.main(["predict"])
    lines = [line.split() for line in capsys.readouterr().out.splitlines()[1:]]
    assert [line[1] for line in lines if line[0] == "5"] == ["FP8*"]
    assert [line[-1] for line in lines if line[0] in "125"] == ["0.5050", "next", "next"]


def test_trials_that_are_flagged_or_have_no_model_are_marked_and_not_advised(
    workplace: Path,
    keep: Callable[..., None],
    scored: Callable[..., TrialRecord],
    capsys: pytest.CaptureFixture[str],
) -> None:
    def predicted() -> tuple[dict[int, list[str]], list[int], str]:
        capsys.readouterr()
        ledger.main(["predict", "--json"])
        captured = capsys.readouterr()
        rows = [json.loads(line) for line in captured.out.splitlines()]
        marks = {row["number"]: row["barred"] for row in rows}
        return marks, [row["number"] for row in rows if row["next"]], captured.err.splitlines()[-1]

    enter("demo", *PUBLIC)
    long_ago("demo")
    for number in range(4):
        record = scored(number, 0.60 - number / 100)
        flags = ("in all: much talk",) if number in (0, 1) else ()
        score = record.score.model_copy(update={"flags": flags}) if record.score else None
        save_trial("demo", record.model_copy(update={"score": score}))
    marks, chosen, told = predicted()
    assert marks == {0: ["flagged", "no model"], 1: ["flagged", "no model"], 2: ["no model"], 3: ["no model"]}
    assert chosen == [] and told.startswith(
        "submit next: nothing of what was not submitted; passed over: 0, "
    )
    keep(0, 3)
    marks, chosen, told = predicted()
    assert marks == {0: ["flagged"], 1: ["flagged", "no model"], 2: ["no model"], 3: []}
    assert chosen == [3] and told.startswith("submit next: trial 3, of the highest")
    assert "passed over: 0, whose speed is doubtful" in told and "2, whose model is not kept" in told
    ledger.main(["predict"])
    rows = [line.split() for line in capsys.readouterr().out.splitlines()[1:]]
    assert [" ".join(row[5:]) for row in rows] == ["flagged", "flagged, no model", "no model", "next"]


def test_a_day_takes_three_submissions(
    workplace: Path,
    keep: Callable[..., None],
    scored: Callable[..., TrialRecord],
    capsys: pytest.CaptureFixture[str],
) -> None:
    keep(3)
    for number in range(4):
        save_trial("demo", scored(number, 0.55 + number / 100))
    for number in range(3):
        ledger.main(["add", "--trial", str(number), "--server-score", f"0.5{number}"])
    ledger.main(["predict"])
    assert "submit next: nothing today, and then trial 3, of" in capsys.readouterr().err
    long_ago("demo")
    ledger.main(["predict"])
    assert "submit next: trial 3," in capsys.readouterr().err
    # What was entered in another study, and what is no trial, was submitted too.
    enter("elsewhere", *PUBLIC[:2])
    ledger.main(["predict"])
    assert "today, UTC, in all studies: 2)" in capsys.readouterr().err
    enter("demo", PUBLIC[2])
    ledger.main(["predict"])
    assert "submit next: nothing today, and then trial 3, of" in capsys.readouterr().err
    ledger.main(["add", "--trial", "3", "--server-score", "0.53"])
    ledger.main(["predict"])
    assert "every trial with a Score was submitted" in capsys.readouterr().err


def test_a_model_that_is_no_trial_is_predicted_from_the_public_pairs(
    workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    enter("public", *PUBLIC)
    capsys.readouterr()
    ledger.main(["predict", "--study", "public", "--local", "0.6", "--family", "FP8", "--json"])
    captured = capsys.readouterr()
    row = json.loads(captured.out)
    told = calibrate(public()).forecast(LocalScore(families=("FP8",), local=0.6))
    assert (row["server"], row["low"], row["high"]) == (told.server, told.low, told.high)
    assert (row["number"], row["submitted"], row["next"]) == (None, [], False)
    assert "4 pairs; of 6 comparisons" in captured.err
    assert "needs 6 models" in captured.err
    assert "submit next" not in captured.err


def test_a_model_that_is_no_trial_is_predicted_where_the_trials_have_slopes(
    workplace: Path, scored: Callable[..., TrialRecord], capsys: pytest.CaptureFixture[str]
) -> None:
    for number, (perf, speed) in enumerate(
        [(0.7, 0.3), (0.8, 0.1), (0.9, 0.4), (1.0, 0.0), (0.75, 0.2), (1.0, 0.3)]
    ):
        save_trial("demo", scored(number, 0.5 * perf + 0.5 * speed, perf=perf, speed=speed))
        ledger.main(["add", "--trial", str(number), "--server-score", str(0.9 * perf - 0.3)])
    ledger.main(["predict"])
    assert "a shift per family (used)" in capsys.readouterr().err.split("linear in PerfNorm")[1]
    ledger.main(["predict", "--local", "0.55", "--family", "nothing"])
    captured = capsys.readouterr()
    assert captured.out.splitlines()[1].split()[:3] == ["–", "nothing", "0.5500"]
    assert "needs 6 models" in captured.err


# Mistakes


@pytest.mark.parametrize("score", ["-0.1", "1.01", "61", "nan", "inf", "much"])
def test_a_server_score_is_from_0_to_1(
    workplace: Path, capsys: pytest.CaptureFixture[str], score: str
) -> None:
    code, text = mistake(capsys, "add", "--local", "0.5", "--family", "FP8", f"--server-score={score}")
    assert code == 2
    assert "--server-score" in text and "from 0 to 1" in text and score in text
    assert not list(workplace.rglob("ledger.jsonl"))


def test_a_trial_must_be_there_and_scored(
    workplace: Path, scored: Callable[..., TrialRecord], capsys: pytest.CaptureFixture[str]
) -> None:
    save_trial("demo", scored(0, 0.6))
    pruned = {"state": "pruned", "score": None, "reason": "after speed"}
    save_trial("demo", scored(1, 0.5).model_copy(update=pruned))
    for number in ("1", "9"):
        code, text = mistake(capsys, "add", "--trial", number, "--server-score", "0.5")
        assert code == 2
        assert f"got {number}" in text and "best of which are 0" in text
    assert load_pairs("demo") == []


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["add", "--server-score", "0.5"], ["--trial", "--local", "required"]),
        (["add", "--trial", "0"], ["--server-score"]),
        (["add", "--trial", "0", "--local", "0.5", "--server-score", "0.5"], ["not allowed"]),
        (["add", "--local", "0.5", "--server-score", "0.5"], ["--family", "W4A16"]),
        (["add", "--trial", "0", "--family", "FP8", "--server-score", "0.5"], ["--local"]),
        (["add", "--local", "0.5", "--family", "W9", "--server-score", "0.5"], ["W9", "W8A8", "distill"]),
        (["add", "--local", "0.5", "--family", "", "--server-score", "0.5"], ["''", "nothing"]),
        (["add", "--trial", "-1", "--server-score", "0.5"], ["--trial", "-1"]),
        (["add", "--study", "../up", "--trial", "0", "--server-score", "0.5"], ["letters"]),
        (["list", "--study", "nowhere"], ["nowhere"]),
        (["predict", "--study", "nowhere"], ["nowhere"]),
        (["predict", "--local", "0.5"], ["--family"]),
        (["predict"], ["measured to the end", "none"]),
        (["forget"], ["forget", "add"]),
        ([], ["add|list|predict"]),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(
    workplace: Path, capsys: pytest.CaptureFixture[str], argv: list[str], words: list[str]
) -> None:
    (workplace / "studies/demo").mkdir()
    code, text = mistake(capsys, *argv)
    assert code == 2
    assert all(word in text for word in words), text
    assert not list(workplace.rglob("ledger.jsonl"))


def test_two_models_are_too_few_to_calibrate(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    enter("demo", PUBLIC[0], PUBLIC[1])
    ledger.main(["add", "--local", "0.5724", "--family", "W4A16", "--server-score", "0.5"])
    code, text = mistake(capsys, "predict", "--local", "0.6", "--family", "FP8")
    assert code == 2
    assert "3 different models" in text and "has 2" in text


def test_a_damaged_line_is_named_and_nothing_is_written_over_it(
    workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    enter("demo", PUBLIC[0], PUBLIC[1])
    path = ledger_path("demo")
    damaged = path.read_text()[:-20]
    path.write_text(damaged)
    argv = ("add", "--local", "0.5", "--family", "FP8", "--server-score", "0.5")
    code, text = mistake(capsys, *argv)
    assert code == 3
    assert "line 2" in text and str(path) in text
    assert path.read_text() == damaged


def test_a_full_disk_leaves_the_ledger_as_it_was(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    enter("demo", PUBLIC[0])
    before = ledger_path("demo").read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(SetupError, match="No space left"):
            enter("demo", PUBLIC[1])
    assert ledger_path("demo").read_bytes() == before
    assert [path.name for path in ledger_path("demo").parent.iterdir()] == ["ledger.jsonl"]


def test_families_are_read_in_the_order_of_the_stages() -> None:
    assert parse_family("nothing") == ()
    assert parse_family("W4A16+finetune") == parse_family("finetune+W4A16") == ("finetune", "W4A16")
    config = CompressionConfig(depth=DepthConfig(layers=7), quantize=QuantizeConfig(scheme="W8A8"))
    assert parse_family("W8A8+depth") == config.families
    with pytest.raises(ConfigError, match="SFT"):
        parse_family("SFT+W4A16")


# The calibration


def test_errors_on_models_left_out_are_those_computed_by_hand() -> None:
    pairs = of_gaps(("W8A8", -0.1), ("W8A8", -0.2), ("FP8", -0.3))
    # Each is predicted with the mean gap of the two others: -0.25, -0.2, -0.15.
    assert np.allclose(left_out_errors(shifted, pairs), [-0.15, 0.0, 0.15])
    # Without W8A8 one model is left, which is too few; without FP8 the mean gap is -0.15.
    assert np.allclose(unseen_errors(shifted, pairs), [0.15])


def test_a_model_that_was_submitted_twice_is_left_out_as_one() -> None:
    pairs = of_gaps(("W8A8", -0.1), ("W8A8", -0.2), ("FP8", -0.3))
    again = pairs[0].model_copy(update={"server": pairs[0].server + 0.04})
    first, *_, last = left_out_errors(shifted, [*pairs, again])
    assert isclose(first, -0.15) and isclose(last, -0.19)


def test_a_familys_shift_is_half_drawn_to_the_common_one_by_a_pair_and_less_by_more() -> None:
    pairs = of_gaps(("W8A8", -0.1), ("W8A8", -0.1), ("FP8", -0.3), ("FP8", -0.3))
    predict = by_family(pairs)
    # Ridge of one pair: two of three thirds of the distance from the common -0.2.
    for family, gap in (("W8A8", -0.2 + 0.2 / 3), ("FP8", -0.2 - 0.2 / 3), ("W4A16", -0.2)):
        assert isclose(predict(LocalScore(families=(family,), local=0.6)), 0.6 + gap, abs_tol=1e-9)
    single = by_family([pairs[0], pairs[2]])
    assert isclose(single(LocalScore(families=("W8A8",), local=0.6)), 0.6 - 0.15, abs_tol=1e-9)


def test_a_plain_way_is_used_where_it_is_not_worse() -> None:
    small = 0.004
    right = of_gaps(*(("W8A8", small * (-1) ** place) for place in range(6)))
    assert calibrate(right).way == PLAIN[0]
    off = of_gaps(*(("W8A8", -0.1 + small * (-1) ** place) for place in range(6)))
    assert calibrate(off).way == PLAIN[1]
    families = [("W8A8", -0.02), ("FP8", -0.12), ("W4A16", -0.2)] * 3
    apart = of_gaps(*((family, gap + small * (-1) ** place) for place, (family, gap) in enumerate(families)))
    assert calibrate(apart).way == PLAIN[2]
    assert choose([[0.1, -0.1, 0.1], [0.1, 0.1, -0.1]]) == 0
    assert choose([[0.3, -0.31, 0.29], [0.1, 0.1, -0.1]]) == 1


def test_slopes_are_learnt_from_trials_with_both_parts_only() -> None:
    rng = np.random.default_rng(1)
    pairs = []
    for trial in range(LEAST_FOR_SLOPES + 2):
        perf, speed = rng.uniform(0.7, 1.0), rng.uniform(0.0, 0.4)
        server = 0.9 * perf - 0.35 + 0.05 * speed
        local = 0.5 * perf + 0.5 * speed
        pairs.append(pair("W8A8", local, server, trial, perf_norm=perf, speed_norm=speed))
    assert calibrate(pairs).way == BY_PARTS
    assert BY_PARTS not in [way for way, _ in calibrate(pairs[: LEAST_FOR_SLOPES - 1]).tried]
    assert BY_PARTS not in [way for way, _ in calibrate([*pairs, pair("W8A8", 0.5, 0.4)]).tried]
    without = calibrate(pairs, asked_has_parts=False)
    assert 0 < without.forecast(LocalScore(families=("W8A8",), local=0.5)).server < 1


def test_the_public_pairs_are_told_as_computed_by_hand() -> None:
    calibration = calibrate(public())
    errors = {way: error for way, error in calibration.tried}
    assert isclose(errors[PLAIN[0]], sqrt((0.1046**2 + 0.0459**2 + 0.0986**2 + 0.2219**2) / 4))
    gaps = [server - local for _, local, server in PUBLIC]
    mean = sum(gaps) / 4
    assert isclose(errors[PLAIN[1]], sqrt(sum((4 / 3 * (gap - mean)) ** 2 for gap in gaps) / 4))
    assert agreement(public()) == (3, 6)
    told = calibration.forecast(LocalScore(families=("W8A8",), local=0.6))
    assert told.unseen == ("W8A8",)
    assert told.high - told.low > 0.5, "four such pairs cannot say where a new scheme comes out"


known = st.lists(
    st.tuples(
        st.sampled_from(["W8A8", "FP8", "depth+W8A8", "nothing"]),
        st.floats(0.6, 1.05),
        st.floats(-0.2, 0.5),
        st.floats(0.0, 1.0),
    ),
    min_size=3,
    max_size=9,
)


def trials(rows: list[tuple[str, float, float, float]]) -> list[Pair]:
    return [
        pair(family, 0.5 * perf + 0.5 * speed, server, trial, perf_norm=perf, speed_norm=speed)
        for trial, (family, perf, speed, server) in enumerate(rows)
    ]


@settings(max_examples=60, deadline=None)
@given(rows=known, first=st.floats(0, 1), second=st.floats(0, 1))
def test_the_monotone_way_never_falls_and_stays_among_what_the_server_said(
    rows: list[tuple[str, float, float, float]], first: float, second: float
) -> None:
    pairs = trials(rows)
    predict = monotone(pairs)
    low, high = (predict(LocalScore(families=(), local=value)) for value in sorted((first, second)))
    servers = [pair.server for pair in pairs]
    assert min(servers) - 1e-9 <= low <= high + 1e-9 <= max(servers) + 2e-9


@settings(max_examples=60, deadline=None)
@given(rows=known, perf=st.floats(0.5, 1), speed=st.floats(-0.2, 0.6), gain=st.floats(0, 0.3))
def test_more_quality_or_speed_never_lowers_what_the_parts_predict(
    rows: list[tuple[str, float, float, float]], perf: float, speed: float, gain: float
) -> None:
    predict = by_parts(trials(rows))

    def said(perf: float, speed: float) -> float:
        model = LocalScore(
            families=("FP8",), local=0.5 * perf + 0.5 * speed, perf_norm=perf, speed_norm=speed
        )
        return predict(model)

    assert said(perf + gain, speed) >= said(perf, speed) - 1e-6
    assert said(perf, speed + gain) >= said(perf, speed) - 1e-6


@settings(max_examples=25, deadline=None)
@given(rows=known)
def test_an_interval_holds_its_prediction_and_is_wider_for_a_family_never_submitted(
    rows: list[tuple[str, float, float, float]],
) -> None:
    calibration = calibrate(trials(rows))
    family = calibration.pairs[0].families
    model = LocalScore(families=family, local=0.55, perf_norm=0.9, speed_norm=0.2)
    seen = calibration.forecast(model)
    unseen = calibration.forecast(model.model_copy(update={"families": (*family, "W4A16")}))
    for told in (seen, unseen):
        assert 0 <= told.low <= told.server <= told.high
    assert (seen.unseen, unseen.unseen) == ((), ("W4A16",))
    assert unseen.high - unseen.server >= (seen.high - seen.server) * WIDENED - 1e-9


@pytest.mark.parametrize("count", [3, 4, 6])
def test_the_interval_holds_nine_of_ten_answers_of_a_made_server(count: int) -> None:
    rng = np.random.default_rng(count)
    repeats, held = 150, 0
    for _ in range(repeats):
        shifts = dict(zip(("W8A8", "FP8", "W4A16"), rng.normal(-0.1, 0.03, 3), strict=True))

        def draw(trial: int, shifts: dict[str, float] = shifts) -> Pair:
            family = ("W8A8", "FP8", "W4A16")[trial % 3]
            local = rng.uniform(0.5, 0.65)
            return pair(family, local, local + shifts[family] + rng.normal(0, 0.04), trial)

        calibration = calibrate([draw(trial) for trial in range(count)])
        asked = draw(int(rng.integers(3)))
        told = calibration.forecast(asked)
        held += told.low <= asked.server <= told.high
    assert held / repeats > 0.85


@pytest.mark.parametrize("way", PLAIN)
def test_every_way_without_slopes_needs_no_parts(way: Way) -> None:
    said = way.fit(public())(LocalScore(families=("depth",), local=0.55))
    assert 0.2 < said < 0.6
