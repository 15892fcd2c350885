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
from harness.meter.foreign import Kin, in_pid_namespace
from harness.meter.nvml_cards import find_cards, text
from harness.meter.nvml_facts import Look, facts_of, look_note, look_of
from harness.meter.nvml_fields import ENERGY, POWER, POWER_MEAN, SCOPES, Fields, Wanted, status_of, throttle_fields
from harness.types import Basis, UserError

GAIN_ERROR = 0.05
"""Relative, one standard deviation: recent cards are off by 4 to 8 % (Yang, Adamek and Armour, SC24)."""
SLOW_NS = 1_000_000_000
MILLI = 1e-3  # mW and mJ to W and J


@dataclass(frozen=True, slots=True)
class _Call:
    channel: int
    function: Callable[[], float]
    unit: float


@dataclass(slots=True)
class _Gpu:
    uuid: str
    handle: Any
    fields: Fields | None = None
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
        self._kin = Kin(None)
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
        self._kin = Kin(pid)
        try:
            nvml.nvmlInit()
        except nvml.NVMLError as error:
            raise UserError(f"NVML can't be opened: {error}") from error
        self._is_open = True
        try:
            driver = text(nvml.nvmlSystemGetDriverVersion())
            cards = find_cards(nvml, device)
            names = [text(nvml.nvmlDeviceGetName(card.handle)) for card in cards]
        except nvml.NVMLError as error:
            raise UserError(f"NVML can't reach the card {device or ''}: {error}") from error
        for index, (card, name) in enumerate(zip(cards, names, strict=True)):
            gpu = _Gpu(card.uuid, card.handle)
            self._gpus.append(gpu)
            self._assumptions += card.notes
            self._offer(gpu, f"gpu{index}", name, card.scope, driver)
            self._assumptions.append(f"{card.uuid}: {facts_of(nvml, card.handle)}")
        look, note = self._look(names)
        self._assumptions.append(note)
        self._assumptions.append(
            f"readings are taken to be off by {GAIN_ERROR:.0%} (one standard deviation), alike in all runs on one card"
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
            update_period_s=look.period_s,
            look_s=look.look_s,
        )

    def read(self) -> list[Sample]:
        """Every fast channel; once a second the slow ones with them."""
        samples: list[Sample] = []
        for gpu in self._gpus:
            if gpu.fields is not None:
                samples += gpu.fields.read(self._clock())
            samples += [self._call(call) for call in gpu.calls]
        now_ns = self._clock()
        if now_ns >= self._slow_due_ns:
            self._slow_due_ns = now_ns + SLOW_NS
            self._kin.forget()
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

    def _look(self, names: list[str]) -> tuple[Look, str]:
        """How the cards' sensors look at their load, and what to say of it."""
        look = look_of(names)
        return look, look_note(look)

    def _offer(self, gpu: _Gpu, label: str, name: str, scope: str, driver: str) -> None:
        """Try every channel of one card and keep what answers."""
        counter_scope = scope
        if "GH200" in name:
            counter_scope = "module"
            self._assumptions.append(f"{gpu.uuid}: the energy counter of a {name} covers the whole module")
        wanted = [
            (ENERGY, 0, "energy", Quantity.ENERGY_J, counter_scope),
            *((POWER, s, f"{_prefix(s)}power", Quantity.POWER_W, SCOPES[s] if s else scope) for s in SCOPES),
            (POWER_MEAN, 0, "power_mean", Quantity.POWER_MEAN_W, scope),
            *((id_, 0, f"throttle_{why}", Quantity.THROTTLE_NS, scope) for id_, why in throttle_fields(driver).items()),
        ]
        trial = Fields(self._nvml, gpu.handle, [Wanted(id_, s, 0, 1.0) for id_, s, *_ in wanted])
        statuses = [sample.status for sample in trial.read(0)]
        missing: list[str] = []
        kept: list[Wanted] = []
        for (id_, s, channel, quantity, of), status in zip(wanted, statuses, strict=True):
            if status in {ReadStatus.OK, ReadStatus.MISSING}:
                unit = 1.0 if quantity is Quantity.THROTTLE_NS else MILLI
                kept.append(Wanted(id_, s, self._add(f"{label}/{channel}", quantity, gpu.uuid, of, unit), unit))
            elif s == 0:
                missing.append(f"{channel} ({status.value})")
        if kept:
            gpu.fields = Fields(self._nvml, gpu.handle, kept)
        have = {self._channels[one.channel].quantity for one in kept}
        if Quantity.ENERGY_J not in have:
            statuses.append(self._stand_in(gpu, label, "energy", counter_scope))
        if Quantity.POWER_W not in have and Quantity.POWER_MEAN_W not in have:
            statuses.append(self._stand_in(gpu, label, "power_mean", scope))
        if missing:
            self._assumptions.append(f"{gpu.uuid}: this card or driver has no field for {', '.join(missing)}")
        if not any(c.device == gpu.uuid and c.quantity in _ENERGIES for c in self._channels):
            raise UserError(
                f"NVML gives neither energy nor power of {gpu.uuid} ({name}, driver {driver}): {_why_not(statuses)}"
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
            return float(self._kin.strangers(running))

        for channel, quantity, function, unit in (
            ("temperature", Quantity.TEMPERATURE_C, temperature, 1.0),
            ("power_limit", Quantity.POWER_LIMIT_W, limit, MILLI),
            ("foreign", Quantity.FOREIGN_PROCESSES, foreign, 1.0),
        ):
            index = self._add(f"{label}/{channel}", quantity, gpu.uuid, scope, unit)
            gpu.slow.append(_Call(index, function, unit))

    def _stand_in(self, gpu: _Gpu, label: str, channel: str, scope: str) -> ReadStatus:
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
        status = ReadStatus.OK
        try:
            call(handle)
        except nvml.NVMLError as error:
            status = status_of(nvml, error.value)
        if status not in {ReadStatus.OK, ReadStatus.MISSING}:
            return status
        index = self._add(f"{label}/{channel}", quantity, gpu.uuid, scope, MILLI)
        gpu.calls.append(_Call(index, lambda: float(call(handle)), MILLI))
        self._assumptions.append(f"{gpu.uuid}: {note}")
        return status

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

    def _call(self, call: _Call) -> Sample:
        at_ns = self._clock()
        try:
            return Sample(call.channel, at_ns, ReadStatus.OK, call.function() * call.unit)
        except self._nvml.NVMLError as error:
            return Sample(call.channel, at_ns, status_of(self._nvml, error.value))
        except OSError:  # /proc, while looking for the run's own processes
            return Sample(call.channel, at_ns, ReadStatus.MISSING)


_ENERGIES = frozenset({Quantity.ENERGY_J, Quantity.POWER_W, Quantity.POWER_MEAN_W})


def _module() -> Any:
    try:
        import pynvml
    except ImportError as error:
        raise UserError("needs the Python package nvidia-ml-py: pip install nvidia-ml-py") from error
    return pynvml


def _prefix(scope: int) -> str:
    return f"{SCOPES[scope]}_" if scope else ""


def _why_not(statuses: list[ReadStatus]) -> str:
    """Why a card has nothing to read, and what to do."""
    if ReadStatus.LOST in statuses:
        return "the card is lost or needs a reset; look with nvidia-smi and in the kernel's log (Xid), then reset it"
    if ReadStatus.DENIED in statuses:
        return "this user may not read them; ask for access to the card's counters"
    return "a virtual GPU or an old card; meter it from outside or on another card"
