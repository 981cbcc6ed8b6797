"""The proof runs where the competition-cpu stack is installed: ``make competition`` installs it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from proof import TIE, prove

PEER = Path(os.environ.get("SQUEEZE_COMPETITION_PYTHON", ".venv-competition/bin/python"))


@pytest.mark.engine
@pytest.mark.skipif(not PEER.exists(), reason=f"{PEER} is not there; make competition installs it")
def test_an_exported_pruned_model_answers_the_same_with_the_contests_versions(tmp_path: Path) -> None:
    outcome = prove(tmp_path, PEER)
    exact, served = outcome["float32"], outcome["bfloat16"]
    assert exact["chats"] == 20
    assert exact["empty"] == 0
    assert exact["identical"] == exact["chats"], exact["differ"]
    assert exact["same_reading"]
    assert exact["logit_distance"] < 1e-4
    assert [part for part in served["differ"] if part["gap"] > TIE] == []
    assert max(outcome["quantized"].values()) < 1e-4
    assert exact["versions"][1]["transformers"] == "4.57.3"
