"""The model's tokenizer: byte-level BPE trained on the made world, with EXAONE-4's special tokens."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

VOCAB_SIZE = 2048
SPECIAL_IDS = {
    "[PAD]": 0,
    "[BOS]": 1,
    "[EOS]": 2,
    "[UNK]": 3,
    "[|endofturn|]": 361,
    "[|system|]": 362,
    "[|user|]": 363,
    "[|assistant|]": 364,
    "<think>": 365,
    "</think>": 366,
}

CHAT_TEMPLATE = """\
{%- for message in messages -%}
{%- set text = message['content'] -%}
{%- if message['role'] == 'assistant' -%}
{%- if '</think>' in text -%}{%- set text = text.split('</think>')[-1].lstrip('\\n') -%}{%- endif -%}
{{- '[|assistant|]\\n<think>\\n\\n</think>\\n\\n' + text + '[|endofturn|]\\n' -}}
{%- else -%}
{{- '[|' + message['role'] + '|]\\n' + text + '[|endofturn|]\\n' -}}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
{%- if enable_thinking is defined and enable_thinking -%}
{{- '[|assistant|]\\n<think>\\n' -}}
{%- else -%}
{{- '[|assistant|]\\n<think>\\n\\n</think>\\n\\n' -}}
{%- endif -%}
{%- endif -%}
"""


def train_tokenizer(texts: Iterable[str], vocab_size: int = VOCAB_SIZE) -> Tokenizer:
    """Train on texts and put the special tokens at their ids. The same texts give the same tokenizer."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = _pre_tokenizer()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - len(SPECIAL_IDS),
        show_progress=False,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
    )
    tokenizer.train_from_iterator(texts, trainer)
    learned: dict[str, Any] = json.loads(tokenizer.to_str())["model"]
    by_id = sorted(learned["vocab"], key=learned["vocab"].__getitem__)
    taken = set(SPECIAL_IDS.values())
    free = (index for index in range(vocab_size) if index not in taken)
    vocab = dict(zip(by_id, free, strict=False)) | SPECIAL_IDS
    merges = [tuple(m) if isinstance(m, list) else tuple(m.split(" ")) for m in learned["merges"]]
    out = Tokenizer(models.BPE(vocab=vocab, merges=merges))
    out.pre_tokenizer = _pre_tokenizer()
    out.decoder = decoders.ByteLevel()
    out.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in SPECIAL_IDS])
    return out


def _pre_tokenizer() -> Any:
    """Newlines and digits stand alone, so that text is cut alike whatever follows it."""
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex("\n"), "isolated"),
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )


def save_tokenizer(tokenizer: Tokenizer, folder: Path) -> None:
    """Write tokenizer.json, tokenizer_config.json and chat_template.jinja, for transformers 4.57 and 5."""
    (folder / "tokenizer.json").write_text(tokenizer.to_str(pretty=False), encoding="utf-8")
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "[BOS]",
        "eos_token": "[|endofturn|]",
        "pad_token": "[PAD]",
        "unk_token": "[UNK]",
        "clean_up_tokenization_spaces": False,
        "model_max_length": 65536,
        "added_tokens_decoder": {
            str(index): {
                "content": text,
                "lstrip": False,
                "normalized": False,
                "rstrip": False,
                "single_word": False,
                "special": True,
            }
            for text, index in sorted(SPECIAL_IDS.items(), key=lambda item: item[1])
        },
        "chat_template": CHAT_TEMPLATE,
    }
    text = json.dumps(settings, ensure_ascii=False, indent=2) + "\n"
    (folder / "tokenizer_config.json").write_text(text, encoding="utf-8")
    (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE, encoding="utf-8")
