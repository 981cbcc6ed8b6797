"""The embedded demo: what is shipped comes from the script, and tests stay apart from training."""

from __future__ import annotations

import itertools
import json
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from pyarrow import parquet

from squeeze.bench.tasks import ko_longrag
from squeeze.demo import make, passages, questions, stream, talk, tokenizer, wordings
from squeeze.demo.world import ATTRIBUTES, World, make_world

SHIPPED = Path(make.__file__).parent
SEED = 42


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The world, the data sets and the tokenizer, made again."""
    out = tmp_path_factory.mktemp("demo")
    assert make.main(["--out", str(out), "--seed", str(SEED), "--world-only"]) == 0
    return out


@pytest.fixture(scope="module")
def world() -> World:
    return make_world(SEED, make.PEOPLE)


def rows(name: str, folder: Path = SHIPPED / "data") -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = parquet.read_table(folder / f"{name}.parquet").to_pylist()
    return found


@pytest.mark.parametrize("name", ["kmmlu_pro", "kmmlu_redux", "ko_longrag", "komt_bench", "manta", "chats"])
def test_the_shipped_rows_are_those_the_seed_gives(made: Path, name: str) -> None:
    assert rows(name, made / "data") == rows(name)


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json", "chat_template.jinja"])
def test_the_shipped_tokenizer_is_the_one_the_seed_gives(made: Path, name: str) -> None:
    assert (made / "model" / name).read_bytes() == (SHIPPED / "model" / name).read_bytes()


def test_no_test_wording_occurs_in_training(world: World) -> None:
    marks = wordings.TEST_MARKS + talk.TEST_MARKS
    samples = itertools.chain(
        itertools.islice(stream.short_samples(world, "apart"), 20000),
        itertools.islice(stream.long_samples("apart"), 1000),
    )
    texts = ["".join(text for text, _ in pieces) for pieces in samples]
    texts += [turn["content"] for row in rows("chats") for turn in row["conversations"]]
    questions_asked = {
        row["question"] for name in ("kmmlu_pro", "kmmlu_redux", "ko_longrag") for row in rows(name)
    }
    trained = "\n".join(texts)
    assert [mark for mark in marks if mark in trained] == []
    assert [question for question in questions_asked if question in trained] == []


def test_the_larger_set_of_conversations_begins_with_the_smaller_one() -> None:
    smaller, larger = rows("manta"), rows("chats")
    assert len(larger) > len(smaller)
    assert larger[: len(smaller)] == smaller


def test_every_test_question_bears_a_mark_that_training_lacks() -> None:
    asked = [row["question"] for name in ("kmmlu_pro", "kmmlu_redux", "ko_longrag") for row in rows(name)]
    assert [text for text in asked if not any(mark in text for mark in wordings.TEST_MARKS)] == []
    first = [row["turns"][0] for row in rows("komt_bench")]
    assert len({text for text in first if any(mark in text for mark in talk.TEST_MARKS)}) >= 70


def test_choice_rows_have_one_right_option_among_different_ones() -> None:
    for name, counts in (("kmmlu_redux", {4}), ("kmmlu_pro", {4, 5})):
        found = rows(name)
        assert {len(row["options"]) for row in found} == counts
        for row in found:
            assert len(set(row["options"])) == len(row["options"])
            assert 1 <= int(row["solution"]) <= len(row["options"])
    assert any(row["options"][0].startswith("1)") for row in rows("kmmlu_pro"))


def test_longrag_answers_stand_in_their_context() -> None:
    found = rows("ko_longrag")
    assert Counter(row["task"] for row in found) == {"single": 50, "multi": 50}
    unknown = [row for row in found if row["answer"] == passages.UNKNOWN]
    assert 12 <= len(unknown) <= 20
    assert all(row["answer"] in row["context"] for row in found if row not in unknown)


def test_komt_bench_has_ten_rows_of_each_category() -> None:
    found = rows("komt_bench")
    assert [row["question_id"] for row in found] == list(range(81, 161))
    assert set(Counter(row["category"] for row in found).values()) == {10}


def test_every_fact_points_to_something_that_exists(world: World) -> None:
    for kind, attributes in ATTRIBUTES.items():
        for name, facts in world.facts[kind].items():
            for attribute in attributes:
                if attribute.points_to is not None:
                    assert facts[attribute.key] in world.facts[attribute.points_to], name


def test_worked_answers_end_with_the_right_letter(world: World) -> None:
    rng = random.Random(1)
    for _ in range(200):
        question = questions.professional(world, rng, wordings.train_question, wordings.train_rule)
        row = questions.choices(question, rng, 5)
        answer = questions.worked_answer(question, row)
        assert row["options"]["ABCDE".index(answer[-1])] == question.value


def test_training_text_is_what_the_chat_template_writes() -> None:
    from transformers import AutoTokenizer

    loaded = AutoTokenizer.from_pretrained(SHIPPED / "model")
    chat = stream.turns("안녕하세요?", "안녕하세요.", "목수의 필수 면허는?", "모릅니다.")
    text = "".join(piece for piece, _ in stream.pieces(chat))
    assert loaded.apply_chat_template(chat, tokenize=False) == text
    whole = loaded(text, add_special_tokens=False)["input_ids"]
    parts = [loaded(piece, add_special_tokens=False)["input_ids"] for piece, _ in stream.pieces(chat)]
    assert whole == list(itertools.chain(*parts))
    asked = loaded.apply_chat_template(chat[:1], tokenize=False, add_generation_prompt=True)
    assert asked.endswith("[|assistant|]\n<think>\n\n</think>\n\n")
    thinking = loaded.apply_chat_template(
        chat[:1], tokenize=False, add_generation_prompt=True, enable_thinking=True
    )
    assert thinking.endswith("[|assistant|]\n<think>\n")


def test_special_tokens_have_the_ids_of_exaone() -> None:
    from tokenizers import Tokenizer

    loaded = Tokenizer.from_file(str(SHIPPED / "model" / "tokenizer.json"))
    for text, index in tokenizer.SPECIAL_IDS.items():
        assert loaded.encode(text, add_special_tokens=False).ids == [index]
    assert loaded.get_vocab_size() == tokenizer.VOCAB_SIZE
    config = json.loads((SHIPPED / "model" / "config.json").read_text())
    assert config["eos_token_id"] == tokenizer.SPECIAL_IDS["[|endofturn|]"]


def test_longrag_prompts_fit_a_short_engine() -> None:
    from tokenizers import Tokenizer

    loaded = Tokenizer.from_file(str(SHIPPED / "model" / "tokenizer.json"))
    prompts = [ko_longrag.messages(row)[0]["content"] for row in rows("ko_longrag")]
    assert max(len(loaded.encode(prompt).ids) for prompt in prompts) < 1200


def test_everything_shipped_is_at_most_20_megabytes() -> None:
    files = [path for part in ("model", "data") for path in (SHIPPED / part).iterdir()]
    assert sum(path.stat().st_size for path in files) <= 20_000_000


def test_spreading_neurons_changes_no_logit() -> None:
    import torch

    from squeeze.demo import train

    size = train.Size(hidden=128, layers=2, ffn=256, heads=2, kv_heads=1, vocab=512)
    model = train.new_model(size, seed=1).eval()
    ids = torch.arange(64)[None]
    with torch.no_grad():
        before = model(ids).logits
        train.spread_neurons(model, seed=1)
        assert torch.equal(model(ids).logits, before)


def test_a_tiny_model_trains_on_a_cpu(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    size = "--hidden 128 --layers 2 --ffn 256 --heads 2 --kv-heads 1"
    run = f"--out {tmp_path} --people 50 --device cpu --steps 6 --rows 2 --workers 0 {size}"
    assert make.main(run.split()) == 0
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    assert model.config.rope_scaling is not None or model.config.rope_parameters is not None
    assert model.config.num_hidden_layers == 2
