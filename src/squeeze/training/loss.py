"""The losses on logits, computed in chunks of tokens: nothing as large as (tokens, vocabulary) ever lives.

The head is applied inside the loss. Each chunk's logits are made, turned into their own gradient, multiplied
into the gradients of hidden states and head, and forgotten before the next chunk's are made.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch  # noqa: TID253  only processes that train import this module
from torch.nn import functional  # noqa: TID253

from squeeze.parts import Divergence

_CHUNK = {"cpu": 1 << 25, "cuda": 1 << 26}
"""Logits of a chunk: 128 MiB or, for a GPU's larger products, 256 MiB as 32-bit floats; a handful live."""


@dataclass(frozen=True)
class Dense:
    """A teacher's whole distribution, given by what makes its logits.

    hidden: [tokens, width] after the final norm. head: [vocabulary, width].
    """

    hidden: torch.Tensor
    head: torch.Tensor


@dataclass(frozen=True)
class Sparse:
    """A teacher's distribution over a few tokens a position; for forward KL only.

    ids: int64 [tokens, kept]. weights: float [tokens, kept], the probabilities; 0 where fewer were kept.
    """

    ids: torch.Tensor
    weights: torch.Tensor


@dataclass(frozen=True)
class Mix:
    """What the loss is made of; see ``squeeze.config.DistillConfig``. The default is forward KL alone."""

    divergence: Divergence = "forward"
    temperature: float = 1.0
    cross_entropy: float = 0.0


def head_loss(
    hidden: torch.Tensor,
    head: torch.Tensor,
    labels: torch.Tensor,
    teacher: Dense | Sparse | None = None,
    mix: Mix | None = None,
    chunk: int | None = None,
) -> torch.Tensor:
    """The loss summed over tokens, a float32 scalar (float64 for float64 inputs) to call backward on.

    hidden: [tokens, width] of the student, at supervised positions only. head: [vocabulary, width], which may
    be the embedding too. labels: int64 [tokens]. Without a teacher it is the cross-entropy with the labels.
    With one: cross_entropy · CE + (1 − cross_entropy) · temperature² · D(teacher, student). For a sparse
    teacher D lacks the teacher's own entropy, a constant: it is −Σ p log q. chunk: tokens at a time.

    Matrix products are made in the dtype of ``hidden``, softmaxes in float32. Autograd sees one operation;
    calling backward a second time or differentiating its gradient is not possible.
    """
    mix = mix or Mix()
    size = chunk or max(64, _CHUNK[hidden.device.type] // head.shape[0])
    loss: torch.Tensor = _HeadLoss.apply(hidden, head, labels, teacher, mix, size)
    return loss


class _HeadLoss(torch.autograd.Function):  # type: ignore[misc]  # torch is not looked at
    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        head: torch.Tensor,
        labels: torch.Tensor,
        teacher: Dense | Sparse | None,
        mix: Mix,
        size: int,
    ) -> torch.Tensor:
        wanted, wanted_head = ctx.needs_input_grad[:2]
        exact = torch.float64 if hidden.dtype == torch.float64 else torch.float32
        total = torch.zeros((), dtype=exact, device=hidden.device)
        gradient = torch.zeros_like(hidden) if wanted else None
        # Chunks add up here: 16-bit sums of many chunks would lose the small ones.
        head_gradient = torch.zeros(head.shape, dtype=exact, device=head.device) if wanted_head else None
        weight = head.to(hidden.dtype)
        teacher_head = teacher.head.to(teacher.hidden.dtype) if isinstance(teacher, Dense) else None
        with torch.autocast(hidden.device.type, enabled=False):
            for rows in _chunks(len(hidden), size):
                part = hidden[rows]
                logits = (part @ weight.T).to(exact)
                target: torch.Tensor | Sparse | None = None
                if isinstance(teacher, Dense) and teacher_head is not None:
                    target = (teacher.hidden[rows] @ teacher_head.T).to(exact)
                elif isinstance(teacher, Sparse):
                    target = Sparse(teacher.ids[rows], teacher.weights[rows].to(exact))
                loss, change = _chunk(logits, labels[rows], target, mix, wanted or wanted_head)
                total += loss
                if change is None:
                    continue
                change = change.to(hidden.dtype)
                if gradient is not None:
                    torch.mm(change, weight, out=gradient[rows])
                if head_gradient is not None:
                    if hidden.dtype == exact:
                        head_gradient.addmm_(change.T, part)
                    else:
                        head_gradient += change.T @ part
        ctx.save_for_backward(*(kept for kept in (gradient, head_gradient) if kept is not None))
        ctx.kept = (gradient is not None, head_gradient is not None)
        ctx.head_dtype = head.dtype
        return total

    @staticmethod
    def backward(ctx: Any, *outer: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        saved = iter(ctx.saved_tensors)
        of_hidden, of_head = ctx.kept
        gradient = next(saved).mul_(outer[0]) if of_hidden else None
        head_gradient = next(saved).mul_(outer[0]).to(ctx.head_dtype) if of_head else None
        return gradient, head_gradient, None, None, None, None


def _chunks(count: int, size: int) -> Iterator[slice]:
    return (slice(start, min(start + size, count)) for start in range(0, count, size))


def _chunk(
    logits: torch.Tensor,
    labels: torch.Tensor,
    target: torch.Tensor | Sparse | None,
    mix: Mix,
    differentiate: bool,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """The loss summed over a chunk and its gradient by the logits. May overwrite its arguments."""
    share = 1.0 if target is None else mix.cross_entropy
    loss = logits.new_zeros(())
    change: torch.Tensor | None = None
    if share:
        log_q = functional.log_softmax(logits, dim=-1)
        loss = loss - share * log_q.gather(1, labels[:, None]).sum()
        if differentiate:
            change = log_q.exp_()
            change.scatter_add_(1, labels[:, None], change.new_full((len(labels), 1), -1.0))
            change *= share
    if target is None or share == 1.0:
        return loss, change
    heat = mix.temperature
    log_q = functional.log_softmax(logits if heat == 1.0 else logits.div_(heat), dim=-1)
    if isinstance(target, Sparse):
        divergence, slope = _sparse(log_q, target, differentiate)
    else:
        log_p = functional.log_softmax(target if heat == 1.0 else target.div_(heat), dim=-1)
        divergence, slope = _DENSE[mix.divergence](log_p, log_q, differentiate)
    loss = loss + (1 - share) * heat * heat * divergence
    if slope is not None:
        if heat != 1.0 or share:
            slope *= (1 - share) * heat  # one of the two temperatures goes in the logits' own derivative
        change = slope if change is None else change.add_(slope)
    return loss, change


Slope = tuple[torch.Tensor, torch.Tensor | None]
"""A divergence summed over tokens, and its gradient by the student's logits over the temperature."""


def _forward(log_p: torch.Tensor, log_q: torch.Tensor, differentiate: bool) -> Slope:
    p = log_p.exp()
    divergence = (p * (log_p - log_q)).sum()
    return divergence, (log_q.exp_().sub_(p) if differentiate else None)


def _reverse(log_p: torch.Tensor, log_q: torch.Tensor, differentiate: bool) -> Slope:
    q = log_q.exp()
    ratio = log_q - log_p
    each = (q * ratio).sum(-1, keepdim=True)
    return each.sum(), (ratio.sub_(each).mul_(q) if differentiate else None)


def _js(log_p: torch.Tensor, log_q: torch.Tensor, differentiate: bool) -> Slope:
    p, q = log_p.exp(), log_q.exp()
    log_m = torch.logaddexp(log_p, log_q).sub_(_LOG_2)
    ratio = log_q - log_m
    each = (q * ratio).sum(-1, keepdim=True)
    divergence = 0.5 * ((p * (log_p - log_m)).sum() + each.sum())
    return divergence, (ratio.sub_(each).mul_(q).mul_(0.5) if differentiate else None)


def _sparse(log_q: torch.Tensor, target: Sparse, differentiate: bool) -> Slope:
    divergence = -(target.weights * log_q.gather(1, target.ids)).sum()
    if not differentiate:
        return divergence, None
    slope = log_q.exp_().mul_(target.weights.sum(-1, keepdim=True))
    return divergence, slope.scatter_add_(1, target.ids, -target.weights)


_LOG_2 = 0.6931471805599453
_DENSE: dict[Literal["forward", "reverse", "js"], Any] = {
    "forward": _forward,
    "reverse": _reverse,
    "js": _js,
}
