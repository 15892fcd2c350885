"""A small stand-in for ``pynvml``: cards whose every answer a test can set. Names and codes are the real ones."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pynvml

ULL = 3
UINT = 1


@dataclass
class Card:
    uuid: str
    name: str = "NVIDIA H100 PCIe"
    fields: dict[tuple[int, int], tuple[int, int, int]] = field(default_factory=dict)  # -> (code, type, value)
    energy_mj: int = 1_000_000
    power_mw: int = 300_000
    temperature: int = 50
    limit_mw: int = 350_000
    processes: list[int] = field(default_factory=list)
    virtualization: int = 0
    lost: bool = False
    failing: dict[str, int] = field(default_factory=dict)  # function -> code
    timestamp_us: int = 1_700_000_000_000_000
    mig: bool = False  # its instances are called as the card, with MIG for GPU and a letter behind
    facts: dict[str, Any] = field(default_factory=dict)  # function -> answer; without one it is not supported

    def all_fields(self) -> Card:
        self.fields = {
            (83, 0): (0, ULL, self.energy_mj),
            (186, 0): (0, UINT, self.power_mw),
            (185, 0): (0, UINT, self.power_mw - 5000),
            (74, 0): (0, ULL, 123),
            (75, 0): (0, ULL, 0),
            (269, 0): (0, ULL, 0),
            (270, 0): (0, ULL, 0),
            (271, 0): (0, ULL, 0),
        }
        return self


class FakeNvml:
    """Module object for ``NvmlMeter(nvml=...)``."""

    def __init__(self, *cards: Card, driver: str = "580.95.05", init: int = 0) -> None:
        self.cards = list(cards)
        self.driver = driver
        self.init = init
        self.open = 0
        self.calls: list[str] = []

    def __getattr__(self, name: str) -> Any:
        if name.startswith("NVML"):
            return getattr(pynvml, name)
        if not hasattr(pynvml, name):
            raise AttributeError(name)

        def ask(card: Card, *arguments: Any) -> Any:
            self._check(card, name)
            if name not in card.facts:
                raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)
            return card.facts[name]

        return ask

    def nvmlInit(self) -> None:  # noqa: N802
        if self.init:
            raise pynvml.NVMLError(self.init)
        self.open += 1

    def nvmlShutdown(self) -> None:  # noqa: N802
        self.open -= 1

    def nvmlSystemGetDriverVersion(self) -> str:  # noqa: N802
        return self.driver

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802
        return len(self.cards)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> Card:  # noqa: N802
        return self.cards[index]

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> Any:  # noqa: N802
        for card in self.cards:
            if uuid == card.uuid:
                return card
            if uuid.startswith(card.uuid.replace("GPU", "MIG")):
                return SimpleNamespace(parent=card)
        raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_FOUND)

    def nvmlDeviceGetDeviceHandleFromMigDeviceHandle(self, handle: Any) -> Card:  # noqa: N802
        return handle.parent

    def nvmlDeviceGetUUID(self, card: Card) -> str:  # noqa: N802
        return card.uuid

    def nvmlDeviceGetName(self, card: Card) -> str:  # noqa: N802
        self._check(card, "nvmlDeviceGetName")
        return card.name

    def nvmlDeviceGetMigMode(self, card: Card) -> list[int]:  # noqa: N802
        return [int(card.mig), int(card.mig)]

    def nvmlDeviceGetFieldValues(self, card: Card, ids: list[tuple[int, int]]) -> list[Any]:  # noqa: N802
        self._check(card, "nvmlDeviceGetFieldValues")
        values = (pynvml.c_nvmlFieldValue_t * len(ids))()
        for value, (id_, scope) in zip(values, ids, strict=True):
            code, kind, number = card.fields.get((id_, scope), (pynvml.NVML_ERROR_NOT_SUPPORTED, 0, 0))
            value.fieldId, value.scopeId = id_, scope
            value.nvmlReturn, value.valueType = code, kind
            value.timestamp = card.timestamp_us
            setattr(value.value, {0: "dVal", 1: "uiVal", 3: "ullVal", 5: "siVal"}.get(kind, "ullVal"), number)
        return values

    def nvmlDeviceGetTotalEnergyConsumption(self, card: Card) -> int:  # noqa: N802
        self._check(card, "nvmlDeviceGetTotalEnergyConsumption")
        return card.energy_mj

    def nvmlDeviceGetPowerUsage(self, card: Card) -> int:  # noqa: N802
        self._check(card, "nvmlDeviceGetPowerUsage")
        return card.power_mw

    def nvmlDeviceGetTemperatureV(self, card: Card, sensor: int) -> int:  # noqa: N802
        self._check(card, "nvmlDeviceGetTemperatureV")
        return card.temperature

    def nvmlDeviceGetTemperature(self, card: Card, sensor: int) -> int:  # noqa: N802
        self._check(card, "nvmlDeviceGetTemperature")
        return card.temperature

    def nvmlDeviceGetEnforcedPowerLimit(self, card: Card) -> int:  # noqa: N802
        self._check(card, "nvmlDeviceGetEnforcedPowerLimit")
        return card.limit_mw

    def nvmlDeviceGetComputeRunningProcesses(self, card: Card) -> list[Any]:  # noqa: N802
        self._check(card, "nvmlDeviceGetComputeRunningProcesses")
        return [SimpleNamespace(pid=pid, usedGpuMemory=None) for pid in card.processes]

    def nvmlDeviceGetVirtualizationMode(self, card: Card) -> int:  # noqa: N802
        return card.virtualization

    def _check(self, card: Card, function: str) -> None:
        self.calls.append(function)
        if card.lost:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_GPU_IS_LOST)
        if function in card.failing:
            raise pynvml.NVMLError(card.failing[function])
