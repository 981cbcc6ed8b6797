"""What is kept of a teacher: unbiased when sampled, made once, never used when damaged."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from squeeze.config import Calibration
from squeeze.errors import ConfigError
from squeeze.training import models, packed
from squeeze.training.loss import Dense, Sparse, head_loss
from squeeze.training.teacher import Kept, Live, keep, sampled, top
from squeeze.training.text import Text, prepare


@pytest.fixture(scope="module")
def text(tiny: Path, talk: Path) -> Text:
    return prepare(tiny, Calibration(samples=16, length=128), str(talk))


@pytest.fixture(scope="module")
def live(tiny: Path) -> Live:
    return Live(models.load_frozen(tiny))


def kept(live: Live, text: Text, shared: Path | None = None, **changes: Any) -> tuple[Kept, bool]:
    settings = {"method": "sampled", "draws": 16, "temperature": 1.0, "seed": 0} | changes
    parts = [text.train, text.validation]
    return keep(lambda: live, "tiny", parts, "cpu", shared=shared, **settings)


def test_drawn_tokens_are_the_distribution_by_expectation() -> None:
    torch.manual_seed(0)
    p = torch.softmax(2 * torch.randn(3, 11), -1)
    generator = torch.Generator().manual_seed(5)
    mean = torch.zeros_like(p)
    repeats, draws = 4000, 8
    for _ in range(repeats):
        ids, weights, counts = sampled(p, draws, generator)
        mean[torch.arange(3).repeat_interleave(counts), ids.long()] += weights / repeats
        assert int(counts.max()) <= draws
    error = (p * (1 - p) / (repeats * draws)).sqrt()
    assert ((mean - p).abs() < 4.5 * error).all()


def test_the_gradient_of_drawn_tokens_is_the_full_one_by_expectation() -> None:
    torch.manual_seed(0)
    hidden = torch.randn(2, 4, dtype=torch.float64, requires_grad=True)
    head, labels = torch.randn(9, 4, dtype=torch.float64), torch.zeros(2, dtype=torch.int64)
    taught = torch.randn(2, 4, dtype=torch.float64)
    p = (taught @ head.T).softmax(-1)

    def gradient(teacher: Dense | Sparse) -> torch.Tensor:
        return torch.autograd.grad(head_loss(hidden, head, labels, teacher), [hidden])[0]

    full = gradient(Dense(taught, head))
    generator = torch.Generator().manual_seed(1)
    found = []
    for _ in range(3000):
        drawn = torch.multinomial(p, 4, replacement=True, generator=generator)
        found.append(gradient(Sparse(drawn, torch.full((2, 4), 0.25, dtype=torch.float64))))
    stacked = torch.stack(found)
    error = stacked.std(0) / 3000**0.5
    assert ((stacked.mean(0) - full).abs() < 4.5 * error).all()


def test_the_top_ones_are_scaled_to_one() -> None:
    p = torch.tensor([[0.5, 0.1, 0.3, 0.1], [0.1, 0.2, 0.3, 0.4]])
    ids, weights, counts = top(p, 2)
    assert ids.tolist() == [0, 2, 3, 2] and counts.tolist() == [2, 2]
    torch.testing.assert_close(weights, torch.tensor([0.5 / 0.8, 0.3 / 0.8, 0.4 / 0.7, 0.3 / 0.7]))


def test_each_position_gets_what_was_kept_for_it(live: Live, text: Text) -> None:
    table, _ = kept(live, text, method="top", draws=512)
    batch = packed.batch(text.train, [3, 0, 2], "cpu")
    answer, reference = table.answer(batch).target, live.answer(batch).target
    assert isinstance(answer, Sparse) and isinstance(reference, Dense)
    p = (reference.hidden @ reference.head.T).softmax(-1)
    torch.testing.assert_close(p.gather(1, answer.ids), answer.weights)
    assert len(answer.ids) == len(batch.labels)


def test_temperature_applies_to_what_is_kept(live: Live, text: Text) -> None:
    batch = packed.batch(text.validation, [0], "cpu")
    table, _ = kept(live, text, method="top", draws=512, temperature=3.0)
    answer, reference = table.answer(batch).target, live.answer(batch).target
    assert isinstance(answer, Sparse) and isinstance(reference, Dense)
    p = (reference.hidden @ reference.head.T / 3).softmax(-1)
    torch.testing.assert_close(p.gather(1, answer.ids), answer.weights)


def test_padding_of_a_position_weighs_nothing_and_the_rest_one(live: Live, text: Text) -> None:
    table, _ = kept(live, text)
    answer = table.answer(packed.batch(text.train, [1], "cpu")).target
    assert isinstance(answer, Sparse)
    torch.testing.assert_close(answer.weights.sum(-1), torch.ones(len(answer.weights)))


def test_a_teacher_is_asked_once_and_again_only_for_other_questions(
    live: Live, text: Text, tmp_path: Path
) -> None:
    first, found = kept(live, text, tmp_path)
    assert not found
    again, found = keep(
        lambda: pytest.fail("the teacher was loaded again"),
        "tiny",
        [text.train, text.validation],
        "cpu",
        method="sampled",
        draws=16,
        temperature=1.0,
        seed=0,
        shared=tmp_path,
    )
    assert found
    batch = packed.batch(text.train, [0], "cpu")
    one, other = first.answer(batch).target, again.answer(batch).target
    assert isinstance(one, Sparse) and isinstance(other, Sparse)
    assert torch.equal(one.ids, other.ids) and torch.equal(one.weights, other.weights)
    for changes in ({"draws": 8}, {"method": "top"}, {"temperature": 2.0}, {"seed": 1}):
        assert not kept(live, text, tmp_path, **changes)[1]


def test_a_damaged_table_is_made_again(live: Live, text: Text, tmp_path: Path) -> None:
    kept(live, text, tmp_path)
    (path,) = (tmp_path / "teachers").glob("*/tensors.safetensors")
    content = bytearray(path.read_bytes())
    content[-3] ^= 4
    path.write_bytes(content)
    assert not kept(live, text, tmp_path)[1]
    assert kept(live, text, tmp_path)[1]


def test_an_unknown_method_is_refused(live: Live, text: Text) -> None:
    with pytest.raises(ConfigError, match="sampled or top"):
        kept(live, text, method="bottom")
