"""What one stack makes of a model: greedy answers in vLLM, and float32 logits in transformers.

Run by ``proof.py`` with the Python of each stack; imports nothing of the project, so that it measures the
libraries alone.   python answers.py MODEL CHATS.json OUT.json float32|bfloat16|none
"""

from __future__ import annotations

import json
import os
import sys
import time
from importlib import metadata
from pathlib import Path
from typing import Any

os.environ.update(
    {
        "HF_HUB_OFFLINE": "1",
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_NO_USAGE_STATS": "1",
    }
)
TOKENS = 64
LOGITS_OF = 4


def main() -> None:
    model, chats_path, out = (Path(argument) for argument in sys.argv[1:4])
    dtype = sys.argv[4]
    chats = json.loads(chats_path.read_text(encoding="utf-8"))
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model)
    asked = {"tokenize": False, "add_generation_prompt": True}
    texts = [tokenizer.apply_chat_template(chat, **asked) for chat in chats]
    prompts = [tokenizer.encode(text, add_special_tokens=False) for text in texts]
    result = {
        "versions": versions(),
        "rope": rope(model),
        "prompts": prompts,
        "logits": logits(model, prompts[:LOGITS_OF]) if dtype != "bfloat16" else [],
        **answers(model, chats, dtype),
    }
    out.write_text(json.dumps(result, ensure_ascii=False), encoding="utf-8")


def versions() -> dict[str, str]:
    """The distributions that matter and are installed."""
    names = ("vllm", "vllm-cpu", "transformers", "tokenizers", "torch", "compressed-tensors")
    found = {dist.metadata["Name"].lower(): dist.version for dist in metadata.distributions()}
    return {name: found[name] for name in names if name in found}


def rope(model: Path) -> dict[str, Any]:
    """RoPE and dtype as transformers reads them from the config."""
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(model)
    new = getattr(config, "rope_parameters", None) or {}
    scaling = {key: value for key, value in new.items() if key != "rope_theta"} or config.rope_scaling
    if scaling and scaling.get("rope_type") == "default":
        scaling = None
    theta = new.get("rope_theta", getattr(config, "rope_theta", None))
    return {
        "theta": theta,
        "scaling": scaling,
        "dtype": str(config.dtype),
        "layers": config.num_hidden_layers,
    }


def logits(model: Path, prompts: list[list[int]]) -> list[list[float]]:
    """Logits after the last token of each prompt, in float32 with plain attention."""
    import torch
    from transformers import AutoModelForCausalLM

    net = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32, attn_implementation="eager").eval()
    with torch.inference_mode():
        return [net(torch.tensor([prompt])).logits[0, -1].tolist() for prompt in prompts]


def answers(model: Path, chats: list[Any], dtype: str) -> dict[str, Any]:
    """Greedy answers of ``LLM.chat`` and, token by token, how far the best was from the second best."""
    if dtype == "none":
        return {"texts": [], "tokens": [], "gaps": [], "seconds": 0.0}
    from vllm import LLM, SamplingParams

    engine = LLM(
        model=str(model),
        dtype=dtype,
        max_model_len=2048,
        enforce_eager=True,
        enable_prefix_caching=False,
        seed=42,
    )
    greedy = SamplingParams(temperature=0.0, max_tokens=TOKENS, seed=42, logprobs=2)
    began = time.perf_counter()
    outputs = [output.outputs[0] for output in engine.chat(chats, greedy, use_tqdm=False)]
    gaps = []
    for output in outputs:
        best = [sorted((one.logprob for one in step.values()), reverse=True) for step in output.logprobs]
        gaps.append([pair[0] - pair[1] for pair in best])
    return {
        "texts": [output.text for output in outputs],
        "tokens": [list(output.token_ids) for output in outputs],
        "gaps": gaps,
        "seconds": time.perf_counter() - began,
    }


if __name__ == "__main__":
    main()
