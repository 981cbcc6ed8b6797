"""Where what is compiled is kept: the environment that an engine starts with."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from squeeze.bench import compiled

ONE_FILE = "VLLM_USE_MEGA_AOT_ARTIFACT"
NAMES = (
    "VLLM_CACHE_ROOT",
    "TRITON_CACHE_DIR",
    ONE_FILE,
    "VLLM_USE_AOT_COMPILE",
    "VLLM_USE_STANDALONE_COMPILE",
    "VLLM_DISABLE_COMPILE_CACHE",
)


@pytest.fixture(autouse=True)
def plain(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in NAMES:
        monkeypatch.setenv(name, "")  # so that it is put back
        monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


def test_each_version_of_vllm_has_its_folder_and_triton_one_inside(tmp_path: Path) -> None:
    compiled.keep_compiled()
    folder = compiled.cache_folder()
    assert folder.parent == tmp_path / "squeeze"
    assert os.environ["VLLM_CACHE_ROOT"] == str(folder)
    assert os.environ["TRITON_CACHE_DIR"] == str(folder / "triton")


def test_folders_that_the_caller_named_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_CACHE_ROOT", str(tmp_path / "mine"))
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "triton"))
    compiled.keep_compiled()
    assert compiled.cache_folder() == tmp_path / "mine"
    assert os.environ["TRITON_CACHE_DIR"] == str(tmp_path / "triton")


@pytest.mark.parametrize(
    ("torch", "given", "told"),
    [
        ((2, 9), {}, None),
        ((2, 11), {}, "1"),
        ((2, 13), {}, "1"),
        ((2, 11), {ONE_FILE: "0"}, "0"),
        ((2, 11), {"VLLM_USE_STANDALONE_COMPILE": "0"}, None),
        ((2, 11), {"VLLM_USE_AOT_COMPILE": "0"}, None),
        ((2, 11), {"VLLM_DISABLE_COMPILE_CACHE": "1"}, None),
        (None, {}, None),
    ],
)
def test_graphs_are_kept_in_one_file_where_torch_can_and_nobody_switched_off_what_it_needs(
    torch: tuple[int, int] | None,
    given: dict[str, str],
    told: str | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(compiled, "installed", lambda names: {"torch": "any"} if torch else {})
    monkeypatch.setattr(compiled, "major", lambda name: torch)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    compiled.keep_compiled()
    assert os.environ.get(ONE_FILE) == told
