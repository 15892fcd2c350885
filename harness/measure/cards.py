"""Which cards a command started here can use: UUIDs, by what ``CUDA_VISIBLE_DEVICES`` says.

NVML does not know that variable. Its entries are UUIDs (or unique beginnings of them), which are plain, or
numbers in CUDA's order, which is NVML's only under ``CUDA_DEVICE_ORDER=PCI_BUS_ID`` or where all cards are alike.
CUDA ignores whatever follows the first entry that names no card.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from harness.types import UserError


def visible_cards(environment: Mapping[str, str], nvml: Any) -> list[str]:
    """UUIDs in CUDA's order, all cards if the variable is not set. ``nvml`` is ``pynvml`` or stands for it.

    Raises:
        UserError: numbers that could mean either of two unlike cards.
    """
    value = environment.get("CUDA_VISIBLE_DEVICES")
    nvml.nvmlInit()
    try:
        handles = [nvml.nvmlDeviceGetHandleByIndex(index) for index in range(nvml.nvmlDeviceGetCount())]
        uuids = [_text(nvml.nvmlDeviceGetUUID(handle)) for handle in handles]
        alike = len({_text(nvml.nvmlDeviceGetName(handle)) for handle in handles}) <= 1
    finally:
        nvml.nvmlShutdown()
    if value is None:
        return uuids
    ordered = alike or environment.get("CUDA_DEVICE_ORDER") == "PCI_BUS_ID"
    found: list[str] = []
    for entry in (word.strip() for word in value.split(",")):
        if entry.startswith("MIG-"):
            found.append(entry)
            continue
        if entry.isdigit() and not ordered:
            raise UserError(
                f"CUDA_VISIBLE_DEVICES={value}: the cards here are not alike and CUDA may number them otherwise than "
                "NVML; name the card to be metered by --device UUID, or set CUDA_DEVICE_ORDER=PCI_BUS_ID"
            )
        uuid = _named(entry, uuids)
        if uuid is None:
            break
        found.append(uuid)
    return found


def _named(entry: str, uuids: list[str]) -> str | None:
    if entry.isdigit():
        return uuids[int(entry)] if int(entry) < len(uuids) else None
    fitting = [uuid for uuid in uuids if entry.startswith("GPU-") and uuid.startswith(entry)]
    return fitting[0] if len(fitting) == 1 else None


def _text(value: str | bytes) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else value
