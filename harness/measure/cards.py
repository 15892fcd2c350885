"""Which cards a command started here can use, by UUID."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from harness.meter.visible import visible_cards
from harness.types import UserError


def cards_of(environment: Mapping[str, str], nvml: Any) -> list[str]:
    """UUIDs in CUDA's order. ``nvml`` is ``pynvml`` or stands for it.

    Numbers in ``CUDA_VISIBLE_DEVICES`` are CUDA's, fastest card first; NVML counts by PCI bus. They are the same
    under ``CUDA_DEVICE_ORDER=PCI_BUS_ID``, and no matter where all cards are alike.

    Raises:
        UserError: numbers that could mean either of two unlike cards.
    """
    value = environment.get("CUDA_VISIBLE_DEVICES")
    nvml.nvmlInit()
    try:
        handles = [nvml.nvmlDeviceGetHandleByIndex(index) for index in range(nvml.nvmlDeviceGetCount())]
        cards = [_text(nvml.nvmlDeviceGetUUID(handle)) for handle in handles]
        alike = len({_text(nvml.nvmlDeviceGetName(handle)) for handle in handles}) <= 1
    finally:
        nvml.nvmlShutdown()
    numbered = value is not None and value.strip()[:1].isdigit()
    if numbered and not alike and environment.get("CUDA_DEVICE_ORDER") != "PCI_BUS_ID":
        raise UserError(
            f"CUDA_VISIBLE_DEVICES={value}: the cards here are not alike, and CUDA may number them otherwise than "
            "NVML; name the card to be metered by --device UUID, or set CUDA_DEVICE_ORDER=PCI_BUS_ID"
        )
    return visible_cards(value, cards)


def _text(value: str | bytes) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else value
