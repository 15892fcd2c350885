"""SAT in Lightning: ``python docs/examples/lightning_callback.py`` (needs the extra ``lightning``)."""

from __future__ import annotations

import torch
from lightning.pytorch import LightningModule, Trainer
from tiny import Text, tiny_llama
from torch import Tensor
from torch.utils.data import DataLoader

from sat import SATConfig
from sat.integrations import SATLightningCallback


class Language(LightningModule):
    """A language model, as Lightning trains it."""

    def __init__(self) -> None:
        super().__init__()
        self.model = tiny_llama()
        self.losses: list[float] = []

    def training_step(self, batch: dict[str, Tensor], index: int) -> Tensor:
        """Loss of a batch."""
        loss: Tensor = self.model(**batch).loss
        self.log("train_loss", loss)
        return loss

    def on_train_batch_end(self, outputs: dict[str, Tensor], batch: object, index: int) -> None:
        """Keep the loss, to print it."""
        self.losses.append(outputs["loss"].item())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """One optimizer, of the whole model."""
        return torch.optim.AdamW(self.parameters(), lr=3e-3, betas=(0.9, 0.95))


module = Language()
sat_callback = SATLightningCallback(SATConfig(axis="width"), model="model")
trainer = Trainer(
    max_steps=60,
    accelerator="cpu",
    gradient_clip_val=1.0,
    callbacks=[sat_callback],
    logger=False,
    enable_checkpointing=False,
    enable_progress_bar=False,
    enable_model_summary=False,
)
trainer.fit(module, DataLoader(Text(480), batch_size=8, shuffle=True))

print(sat_callback.report)
print(f"loss: first {module.losses[0]:.3f}, last {module.losses[-1]:.3f}")
print(f"parameters: {sum(parameter.numel() for parameter in module.model.parameters()):,}")
