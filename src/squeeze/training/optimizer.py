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


def stored_in(device: str) -> torch.dtype:
    """The dtype to train a whole model in: 32-bit on a CPU; bfloat16 on CUDA (see ``make``)."""
    return torch.float32 if device == "cpu" else torch.bfloat16


@dataclass(frozen=True)
class Optimizer:
    """AdamW without weight decay.

    name: what it is, for notes and for what can be resumed. masters: 32-bit copies that 16-bit parameters
    follow, so that no small update is lost; empty where there is no need.
    """

    inner: Any
    name: str
    parameters: Mapping[str, torch.Tensor]
    masters: Mapping[str, torch.Tensor]

    @torch.no_grad()  # type: ignore[untyped-decorator]
    def step(self, learning_rate: float) -> None:
        """Clip the gradients to a norm of 1, take a step, and forget them."""
        torch.nn.utils.clip_grad_norm_(list(self.parameters.values()), 1.0)
        for name, master in self.masters.items():
            parameter = self.parameters[name]
            master.grad = None if parameter.grad is None else parameter.grad.float()
            parameter.grad = None
        for group in self.inner.param_groups:
            if isinstance(group["lr"], torch.Tensor):  # torchao's, so that its compiled step stays
                group["lr"].fill_(learning_rate)
            else:
                group["lr"] = learning_rate
        self.inner.step()
        self.inner.zero_grad(set_to_none=True)
        if self.masters:
            torch._foreach_copy_(
                [self.parameters[name] for name in self.masters], list(self.masters.values())
            )

    def state(self) -> dict[str, torch.Tensor]:
        """Every number of the state: ``parameter/what`` -> the tensor itself, not a copy, where it is one."""
        found: dict[str, torch.Tensor] = {}
        for name, parameter in (self.masters or self.parameters).items():
            if self.masters:
                found[f"{name}/master"] = parameter
            for what, value in sorted(self.inner.state.get(parameter, {}).items()):
                found.update(_flat(f"{name}/{what}", value))
        return found

    @torch.no_grad()  # type: ignore[untyped-decorator]
    def restore(self, state: Mapping[str, torch.Tensor]) -> None:
        """Put back what ``state`` gave, into an optimizer made in the same way.

        Raises KeyError or RuntimeError when it is the state of another kind of optimizer.
        """
        # A step that changes nothing makes the state's tensors, of whatever classes the package uses.
        kept = {name: parameter.detach().clone() for name, parameter in self.parameters.items()}
        for parameter in self.parameters.values():
            parameter.grad = torch.zeros_like(parameter)
        self.step(0.0)
        for name, parameter in self.parameters.items():
            parameter.copy_(kept[name])
        own = self.state()
        if own.keys() != state.keys():
            raise KeyError(f"the state has {len(state)} tensors, the optimizer {len(own)}")
        for name, value in own.items():
            value.copy_(state[name].reshape(value.shape))
        for name, parameter in (self.masters or self.parameters).items():
            for what, value in self.inner.state[parameter].items():
                if isinstance(value, int):  # bitsandbytes counts steps so
                    self.inner.state[parameter][what] = int(state[f"{name}/{what}"])


def make(parameters: Mapping[str, torch.Tensor], device: str) -> Optimizer:
    """AdamW for those parameters, on the device they are on.

    A large model on CUDA gets 8-bit states where torchao or bitsandbytes is installed. With torchao it is
    trained in bfloat16 with stochastic rounding (8 bytes a parameter, gradient included); otherwise 16-bit
    parameters follow 32-bit masters (20 bytes at the step's peak, 14 with bitsandbytes).
    """
    count = sum(value.numel() for value in parameters.values())
    package = eight_bit() if device != "cpu" and count >= LARGE else None
    common: dict[str, Any] = {"lr": 1e-3, "betas": BETAS, "weight_decay": 0.0}
    if package == "torchao":
        from torchao.optim import AdamW8bit  # type: ignore[import-not-found]

        rounding = all(value.dtype == torch.bfloat16 for value in parameters.values())
        inner = AdamW8bit(list(parameters.values()), bf16_stochastic_round=rounding, **common)
        return Optimizer(inner, "AdamW8bit (torchao, bf16, stochastic rounding)", parameters, {})
    masters: dict[str, torch.Tensor] = {}
    if any(value.dtype != torch.float32 for value in parameters.values()):
        masters = {
            name: value.detach().to(torch.float32, copy=True).requires_grad_(True)
            for name, value in parameters.items()
        }
    values = list((masters or parameters).values())
    of = ", 32-bit masters" if masters else ""
    if package == "bitsandbytes":
        from bitsandbytes.optim import (  # type: ignore[import-not-found]
            AdamW8bit as BnbAdamW8bit,
        )

        return Optimizer(BnbAdamW8bit(values, **common), f"AdamW8bit (bitsandbytes{of})", parameters, masters)
    return Optimizer(
        torch.optim.AdamW(values, fused=True, **common), f"AdamW (fused{of})", parameters, masters
    )


def _flat(name: str, value: Any) -> dict[str, torch.Tensor]:
    """The plain tensors that a value of the state is made of."""
    if isinstance(value, int):
        return {name: torch.tensor(value)}
    if not isinstance(value, torch.Tensor):
        return {}
    if hasattr(value, "__tensor_flatten__"):  # quantized states are subclasses made of tensors
        inner, _ = value.__tensor_flatten__()
        return {f"{name}/{part}": getattr(value, part) for part in inner}
    return {name: value}
