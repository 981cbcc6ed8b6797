"""What the recording of a table leaves to do after a kill."""

import sys
from argparse import Namespace
from pathlib import Path

import optuna
import pytest

from search.storage import default_storage

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import record


def queued(study: str) -> list[dict[str, object]]:
    trials = optuna.load_study(study_name=study, storage=default_storage(study)).get_trials()
    return [trial.system_attrs["fixed_params"] for trial in trials]


def test_a_start_queues_what_a_killed_one_did_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert record._deal("grid-0", 0, Namespace(jobs=1, only=2)) == 2  # as far as the killed one came
    first = queued("grid-0")
    for _ in range(2):
        assert record._deal("grid-0", 0, Namespace(jobs=1, only=5)) == 5
        found = queued("grid-0")
        assert found[:2] == first
        assert len({str(sorted(params.items())) for params in found}) == len(found) == 5
