"""NVIDIA cards through NVML (``pynvml`` of the distribution nvidia-ml-py).

One ``nvmlDeviceGetFieldValues`` per sample and card reads the energy counter, instant and mean power and the
clock-event counters together. Each value's own return code is looked at first, and the driver's timestamp is
kept. Cards go by UUID, never by index: NVML does not know ``CUDA_VISIBLE_DEVICES``.

What a card or driver does not offer is left out and named in ``MeterInfo.assumptions``; what stands in for it
is named there too. Temperature, power limit and foreign processes are read once a second.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from harness.meter.base import Channel, Meter, MeterInfo, Quantity, ReadStatus, Sample
from harness.meter.clock import read_ns
from harness.meter.foreign import foreign_processes, in_pid_namespace
from harness.types import Basis, UserError

GAIN_ERROR = 0.05
"""Relative, one standard deviation: recent cards are off by 4 to 8 % (Yang, Adamek and Armour, SC24)."""
UPDATE_PERIOD_S = 0.1
"""The slowest refresh seen of counter and sensor (20 to 100 ms, same source); assumed until calibrated."""
LOOK_S = 0.025
"""The power sensors of A100 and H100 look 18.7 to 24.3 ms of every 100 (same source); taken for every card."""
SLOW_NS = 1_000_000_000
MILLI = 1e-3  # mW and mJ to W and J

_ENERGY, _POWER_MEAN, _POWER = 83, 185, 186
_SCOPES = {0: "gpu", 1: "module", 2: "memory"}
_VALUES = {0: "dVal", 1: "uiVal", 2: "ulVal", 3: "ullVal", 4: "sllVal", 5: "siVal", 6: "usVal"}
_NOT_AVAILABLE = {1: 0xFFFF_FFFF, 2: 0xFFFF_FFFF_FFFF_FFFF, 3: 0xFFFF_FFFF_FFFF_FFFF}
_VGPU = 2
# Time below the requested clocks, by cause, in nanoseconds. The numbers 251 to 253, used for the last three
# by the headers of driver 575, meant something else in 570, as do 269 to 271 in 575: read only from 580 on.
_THROTTLE = {74: "power_cap", 75: "thermal"}
_THROTTLE_580 = {269: "software_thermal", 270: "hardware_thermal", 271: "power_brake"}


@dataclass(frozen=True, slots=True)
class _Field:
    channel: int
    id: int
    scope: int
    unit: float  # the field's integer in units of this


@dataclass(frozen=True, slots=True)
class _Call:
    channel: int
    function: Callable[[], float]
    unit: float


@dataclass(slots=True)
class _Gpu:
    uuid: str
    handle: Any
    fields: list[_Field] = field(default_factory=list)
    calls: list[_Call] = field(default_factory=list)  # at every sample, where there is no field
    slow: list[_Call] = field(default_factory=list)  # once a second


class NvmlMeter(Meter):
    """One card, several (``device`` is then a comma-separated list of UUIDs), or all (``None``)."""

    name = "nvml"
    covers = frozenset({"cuda"})
    calibrates = True

    def __init__(self, nvml: Any = None, clock: Callable[[], int] = read_ns) -> None:
        self._nvml = nvml
        self._clock = clock
        self._gpus: list[_Gpu] = []
        self._channels: list[Channel] = []
        self._assumptions: list[str] = []
        self._pid: int | None = None
        self._basis = Basis.MEASURED
        self._slow_due_ns = 0
        self._is_open = False

    @classmethod
    def available(cls, nvml: Any = None) -> str | None:
        """What is missing: the module, the driver, or a card."""
        try:
            nvml = nvml or _module()
        except UserError as error:
            return str(error)
        try:
            nvml.nvmlInit()
        except nvml.NVMLError as error:
            return (
                f"NVML can't be opened ({error}): needs NVIDIA's driver; in a container start it with "
                "--gpus all and NVIDIA_DRIVER_CAPABILITIES=compute,utility"
            )
        try:
            return None if nvml.nvmlDeviceGetCount() else "NVML sees no NVIDIA card"
        except nvml.NVMLError as error:
            return f"NVML can't count the cards: {error}"
        finally:
            nvml.nvmlShutdown()

    def open(self, pid: int | None, device: str | None) -> MeterInfo:
        """Find the cards, try every channel once, keep those that answer.

        Raises:
            UserError: no driver, no such card, or a card with no reading of energy or power at all.
        """
        nvml = self._nvml = self._nvml or _module()
        # A simulated driver says what it is: whoever reads it, its numbers are never taken for measured ones.
        self._basis = getattr(nvml, "basis", Basis.MEASURED)
        self._pid = pid
        try:
            nvml.nvmlInit()
        except nvml.NVMLError as error:
            raise UserError(f"NVML can't be opened: {error}") from error
        self._is_open = True
        driver = _text(nvml.nvmlSystemGetDriverVersion())
        names = []
        for index, (uuid, handle, scope) in enumerate(self._find(device)):
            gpu = _Gpu(uuid, handle)
            self._gpus.append(gpu)
            names.append(_text(nvml.nvmlDeviceGetName(handle)))
            self._offer(gpu, f"gpu{index}", names[-1], scope, driver)
        self._assumptions.append(
            f"counter and sensor are taken to be refreshed every {UPDATE_PERIOD_S:g} s and to be off by "
            f"{GAIN_ERROR:.0%} (one standard deviation), the same for all runs on one card"
        )
        if in_pid_namespace():
            self._assumptions.append(
                "in a container NVML may name processes by numbers that are unknown here; those beyond the "
                "run's own users of the card (at least one) count as foreign"
            )
        return MeterInfo(
            name=self.name,
            basis=self._basis,
            source=f"NVML, {' + '.join(dict.fromkeys(names))}, driver {driver}",
            channels=tuple(self._channels),
            assumptions=tuple(self._assumptions),
            update_period_s=UPDATE_PERIOD_S,
            look_s=LOOK_S,
        )

    def read(self) -> list[Sample]:
        """Every fast channel; once a second the slow ones with them."""
        samples: list[Sample] = []
        for gpu in self._gpus:
            samples += self._fields(gpu)
            samples += [self._call(call) for call in gpu.calls]
        now_ns = self._clock()
        if now_ns >= self._slow_due_ns:
            self._slow_due_ns = now_ns + SLOW_NS
            samples += [self._call(call) for gpu in self._gpus for call in gpu.slow]
        return samples

    def close(self) -> None:
        """Let go of NVML."""
        if self._is_open:
            self._is_open = False
            try:
                self._nvml.nvmlShutdown()
            except self._nvml.NVMLError:
                return  # a lost card may take NVML with it; there is nothing left to close

    def _find(self, device: str | None) -> list[tuple[str, Any, str]]:
        """UUID, handle and scope of each card."""
        nvml = self._nvml
        try:
            if device is None:
                handles = [nvml.nvmlDeviceGetHandleByIndex(i) for i in range(nvml.nvmlDeviceGetCount())]
                if not handles:
                    raise UserError("NVML sees no NVIDIA card")
                return [(_text(nvml.nvmlDeviceGetUUID(handle)), handle, "gpu") for handle in handles]
            return [self._by_uuid(uuid.strip()) for uuid in device.split(",")]
        except nvml.NVMLError as error:
            raise UserError(f"NVML can't reach the card {device or ''}: {error}") from error

    def _by_uuid(self, uuid: str) -> tuple[str, Any, str]:
        nvml = self._nvml
        # torch gives UUIDs without the kind in front.
        full = uuid if uuid.startswith(("GPU-", "MIG-")) else f"GPU-{uuid}"
        try:
            handle = nvml.nvmlDeviceGetHandleByUUID(full)
        except nvml.NVMLError as error:
            if error.value not in {nvml.NVML_ERROR_NOT_FOUND, nvml.NVML_ERROR_INVALID_ARGUMENT}:
                raise
            here = [
                _text(nvml.nvmlDeviceGetUUID(nvml.nvmlDeviceGetHandleByIndex(i)))
                for i in range(nvml.nvmlDeviceGetCount())
            ]
            raise UserError(f"NVML knows no card {full}; it sees {', '.join(here) or 'none'}") from error
        if not full.startswith("MIG-"):
            return full, handle, "gpu"
        self._assumptions.append(f"{full} is a MIG instance: readings are those of its whole board")
        return full, nvml.nvmlDeviceGetDeviceHandleFromMigDeviceHandle(handle), "board"

    def _offer(self, gpu: _Gpu, label: str, name: str, scope: str, driver: str) -> None:
        """Try every channel of one card and keep what answers."""
        handle = gpu.handle
        self._note_vgpu(gpu)
        counter_scope = scope
        if "GH200" in name:
            counter_scope = "module"
            self._assumptions.append(f"{gpu.uuid}: the energy counter of a {name} covers the whole module")
        throttle = _THROTTLE | (_THROTTLE_580 if _major(driver) >= 580 else {})
        wanted = [
            (_ENERGY, 0, "energy", Quantity.ENERGY_J, counter_scope),
            *((_POWER, s, f"{_prefix(s)}power", Quantity.POWER_W, _scope(s, scope)) for s in _SCOPES),
            (_POWER_MEAN, 0, "power_mean", Quantity.POWER_MEAN_W, scope),
            *((id_, 0, f"throttle_{why}", Quantity.THROTTLE_NS, scope) for id_, why in throttle.items()),
        ]
        answers = self._try([(id_, s) for id_, s, *_ in wanted], handle)
        missing = []
        for (id_, s, channel, quantity, of), status in zip(wanted, answers, strict=True):
            if status in {ReadStatus.OK, ReadStatus.MISSING}:
                unit = 1.0 if quantity is Quantity.THROTTLE_NS else MILLI
                index = self._add(f"{label}/{channel}", quantity, gpu.uuid, of, unit)
                gpu.fields.append(_Field(index, id_, s, unit))
            elif s == 0:
                missing.append(f"{channel} ({status.value})")
        have = {self._channels[f.channel].quantity for f in gpu.fields}
        if Quantity.ENERGY_J not in have:
            self._stand_in(gpu, label, "energy", counter_scope)
        if Quantity.POWER_W not in have and Quantity.POWER_MEAN_W not in have:
            self._stand_in(gpu, label, "power_mean", scope)
        if missing:
            self._assumptions.append(f"{gpu.uuid}: this card or driver has no field for {', '.join(missing)}")
        if not any(c.device == gpu.uuid and c.quantity in _ENERGIES for c in self._channels):
            raise UserError(
                f"NVML gives neither energy nor power of {gpu.uuid} ({name}, driver {driver}): "
                "a virtual GPU or an old card; meter it from outside or on another card"
            )
        self._add_slow(gpu, label, scope)

    def _add_slow(self, gpu: _Gpu, label: str, scope: str) -> None:
        nvml, handle = self._nvml, gpu.handle

        def temperature() -> float:
            if hasattr(nvml, "nvmlDeviceGetTemperatureV"):
                try:
                    return float(nvml.nvmlDeviceGetTemperatureV(handle, nvml.NVML_TEMPERATURE_GPU))
                except nvml.NVMLError as error:
                    if error.value != nvml.NVML_ERROR_FUNCTION_NOT_FOUND:  # else: a driver before 570
                        raise
            return float(nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU))

        def limit() -> float:
            return float(nvml.nvmlDeviceGetEnforcedPowerLimit(handle))

        def foreign() -> float:
            running = [process.pid for process in nvml.nvmlDeviceGetComputeRunningProcesses(handle)]
            return float(foreign_processes(running, self._pid))

        for channel, quantity, function, unit in (
            ("temperature", Quantity.TEMPERATURE_C, temperature, 1.0),
            ("power_limit", Quantity.POWER_LIMIT_W, limit, MILLI),
            ("foreign", Quantity.FOREIGN_PROCESSES, foreign, 1.0),
        ):
            index = self._add(f"{label}/{channel}", quantity, gpu.uuid, scope, unit)
            gpu.slow.append(_Call(index, function, unit))

    def _stand_in(self, gpu: _Gpu, label: str, channel: str, scope: str) -> None:
        """The older calls, where there is no field."""
        nvml, handle = self._nvml, gpu.handle
        if channel == "energy":
            call, quantity = nvml.nvmlDeviceGetTotalEnergyConsumption, Quantity.ENERGY_J
            note = "the energy counter is read by nvmlDeviceGetTotalEnergyConsumption, without a driver timestamp"
        else:
            call, quantity = nvml.nvmlDeviceGetPowerUsage, Quantity.POWER_MEAN_W
            note = (
                "there is no instant power; nvmlDeviceGetPowerUsage stands in, on Ampere (but GA100) and newer "
                "a mean over the last second"
            )
        try:
            call(handle)
        except nvml.NVMLError as error:
            if self._status(error.value) in {ReadStatus.UNSUPPORTED, ReadStatus.DENIED}:
                return
        index = self._add(f"{label}/{channel}", quantity, gpu.uuid, scope, MILLI)
        gpu.calls.append(_Call(index, lambda: float(call(handle)), MILLI))
        self._assumptions.append(f"{gpu.uuid}: {note}")

    def _note_vgpu(self, gpu: _Gpu) -> None:
        try:
            if self._nvml.nvmlDeviceGetVirtualizationMode(gpu.handle) == _VGPU:
                self._assumptions.append(f"{gpu.uuid} is a virtual GPU: what its readings cover is not known")
        except self._nvml.NVMLError:
            return  # a driver that does not know the question has no virtual GPUs

    def _add(self, name: str, quantity: Quantity, device: str, scope: str, unit: float) -> int:
        self._channels.append(
            Channel(
                name=name,
                quantity=quantity,
                device=device,
                scope=scope,
                basis=self._basis,
                quantum=unit,
                gain_error=GAIN_ERROR if quantity in _ENERGIES else 0.0,
            )
        )
        return len(self._channels) - 1

    def _try(self, fields: list[tuple[int, int]], handle: Any) -> list[ReadStatus]:
        try:
            values = self._nvml.nvmlDeviceGetFieldValues(handle, fields)
        except self._nvml.NVMLError as error:
            return [self._status(error.value)] * len(fields)
        return [self._value(value)[0] for value in values]

    def _fields(self, gpu: _Gpu) -> list[Sample]:
        if not gpu.fields:
            return []
        at_ns = self._clock()
        try:
            values = self._nvml.nvmlDeviceGetFieldValues(gpu.handle, [(f.id, f.scope) for f in gpu.fields])
        except self._nvml.NVMLError as error:
            status = self._status(error.value)
            return [Sample(f.channel, at_ns, status) for f in gpu.fields]
        samples = []
        for f, value in zip(gpu.fields, values, strict=True):
            status, raw = self._value(value)
            sensor_ns = value.timestamp * 1000 if value.timestamp > 0 else None  # microseconds since 1970
            samples.append(
                Sample(f.channel, at_ns, status, None if raw is None else raw * f.unit, sensor_ns)
                if status is ReadStatus.OK
                else Sample(f.channel, at_ns, status)
            )
        return samples

    def _call(self, call: _Call) -> Sample:
        at_ns = self._clock()
        try:
            return Sample(call.channel, at_ns, ReadStatus.OK, call.function() * call.unit)
        except self._nvml.NVMLError as error:
            return Sample(call.channel, at_ns, self._status(error.value))
        except OSError:  # /proc, while looking for the run's own processes
            return Sample(call.channel, at_ns, ReadStatus.MISSING)

    def _value(self, value: Any) -> tuple[ReadStatus, float | None]:
        """One field's status and number: the return code first, then the type, then the value."""
        status = self._status(value.nvmlReturn)
        if status is not ReadStatus.OK:
            return status, None
        attribute = _VALUES.get(value.valueType)
        if attribute is None:
            return ReadStatus.MISSING, None
        raw = getattr(value.value, attribute)
        if raw < 0 or raw == _NOT_AVAILABLE.get(value.valueType):
            return ReadStatus.MISSING, None
        return ReadStatus.OK, raw

    def _status(self, code: int) -> ReadStatus:
        nvml = self._nvml
        if code == nvml.NVML_SUCCESS:
            return ReadStatus.OK
        # An unknown field is an invalid argument to an older driver.
        if code in {
            nvml.NVML_ERROR_NOT_SUPPORTED,
            nvml.NVML_ERROR_INVALID_ARGUMENT,
            nvml.NVML_ERROR_FUNCTION_NOT_FOUND,
        }:
            return ReadStatus.UNSUPPORTED
        if code == nvml.NVML_ERROR_NO_PERMISSION:
            return ReadStatus.DENIED
        if code in {
            nvml.NVML_ERROR_GPU_IS_LOST,
            nvml.NVML_ERROR_RESET_REQUIRED,
            nvml.NVML_ERROR_UNINITIALIZED,
            nvml.NVML_ERROR_DRIVER_NOT_LOADED,
            nvml.NVML_ERROR_GPU_NOT_FOUND,
        }:
            return ReadStatus.LOST
        return ReadStatus.MISSING


_ENERGIES = frozenset({Quantity.ENERGY_J, Quantity.POWER_W, Quantity.POWER_MEAN_W})


def _module() -> Any:
    try:
        import pynvml
    except ImportError as error:
        raise UserError("needs the Python package nvidia-ml-py: pip install nvidia-ml-py") from error
    return pynvml


def _prefix(scope: int) -> str:
    return "" if scope == 0 else f"{_SCOPES[scope]}_"


def _scope(scope: int, own: str) -> str:
    return own if scope == 0 else _SCOPES[scope]


def _major(driver: str) -> int:
    head = driver.split(".", 1)[0]
    return int(head) if head.isdigit() else 0


def _text(value: str | bytes) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else value
