"""One execution of one command under all meters: from its fork to its record."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from harness.measure.command import Command, Streams, refusal, wall_clock
from harness.measure.meters import Metering
from harness.measure.signals import Signals
from harness.measure.types import MeterRun, Role, Run, Window
from harness.meter.clock import read_ns
from harness.meter.opinions.base import OPINIONS, Opinion, SecondOpinion
from harness.types import UserError


@dataclass(frozen=True, slots=True)
class Task:
    """What to run, and as what."""

    key: str
    arm: str
    argv: Sequence[str]
    role: Role = Role.ONCE
    pair: int = 0
    attempt: int = 1
    position: int = 0
    idle: dict[str, Window] = field(default_factory=dict)  # by meter
    streams: Streams = field(default_factory=Streams)


def run(
    task: Task,
    meters: Sequence[Metering],
    opinions: Sequence[Opinion],
    signals: Signals,
    *,
    started: Callable[[int], None] = lambda pid: None,
    watch: Callable[[float], None] = lambda seconds: None,
) -> Run:
    """Run it. The window is from just before the exec to the moment its end was seen.

    The order: fork, meters, second opinions, exec; end, second opinions, meters, reap. So every meter has
    samples before the window and after it, of which the last finds the ended command's CPU time. ``started`` gets
    the pid before the exec, ``watch`` the seconds so far, now and then.

    Raises:
        UserError: a meter that was asked for by name can't be opened; the command was not executed then.
    """
    why = refusal(task.argv)
    if why is not None:
        return _not_run(task, *why)
    devices = _devices(meters)
    for opinion in opinions:
        opinion.prepare(devices)  # before the fork: it may take seconds
    command = Command(task.argv, signals, task.streams)
    began = wall_clock()
    signals.ended_by = 0
    error, start_ns, end_ns, margin_s = "", None, None, 0.0
    left: list[MeterRun] = []
    said: list[SecondOpinion] = []
    try:
        started(command.pid)
        try:
            for meter in meters:
                meter.start(task.key, command.pid, task.arm)
            margin_s = max((meter.margin_s for meter in meters), default=0.0)
            time.sleep(margin_s)
            for opinion in opinions:
                opinion.start(devices)
            start_ns = read_ns()
            error = command.go()
            while not command.follow(signals):
                watch((read_ns() - start_ns) / 1e9)
            end_ns = read_ns()
        finally:
            for opinion in opinions:
                said += opinion.stop()
            if end_ns is not None:
                time.sleep(margin_s)
            left = [meter.stop(task.idle.get(meter.plan.label)) for meter in meters]
        survivors = command.survivors()
        ended = command.reap()
    finally:
        command.abandon()
    return Run(
        key=task.key,
        role=task.role,
        arm=task.arm,
        pair=task.pair,
        attempt=task.attempt,
        position=task.position,
        wall_clock=began,
        start_ns=None if error else start_ns,
        end_ns=None if error else end_ns,
        exit_code=ended.exit_code,
        signal=ended.signal,
        error=f"{task.argv[0]}: {error}" if error else "",
        interrupted=bool(signals.ended_by),
        cpu_s=ended.cpu_s,
        peak_memory_bytes=ended.peak_memory_bytes,
        survivors=survivors,
        meters=tuple(left),
        opinions=tuple(said),
    )


def idle(key: str, seconds: float, meters: Sequence[Metering], signals: Signals) -> dict[str, Window]:
    """All devices at rest, side by side, by meter; without those whose rest can't be seen.

    Raises:
        InterruptedBySignalError: a signal asks for an end.
    """
    watching = [meter for meter in meters if seconds > 0 and meter.begin_idle(key)]
    margin_s = max((meter.margin_s for meter in watching), default=0.0)
    time.sleep(margin_s)
    start_ns = read_ns()
    try:
        if watching:
            signals.pause(seconds)
    finally:
        end_ns = read_ns()
        time.sleep(margin_s)
        seen = {meter.plan.label: meter.end_idle(start_ns, end_ns) for meter in watching}
    return {label: window for label, window in seen.items() if window is not None}


def make_opinions(names: Sequence[str]) -> list[Opinion]:
    """Second opinions by name, fresh ones: each is good for one window.

    Raises:
        UserError: an unknown one, or one that can't be used here; the text says how to get it.
    """
    for name in names:
        lacking = OPINIONS.get(name).available()
        if lacking:
            raise UserError(f"second opinion {name!r} was asked for but can't be used: {lacking}")
    return [OPINIONS.get(name)() for name in names]


def _devices(meters: Sequence[Metering]) -> list[str]:
    """UUIDs of the real cards that are metered; none means the CPU."""
    return [uuid for meter in meters if meter.plan.name == "nvml" for uuid in (meter.plan.device or "").split(",")]


def _not_run(task: Task, code: int, reason: str) -> Run:
    return Run(
        key=task.key,
        role=task.role,
        arm=task.arm,
        pair=task.pair,
        attempt=task.attempt,
        position=task.position,
        wall_clock=wall_clock(),
        exit_code=code,
        error=reason,
    )
