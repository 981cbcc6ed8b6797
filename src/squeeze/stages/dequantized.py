"""A compressed checkpoint as torch computes it: rounded as in the engine, and differentiable.

transformers can load such a folder too, but compressed-tensors rounds activations under ``no_grad``: no
gradient would reach what comes before a linear layer with rounded inputs.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch  # noqa: TID253  only a process that trains imports this module
from safetensors import safe_open
from torch import Tensor, nn  # noqa: TID253
from torch.nn import functional  # noqa: TID253

from squeeze import versions
from squeeze.decoder import read_config
from squeeze.errors import ConfigError
from squeeze.shards import shard_paths

_LARGEST = {"int": 127.0, "float": 448.0}
"""What the largest input of a token becomes: the largest INT8 and FP8 (E4M3) number."""


class RoundedLinear(nn.Module):  # type: ignore[misc]  # torch is untyped to mypy here
    """A frozen linear layer whose inputs are rounded to 8 bits, for each token or with a fixed scale.

    codes: the stored weights [outputs, inputs], whole or FP8 numbers, which BF16 holds exactly. scale: of
    the weights, [outputs] or [1]. input_scale: [1] where it is fixed, else None. kind: int or float. Codes
    are multiplied and the product is scaled, as engines do it. The gradient takes rounding for the identity
    (straight-through, arXiv:1308.3432) and is zero where a fixed scale cuts an input off.
    """

    codes: Tensor
    scale: Tensor
    input_scale: Tensor | None

    def __init__(
        self, codes: Tensor, scale: Tensor, input_scale: Tensor | None, kind: str, bias: Tensor | None
    ) -> None:
        super().__init__()
        self.register_buffer("codes", codes)
        self.register_buffer("scale", scale)
        self.register_buffer("input_scale", input_scale)
        self.register_buffer("bias", bias)
        self.kind = kind

    def forward(self, inputs: Tensor) -> Tensor:
        """Inputs [..., inputs] to outputs [..., outputs] of the same dtype."""
        exact = inputs.float()
        largest = _LARGEST[self.kind]
        if self.input_scale is None:
            size = exact.detach().abs().amax(-1, keepdim=True) / largest
            size = size.clamp_min(torch.finfo(torch.float32).tiny)  # a token of zeros
        else:
            size = self.input_scale.float()
        lowest = -largest - 1 if self.kind == "int" else -largest
        scaled = (exact / size).clamp(lowest, largest)
        with torch.no_grad():
            whole = scaled.round() if self.kind == "int" else scaled.to(torch.float8_e4m3fn).float()
        rounded = scaled + (whole - scaled).detach()
        products = functional.linear(rounded.to(self.codes.dtype), self.codes).float()
        outputs = products * (size * self.scale.float())
        if self.bias is not None:
            outputs = outputs + self.bias
        return outputs.to(inputs.dtype)


def load(folder: Path, device: str) -> Any:
    """The transformers model of a folder that ``stages.quantize`` wrote, in the dtype of its norms.

    Where the scheme leaves inputs as they are, linear layers are plain ones with the rounded weights, to the
    bit what transformers makes of the folder; elsewhere they are ``RoundedLinear``. No parameter requires a
    gradient. Engines give q, k, v and gate, up one common scale where it is one a matrix (FP8); here each
    keeps its own. Raises ConfigError for a folder that is not such a one.
    """
    quantization = read_config(folder).get("quantization_config") or {}
    groups = list((quantization.get("config_groups") or {}).values())
    if quantization.get("quant_method") != "compressed-tensors" or len(groups) != 1:
        raise ConfigError(
            f"the model must be quantized, in the compressed-tensors format with one config group; "
            f"{folder} is not; quantize it first"
        )
    inputs = groups[0].get("input_activations")
    stored = read(folder)
    plain: dict[str, Tensor] = {}
    rounded: dict[str, dict[str, Tensor]] = {}
    for name, tensor in stored.items():
        module, _, kind = name.rpartition(".")
        if kind == "weight_packed":
            own = {
                key.removeprefix(f"{module}."): value
                for key, value in stored.items()
                if key.startswith(f"{module}.weight_")
            }
            plain[f"{module}.weight"] = versions.unpacked_weight(own, groups[0]["weights"])
        elif kind == "weight_scale" and f"{module}.weight" in stored:
            rounded[module] = {"scale": tensor, "codes": stored[f"{module}.weight"]}
        elif not kind.startswith(("weight_", "input_")):
            plain[name] = tensor
    if rounded and inputs is None:
        raise ConfigError(
            f"weights that are not packed must go with rounded inputs; the config of {folder} has none; "
            f"quantize it again"
        )
    dtype = plain[next(name for name in plain if name.endswith("norm.weight"))].dtype
    model = versions.model_with(folder, {name: tensor.to(dtype) for name, tensor in plain.items()})
    for module, parts in rounded.items():
        parent, _, own_name = module.rpartition(".")
        bias = stored.get(f"{module}.bias")
        layer = RoundedLinear(
            parts["codes"].to(dtype),
            parts["scale"].flatten(),
            stored.get(f"{module}.input_scale") if not inputs["dynamic"] else None,
            inputs["type"],
            bias,
        )
        setattr(model.get_submodule(parent), own_name, layer)
    model.requires_grad_(False)
    return model.to(device)


def read(folder: Path) -> Mapping[str, Tensor]:
    """Every tensor of a folder's weight files as it is stored, by name."""
    tensors: dict[str, Tensor] = {}
    for path in shard_paths(folder):
        with safe_open(path, framework="pt") as file:
            tensors.update({name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118
    return tensors
