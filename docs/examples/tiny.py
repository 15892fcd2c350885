"""What the examples share: a tiny Llama, and real text for it (the State of the Union addresses, byte by byte)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils.data import Dataset
from transformers import LlamaConfig, LlamaForCausalLM

from harness.workloads.language import corpus

LENGTH = 64  # tokens of an example


class Text(Dataset[dict[str, Tensor]]):
    """``examples`` stretches of text, each of ``LENGTH`` bytes, as a causal language model takes them."""

    def __init__(self, examples: int, *, held_out: bool = False) -> None:
        text = corpus.load("sotu", 256)
        tokens = (text.held if held_out else text.train)[: examples * LENGTH]
        self._rows = torch.from_numpy(tokens.astype("int64")).view(examples, LENGTH)

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"input_ids": self._rows[index], "labels": self._rows[index]}


def tiny_llama() -> LlamaForCausalLM:
    """Four layers of width 64 over bytes, in training mode."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=256,
        hidden_size=64,
        intermediate_size=192,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=LENGTH,
        use_cache=False,
    )
    return LlamaForCausalLM(config).train()
