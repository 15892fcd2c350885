"""SAT inside Lightning."""

from __future__ import annotations

import pytest
import torch
from sat_models import llama, steep, tokens
from torch.utils.data import DataLoader

pytest.importorskip("lightning")
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.plugins import MixedPrecision

from sat.integrations import SATLightningCallback

ROWS = [tokens(index, 1)[0] for index in range(16)]


class Language(LightningModule):
    def __init__(self, optimizers: int = 1, overflows: tuple[int, ...] = ()) -> None:
        super().__init__()
        self.overflows = overflows  # steps of Lightning's whose gradients overflow
        self.model = llama()
        self.optimizers_made = optimizers
        self.losses: list[float] = []
        self.automatic_optimization = optimizers == 1

    def training_step(self, batch, index):
        loss = self.model(input_ids=batch, labels=batch).loss
        self.log("train_loss", loss)
        return loss

    def on_after_backward(self):
        if self.global_step in self.overflows:
            self.model.lm_head.weight.grad.fill_(float("inf"))

    def on_train_batch_end(self, outputs, batch, index):
        self.losses.append(outputs["loss"].item())

    def configure_optimizers(self):
        made = [torch.optim.AdamW(self.parameters(), lr=3e-3) for _ in range(self.optimizers_made)]
        return made[0] if len(made) == 1 else made


def fit(folder, config, *, module=None, resume=None, callbacks=None, **more):
    """Sixteen steps of two batches each, a checkpoint per four."""
    module = Language() if module is None else module
    callback = SATLightningCallback(config, model="model")
    keep = ModelCheckpoint(folder, filename="{step}", every_n_epochs=1, save_top_k=-1)
    trainer = Trainer(
        accelerator="cpu", max_epochs=4, accumulate_grad_batches=2 if module.automatic_optimization else 1,
        gradient_clip_val=1.0 if module.automatic_optimization else None, logger=False,
        enable_progress_bar=False, enable_model_summary=False, **more,
        callbacks=[callback, keep] if callbacks is None else [*callbacks, keep],
    )  # fmt: skip
    trainer.fit(module, DataLoader(ROWS, batch_size=2), ckpt_path=resume)
    return module, callback, trainer


@pytest.mark.parametrize("config", [steep(axis="width"), steep()], ids=["width", "depth"])
def test_a_checkpoint_resumes_bit_for_bit_through_changes_of_shape(config, tmp_path):
    whole, _, trainer = fit(tmp_path, config)
    kept = torch.load(tmp_path / "step=12.ckpt", weights_only=False)
    plain = {f"model.{name}": value.shape for name, value in llama().state_dict().items()}
    assert {name: value.shape for name, value in kept["state_dict"].items()} == plain
    resumed, callback, _ = fit(tmp_path / "again", config, resume=tmp_path / "step=12.ckpt")
    assert resumed.losses == whole.losses[24:]
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(resumed.parameters(), whole.parameters(), strict=True))
    assert {name: value.shape for name, value in whole.state_dict().items()} == plain
    assert callback.report.steps == 16
    assert callback.report.mean_active_units < 0.5
    assert trainer.callback_metrics["sat_active_units"] == 1.0
    assert trainer.callback_metrics["train_loss"] == 2 * whole.losses[-1]  # which is a half of it; not a probe's


def test_steps_that_a_gradient_scaler_leaves_out_do_not_count_and_resume_too(tmp_path):
    def run(folder, resume=None):
        scaling = MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=4.0))
        module = Language(overflows=(1, 6, 13))
        return fit(folder, steep(axis="width"), module=module, resume=resume, plugins=[scaling])

    whole, callback, _ = run(tmp_path)
    assert callback.report.steps == callback.controller.position == 16 - 3
    resumed, again, _ = run(tmp_path / "again", tmp_path / "step=12.ckpt")
    assert resumed.losses == whole.losses[24:]
    assert again.report.steps == 16 - 3
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(resumed.parameters(), whole.parameters(), strict=True))


def test_what_cant_be_followed_is_refused(tmp_path):
    compiled = torch.compile(Language(), backend="eager")
    with pytest.raises(ValueError, match=r"compiled as a whole; call sat\.compile_layers\(model\) before training"):
        fit(tmp_path, steep(), module=compiled)
    with pytest.raises(ValueError, match="configure_optimizers made 2"):
        fit(tmp_path, steep(), module=Language(optimizers=2))
    fit(tmp_path, steep(), callbacks=[])
    with pytest.raises(ValueError, match="checkpoint of step 4 has no SAT progress"):
        fit(tmp_path, steep(), resume=tmp_path / "step=4.ckpt")
