"""The model that is trained, what of it, and towards what."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch  # noqa: TID253  only processes that train import this module

from squeeze.training import packed
from squeeze.training.loss import Mix, head_loss
from squeeze.training.packed import Batch
from squeeze.training.teacher import Teacher, layer_outputs


@dataclass(frozen=True)
class Learner:
    """A transformers causal LM on its device, and the loss it is trained with.

    model: any with ``get_decoder()`` and ``get_output_embeddings()``, on the device, with the packed
    attention attached (``packed.attach``). trainable: name -> parameter that is trained; whoever makes the
    learner freezes everything else; names key the checkpoints. teacher: None trains on the text alone
    (cross-entropy: SFT). mix: of the loss. hidden, watch: weight of the loss on the outputs of those layers
    (0-based, of the student), in the order of the teacher's watched ones. precision: the dtype of matrix
    products, by autocast; None: that of the weights.
    """

    model: Any
    trainable: Mapping[str, torch.Tensor]
    teacher: Teacher | None = None
    mix: Mix = field(default_factory=Mix)
    hidden: float = 0.0
    watch: Sequence[int] = ()
    precision: torch.dtype | None = None

    @property
    def device(self) -> str:
        """``cpu`` or ``cuda``."""
        return str(next(iter(self.trainable.values())).device.type)

    def loss(self, batch: Batch) -> torch.Tensor:
        """The loss summed over the batch's supervised positions, a scalar to call backward on."""
        answer = self.teacher.answer(batch) if self.teacher else None
        with (
            packed.at_precision(batch.ids.device.type, self.precision),
            layer_outputs(self.model, self.watch, batch.places) as layers,
        ):
            states = packed.hidden_states(self.model, batch)[batch.places]
        states = states.to(self.precision) if self.precision else states
        head = self.model.get_output_embeddings().weight
        total = head_loss(states, head, batch.labels, answer.target if answer else None, self.mix)
        if answer is not None and self.hidden and self.watch:
            errors = [
                (ours.float() - theirs.float()).square().sum() / theirs.float().square().mean(-1).mean()
                for ours, theirs in zip(layers, answer.layers, strict=True)
            ]
            # Summed over positions as the rest is, averaged over width and layers.
            total = total + self.hidden * torch.stack(errors).sum() / (len(errors) * states.shape[-1])
        return total
