"""Where the runs of a set were made, and which blocks may go on here. Pure.

A block is never split over machines or cards: its pairs would compare them. A set may hold blocks of several, when
whoever runs it says so, because each pair is of one place all the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from harness.record.record import Record
from harness.suite.spec import Block
from harness.types import Basis

Place = tuple[str, str, tuple[str, ...]]  # fingerprint of the machine, its device, the made-up cards


def of_record(record: Record) -> Place | None:
    """Where a good run was made; ``None`` where that does not matter, as for counted FLOPs."""
    if not record.ok or record.device_id == "none":
        return None
    return record.fingerprint_id, record.device_id, _made_up(record)


def _made_up(record: Record) -> tuple[str, ...]:
    """The simulated cards that a run was metered by: the training itself was on the machine's own device."""
    if record.meter is None or record.meter.basis is not Basis.SIMULATED:
        return ()
    return tuple(sorted({channel.device for channel in record.meter.channels}))


def others(records: Iterable[Record], here: Place) -> list[Record]:
    """Good runs that were made elsewhere."""
    return [record for record in records if of_record(record) not in (None, here)]


def open_here(blocks: Sequence[Block], records: Iterable[Record], here: Place) -> tuple[Block, ...]:
    """Blocks without a good run made elsewhere: new ones, and those that were begun here."""
    elsewhere = {record.block_id for record in others(records, here)}
    return tuple(block for block in blocks if block.block_id not in elsewhere)


def told(record: Record, here: Place) -> str:
    """How the place of ``record`` differs from this one, for people."""
    _, device, cards = here
    if record.device_id != device:
        return f"on {record.fingerprint.get('gpu', 'another card')} ({record.device_id}), here is {device}"
    if _made_up(record) != cards:
        return f"under {', '.join(_made_up(record)) or 'no simulated card'}, here is {', '.join(cards) or 'none'}"
    return "on another machine, or with other versions of its packages"
