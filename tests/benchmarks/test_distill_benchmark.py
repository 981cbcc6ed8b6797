"""What the benchmark of distillation gives the peer, and what it counts."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from squeeze.config import Calibration, DistillConfig, FinetuneConfig
from squeeze.decoder import Decoder
from squeeze.demo import DATA_DIR, MODEL_DIR
from squeeze.stages.finetune import _adapt
from squeeze.training import models, packed, text
from squeeze.training.learner import Learner
from squeeze.training.teacher import Live

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import distill_text


@pytest.fixture(scope="module")
def rows() -> text.Rows:
    return text.prepare(MODEL_DIR, Calibration(samples=40, length=512), str(DATA_DIR)).train


def test_the_peer_learns_the_same_tokens_from_the_same_conversations(rows: text.Rows) -> None:
    found = distill_text.documents(rows)
    assert [len(one["input_ids"]) for one in found] == [length for row in rows.lengths for length in row]
    assert sum(label != text.IGNORED for one in found for label in one["labels"]) == rows.supervised
    for one in found:
        learned = np.array(one["labels"]) != text.IGNORED
        assert not learned[0]
        # Unshifted, as transformers wants them: a label is the token it stands beside.
        assert np.array_equal(np.array(one["labels"])[learned], np.array(one["input_ids"])[learned])


def test_micro_batches_hold_every_conversation_once_and_keep_to_their_size(rows: text.Rows) -> None:
    found = distill_text.documents(rows)
    groups = distill_text.micro_batches(found, 1024)
    assert sorted(len(row["input_ids"]) for group in groups for row in group) == sorted(
        len(row["input_ids"]) for row in found
    )
    assert all(len(group) * max(len(row["input_ids"]) for row in group) <= 1024 for group in groups)


def test_more_micro_batches_are_made_without_losing_a_conversation(rows: text.Rows) -> None:
    found = distill_text.documents(rows)
    groups = distill_text.micro_batches(found, 1024)
    more = distill_text.halved(groups, len(groups) + 5)
    assert len(more) == len(groups) + 5
    assert all(more)
    assert sorted(map(id, found)) == sorted(id(row) for group in more for row in group)


def test_the_operations_counted_are_those_that_torch_counts(rows: text.Rows) -> None:
    part = DistillConfig()
    student = models.load(MODEL_DIR, part)
    learner = Learner(student.model, student.parameters, Live(models.load_frozen(MODEL_DIR)))
    few = rows.pick([0])
    with FlopCounterMode(display=False) as counter:
        learner.loss(packed.batch(few, [0], "cpu")).backward()
    shape = Decoder.read(MODEL_DIR)
    # torch counts matrix products; not, on a CPU, what is inside of attention.
    ours = distill_text.flops_per_token(shape, shape, few, attention=False)["needed"] * few.tokens
    assert torch.isclose(torch.tensor(ours), torch.tensor(float(_products(counter))), rtol=0.01)


def test_the_operations_of_lora_are_those_that_torch_counts(rows: text.Rows) -> None:
    model = models.load_frozen(MODEL_DIR).requires_grad_(False)
    packed.attach(model)
    _adapt(model, FinetuneConfig(rank=8))
    trainable = {name: value for name, value in model.named_parameters() if value.requires_grad}
    few = rows.pick([0])
    with FlopCounterMode(display=False) as counter:
        Learner(model, trainable).loss(packed.batch(few, [0], "cpu")).backward()
    shape = Decoder.read(MODEL_DIR)
    ours = distill_text.lora_flops_per_token(shape, few, 8, attention=False)["needed"] * few.tokens
    # The inputs of the first layer need no gradients: those are counted, and not made.
    assert torch.isclose(torch.tensor(ours), torch.tensor(float(_products(counter))), rtol=0.03)


def _products(counter: FlopCounterMode) -> int:
    counts = counter.get_flop_counts()["Global"]
    return sum(count for what, count in counts.items() if "attention" not in str(what))
