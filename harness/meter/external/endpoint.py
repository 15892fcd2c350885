"""A Prometheus endpoint on this machine: one scrape is one reading.

The text exposition is parsed by the official ``prometheus_client``; only lines of the metrics in use are given
to it, as exporters' pages may be long. Series without a timestamp of their own are taken to be of the middle of
the scrape.
"""

from __future__ import annotations

import http.client
import math
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from harness.meter.base import Quantity
from harness.meter.external.exporters import KNOWN, Known
from harness.meter.external.options import Options, Wanted
from harness.meter.external.source import GoneError, Reading, SilentError, Source, Stream
from harness.meter.external.units import Unit, unit_in
from harness.types import UserError

TIMEOUT_S = 1.0
MAX_BYTES = 32 << 20
SHOWN = 12
"""So many metrics are named in an error."""

INSTANCE = "GPU_I_ID"
"""DCGM's label of a MIG instance, whose figures are in its card's series too."""

Labels = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Point:
    """One series of a scrape."""

    metric: str
    labels: Labels
    value: float
    stamp_s: float | None


@dataclass(frozen=True, slots=True)
class _Line:
    """Which series make up one stream."""

    metric: str
    labels: Labels
    factor: float
    without: str = ""  # a label that marks parts of a device, which are in its own series too

    def of(self, points: Iterable[Point]) -> list[Point]:
        mine = [p for p in points if p.metric == self.metric and self.labels.items() <= p.labels.items()]
        return [p for p in mine if not p.labels.get(self.without)]


class EndpointSource(Source):
    """One endpoint."""

    def __init__(self, options: Options) -> None:
        self._options = options
        url = urlsplit(options.source)
        self._host, self._port = url.hostname or "localhost", url.port or 80
        self._path = (url.path or "/metrics") + (f"?{url.query}" if url.query else "")
        self._lines: list[_Line] = []
        self._names: tuple[str, ...] = ()
        self.stamped = False

    def open(self, device: str | None) -> list[Reading]:
        """Scrape once and settle the streams; see :class:`Source`."""
        try:
            text, _, _ = self._get()
        except (GoneError, SilentError) as error:
            raise UserError(f"{self._options.source} gives nothing: {error}") from error
        try:
            points = _parse(text)
        except ValueError as error:
            raise UserError(f"{self._options.source} is no Prometheus text: {error}") from error
        chosen = (
            [self._choose(wanted, points) for wanted in self._options.channels]
            if self._options.channels
            else self._known(points, device) or self._only(points)
        )
        self._lines = [line for line, _ in chosen]
        self.streams = tuple(stream for _, stream in chosen)
        self._names = tuple({line.metric for line in self._lines})
        self.stamped = all(p.stamp_s is not None for line in self._lines for p in line.of(points))
        self.title = f"{self._options.source} ({', '.join(stream.name for stream in self.streams)})"
        if not self.stamped:
            self.assumptions = ("values carry no time: they are taken to be of the middle of the scrape",)
        return []

    def poll(self) -> list[Reading]:
        """One scrape; see :class:`Source`."""
        text, sent_ns, arrived_ns = self._get()
        lines = (line for line in text.splitlines() if line.startswith(self._names))
        try:
            points = _parse("\n".join(lines))
        except ValueError as error:
            raise SilentError(f"no Prometheus text: {error}") from error
        mine = [line.of(points) for line in self._lines]
        stamps = [p.stamp_s for points in mine for p in points if p.stamp_s is not None]
        values = tuple(_total(line, found) for line, found in zip(self._lines, mine, strict=True))
        if not self.stamped:
            return [Reading(None, (sent_ns + arrived_ns) // 2, values)]
        return [Reading(round(max(stamps) * 1e3) * 1_000_000 if stamps else None, arrived_ns, values)]

    def close(self) -> None:
        """Every scrape has a connection of its own: nothing is open."""
        return

    def _get(self) -> tuple[str, int, int]:
        """The page, when it was asked for, and when it was there."""
        connection = http.client.HTTPConnection(self._host, self._port, timeout=TIMEOUT_S)
        sent_ns = time.monotonic_ns()
        try:
            connection.request("GET", self._path, headers={"Accept": "text/plain;version=0.0.4"})
            response = connection.getresponse()
            body = response.read(MAX_BYTES)
        except ConnectionRefusedError as error:
            raise GoneError(f"nothing listens on {self._host}:{self._port} ({error})") from error
        except (OSError, http.client.HTTPException) as error:
            raise SilentError(f"{type(error).__name__}: {error}") from error
        finally:
            connection.close()
        if response.status != http.client.OK:
            raise SilentError(f"HTTP status {response.status} {response.reason}")
        return body.decode("utf-8", errors="replace"), sent_ns, time.monotonic_ns()

    def _choose(self, wanted: Wanted, points: Sequence[Point]) -> tuple[_Line, Stream]:
        metric = wanted.metric or ""
        unit = wanted.resolved(_unit_named(metric))
        if unit is None:
            raise UserError(f"{self._options.source}: metric {metric!r} names no unit of power or energy: say unit")
        line = _Line(metric, wanted.labels, unit.factor)
        found = line.of(points)
        if not found:
            alike = [p for p in points if p.metric == metric]
            seen = f"its series: {_series(alike)}" if alike else f"it has {_metrics(points)}"
            raise UserError(f"{self._options.source}: no series {_text(metric, wanted.labels)}; {seen}")
        if len(found) > 1 and not wanted.sum:
            raise UserError(
                f"{self._options.source}: {len(found)} series fit {_text(metric, wanted.labels)}: {_series(found)}; "
                "name one with labels, or say sum: true"
            )
        return line, self._stream(line, unit, wanted.scope, wanted.device, (wanted.resolution or 0.0) * unit.factor)

    def _known(self, points: Sequence[Point], device: str | None) -> list[tuple[_Line, Stream]]:
        """Streams of the exporters known by name; of cards that of ``device`` alone, where it is among them."""
        chosen: list[tuple[_Line, Stream]] = []
        for known in KNOWN:
            mine = _Line(known.metric, {}, 1.0, INSTANCE).of(points)
            if known.device_label == "UUID" and device is not None and mine:
                wanted = {uuid if uuid.startswith(("GPU-", "MIG-")) else f"GPU-{uuid}" for uuid in device.split(",")}
                shown = {p.labels.get("UUID", "") for p in mine}
                if not wanted <= shown:
                    raise UserError(
                        f"{self._options.source} shows no card {', '.join(sorted(wanted - shown))}; "
                        f"it shows {', '.join(sorted(shown))}"
                    )
                mine = [p for p in mine if p.labels.get("UUID") in wanted]
            for labels in _groups(known, mine):
                line = _Line(known.metric, labels, known.unit.factor, INSTANCE)
                if not known.sum and len(line.of(mine)) > 1:
                    raise UserError(
                        f"{self._options.source}: series that can't be told apart: {_series(line.of(mine))}"
                    )
                scope = f"{labels[known.zone_label]} {known.scope}" if known.zone_label in labels else known.scope
                of = labels.get(known.device_label) or known.scope
                chosen.append((line, self._stream(line, known.unit, self._options.scope or scope, of)))
        return chosen

    def _only(self, points: Sequence[Point]) -> list[tuple[_Line, Stream]]:
        """The one series whose name tells a unit."""
        found = [(p, unit) for p in points if (unit := _unit_named(p.metric)) is not None]
        if len(found) != 1:
            what = f"several series name a unit: {_series([p for p, _ in found])}" if found else _metrics(points)
            raise UserError(
                f"{self._options.source}: which series is the meter? {what}. Say channels: [{{metric: NAME, labels: "
                "{...}, unit: UNIT}] in an options file"
            )
        point, unit = found[0]
        line = _Line(point.metric, point.labels, unit.factor)
        return [(line, self._stream(line, unit))]

    def _stream(
        self, line: _Line, unit: Unit, scope: str | None = None, device: str | None = None, quantum: float = 0.0
    ) -> Stream:
        options = self._options
        return Stream(
            name=_text(line.metric, line.labels),
            quantity=unit.quantity,
            device=device or options.device or f"{self._host}:{self._port}",
            scope=scope or options.scope or "external",
            quantum=quantum,
        )


def _groups(known: Known, points: Sequence[Point]) -> list[dict[str, str]]:
    """Labels that tell the devices and zones of a known metric apart."""
    names = [name for name in (known.device_label, known.zone_label) if name]
    groups = [{name: p.labels[name] for name in names if name in p.labels} for p in points]
    return [group for i, group in enumerate(groups) if group not in groups[:i]]


def _total(line: _Line, found: Sequence[Point]) -> float | None:
    """The stream's value; ``None`` if a series is missing, negative or no number."""
    total = math.fsum(p.value for p in found) * line.factor if found else math.nan
    return total if math.isfinite(total) and all(p.value >= 0 for p in found) else None


def _unit_named(metric: str) -> Unit | None:
    """Unit by a metric's name; a name that ends otherwise than in a unit (and ``_total``) tells none."""
    known = next((known.unit for known in KNOWN if known.metric == metric), None)
    if known is not None:
        return known
    stem = metric.removesuffix("_total")
    unit = unit_in("_".join(stem.split("_")[-2:]))
    rate = stem.endswith(("_watts", "_watt", "_milliwatts", "_kilowatts", "_w", "_kw"))
    return unit if unit is not None and (unit.quantity is Quantity.ENERGY_J or rate) else None


def _parse(text: str) -> list[Point]:
    from prometheus_client.parser import text_string_to_metric_families

    points = []
    for family in text_string_to_metric_families(text + "\n"):
        for sample in family.samples:
            stamp = None if sample.timestamp is None else float(sample.timestamp)
            points.append(Point(sample.name, sample.labels, sample.value, stamp))
    return points


def _text(metric: str, labels: Labels) -> str:
    inside = ",".join(f'{name}="{value}"' for name, value in labels.items())
    return f"{metric}{{{inside}}}" if inside else metric


def _series(points: Sequence[Point]) -> str:
    texts = [_text(p.metric, p.labels) for p in points]
    more = f" and {len(texts) - SHOWN} more" if len(texts) > SHOWN else ""
    return ", ".join(texts[:SHOWN]) + more


def _metrics(points: Sequence[Point]) -> str:
    names = list(dict.fromkeys(p.metric for p in points))
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return f"metrics {', '.join(names[:SHOWN])}{more}" if names else "no metrics at all"
