"""SAT in the Hugging Face ``Trainer``: ``Trainer(..., callbacks=[SATCallback(SATConfig(...))])``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from accelerate.utils import send_to_device
from torch import Tensor, nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import ExportableState

from sat.attach import densify_, sparsify_
from sat.config import SATConfig
from sat.controller import Controller
from sat.integrations.as_json import pack, unpack
from sat.integrations.checkpointed import Checkpointed
from sat.integrations.following import COMPILE, watched
from sat.integrations.probes import ProbeBatches
from sat.optimizers import StepWatch

if TYPE_CHECKING:
    from sat.families import Described
    from sat.report import Report
    from sat.score import Loss

_STATE_FILE = "trainer_state.json"  # the last file of a checkpoint that the Trainer writes


class SATCallback(TrainerCallback, ExportableState):
    """Trains the Trainer's model with SAT.

    The model is sparsified when training begins, with the optimizer that the Trainer made. Decisions are made at
    the beginning of the step they are due at, so that what is evaluated, logged and saved after a step is the model
    that took it. Steps that a gradient scaler leaves out (fp16) don't count. Checkpoints hold the plain model and
    optimizer; SAT's progress lies in their ``trainer_state.json``, and ``resume_from_checkpoint`` goes on bit for bit.
    ``load_best_model_at_end`` brings back the active units of the best checkpoint with its weights. The logs gain
    ``sat_active_units`` and ``sat_active_parameters``.

    Args:
        config: what to do.
        loss: of probe micro-batch i, for scores that probe; without it the model's own ``loss`` on examples drawn
            by seed from the training data, with the Trainer's collator and ``per_device_train_batch_size``.
        structure: as in :func:`sat.sparsify_`, for a model that no family knows.
        densify: leave the plain model when training ends. With ``False`` it stays sparsified.

    Attributes:
        controller: of the training at hand; ``None`` before the first.
        report: of a training that has ended; ``None`` before.

    Raises:
        ValueError: (when the Trainer is built or begins) an argument of the Trainer that SAT can't follow, or a
            checkpoint without SAT's progress; the text says which.
    """

    def __init__(
        self,
        config: SATConfig,
        *,
        loss: Loss | None = None,
        structure: Described | None = None,
        densify: bool = True,
    ) -> None:
        self.config = config
        self.controller: Controller | None = None
        self.report: Report | None = None
        self._loss = loss
        self._structure = structure
        self._densify = densify
        self._checkpointed: Checkpointed | None = None
        self._watch: StepWatch | None = None

    def state(self) -> dict[str, Any]:
        """What the Trainer keeps in ``trainer_state.json``."""
        progress = None if self._checkpointed is None else pack(self._checkpointed.state_dict())
        return {"args": {}, "attributes": {"progress": progress}}

    def on_init_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Refuse early what can't be followed."""
        _refuse(args)

    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: Any,
    ) -> None:
        """Sparsify the model, and go on from a checkpoint where the Trainer does."""
        _refuse(args)
        progress = self._progress(state.stateful_callbacks, state.global_step) if state.global_step else None
        self.report = None
        self._checkpointed = None
        self.controller = sparsify_(
            kwargs["model"],
            kwargs["optimizer"],
            self.config,
            total_steps=state.max_steps,
            loss=self._probe_loss(args, kwargs["model"], kwargs["train_dataloader"]),
            structure=self._structure,
            start=False,
        )
        self._checkpointed = Checkpointed(self.controller)
        self._watch = watched(self.controller)
        if progress is not None:
            self._checkpointed.load_state_dict(progress)

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Probe and switch, if a decision is due before this step."""
        # an evaluation leaves the model as it evaluates, and the Trainer turns it back only after this event
        kwargs["model"].train()
        self._running.begin_step(self._running.position)  # the Trainer counts steps that were left out too

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """The step counts as done, unless a gradient scaler left it out."""
        assert self._watch is not None, "the Trainer calls on_train_begin first"
        if self._watch.taken():
            self._running.end_step(self._running.position)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        """Add the active shares to the log of a step, and their means to that of the whole training."""
        if self._checkpointed is None or not logs or not ({"loss", "train_runtime"} & logs.keys()):
            return
        report = self._running.report()
        figures = {"sat_active_units": report.active_units, "sat_active_parameters": report.active_parameters}
        if "train_runtime" in logs and report.mean_active_units is not None:
            assert report.mean_active_parameters is not None
            figures["sat_mean_active_units"] = report.mean_active_units
            figures["sat_mean_active_parameters"] = report.mean_active_parameters
        logs.update(figures)
        if state.log_history:
            state.log_history[-1].update(figures)  # written before the callbacks were asked

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Report; bring back the best active units with the best weights, where asked; leave the plain model."""
        self.report = self._running.report()
        if args.load_best_model_at_end and state.best_model_checkpoint is not None:
            kept = json.loads((Path(state.best_model_checkpoint) / _STATE_FILE).read_text(encoding="utf-8"))
            assert self._checkpointed is not None
            self._checkpointed.load_state_dict(self._progress(kept["stateful_callbacks"], kept["global_step"]))
        if self._densify:
            densify_(kwargs["model"])
        self._checkpointed = None

    @property
    def _running(self) -> Controller:
        assert self.controller is not None, "the Trainer calls on_train_begin first"
        return self.controller

    def _progress(self, kept: Any, step: int) -> dict[str, Any]:
        """The progress in what the Trainer keeps of its callbacks."""
        found = kept.get(type(self).__name__, {})
        progress = found["attributes"]["progress"] if isinstance(found, dict) and found else None
        if progress is None:
            raise ValueError(
                f"the checkpoint of step {step} has no SAT progress: it was written without SATCallback, or by "
                "several of them; resume it without SATCallback, or begin a new training from its weights"
            )
        unpacked: dict[str, Any] = unpack(progress)
        return unpacked

    def _probe_loss(self, args: TrainingArguments, model: nn.Module, loader: Any) -> Loss | None:
        if self._loss is not None or not self.config.needs_probe:
            return self._loss
        if args.label_smoothing_factor:
            raise ValueError(
                "label_smoothing_factor: the Trainer's loss is not the model's own; give SATCallback(..., loss=...)"
            )
        batches = ProbeBatches(loader, args.train_batch_size, self.config.seed)

        def loss(index: int) -> Tensor:
            result = model(**send_to_device(batches(index), args.device))
            found = result["loss"] if isinstance(result, dict) else result[0]
            if not isinstance(found, Tensor) or found.dim():
                raise ValueError(
                    f"{type(model).__name__} gives no loss for a training batch; give SATCallback(..., loss=...)"
                )
            return found

        return loss


def _refuse(args: TrainingArguments) -> None:
    """What no sparsified model can be trained with."""
    refused = {
        "torch_compile": (args.torch_compile, f"it compiles the model as a whole; {COMPILE}"),
        "deepspeed": (args.deepspeed, "use one process, or torchrun with DistributedDataParallel"),
        "fsdp": (
            args.fsdp,
            "the Trainer shards the model before SAT sees it; use DistributedDataParallel, or a loop of your own with "
            "fully_shard",
        ),
        "auto_find_batch_size": (args.auto_find_batch_size, "it begins anew with a model that has begun; set the size"),
        "restore_callback_states_from_checkpoint": (
            args.restore_callback_states_from_checkpoint,
            "leave it off: SATCallback goes on by itself",
        ),
        "several devices in one process": (
            args.n_gpu > 1,
            "start one process per device with torchrun, or set CUDA_VISIBLE_DEVICES to one",
        ),
    }
    for name, (given, instead) in refused.items():
        if given:
            raise ValueError(f"SATCallback can't follow the Trainer's {name}: {instead}")
