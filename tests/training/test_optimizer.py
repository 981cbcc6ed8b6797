"""The optimizer's state goes through a checkpoint exactly, and 16-bit parameters lose no small update."""

from __future__ import annotations

import pytest
import torch

from squeeze.training.optimizer import make


def parameters(dtype: torch.dtype) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return {name: torch.randn(7, 3).to(dtype).requires_grad_(True) for name in ("a", "b")}


def step(values: dict[str, torch.Tensor], optimizer: object, count: int, start: int = 0) -> None:
    for index in range(start, start + count):
        generator = torch.Generator().manual_seed(index)
        for value in values.values():
            value.grad = torch.randn(value.shape, generator=generator).to(value.dtype)
        optimizer.step(1e-3)  # type: ignore[attr-defined]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_restored_optimizer_goes_on_exactly(dtype: torch.dtype) -> None:
    straight = parameters(dtype)
    step(straight, make(straight, "cpu"), 6)

    first = parameters(dtype)
    optimizer = make(first, "cpu")
    step(first, optimizer, 4)
    state = {name: value.clone() for name, value in optimizer.state().items()}
    second = {name: value.detach().clone().requires_grad_(True) for name, value in first.items()}
    again = make(second, "cpu")
    again.restore(state)
    step(second, again, 2, start=4)
    assert all(torch.equal(straight[name], second[name]) for name in straight)


def test_the_state_of_another_optimizer_is_refused() -> None:
    narrow, wide = parameters(torch.bfloat16), parameters(torch.float32)
    one, other = make(narrow, "cpu"), make(wide, "cpu")
    step(narrow, one, 1)
    with pytest.raises(KeyError):
        other.restore(one.state())


def test_updates_too_small_for_16_bits_add_up() -> None:
    values = {"a": torch.ones(4, dtype=torch.bfloat16).requires_grad_(True)}
    optimizer = make(values, "cpu")
    for _ in range(100):
        values["a"].grad = torch.ones(4, dtype=torch.bfloat16)
        optimizer.step(1e-4)  # a bfloat16 next to 1 differs by 0.004
    torch.testing.assert_close(values["a"].float(), torch.full((4,), 0.99), atol=4e-3, rtol=0)
    assert (values["a"] < 1).all()


def test_large_gradients_are_clipped_to_a_norm_of_one() -> None:
    values = {"a": torch.zeros(4, requires_grad=True)}
    values["a"].grad = torch.full((4,), 1e9)
    optimizer = make(values, "cpu")
    optimizer.step(0.0)
    (average,) = (value for name, value in optimizer.state().items() if name.endswith("exp_avg"))
    torch.testing.assert_close(average, torch.full((4,), 0.05))  # (1 - 0.9) * 1/2
