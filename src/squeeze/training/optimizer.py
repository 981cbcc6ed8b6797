"""The optimizer, chosen by the size of the model and by what is installed, and its state as plain tensors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import torch  # noqa: TID253  only processes that train import this module

BETAS = (0.9, 0.95)
LARGE = 500_000_000
"""Parameters from which on their 32-bit copies would not fit a 24 GB card beside a teacher."""


def eight_bit() -> str | None:
    """Which installed package offers AdamW with 8-bit states: ``torchao``, ``bitsandbytes`` or None."""
    return next((name for name in ("torchao", "bitsandbytes") if find_spec(name) is not None), None)


def stored_in(parameters: int, device: str) -> torch.dtype:
    """The dtype to train that many parameters in: 32-bit, or bfloat16 where memory decides.

    bfloat16 alone loses small updates, so it is used only with torchao, which rounds them stochastically.
    """
    large = device != "cpu" and parameters >= LARGE
    return torch.bfloat16 if large and eight_bit() == "torchao" else torch.float32


@dataclass(frozen=True)
class Optimizer:
    """AdamW without weight decay. name: what it is, for notes and for what can be resumed."""

    inner: Any
    name: str
    parameters: Mapping[str, torch.Tensor]

    def step(self, learning_rate: float) -> None:
        """Clip the gradients to a norm of 1, take a step, and forget them."""
        torch.nn.utils.clip_grad_norm_(list(self.parameters.values()), 1.0)
        for group in self.inner.param_groups:
            if isinstance(group["lr"], torch.Tensor):  # torchao's, so that its compiled step stays
                group["lr"].fill_(learning_rate)
            else:
                group["lr"] = learning_rate
        self.inner.step()
        self.inner.zero_grad(set_to_none=True)

    def state(self) -> dict[str, torch.Tensor]:
        """Every tensor of the state: ``parameter/what`` -> the tensor itself, not a copy."""
        found: dict[str, torch.Tensor] = {}
        for name, parameter in self.parameters.items():
            for what, value in sorted(self.inner.state.get(parameter, {}).items()):
                found.update(_flat(f"{name}/{what}", value))
        return found

    def restore(self, state: Mapping[str, torch.Tensor]) -> None:
        """Put back what ``state`` gave, into an optimizer made in the same way.

        Raises KeyError or RuntimeError when it is the state of another kind of optimizer.
        """
        # A step that changes nothing makes the state's tensors, of whatever classes the package uses.
        kept = {name: parameter.detach().clone() for name, parameter in self.parameters.items()}
        for parameter in self.parameters.values():
            parameter.grad = torch.zeros_like(parameter)
        self.step(0.0)
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                parameter.copy_(kept[name])
        own = self.state()
        if own.keys() != state.keys():
            raise KeyError(f"the state has {len(state)} tensors, the optimizer {len(own)}")
        with torch.no_grad():
            for name, value in own.items():
                value.copy_(state[name].reshape(value.shape))


def make(parameters: Mapping[str, torch.Tensor], device: str) -> Optimizer:
    """AdamW for those parameters, on the device they are on."""
    values = list(parameters.values())
    count = sum(value.numel() for value in values)
    package = eight_bit() if device != "cpu" and count >= LARGE else None
    common: dict[str, Any] = {"lr": 1e-3, "betas": BETAS, "weight_decay": 0.0}
    if package == "torchao":
        from torchao.optim import AdamW8bit

        rounds = values[0].dtype == torch.bfloat16
        return Optimizer(
            AdamW8bit(values, bf16_stochastic_round=rounds, **common), "AdamW8bit (torchao)", parameters
        )
    if package == "bitsandbytes":
        from bitsandbytes.optim import AdamW8bit as BnbAdamW8bit

        return Optimizer(BnbAdamW8bit(values, **common), "AdamW8bit (bitsandbytes)", parameters)
    return Optimizer(torch.optim.AdamW(values, fused=True, **common), "AdamW (fused)", parameters)


def _flat(name: str, value: Any) -> dict[str, torch.Tensor]:
    """The plain tensors that a value of the state is made of."""
    if not isinstance(value, torch.Tensor):
        return {}
    if hasattr(value, "__tensor_flatten__"):  # quantized states are subclasses made of tensors
        inner, _ = value.__tensor_flatten__()
        return {f"{name}/{part}": getattr(value, part) for part in inner}
    return {name: value}
