"""Measures a training beside it, for the report: FLOPs, time of probes and switches, bytes, memory."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from sat.flops import FlopWatch, watched
from sat.parts import CompactSite, Part
from sat.report import Report
from sat.tally import Tally


class Ledger:
    """Fills a :class:`Tally`. It never waits for a device in training, and costs nothing between changes of units."""

    def __init__(self, model: nn.Module, optimizer: Optimizer | None, parts: Sequence[Part]) -> None:
        self._model = model
        self._optimizer = optimizer
        self._parts = parts
        self._watch = FlopWatch(model)
        self._probes = Stopwatch(self.device)
        self._switches = Stopwatch(self.device)
        self.tally = Tally(sum(parameter.numel() for parameter in model.parameters()))

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return next(self._model.parameters()).device

    @contextmanager
    def probing(self) -> Iterator[None]:
        """Around a probe."""
        with watched(FlopWatch(self._model)) as counted, self._probes.running():
            yield
        tally, flops = self.tally, counted()
        total = None if flops is None else flops.total
        tally.probe_flops = None if tally.probe_flops is None or total is None else tally.probe_flops + total
        tally.probes += 1

    @contextmanager
    def switching(self) -> Iterator[None]:
        """Around the change of units."""
        before = self._parts_bytes()
        with self._switches.running():
            yield
        changed = {name: now for name, now in self._parts_bytes().items() if before[name][0] != now[0]}
        self.tally.switch_bytes += sum(before[name][1] + now for name, (_, now) in changed.items())

    def decide(
        self, step: int, share: float, *, trained_only: bool, entries: int, exits: int, returns: int,
        probed: bool, count: bool,
    ) -> None:  # fmt: skip
        """Book a decision before ``step``, and count the step if anything changed.

        ``trained_only``: only parameters with a gradient are active (modes that leave the forward pass whole).
        ``count`` is off where no training step need follow.
        """
        present = sum(p.numel() for p in self._model.parameters() if p.requires_grad or not trained_only)
        units = self.active_units
        new = self.tally.decide(step, share, units, present, entries=entries, exits=exits, returns=returns)
        self.tally.stretches[-1].probes += probed
        if not count:
            self._watch.stop()
        elif new:
            self._watch.start()

    def end_step(self) -> None:
        """Book a step."""
        self.tally.end_step()
        if not self._watch.watching:
            return
        counted, last = self._watch.stop(), self.tally.stretches[-1]
        if counted is None:
            return
        last.forward_flops, last.backward_flops = counted.forward, counted.backward
        if last.active_units == 1.0:
            self.tally.dense_step_flops = counted.total

    @property
    def active_units(self) -> float:
        """Active units as a share of all."""
        return sum(len(part.active) for part in self._parts) / sum(part.units for part in self._parts)

    def report(self, **now: Any) -> Report:
        """All of it; on CUDA this waits for the last probe and switch."""
        memory, of = peak_memory(self.device)
        return self.tally.report(
            active_units=self.active_units,
            probe_seconds=self._probes.seconds(),
            switch_seconds=self._switches.seconds(),
            peak_memory_bytes=memory,
            peak_memory_of=of,
            **now,
        )

    def seconds(self) -> dict[str, float | None]:
        """Time of probes and switches, apart from what is counted: no two trainings have it the same."""
        return {"probes": self._probes.seconds(), "switches": self._switches.seconds()}

    def load(self, tally: Tally, seconds: Mapping[str, float | None]) -> None:
        """Go on from a saved tally and :meth:`seconds`."""
        self._watch.stop()
        self.tally = tally
        self._probes = Stopwatch(self.device, seconds["probes"] or 0.0)
        self._switches = Stopwatch(self.device, seconds["switches"] or 0.0)
        if tally.stretches and not tally.stretches[-1].steps:
            self._watch.start()  # its first step is still to come

    def close(self) -> None:
        """Take the hooks off the model."""
        self._watch.stop()

    def _parts_bytes(self) -> dict[str, tuple[tuple[int, ...], int]]:
        """Of each part its active units, and what a switch copies between them and their bank."""
        return {
            part.name: (part.active, _compact_bytes(part, self._optimizer) if isinstance(part, CompactSite) else 0)
            for part in self._parts
        }


class Stopwatch:
    """Adds up time: between CUDA events on the current stream, elsewhere of the wall clock; ``None`` on ``meta``."""

    def __init__(self, device: torch.device, seconds: float = 0.0) -> None:
        self._device = device
        self._seconds = seconds
        self._events: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []

    @contextmanager
    def running(self) -> Iterator[None]:
        """Around what is timed. An error is no time."""
        if self._device.type == "cuda":
            first, last = _event(), _event()
            first.record(torch.cuda.current_stream(self._device))
            yield
            last.record(torch.cuda.current_stream(self._device))
            self._events.append((first, last))
            return
        start = time.perf_counter()
        yield
        self._seconds += time.perf_counter() - start

    def seconds(self) -> float | None:
        """The sum so far; waits for events that are still to come."""
        if self._device.type == "meta":
            return None
        for first, last in self._events:
            last.synchronize()
            self._seconds += first.elapsed_time(last) / 1e3
        self._events = []
        return self._seconds


def _event() -> torch.cuda.Event:
    return torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]


def peak_memory(device: torch.device) -> tuple[int | None, str | None]:
    """Bytes, and of what they are the largest amount; ``None`` where nothing can be said."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device), "allocated on the card"
    if device.type != "cpu" or sys.platform == "win32":
        return None, None
    import resource

    largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return largest * (1 if sys.platform == "darwin" else 1024), "resident set of the whole process"


def _compact_bytes(part: CompactSite, optimizer: Optimizer | None) -> int:
    """Bytes of a site's cut tensors and their optimizer state; 0 while it is whole, since then there is no bank."""
    if len(part.active) == part.units:
        return 0
    tensors = {id(cut.tensor): cut.tensor for cut in part.site.cuts}.values()
    states = (optimizer.state.get(tensor, {}).values() for tensor in tensors) if optimizer is not None else ()
    held = [value for state in states for value in state if isinstance(value, Tensor) and value.numel() > 1]
    return sum(tensor.numel() * tensor.element_size() for tensor in (*tensors, *held))
