"""Workloads are data: checked when read, and told apart by what decides the outcome."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from squeeze.bench.judge_endpoint import Endpoint
from squeeze.bench.served import Slices
from squeeze.bench.workload import WORKLOADS, Workload, choose, load_workload, names
from squeeze.demo import DATA_DIR, MODEL_DIR
from squeeze.errors import ConfigError


def test_the_contest_serves_with_its_published_arguments_over_all_questions_but_those_for_finalists() -> None:
    workload = load_workload("contest")
    assert workload.data == "hub"
    assert workload.max_tokens == 16384
    assert set(workload.questions.values()) == {None}
    assert workload.held_out == 0.2
    # The largest set is one call: 2,822 answers at 2,000 tokens of thought each, 500 tokens a second.
    assert workload.part_deadline_s >= 2_822 * 2_000 / 500
    engine = workload.engine
    assert (engine.tensor_parallel_size, engine.gpu_memory_utilization, engine.seed) == (1, 0.85, 42)
    assert engine.max_num_seqs is None and engine.max_model_len is None
    assert not engine.enable_prefix_caching


def demo(data: str) -> Workload:
    return choose("demo", data, MODEL_DIR)


def test_the_key_depends_on_the_data_not_on_where_it_lies_or_on_deadlines(tmp_path: Path) -> None:
    shutil.copytree(DATA_DIR, tmp_path / "copy")
    here = demo(str(DATA_DIR))
    assert demo(str(tmp_path / "copy")).key == here.key
    assert here.model_copy(update={"start_deadline_s": 1.0}).key == here.key
    assert Workload(**{**here.model_dump(), "repeats": 5}).key != here.key
    with (tmp_path / "copy" / "kmmlu_pro.parquet").open("ab") as file:
        file.write(b"x")
    assert demo(str(tmp_path / "copy")).key != here.key


def test_a_folder_that_lacks_a_set_is_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"must hold kmmlu_pro\.parquet or kmmlu_pro\.jsonl"):
        _ = demo(str(tmp_path)).key


@pytest.mark.parametrize("name", names())
def test_a_workload_that_comes_with_squeeze_can_be_copied_and_read_from_elsewhere(
    tmp_path: Path, name: str
) -> None:
    copy = shutil.copy(WORKLOADS / f"{name}.yaml", tmp_path)
    assert load_workload(copy) == load_workload(name)
    assert load_workload(name).name == name


def test_the_model_decides_on_the_workload_and_its_data_unless_they_are_told(tmp_path: Path) -> None:
    chosen = choose(None, None, MODEL_DIR)
    assert (chosen.name, chosen.data) == ("demo", str(DATA_DIR))
    chosen = choose(None, None, tmp_path)
    assert (chosen.name, chosen.data) == ("contest", "hub")
    assert choose("quick", "elsewhere", MODEL_DIR).data == "elsewhere"


def test_an_unknown_workload_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="must be contest, decode, demo, quick or a YAML file; got slow"):
        load_workload("slow")


def test_a_workload_can_be_read_from_yaml(tmp_path: Path) -> None:
    path = tmp_path / "short.yaml"
    path.write_text("questions: {kmmlu_redux: 10, ko_longrag: null}\nengine: {max_model_len: 1024}\n")
    workload = load_workload(str(path))
    assert (workload.name, workload.repeats) == ("short", 3)
    assert workload.questions == {"kmmlu_redux": 10, "ko_longrag": None}
    assert workload.engine.max_model_len == 1024


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("questions: {kmmlu_redux: 10}\nrepeat: 3", "repeat.*known keys: .*repeats"),
        ("questions: {no_such: 10}", "benchmarks must be among kmmlu_pro"),
        ("questions: {kmmlu_redux: 1}", "2 questions or more"),
        ("questions: {}", "2 questions or more"),
        ("questions: {kmmlu_redux: 9}\nengine: {gpu_memory_utilization: 2}", "gpu_memory_utilization"),
        ("questions: [", "must be YAML"),
        ("- a list", "must hold keys and values"),
    ],
)
def test_a_wrong_workload_file_is_refused_in_one_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "wrong.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message) as caught:
        load_workload(str(path))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("count", [2, 3, 8, 60, 2587])
def test_block_and_rest_ask_every_question_once(count: int) -> None:
    workload = demo(str(DATA_DIR)).model_copy(update={"first_block": 0.25})
    slices = Slices.of(workload, {"kmmlu_redux": count}, {"kmmlu_redux": 8})
    (probe,), (block,), (rest,), (whole,) = slices.probe, slices.block, slices.rest, slices.whole
    assert (block.start, block.stop, rest.stop) == (0, rest.start, count)
    assert (whole.start, whole.stop) == (0, count)
    assert (slices.timed(0), slices.timed(1)) == ((block, rest), (whole,))
    assert 0 < block.stop < count
    assert 0 < probe.stop <= count


def test_the_questions_of_a_final_were_not_asked_before_as_far_as_there_are_others() -> None:
    workload = Workload(name="test", questions={"kmmlu_redux": 36, "ko_longrag": 18, "komt_bench": None})
    final = workload.final
    assert (final.repeats, final.divergence) == (workload.repeats + 1, None)
    assert final.key != workload.key
    first, again = workload.drawn("kmmlu_redux", 200), final.drawn("kmmlu_redux", 200)
    assert len(set(first)) == len(set(again)) == 36
    assert not set(first) & set(again)
    # 10 of 28 were not asked: they come first, and the rest are asked again so that the mix stays the same.
    first, again = workload.drawn("ko_longrag", 28), final.drawn("ko_longrag", 28)
    assert not set(first) & set(again[:10])
    assert set(first) > set(again[10:])
    assert len(again) == 18
    assert final.drawn("komt_bench", 80) == workload.drawn("komt_bench", 80)
    assert sorted(final.drawn("komt_bench", 80)) == list(range(80))


@pytest.mark.parametrize(("rows", "new"), [(2587, 517), (80, 16), (5, 1)])
def test_finalists_of_the_contest_are_asked_what_was_held_out_and_as_many_in_all(rows: int, new: int) -> None:
    workload = load_workload("contest")
    first, again = workload.drawn("komt_bench", rows), workload.final.drawn("komt_bench", rows)
    assert len(set(first)) == len(set(again)) == rows - new
    assert not set(first) & set(again[:new])
    assert set(first) > set(again[new:])
    assert {*first, *again} == set(range(rows))
    counted = workload.model_copy(update={"questions": {"komt_bench": 4}})
    assert len(counted.drawn("komt_bench", rows)) == min(4, rows)  # a count is asked whole


def test_another_draw_asks_other_questions_and_the_same_draw_the_same() -> None:
    one, same = (Workload(name="test", questions={"kmmlu_redux": 36}) for _ in range(2))
    other = Workload(name="test", questions={"kmmlu_redux": 36}, draw=7)
    assert one.drawn("kmmlu_redux", 200) == same.drawn("kmmlu_redux", 200)
    assert one.drawn("kmmlu_redux", 200) != other.drawn("kmmlu_redux", 200)
    assert one.key != other.key


# A judge for KoMT-Bench.

JUDGE = "judge: {base_url: 'http://localhost:8000/v1', model: fair}"


def test_a_study_keeps_its_judge_but_not_how_fast_it_is_asked(tmp_path: Path) -> None:
    path = tmp_path / "judged.yaml"
    path.write_text(f"questions: {{komt_bench: 4}}\ndata: {DATA_DIR}\n{JUDGE}\n")
    judged = load_workload(str(path))
    assert judged.judge == Endpoint(base_url="http://localhost:8000/v1", model="fair")

    def key(**changes: Any) -> str:
        assert judged.judge is not None
        return judged.model_copy(update={"judge": judged.judge.model_copy(update=changes)}).key

    assert key() == judged.key
    assert key(parallel=9, timeout_s=9.0, key_variable="OTHER_KEY") == judged.key
    without = judged.model_copy(update={"judge": None}).key
    changed = [key(model="kind"), key(base_url="http://h/v1"), key(temperature=1.0), key(max_tokens=9)]
    assert len({judged.key, without, *changed}) == 6


def test_the_options_judge_comes_before_the_files_and_must_be_one_that_can_be_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "judged.yaml"
    path.write_text(f"questions: {{komt_bench: 4}}\n{JUDGE}\n")
    monkeypatch.setenv("JUDGE_API_KEY", "any")
    other = Endpoint(base_url="https://example.org/v1", model="kind")
    assert choose(str(path), None, MODEL_DIR, other).judge == other
    with pytest.raises(ConfigError, match="base_url must be http"):
        choose(str(path), None, MODEL_DIR, Endpoint(base_url="localhost:8000", model="kind"))
    with pytest.raises(ConfigError, match="JUDGE_API_KEY is not set"):
        monkeypatch.delenv("JUDGE_API_KEY")
        choose(str(path), None, MODEL_DIR)
    path.write_text(f"questions: {{kmmlu_pro: 4}}\n{JUDGE}\n")
    with pytest.raises(ConfigError, match="a judge rates komt_bench; the workload judged asks kmmlu_pro"):
        choose(str(path), None, MODEL_DIR)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("api_key: sk-secret", "judge.api_key: .*known keys: base_url, model, key_variable"),
        ("key_variable: sk-secret", "judge.key_variable: .*must end in KEY, TOKEN or SECRET"),
        ("key_variable: JUDGE", "judge.key_variable: .*must end in KEY, TOKEN or SECRET"),
        ("parallel: 0", "judge.parallel"),
    ],
)
def test_a_key_that_stands_in_the_file_by_mistake_is_not_repeated(
    tmp_path: Path, line: str, message: str
) -> None:
    path = tmp_path / "wrong.yaml"
    path.write_text(f"questions: {{komt_bench: 4}}\njudge:\n  base_url: http://h/v1\n  model: m\n  {line}\n")
    with pytest.raises(ConfigError, match=message) as caught:
        load_workload(str(path))
    assert "sk-secret" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert "\n" not in str(caught.value)


def test_without_a_first_block_all_questions_are_asked_at_once() -> None:
    workload = demo(str(DATA_DIR)).model_copy(update={"first_block": 0.0})
    slices = Slices.of(workload, {"kmmlu_redux": 8, "kmmlu_pro": 2}, {})
    assert slices.block == ()
    assert slices.rest == slices.whole == slices.timed(0)
