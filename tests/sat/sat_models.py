"""Tiny models and a training loop shared by the tests of sat."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

import sat
from harness.methods.sat import CLAIMED

torch.set_num_threads(1)


def llama(
    seed: int = 0, *, layers: int = 4, hidden: int = 32, heads: int = 4, kv_heads: int = 2, mlp: int = 64, **more
):
    torch.manual_seed(seed)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=50,
            hidden_size=hidden,
            intermediate_size=mlp,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            num_key_value_heads=kv_heads,
            max_position_embeddings=32,
            use_cache=False,
            **more,
        )
    )


def tokens(seed: int, batch: int = 2, length: int = 8) -> Tensor:
    return torch.randint(0, 50, (batch, length), generator=torch.Generator().manual_seed(seed))


def loss_of(model: nn.Module) -> Callable[[int], Tensor]:
    return lambda index: model(input_ids=tokens(1000 + index), labels=tokens(1000 + index)).loss


def adamw(model: nn.Module, **more) -> torch.optim.AdamW:
    return torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.1, **more)


def train(model, optimizer, controller: sat.Controller | None, first: int, last: int) -> list[float]:
    losses = []
    for step in range(first, last):
        if controller is not None and controller.due(step):
            controller.begin_step(step)
        loss = model(input_ids=tokens(step), labels=tokens(step)).loss
        optimizer.zero_grad()
        loss.backward()
        if controller is not None:
            controller.before_optimizer(step)
        optimizer.step()
        if controller is not None:
            controller.end_step(step)
        losses.append(loss.item())
    return losses


def snapshot(model: nn.Module) -> dict[str, Tensor]:
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def steep(**settings) -> sat.SATConfig:
    """A configuration that switches as much as the claim does, and whose entries change nothing, where not said."""
    mode, axis = settings.get("mode", "skip"), settings.get("axis", "depth")
    return sat.SATConfig(**{"schedule": CLAIMED[mode, axis], "entry": "zero"} | settings)


def attach(model, optimizer, total_steps: int = 40, start: bool = True, **settings) -> sat.Controller:
    return sat.sparsify_(model, optimizer, steep(**settings), total_steps=total_steps, loss=loss_of(model), start=start)
