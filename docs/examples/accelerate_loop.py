"""SAT with Accelerate, saved in mid-training and resumed: ``python docs/examples/accelerate_loop.py``."""

from __future__ import annotations

import tempfile

import torch
from accelerate import Accelerator
from tiny import Text, tiny_llama
from torch import Tensor
from torch.utils.data import DataLoader

import sat
from sat.integrations import Checkpointed

STEPS, ACCUMULATE = 30, 2


def train(folder: str, *, resume: bool) -> tuple[torch.nn.Module, sat.Report, list[float]]:
    """A training of ``STEPS`` steps, saved after two thirds of them, or resumed from there."""
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=ACCUMULATE)
    model = tiny_llama()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, betas=(0.9, 0.95))
    data = Text(STEPS * ACCUMULATE * 8)
    model, optimizer, batches = accelerator.prepare(model, optimizer, DataLoader(data, batch_size=8))
    plain_model = accelerator.unwrap_model(model)

    def probe_loss(index: int) -> Tensor:
        rows = [data[(index * 8 + row) % len(data)] for row in range(8)]
        batch = {key: torch.stack([row[key] for row in rows]).to(accelerator.device) for key in rows[0]}
        loss: Tensor = model(**batch).loss
        return loss

    config = sat.SATConfig(axis="width")
    controller = sat.sparsify_(plain_model, optimizer, config, total_steps=STEPS, loss=probe_loss)
    accelerator.register_for_checkpointing(Checkpointed(controller))
    if resume:
        accelerator.load_state(folder)
        batches = accelerator.skip_first_batches(batches, controller.position * ACCUMULATE)

    losses = []
    for batch in batches:
        with accelerator.accumulate(model):
            loss = model(**batch).loss
            accelerator.backward(loss)
            if accelerator.sync_gradients:
                accelerator.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            if accelerator.sync_gradients:
                controller.step()  # once per optimizer step
            optimizer.zero_grad()
        losses.append(loss.item())
        if accelerator.sync_gradients and controller.position == 2 * STEPS // 3 and not resume:
            accelerator.save_state(folder)
    report = controller.report()
    sat.densify_(plain_model)
    return plain_model, report, losses


with tempfile.TemporaryDirectory() as folder:
    model, report, losses = train(folder, resume=False)
    resumed, _, rest = train(folder, resume=True)

print(report)
print(f"loss: first {losses[0]:.3f}, last {losses[-1]:.3f}")
print(f"parameters: {sum(parameter.numel() for parameter in model.parameters()):,}")
same = all(torch.equal(a, b) for a, b in zip(model.parameters(), resumed.parameters(), strict=True))
print(f"resumed: {'the same' if same and rest == losses[-len(rest) :] else 'not the same'}, bit for bit")
