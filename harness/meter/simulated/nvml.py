"""A module that answers like ``pynvml``, for the cards of a scenario.

It has the functions of ``pynvml`` that the harness, Zeus and CodeCarbon use, with the real names, codes and
``ctypes`` structures, so that the very code that reads a real card reads a simulated one. It can't be taken
for one: names end in "(simulated)", UUIDs hold "SIMULATED", and the driver's version says it too.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pynvml

from harness.meter.simulated.card import Reading, SimulatedCard
from harness.meter.simulated.load import Load
from harness.meter.simulated.scenario import Card, FaultKind, Scenario
from harness.types import Basis

EPOCH_S = 1_700_000_000
"""Driver timestamps start here, so that a recorded simulation is the same bytes whenever it ran."""
NS = 1_000_000_000

_UINT, _ULL, _SIGNED = 1, 3, 4
_ALL_BITS = {_UINT: 0xFFFF_FFFF, _ULL: 0xFFFF_FFFF_FFFF_FFFF}
_ATTRIBUTES = {_UINT: "uiVal", _ULL: "ullVal", _SIGNED: "sllVal"}
_CODES = {
    FaultKind.MISSING: pynvml.NVML_ERROR_UNKNOWN,
    FaultKind.UNSUPPORTED: pynvml.NVML_ERROR_NOT_SUPPORTED,
    FaultKind.DENIED: pynvml.NVML_ERROR_NO_PERMISSION,
}


@dataclass(frozen=True, slots=True)
class Handle:
    """Stands for a card, or for a MIG instance on it, as the pointers of NVML do."""

    index: int
    instance: bool = False


class SimulatedNvml:
    """One simulated driver with its cards. ``clock`` gives nanoseconds; the simulation starts at its first read.

    Whatever name it does not define is taken from ``pynvml``: constants, errors and structures are the real ones.
    """

    basis = Basis.SIMULATED

    def __init__(
        self, scenario: Scenario, load: Load | None = None, clock: Callable[[], int] = time.monotonic_ns
    ) -> None:
        self.scenario = scenario
        self.cards = [SimulatedCard(card, load or scenario.load) for card in scenario.cards]
        self._clock = clock
        self._started_ns = clock()
        self._initialised = 0

    def __getattr__(self, name: str) -> Any:
        if name.startswith("nvml"):
            raise AttributeError(f"the simulated NVML has no function {name}")
        return getattr(pynvml, name)

    @property
    def seconds(self) -> float:
        """Time of the simulation."""
        return (self._clock() - self._started_ns) / NS

    def uuid_of(self, index: int) -> str:
        """UUID of a card, or of the MIG instance that stands for it."""
        return f"{'MIG' if self.scenario.cards[index].mig else 'GPU'}-SIMULATED-{index}"

    def nvmlInit(self) -> None:  # noqa: N802
        """Open the library."""
        self._initialised += 1

    def nvmlShutdown(self) -> None:  # noqa: N802
        """Close it."""
        self._initialised = max(0, self._initialised - 1)

    def nvmlSystemGetDriverVersion(self) -> str:  # noqa: N802
        """Version, marked."""
        return f"{self.scenario.driver} (simulated)"

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802
        """Number of cards."""
        self._require(self._initialised, pynvml.NVML_ERROR_UNINITIALIZED)
        return len(self.cards)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> Handle:  # noqa: N802
        """A card by NVML's own order."""
        self._require(0 <= index < self.nvmlDeviceGetCount(), pynvml.NVML_ERROR_INVALID_ARGUMENT)
        return Handle(index)

    def nvmlDeviceGetHandleByUUID(self, uuid: str | bytes) -> Handle:  # noqa: N802
        """A card, or a MIG instance."""
        text = uuid.decode() if isinstance(uuid, bytes) else uuid
        for index in range(self.nvmlDeviceGetCount()):
            if text in {self.uuid_of(index), f"GPU-SIMULATED-{index}"}:
                return Handle(index, instance=text.startswith("MIG-"))
        raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_FOUND)

    def nvmlDeviceGetDeviceHandleFromMigDeviceHandle(self, handle: Handle) -> Handle:  # noqa: N802
        """The board of an instance."""
        return Handle(handle.index)

    def nvmlDeviceGetUUID(self, handle: Handle) -> str:  # noqa: N802
        """UUID."""
        return self.uuid_of(handle.index) if handle.instance else f"GPU-SIMULATED-{handle.index}"

    def nvmlDeviceGetName(self, handle: Handle) -> str:  # noqa: N802
        """Name, marked."""
        return f"{self._card(handle).card.name} (simulated)"

    def nvmlDeviceGetIndex(self, handle: Handle) -> int:  # noqa: N802
        """NVML's own number of a card."""
        return handle.index

    def nvmlDeviceGetArchitecture(self, handle: Handle) -> int:  # noqa: N802
        """Hopper, whatever the name says."""
        return int(pynvml.NVML_DEVICE_ARCH_HOPPER)

    def nvmlDeviceGetMemoryInfo(self, handle: Handle) -> Any:  # noqa: N802
        """Total, free and used bytes."""
        total = 80 << 30
        return SimpleNamespace(total=total, free=total, used=0)

    def nvmlDeviceGetUtilizationRates(self, handle: Handle) -> Any:  # noqa: N802
        """Percent of time that a kernel ran: nothing is known, 0."""
        return SimpleNamespace(gpu=0, memory=0)

    def nvmlDeviceGetVirtualizationMode(self, handle: Handle) -> int:  # noqa: N802
        """2 is a virtual GPU."""
        return 2 if self.scenario.cards[handle.index].vgpu else 0

    def nvmlDeviceGetFieldValues(self, handle: Handle, ids: Iterable[Any]) -> Any:  # noqa: N802
        """Field values with return codes, types and timestamps, as one array of ``c_nvmlFieldValue_t``."""
        wanted = [entry if isinstance(entry, tuple) else (entry, 0) for entry in ids]
        self._alive(handle)
        card, at_s = self._card(handle), self.seconds
        step_s = sum(f.value or 0.0 for f in card.card.faults if f.kind is FaultKind.CLOCK_STEP and f.holds(at_s))
        values = (pynvml.c_nvmlFieldValue_t * len(wanted))()
        for value, (id_, scope) in zip(values, wanted, strict=True):
            value.fieldId, value.scopeId = id_, scope
            code, kind, number, read_at_s = self._field(card, id_, scope, at_s)
            value.nvmlReturn, value.valueType = code, kind
            value.timestamp = round((EPOCH_S + read_at_s + step_s) * 1e6)
            setattr(value.value, _ATTRIBUTES.get(kind, "ullVal"), number)
        return values

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: Handle) -> int:  # noqa: N802
        """The counter in millijoules."""
        return self._number(handle, "energy", _ULL, lambda card, at_s: round(card.energy(at_s).value * 1e3))

    def nvmlDeviceGetPowerUsage(self, handle: Handle) -> int:  # noqa: N802
        """Mean power in milliwatts."""
        return self._number(handle, "power_mean", _UINT, lambda card, at_s: round(card.power_mean(at_s).value * 1e3))

    def nvmlDeviceGetTemperatureV(self, handle: Handle, sensor: int) -> int:  # noqa: N802
        """Degrees Celsius."""
        return self._number(handle, "temperature", _UINT, lambda card, at_s: int(card.temperature_c(at_s)))

    nvmlDeviceGetTemperature = nvmlDeviceGetTemperatureV  # noqa: N815

    def nvmlDeviceGetEnforcedPowerLimit(self, handle: Handle) -> int:  # noqa: N802
        """Milliwatts."""
        return self._number(handle, "power_limit", _UINT, lambda card, at_s: round(card.power_limit_w(at_s) * 1e3))

    nvmlDeviceGetPowerManagementLimit = nvmlDeviceGetEnforcedPowerLimit  # noqa: N815

    def nvmlDeviceGetComputeRunningProcesses(self, handle: Handle) -> list[Any]:  # noqa: N802
        """Processes on the card: those of others, by numbers that nobody has."""
        count = self._number(handle, "processes", _SIGNED, lambda card, at_s: card.foreign(at_s))
        return [SimpleNamespace(pid=(1 << 30) + i, usedGpuMemory=None) for i in range(count)]

    nvmlDeviceGetGraphicsRunningProcesses = nvmlDeviceGetComputeRunningProcesses  # noqa: N815

    def _field(self, card: SimulatedCard, id_: int, scope: int, at_s: float) -> tuple[int, int, int, float]:
        """Code, type, number and time of one field."""
        if scope != 0 or id_ not in _FIELDS:
            return pynvml.NVML_ERROR_NOT_SUPPORTED, _UINT, 0, at_s
        name, kind, read = _FIELDS[id_]
        reading = read(card, at_s)
        code, kind, number = self._faulty(card.card, name, kind, round(reading.value), at_s)
        return code, kind, number, reading.at_s

    def _faulty(self, card: Card, name: str, kind: int, number: int, at_s: float) -> tuple[int, int, int]:
        """Code, type and number of a reading after the faults that hold."""
        for fault in card.faults:
            if not fault.holds(at_s) or name not in fault.readings:
                continue
            if fault.kind in _CODES:
                return _CODES[fault.kind], kind, 0
            if fault.kind is FaultKind.NOT_AVAILABLE:
                return pynvml.NVML_SUCCESS, kind, _ALL_BITS.get(kind, 0)
            if fault.kind is FaultKind.ZERO:
                return pynvml.NVML_SUCCESS, kind, 0
            if fault.kind is FaultKind.NEGATIVE:
                return pynvml.NVML_SUCCESS, _SIGNED, -abs(number)
        return pynvml.NVML_SUCCESS, kind, number

    def _number(self, handle: Handle, name: str, kind: int, read: Callable[[SimulatedCard, float], int]) -> int:
        """What a function of its own, not a field, returns or raises."""
        self._alive(handle)
        card, at_s = self._card(handle), self.seconds
        code, _, number = self._faulty(card.card, name, kind, read(card, at_s), at_s)
        self._require(code == pynvml.NVML_SUCCESS, code)
        return number

    def _alive(self, handle: Handle) -> None:
        at_s = self.seconds
        for fault in self.scenario.cards[handle.index].faults:
            if not fault.holds(at_s):
                continue
            self._require(fault.kind is not FaultKind.LOST, pynvml.NVML_ERROR_GPU_IS_LOST)
            if fault.kind is FaultKind.SLOW:
                time.sleep(fault.value or 0.0)
            if fault.kind is FaultKind.CRASH:
                raise RuntimeError("the simulated driver's library broke down")

    def _card(self, handle: Handle) -> SimulatedCard:
        return self.cards[handle.index]

    @staticmethod
    def _require(condition: object, code: int) -> None:
        if not condition:
            raise pynvml.NVMLError(code)


def _throttled(card: SimulatedCard, at_s: float) -> Reading:
    return Reading(card.throttled_ns(at_s), at_s)


def _never(card: SimulatedCard, at_s: float) -> Reading:
    return Reading(0, at_s)


def _milli(reading: Reading) -> Reading:
    return Reading(reading.value * 1e3, reading.at_s)


_FIELDS: dict[int, tuple[str, int, Callable[[SimulatedCard, float], Reading]]] = {
    83: ("energy", _ULL, lambda card, at_s: _milli(card.energy(at_s))),
    185: ("power_mean", _UINT, lambda card, at_s: _milli(card.power_mean(at_s))),
    186: ("power", _UINT, lambda card, at_s: _milli(card.power(at_s))),
    74: ("throttle", _ULL, _never),  # at the power limit
    75: ("throttle", _ULL, _throttled),  # heat
    269: ("throttle", _ULL, _never),
    270: ("throttle", _ULL, _throttled),
    271: ("throttle", _ULL, _never),
}
