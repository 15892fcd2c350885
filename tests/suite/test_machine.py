"""What the plan believes about a machine, with NVML played by a stand-in."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from harness.suite import machine
from harness.suite.machine import detect, peak_flops
from harness.suite.units import duration_text, gib


class FakeNvml(SimpleNamespace):
    """Two cards, the second without a power limit."""

    class NVMLError(Exception):
        pass

    names = ("NVIDIA H100 80GB HBM3", b"NVIDIA L4")

    def __init__(self, broken: bool = False) -> None:
        super().__init__()
        self.broken = broken

    def nvmlInit(self) -> None:  # noqa: N802
        if self.broken:
            raise self.NVMLError

    def nvmlShutdown(self) -> None:  # noqa: N802
        pass

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802
        return 2

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:  # noqa: N802
        return index

    def nvmlDeviceGetUUID(self, handle: int) -> str:  # noqa: N802
        return f"GPU-{handle}"

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> int:  # noqa: N802
        return {"GPU-0": 0, "GPU-1": 1, "MIG-7": 1}[uuid]

    def nvmlDeviceGetName(self, handle: int) -> str | bytes:  # noqa: N802
        return self.names[handle]

    def nvmlDeviceGetEnforcedPowerLimit(self, handle: int) -> int:  # noqa: N802
        if handle == 1:
            raise self.NVMLError
        return 700_000

    def nvmlDeviceGetMemoryInfo(self, handle: int) -> Any:  # noqa: N802
        return SimpleNamespace(total=(80, 24)[handle] * 2**30)


@pytest.fixture(autouse=True)
def _no_card(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.delenv("CUDA_DEVICE_ORDER", raising=False)
    monkeypatch.setitem(sys.modules, "pynvml", FakeNvml(broken=True))


@pytest.fixture
def cards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", FakeNvml())


def test_without_a_card_the_cpu_is_described() -> None:
    for wanted in ("auto", "cuda", "cpu"):
        found = detect(wanted)  # type: ignore[arg-type]
        assert found.device == "cpu"
        assert 1 <= found.cores <= (psutil.cpu_count() or 1)
        assert 0 < found.memory_bytes <= psutil.virtual_memory().total
        assert found.watts > 0
        assert f"{found.cores} cores" in found.description


@pytest.mark.usefixtures("cards")
def test_the_first_visible_card_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    found = detect("auto")
    assert (found.device, found.name, found.watts) == ("cuda", "NVIDIA H100 80GB HBM3", 700.0)
    assert found.uuid == "GPU-0"
    assert found.flops_per_second == machine.GPU_UTILISATION * 989e12
    assert found.description.startswith("NVIDIA H100 80GB HBM3, 80 GiB of GPU memory")
    assert detect("cpu").device == "cpu"
    for visible, name in (
        ("1,0", "NVIDIA L4"),
        ("GPU-1", "NVIDIA L4"),
        ("0", "NVIDIA H100 80GB HBM3"),
        ("MIG-7", "NVIDIA L4"),
    ):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
        assert detect("auto").name == name
    for visible in ("", "-1", "7"):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
        assert detect("auto").device == "cpu"


@pytest.mark.usefixtures("cards")
def test_unlike_cards_in_cudas_own_order_are_warned_about(monkeypatch: pytest.MonkeyPatch) -> None:
    assert any("fastest of these unlike cards" in source for source in detect("cuda").sources)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-1")
    assert not any("unlike" in source for source in detect("cuda").sources)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    monkeypatch.setenv("CUDA_DEVICE_ORDER", "PCI_BUS_ID")
    assert not any("unlike" in source for source in detect("cuda").sources)


@pytest.mark.usefixtures("cards")
def test_an_assumed_power_limit_is_said_to_be_assumed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert "power: assumed: the card does not tell its power limit" in detect("cuda").sources


@pytest.mark.parametrize(
    ("name", "peak"),
    [
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("NVIDIA L40S", 362e12),
        ("NVIDIA L4", 121e12),
        ("NVIDIA GeForce RTX 4090", 165e12),
        ("NVIDIA A10", 125e12),
        ("Somebody's Card", machine.UNKNOWN_GPU_PEAK),
    ],
)
def test_peak_by_name(name: str, peak: float) -> None:
    assert peak_flops(name) == peak


def test_a_cgroup_cuts_cores_and_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    files = {"/sys/fs/cgroup/cpu.max": "100000 100000\n", "/sys/fs/cgroup/memory.max": "1073741824\n"}
    monkeypatch.setattr(machine, "_read", lambda path: files.get(path, ""))
    assert machine.available_cores() == 1
    assert machine.available_memory_bytes() == 2**30
    files.update({"/sys/fs/cgroup/cpu.max": "max 100000\n", "/sys/fs/cgroup/memory.max": "max\n"})
    assert machine.available_memory_bytes() == psutil.virtual_memory().total


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(2.84, "2.8 s"), (45, "45 s"), (99.6, "2 min"), (540, "9 min"), (12600, "3.5 h"), (1e6, "12 days")],
)
def test_durations_for_people(seconds: float, text: str) -> None:
    assert duration_text(seconds) == text


@pytest.mark.parametrize(
    ("size", "text"), [(1, "1 MiB"), (40 * 2**20, "40 MiB"), (1.5 * 2**30, "1.5 GiB"), (57 * 2**30, "57 GiB")]
)
def test_sizes_for_people(size: float, text: str) -> None:
    assert gib(size) == text
