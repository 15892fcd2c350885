"""SAT in Lightning (extra ``lightning``): ``Trainer(..., callbacks=[SATLightningCallback(SATConfig(...))])``."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

try:
    from lightning.pytorch import Callback, LightningModule, Trainer
except ImportError as error:
    raise ImportError("SATLightningCallback needs Lightning: pip install 'sat-harness[lightning]'") from error
from torch import Tensor

from sat.attach import densify_, sparsify_
from sat.config import SATConfig
from sat.controller import Controller
from sat.integrations.checkpointed import Checkpointed
from sat.integrations.following import COMPILE, watched
from sat.integrations.probes import ProbeBatches
from sat.optimizers import StepWatch

if TYPE_CHECKING:
    from sat.families import Described
    from sat.report import Report
    from sat.score import Loss


class SATLightningCallback(Callback):
    """Trains a LightningModule, or a model inside it, with SAT.

    The model is sparsified when training starts, with the one optimizer that ``configure_optimizers`` made of all of
    it. Decisions are made before the batch that begins their step. Steps that a gradient scaler leaves out (16-mixed)
    don't count. Checkpoints hold the plain model and optimizer,
    and SAT's progress as this callback's state; ``fit(ckpt_path=...)`` goes on bit for bit where the data does.

    Args:
        config: what to do.
        model: name of the submodule to sparsify; ``""``: the LightningModule itself.
        loss: of probe micro-batch i, for scores that probe; without it ``training_step`` on examples drawn by seed
            from the training data (what it logs is dropped).
        structure: as in :func:`sat.sparsify_`, for a model that no family knows.
        densify: leave the plain model when training ends. With ``False`` it stays sparsified.

    Attributes:
        controller: of the training at hand; ``None`` before the first.
        report: of a training that has ended; ``None`` before.

    Raises:
        ValueError: (when training starts) something SAT can't follow; the text says what.
    """

    def __init__(
        self,
        config: SATConfig,
        *,
        model: str = "",
        loss: Loss | None = None,
        structure: Described | None = None,
        densify: bool = True,
    ) -> None:
        self.config = config
        self.controller: Controller | None = None
        self.report: Report | None = None
        self._name = model
        self._loss = loss
        self._structure = structure
        self._densify = densify
        self._checkpointed: Checkpointed | None = None
        self._watch: StepWatch | None = None
        self._progress: dict[str, Any] | None = None  # loaded before there is a controller

    def state_dict(self) -> dict[str, Any]:
        """SAT's progress, in plain values."""
        return {} if self._checkpointed is None else self._checkpointed.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Kept until training starts: Lightning loads callbacks first."""
        self._progress = state_dict

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Sparsify the model, and go on from a checkpoint where Lightning does."""
        _refuse(trainer, pl_module)
        if trainer.global_step and not self._progress:
            raise ValueError(
                f"the checkpoint of step {trainer.global_step} has no SAT progress: it was written without "
                "SATLightningCallback, or after the training; resume it without, or begin a new training"
            )
        self.report = None
        self.controller = sparsify_(
            pl_module.get_submodule(self._name),
            trainer.optimizers[0],
            self.config,
            total_steps=int(trainer.estimated_stepping_batches),
            loss=self._probe_loss(trainer, pl_module),
            structure=self._structure,
            start=False,
        )
        self._checkpointed = Checkpointed(self.controller)
        self._watch = watched(self.controller)
        if self._progress:
            self._checkpointed.load_state_dict(self._progress)
        self._progress = None

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Probe and switch, if a decision is due before the step that this batch belongs to."""
        self._running.begin_step(self._running.position)  # Lightning counts steps that were left out too

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Where the batch ended a step, the step counts as done and the active shares are logged."""
        assert self._watch is not None, "Lightning calls on_train_start first"
        if not self._watch.taken():
            return  # gradients accumulate, or a gradient scaler left the step out
        controller = self._running
        controller.end_step(controller.position)
        report = controller.report()
        shares = {"sat_active_units": report.active_units, "sat_active_parameters": report.active_parameters}
        pl_module.log_dict(shares, batch_size=1)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Report, and leave the plain model."""
        self.report = self._running.report()
        if self._densify:
            densify_(pl_module.get_submodule(self._name))
        self._checkpointed = None

    @property
    def _running(self) -> Controller:
        assert self.controller is not None, "Lightning calls on_train_start first"
        return self.controller

    def _probe_loss(self, trainer: Trainer, pl_module: LightningModule) -> Loss | None:
        if self._loss is not None or not self.config.needs_probe:
            return self._loss
        loader = trainer.train_dataloader
        batches = ProbeBatches(loader, getattr(loader, "batch_size", None) or 1, self.config.seed)

        def loss(index: int) -> Tensor:
            batch = trainer.strategy.batch_to_device(batches(index))
            with trainer.precision_plugin.train_step_context(), _silent(pl_module):
                result = pl_module.training_step(batch, index)
            found = result["loss"] if isinstance(result, dict) else result
            if not isinstance(found, Tensor):
                raise ValueError("training_step returned no loss to probe with; give SATLightningCallback(loss=...)")
            return found

        return loss


@contextmanager
def _silent(module: LightningModule) -> Iterator[None]:
    """What ``training_step`` logs in a probe is no part of the training's logs."""
    for name in ("log", "log_dict"):
        module.__dict__[name] = lambda *args, **kwargs: None
    try:
        yield
    finally:
        for name in ("log", "log_dict"):
            del module.__dict__[name]


def _refuse(trainer: Trainer, module: LightningModule) -> None:
    """What no sparsified model can be trained with."""
    count = len(trainer.optimizers)
    if count != 1:
        raise ValueError(f"SAT follows one optimizer; configure_optimizers made {count}")
    strategy = type(trainer.strategy).__name__
    if trainer.world_size > 1 and strategy != "DDPStrategy":
        raise ValueError(f"SAT can't follow {strategy}; use one device, or strategy='ddp'")
    if getattr(module, "_compiler_ctx", None) is not None:
        raise ValueError(f"SAT can't follow a LightningModule compiled as a whole; {COMPILE}")
