"""A table that another program writes: CSV with a heading, followed as it grows.

The delimiter is what the heading holds most of (``,`` ``;`` or a tab); lines that begin with ``#`` are
skipped; an unfinished last line is left until it is finished. Energy columns are counters, never amounts per
row. A file that shrinks or is replaced is *gone* once, and is followed again if its heading is the same.
"""

from __future__ import annotations

import csv
import math
import os
import time
from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import BinaryIO
from zoneinfo import ZoneInfo

from harness.meter.base import Quantity
from harness.meter.external.options import Options, TimeColumn, Wanted
from harness.meter.external.source import GoneError, Reading, Source, Stream
from harness.meter.external.units import KNOWN, unit_in
from harness.meter.track import NS
from harness.types import UserError

TAIL_BYTES = 64 * 1024
"""So much of an old file is looked at for its period and resolution."""
TIME_NAMES = {"time", "timestamp", "ts", "datetime", "date", "utc", "unix", "unixtime", "epoch", "datetimeutc"}
_FACTORS = {"s": NS, "ms": 1_000_000, "us": 1000, "ns": 1}
_LEAST_UNIX = 1e8  # seconds; 1973: smaller numbers count from somewhere else


class TableSource(Source):
    """One CSV file."""

    stamped = True

    def __init__(self, options: Options) -> None:
        self._options = options
        self._path = Path(options.source)
        self._file: BinaryIO | None = None
        self._inode = 0
        self._pending = b""
        self._heading: list[str] = []
        self._delimiter = ","
        self._time = TimeColumn(column="")
        self._time_index = 0
        self._columns: list[tuple[int, float]] = []  # index and factor of each stream

    def open(self, device: str | None) -> list[Reading]:
        """Read heading and tail; see :class:`Source`."""
        self._heading = self._start()
        self._find_time()
        self._find_streams()
        assert self._file is not None
        start = self._file.tell()
        size = self._file.seek(0, os.SEEK_END)
        self._file.seek(max(start, size - TAIL_BYTES))
        if self._file.tell() > start:
            self._file.readline()
        rows = [self._cells(line) for line in self._lines()]
        readings = [self._reading(row, None) for row in rows]
        stamps = [reading.stamp_ns for reading in readings if reading.stamp_ns is not None]
        steps = [b - a for a, b in pairwise(stamps) if b > a]
        self.period_s = median(steps) / NS if steps else None
        if len(stamps) > 2 and all(stamp % NS == 0 for stamp in stamps):
            self.stamp_step_s = 1.0
        self.streams = tuple(self._with_quantum(i, stream, rows) for i, stream in enumerate(self.streams))
        self._check_counters(readings)
        return readings

    def poll(self) -> list[Reading]:
        """Rows that were finished since; see :class:`Source`."""
        try:
            status = os.stat(self._path)
        except OSError as error:
            raise GoneError(str(error)) from error
        if self._file is None or status.st_ino != self._inode or status.st_size < self._file.tell():
            self.close()
            try:
                heading = self._start()
            except UserError as error:
                raise GoneError(str(error)) from error
            if heading != self._heading:
                self.close()
                raise GoneError(f"{self._path}: its heading is another one now")
            raise GoneError(f"{self._path} was replaced or cut")
        arrived_ns = time.monotonic_ns()
        return [self._reading(self._cells(line), arrived_ns) for line in self._lines()]

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
            self._file = None
        self._pending = b""

    def _start(self) -> list[str]:
        """Open the file and read its heading."""
        try:
            self._file = self._path.open("rb")
        except OSError as error:
            raise UserError(f"meter 'external': {self._path} can't be read: {error}") from error
        self._inode = os.fstat(self._file.fileno()).st_ino
        for line in self._file:
            text = line.decode("utf-8-sig", errors="replace").strip()
            if not line.endswith(b"\n") or not text or text.startswith("#"):
                continue
            self._delimiter = max(",;\t", key=text.count)
            heading = [cell.strip() for cell in self._cells(text)]
            if all(_number(cell, self._delimiter) is not None for cell in heading):
                raise UserError(
                    f"{self._path}: has no heading: its first line is {text[:80]!r}; name the columns in it"
                )
            return heading
        raise UserError(f"{self._path}: has no finished first line with the names of its columns yet")

    def _lines(self) -> list[str]:
        assert self._file is not None
        *lines, self._pending = (self._pending + self._file.read()).split(b"\n")
        texts = [line.decode("utf-8", errors="replace").strip() for line in lines]
        return [text for text in texts if text and not text.startswith("#")]

    def _cells(self, line: str) -> list[str]:
        return next(csv.reader([line], delimiter=self._delimiter), [])

    def _find_time(self) -> None:
        wanted = self._options.time
        if wanted is not None:
            self._time, self._time_index = wanted, self._index(wanted.column)
            return
        found = []
        for i, name in enumerate(self._heading):
            words = name.lower().replace("-", "_").replace(" ", "_").split("_")
            unit = words.pop() if words[-1] in _FACTORS and len(words) > 1 else None
            if "".join(words) in TIME_NAMES or (unit and words[0] in TIME_NAMES):
                found.append((i, unit))
        if not found:
            raise UserError(f"{self._path}: no column of times among {self._seen()}; say time: {{column: NAME}}")
        self._time_index, unit = found[0]
        name = self._heading[self._time_index]
        self._time = TimeColumn.model_validate({"column": name, "unit": unit})

    def _find_streams(self) -> None:
        options = self._options
        if options.channels:
            wanted = [(self._index(w.column or ""), w) for w in options.channels]
        else:
            wanted = [
                (i, Wanted(column=name))
                for i, name in enumerate(self._heading)
                if i != self._time_index and unit_in(name) is not None
            ]
            kinds = [unit_in(self._heading[i]) for i, _ in wanted]
            if not wanted:
                raise UserError(
                    f"{self._path}: no column names a unit of power or energy among {self._seen()}; "
                    f"say channels: [{{column: NAME, unit: UNIT}}] in an options file. Units: {KNOWN}"
                )
            quantities = [kind.quantity for kind in kinds if kind is not None]
            if len(set(quantities)) < len(quantities):
                raise UserError(
                    f"{self._path}: several columns of one kind ({', '.join(self._heading[i] for i, _ in wanted)}): "
                    "say which with channels: [{column: NAME}] in an options file"
                )
        streams = []
        for i, one in wanted:
            unit = one.resolved(unit_in(self._heading[i]))
            if unit is None:
                raise UserError(f"{self._path}: column {self._heading[i]!r} names no unit: say unit. Known: {KNOWN}")
            self._columns.append((i, unit.factor))
            streams.append(
                Stream(
                    name=self._heading[i],
                    quantity=unit.quantity,
                    device=one.device or options.device or self._path.stem,
                    scope=one.scope or options.scope or "external",
                    quantum=(one.resolution or 0.0) * unit.factor,
                )
            )
        self.streams = tuple(streams)
        self.title = f"{self._path.name} ({', '.join(stream.name for stream in streams)})"

    def _with_quantum(self, i: int, stream: Stream, rows: Sequence[Sequence[str]]) -> Stream:
        """A counter's step, where not stated: the last decimal that was ever written."""
        column, factor = self._columns[i]
        cells = [row[column].strip() for row in rows if column < len(row)]
        texts = [cell for cell in cells if _number(cell, self._delimiter) is not None]
        if (
            stream.quantum
            or stream.quantity is not Quantity.ENERGY_J
            or not texts
            or any("e" in t.lower() for t in texts)
        ):
            return stream
        decimals = max(len(text.replace(",", ".").partition(".")[2]) for text in texts)
        self.assumptions += (f"{stream.name}: steps of {10.0**-decimals * factor:g} J, by its decimals",)
        return Stream(stream.name, stream.quantity, stream.device, stream.scope, 10.0**-decimals * factor)

    def _check_counters(self, readings: Sequence[Reading]) -> None:
        for i, stream in enumerate(self.streams):
            values = [value for reading in readings if (value := reading.values[i]) is not None]
            falls = sum(b < a for a, b in pairwise(values))
            if stream.quantity is Quantity.ENERGY_J and len(values) > 4 and falls > len(values) / 4:
                raise UserError(
                    f"{self._path}: {stream.name} falls {falls} times in {len(values)} rows: a counter is needed, "
                    "not the energy of each row"
                )

    def _reading(self, row: Sequence[str], arrived_ns: int | None) -> Reading:
        stamp_ns = self._stamp(row[self._time_index].strip()) if self._time_index < len(row) else None
        values = []
        for column, factor in self._columns:
            number = _number(row[column].strip(), self._delimiter) if column < len(row) else None
            values.append(None if number is None or number < 0 else number * factor)
        return Reading(stamp_ns, arrived_ns, tuple(values))

    def _stamp(self, text: str) -> int | None:
        """Unix nanoseconds, ``None`` if it can't be read."""
        number = None if self._time.unit == "iso" else _number(text, self._delimiter)
        if number is not None:
            unit = self._time.unit or _unit_of_size(number)
            if unit is None or number * _FACTORS[unit] < _LEAST_UNIX * NS:
                raise UserError(
                    f"{self._path}: {self._time.column} {text!r} is no Unix time: times since the start of something "
                    "can't be placed on this machine's clock"
                )
            return round(Decimal(text.replace(",", ".")) * _FACTORS[unit])  # a float's seconds are good to 0.2 us
        try:
            moment = datetime.fromisoformat(text)
        except ValueError:
            return None
        if moment.tzinfo is None:
            if self._options.timezone is None:
                raise UserError(
                    f"{self._path}: {self._time.column} {text!r} has no time zone: write it with Z or +hh:mm, or say "
                    "timezone: Area/City in an options file"
                )
            moment = moment.replace(tzinfo=ZoneInfo(self._options.timezone))
        return round(moment.timestamp() * 1e6) * 1000

    def _index(self, column: str) -> int:
        if column not in self._heading:
            raise UserError(f"{self._path}: no column {column!r}; it has {self._seen()}")
        return self._heading.index(column)

    def _seen(self) -> str:
        return ", ".join(repr(name) for name in self._heading)


def _unit_of_size(number: float) -> str | None:
    """Unix times of our century are told apart by their size."""
    for unit, least in (("ns", 1e17), ("us", 1e14), ("ms", 1e11), ("s", _LEAST_UNIX)):
        if number >= least:
            return unit
    return None


def _number(text: str, delimiter: str) -> float | None:
    """A finite number; with a decimal comma where the comma is no delimiter."""
    if delimiter != "," and "." not in text:
        text = text.replace(",", ".", 1)
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None
