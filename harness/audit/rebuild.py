"""A record put together again from its raw files by the code that made it, to be compared byte by byte."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

from pydantic import ValidationError

from harness.audit.arithmetic import has_own_id
from harness.audit.differ import differences
from harness.audit.files import inside
from harness.meter.base import Calibration, MeterInfo, Sample
from harness.meter.calibration import calibrate
from harness.meter.energy import idle_power
from harness.meter.samples import Recording, read
from harness.record.assemble import Attempt, assemble
from harness.record.ledger import Ledger, sha256_of
from harness.record.record import Record
from harness.run.events import Event, parse
from harness.types import UserError, canonical_json


def rebuilt(ledger: Ledger, record: Record) -> Record:
    """The record that its raw files give. What raw files can't say is taken from the record: its specification,
    its place in the block, the machine, how its process ended, and what the sampler cost.

    Raises:
        ValueError: the record was made before ``ended`` was kept.
        OSError, UserError, pydantic.ValidationError: a raw file is missing or can't be read.
    """
    if record.ended is None:
        raise ValueError("how the process ended is not recorded")
    info: MeterInfo | None = None
    samples: tuple[Sample, ...] = ()
    samples_file = None
    if record.samples is not None:
        path = ledger.root / record.samples.path
        if record.meter is not None:
            recording = read(path)
            info, samples = recording.info, recording.samples
        samples_file = ledger.file_reference(path, len(samples))
    events: list[Event] = []
    events_file = None
    if record.events is not None:
        path = ledger.root / record.events.path
        content = path.read_bytes()
        events = [parse(line) for line in content[: content.rfind(b"\n") + 1].splitlines()]
        events_file = ledger.file_reference(path, len(events))
    idle_w, idle = None, record.idle
    if idle is not None:
        path = ledger.root / idle.samples.path
        rest = _shared(path, sha256_of(path))
        idle_w = idle_power(rest.info, rest.samples, idle.start_ns, idle.end_ns)
        idle = idle.model_copy(update={"samples": ledger.file_reference(path, len(rest.samples))})
    calibration = record.calibration
    if calibration is not None:
        path = ledger.root / calibration.path
        calibration = ledger.file_reference(path, len(_shared(path, sha256_of(path)).samples))
    attempt = Attempt(
        spec=record.spec,
        block_id=record.block_id,
        position=record.position,
        number=record.attempt,
        fingerprint=record.fingerprint,
        fingerprint_id=record.fingerprint_id,
        status=record.ended.status,
        reason=record.ended.reason,
        idle_power_w=idle_w,
        meter_problem=record.ended.meter_problem,
        idle=idle,
        calibration=calibration,
        sampler_cpu_share=record.conditions.get("sampler_cpu_share"),
    )
    derived = assemble(attempt, events, info, samples, samples_file, events_file)
    return derived.model_copy(update={"run_id": record.run_id}) if has_own_id(record) else derived


def record_differences(ledger: Ledger, record: Record, line: bytes) -> Iterator[str]:
    """Where the line of records.jsonl is not, byte by byte, what the raw files give."""
    outside = [file.path for file in record.files if not inside(ledger.root, file.path)]
    if outside:
        yield f"can't be put together again: {outside[0]} lies outside the result set"
        return
    try:
        derived = rebuilt(ledger, record)
        calibration = list(_calibration(ledger, record))
    except ValidationError as error:
        yield f"can't be put together again: its events can't be read ({error.errors()[0]['msg']})"
        return
    except (OSError, UserError, ValueError, LookupError, StopIteration) as error:
        yield f"can't be put together again from its raw files: {error}"
        return
    if canonical_json(json.loads(line)).encode() != line:
        yield "the line in records.jsonl is not in canonical form: it was rewritten"
    if canonical_json(derived) != canonical_json(record):  # a key that came after the line was written: its default
        yield from differences(record.model_dump(mode="json"), derived.model_dump(mode="json"), "the record says")
    yield from calibration
    if record.samples is not None and record.meter is not None and record.ended is not None:
        torn = read(ledger.root / record.samples.path).torn
        if torn and not record.ended.meter_problem and record.ok:
            yield f"{record.samples.path} is torn, and the record names no problem of the meter"


def _calibration(ledger: Ledger, record: Record) -> Iterator[str]:
    """What the record's meter is said to have shown follows from the polls that are kept."""
    claimed = record.meter.calibration if record.meter is not None else None
    if claimed is None:
        return
    if record.calibration is None:
        yield "its meter was calibrated, but the polls were not kept"
        return
    path = ledger.root / record.calibration.path
    derived = _shown(path, sha256_of(path)).model_copy(
        update={"read_s": claimed.read_s, "read_cpu_s": claimed.read_cpu_s}  # of what it cost no file tells
    )
    mine, yours = claimed.model_dump(mode="json"), derived.model_dump(mode="json")
    for difference in differences(mine, yours, "the record says"):
        yield f"meter.calibration.{difference}"


@lru_cache(maxsize=4)
def _shared(path: Path, sha256: str) -> Recording:
    """A file that several records refer to, read once; its sum is part of the key."""
    return read(path)


@lru_cache(maxsize=4)
def _shown(path: Path, sha256: str) -> Calibration:
    """What the polls in a file show."""
    recording = _shared(path, sha256)
    return calibrate(recording.info, recording.samples, read_s=0.0, read_cpu_s=0.0)
