"""SAT in a loop of one's own: ``python docs/examples/plain_loop.py``."""

from __future__ import annotations

import torch
from tiny import Text, tiny_llama
from torch import Tensor
from torch.utils.data import DataLoader

import sat

STEPS = 60

model = tiny_llama()
optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, betas=(0.9, 0.95))
batches = DataLoader(Text(STEPS * 8), batch_size=8)
probes = DataLoader(Text(STEPS * 8), batch_size=8, shuffle=True, generator=torch.Generator().manual_seed(1))
probe_batches = list(probes)


def probe_loss(index: int) -> Tensor:
    """Loss of micro-batch ``index`` of the probes, on training data."""
    return model(**probe_batches[index % len(probe_batches)]).loss


print(sat.sites(model))
controller = sat.sparsify_(model, optimizer, sat.SATConfig(axis="width"), total_steps=STEPS, loss=probe_loss)

losses = []
for batch in batches:
    loss = model(**batch).loss
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    controller.step()  # after optimizer.step()
    optimizer.zero_grad()
    losses.append(loss.item())

print(controller.report())
sat.densify_(model)  # the plain model
print(f"loss: first {losses[0]:.3f}, last {losses[-1]:.3f}")
print(f"parameters: {sum(parameter.numel() for parameter in model.parameters()):,}")
