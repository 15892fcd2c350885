"""Processes that start in no time: forked from a server that has imported what takes long, and has run nothing."""

from __future__ import annotations

import multiprocessing

FAMILIES = (
    "bert",
    "clip",
    "gpt2",
    "llama",
    "marian",
    "mistral",
    "qwen2",
    "qwen3",
    "resnet",
    "roberta",
    "t5",
    "vit",
)
CHILDREN = multiprocessing.get_context("forkserver")
CHILDREN.set_forkserver_preload(
    [
        "torch.distributed.checkpoint",
        "torch.distributed.fsdp",
        "torch.nn.parallel",
        *(f"transformers.models.{name}.modeling_{name}" for name in FAMILIES),
    ]
)
