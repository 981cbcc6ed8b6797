"""How the batches of a step go through the model: side by side on the cores of a CPU, else one by one."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch  # noqa: TID253  only processes that train import this module

from squeeze.training.learner import Learner
from squeeze.training.optimizer import LARGE, eight_bit
from squeeze.training.packed import Batch

SMALL = 100_000_000
"""Parameters below which a CPU's cores each take a batch, instead of sharing every matrix product.

Threads that share small products wait for each other at each of them: on two busy cores the embedded model
trained four times slower with two threads than with one. Batches side by side meet once a step, and as their
gradients are added in order, the outcome does not depend on how many cores there are.
"""

_TOKENS = 512
_TOKENS_CUDA = 8192
_CUDA_SHARE = 0.5
_BYTES = 34
"""Bytes of activations that a token leaves in a layer for each unit of its width, in 16 bits; those
of the feed-forward are counted apart. An estimate, on the safe side."""

_OWED = {"torchao": 4, "bitsandbytes": 8, None: 14}
"""Bytes a trained parameter costs from the first step on, by the package whose optimizer is used."""


class Crew:
    """Computes losses and gradients of batches.

    tokens: of a batch, about, as is best for the machine.
    """

    def __init__(self, learner: Learner) -> None:
        self.learner = learner
        self.parameters = list(learner.trainable.values())
        every = sum(value.numel() for value in learner.model.parameters())
        cores = int(os.environ.get("OMP_NUM_THREADS") or len(os.sched_getaffinity(0)))
        small = learner.device == "cpu" and every < SMALL
        # What draws at random would draw in any order.
        draws = any(isinstance(one, torch.nn.Dropout) and one.p > 0 for one in learner.model.modules())
        self.tokens = _TOKENS if small else _tokens(learner)
        self.pool = ThreadPoolExecutor(cores if small and not draws else 1) if small else None
        if learner.device == "cpu":
            torch.set_num_threads(1 if small else cores)

    def gradients(self, batches: list[Batch]) -> float:
        """Put the gradients of the loss, averaged over supervised tokens, into the parameters' ``grad``."""
        count = max(1, sum(len(batch.labels) for batch in batches))
        if self.pool is None:
            total = torch.zeros((), dtype=torch.float64, device=self.learner.device)
            for batch in batches:
                loss = self.learner.loss(batch) / count
                loss.backward()
                total += loss.detach()
            return float(total)
        value = 0.0
        summed: list[Any] | None = None
        for loss, gradients in self._side_by_side(batches, count):
            value += loss
            if summed is None:
                summed = gradients
            else:
                torch._foreach_add_(summed, gradients)
        for parameter, gradient in zip(self.parameters, summed or [], strict=True):
            parameter.grad = gradient
        return value

    def _side_by_side(self, batches: list[Batch], count: int) -> Iterator[tuple[float, list[Any]]]:
        def one(batch: Batch) -> tuple[float, list[Any]]:
            loss = self.learner.loss(batch) / count
            found = torch.autograd.grad(loss, self.parameters, materialize_grads=True)
            return float(loss.detach()), list(found)

        assert self.pool is not None
        return self.pool.map(one, batches)

    def losses(self, batches: Iterable[Batch]) -> float:
        """The loss summed over the supervised tokens of all batches."""

        def one(batch: Batch) -> float:
            with torch.no_grad():
                return float(self.learner.loss(batch))

        return sum(self.pool.map(one, batches) if self.pool else map(one, batches))

    def close(self) -> None:
        """End the threads."""
        if self.pool is not None:
            self.pool.shutdown(cancel_futures=True)


def _tokens(learner: Learner) -> int:
    """Tokens that go through a large model at a time, by the memory that is free."""
    if learner.device != "cuda":
        return 8 * _TOKENS
    free, _ = torch.cuda.mem_get_info()
    # The gradients and the optimizer's state are yet to come.
    count = sum(value.numel() for value in learner.trainable.values())
    owed = count * _OWED[eight_bit() if count >= LARGE else None]
    config = learner.model.config
    layers = 4 if learner.model.is_gradient_checkpointing else config.num_hidden_layers
    each = layers * (_BYTES * config.hidden_size + 10 * config.intermediate_size)
    fits = int(max(0, _CUDA_SHARE * (free - owed)) // each)
    return max(1, min(_TOKENS_CUDA, fits))
