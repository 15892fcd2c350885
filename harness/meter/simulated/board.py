"""What a simulated driver says of its cards that no sensor reads: which there are, what they are called, their limits.

Names, codes and structures are those of ``pynvml``. Whatever asks for a card's name, UUID or driver is told that
it is simulated. Nothing can be set: the answer is that of a driver to somebody who is not root.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pynvml

from harness.meter.simulated.scenario import Scenario
from harness.types import Basis

_VGPU, _BARE = 2, 0  # of nvmlGpuVirtualizationMode_t
_MEMORY_MHZ, _GRAPHICS_MHZ = 2619, (1980, 1965, 1950)  # what an H100 lists, its three highest


@dataclass(frozen=True, slots=True)
class Handle:
    """Stands for a card, or for a MIG instance on it, as the pointers of NVML do."""

    index: int
    instance: bool = False


class SimulatedBoard:
    """One simulated driver and its cards, as far as they stay what they are."""

    basis = Basis.SIMULATED

    def __init__(self, scenario: Scenario) -> None:
        self.scenario = scenario
        self.driver = tuple(int(part) for part in scenario.driver.split("."))
        self._initialised = 0

    def __getattr__(self, name: str) -> Any:
        """Constants, errors and structures are the real ones; functions are only those that are written here."""
        if name.startswith("nvml"):
            raise AttributeError(f"the simulated NVML has no function {name}")
        value = self.__dict__[name] = getattr(pynvml, name)  # next time Python finds it without asking here
        return value

    def uuid_of(self, index: int) -> str:
        """UUID of a card, or of the MIG instance that stands for it; another scenario has other UUIDs."""
        return f"{'MIG' if self.scenario.cards[index].mig else 'GPU'}-SIMULATED-{self.scenario.identity}-{index}"

    def _board_uuid(self, index: int) -> str:
        return f"GPU-SIMULATED-{self.scenario.identity}-{index}"

    def nvmlInit(self) -> None:  # noqa: N802
        """Open the library."""
        self._initialised += 1

    def nvmlShutdown(self) -> None:  # noqa: N802
        """Close it."""
        self._require(self._initialised, pynvml.NVML_ERROR_UNINITIALIZED)
        self._initialised -= 1

    def nvmlSystemGetDriverVersion(self) -> str:  # noqa: N802
        """Version, marked."""
        self._require(self._initialised, pynvml.NVML_ERROR_UNINITIALIZED)
        return f"{self.scenario.driver} (simulated)"

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802
        """Number of cards."""
        self._require(self._initialised, pynvml.NVML_ERROR_UNINITIALIZED)
        return len(self.scenario.cards)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> Handle:  # noqa: N802
        """A card by NVML's own order."""
        self._require(0 <= index < self.nvmlDeviceGetCount(), pynvml.NVML_ERROR_INVALID_ARGUMENT)
        return Handle(index)

    def nvmlDeviceGetHandleByUUID(self, uuid: str | bytes) -> Handle:  # noqa: N802
        """A card, or a MIG instance."""
        text = uuid.decode() if isinstance(uuid, bytes) else uuid
        for index in range(self.nvmlDeviceGetCount()):
            if text in {self.uuid_of(index), self._board_uuid(index)}:
                return Handle(index, instance=text.startswith("MIG-"))
        raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_FOUND)

    def nvmlDeviceGetDeviceHandleFromMigDeviceHandle(self, handle: Handle) -> Handle:  # noqa: N802
        """The board of an instance."""
        return Handle(handle.index)

    def nvmlDeviceGetMigMode(self, handle: Handle) -> list[int]:  # noqa: N802
        """Now, and after a reset."""
        return [int(self.scenario.cards[handle.index].mig)] * 2

    def nvmlDeviceGetUUID(self, handle: Handle) -> str:  # noqa: N802
        """UUID."""
        return self.uuid_of(handle.index) if handle.instance else self._board_uuid(handle.index)

    def nvmlDeviceGetName(self, handle: Handle) -> str:  # noqa: N802
        """Name, marked."""
        return f"{self.scenario.cards[handle.index].name} (simulated)"

    def nvmlDeviceGetIndex(self, handle: Handle) -> int:  # noqa: N802
        """NVML's own number of a card."""
        return handle.index

    def nvmlDeviceGetArchitecture(self, handle: Handle) -> int:  # noqa: N802
        """One of ``NVML_DEVICE_ARCH_...``."""
        return int(getattr(pynvml, f"NVML_DEVICE_ARCH_{self.scenario.cards[handle.index].architecture.upper()}"))

    def nvmlDeviceGetMemoryInfo(self, handle: Handle, version: Any = None) -> Any:  # noqa: N802
        """Total, free and used bytes; nothing is ever in use."""
        total = round(self.scenario.cards[handle.index].memory_gib * 2**30)
        return SimpleNamespace(total=total, free=total, used=0)

    def nvmlDeviceGetVirtualizationMode(self, handle: Handle) -> int:  # noqa: N802
        """Whether it is a virtual GPU."""
        return _VGPU if self.scenario.cards[handle.index].vgpu else _BARE

    def nvmlDeviceGetC2cModeInfoV(self, handle: Handle) -> Any:  # noqa: N802
        """Whether a CPU hangs on the card, as on a Grace Hopper; other cards do not know the question."""
        self._require(self.scenario.cards[handle.index].module, pynvml.NVML_ERROR_NOT_SUPPORTED)
        return SimpleNamespace(isC2cEnabled=1)

    def nvmlDeviceGetComputeMode(self, handle: Handle) -> int:  # noqa: N802
        """Open to all."""
        return int(pynvml.NVML_COMPUTEMODE_DEFAULT)

    def nvmlDeviceGetPersistenceMode(self, handle: Handle) -> int:  # noqa: N802
        """On."""
        return int(pynvml.NVML_FEATURE_ENABLED)

    def nvmlDeviceGetPowerManagementDefaultLimit(self, handle: Handle) -> int:  # noqa: N802
        """Milliwatts: the limit that the scenario gives the card, whatever holds later."""
        return round(self.scenario.cards[handle.index].power_limit_w * 1e3)

    def nvmlDeviceGetPowerManagementLimitConstraints(self, handle: Handle) -> list[int]:  # noqa: N802
        """Lowest and highest limit in milliwatts: a third of the default, and the default."""
        default_mw = self.nvmlDeviceGetPowerManagementDefaultLimit(handle)
        return [default_mw // 3, default_mw]

    def nvmlDeviceGetBoardPartNumber(self, handle: Handle) -> str:  # noqa: N802
        """None that anybody sells."""
        return "SIMULATED"

    def nvmlDeviceGetVbiosVersion(self, handle: Handle) -> str:  # noqa: N802
        """None that anybody runs."""
        return "simulated"

    def nvmlDeviceGetPciInfo(self, handle: Handle) -> Any:  # noqa: N802
        """A bus that no machine has."""
        return SimpleNamespace(busId=f"SIMULATED:{handle.index:02X}:00.0", bus=handle.index, device=0, domain=0)

    def nvmlDeviceGetEccMode(self, handle: Handle) -> list[int]:  # noqa: N802
        """On, now and after a reset."""
        return [int(pynvml.NVML_FEATURE_ENABLED)] * 2

    def nvmlDeviceGetMaxClockInfo(self, handle: Handle, kind: int) -> int:  # noqa: N802
        """MHz, of the memory or of all else."""
        return _MEMORY_MHZ if kind == pynvml.NVML_CLOCK_MEM else _GRAPHICS_MHZ[0]

    nvmlDeviceGetApplicationsClock = nvmlDeviceGetMaxClockInfo  # noqa: N815

    def nvmlDeviceGetSupportedMemoryClocks(self, handle: Handle) -> list[int]:  # noqa: N802
        """MHz."""
        return [_MEMORY_MHZ]

    def nvmlDeviceGetSupportedGraphicsClocks(self, handle: Handle, memory_mhz: int) -> list[int]:  # noqa: N802
        """MHz, highest first."""
        self._require(memory_mhz == _MEMORY_MHZ, pynvml.NVML_ERROR_NOT_FOUND)
        return list(_GRAPHICS_MHZ)

    def _refused(self, *_: Any) -> None:
        """Settings belong to root."""
        raise pynvml.NVMLError(pynvml.NVML_ERROR_NO_PERMISSION)

    nvmlDeviceSetPersistenceMode = _refused  # noqa: N815
    nvmlDeviceSetPowerManagementLimit = _refused  # noqa: N815
    nvmlDeviceSetGpuLockedClocks = _refused  # noqa: N815
    nvmlDeviceSetMemoryLockedClocks = _refused  # noqa: N815
    nvmlDeviceResetGpuLockedClocks = _refused  # noqa: N815
    nvmlDeviceResetMemoryLockedClocks = _refused  # noqa: N815

    @staticmethod
    def _require(condition: object, code: int) -> None:
        if not condition:
            raise pynvml.NVMLError(code)
