from __future__ import annotations

import os
import shutil
from collections import namedtuple
from pathlib import Path

import pytest

from squeeze.cache import Cache
from squeeze.config import CompressionConfig, DepthConfig, DistillConfig, QuantizeConfig
from squeeze.demo import MODEL_DIR
from squeeze.disk import SPARE_BYTES, check_room, needed_bytes
from squeeze.errors import CandidateError
from squeeze.folder import size_bytes

Usage = namedtuple("Usage", "total used free")
EIGHT = CompressionConfig(quantize=QuantizeConfig(scheme="W8A8"))
FEWER = CompressionConfig(depth=DepthConfig(layers=4))
TAUGHT = FEWER.model_copy(update={"distill": DistillConfig()})


def needed(config: CompressionConfig) -> int:
    return needed_bytes(config, MODEL_DIR) - SPARE_BYTES


def test_each_stage_is_foretold_by_what_it_leaves() -> None:
    whole = size_bytes(MODEL_DIR)
    assert needed(CompressionConfig()) == whole
    assert whole * 0.5 < needed(EIGHT) < whole
    assert whole * 0.5 < needed(FEWER) < whole
    assert needed(TAUGHT) > 5 * needed(FEWER)
    both = FEWER.model_copy(update={"quantize": EIGHT.quantize})
    assert needed(FEWER) < needed(both) < needed(FEWER) + needed(EIGHT)


def test_what_the_cache_has_is_not_written_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert needed_bytes(TAUGHT, MODEL_DIR, ["depth", "distill"]) == SPARE_BYTES
    assert needed_bytes(TAUGHT, MODEL_DIR, ["distill"]) == needed_bytes(FEWER, MODEL_DIR)
    full(monkeypatch, 10 << 20)
    check_room(TAUGHT, MODEL_DIR, tmp_path, None, lambda: ["depth", "distill"])


def full(monkeypatch: pytest.MonkeyPatch, free: int) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(10**12, 10**12 - free, free))


def test_a_build_that_does_not_fit_is_refused_before_it_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    full(monkeypatch, 10 << 20)
    with pytest.raises(CandidateError, match=r"writes 0\.\d\d GB, 0\.01 GB are free in") as caught:
        check_room(EIGHT, MODEL_DIR, tmp_path / "not" / "yet", None)
    assert (caught.value.kind, caught.value.stage) == ("disk", "build")


def test_the_cache_makes_room_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = Cache(tmp_path / "cache")
    for key in ("old", "new"):
        cache.stage(key).mkdir(parents=True)
        (cache.stage(key) / "weights").write_bytes(b"0" * 2**20)
    long_ago = 1_000_000_000
    os.utime(cache.stage("old"), (long_ago, long_ago))
    os.utime(cache.stage("new"), (long_ago + 1, long_ago + 1))
    free = needed_bytes(EIGHT, MODEL_DIR) - 2**19

    def usage(_: Path) -> Usage:
        left = free if cache.stage("old").exists() else free + 2**20
        return Usage(10**12, 10**12 - left, left)

    monkeypatch.setattr(shutil, "disk_usage", usage)
    check_room(EIGHT, MODEL_DIR, tmp_path, cache)
    assert not cache.stage("old").exists()
    assert cache.stage("new").exists()
