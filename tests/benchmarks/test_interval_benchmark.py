"""The check of intervals, on measurements made by hand: no engine is started where all of them are there."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from benchmarks import interval
from squeeze.records import Measurement, Pass, Question, Timing


def passes(draw: random.Random, off: float) -> tuple[Pass, ...]:
    return tuple(
        Pass(
            started=0.0,
            timings={
                name: Timing(seconds=off * took * draw.lognormvariate(0, 0.01), tokens=100)
                for name, took in (("kmmlu_pro", 1.0), ("ko_longrag", 2.0))
            },
        )
        for _ in range(3)
    )


def measured(draw: random.Random, asked: list[int], right: float, off: float) -> Measurement:
    """Both benchmarks with those questions; the baseline is right in all."""
    questions = {
        name: tuple(
            Question(index=index, answers=("정답: A",), tokens=10, score=float(draw.random() < right))
            for index in asked
        )
        for name in ("kmmlu_pro", "ko_longrag")
    }
    return Measurement(
        model="m",
        workload="w",
        engine={"device": "cpu"},
        complete=True,
        questions=questions,
        passes=passes(draw, off),
        reference=passes(draw, 1.0),
    )


def store(out: Path, apart: float, repeats: int = 20) -> None:
    """Repeats whose time ratio differs between processes by that deviation of the logarithm."""
    draw = random.Random(1)
    everything = measured(draw, list(range(400)), 1.0, 1.0)
    (out / "baseline.json").write_text(everything.model_dump_json())
    for repeat in range(repeats):
        asked = sorted(draw.sample(range(400), 40))
        for name, right, faster in (("unchanged", 1.0, 1.0), ("smaller", 0.9, 0.8)):
            one = measured(draw, asked, right, faster * draw.lognormvariate(0, apart))
            (out / f"{name}-{repeat:03d}.json").write_text(one.model_dump_json())


def test_intervals_of_noise_that_is_as_assumed_cover_the_pooled_value(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store(tmp_path, apart=0.03)
    assert interval.main(["--out", str(tmp_path)]) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert 0.8 <= found["coverage"] <= 1.0
    assert found["aa_speed_norm_median"] < 0.06
    assert set(found["by_candidate"]) == {"unchanged", "smaller"}
    assert found["by_candidate"]["smaller"]["pooled"]["speed_norm"] == pytest.approx(0.2, abs=0.02)
    assert found["by_candidate"]["smaller"]["deviation"] == pytest.approx(0.03, rel=0.4)
    assert found["by_candidate"]["unchanged"]["pooled"]["perf_norm"] == 1.0
    assert found["by_place"]["ko_longrag, pass 2"] == pytest.approx(1.0, abs=0.03)
    assert found["versions"] and found["machine"]


def test_noise_far_beyond_what_is_assumed_shows_as_low_coverage(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store(tmp_path, apart=0.3)
    interval.main(["--out", str(tmp_path)])
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["coverage"] < 0.7


def test_without_time_for_more_than_is_there_nothing_is_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store(tmp_path, apart=0.03, repeats=2)
    assert interval.main(["--out", str(tmp_path), "--repeats", "20", "--minutes", "0"]) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found["by_candidate"]["unchanged"]["repeats"] == 2
