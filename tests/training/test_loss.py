"""The loss in chunks is the loss that autograd differentiates, without its memory."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn import functional

from squeeze.training.loss import Dense, Mix, Sparse, head_loss

TOKENS, WIDTH, VOCABULARY = 23, 8, 37


def parts(dtype: torch.dtype = torch.float64) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return {
        "hidden": torch.randn(TOKENS, WIDTH, dtype=dtype, requires_grad=True),
        "head": torch.randn(VOCABULARY, WIDTH, dtype=dtype, requires_grad=True),
        "labels": torch.randint(VOCABULARY, (TOKENS,)),
        "taught": torch.randn(TOKENS, 2 * WIDTH, dtype=dtype),
        "teacher_head": torch.randn(VOCABULARY, 2 * WIDTH, dtype=dtype),
    }


def plain(given: dict[str, torch.Tensor], p: torch.Tensor | None, mix: Mix) -> torch.Tensor:
    """The same by the formulas, all logits at once."""
    logits = given["hidden"] @ given["head"].T
    ce = functional.cross_entropy(logits, given["labels"], reduction="sum")
    if p is None:
        return ce
    log_q = (logits / mix.temperature).log_softmax(-1)
    q, log_p = log_q.exp(), p.log()
    if mix.divergence == "forward":
        divergence = (p * (log_p - log_q)).sum()
    elif mix.divergence == "reverse":
        divergence = (q * (log_q - log_p)).sum()
    else:
        log_m = ((p + q) / 2).log()
        divergence = 0.5 * ((p * (log_p - log_m)).sum() + (q * (log_q - log_m)).sum())
    return mix.cross_entropy * ce + (1 - mix.cross_entropy) * mix.temperature**2 * divergence


def same(ours: torch.Tensor, plain: torch.Tensor, given: dict[str, torch.Tensor]) -> None:
    wanted = [given["hidden"], given["head"]]
    torch.testing.assert_close(ours, plain)
    for mine, reference in zip(
        torch.autograd.grad(3 * ours, wanted), torch.autograd.grad(3 * plain, wanted), strict=True
    ):
        torch.testing.assert_close(mine, reference)


@pytest.mark.parametrize("divergence", ["forward", "reverse", "js"])
@pytest.mark.parametrize(("temperature", "share"), [(1.0, 0.0), (2.5, 0.0), (1.0, 0.3), (0.7, 0.6)])
@pytest.mark.parametrize("chunk", [5, 64])
def test_value_and_gradients_are_those_of_plain_autograd(
    divergence: Any, temperature: float, share: float, chunk: int
) -> None:
    given = parts()
    mix = Mix(divergence, temperature, share)
    p = (given["taught"] @ given["teacher_head"].T / temperature).softmax(-1)
    teacher = Dense(given["taught"], given["teacher_head"])
    ours = head_loss(given["hidden"], given["head"], given["labels"], teacher, mix, chunk)
    same(ours, plain(given, p, mix), given)


def test_without_a_teacher_it_is_cross_entropy() -> None:
    given = parts()
    ours = head_loss(given["hidden"], given["head"], given["labels"], chunk=5)
    same(ours, plain(given, None, Mix()), given)


@pytest.mark.parametrize(("temperature", "share"), [(1.0, 0.0), (2.0, 0.4)])
def test_a_sparse_teacher_that_keeps_every_token_teaches_as_the_dense_one(
    temperature: float, share: float
) -> None:
    given = parts()
    mix = Mix("forward", temperature, share)
    p = (given["taught"] @ given["teacher_head"].T / temperature).softmax(-1)
    every = torch.arange(VOCABULARY).expand(TOKENS, -1)
    ours = head_loss(given["hidden"], given["head"], given["labels"], Sparse(every, p), mix, 5)
    entropy = -(p * p.log()).sum()
    same(ours - (1 - share) * temperature**2 * entropy, plain(given, p, mix), given)


def test_a_tied_head_gets_the_gradient_of_both_its_uses() -> None:
    given = parts()
    embedding, labels = given["head"], given["labels"]

    def tied(loss: Any) -> torch.Tensor:
        return torch.autograd.grad(loss(functional.embedding(labels, embedding).tanh()), [embedding])[0]

    ours = tied(lambda hidden: head_loss(hidden, embedding, labels, chunk=4))
    reference = tied(lambda hidden: functional.cross_entropy(hidden @ embedding.T, labels, reduction="sum"))
    torch.testing.assert_close(ours, reference)


def test_a_frozen_head_gets_no_gradient() -> None:
    given = parts()
    given["head"].requires_grad_(False)
    head_loss(given["hidden"], given["head"], given["labels"]).backward()
    assert given["head"].grad is None
    assert given["hidden"].grad is not None


def test_no_tensor_is_larger_than_a_chunk_of_logits_or_the_head() -> None:
    from torch.utils._python_dispatch import TorchDispatchMode

    sizes: list[int] = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            result = func(*args, **(kwargs or {}))
            if isinstance(result, torch.Tensor):
                sizes.append(result.numel())
            return result

    given = parts()
    teacher = Dense(given["taught"], given["teacher_head"])
    with Watch():
        loss = head_loss(given["hidden"], given["head"], given["labels"], teacher, Mix("js", 2.0, 0.5), 3)
        loss.backward()
    assert max(sizes) == VOCABULARY * 2 * WIDTH  # the teacher's head; all logits would be more
    assert max(sizes) < TOKENS * VOCABULARY
