"""Which cards are metered, by UUID: NVML does not know ``CUDA_VISIBLE_DEVICES``, and its numbers are not CUDA's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from harness.types import UserError

_VGPU, _HOST_VGPU, _HOST_VSGA = 2, 3, 4  # nvmlGpuVirtualizationMode_t


@dataclass(frozen=True, slots=True)
class Card:
    """A card to meter."""

    uuid: str  # as it was asked for: a MIG instance keeps its own
    handle: Any  # of the whole card
    scope: str  # what its readings cover: "gpu", "board" or "vgpu"
    notes: tuple[str, ...] = ()


def find_cards(nvml: Any, device: str | None) -> list[Card]:
    """The cards of a comma-separated list of UUIDs, or all of the node (``None``).

    A MIG instance, named as ``MIG-...`` or by torch without the kind in front, is metered by its board, and a
    board once, however many of its instances are asked for.

    Raises:
        UserError: no card, or no such card.
        NVMLError: a card that can't be reached.
    """
    if device is None:
        handles = [nvml.nvmlDeviceGetHandleByIndex(i) for i in range(nvml.nvmlDeviceGetCount())]
        if not handles:
            raise UserError("NVML sees no NVIDIA card")
        return [_card(nvml, text(nvml.nvmlDeviceGetUUID(handle)), handle) for handle in handles]
    cards: dict[str, Card] = {}
    for uuid in device.split(","):
        card = _by_uuid(nvml, uuid.strip())
        board = text(nvml.nvmlDeviceGetUUID(card.handle))
        first = cards.get(board)
        if first is not None:
            note = f"{card.uuid} is on the same board as {first.uuid}: the board is read once"
            card = Card(first.uuid, first.handle, first.scope, (*first.notes, note))
        cards[board] = card
    return list(cards.values())


def text(value: str | bytes) -> str:
    """NVML's strings, of any version of ``pynvml``."""
    return value.decode(errors="replace") if isinstance(value, bytes) else value


def _by_uuid(nvml: Any, uuid: str) -> Card:
    # torch gives UUIDs without the kind in front, and of an instance of a card it may be either's.
    names = [uuid] if uuid.startswith("MIG-") else [f"{kind}-{uuid.removeprefix('GPU-')}" for kind in ("GPU", "MIG")]
    for name in names:
        try:
            handle = nvml.nvmlDeviceGetHandleByUUID(name)
        except nvml.NVMLError as error:
            if error.value not in {nvml.NVML_ERROR_NOT_FOUND, nvml.NVML_ERROR_INVALID_ARGUMENT}:
                raise
            continue
        if not name.startswith("MIG-"):
            return _card(nvml, name, handle)
        note = f"{name} is a MIG instance: readings are those of its whole board"
        return Card(name, nvml.nvmlDeviceGetDeviceHandleFromMigDeviceHandle(handle), "board", (note,))
    here = [text(nvml.nvmlDeviceGetUUID(nvml.nvmlDeviceGetHandleByIndex(i))) for i in range(nvml.nvmlDeviceGetCount())]
    raise UserError(f"NVML knows no card {names[0]}; it sees {', '.join(here) or 'none'}")


def _card(nvml: Any, uuid: str, handle: Any) -> Card:
    mode = _ask(nvml, "nvmlDeviceGetVirtualizationMode", handle)
    if mode == _VGPU:
        return Card(uuid, handle, "vgpu", (f"{uuid} is a virtual GPU: what its readings cover is not known",))
    if mode in {_HOST_VGPU, _HOST_VSGA}:
        note = f"{uuid} is shared out to virtual machines: readings are those of the whole board"
        return Card(uuid, handle, "board", (note,))
    if (_ask(nvml, "nvmlDeviceGetMigMode", handle) or [0])[0] == 1:
        note = f"{uuid} is cut into MIG instances: readings are those of the whole board, whoever uses it"
        return Card(uuid, handle, "board", (note,))
    return Card(uuid, handle, "gpu")


def _ask(nvml: Any, function: str, handle: Any) -> Any:
    """An answer, or ``None`` of a driver that does not know the question."""
    try:
        return getattr(nvml, function)(handle)
    except (AttributeError, nvml.NVMLError):
        return None
