"""The real Zeus and the real CodeCarbon on a simulated driver, in virtual time.

Their own code runs unchanged, through the adapters of ``harness/meter/opinions``. What is put in the place of
something else, for as long as :func:`on_simulated` holds:

* ``pynvml`` as they imported it: the simulated driver. Its constants, errors and structures are the real ones.
* The clock they ask (``time.time`` in Zeus, ``time.perf_counter`` in CodeCarbon): the simulation's.
* CodeCarbon's ``PeriodicScheduler``: the same schedule (re-armed when it fires, late by about 1 ms) on virtual
  timers instead of threads, at its default intervals of 15 s and 1 s.
* Whether there is a driver at all: both look for one once and remember; CodeCarbon asks for ``nvidia-smi``.
"""

from __future__ import annotations

import contextlib
import heapq
import random
from collections.abc import Callable, Iterator, Sequence
from itertools import count
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

from harness.meter.opinions.base import OPINIONS, Part, SecondOpinion
from harness.meter.opinions.quiet import Quiet, no_print
from harness.meter.simulated.nvml import NS, SimulatedNvml
from harness.meter.simulated.play import SCHEDULER_DELAY_S, VirtualClock
from harness.meter.simulated.scenario import Scenario


class Timers:
    """Functions that are called when virtual time comes to them."""

    def __init__(self, clock: VirtualClock, seed: int = 0) -> None:
        self._clock = clock
        self._late = random.Random(seed)
        self._order = count()
        self._due: list[tuple[int, int, Callable[[], None]]] = []

    def after(self, seconds: float, call: Callable[[], None]) -> None:
        """Call once, so many seconds from now and a little late, as threads are."""
        late_s = self._late.expovariate(1 / SCHEDULER_DELAY_S)
        due_ns = self._clock.now_ns + round((seconds + late_s) * NS)
        heapq.heappush(self._due, (due_ns, next(self._order), call))

    def run_until(self, at_ns: int) -> None:
        """Let time pass."""
        while self._due and self._due[0][0] <= at_ns:
            due_ns, _, call = heapq.heappop(self._due)
            self._clock.now_ns = max(self._clock.now_ns, due_ns)
            call()
        self._clock.now_ns = max(self._clock.now_ns, at_ns)


def periodic(timers: Timers) -> type:
    """CodeCarbon's ``PeriodicScheduler`` on virtual timers."""

    class Periodic:
        def __init__(self, interval: float, function: Callable[..., None], *args: Any, **kwargs: Any) -> None:
            self._interval, self._call = interval, lambda: function(*args, **kwargs)
            self._stopped = True

        def start(self) -> None:
            if self._stopped:
                self._stopped = False
                timers.after(self._interval, self._run)

        def stop(self) -> None:
            self._stopped = True

        def _run(self) -> None:
            if not self._stopped:
                timers.after(self._interval, self._run)
                self._call()

    return Periodic


@contextlib.contextmanager
def on_simulated(nvml: SimulatedNvml, clock: VirtualClock, timers: Timers) -> Iterator[None]:
    """Zeus and CodeCarbon see this driver and this time while the block lasts."""
    quiet = Quiet("codecarbon")
    with no_print():
        import codecarbon.core.gpu
        import codecarbon.core.gpu_nvidia
        import codecarbon.core.hardware_cache
        import codecarbon.emissions_tracker
        import codecarbon.external.hardware
        import zeus.device.gpu
        import zeus.device.gpu.nvidia
        import zeus.monitor.energy

    quiet.release()

    def now_s() -> float:
        return clock.now_ns / NS

    time = SimpleNamespace(time=now_s, perf_counter=now_s, sleep=clock.advance)
    replaced: list[tuple[Any, str, Any]] = [
        (zeus.device.gpu.nvidia, "pynvml", nvml),
        (zeus.device.gpu, "nvml_is_available", lambda: True),
        (zeus.device.gpu, "_gpus", None),
        (zeus.monitor.energy, "time", now_s),
        (codecarbon.core.gpu_nvidia, "pynvml", nvml),
        (codecarbon.core.gpu, "PYNVML_AVAILABLE", True),
        (codecarbon.core.gpu, "AMDSMI_AVAILABLE", False),
        (codecarbon.core.gpu, "is_nvidia_system", lambda: True),
        (codecarbon.core.gpu, "is_rocm_system", lambda: False),
        (codecarbon.emissions_tracker, "time", time),
        (codecarbon.emissions_tracker, "PeriodicScheduler", periodic(timers)),
        (codecarbon.external.hardware, "time", time),
    ]
    codecarbon.core.hardware_cache.clear_cache()
    with contextlib.ExitStack() as stack:
        for module, name, value in replaced:
            stack.enter_context(patch.object(module, name, value))
        yield
    codecarbon.core.hardware_cache.clear_cache()


def opinions_on(
    tool: str, scenario: Scenario, start_s: float, window_s: float, *, cards: Sequence[int] | None = None, seed: int = 0
) -> list[SecondOpinion]:
    """All that a tool says of a window of a simulation; ``cards`` are those asked for, by default all.

    Each tool gets a simulation of its own: what a simulated card shows depends on the scenario alone.
    """
    clock = VirtualClock()
    timers = Timers(clock, seed)
    nvml = SimulatedNvml(scenario, None, clock, clock.advance)
    began_ns = clock.now_ns
    uuids = [nvml.uuid_of(i) for i in (range(len(scenario.cards)) if cards is None else cards)]
    opinion = OPINIONS.get(tool)()
    with on_simulated(nvml, clock, timers):
        opinion.prepare(uuids)
        timers.run_until(began_ns + round(start_s * NS))
        opinion.start(uuids)
        timers.run_until(began_ns + round((start_s + window_s) * NS))
        return opinion.stop()


def gpu_opinion(tool: str, scenario: Scenario, start_s: float, window_s: float, *, seed: int = 0) -> SecondOpinion:
    """What a tool says of the cards, or why it says nothing."""
    said = opinions_on(tool, scenario, start_s, window_s, seed=seed)
    return next((one for one in said if one.part is Part.GPU), said[0])
