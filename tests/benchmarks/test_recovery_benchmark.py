"""What the benchmark of recovery counts, and that both of its trainings see the same text."""

import sys
from pathlib import Path

import pytest

from squeeze.config import DistillConfig

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import recovery


def record(
    case: str, method: str | None, seed: int | None, perf: float, budget: str | None
) -> dict[str, object]:
    return {
        "case": case,
        "method": method,
        "seed": seed,
        "budget": budget,
        "perf": perf,
        "tokens_per_answer": 13.0,
        "tokens": 1000,
        "seconds": 2.0,
    }


def test_recovered_is_the_share_of_what_was_lost() -> None:
    assert recovery.recovered(before=0.6, after=0.75, base=0.9) == pytest.approx(0.5)
    assert recovery.recovered(before=0.6, after=0.5, base=0.9) < 0


def test_the_summary_gives_mean_and_range_over_the_seeds_of_each_method() -> None:
    records = [
        record("base", None, None, 0.9, None),
        record("one_layer", None, None, 0.8, None),
        *(
            record("one_layer", "distill", seed, perf, "epoch")
            for seed, perf in enumerate((0.84, 0.86, 0.88))
        ),
        record("one_layer", "text", 0, 0.82, "epoch"),
    ]
    found = recovery.summary(records)["one_layer"]
    assert found["epoch"]["distill"]["perf"] == {"mean": 0.86, "min": 0.84, "max": 0.88}
    assert found["epoch"]["distill"]["recovered"] == {"mean": 0.6, "min": 0.4, "max": 0.8}
    assert found["epoch"]["text"]["seeds"] == 1
    assert found["before"]["perf"] == 0.8


@pytest.mark.parametrize("budget", recovery.BUDGETS)
def test_budgets_are_valid_and_differ_between_seeds_in_the_text_alone(budget: str) -> None:
    one, other = (DistillConfig(**recovery.training(recovery.BUDGETS[budget], seed)) for seed in (0, 1))
    assert one.text.seed != other.text.seed
    assert one.model_copy(update={"text": other.text}) == other


def test_four_epochs_go_on_from_one() -> None:
    one, four = (recovery.BUDGETS[name] for name in ("epoch", "four_epochs"))
    assert {**one, "epochs": 4} == four
