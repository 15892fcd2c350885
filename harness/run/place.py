"""Where the runs of a set were made, and which blocks may go on here. Pure.

A block is never split over machines or cards: its pairs would compare them. A set may hold blocks of several, when
whoever runs it says so, because each pair is of one place all the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from harness.record.record import Record
from harness.suite.spec import Block

Place = tuple[str, str]  # fingerprint of the machine, its device


def of_record(record: Record) -> Place | None:
    """Where a good run was made; ``None`` where that does not matter, as for counted FLOPs."""
    return None if not record.ok or record.device_id == "none" else (record.fingerprint_id, record.device_id)


def others(records: Iterable[Record], here: Place) -> list[Record]:
    """Good runs that were made elsewhere."""
    return [record for record in records if of_record(record) not in (None, here)]


def open_here(blocks: Sequence[Block], records: Iterable[Record], here: Place) -> tuple[Block, ...]:
    """Blocks without a good run made elsewhere: new ones, and those that were begun here."""
    elsewhere = {record.block_id for record in others(records, here)}
    return tuple(block for block in blocks if block.block_id not in elsewhere)


def told(record: Record, device: str) -> str:
    """How the place of ``record`` differs from this one, for people."""
    if record.device_id != device:
        return f"on {record.fingerprint.get('gpu', 'the card' if record.device_id != 'cpu' else 'a processor')} " + (
            f"({record.device_id}), here is {device}"
        )
    return "on another machine, or with other versions of its packages"
