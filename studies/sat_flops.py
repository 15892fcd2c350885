"""What each schedule of SAT saves over a whole training in counted FLOPs, on models that need no memory.

Models are built on device ``meta`` in the ladder's shapes, 20 tokens per parameter. Each phase of a schedule is put in
place on the model (``Controller.set_share``) and its step and probe are counted by :mod:`sat.flops`; the harness's
closed form, from which controls are matched, has to give the same number to the last FLOP, or the study stops. The
sum runs over all steps: learning-rate warm-up, probes and the dense tail are in it. Evaluation is not, nor what
gradient checkpointing would compute again.

``python studies/sat_flops.py`` takes minutes and writes the tables into docs/sat-cost.md; ``--quick`` prints those of
the smallest rung.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import document_tables
import torch

import sat
from harness.methods.base import PlanRequest
from harness.methods.sat import Sat, SatOptions
from harness.suite.flops import total_flops
from harness.suite.spec import Json, Phase, Protocol, Recipe
from harness.workloads.language.ladder import Shape
from harness.workloads.language.task import make_model
from harness.workloads.language.workload import LanguageWorkload
from sat.flops import count_flops

SIZES, QUICK_SIZES = ("124M", "1.3B", "13B"), ("0.1M",)
TARGET = 0.73
"""The saving under test."""
META = torch.device("meta")
WORKLOAD = LanguageWorkload()

HALF = ((0.0, 0.5), (0.8, 1.0))
QUARTER = ((0.0, 0.25), (0.5, 0.5), (0.8, 1.0))
SCHEDULES: Mapping[str, Json] = {
    "depth: one layer until .8, then all (the claim's)": {},
    "depth: half until .5, then all (default)": {"schedule": ((0.0, 0.5), (0.5, 1.0))},
    "depth: one layer until .5, then all": {"schedule": ((0.0, 0.0), (0.5, 1.0))},
    "depth: half until .8, then all": {"schedule": HALF},
    "depth: quarter, half from .5, all from .8": {"schedule": QUARTER},
    "width: .17, .33 from .6, .5 from .8, 1 from .9 (the claim's)": {"axis": "width"},
    "width: half until .5, then all (default)": {"axis": "width", "schedule": ((0.0, 0.5), (0.5, 1.0))},
    "width: half until .8, then all": {"axis": "width", "schedule": HALF},
    "width: quarter, half from .5, all from .8": {"axis": "width", "schedule": QUARTER},
    "width: constant .25, persistent": {"axis": "width", "regime": "persistent", "schedule": ((0.0, 0.25),)},
    "width: constant .30, persistent": {"axis": "width", "regime": "persistent", "schedule": ((0.0, 0.30),)},
    "width: constant .38, persistent": {"axis": "width", "regime": "persistent", "schedule": ((0.0, 0.38),)},
    "width: constant .30, rotating": {"axis": "width", "regime": "rotating", "schedule": ((0.0, 0.30),)},
    "depth: constant .25, persistent, by gate": {
        "regime": "persistent", "score": "gate_probe", "schedule": ((0.0, 0.25),),
    },
    "depth: constant .30, rotating, by gate": {
        "regime": "rotating", "score": "gate_probe", "schedule": ((0.0, 0.30),),
    },
    "freeze: .30 (the claim's)": {"mode": "freeze"},
    "freeze: .30 until .6, then all (default)": {"mode": "freeze", "schedule": ((0.0, 0.3), (0.6, 1.0))},
    "backward_drop: .30 (the claim's)": {"mode": "backward_drop"},
    "backward_drop: .30 until .6, then all (default)": {
        "mode": "backward_drop", "schedule": ((0.0, 0.3), (0.6, 1.0)),
    },
    "prefix: .30 (the claim's)": {"mode": "prefix"},
    "prefix: all, .67 from .5, .34 from .75 (default)": {
        "mode": "prefix", "schedule": ((0.0, 1.0), (0.5, 0.67), (0.75, 0.34)),
    },
}  # fmt: skip


@dataclass(frozen=True)
class Row:
    """One schedule at one size. Shares are averages over the steps; FLOPs are of the whole training."""

    size: str
    schedule: str
    steps: int
    active_units: float
    active_parameters: float
    dense_flops: int
    step_flops: int
    probe_flops: int

    @property
    def saving(self) -> float:
        """Share of the dense training's FLOPs that is saved, probes paid."""
        return 1.0 - (self.step_flops + self.probe_flops) / self.dense_flops


def row(size: str, schedule: str, options: Json) -> Row:
    """Count one schedule.

    Raises:
        RuntimeError: the closed form and the count differ.
    """
    model = WORKLOAD.model(size, {})
    recipe = WORKLOAD.recipe(size, model, {}, Protocol.COUNT).model_copy(update={"checkpointing": False})
    planned = Sat().plan(options, PlanRequest(WORKLOAD, {}, model, recipe)).phases
    config = SatOptions.model_validate(options).config(recipe.steps, seed=0)
    shape = Shape.read(model)
    units = parameters = 0.0
    steps_flops = probes_flops = 0
    controller, loss = on_meta(shape, recipe, config)
    for phase, asked in zip(planned, sat.phases(config, recipe.steps), strict=True):
        switch = controller.set_share(asked.share)
        units += phase.steps * switch.active_units
        parameters += phase.steps * switch.active_parameters
        steps_flops += phase.steps * count(controller, loss)
        if phase.probes:
            probes_flops += phase.probes * count(controller, controller.probe)
    closed = total_flops(WORKLOAD, model, recipe, {}, planned)
    if closed != steps_flops + probes_flops:
        raise RuntimeError(f"{schedule} at {size}: counted {steps_flops + probes_flops}, closed form {closed}")
    return Row(
        size=size,
        schedule=schedule,
        steps=recipe.steps,
        active_units=units / recipe.steps,
        active_parameters=parameters / recipe.steps,
        dense_flops=recipe.steps * int(WORKLOAD.step_flops(model, recipe, {}, Phase(steps=1))),
        step_flops=steps_flops,
        probe_flops=probes_flops,
    )


def on_meta(shape: Shape, recipe: Recipe, config: sat.SATConfig):  # type: ignore[no-untyped-def]
    """A controller on a model without memory, and the loss of a micro-batch, one optimizer step's worth."""
    model = make_model(shape, 0, META)
    ids = torch.zeros((recipe.batch_size, shape.sequence_length), dtype=torch.long, device=META)

    def loss(index: int = 0) -> torch.Tensor:
        return model(input_ids=ids).logits.sum()

    controller = sat.sparsify_(model, None, config, total_steps=recipe.steps, loss=loss, start=False)
    return controller, loss


def count(controller: sat.Controller, run) -> int:  # type: ignore[no-untyped-def]
    """FLOPs, forward and backward, of one call."""
    flops = count_flops(controller.model, run)
    assert flops is not None
    assert flops.total is not None
    return flops.total


def table(rows: Sequence[Row]) -> str:
    """All schedules of one size."""
    lines = [
        f"### {rows[0].size}: {rows[0].steps:,} steps, dense {rows[0].dense_flops:.4g} FLOPs",
        "",
        "| schedule | units at work, mean | parameters at work, mean | probes, of dense | FLOPs saved | 73 % |",
        "|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {each.schedule} | {each.active_units:.1%} | {each.active_parameters:.1%} | "
        f"{each.probe_flops / each.dense_flops:.2%} | {each.saving:.1%} | {'yes' if each.saving >= TARGET else ''} |"
        for each in sorted(rows, key=lambda each: -each.saving)
    ]
    return "\n".join(lines)


def verdict(rows: Sequence[Row]) -> str:
    """Which schedules reach the saving under test at the largest size."""
    size = rows[-1].size
    reached = [each for each in rows if each.size == size and each.saving >= TARGET]
    if not reached:
        return f"At {size} no schedule saves {TARGET:.0%}."
    named = "; ".join(
        f"*{each.schedule}* ({each.saving:.1%}, with {each.active_units:.1%} of the units and "
        f"{each.active_parameters:.1%} of the parameters at work on average)"
        for each in sorted(reached, key=lambda each: -each.saving)
    )
    return f"At {size}, {TARGET:.0%} is reached by {named}."


def study(sizes: Sequence[str]) -> str:
    """The tables as Markdown."""
    rows = [row(size, schedule, options) for size in sizes for schedule, options in SCHEDULES.items()]
    tables = [table([each for each in rows if each.size == size]) for size in reversed(sizes)]
    return "\n\n".join([verdict(rows), *tables])


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the study."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="the smallest rung only; prints, writes nothing")
    if parser.parse_args(arguments).quick:
        print(study(QUICK_SIZES))
        return
    document_tables.write("sat-cost.md", {"sat_flops": study(SIZES)})


if __name__ == "__main__":
    main()
