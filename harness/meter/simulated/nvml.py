"""A module that answers like ``pynvml``, for the cards of a scenario.

It has the functions of ``pynvml`` that the harness, Zeus and CodeCarbon use, with the real names, codes and
``ctypes`` structures, so that the very code that reads a real card reads a simulated one. It can't be taken for
one: names end in "(simulated)", UUIDs hold "SIMULATED", the driver's version says it too, and ``basis`` makes the
harness mark whatever is read here.
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable, Iterable
from types import SimpleNamespace
from typing import Any, NamedTuple

import pynvml

from harness.meter.simulated.board import Handle, SimulatedBoard
from harness.meter.simulated.card import Reading, SimulatedCard
from harness.meter.simulated.load import Load
from harness.meter.simulated.scenario import Fault, FaultKind, Scenario, Scope

EPOCH_S = 1_700_000_000
"""Driver timestamps start here, so that a recorded simulation is the same bytes whenever it ran."""
NS = 1_000_000_000

_NOBODY = 1 << 30  # process numbers from here on are nobody's: Linux ends at 2^22
_UINT, _ULL, _SIGNED = 1, 3, 4
_ALL_BITS = {_UINT: 0xFFFF_FFFF, _ULL: 0xFFFF_FFFF_FFFF_FFFF}
_ATTRIBUTES = {_UINT: "uiVal", _ULL: "ullVal", _SIGNED: "sllVal"}
_SCOPES: dict[int, Scope] = {0: "gpu", 1: "module", 2: "memory"}
_CODES = {
    FaultKind.MISSING: pynvml.NVML_ERROR_UNKNOWN,
    FaultKind.UNSUPPORTED: pynvml.NVML_ERROR_NOT_SUPPORTED,
    FaultKind.NO_FUNCTION: pynvml.NVML_ERROR_FUNCTION_NOT_FOUND,
    FaultKind.DENIED: pynvml.NVML_ERROR_NO_PERMISSION,
}
_LIES = {FaultKind.NOT_AVAILABLE, FaultKind.ZERO, FaultKind.NEGATIVE}
_TEMPERATURE_V_SINCE = (570,)


class FieldValue(ctypes.Structure):
    """The layout of ``pynvml.c_nvmlFieldValue_t`` without what it does for printing, which takes half of a read."""

    _fields_ = pynvml.c_nvmlFieldValue_t._fields_


class _Field(NamedTuple):
    """How a field is read. ``since``: the first driver whose bindings (nvidia-ml-py) have the number."""

    reading: str
    kind: int
    read: Callable[[SimulatedCard, float, Scope], Reading]
    since: tuple[int, ...] = ()
    scoped: bool = False  # whether it exists for module and memory too


_Resolved = tuple[int, int, _Field | int, Scope]  # number and scope as asked for, and what they are, or a code


def _throttled(cause: str, since: tuple[int, ...] = ()) -> _Field:
    def read(card: SimulatedCard, at_s: float, _: Scope) -> Reading:
        return card.held("throttle", Reading(card.throttled_ns(at_s, cause), at_s), at_s, cause)

    return _Field("throttle", _ULL, read, since)


_FIELDS = {
    83: _Field("energy", _ULL, lambda card, at_s, _: _milli(card.energy(at_s))),
    185: _Field("power_mean", _UINT, lambda card, at_s, of: _milli(card.power_mean(at_s, of)), (525,), scoped=True),
    186: _Field("power", _UINT, lambda card, at_s, of: _milli(card.power(at_s, of)), (525,), scoped=True),
    74: _throttled("power_cap"),
    75: _throttled("thermal"),
    # In the bindings of 580.65 these three numbers still are others; those of 580.82 have them.
    269: _throttled("software_thermal", (580, 82)),
    270: _throttled("hardware_thermal", (580, 82)),
    271: _throttled("power_brake", (580, 82)),
}


class SimulatedNvml(SimulatedBoard):
    """One simulated driver with its cards, as a stand-in for the module ``pynvml``.

    Args:
        scenario: the cards and their faults.
        load: what they carry; by default the scenario's own.
        clock: nanoseconds; the simulation starts at its first read.
        sleep: how a slow call lets time pass; goes with ``clock``.
        own: process numbers of the run itself, which are on the card beside the scenario's foreign ones.
    """

    def __init__(
        self,
        scenario: Scenario,
        load: Load | None = None,
        clock: Callable[[], int] = time.monotonic_ns,
        sleep: Callable[[float], None] = time.sleep,
        own: Callable[[], Iterable[int]] = tuple,
    ) -> None:
        super().__init__(scenario)
        self.cards = [SimulatedCard(card, load or scenario.load, scenario.idle) for card in scenario.cards]
        self._clock, self._sleep, self._own = clock, sleep, own
        self._started_ns = clock()
        self._known: dict[tuple[int, tuple[tuple[int, int], ...]], list[_Resolved]] = {}
        self._answers: list[list[Fault]] = [
            [fault for fault in card.faults if fault.kind in _CODES or fault.kind in _LIES] for card in scenario.cards
        ]

    @property
    def seconds(self) -> float:
        """Time of the simulation."""
        return (self._clock() - self._started_ns) / NS

    def nvmlDeviceGetHandleByIndex(self, index: int) -> Handle:  # noqa: N802
        """A card by NVML's own order."""
        handle = super().nvmlDeviceGetHandleByIndex(index)
        self._require(not self._holds(handle, FaultKind.LOST), pynvml.NVML_ERROR_GPU_IS_LOST)
        return handle

    def nvmlDeviceGetHandleByUUID(self, uuid: str | bytes) -> Handle:  # noqa: N802
        """A card, or a MIG instance."""
        handle = super().nvmlDeviceGetHandleByUUID(uuid)
        self._require(not self._holds(handle, FaultKind.LOST), pynvml.NVML_ERROR_GPU_IS_LOST)
        return handle

    def nvmlDeviceGetFieldValues(self, handle: Handle, ids: Iterable[Any]) -> Any:  # noqa: N802
        """Field values with return codes, types and timestamps, as one array."""
        card, at_s = self._reach(handle)
        code, _, _ = self._faulty(handle, "fields", _UINT, 0, at_s)
        self._require(code == pynvml.NVML_SUCCESS, code)
        wanted = tuple(entry if isinstance(entry, tuple) else (entry, 0) for entry in ids)
        step_s = sum(f.value or 0.0 for f in card.faults(FaultKind.CLOCK_STEP) if f.holds(at_s))
        as_refreshed = card.card.timestamps == "refresh"
        spoilt = bool(self._answers[handle.index])
        values = (FieldValue * len(wanted))()
        for value, (id_, scope, field, of) in zip(values, self._resolved(handle.index, wanted), strict=True):
            value.fieldId, value.scopeId = id_, scope
            if isinstance(field, int):
                value.nvmlReturn, value.valueType, refreshed_s = field, _UINT, at_s
            else:
                number, refreshed_s = field.read(card, at_s, of)
                kind, number = field.kind, round(number)
                if spoilt:
                    code, kind, number = self._faulty(handle, field.reading, kind, number, at_s)
                    # Of a field that it does not know, a driver that is too old says this.
                    unknown = code == pynvml.NVML_ERROR_FUNCTION_NOT_FOUND
                    value.nvmlReturn = pynvml.NVML_ERROR_INVALID_ARGUMENT if unknown else code
                value.valueType = kind
                setattr(value.value, _ATTRIBUTES[kind], number)
            value.timestamp = round((EPOCH_S + (refreshed_s if as_refreshed else at_s) + step_s) * 1e6)
        return values

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: Handle) -> int:  # noqa: N802
        """The counter in millijoules."""
        self._require(self.scenario.cards[handle.index].counter, pynvml.NVML_ERROR_NOT_SUPPORTED)
        return self._number(handle, "energy", _ULL, lambda card, at_s: _milli(card.energy(at_s)))

    def nvmlDeviceGetPowerUsage(self, handle: Handle) -> int:  # noqa: N802
        """Mean power in milliwatts."""
        return self._number(handle, "power_mean", _UINT, lambda card, at_s: _milli(card.power_mean(at_s)))

    def nvmlDeviceGetTemperature(self, handle: Handle, sensor: int) -> int:  # noqa: N802
        """Degrees Celsius."""
        return self._number(handle, "temperature", _UINT, lambda card, at_s: Reading(card.temperature_c(at_s), at_s))

    def nvmlDeviceGetTemperatureV(self, handle: Handle, sensor: int) -> int:  # noqa: N802
        """Degrees Celsius."""
        self._require(self.driver >= _TEMPERATURE_V_SINCE, pynvml.NVML_ERROR_FUNCTION_NOT_FOUND)
        return self.nvmlDeviceGetTemperature(handle, sensor)

    def nvmlDeviceGetEnforcedPowerLimit(self, handle: Handle) -> int:  # noqa: N802
        """Milliwatts."""
        return self._number(
            handle, "power_limit", _UINT, lambda card, at_s: _milli(Reading(card.power_limit_w(at_s), at_s))
        )

    nvmlDeviceGetPowerManagementLimit = nvmlDeviceGetEnforcedPowerLimit  # noqa: N815

    def nvmlDeviceGetUtilizationRates(self, handle: Handle) -> Any:  # noqa: N802
        """Percent of time: 100 while the load draws more than at rest, else 0."""
        card, at_s = self._reach(handle)
        return SimpleNamespace(gpu=100 if card.busy(at_s) else 0, memory=0)

    def nvmlDeviceGetComputeRunningProcesses(self, handle: Handle) -> list[Any]:  # noqa: N802
        """Processes on the card: the run's own, and those of others by numbers that nobody has."""
        count = self._number(handle, "processes", _SIGNED, lambda card, at_s: Reading(card.foreign(at_s), at_s))
        running = [*self._own(), *range(_NOBODY, _NOBODY + max(0, count))]
        return [SimpleNamespace(pid=pid, usedGpuMemory=None) for pid in running]

    def nvmlDeviceGetGraphicsRunningProcesses(self, handle: Handle) -> list[Any]:  # noqa: N802
        """None: nobody draws on these cards."""
        return []

    def _resolved(self, index: int, wanted: tuple[tuple[int, int], ...]) -> list[_Resolved]:
        """What each field asked for is on a card, once for every list of fields."""
        found = self._known.get((index, wanted))
        if found is None:
            found = [(id_, scope, *self._field(self.cards[index], id_, scope)) for id_, scope in wanted]
            self._known[index, wanted] = found
        return found

    def _field(self, card: SimulatedCard, id_: int, scope: int) -> tuple[_Field | int, Scope]:
        """The field, or the code that says why there is none."""
        field, name = _FIELDS.get(id_), _SCOPES.get(scope)
        if field is None or self.driver < field.since:
            return pynvml.NVML_ERROR_INVALID_ARGUMENT, "gpu"
        if name is None or not card.has(name) or (scope and not field.scoped):
            return pynvml.NVML_ERROR_NOT_SUPPORTED, "gpu"
        if field.reading == "energy" and card.card.counter is None:
            return pynvml.NVML_ERROR_NOT_SUPPORTED, "gpu"
        return field, name

    def _faulty(self, handle: Handle, name: str, kind: int, number: int, at_s: float) -> tuple[int, int, int]:
        """Code, type and number of a reading after the faults that hold."""
        for fault in self._answers[handle.index]:
            if name not in fault.readings or not fault.holds(at_s):
                continue
            if fault.kind in _CODES:
                return _CODES[fault.kind], kind, 0
            if fault.kind is FaultKind.NOT_AVAILABLE:
                return pynvml.NVML_SUCCESS, kind, _ALL_BITS.get(kind, 0)
            if fault.kind is FaultKind.ZERO:
                return pynvml.NVML_SUCCESS, kind, 0
            return pynvml.NVML_SUCCESS, _SIGNED, -abs(number)
        return pynvml.NVML_SUCCESS, kind, number

    def _number(self, handle: Handle, name: str, kind: int, read: Callable[[SimulatedCard, float], Reading]) -> int:
        """What a function of its own, not a field, returns or raises."""
        card, at_s = self._reach(handle)
        reading = card.held(name, read(card, at_s), at_s, "function")
        code, _, number = self._faulty(handle, name, kind, round(reading.value), at_s)
        self._require(code == pynvml.NVML_SUCCESS, code)
        return number

    def _reach(self, handle: Handle) -> tuple[SimulatedCard, float]:
        """The card and the time of a call that reads it, after what may happen to any call."""
        self._require(self._initialised, pynvml.NVML_ERROR_UNINITIALIZED)
        self._require(not self._holds(handle, FaultKind.LOST), pynvml.NVML_ERROR_GPU_IS_LOST)
        self._require(not handle.instance, pynvml.NVML_ERROR_NOT_SUPPORTED)  # an instance has no sensors of its own
        card = self.cards[handle.index]
        for fault in card.faults(FaultKind.SLOW):
            if fault.holds(self.seconds):
                self._sleep(fault.value or 0.0)
        if self._holds(handle, FaultKind.CRASH):
            raise RuntimeError("the simulated driver's library broke down")
        return card, self.seconds

    def _holds(self, handle: Handle, kind: FaultKind) -> bool:
        faults = self.cards[handle.index].faults(kind)
        return bool(faults) and any(fault.holds(self.seconds) for fault in faults)


def _milli(reading: Reading) -> Reading:
    return Reading(reading.value * 1e3, reading.at_s)
