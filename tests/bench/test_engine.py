"""A real engine in a child: what it answers, and how the ways it fails are told."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from squeeze.bench import tasks
from squeeze.bench.engine import Engine, Generate, Start
from squeeze.bench.graphs import GRAPHS, graph_sizes
from squeeze.bench.served import Served, Slice
from squeeze.bench.turns import Turn
from squeeze.bench.workload import EngineArguments, Workload
from squeeze.child import Child
from squeeze.demo import DATA_DIR, MODEL_DIR
from squeeze.errors import CandidateError

pytestmark = pytest.mark.engine

WORKLOAD = Workload(
    name="test",
    data=str(DATA_DIR),
    questions={"kmmlu_redux": 16, "ko_longrag": 4, "komt_bench": 3},
    max_tokens=48,
    start_deadline_s=300,
    part_deadline_s=120,
    engine=EngineArguments(max_model_len=2048, kv_cache_gib=1),
)


class Chatting(Engine):
    """An engine that can also be asked through ``LLM.chat``."""

    def __call__(self, request: Any, tell: Callable[[Any], None]) -> Any:
        if request != "chat":
            return super().__call__(request, tell)
        from vllm import SamplingParams

        found = {}
        for name, rows in self._rows.items():
            chats = [tasks.load(name).messages(row, ()) for _, row in rows]
            outputs = self._llm.chat(chats, SamplingParams(temperature=0.0, max_tokens=1), use_tqdm=False)
            asked = [self._question(name, place) for place in range(len(rows))]
            found[name] = ([list(output.prompt_token_ids) for output in outputs], asked)
        return found


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with Served(MODEL_DIR, WORKLOAD, tmp_path_factory.mktemp("logs") / "engine.log") as one:
        yield one.wait()


def test_the_engine_says_how_it_was_set_up(served: Served) -> None:
    engine = served.engine
    assert (engine["max_model_len"], engine["seed"], engine["enable_prefix_caching"]) == (2048, 42, False)
    assert engine["dtype"] == "bfloat16"
    assert "torch" in engine["versions"]
    assert engine["kernels"]["qkv_proj"] == "UnquantizedLinearMethod"
    assert served.seconds["engine"] > 0


def test_a_trained_model_answers_questions_and_each_is_scored(served: Served) -> None:
    questions, timing = served.answer(Slice("kmmlu_redux", 0, 16))
    assert len({question.index for question in questions}) == 16
    scores = [question.score for question in questions]
    assert set(scores) <= {0.0, 1.0}
    assert sum(score or 0 for score in scores) >= 8  # chance is 4
    assert not any(question.empty for question in questions)
    assert timing.tokens == sum(question.tokens for question in questions)
    assert timing.seconds > 0


def test_the_same_question_has_the_same_answer_again(served: Served) -> None:
    first, _ = served.answer(Slice("ko_longrag", 0, 4))
    again, _ = served.answer(Slice("ko_longrag", 0, 4))
    assert first == again


def test_turn_by_turn_the_answers_are_the_same_and_others_turns_are_not_in_the_time(served: Served) -> None:
    part = Slice("kmmlu_redux", 0, 16)
    whole, _ = served.answer(part)
    asked = served.begin(part, turn=Turn(0.0, min(os.sched_getaffinity(0))))  # a step each
    assert not asked.go_on()
    time.sleep(3.0)
    turns = 2
    while not asked.go_on():
        turns += 1
    questions, timing = asked.finish()
    assert questions == whole
    assert turns >= max(question.tokens for question in questions)
    assert 0 < timing.seconds < 3.0


def test_a_conversation_has_two_turns_and_no_score(served: Served) -> None:
    questions, timing = served.answer(Slice("komt_bench", 0, 3))
    assert [len(question.answers) for question in questions] == [2, 2, 2]
    assert {question.score for question in questions} == {None}
    assert timing.tokens > 0


def test_prompts_are_those_of_llm_chat(tmp_path: Path) -> None:
    with Child(partial(Chatting, str(MODEL_DIR), WORKLOAD), stage="engine", log=tmp_path / "log") as child:
        child.call(Start(), deadline_s=300)
        found = child.call("chat", deadline_s=120)
    assert set(found) == set(WORKLOAD.questions)
    for chatted, asked in found.values():
        assert chatted == asked


def test_answers_that_take_too_long_are_a_timeout_and_end_the_engine(tmp_path: Path) -> None:
    impatient = WORKLOAD.model_copy(update={"part_deadline_s": 0.02})
    with Served(MODEL_DIR, impatient, tmp_path / "log") as one:
        one.wait()
        with pytest.raises(CandidateError) as caught:
            one.answer(Slice("komt_bench", 0, 3))
        assert (caught.value.stage, caught.value.kind) == ("questions", "timeout")
        assert not one.alive


def unknown_architecture(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    config |= {"architectures": ["NoSuchForCausalLM"], "model_type": "no_such"}
    (folder / "config.json").write_text(json.dumps(config))


def half_written_weights(folder: Path) -> None:
    weights = folder / "model.safetensors"
    os.truncate(weights, weights.stat().st_size // 2)


@pytest.mark.parametrize("damage", [unknown_architecture, half_written_weights])
def test_a_model_that_does_not_load_is_told_as_such(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    shutil.copytree(MODEL_DIR, tmp_path / "model")
    damage(tmp_path / "model")
    with pytest.raises(CandidateError) as caught:
        Served(tmp_path / "model", WORKLOAD, tmp_path / "log").wait()
    assert (caught.value.stage, caught.value.kind) == ("engine", "load")
    assert "\n" not in str(caught.value)


def test_a_key_value_cache_that_does_not_fit_is_out_of_memory(tmp_path: Path) -> None:
    greedy = WORKLOAD.model_copy(
        update={"engine": EngineArguments(max_model_len=2048, kv_cache_gib=1_000_000)}
    )
    with pytest.raises(CandidateError) as caught:
        Served(MODEL_DIR, greedy, tmp_path / "log").wait()
    assert caught.value.kind == "oom"


def test_a_request_asks_for_times_alone_or_for_answers_too(served: Served) -> None:
    assert served.time(Slice("kmmlu_redux", 0, 4)).tokens > 0
    questions, timing = served._child.call(Generate("kmmlu_redux", 0, 4, answers=False), deadline_s=60)
    assert questions == [] and timing.tokens > 0


def sizes(questions: int, **engine: Any) -> list[int] | None:
    """The sizes of the graphs where so many questions are asked in one go."""
    workload = Workload(
        name="test",
        questions={"kmmlu_redux": None},
        first_block=0.25,
        probe=8,
        engine=EngineArguments(**engine),
    )
    return graph_sizes(workload, {"kmmlu_redux": questions})


@pytest.mark.parametrize(("questions", "whole"), [(2, 2), (4, 4), (80, 80), (86, 88), (256, 256)])
def test_up_to_the_largest_batch_graphs_are_vllms_own(questions: int, whole: int) -> None:
    found = sizes(questions)
    assert found is not None
    assert [size for size in found if size <= whole] == [size for size in GRAPHS if size <= whole]
    assert whole >= questions
    assert set(found) <= set(GRAPHS)


def test_steps_that_read_prompts_have_fewer_graphs_and_none_that_vllm_would_not_have() -> None:
    assert sizes(4) == [1, 2, 4, *range(32, 256, 32), *range(256, 513, 64)]
    assert sizes(40, max_num_seqs=48) == [1, 2, 4, 8, 16, 24, 32, 40, 64, 96]


def test_no_graph_is_left_out_where_questions_wait_for_others_to_end() -> None:
    assert sizes(257) is None  # 256 at once is what vLLM takes on most devices
    assert sizes(257, max_num_seqs=512) is not None
    assert sizes(80, max_num_seqs=59) is None


def test_batches_beyond_the_largest_graph_leave_vllms_own() -> None:
    assert sizes(800, max_num_seqs=1024) == list(GRAPHS)


def test_the_benchmark_with_the_largest_batch_decides() -> None:
    workload = Workload(name="test", questions={"kmmlu_redux": None, "komt_bench": None}, probe=8)
    assert graph_sizes(workload, {"kmmlu_redux": 53, "komt_bench": 8}) == [
        *(size for size in GRAPHS if size <= 56),
        *(size for size in GRAPHS if size > 56 and size % (32 if size < 256 else 64) == 0),
    ]
