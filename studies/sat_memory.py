"""Memory of parameters, gradients and optimizer state at an active share, counted from tensors that need none.

A model on device ``meta`` is put at each share, its units out go to the bank on the host, and AdamW makes one step, so
that gradients and both moments are there; ``Controller.memory`` counts their bytes, and those on the device while a
gate probe runs, where the score needs one: the weights of the bank come to the device beside all else. Activations and
what is held for the moment of a switch are not in it.

``python studies/sat_memory.py`` takes a minute and writes the table into docs/sat-cost.md; ``--quick`` prints that of
the smallest rung.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass

import document_tables
import torch

import sat
from harness.workloads.language import ladder
from harness.workloads.language.task import make_model

SIZES, QUICK_SIZES = ("124M", "1.3B", "13B"), ("0.1M",)
AXES = ("depth", "width")
SHARES = (0.25, 0.30, 0.38, 0.5, 1.0)


@dataclass(frozen=True)
class Row:
    """One share. ``memory`` is bytes on the device as a share of those of the dense training, ``probe`` likewise
    while a gate probe runs."""

    size: str
    axis: str
    active_units: float
    active_parameters: float
    memory: float
    probe: float
    device_bytes: int
    probe_bytes: int
    host_bytes: int


def row(size: str, axis: str, share: float) -> Row:
    """Count one combination."""
    model = make_model(ladder.shape(size), 0, torch.device("meta"))
    optimizer = torch.optim.AdamW(model.parameters())
    dense = 4 * 4 * sum(parameter.numel() for parameter in model.parameters())  # fp32: itself, gradient, two moments
    config = sat.SATConfig(axis=axis, bank="host", score="random" if axis == "width" else "order")  # type: ignore[arg-type]
    controller = sat.sparsify_(model, optimizer, config, total_steps=100, start=False)
    switch = controller.set_share(share)
    for parameter in model.parameters():
        parameter.grad = torch.empty_like(parameter)
    optimizer.step()
    found = controller.memory()
    return Row(
        size, axis, switch.active_units, switch.active_parameters, found.on_device / dense, found.in_probe / dense,
        found.on_device, found.in_probe, found.bank,
    )  # fmt: skip


def study(sizes: Sequence[str]) -> str:
    """The table as Markdown."""
    rows = [row(size, axis, share) for size in sizes for axis in AXES for share in SHARES]
    lines = [
        "| size | axis | units at work | parameters at work | memory, of dense | by units at work | "
        "by parameters at work | on the device | during a gate probe | of dense | bank on the host |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {each.size} | {each.axis} | {each.active_units:.1%} | {each.active_parameters:.1%} | {each.memory:.1%} | "
        f"{each.memory / each.active_units:.2f} | {each.memory / each.active_parameters:.3f} | "
        f"{each.device_bytes / 1e9:,.2f} GB | {each.probe_bytes / 1e9:,.2f} GB | {each.probe:.1%} | "
        f"{each.host_bytes / 1e9:,.2f} GB |"
        for each in rows
    ]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the study."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="the smallest rung only; prints, writes nothing")
    if parser.parse_args(arguments).quick:
        print(study(QUICK_SIZES))
        return
    document_tables.write("sat-cost.md", {"sat_memory": study(SIZES)})


if __name__ == "__main__":
    main()
