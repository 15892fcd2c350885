"""SAT inside the Hugging Face Trainer, Lightning and loops that save model and optimizer themselves."""

from __future__ import annotations

import copy
import functools
import json
import multiprocessing
import os
import re
import signal
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sat_models import adamw, attach, llama, loss_of, steep, tokens, train
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset
from transformers import LlamaForCausalLM, Trainer, TrainerCallback, TrainingArguments

import sat
from sat.integrations import Checkpointed, SATCallback
from sat.integrations.as_json import pack, unpack

STEPS = 12
ARMS = {
    "width": {"axis": "width"},
    "depth": {},
    "width, rotating": {
        "axis": "width", "regime": "rotating", "schedule": ((0.0, 0.4),), "interval": 3, "ramp_steps": 5,
        "hysteresis": 0.0, "swap_share": 1.0, "swap_until": None, "explore": 0.3,
    },
}  # fmt: skip


class Tokens(Dataset):
    def __init__(self, size: int = 40) -> None:
        self.size = size

    def __len__(self):
        return self.size

    def __getitem__(self, index):
        row = tokens(index, 1)[0]
        return {"input_ids": row, "labels": row}


class Endless(IterableDataset):
    def __iter__(self):
        return (Tokens()[index] for index in range(1000))


class Kill(TrainerCallback):
    """Kills its own process after a step, as a scheduler does."""

    def __init__(self, after: int) -> None:
        self.after = after

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == self.after:
            os.kill(os.getpid(), signal.SIGKILL)


def trainer_of(folder, callbacks=(), model=None, data=None, **settings):
    arguments = {
        "max_steps": STEPS, "per_device_train_batch_size": 2, "gradient_accumulation_steps": 2, "learning_rate": 3e-3,
        "logging_steps": 1, "save_steps": 5, "report_to": "none", "disable_tqdm": True, "use_cpu": True,
    }  # fmt: skip
    return Trainer(
        model if model is not None else llama(attention_dropout=0.1),
        TrainingArguments(str(folder), **{**arguments, **settings}),
        train_dataset=data or Tokens(),
        eval_dataset=Tokens(8),
        callbacks=list(callbacks),
    )


def logged(trainer):
    keys = ("step", "loss", "grad_norm", "sat_active_units", "sat_active_parameters")
    return [tuple(entry.get(key) for key in keys) for entry in trainer.state.log_history if "loss" in entry]


class Overflow(TrainerCallback):
    """Lets gradients overflow in some of the Trainer's steps, and notes SAT's position after each."""

    def __init__(self, sat_callback, steps) -> None:
        self.sat_callback, self.steps, self.positions = sat_callback, steps, []

    def on_pre_optimizer_step(self, args, state, control, model, **kwargs):
        if state.global_step in self.steps:
            next(model.parameters()).grad.fill_(float("inf"))

    def on_step_end(self, args, state, control, **kwargs):
        self.positions.append(self.sat_callback.controller.position)


def scaled(folder, arm, optim, seed=0, **settings):
    """A Trainer with a gradient scaler, as fp16 on a GPU brings; steps 1, 4 and 8 overflow."""
    callback = SATCallback(steep(**ARMS[arm]))
    overflow = Overflow(callback, {1, 4, 8})
    model = llama(seed, attention_dropout=0.1)
    trainer = trainer_of(folder, [callback, overflow], model, optim=optim, max_grad_norm=0.0, **settings)
    trainer.accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    return trainer, callback, overflow


def same(ours, theirs):
    return all(torch.equal(value, theirs[name]) for name, value in ours.items()) and ours.keys() == theirs.keys()


def killed(target, *args):
    """Run ``target`` in a process of its own, which must end by SIGKILL."""
    process = multiprocessing.get_context("fork").Process(target=target, args=args)
    process.start()
    process.join(100)
    assert process.exitcode == -signal.SIGKILL


@pytest.mark.parametrize("arm", ["depth", "width, rotating"])
def test_a_killed_trainer_resumes_bit_for_bit(arm, tmp_path):
    def until(step, folder):
        trainer_of(folder, [SATCallback(steep(**ARMS[arm])), Kill(step)]).train()

    whole_callback, callback = (SATCallback(steep(**ARMS[arm])) for _ in range(2))
    whole = trainer_of(tmp_path / "whole", [whole_callback], save_strategy="no")
    whole.train()
    killed(until, 8, tmp_path / "killed")
    resumed = trainer_of(tmp_path / "killed", [callback], llama(9, attention_dropout=0.1))
    resumed.train(resume_from_checkpoint=True)

    assert logged(resumed) == logged(whole)
    assert same(resumed.model.state_dict(), whole.model.state_dict())
    assert callback.report.active == whole_callback.report.active
    assert callback.report.mean_active_units == whole_callback.report.mean_active_units < 0.5


@pytest.mark.parametrize("optim", ["adamw_torch", "adamw_torch_fused"])
@pytest.mark.parametrize("arm", ["depth", "width, rotating"])
def test_steps_that_a_gradient_scaler_leaves_out_do_not_count_and_resume_too(arm, optim, tmp_path):
    """The scaler calls a fused optimizer always, and another one only if nothing overflowed."""
    whole, callback, overflow = scaled(tmp_path, arm, optim)
    whole.train()
    assert overflow.positions == [1, 1, 2, 3, 3, 4, 5, 6, 6, 7, 8, 9]
    assert callback.report.steps == 9
    resumed, callback_again, overflow_again = scaled(tmp_path, arm, optim, 9)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-5"))
    assert overflow_again.positions == overflow.positions[5:]
    assert logged(resumed) == logged(whole)
    assert same(resumed.model.state_dict(), whole.model.state_dict())
    assert callback_again.report.mean_active_units == callback.report.mean_active_units


def test_without_a_scaler_every_step_counts(tmp_path):
    callback = SATCallback(steep(axis="width"))
    overflow = Overflow(callback, ())
    trainer_of(tmp_path, [callback, overflow], save_strategy="no").train()
    assert overflow.positions == list(range(1, STEPS + 1))


def test_the_trainers_adafactor_trains_the_width(tmp_path):
    callback = SATCallback(steep(axis="width"))
    trainer_of(tmp_path, [callback], optim="adafactor", save_strategy="no").train()
    assert callback.report.active_units == 1.0


def test_layers_compiled_before_the_trainer_are_counted(tmp_path):
    model = llama()
    sat.compile_layers(model, backend="eager")
    callback = SATCallback(steep())
    trainer_of(tmp_path, [callback], model, save_strategy="no").train()
    assert callback.report.compiled_graphs >= 1


def plain_loop(folder: Path, kill_before: int | None = None) -> tuple[list[float], dict]:
    """A loop of one's own, with momentum, a schedule of rates and a checkpoint every three steps."""
    model = llama(layers=2)
    optimizer = adamw(model)
    rates = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    controller = attach(model, optimizer, STEPS, start=False, **ARMS["width, rotating"])
    losses = []
    if (folder / "state.pt").exists():
        kept = torch.load(folder / "state.pt", weights_only=True)
        controller.load_state_dict(kept["sat"])
        rates.load_state_dict(kept["rates"])
        losses = kept["losses"]
    for step in range(len(losses), STEPS):
        if step == kill_before:
            os.kill(os.getpid(), signal.SIGKILL)
        losses += train(model, optimizer, controller, step, step + 1)
        rates.step()
        if step % 3 == 1:
            state = {"sat": controller.state_dict(), "rates": rates.state_dict(), "losses": losses}
            torch.save(state, folder / "new.pt")
            (folder / "new.pt").replace(folder / "state.pt")  # whole or not at all
    return losses, sat.densify_(model).state_dict()


def test_a_killed_plain_loop_resumes_bit_for_bit(tmp_path):
    (tmp_path / "whole").mkdir()
    (tmp_path / "killed").mkdir()
    losses, weights = plain_loop(tmp_path / "whole")
    killed(plain_loop, tmp_path / "killed", 7)
    assert (tmp_path / "killed" / "state.pt").exists()
    again, resumed = plain_loop(tmp_path / "killed")
    assert again == losses
    assert same(resumed, weights)


def test_with_all_units_the_trainer_trains_as_without_sat(tmp_path):
    dense = trainer_of(tmp_path, save_strategy="no")
    dense.train()
    whole = trainer_of(tmp_path, [SATCallback(steep(schedule=((0.0, 1.0),)))], save_strategy="no")
    whole.train()
    assert [entry[:3] for entry in logged(whole)] == [entry[:3] for entry in logged(dense)]
    assert same(whole.model.state_dict(), dense.model.state_dict())


def test_checkpoints_are_plain_in_mid_training(tmp_path):
    callback = SATCallback(steep(**ARMS["width, rotating"]), densify=False)
    trainer_of(tmp_path, [callback], max_steps=5).train()
    compact = callback.controller.model.model.layers[0].mlp.up_proj.weight
    plain = llama()
    assert compact.shape[0] < plain.model.layers[0].mlp.up_proj.weight.shape[0]

    saved = LlamaForCausalLM.from_pretrained(tmp_path / "checkpoint-5")
    shapes = [parameter.shape for parameter in plain.parameters()]
    assert [parameter.shape for parameter in saved.parameters()] == shapes
    kept = torch.load(tmp_path / "checkpoint-5" / "optimizer.pt", weights_only=True)["state"]
    assert sorted(held["exp_avg"].shape for held in kept.values()) == sorted(shapes)


def test_probes_run_in_training_mode_on_training_data_after_an_evaluation(tmp_path):
    model = llama()
    seen = []
    model.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append((module.training, torch.is_grad_enabled(), kwargs["input_ids"])),
        with_kwargs=True,
    )
    callback = SATCallback(steep(axis="width", probe_batches=3))
    trainer = trainer_of(tmp_path, [callback], model, eval_strategy="steps", eval_steps=1, save_strategy="no")
    trainer.train()
    assert all(training == with_grad for training, with_grad, _ in seen)
    trained = [batch for training, _, batch in seen if training]
    assert len(trained) == 2 * STEPS + 3 * callback.report.probes
    assert callback.report.probes == 3
    rows = {tuple(Tokens()[index]["input_ids"].tolist()) for index in range(40)}
    assert all(tuple(row.tolist()) in rows and len(batch) == 2 for batch in trained for row in batch)


def test_the_logs_carry_the_active_shares(tmp_path):
    callback = SATCallback(steep())
    trainer = trainer_of(tmp_path, [callback], save_strategy="no")
    trainer.train()
    shares = [entry[3] for entry in logged(trainer)]
    assert shares == [0.25] * 10 + [1.0] * 2  # one layer of four up to .8 of twelve steps
    assert trainer.state.log_history[-1]["sat_mean_active_units"] == callback.report.mean_active_units == 0.375


@pytest.mark.parametrize("arm", ["width", "depth", "width, rotating"])
def test_the_best_model_is_the_one_that_was_evaluated(arm, tmp_path):
    """The highest loss is called best, so that it is an early one, when a part of the model had never trained."""
    settings = ARMS[arm] | ({"regime": "persistent"} if "rotating" in arm else {})
    callback = SATCallback(steep(**settings))
    trainer = trainer_of(
        tmp_path, [callback], eval_strategy="steps", eval_steps=3, save_steps=3, load_best_model_at_end=True,
        metric_for_best_model="eval_loss", greater_is_better=True,
    )  # fmt: skip
    trainer.train()
    assert trainer.state.best_global_step < STEPS
    assert trainer.evaluate()["eval_loss"] == pytest.approx(trainer.state.best_metric, rel=1e-6)
    assert trainer.model.num_parameters() == llama().num_parameters()
    assert callback.report.steps == STEPS


def test_bf16_and_a_module_of_ones_own_resume_too(tmp_path):
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.up, self.down = nn.Linear(16, 64), nn.Linear(64, 16)

        def forward(self, hidden):
            return hidden + self.down(self.up(hidden).relu())

    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.blocks, self.head = (
                nn.Embedding(50, 16),
                nn.ModuleList([Block(), Block()]),
                nn.Linear(16, 50),
            )

        def forward(self, input_ids, labels):
            hidden = self.embed(input_ids)
            for block in self.blocks:
                hidden = block(hidden)
            logits = self.head(hidden)
            return {
                "loss": nn.functional.cross_entropy(logits.flatten(0, 1).float(), labels.flatten()),
                "logits": logits,
            }

    def run(folder, **more):
        torch.manual_seed(0)
        site = sat.Layers("blocks", sat.MLP(inputs=["up"], output="down"))
        callback = SATCallback(steep(axis="width"), structure=[site])
        trainer = trainer_of(folder, [callback], Own(), bf16=True)
        trainer.train(**more)
        return trainer

    whole = run(tmp_path)
    resumed = run(tmp_path, resume_from_checkpoint=str(tmp_path / "checkpoint-5"))
    assert logged(resumed) == logged(whole)
    assert same(resumed.model.state_dict(), whole.model.state_dict())


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"torch_compile": True}, r"torch_compile: .*call sat\.compile_layers\(model\) before training"),
        ({"auto_find_batch_size": True}, "auto_find_batch_size"),
        ({"restore_callback_states_from_checkpoint": True}, "goes on by itself"),
        ({"label_smoothing_factor": 0.1}, "label_smoothing_factor"),
        ({"data": Endless()}, "can't be drawn from"),
    ],
)
def test_what_the_callback_cant_follow_is_refused(settings, text, tmp_path):
    with pytest.raises(ValueError, match=text):
        trainer_of(tmp_path, [SATCallback(steep(axis="width"))], **settings).train()


def test_a_checkpoint_without_progress_or_of_other_settings_is_refused(tmp_path):
    trainer_of(tmp_path, max_steps=5).train()
    with pytest.raises(ValueError, match="checkpoint of step 5 has no SAT progress"):
        trainer_of(tmp_path, [SATCallback(steep())]).train(resume_from_checkpoint=True)
    trainer_of(tmp_path, [SATCallback(steep())], save_steps=6).train()
    with pytest.raises(ValueError, match="its config is"):
        trainer_of(tmp_path, [SATCallback(steep(seed=1))]).train(resume_from_checkpoint=str(tmp_path / "checkpoint-6"))


def test_plain_weights_load_into_a_model_that_is_sparsified():
    """Model and optimizer of a dense training come in, spread over active part and bank, and go out unchanged."""
    dense = llama()
    trained = adamw(dense)
    train(dense, trained, None, 0, 3)
    model = llama(5)
    optimizer = adamw(model)
    controller = attach(model, optimizer, 24, axis="width")
    train(model, optimizer, controller, 0, 2)
    Checkpointed(controller)
    active = [part.active for part in controller.parts]
    model.load_state_dict(dense.state_dict())
    optimizer.load_state_dict(trained.state_dict())

    assert [part.active for part in controller.parts] == active
    assert model.model.layers[0].mlp.up_proj.weight.shape[0] < 64
    assert same(model.state_dict(), dense.state_dict())
    kept, given = optimizer.state_dict()["state"], trained.state_dict()["state"]
    assert all(same(kept[index], given[index]) for index in given)
    assert sat.densify_(model).state_dict.__func__ is nn.Module.state_dict
    assert not model._load_state_dict_post_hooks
    assert not optimizer._optimizer_load_state_dict_pre_hooks


@pytest.mark.parametrize("axis", ["depth", "width"])
def test_what_a_framework_saved_and_loaded_piece_by_piece_goes_on_bit_for_bit(axis):
    """Units that never trained come in after the resume: what they start from must not know of it."""

    def started(seed):
        model = llama(seed)
        optimizer = adamw(model)
        controller = attach(model, optimizer, 12, axis=axis, schedule=((0.0, 0.25), (0.5, 0.5), (0.75, 1.0)))
        return model, optimizer, controller, Checkpointed(controller)

    model, optimizer, controller, saved = started(0)
    train(model, optimizer, controller, 0, 4)
    pieces = copy.deepcopy((model.state_dict(), optimizer.state_dict(), saved.state_dict()))
    resumed, its_optimizer, its_controller, loaded = started(5)
    resumed.load_state_dict(pieces[0])
    its_optimizer.load_state_dict(pieces[1])
    loaded.load_state_dict(pieces[2])
    assert train(model, optimizer, controller, 4, 12) == train(resumed, its_optimizer, its_controller, 4, 12)
    assert same(model.state_dict(), resumed.state_dict())


class Wrapped(torch.optim.Optimizer):
    """As Accelerate wraps: an optimizer that holds the real one."""

    def __init__(self, optimizer):
        self.optimizer = optimizer
        self.param_groups = optimizer.param_groups


def test_under_accelerate_only_steps_that_were_taken_count():
    """Batches that accumulate, and a step that the scaler leaves out, are none."""
    accelerator = pytest.importorskip("accelerate").Accelerator(cpu=True, gradient_accumulation_steps=2)
    accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    model = llama()
    model, optimizer = accelerator.prepare(model, adamw(model))
    controller = sat.sparsify_(model, optimizer, steep(), total_steps=6)
    positions = []
    for index in range(8):
        with accelerator.accumulate(model):
            loss = model(input_ids=tokens(index), labels=tokens(index)).loss
            accelerator.backward(loss * (float("inf") if index == 2 else 1.0))
            optimizer.step()
            controller.step()
            optimizer.zero_grad()
        positions.append(controller.position)
    assert positions == [0, 1, 1, 1, 1, 2, 2, 3]


def test_a_wrapped_optimizer_is_unwrapped():
    model = llama()
    optimizer = adamw(model)
    controller = sat.sparsify_(model, Wrapped(optimizer), steep(axis="width"), total_steps=9, loss=loss_of(model))
    assert controller.optimizer is optimizer


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: (
        st.lists(inner)
        | st.lists(inner).map(tuple)
        | st.dictionaries(st.text() | st.integers() | st.tuples(st.integers(), st.text()), inner)
    ),
    max_leaves=10,
)


@given(values)
def test_plain_values_go_through_json_unchanged(value):
    back = unpack(json.loads(json.dumps(pack(value), sort_keys=True)))
    assert repr(back) == repr(value)


def snippets() -> dict[str, str]:
    """The programs of the document, by the name in the comment before each."""
    text = (Path(__file__).parents[2] / "docs" / "integrations.md").read_text(encoding="utf-8")
    return dict(re.findall(r"<!-- runs: (\w+) -->\n```python\n(.*?)```", text, re.DOTALL))


@pytest.mark.parametrize("name", ["trainer", "lightning", "accelerate", "plain"])
def test_the_documents_snippets_run(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = llama()
    given = {
        "model": model, "optimizer": adamw(model), "probe_loss": loss_of(model), "torch": torch, "folder": "kept",
        "batches": DataLoader(Tokens(20), batch_size=2), "data": Tokens(), "Trainer": Trainer,
    }  # fmt: skip
    if name == "trainer":
        given["arguments"] = trainer_of(tmp_path, save_strategy="no").args
    if name == "accelerate":
        given["accelerator"] = pytest.importorskip("accelerate").Accelerator(cpu=True)
    if name == "lightning":
        lightning = pytest.importorskip("lightning.pytorch")

        class Module(lightning.LightningModule):
            def __init__(self):
                super().__init__()
                self.model = model

            def training_step(self, batch, index):
                return self.model(**batch).loss

            def configure_optimizers(self):
                return adamw(self)

        quiet = {"logger": False, "enable_progress_bar": False, "enable_checkpointing": False, "accelerator": "cpu"}
        given |= {"module": Module(), "Trainer": functools.partial(lightning.Trainer, **quiet)}
    before = sat.state_dict(model)
    exec(snippets()[name], given)
    after = sat.state_dict(model)
    assert {key: value.shape for key, value in after.items()} == {key: value.shape for key, value in before.items()}
    assert all(not torch.equal(after[key], before[key]) for key in before if key.endswith("up_proj.weight"))
