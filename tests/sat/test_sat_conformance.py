"""The conformance table: every family under every mode does what ``sat_conformance.py`` promises, or says why not."""

from __future__ import annotations

import functools
import io
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import document_tables
import pytest
import torch
from sat_conformance import CAPABILITIES, MODES, cells, refusal, table
from sat_families import FAMILIES
from sat_models import adamw, steep
from sat_processes import family_trained
from torch import nn

import sat

STEPS = 6
HALF = STEPS // 2
DOCS = Path(__file__).parents[2] / "docs"


class Run:
    """A training of one family under one mode, to be compared with the uninterrupted one."""

    def __init__(
        self, family: str, mode: str, seed: int = 0, prepare: Any = None, optimizer: Any = adamw, start: bool = False
    ) -> None:
        self.family = FAMILIES[family]
        self.model = self.family.make(seed)
        self.prepared = prepare(self.model) if prepare else None
        self.optimizer = optimizer(self.model)
        self.controller = sat.sparsify_(
            self.model,
            self.optimizer,
            steep(**MODES[mode]),
            total_steps=STEPS,
            loss=lambda index: self.family.loss(self.model, 1000 + index),
            start=start,
        )

    def steps(self, first: int = 0, last: int = STEPS, context: Any = nullcontext) -> list[float]:
        losses = []
        for step in range(first, last):
            self.controller.begin_step(step)
            self.optimizer.zero_grad()
            with context():
                loss = self.family.loss(self.model, step)
            loss.backward()
            self.controller.before_optimizer(step)
            self.optimizer.step()
            self.controller.end_step(step)
            losses.append(loss.item())
        return losses

    def outputs(self) -> torch.Tensor:
        return self.family.outputs(self.model)


def shapes(model: nn.Module) -> dict[str, torch.Size]:
    return {name: value.shape for name, value in model.state_dict().items()}


@functools.cache
def uninterrupted(family: str, mode: str) -> tuple[list[float], bytes, dict[str, torch.Tensor]]:
    """Losses, the checkpoint at half of it, and the final weights; what it must do on the way is looked at as it goes.

    The checkpoint is taken before the switch, which a resumed training must make by itself.
    """
    run = Run(family, mode)
    model, plain, dense = run.model, shapes(run.model), run.outputs()
    losses = run.steps(0, HALF)
    assert run.controller.report().active_units < 0.6
    assert {name: value.shape for name, value in sat.state_dict(model).items()} == plain
    file = io.BytesIO()
    torch.save(run.controller.state_dict(), file)
    before = run.outputs()
    assert not torch.allclose(before, dense)
    switch = run.controller.begin_step(HALF)
    if mode in {"depth", "width"}:
        assert switch.active_units == 1.0
        assert switch.entries
    else:
        assert switch.active_units < 0.6
    torch.testing.assert_close(run.outputs(), before, rtol=1e-5 if mode == "width" else 0, atol=1e-6)
    losses += run.steps(HALF)
    final, after = sat.state_dict(model), run.outputs()
    assert sat.densify_(model) is model
    assert shapes(model) == plain
    torch.testing.assert_close(run.outputs(), after, rtol=0, atol=0)  # all is in, no gate is left
    return losses, file.getvalue(), final


def trains(family, mode):
    losses, _, final = uninterrupted(family, mode)
    assert torch.tensor(losses).isfinite().all()
    start = FAMILIES[family].make().state_dict()
    assert any(not torch.equal(value, start[name]) for name, value in final.items())


def resumes(family, mode):
    losses, state, final = uninterrupted(family, mode)
    run = Run(family, mode, seed=9)  # other weights: all must come from the state
    run.controller.load_state_dict(torch.load(io.BytesIO(state), weights_only=True))
    assert run.steps(HALF) == losses[HALF:]
    weights = sat.state_dict(run.model)
    assert weights.keys() == final.keys()
    assert all(torch.equal(value, final[name]) for name, value in weights.items())


def trains_in_bf16(family, mode):
    """At a small learning rate: batch norm on a few images makes rounding grow from step to step, dense or not."""

    def gentle(model):
        return torch.optim.AdamW(model.parameters(), lr=1e-4)

    full = Run(family, mode, optimizer=gentle).steps()
    run = Run(family, mode, optimizer=gentle)
    found = run.steps(context=lambda: torch.autocast("cpu", torch.bfloat16))
    assert found != full
    assert found == pytest.approx(full, rel=0.02)
    assert all(parameter.dtype == torch.float32 for parameter in run.model.parameters())


def checkpoints(family, mode):
    losses, _, _ = uninterrupted(family, mode)
    run = Run(family, mode, prepare=lambda model: model.gradient_checkpointing_enable())
    assert run.steps() == pytest.approx(losses, abs=1e-5)


def compiles(family, mode):
    """Backend ``eager`` runs the traced operations as they are: losses agree but for rounding."""
    losses, _, _ = uninterrupted(family, mode)
    torch._dynamo.reset()  # no graphs of other tests
    with torch._dynamo.config.patch(recompile_limit=8, fail_on_recompile_limit_hit=False):
        run = Run(family, mode, prepare=lambda model: sat.compile_layers(model, backend="eager"), start=True)
        assert run.steps() == pytest.approx(losses, rel=1e-4)
    assert 0 < run.prepared.graphs <= run.prepared.most_graphs(run.controller.config, STEPS)
    assert run.controller.report().compiled_graphs == run.prepared.graphs


CHECKS = {
    "train": trains,
    "resume": resumes,
    "bf16": trains_in_bf16,
    "checkpointing": checkpoints,
    "compile": compiles,
}


@pytest.mark.parametrize(
    ("family", "mode", "capability"),
    [(*cell, capability) for cell in cells("train") for capability in CHECKS if cell in cells(capability)],
)
def test_what_the_table_promises_holds(family, mode, capability):
    CHECKS[capability](family, mode)


@functools.cache
def alone(family: str, mode: str) -> dict[str, Any]:
    return family_trained("none", family, mode, 0, 1)


@pytest.mark.parametrize(
    ("family", "mode", "wrap"), [(*cell, wrap) for wrap in ("DDP", "FSDP2") for cell in cells(wrap)]
)
def test_two_processes_train_as_one_does(of, family, mode, wrap):
    first, second = of(f"{wrap}, {family}, {mode}")
    expected = alone(family, mode)
    assert first == second
    assert first["active"] == expected["active"]
    assert first["losses"] == pytest.approx(expected["losses"], abs=1e-5, rel=0)


@pytest.mark.parametrize(
    ("family", "mode"), [(family, mode) for family in FAMILIES for mode in MODES if refusal(family, mode, "train")]
)
def test_a_mode_that_cannot_work_says_why(family, mode):
    with pytest.raises(ValueError, match=refusal(family, mode, "train").error):
        Run(family, mode)


@pytest.mark.parametrize("family", [name for name in FAMILIES if refusal(name, "depth", "checkpointing")])
def test_checkpointing_that_is_not_offered_says_so(family):
    with pytest.raises(ValueError, match=refusal(family, "depth", "checkpointing").error):
        FAMILIES[family].make().gradient_checkpointing_enable()


def test_every_capability_is_checked():
    assert [*CHECKS, "DDP", "FSDP2"] == list(CAPABILITIES)


def test_the_document_shows_this_table():
    text = (DOCS / "sat-models.md").read_text(encoding="utf-8")
    assert document_tables.put(text, "conformance", table()) == text
