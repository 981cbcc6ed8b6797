"""Slots: who gets which name, when it is free again, and that vLLM takes the name for the model."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from squeeze.bench import slot
from squeeze.child import Child
from squeeze.errors import SetupError

HOLD = """
import sys
from pathlib import Path
from squeeze.bench import slot
print(slot.hold(Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3])), flush=True)
sys.stdin.read()
"""


class Holder:
    """A process that holds a slot until it is ended."""

    def __init__(self, model: Path, role: str, folder: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", HOLD, str(model), role, str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        self.slot = Path(self.process.stdout.readline().strip())

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.communicate()


@pytest.fixture
def hold(tmp_path: Path) -> Iterator[Callable[..., Holder]]:
    """(name of a model, role) -> a process that holds a slot for it."""
    holders: list[Holder] = []

    def start(model: str, role: str = "candidate") -> Holder:
        (tmp_path / model).mkdir(exist_ok=True)
        holders.append(Holder(tmp_path / model, role, tmp_path / "slots"))
        return holders[-1]

    yield start
    for holder in holders:
        holder.kill()


def test_one_model_after_the_other_has_the_same_name(hold: Callable[..., Holder], tmp_path: Path) -> None:
    first = hold("one")
    assert first.slot.resolve() == tmp_path / "one"
    first.kill()  # as the end of an engine is
    second = hold("two")
    assert second.slot == first.slot
    assert second.slot.resolve() == tmp_path / "two"


def test_models_served_at_once_have_names_of_their_own(hold: Callable[..., Holder], tmp_path: Path) -> None:
    first, second = hold("one"), hold("two")
    assert (first.slot.name, second.slot.name) == ("candidate-0", "candidate-1")
    assert (first.slot.resolve(), second.slot.resolve()) == (tmp_path / "one", tmp_path / "two")


def test_the_baseline_does_not_take_a_candidates_name(hold: Callable[..., Holder]) -> None:
    assert [hold("base", "baseline").slot.name, hold("one").slot.name] == ["baseline-0", "candidate-0"]


def test_a_model_that_is_gone_leaves_its_name_to_the_next(
    hold: Callable[..., Holder], tmp_path: Path
) -> None:
    hold("one").kill()
    (tmp_path / "one").rmdir()  # the link now leads nowhere
    assert hold("two").slot.resolve() == tmp_path / "two"


def test_a_program_that_the_holder_started_does_not_hold_on(tmp_path: Path) -> None:
    code = HOLD.replace("sys.stdin.read()", "import os; os.system('sleep 60 >&- 2>&- & echo $!')")
    command = [sys.executable, "-c", code, str(tmp_path), "candidate", str(tmp_path / "slots")]
    printed = subprocess.run(command, capture_output=True, text=True, check=True, timeout=50).stdout
    left = int(printed.split()[-1])
    try:
        os.kill(left, 0)  # it still runs
        assert slot.hold(tmp_path, "candidate", tmp_path / "slots").name == "candidate-0"
    finally:
        os.kill(left, signal.SIGKILL)


def test_a_folder_that_cannot_be_written_is_told_with_the_remedy(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SetupError, match=r"must be writable.*set VLLM_CACHE_ROOT"):
        slot.hold(tmp_path, "candidate", tmp_path / "file" / "slots")


@pytest.mark.engine
def test_vllm_keys_what_it_compiles_by_the_slot_and_not_by_the_folder(
    copied: Path, tiny: Path, tmp_path: Path
) -> None:
    through = [keys(folder, tmp_path, "candidate") for folder in (tiny, copied)]
    assert through[0] == through[1]
    assert through[0]["model"] == str(tmp_path / "slots" / "candidate-0")
    direct = [keys(folder, tmp_path, None) for folder in (tiny, copied)]
    assert direct[0]["key"] != direct[1]["key"]


def keys(model: Path, work: Path, role: slot.Role | None) -> Any:
    """The model's path and the key of its configuration as vLLM has them, in a process of its own."""
    with Child(partial(Configured, model, work, role), stage="engine", log=work / "log") as child:
        return child.call(None, deadline_s=120)


class Configured:
    """Asks vLLM what it makes of a model folder, without serving it."""

    def __init__(self, model: Path, work: Path, role: slot.Role | None) -> None:
        self._model = slot.hold(model, role, work / "slots") if role else model

    def __call__(self, request: None, tell: Callable[[Any], None]) -> dict[str, str]:
        from vllm.engine.arg_utils import EngineArgs

        config = EngineArgs(model=str(self._model), max_model_len=128).create_model_config()
        return {"model": config.model, "key": config.compute_hash()}
