"""What is told of the kernels that serve a model."""

from types import SimpleNamespace

import torch

from squeeze.bench.resolved import layer_kernels


class Method:
    """A linear method of vLLM, by name."""


class Scheme:
    def __init__(self, kernel: object) -> None:
        self.kernel = kernel


class Cutlass:
    """A kernel, by name."""


class Machete:
    """Another."""


def linear(kernel: object | None) -> torch.nn.Module:
    layer = torch.nn.Linear(2, 2)
    layer.quant_method = Method()
    if kernel is not None:
        layer.scheme = Scheme(kernel)
    return layer


def test_each_kind_of_layer_tells_the_kernels_of_all_its_layers() -> None:
    model = torch.nn.Module()
    model.first, model.second = torch.nn.Module(), torch.nn.Module()
    model.first.down_proj, model.second.down_proj = linear(Cutlass()), linear(Machete())
    model.first.o_proj = linear(None)
    model.first.attn = torch.nn.Module()
    model.first.attn.attn_backend = SimpleNamespace
    assert layer_kernels(model) == {
        "attn": "SimpleNamespace",
        "down_proj": "Method > Scheme > Cutlass; Method > Scheme > Machete",
        "o_proj": "Method",
    }
