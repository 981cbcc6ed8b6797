"""Shapes of decoders, and configs rewritten for other shapes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from squeeze.decoder import Decoder, read_config, with_layers, with_width
from squeeze.errors import ConfigError

REAL: dict[str, Any] = {
    "architectures": ["Exaone4ForCausalLM"],
    "model_type": "exaone4",
    "hidden_size": 2048,
    "intermediate_size": 4096,
    "num_hidden_layers": 30,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 64,
    "vocab_size": 102400,
    "tie_word_embeddings": True,
    "rope_theta": 1000000,
    "rope_scaling": {"rope_type": "llama3", "factor": 16.0},
    "layer_types": ["full_attention"] * 30,
}


def test_the_shape_of_exaone_4_is_read() -> None:
    decoder = Decoder.of(REAL, "here")
    assert (decoder.layers, decoder.hidden, decoder.width, decoder.tied) == (30, 2048, 4096, True)
    assert decoder.linears == {
        "qkv_proj": (2048, 3072),
        "o_proj": (2048, 2048),
        "gate_up_proj": (2048, 8192),
        "down_proj": (4096, 2048),
    }


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"model_type": "bert", "architectures": ["BertModel"]}, "known: Exaone4ForCausalLM"),
        ({"architectures": None}, "of no architecture"),
        ({"layer_types": ["full_attention"] * 29}, "one entry for each of the 30 layers"),
        ({"num_hidden_layers": 0}, "num_hidden_layers"),
        ({"hidden_size": "2048"}, "hidden_size"),
    ],
)
def test_what_is_no_known_decoder_is_refused(change: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        Decoder.of({**REAL, **change}, "here")


@pytest.mark.parametrize("content", [None, "", "[]", "{"])
def test_a_config_that_cannot_be_read_is_one_line(content: str | None, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    with pytest.raises(ConfigError, match=r"config\.json") as caught:
        read_config(tmp_path)
    assert "\n" not in str(caught.value)


def test_weights_know_their_layer() -> None:
    decoder = Decoder.of(REAL, "here")
    assert decoder.layer_of("model.layers.12.mlp.up_proj.weight") == (12, "mlp.up_proj.weight")
    assert decoder.layer_of("model.embed_tokens.weight") is None
    assert decoder.layer_prefix(3) + "mlp" == "model.layers.3.mlp"


@pytest.mark.parametrize(
    "rope",
    [
        {"rope_theta": 1e6, "rope_scaling": {"rope_type": "llama3"}},
        {"rope_parameters": {"rope_theta": 1e6, "rope_type": "llama3"}},
    ],
)
def test_both_ways_to_write_rope_survive(rope: dict[str, Any]) -> None:
    plain = {key: value for key, value in REAL.items() if not key.startswith("rope")}
    config = {**plain, **rope, "layer_types": ["sliding_attention", *["full_attention"] * 29]}
    new = with_width(with_layers(config, [1, 2, 5]), 1024)
    assert new == {
        **config,
        "num_hidden_layers": 3,
        "layer_types": ["full_attention"] * 3,
        "intermediate_size": 1024,
    }
