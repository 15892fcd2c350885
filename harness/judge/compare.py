"""Records to pairs to comparisons: one arm against the baseline at one size under one protocol.

A pair is the baseline and an arm of one block, on the same machine and card. Energy is gross, of the
whole training (``train``) or of a mean step of its schedule (``steady``); ``count`` has FLOPs only.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, cast

from harness.judge import stats
from harness.judge.types import Comparison, Estimate, PairRow
from harness.judge.words import listing
from harness.meter.base import Energy
from harness.meter.energy import PLACED
from harness.record.record import Record, Status
from harness.suite.spec import Levels, Protocol, RunSpec, levels_text
from harness.types import Basis

ProtocolName = Literal["train", "steady", "count"]

WEAKEST_LAST = (Basis.COUNTED, Basis.MEASURED, Basis.MODELLED, Basis.PROJECTED, Basis.SIMULATED)
QUALITY_UNITS = {
    "loss": "nats per token", "bits_per_byte": "bits per byte", "perplexity": "perplexity", "accuracy": "points",
}  # fmt: skip


def weakest(bases: Iterable[Basis]) -> Basis:
    """The least trustworthy of several; COUNTED if there are none."""
    return max(bases, key=WEAKEST_LAST.index, default=Basis.COUNTED)


def latest_ok(records: Iterable[Record]) -> dict[str, Record]:
    """The last attempt of each run that ended well, by run id."""
    found: dict[str, Record] = {}
    for record in records:
        if record.ok and (record.run_id not in found or record.attempt >= found[record.run_id].attempt):
            found[record.run_id] = record
    return found


@dataclass(frozen=True, slots=True)
class Wasted:
    """What attempts took that gave no result: failed, out of memory, invalid, or done again."""

    joules: float
    attempts: int
    unknown: int  # of them, attempts whose energy nobody knows
    basis: Basis


def wasted(records: Sequence[Record]) -> Wasted:
    """Energy of every attempt that started and is not the one that counts."""
    good = {id(record) for record in latest_ok(records).values()}
    lost = [r for r in records if id(r) not in good and r.status is not Status.SKIPPED]
    lost = [r for r in lost if r.spec.protocol is not Protocol.COUNT]
    known = [r.energy for r in lost if r.energy is not None and r.energy.joules is not None]
    return Wasted(
        joules=math.fsum(e.joules for e in known if e.joules is not None),
        attempts=len(lost),
        unknown=len(lost) - len(known),
        basis=weakest(e.basis for e in known),
    )


def compare(records: Sequence[Record], baseline: str) -> tuple[Comparison, ...]:
    """Every arm against ``baseline``, by protocol, size (smallest first), levels of factors and name of arm.

    Gates that need one comparison alone have spoken in ``invalid``; those that need several are in
    :mod:`harness.judge.gates`.
    """
    groups: dict[tuple[str, str, str, str], list[Record]] = {}
    conditions: dict[str, Levels] = {}
    arms: dict[str, None] = {}
    for record in records:
        spec = record.spec
        arms.setdefault(spec.arm)
        if record.status in {Status.OK, Status.INVALID}:
            levels = levels_text(spec.levels)
            conditions[levels] = spec.levels
            groups.setdefault((spec.protocol.value, spec.size, levels, spec.arm), []).append(record)
    found = []
    for (protocol, size, levels, arm), group in groups.items():
        base = groups.get((protocol, size, levels, baseline), [])
        if arm == baseline or not base:
            continue
        comparison = _compare(arm, baseline, size, cast("ProtocolName", protocol), group=group, base_group=base)
        if comparison is not None:
            found.append(comparison.model_copy(update={"levels": conditions[levels]}))
    protocols, order, where = [p.value for p in Protocol], sorted(arms), sorted(conditions)
    return tuple(
        sorted(
            found,
            key=lambda c: (
                protocols.index(c.protocol), c.parameters, c.size, where.index(levels_text(c.levels)),
                order.index(c.arm),
            ),
        )
    )  # fmt: skip


def _compare(
    arm: str, baseline: str, size: str, protocol: ProtocolName, *, group: Sequence[Record], base_group: Sequence[Record]
) -> Comparison | None:
    arm_runs, base_runs = _by_block(group), _by_block(base_group)
    reasons: list[str] = []
    pairs: list[tuple[Record, Record]] = []
    for block in sorted(arm_runs.keys() & base_runs.keys()):
        if len(arm_runs[block]) > 1 or len(base_runs[block]) > 1:
            many = arm if len(arm_runs[block]) > 1 else baseline
            reasons.append(
                f"block {block} holds runs of {many} with different specifications: the suite was changed between "
                "runs; start a new result set"
            )
            continue
        base, run = base_runs[block][0], arm_runs[block][0]
        pairs.append((base, run))
        why = mismatch(base, run)
        if why:
            reasons.append(f"seed {run.spec.seed}: {why}")
    reasons += _changed(arm, baseline, pairs)
    if not pairs and not reasons:
        return _only_invalid(arm, baseline, size, protocol, group=group, base_group=base_group)
    good = pairs or [(base_group[0], group[0])]
    parameters = good[0][0].parameters
    if parameters is None:
        return None
    rows = tuple(sorted((_row(base, run) for base, run in pairs), key=lambda row: (row.seed, row.block_id)))
    return _estimates(
        Comparison(
            arm=arm, baseline=baseline, size=size, parameters=parameters, protocol=protocol, pairs=rows, saving=None,
            tokens_per_parameter=_tokens_per_parameter([base for base, _ in pairs]),
            invalid="; ".join(dict.fromkeys(reasons)), invalid_scope="all" if reasons else "",
            is_aa=all(is_aa(base.spec, run.spec) for base, run in good),
        ),
        weakest(e.basis for e in map(energy_of, [record for pair in pairs for record in pair]) if e is not None),
    )  # fmt: skip


def _changed(arm: str, baseline: str, pairs: Sequence[tuple[Record, Record]]) -> list[str]:
    """Seeds are repetitions of one experiment: blocks whose runs differ in more must not be pooled."""
    return [
        f"runs of {name} differ in more than their seed: the suite was changed between runs; start a new result set"
        for name, runs in ((baseline, [base for base, _ in pairs]), (arm, [run for _, run in pairs]))
        if len({run.spec.model_copy(update={"seed": 0}).run_id for run in runs}) > 1
        or len({run.spec.seed for run in runs}) < len(runs)
    ]


def _by_block(group: Sequence[Record]) -> dict[str, list[Record]]:
    found: dict[str, list[Record]] = {}
    for record in latest_ok(group).values():
        found.setdefault(record.block_id, []).append(record)
    return found


def _only_invalid(
    arm: str, baseline: str, size: str, protocol: ProtocolName, *, group: Sequence[Record], base_group: Sequence[Record]
) -> Comparison | None:
    """Runs that ended but whose energy a gate refused, and no valid pair beside them."""
    refused = [r for r in (*group, *base_group) if r.status is Status.INVALID]
    parameters = next((r.parameters for r in base_group if r.parameters), None)
    if not refused or parameters is None:
        return None
    reasons = dict.fromkeys(f"{r.spec.arm}, seed {r.spec.seed}: {r.reason}" for r in refused)
    return Comparison(
        arm=arm, baseline=baseline, size=size, parameters=parameters, protocol=protocol, pairs=(), saving=None,
        invalid="no valid pair: " + "; ".join(reasons), invalid_scope="all",
    )  # fmt: skip


def is_aa(base: RunSpec, run: RunSpec) -> bool:
    """Whether two runs differ in nothing but the name of their arm."""
    return base.model_copy(update={"arm": run.arm}) == run


def mismatch(base: Record, run: Record) -> str:
    """Why two runs of a block are no pair, or nothing."""
    for field in ("workload", "workload_version", "workload_options", "size", "seed", "protocol", "levels", "device"):
        if getattr(base.spec, field) != getattr(run.spec, field):
            return f"{field} differs: {getattr(base.spec, field)!r} and {getattr(run.spec, field)!r}"
    if base.spec.protocol is Protocol.COUNT:
        return ""  # counting is exact: the machine does not matter
    if base.fingerprint_id != run.fingerprint_id:
        return f"not the same machine: fingerprints {base.fingerprint_id or 'none'} and {run.fingerprint_id or 'none'}"
    if base.device_id != run.device_id:
        return f"not the same card: {base.device_id or 'none'} and {run.device_id or 'none'}"
    return _energy_mismatch(energy_of(base), energy_of(run)) or _meter_mismatch(base, run)


def _meter_mismatch(base: Record, run: Record) -> str:
    watched, others = _watched(base), _watched(run)
    if watched != others:
        return f"not the same devices were metered: {listing(watched) or 'none'} and {listing(others) or 'none'}"
    mine, other = _channels(base), _channels(run)
    return "" if mine == other else f"energies are from different channels: {mine} and {other}"


def _energy_mismatch(base: Energy | None, run: Energy | None) -> str:
    if base is None or run is None:
        return ""
    if base.basis is not run.basis:
        return f"energies are {base.basis.value} and {run.basis.value}"
    if base.scope != run.scope:
        return f"energies cover different things: {base.scope!r} and {run.scope!r}"
    return ""


def _watched(record: Record) -> list[str]:
    """The devices of a record's meter, by UUID or domain: a simulated card of another scenario is another one."""
    return [] if record.meter is None else sorted({channel.device for channel in record.meter.channels})


def _channels(record: Record) -> str:
    """What the joules were read from (counter, integral of power), not by which instrument or how well placed."""
    energy = energy_of(record)
    if energy is None or record.meter is None:
        return ""
    parts = {part.removeprefix(f"{record.meter.source}, ").removesuffix(PLACED) for part in energy.source.split("; ")}
    return "; ".join(sorted(parts))


def energy_of(record: Record) -> Energy | None:
    """Energy of a training, or of a mean step under the steady protocol."""
    return record.energy_per_step if record.spec.protocol is Protocol.STEADY else record.energy


def seconds_of(record: Record) -> float | None:
    """Charged time of a training, or of a mean step under the steady protocol."""
    return record.seconds_per_step if record.spec.protocol is Protocol.STEADY else record.seconds


def flops_of(record: Record) -> float | None:
    """Counted FLOPs of the whole training, or of a mean step of it under the steady protocol."""
    if record.flops is None:
        return None
    return record.flops.total / (record.spec.recipe.steps if record.spec.protocol is Protocol.STEADY else 1)


def energy_basis(record: Record) -> Basis | None:
    """Basis of a record's energy, ``None`` where there is none."""
    energy = energy_of(record)
    return None if energy is None else energy.basis


def log_ratio(base: float | None, arm: float | None) -> float | None:
    """ln(arm / base); ``None`` unless both are known and positive."""
    if base is None or arm is None or base <= 0 or arm <= 0:
        return None
    return math.log(arm / base)


def _net(record: Record) -> float | None:
    energy, seconds = energy_of(record), seconds_of(record)
    if energy is None or energy.joules is None or record.idle_power_w is None or seconds is None:
        return None
    return energy.joules - record.idle_power_w * seconds


def _row(base: Record, run: Record) -> PairRow:
    mine, other = energy_of(base), energy_of(run)
    energy = log_ratio(mine.joules if mine else None, other.joules if other else None)
    time = log_ratio(seconds_of(base), seconds_of(run))
    flops = log_ratio(flops_of(base), flops_of(run))
    return PairRow(
        block_id=run.block_id,
        seed=run.spec.seed,
        base_run=base.run_id,
        arm_run=run.run_id,
        log_energy_ratio=energy,
        log_net_energy_ratio=log_ratio(_net(base), _net(run)),
        log_time_ratio=time,
        log_power_ratio=None if energy is None or time is None else energy - time,
        flops_ratio=None if flops is None else math.exp(flops),
        quality={name: run.quality[name] - base.quality[name] for name in base.quality if name in run.quality},
    )


def _estimates(comparison: Comparison, basis: Basis) -> Comparison:
    rows = comparison.pairs
    clock = Basis.SIMULATED if basis is Basis.SIMULATED else Basis.MEASURED
    flops = [math.log(row.flops_ratio) for row in rows if row.flops_ratio is not None]
    metrics = list(dict.fromkeys(name for row in rows for name in row.quality))
    counted = saving_estimate(flops, Basis.COUNTED)
    return comparison.model_copy(
        update={
            "saving": saving_estimate(_known(r.log_energy_ratio for r in rows), basis),
            "net_saving": saving_estimate(_known(r.log_net_energy_ratio for r in rows), basis),
            "time_saving": saving_estimate(_known(r.log_time_ratio for r in rows), clock),
            "power_saving": saving_estimate(_known(r.log_power_ratio for r in rows), basis),
            "flops_saving": counted,
            "ceiling": counted.value if counted else None,
            "quality": {
                name: estimate_of(
                    stats.mean([row.quality[name] for row in rows if name in row.quality]),
                    QUALITY_UNITS.get(name, name), Basis.MEASURED,
                )
                for name in metrics
            },
        }
    )  # fmt: skip


def _known(values: Iterable[float | None]) -> list[float]:
    return [value for value in values if value is not None]


def saving_estimate(log_ratios: Sequence[float], basis: Basis) -> Estimate | None:
    """``1 - exp(mean)`` with its interval, a share; ``None`` without values."""
    if not log_ratios:
        return None
    value, low, high = stats.saving(log_ratios)
    return Estimate(value=value, low=low, high=high, n=len(log_ratios), unit="share", basis=basis)


def estimate_of(found: stats.Mean, unit: str, basis: Basis) -> Estimate:
    """An estimate from a mean."""
    low, high = found.interval()
    return Estimate(value=found.value, low=low, high=high, n=found.n, unit=unit, basis=basis)


def _tokens_per_parameter(bases: Sequence[Record]) -> float | None:
    known = [r.examples / r.parameters for r in bases if r.parameters and r.examples]
    return math.fsum(known) / len(known) if known else None
