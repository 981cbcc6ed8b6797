from __future__ import annotations

import os
import shutil
from collections import namedtuple
from pathlib import Path

import pytest

from squeeze.cache import Cache
from squeeze.config import CompressionConfig, DepthConfig, DistillConfig, QuantizeConfig, WidthConfig
from squeeze.demo import DATA_DIR, MODEL_DIR
from squeeze.disk import SPARE_BYTES, check_room, needed_bytes
from squeeze.errors import CandidateError
from squeeze.folder import content_key, size_bytes
from squeeze.keys import stage_keys
from squeeze.pipeline import build_in_child

Usage = namedtuple("Usage", "total used free")
EIGHT = CompressionConfig(quantize=QuantizeConfig(scheme="W8A8"))
FEWER = CompressionConfig(depth=DepthConfig(layers=4))
TAUGHT = FEWER.model_copy(update={"distill": DistillConfig()})


def needed(config: CompressionConfig) -> int:
    return needed_bytes(config, MODEL_DIR) - SPARE_BYTES


def test_each_stage_is_foretold_by_what_it_leaves() -> None:
    whole = size_bytes(MODEL_DIR)
    assert needed(CompressionConfig()) == 0  # a link
    assert whole * 0.5 < needed(EIGHT) < whole
    assert whole * 0.5 < needed(FEWER) < whole
    assert needed(TAUGHT) > 5 * needed(FEWER)
    narrower = CompressionConfig(width=WidthConfig(width=512))
    assert whole * 0.2 < needed(narrower) < whole
    both = FEWER.model_copy(update={"quantize": EIGHT.quantize})
    assert needed(FEWER) < needed(both) < needed(FEWER) + needed(EIGHT)


def test_what_the_cache_has_is_not_written_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert needed_bytes(TAUGHT, MODEL_DIR, ["depth", "distill"]) == SPARE_BYTES
    assert needed_bytes(TAUGHT, MODEL_DIR, ["distill"]) == needed_bytes(FEWER, MODEL_DIR)
    assert needed_bytes(TAUGHT, MODEL_DIR, begun=["distill"]) < 3 * needed_bytes(FEWER, MODEL_DIR)
    keys = stage_keys(TAUGHT, content_key(MODEL_DIR), str(DATA_DIR))
    cache = Cache(tmp_path / "cache")
    full(monkeypatch, 10 << 20)
    for name in ("depth", "distill"):
        with pytest.raises(CandidateError):
            check_room(TAUGHT, MODEL_DIR, tmp_path / "out", cache, lambda: keys)
        cache.stage(keys[name].output).mkdir(parents=True)
    check_room(TAUGHT, MODEL_DIR, tmp_path / "out", cache, lambda: keys)


def full(monkeypatch: pytest.MonkeyPatch, free: int) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(10**12, 10**12 - free, free))


def test_a_build_that_does_not_fit_is_refused_before_it_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    full(monkeypatch, 10 << 20)
    with pytest.raises(CandidateError, match=r"writes 0\.\d\d GB, 0\.01 GB are free in") as caught:
        build_in_child(
            EIGHT,
            MODEL_DIR,
            tmp_path / "not" / "yet",
            str(DATA_DIR),
            log=tmp_path / "log",
            deadline_s=60,
            cache=Cache(tmp_path / "cache"),
        )
    assert (caught.value.kind, caught.value.stage) == ("disk", "build")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("total", [0, 256 << 20])
def test_a_disk_that_has_room_or_tells_nothing_is_not_refused(
    total: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    all_stages = CompressionConfig(
        depth=DepthConfig(layers=7),
        width=WidthConfig(width=896),
        distill=DistillConfig(),
        quantize=EIGHT.quantize,
    )
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(total, 0, total))
    check_room(all_stages, MODEL_DIR, tmp_path / "out", Cache(tmp_path / "cache"))


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
