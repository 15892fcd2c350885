"""The samples file: every raw reading of a run, compact, append-only, readable with ``zcat``.

The file is one gzip stream of text lines. Line 1 is JSON: format, version and the :class:`MeterInfo`. Every
further line is one *read*, the samples that share an ``at_ns``::

    <time> <sample> <sample> ...

* ``<time>``: microseconds since the read before (the first: since 0), with three decimals where the
  nanoseconds are not whole microseconds.
* ``<sample>``: ``[channel:]value[@sensor]``. The channel is left out if it is the one after its
  neighbour's (0 at the start of a line). ``value`` is the difference to the channel's last good value in
  multiples of the channel's ``quantum``, or ``=`` and the shortest exact decimal where the value is no such
  multiple, or a letter for a status that has no value: ``m`` missing, ``u`` unsupported, ``d`` denied,
  ``l`` lost. ``sensor`` is the driver's timestamp, microseconds since that channel's last one; nothing where it
  is the timestamp of the neighbour before. (Version 1, still read, has no such shorthand.)

The last line is ``end <number of samples>``. Nothing is rounded: what is read is what was written, and the
same samples give the same bytes. Differences of differences would save little: what is left is jitter.

Size, measured in ``tests/meter/test_samples.py``: about 38 bits per sample for a CPU-seconds channel and 10
bits per sample for an NVML card with energy, two powers and five throttle counters, driver timestamps
included (14 in version 1). Ten seconds at 20 Hz are 1.3 kB and 2.5 kB with the header.
"""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import IO

from pydantic import ValidationError

from harness.meter.base import MeterInfo, ReadStatus, Sample
from harness.types import UserError, canonical_json

FORMAT = "harness-samples"
VERSION = 2
READABLE = (1, 2)
SYNC_READS = 100
"""So many reads are encoded, compressed and written together, which costs a third of one by one: between two reads
the sampler sleeps, and whatever it does after that it does slowly. Killed at once it loses at most these (5 s at
20 Hz)."""

_LETTERS = {
    ReadStatus.MISSING: "m",
    ReadStatus.UNSUPPORTED: "u",
    ReadStatus.DENIED: "d",
    ReadStatus.LOST: "l",
}
_STATUSES = {letter: status for status, letter in _LETTERS.items()}
_GZIP = 31  # zlib's window bits for a gzip stream; its header carries no time


@dataclass(frozen=True, slots=True)
class Recording:
    """A samples file as read. ``torn`` names the file and what is wrong with its tail; empty if whole."""

    info: MeterInfo
    samples: tuple[Sample, ...]
    torn: str = ""


class SamplesWriter:
    """Appends reads to a new samples file, :data:`SYNC_READS` at once.

    Use as a context manager or call :meth:`close`.

    Raises:
        FileExistsError: raw samples are never overwritten.
    """

    def __init__(self, path: Path, info: MeterInfo) -> None:
        self.path = path
        self.count = 0
        self._info = info
        self._file: IO[bytes] = path.open("xb")
        self._zip = zlib.compressobj(9, zlib.DEFLATED, _GZIP)
        self._reads: list[list[Sample]] = []
        self._at_ns = 0
        self._quanta = [channel.quantum or 1.0 for channel in info.channels]
        self._values = [math.nan] * len(info.channels)  # the last good ones as they came; at first none is equal
        self._units = [0] * len(info.channels)  # the last good ones that were multiples of the quantum
        self._sensor_ns = [0] * len(info.channels)
        header = {"format": FORMAT, "version": VERSION, "meter": info.model_dump(mode="json")}
        self._flush(zlib.Z_SYNC_FLUSH, canonical_json(header))

    def append(self, samples: Iterable[Sample]) -> None:
        """One round of a meter's samples, in the meter's order."""
        read = list(samples)
        self._reads.append(read)
        self.count += len(read)
        if len(self._reads) == SYNC_READS:
            self._flush(zlib.Z_SYNC_FLUSH)

    def close(self) -> None:
        """Write the end mark and close; a second call does nothing."""
        if self._file.closed:
            return
        try:
            self._flush(zlib.Z_FINISH, f"end {self.count}")
        finally:
            self._file.close()

    def __enter__(self) -> SamplesWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _flush(self, mode: int, further: str = "") -> None:
        lines = [line for read in self._reads for line in self._encode(read)]
        self._reads.clear()
        text = "".join(f"{line}\n" for line in [*lines, *filter(None, [further])])
        self._file.write(self._zip.compress(text.encode()) + self._zip.flush(mode))
        self._file.flush()

    def _encode(self, samples: list[Sample]) -> Iterator[str]:
        """A line of text for each ``at_ns`` of a read."""
        words: list[str] = []
        line_ns, expected, neighbour_ns = None, 0, None
        for channel, at_ns, status, value, sensor_ns in samples:
            if at_ns != line_ns:
                if words:
                    yield " ".join(words)
                words = [_micros(at_ns - self._at_ns)]
                self._at_ns = line_ns = at_ns
                expected, neighbour_ns = 0, None
            if status is not ReadStatus.OK:
                word = _LETTERS[status]
            else:
                word = "0" if value == self._values[channel] else self._difference(channel, value)
            if channel != expected:
                word = f"{channel}:{word}"
            expected = channel + 1
            if sensor_ns is not None:
                same = sensor_ns == neighbour_ns
                word += "@" if same else f"@{_micros(sensor_ns - self._sensor_ns[channel])}"
                self._sensor_ns[channel] = neighbour_ns = sensor_ns
            words.append(word)
        if words:
            yield " ".join(words)

    def _difference(self, channel: int, value: float | None) -> str:
        if value is None:
            raise ValueError("a sample with status OK needs a value")
        quantum = self._quanta[channel]
        ratio = value / quantum
        if not abs(ratio) < 1 << 53 or round(ratio) * quantum != value:
            return f"={value!r}"
        units = round(ratio)
        difference = units - self._units[channel]
        self._units[channel] = units
        self._values[channel] = value
        return str(difference)


def write(path: Path, info: MeterInfo, samples: Iterable[Sample]) -> int:
    """Write a whole new file; returns the number of samples. Same samples, same bytes."""
    with SamplesWriter(path, info) as writer:
        for _, read in groupby(samples, key=lambda sample: sample.at_ns):
            writer.append(read)
    return writer.count


def read(path: Path) -> Recording:
    """Read a samples file, whole or torn.

    Everything before the damage is returned and :attr:`Recording.torn` says what follows it.

    Raises:
        UserError: not a samples file, or damaged before the first sample could be read.
    """
    text, damage = _unpack(path)
    lines = text.split("\n")
    if lines.pop():  # a whole line ends in a newline
        damage = damage or "its last line is cut"
    info = _header(path, lines[0] if lines else "")
    decoder = _Decoder(info)
    ended = False
    for number, line in enumerate(lines[1:], start=2):
        if ended:
            damage = f"line {number} follows the end mark"
            break
        try:
            if line.startswith("end "):
                ended = True
                if int(line[4:]) != len(decoder.samples):
                    damage = f"the end mark counts {line[4:]} samples, {len(decoder.samples)} are there"
            else:
                decoder.line(line)
        except (ValueError, KeyError, IndexError):
            damage = f"line {number} can't be read: {line[:60]!r}"
            break
    if not ended:
        damage = damage or "it has no end mark"
    torn = f"{path}: after {len(decoder.samples)} samples, {damage}" if damage else ""
    return Recording(info, tuple(decoder.samples), torn)


class _Decoder:
    def __init__(self, info: MeterInfo) -> None:
        self.samples: list[Sample] = []
        self._quanta = [channel.quantum or 1.0 for channel in info.channels]
        self._at_ns = 0
        self._units = [0] * len(info.channels)
        self._sensor_ns = [0] * len(info.channels)

    def line(self, line: str) -> None:
        """Decode one read; raises ``ValueError``, ``KeyError`` or ``IndexError``, and then keeps none of it."""
        time, *words = line.split(" ")
        self._at_ns += _nanos(time)
        channel, neighbour_ns = -1, None
        read = []
        for word in words:
            head, stamped, sensor = word.partition("@")
            named, colon, value = head.rpartition(":")
            channel = int(named) if colon else channel + 1
            if not 0 <= channel < len(self._quanta):
                raise IndexError(channel)
            sensor_ns = None
            if sensor:
                sensor_ns = self._sensor_ns[channel] + _nanos(sensor)
            elif stamped:
                if neighbour_ns is None:
                    raise ValueError(word)
                sensor_ns = neighbour_ns
            if sensor_ns is not None:
                self._sensor_ns[channel] = neighbour_ns = sensor_ns
            status, number = self._value(channel, value)
            read.append(Sample(channel, self._at_ns, status, number, sensor_ns))
        self.samples.extend(read)

    def _value(self, channel: int, word: str) -> tuple[ReadStatus, float | None]:
        if word.startswith("="):
            return ReadStatus.OK, float(word[1:])
        if word.isalpha():
            return _STATUSES[word], None
        self._units[channel] += int(word)
        return ReadStatus.OK, self._units[channel] * self._quanta[channel]


def _unpack(path: Path) -> tuple[str, str]:
    """Text as far as it can be had, and what stopped it."""
    unzip = zlib.decompressobj(_GZIP)
    data = path.read_bytes()
    if data[:2] != b"\x1f\x8b":
        raise UserError(f"{path}: not a samples file (no gzip stream)")
    pieces, damage = [], ""
    step = 512  # in small steps, so that what precedes the damage is kept
    for start in range(0, len(data), step):
        try:
            pieces.append(unzip.decompress(data[start : start + step]))
        except zlib.error as error:
            damage = f"the compressed stream is damaged near byte {start} ({error})"
            break
    else:
        if not unzip.eof:
            damage = f"the compressed stream is cut at byte {len(data)}"
        elif unzip.unused_data:
            damage = f"{len(unzip.unused_data)} bytes follow the end of the stream"
    return b"".join(pieces).decode(errors="replace"), damage


def _header(path: Path, line: str) -> MeterInfo:
    try:
        header = json.loads(line)
        if header["format"] != FORMAT:
            raise KeyError("format")
        version = header["version"]
        if version not in READABLE:
            raise UserError(
                f"{path}: samples format version {version}, this harness reads {' and '.join(map(str, READABLE))}"
            )
        return MeterInfo.model_validate(header["meter"])
    except (ValueError, KeyError, TypeError, ValidationError) as error:
        raise UserError(f"{path}: not a samples file, or damaged in its first line ({type(error).__name__})") from error


def _micros(ns: int) -> str:
    sign = "-" if ns < 0 else ""
    micros, rest = divmod(abs(ns), 1000)
    return f"{sign}{micros}.{rest:03d}" if rest else f"{sign}{micros}"


def _nanos(word: str) -> int:
    whole, dot, rest = word.partition(".")
    if dot and (len(rest) != 3 or not rest.isdigit()):
        raise ValueError(word)
    sign = -1 if whole.startswith("-") else 1
    return int(whole) * 1000 + sign * int(rest or 0)
