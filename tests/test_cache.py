"""The cache: what was made is found again, damage is made good, the budget holds, one makes it for all."""

from __future__ import annotations

import os
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from squeeze.cache import GRACE_S, Cache
from squeeze.config import CompressionConfig
from squeeze.folder import content_key, read_manifest, verify_manifest
from squeeze.keys import stage_keys
from squeeze.pipeline import build, build_in_child

PRUNED = {"depth": {"layers": 3, "method": "uniform"}, "width": {"width": 256, "method": "magnitude"}}


def config(**parts: Any) -> CompressionConfig:
    return CompressionConfig.model_validate(parts)


def used_at(folder: Path, when: float) -> None:
    os.utime(folder, (when, when))


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "cache")


def test_a_stage_that_was_made_is_not_made_again(tiny: Path, tmp_path: Path, cache: Cache) -> None:
    first = build(config(**PRUNED), tiny, tmp_path / "first", "nowhere", cache=cache)
    again = build(config(**PRUNED), tiny, tmp_path / "again", "nowhere", cache=cache)
    assert (first.cached, again.cached) == ((), ("depth", "width"))
    assert again.key == first.key == content_key(tmp_path / "again")
    assert again.notes == first.notes
    verify_manifest(tmp_path / "again")


def test_a_shared_beginning_is_made_once(tiny: Path, tmp_path: Path, cache: Cache) -> None:
    build(config(**PRUNED), tiny, tmp_path / "one", "nowhere", cache=cache)
    narrower = {**PRUNED, "width": {"width": 128, "method": "magnitude"}}
    other = build(config(**narrower), tiny, tmp_path / "other", "nowhere", cache=cache)
    alone = build(config(**narrower), tiny, tmp_path / "alone", "nowhere")
    assert other.cached == ("depth",)
    assert other.key == alone.key
    assert read_manifest(tmp_path / "other").config == config(**narrower)


def test_a_flipped_byte_is_seen_and_the_stage_made_again(tiny: Path, tmp_path: Path, cache: Cache) -> None:
    first = build(config(**PRUNED), tiny, tmp_path / "first", "nowhere", cache=cache)
    key = stage_keys(config(**PRUNED), content_key(tiny), "nowhere")["width"].output
    weights = cache.stage(key) / "model.safetensors"
    damaged = bytearray(weights.read_bytes())
    damaged[-1] ^= 1
    weights.unlink()  # it has a second name in the model that was built from it
    weights.write_bytes(damaged)
    again = build(config(**PRUNED), tiny, tmp_path / "again", "nowhere", cache=cache)
    assert again.cached == ("depth",)
    assert again.key == first.key


def test_processes_that_want_the_same_make_it_once(tiny: Path, tmp_path: Path, cache: Cache) -> None:
    def built(name: str) -> tuple[str, ...]:
        return build_in_child(
            config(depth=PRUNED["depth"]), tiny, tmp_path / name, "nowhere",
            log=tmp_path / f"{name}.log", deadline_s=120, cache=cache,
        ).cached  # fmt: skip

    with ThreadPoolExecutor(2) as pool:
        assert sorted(pool.map(built, ("one", "two"))) == [(), ("depth",)]


def test_a_build_that_waits_for_anothers_stage_says_so(tiny: Path, tmp_path: Path, cache: Cache) -> None:
    keys = stage_keys(config(depth=PRUNED["depth"]), content_key(tiny), "nowhere")["depth"]
    heard: list[str] = []
    with ThreadPoolExecutor(1) as other:
        for key in (keys.output, keys.state):
            shutil.rmtree(cache.root / "stages", ignore_errors=True)
            with cache.alone(key):
                later = other.submit(
                    build, config(depth=PRUNED["depth"]), tiny, tmp_path / key, "nowhere",
                    lambda event: heard.append(event["stage"]), cache,
                )  # fmt: skip
                ends = time.monotonic() + 60
                while heard[-1:] != ["wait"] and time.monotonic() < ends:
                    time.sleep(0.01)
                time.sleep(2)
            assert later.result(60).seconds["depth"] < 2  # what it waited is nobody's time
    assert heard == ["depth", "wait", "depth"] * 2


def test_what_was_used_least_recently_goes_first_and_what_is_needed_stays(cache: Cache) -> None:
    old = time.time() - 2 * GRACE_S
    for age, name in enumerate(("newest", "middle", "needed", "oldest")):
        folder = cache.state(name)
        (folder / "weights").write_bytes(bytes(1000))
        used_at(folder, old - age)
    assert cache.size_bytes == 4000
    assert cache.shrink(2500, needed=("needed",)) == ["oldest", "middle"]
    assert cache.shrink(0, needed=("needed",)) == ["newest"]
    assert cache.size_bytes == 1000


def test_what_an_owner_needs_stays_until_it_needs_something_else(
    cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = time.time() - 2 * GRACE_S
    for name in ("one", "two", "three"):
        used_at(cache.state(name), old)
    cache.need("first", {"one"})
    cache.need("second", {"two"})
    assert cache.shrink(-1) == ["three"]
    cache.need("first", set())
    assert cache.shrink(-1) == ["one"]
    (cache.root / "needed" / "second.json").write_text("nonsense")
    assert cache.shrink(-1) == ["two"]
    used_at(cache.state("four"), old)
    cache.need("second", {"four"})
    monkeypatch.setattr("squeeze.cache.NEEDED_S", -1.0)
    assert cache.shrink(-1) == ["four"], "a study that has said nothing for long is gone"


def test_what_is_being_read_stays_and_others_find_it_meanwhile(cache: Cache) -> None:
    used_at(cache.state("read"), time.time() - 2 * GRACE_S)
    with cache.reading("read"), ThreadPoolExecutor(1) as other:
        assert other.submit(cache.shrink, -1).result(10) == []

        def found() -> None:
            with cache.alone("read"), cache.reading("read"):
                pass

        other.submit(found).result(10)
    assert cache.shrink(-1) == ["read"]


def test_an_output_with_a_file_too_many_or_an_unreadable_one_is_made_again(
    cache: Cache, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def made(name: str) -> str:
        return build(config(**PRUNED), tiny, tmp_path / name, "nowhere", cache=cache).keys["width"]

    key = made("one")
    (cache.stage(key) / "more.json").write_text("{}")
    assert cache.find(key) is None
    assert not cache.stage(key).exists()
    assert made("two") == key

    def failing(folder: Path) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("squeeze.cache.verify_manifest", failing)
    assert cache.find(key) is None
    assert not cache.stage(key).exists()


def test_what_was_used_just_now_stays(cache: Cache) -> None:
    (cache.state("fresh") / "weights").write_bytes(bytes(1000))
    assert cache.shrink(0) == []


def test_what_is_being_made_stays(cache: Cache) -> None:
    (cache.state("busy") / "weights").write_bytes(bytes(1000))
    used_at(cache.state("busy"), time.time() - 2 * GRACE_S)
    with cache.alone("busy"), ThreadPoolExecutor(1) as other:
        assert other.submit(cache.shrink, 0).result() == []


def test_where_no_lock_can_be_made_the_rest_is_removed_all_the_same(cache: Cache) -> None:
    for name in ("locked", "free"):
        used_at(cache.state(name), time.time() - 2 * GRACE_S)
    (cache.root / "locks" / "locked").mkdir(parents=True)  # a file cannot be opened there
    assert cache.shrink(-1) == ["free"]


def test_who_waits_for_another_says_so_first(cache: Cache) -> None:
    said: list[str] = []
    with ThreadPoolExecutor(1) as other:

        def hold() -> bool:
            with cache.alone("key", lambda: said.append("waits")) as waited:
                said.append("holds")
                return waited

        assert not other.submit(hold).result(10)
        with cache.alone("key"):
            later = other.submit(hold)
            ends = time.monotonic() + 10
            while said != ["holds", "waits"] and time.monotonic() < ends:
                time.sleep(0.01)
            assert said == ["holds", "waits"]
        assert later.result(10)
    assert said == ["holds", "waits", "holds"]


def test_what_a_dead_process_left_half_made_goes(cache: Cache) -> None:
    # Another process may have the number of the dead one by now.
    left = cache.root / "stages" / f".dead.partial-{os.getppid()}"
    made = cache.root / "stages" / f".made.partial-{os.getppid()}"
    for folder in (left, made):
        folder.mkdir(parents=True)
        (folder / "weights").write_bytes(bytes(1000))
    with cache.alone("made"):
        cache.shrink(10**9)
        assert not left.exists()
        assert (made / "weights").exists()
    cache.shrink(10**9)
    assert not made.exists()
