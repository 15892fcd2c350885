"""How near a step of SAT comes to its arithmetic: time ratios beside FLOP ratios, on one CPU thread.

Steps of the models that are compared take turns, and their times are CPU time of this process, which neighbours on a
busy machine disturb less than wall time; on one thread with nothing to wait for the two are the same otherwise. A
ratio is the median over turns of one step's time by the other's, with its quartiles. Three questions:

- against the *floor*: a plain model whose shapes are the compact ones from the start, its optimizer included;
- against the *full dense step*: beside the ratio of counted FLOPs, and where the rest of the time goes;
- *probes and switches*: what one of each costs, as a share of 500 steps.

``OMP_NUM_THREADS=1 python studies/sat_step.py`` takes minutes of CPU time and writes the tables into docs/sat-cost.md;
``--quick`` takes seconds and writes nothing. ``tests/benchmarks/test_sat_step.py`` measures the same in
pytest-benchmark.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import document_tables
import torch
from torch.profiler import ProfilerActivity, profile

import sat
from harness.record.fingerprint import cpu_name
from harness.workloads.language import ladder
from harness.workloads.language.ladder import Shape
from harness.workloads.language.task import make_model
from sat.flops import count_flops
from sat.units import attention_units, mlp_units, units_kept

CPU = torch.device("cpu")
BATCH, LENGTH = 4, 128
WARMUP = 2
INTERVAL = 500
SHARES = (0.25, 0.38, 0.5)
AXES = ("depth", "width")
STEPS = 1_000_000  # of the training that is never finished: no decision falls due while steps are timed


@dataclass
class Training:
    """A model with what a step of it does, SAT's part included."""

    model: torch.nn.Module
    optimizer: torch.optim.Optimizer
    step: Callable[[], None]
    loss: Callable[[int], torch.Tensor]
    controller: sat.Controller | None = None

    @property
    def flops(self) -> int:
        """Counted FLOPs of a step."""
        counted = count_flops(self.model, lambda: self.loss(0))
        assert counted is not None
        assert counted.total is not None
        return counted.total


@dataclass(frozen=True)
class Ratio:
    """Median and quartiles over the turns."""

    low: float
    median: float
    high: float

    def __str__(self) -> str:
        return f"{self.median:.3f} ({self.low:.3f} to {self.high:.3f})"


def shape_of(size: str) -> Shape:
    """A rung of the ladder, with short sequences."""
    return ladder.shape(size, length=LENGTH)


def floor(shape: Shape, axis: str, share: float) -> Training:
    """A plain training of a model that has nothing but what works at ``share``."""
    if axis == "depth":
        return dense(shape.model_copy(update={"layers": units_kept(shape.layers, share)}))
    model = make_model(shape, 0, CPU)  # LlamaConfig would refuse a number of heads that does not divide the width
    group, groups = attention_units(shape.heads, shape.kv_heads)
    unit, units = mlp_units(shape.hidden)
    keys = shape.head_dim * units_kept(groups, share)
    queries, hidden = group * keys, unit * units_kept(units, share)
    for layer in model.model.layers:
        attention, mlp = layer.self_attn, layer.mlp
        for owner, name, given, made in (
            (attention, "q_proj", shape.width, queries),
            (attention, "k_proj", shape.width, keys),
            (attention, "v_proj", shape.width, keys),
            (attention, "o_proj", queries, shape.width),
            (mlp, "gate_proj", shape.width, hidden),
            (mlp, "up_proj", shape.width, hidden),
            (mlp, "down_proj", hidden, shape.width),
        ):
            setattr(owner, name, torch.nn.Linear(given, made, bias=False))
    return _training(model, shape)


def dense(shape: Shape) -> Training:
    """A plain training."""
    return _training(make_model(shape, 0, CPU), shape)


def _training(model: torch.nn.Module, shape: Shape) -> Training:
    torch.set_num_threads(1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)

    def loss(index: int) -> torch.Tensor:
        ids = torch.randint(0, shape.vocab, (BATCH, LENGTH), generator=torch.Generator().manual_seed(index))
        logits = model(input_ids=ids).logits
        return torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())

    def step() -> None:
        optimizer.zero_grad()
        loss(0).backward()
        optimizer.step()

    return Training(model, optimizer, step, loss)


def sparse(shape: Shape, **settings: object) -> Training:
    """The same under SAT; nothing is switched yet."""
    training = dense(shape)
    config = sat.SATConfig(**settings)  # type: ignore[arg-type]
    controller = sat.sparsify_(
        training.model, training.optimizer, config, total_steps=STEPS, loss=training.loss, start=False
    )
    plain = training.step

    def step() -> None:
        plain()
        controller.step()

    return Training(training.model, training.optimizer, step, training.loss, controller)


def at_share(shape: Shape, axis: str, share: float) -> Training:
    """A step at a share, as in the middle of a phase."""
    training = sparse(shape, axis=axis, score="random" if axis == "width" else "order")
    assert training.controller is not None
    training.controller.set_share(share)
    return training


def seconds(run: Callable[[], object]) -> float:
    """CPU time of a call."""
    start = time.process_time()
    run()
    return time.process_time() - start


def turns(runs: Sequence[Callable[[], None]], rounds: int) -> list[list[float]]:
    """Seconds of each run in each round, the runs taking turns; the order is turned around every other round."""
    for run in runs:
        for _ in range(WARMUP):
            run()
    times: list[list[float]] = [[] for _ in runs]
    for turn in range(rounds):
        for at in range(len(runs)) if turn % 2 else reversed(range(len(runs))):
            times[at].append(seconds(runs[at]))
    return times


def ratio(times: Sequence[float], by: Sequence[float]) -> Ratio:
    """Of one step's time by another's, turn by turn."""
    low, median, high = statistics.quantiles([a / b for a, b in zip(times, by, strict=True)], n=4)
    return Ratio(low, median, high)


@dataclass(frozen=True)
class Steps:
    """A step of SAT beside the full dense step and the floor."""

    flops: float
    of_dense: Ratio
    of_floor: Ratio
    floor_of_dense: Ratio

    @property
    def over_flops(self) -> float:
        """Time ratio by FLOP ratio."""
        return self.of_dense.median / self.flops


def steps(size: str, axis: str, share: float, rounds: int) -> Steps:
    """Measure one combination."""
    shape = shape_of(size)
    full, least, ours = dense(shape), floor(shape, axis, share), at_share(shape, axis, share)
    if ours.flops != least.flops:
        raise RuntimeError(f"{size} {axis} {share}: the plain compact model is another one")
    full_s, floor_s, ours_s = turns([full.step, least.step, ours.step], rounds)
    return Steps(ours.flops / full.flops, ratio(ours_s, full_s), ratio(ours_s, floor_s), ratio(floor_s, full_s))


@dataclass(frozen=True)
class Overhead:
    """A probe and a switch, as shares of ``INTERVAL`` steps of the dense training and of SAT's."""

    probe_of_dense: float
    switch_of_dense: float
    probe_of_sat: float
    switch_of_sat: float
    exchanged: int  # units, per switch


def overhead(size: str, share: float, rounds: int) -> Overhead:
    """Probes of one micro-batch and exchanges of units, along the width."""
    shape = shape_of(size)
    settings = {
        "axis": "width", "regime": "rotating", "ramp_steps": 0, "interval": INTERVAL, "schedule": ((0.0, share),),
    }  # fmt: skip
    full, ours = dense(shape), sparse(shape, **settings)
    other = sparse(shape, **settings, score="random")  # exchanges without a probe: the switch alone
    assert ours.controller is not None
    assert other.controller is not None
    ours.controller.set_share(share)
    other.controller.begin_step(0)
    other.step()  # optimizer state is exchanged as well
    due = iter(range(INTERVAL, (rounds + WARMUP + 1) * INTERVAL, INTERVAL))
    before = other.controller.report().swaps

    def switch() -> None:
        assert other.controller is not None
        other.controller.begin_step(next(due))

    probe = ours.controller.probe
    full_s, ours_s, probe_s, switch_s = (
        statistics.median(times) for times in turns([full.step, ours.step, lambda: (probe(), None)[1], switch], rounds)
    )
    exchanged = (other.controller.report().swaps - before) // (rounds + WARMUP)
    return Overhead(
        probe_s / (INTERVAL * full_s), switch_s / (INTERVAL * full_s), probe_s / (INTERVAL * ours_s),
        switch_s / (INTERVAL * ours_s), exchanged,
    )  # fmt: skip


CLASSES = (
    "matrix products of layers", "matrix products of the head", "attention", "norms, activations, residual sums",
    "embedding and loss", "optimizer", "Python and dispatch",
)  # fmt: skip


def profiled(trainings: Sequence[Training], vocab: int, rounds: int) -> list[dict[str, float]]:
    """Seconds of a step of each by class of operation, from torch.profiler; the last class is what none claims.

    The profiler knows wall time only. The trainings take turns and each class shows the least of its turns: on a busy
    machine the others are longer by what was not this process.
    """
    turns([training.step for training in trainings], 1)
    found = [[_profile(training, vocab) for training in trainings] for _ in range(rounds)]
    return [{name: min(turn[name] for turn in of_one) for name in CLASSES} for of_one in zip(*found, strict=True)]


def _profile(training: Training, vocab: int) -> dict[str, float]:
    with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as profiler:
        start = time.perf_counter()
        training.step()
        total = time.perf_counter() - start
    found: Counter[str] = Counter()
    for event in profiler.key_averages(group_by_input_shape=True):
        if event.key.startswith(("aten::", "autograd::")):
            found[_class(event.key, event.input_shapes, vocab)] += event.self_cpu_time_total / 1e6
    found[CLASSES[-1]] = max(0.0, total - sum(found.values()))
    return {name: found[name] for name in CLASSES}


def _class(key: str, shapes: Sequence[Sequence[int]], vocab: int) -> str:
    head = any(vocab in shape for shape in shapes if shape)
    if key in {"aten::mm", "aten::addmm", "aten::bmm"}:
        return CLASSES[1] if head else CLASSES[0]
    if "scaled_dot_product" in key:
        return CLASSES[2]
    if "adamw" in key:
        return CLASSES[5]
    if head or "embedding" in key or "softmax" in key or "nll_loss" in key:
        return CLASSES[4]
    return CLASSES[3]


def step_tables(shares: Mapping[str, Sequence[float]], rounds: int) -> str:
    """Every axis at the shares given for each size."""
    lines = [
        f"{cpu_name()}, one thread, torch {torch.__version__}, batches of {BATCH} × {LENGTH} tokens, fp32, fused "
        f"AdamW, {rounds} turns; medians and quartiles.",
        "",
        "| size | axis | share | FLOPs, of dense | time, of dense | time by FLOPs | time, of the plain compact model | "
        "that model by FLOPs |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for size, wanted in shares.items():
        for axis in AXES:
            for share in wanted:
                found = steps(size, axis, share, rounds)
                lines.append(
                    f"| {size} | {axis} | {share} | {found.flops:.3f} | {found.of_dense} | {found.over_flops:.2f} | "
                    f"{found.of_floor} | {found.floor_of_dense.median / found.flops:.2f} |"
                )
                print(lines[-1], file=sys.stderr)
    return "\n".join(lines)


def profile_table(size: str, share: float, rounds: int) -> str:
    """Where the time of a dense step and of steps of SAT goes."""
    shape = shape_of(size)
    columns = profiled([dense(shape), *(at_share(shape, axis, share) for axis in AXES)], shape.vocab, rounds)
    lines = [
        f"{size} at a share of {share}, milliseconds of a step under torch.profiler (which itself costs time), the "
        f"least of {rounds} turns, and what is left of the dense step's:",
        "",
        "| class | dense | depth | left | width | left |",
        "|---|---|---|---|---|---|",
    ]
    rows = [(name, [column[name] for column in columns]) for name in CLASSES]
    rows.append(("all", [sum(column.values()) for column in columns]))
    for name, (whole, *ours) in rows:
        cells = " | ".join(f"{1e3 * each:.1f} | {each / whole:.2f}" if whole else "0 | –" for each in ours)
        lines.append(f"| {name} | {1e3 * whole:.1f} | {cells} |")
    return "\n".join(lines)


def overhead_table(sizes: Sequence[str], share: float, rounds: int) -> str:
    """Probes and switches at an interval of 500 steps."""
    lines = [
        f"Width, rotating at {share}, one micro-batch a probe (the default), {INTERVAL} steps apart; {rounds} turns, "
        "medians.",
        "",
        "| size | of a dense run: probe | switch | of SAT's own run: probe | switch | units exchanged |",
        "|---|---|---|---|---|---|",
    ]
    for size in sizes:
        found = overhead(size, share, rounds)
        lines.append(
            f"| {size} | {found.probe_of_dense:.2%} | {found.switch_of_dense:.3%} | {found.probe_of_sat:.2%} | "
            f"{found.switch_of_sat:.3%} | {found.exchanged} |"
        )
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the study."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="the smallest rung, few turns; prints, writes nothing")
    parser.add_argument("--only", choices=("steps", "profile", "overhead"), help="one of the tables")
    options = parser.parse_args(arguments)
    quick = options.quick
    tables = {
        "steps": lambda: step_tables({"0.4M": SHARES} if quick else {"10M": SHARES, "30M": (0.25,)}, 3 if quick else 7),
        "profile": lambda: profile_table("0.4M" if quick else "10M", 0.38, 2 if quick else 9),
        "overhead": lambda: overhead_table(("0.4M",) if quick else ("10M",), 0.33, 3 if quick else 7),
    }
    made = {f"sat_step: {name}": make() for name, make in tables.items() if options.only in {None, name}}
    if quick:
        print("\n\n".join(made.values()))
        return
    document_tables.write("sat-cost.md", made)


if __name__ == "__main__":
    main()
