"""The seam of external sources: what a table or an endpoint gives, in watts and joules, with its own times."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

from harness.meter.base import Quantity


class GoneError(Exception):
    """The source is no longer there: nothing joins what came before with what comes after."""


class SilentError(Exception):
    """The source gave nothing this time."""


@dataclass(frozen=True, slots=True)
class Stream:
    """One stream of numbers of a source."""

    name: str  # unique within the source
    quantity: Quantity
    device: str
    scope: str
    quantum: float = 0.0  # W or J; 0: not known


@dataclass(frozen=True, slots=True)
class Reading:
    """One row or one scrape: a value in W or J for each stream, ``None`` where it gave none.

    ``stamp_ns`` is the source's Unix time, ``None`` if it gives none or one that can't be read; ``arrived_ns``
    is our monotonic time, ``None`` for what was there before anyone looked.
    """

    stamp_ns: int | None
    arrived_ns: int | None
    values: tuple[float | None, ...]


class Source(ABC):
    """One source. ``open`` settles the streams; ``poll`` gives what is new since."""

    title: str  # for people: where it is and what is read of it
    streams: tuple[Stream, ...]
    stamped: bool  # whether readings carry the source's own times
    period_s: float | None = None  # between readings, as seen so far
    stamp_step_s: float = 0.0  # stamps are whole multiples of this
    assumptions: tuple[str, ...] = ()

    @abstractmethod
    def open(self, device: str | None) -> list[Reading]:
        """Find the streams; the readings that are there already, the newest last. ``device`` is a GPU UUID.

        Raises:
            UserError: what is wrong with it and what was seen instead.
        """

    @abstractmethod
    def poll(self) -> list[Reading]:
        """New readings.

        Raises:
            GoneError, SilentError: see there.
            UserError: its times turn out to be of no use.
        """

    @abstractmethod
    def close(self) -> None:
        """Let go of it."""
