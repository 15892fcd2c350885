"""An independent check: every number of a judgement derived again from raw records and raw samples.

Nothing of the judge's own arithmetic is used here: ratios, means and intervals are written out once more.
What a record says of its energy is checked twice, against its own windows and, where the files are there,
against the raw samples. Each finding names the run or comparison, the number that is claimed and the
number that follows.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from pydantic import ValidationError

from harness.judge.types import Comparison, Estimate, Judgement, VerdictStatus
from harness.meter import samples as samples_format
from harness.meter.alive import believable
from harness.meter.energy import windows_energy
from harness.record.record import Record, SamplesFile
from harness.run.events import Window, parse
from harness.types import Basis, UserError, digest

TOLERANCE = 1e-9  # relative; sums in another order differ by less
CHARGED = ("warmup", "train", "probe")  # spelt out: the audit must not inherit a mistake


def arithmetic(root: Path, records: Sequence[Record], judgement: Judgement) -> list[str]:
    """Everything that does not follow; empty where all of it does.

    Args:
        root: folder of the result set, for the raw samples and events.
        records: every attempt in it.
        judgement: what was concluded from them.
    """
    findings: list[str] = []
    for record in records:
        findings += [f"{record.run_id}, attempt {record.attempt}: {what}" for what in _record(root, record)]
    findings += _comparisons(records, judgement)
    findings += _verdicts(judgement)
    return findings


def _near(claimed: float | None, derived: float | None) -> bool:
    if claimed is None or derived is None:
        return claimed is derived
    return math.isclose(claimed, derived, rel_tol=TOLERANCE, abs_tol=1e-12)


def _differs(what: str, claimed: float | None, derived: float | None, unit: str) -> Iterator[str]:
    if not _near(claimed, derived):
        yield f"{what} is recorded as {_text(claimed, unit)}, {_text(derived, unit)} follow"


def _text(value: float | None, unit: str) -> str:
    return "not known" if value is None else f"{value:.12g} {unit}".strip()


# One record


def _record(root: Path, record: Record) -> Iterator[str]:
    if not has_own_id(record):
        yield f"its specification has the id {record.spec.run_id}"
    yield from _headline(record)
    yield from _curve(record)
    yield from _per_step(record)
    yield from _flops(record)
    yield from _files(root, record)


def has_own_id(record: Record) -> bool:
    """Whether its id is that of its specification, as this code knows it or as it was written.

    A key that came later has its default in older records, and was no part of their id.
    """
    spec = record.spec
    written = digest(spec.model_dump(mode="json", exclude_unset=True))
    return record.run_id in {spec.run_id, f"{spec.run_id.rpartition('-')[0]}-{written}"}


def _joules(windows: Sequence[float | None]) -> float | None:
    known = [joules for joules in windows if joules is not None]
    return math.fsum(known) if len(known) == len(windows) else None


def _headline(record: Record) -> Iterator[str]:
    if not record.ok or record.spec.protocol.value == "count":
        return
    charged = [w for w in record.windows if w.kind.value in CHARGED]
    if not charged:
        yield "it ended well but has no charged window"
        return
    claimed = record.energy.joules if record.energy is not None else None
    yield from _differs("energy", claimed, _joules([w.energy.joules for w in charged]), "J")
    yield from _differs("time", record.seconds, math.fsum(w.end_s - w.start_s for w in charged), "s")
    for before, after in zip(record.windows, record.windows[1:], strict=False):
        if after.start_s < before.end_s - 1e-9:
            yield f"windows overlap at {after.start_s:.6f} s: joules would count twice"


def _curve(record: Record) -> Iterator[str]:
    """Each point's joules are those of the charged windows up to its step, some probe included or not."""
    charged = [w for w in record.windows if w.kind.value in CHARGED]
    for point in record.curve:
        if point.energy_j is None or not charged:
            continue
        steps, so_far, joules = 0, [], 0.0
        for window in charged:
            steps += window.steps
            joules += window.energy.joules or 0.0
            if steps == point.step:
                so_far.append(joules)
        if not any(math.isclose(point.energy_j, j, rel_tol=1e-6) for j in so_far):
            derived = so_far[0] if so_far else None
            yield from _differs(f"learning curve at step {point.step}: energy", point.energy_j, derived, "J")


def _per_step(record: Record) -> Iterator[str]:
    """Steady protocol: (steps of each phase x joules of a step + probes x joules of a probe) / steps."""
    if record.energy_per_step is None:
        return
    total: float | None = 0.0
    for index, phase in enumerate(record.spec.phases):
        for kind, times in (("train", phase.steps), ("probe", phase.probes)):
            if not times or total is None:
                continue
            window = next((w for w in record.windows if w.kind.value == kind and w.phase == index), None)
            if window is None or window.energy.joules is None:
                total = None
                continue
            total += times * window.energy.joules / (window.steps if kind == "train" else 1)
    derived = None if total is None else total / record.spec.recipe.steps
    yield from _differs("energy of a step", record.energy_per_step.joules, derived, "J")


def _flops(record: Record) -> Iterator[str]:
    flops, phases = record.flops, record.spec.phases
    if flops is None:
        return
    if not len(flops.per_step) == len(flops.per_probe) == len(phases):
        yield f"FLOPs are counted for {len(flops.per_step)} phases, the schedule has {len(phases)}"
        return
    derived = math.fsum(
        phase.steps * step + phase.probes * probe
        for phase, step, probe in zip(phases, flops.per_step, flops.per_probe, strict=True)
    )
    yield from _differs("FLOPs", flops.total, derived, "FLOPs")


# Raw files


def _files(root: Path, record: Record) -> Iterator[str]:
    """From raw files that are what the record says they are; ``files`` names those that are not."""
    samples, events = record.samples, record.events
    if samples is not None and events is not None and _is_whole(root, samples) and _is_whole(root, events):
        yield from _from_samples(root, record, samples, events)


def _is_whole(root: Path, file: SamplesFile) -> bool:
    path = root / file.path
    if not path.is_file():
        return False
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest() == file.sha256


def _from_samples(root: Path, record: Record, samples: SamplesFile, events: SamplesFile) -> Iterator[str]:
    """Every window's joules once more from the raw readings."""
    try:
        recording = samples_format.read(root / samples.path)
    except UserError as error:
        yield str(error)
        return
    if len(recording.samples) != samples.count:
        yield f"samples file {samples.path} holds {len(recording.samples)} samples, {samples.count} are recorded"
    said = list(_windows(root / events.path))
    if len(said) != len(record.windows):
        yield f"events file {events.path} holds {len(said)} windows, {len(record.windows)} are recorded"
        return
    spans = [(window.start_ns, window.end_ns) for window in said]
    energies = windows_energy(recording.info, believable(recording.info, recording.samples, spans)[0], spans)
    for event, window, energy in zip(said, record.windows, energies, strict=True):
        name = f"{window.kind.value} window at {window.start_s:.3f} s"
        if event.kind != window.kind or event.steps != window.steps or event.phase != window.phase:
            yield f"{name}: the events file says {event.kind.value}, phase {event.phase}, {event.steps} steps"
        yield from _differs(f"{name}: energy from raw samples", window.energy.joules, energy.joules, "J")
        length = (event.end_ns - event.start_ns) / 1e9
        if not math.isclose(window.end_s - window.start_s, length, rel_tol=1e-6, abs_tol=1e-6):
            yield f"{name}: is recorded as {window.end_s - window.start_s:.9f} s long, {length:.9f} s follow"


def _windows(path: Path) -> Iterator[Window]:
    for line in path.read_bytes().splitlines():
        try:
            event = parse(line)
        except ValidationError:
            continue  # a torn last line of a run that was killed
        if isinstance(event, Window):
            yield event


# Comparisons


def _last_good(records: Sequence[Record]) -> list[Record]:
    last: dict[str, Record] = {}
    for record in sorted(records, key=lambda r: r.attempt):
        if record.status.value == "ok":
            last[record.run_id] = record
    return list(last.values())


def _comparisons(records: Sequence[Record], judgement: Judgement) -> Iterator[str]:
    good = _last_good(records)
    bases = {r.block_id: r for r in good if r.spec.arm == judgement.baseline}
    expected: dict[tuple[str, str, str, str], list[tuple[Record, Record]]] = {}
    for record in good:
        if record.spec.arm != judgement.baseline and record.block_id in bases:
            key = (record.spec.arm, record.spec.size, record.spec.protocol.value, _levels(record.spec.levels))
            expected.setdefault(key, []).append((bases[record.block_id], record))
    claimed = {(c.arm, c.size, str(c.protocol), _levels(c.levels)): c for c in judgement.comparisons}
    for key in sorted(expected.keys() | claimed.keys()):
        name = f"{key[0]} at {key[1]} ({', '.join(filter(None, key[2:]))})"
        comparison, pairs = claimed.get(key), expected.get(key, [])
        if comparison is None:
            yield f"{name}: {len(pairs)} pairs in the records, no comparison in the judgement"
        elif comparison.invalid_scope != "all":
            yield from (f"{name}: {what}" for what in _comparison(comparison, pairs))


def _levels(levels: Mapping[str, object]) -> str:
    return ", ".join(f"{factor} {levels[factor]}" for factor in sorted(levels))


def _comparison(comparison: Comparison, pairs: Sequence[tuple[Record, Record]]) -> Iterator[str]:
    listed = {(row.base_run, row.arm_run) for row in comparison.pairs}
    there = {(base.run_id, run.run_id) for base, run in pairs}
    for base, run in sorted(there - listed):
        yield f"the pair {base}, {run} is left out"
    for base, run in sorted(listed - there):
        yield f"the pair {base}, {run} is not in the records"
    for base_record, run_record in pairs:
        one = (base_record.fingerprint_id, base_record.device_id) == (run_record.fingerprint_id, run_record.device_id)
        if not one and comparison.protocol != "count":
            yield f"{run_record.run_id} and {base_record.run_id} are not from one machine and card"
    steady = comparison.protocol == "steady"
    for what, estimate, values in (
        ("energy", comparison.saving, [_ratio(_energy(b, steady), _energy(r, steady)) for b, r in pairs]),
        ("time", comparison.time_saving, [_ratio(_time(b, steady), _time(r, steady)) for b, r in pairs]),
        ("FLOPs", comparison.flops_saving, [_ratio(_count(b, steady), _count(r, steady)) for b, r in pairs]),
    ):
        known = [math.log(value) for value in values if value is not None]
        yield from _estimate(f"saving of {what}", estimate, known, saving=True)
    for name, estimate in comparison.quality.items():
        differences = [r.quality[name] - b.quality[name] for b, r in pairs if name in r.quality and name in b.quality]
        yield from _estimate(f"difference in {name}", estimate, differences, saving=False)


def _energy(record: Record, steady: bool) -> float | None:
    energy = record.energy_per_step if steady else record.energy
    return None if energy is None else energy.joules


def _time(record: Record, steady: bool) -> float | None:
    return record.seconds_per_step if steady else record.seconds


def _count(record: Record, steady: bool) -> float | None:
    if record.flops is None:
        return None
    return record.flops.total / record.spec.recipe.steps if steady else record.flops.total


def _ratio(base: float | None, run: float | None) -> float | None:
    return None if base is None or run is None or base <= 0 or run <= 0 else run / base


def _estimate(what: str, claimed: Estimate | None, values: Sequence[float], *, saving: bool) -> Iterator[str]:
    if claimed is None or not values:
        if claimed is not None or values:
            yield f"{what}: {len(values)} pairs, but the judgement has {'none' if claimed is None else 'a value'}"
        return
    n = len(values)
    centre = math.fsum(values) / n
    low = high = None
    if n > 1:
        from scipy.special import stdtrit

        error = math.sqrt(math.fsum((v - centre) ** 2 for v in values) / (n - 1) / n)
        half = float(stdtrit(n - 1, 0.5 + claimed.level / 2)) * error
        low, high = centre - half, centre + half
    if saving:
        centre = 1 - math.exp(centre)
        low, high = (None if high is None else 1 - math.exp(high)), (None if low is None else 1 - math.exp(low))
    if claimed.n != n:
        yield f"{what}: n is given as {claimed.n}, there are {n} pairs"
    for end, mine, derived in (
        ("", claimed.value, centre),
        (", low", claimed.low, low),
        (", high", claimed.high, high),
    ):
        if mine is None or derived is None:
            if mine is not derived:
                yield f"{what}{end}: is given as {_text(mine, '')}, {_text(derived, '')} follows"
        elif not math.isclose(mine, derived, rel_tol=1e-7, abs_tol=1e-9):
            yield f"{what}{end}: is given as {mine:.9g}, {derived:.9g} follows"


# Verdicts


def _verdicts(judgement: Judgement) -> Iterator[str]:
    """What no verdict may be, whatever led to it."""
    for verdict in judgement.verdicts:
        claim = verdict.claim
        if verdict.status is not VerdictStatus.VERIFIED:
            continue
        used = [c for c in judgement.comparisons if c.arm == verdict.arm and c.protocol == claim.protocol]
        used = [c for c in used if claim.min_parameters is None or c.parameters > claim.min_parameters]
        used = [c for c in used if claim.max_parameters is None or c.parameters < claim.max_parameters]
        name = f"claim {claim.id} is called verified"
        if claim.metric in {"energy_saving", "energy_saving_slope"}:
            soft = {c.saving.basis for c in used if c.saving} - {Basis.MEASURED}
            if soft or not used:
                yield f"{name} on energy that is {', '.join(sorted(b.value for b in soft)) or 'not there'}"
        if claim.metric == "energy_saving" and claim.at_least is not None:
            savings = [c.saving.value for c in used if c.saving is not None]
            if savings and math.fsum(savings) / len(savings) < claim.at_least:
                yield f"{name}, but the mean saving is {math.fsum(savings) / len(savings):.4f}"
        if any(check.outcome == "not met" for check in verdict.checks if check.what.startswith(f"{verdict.arm}:")):
            yield f"{name} with a condition that is not met"
        if any(c.invalid for c in used) and claim.metric == "energy_saving":
            yield f"{name} on an invalid comparison"
