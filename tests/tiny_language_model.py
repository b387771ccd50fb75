"""A small causal model of transformers with random weights, and its tokenizer of whole words, in a folder."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast


def make(folder: Path, words: Iterable[str], *, positions: int = 512) -> str:
    """Write the folder; every word and mark of `words` that a blank divides is a token."""
    vocabulary = {"<unk>": 0, "<end>": 1} | {word: n for n, word in enumerate(sorted(set(words)), 2)}
    backend = Tokenizer(WordLevel(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>", pad_token="<end>").save_pretrained(folder)
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=len(vocabulary), n_positions=positions, n_embd=32, n_layer=2, n_head=2, initializer_range=0.3,
        bos_token_id=1, eos_token_id=1,
    )  # fmt: skip
    GPT2LMHeadModel(config).save_pretrained(folder)
    return str(folder)
