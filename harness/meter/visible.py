"""What ``CUDA_VISIBLE_DEVICES`` leaves visible, in terms of UUIDs. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence


def visible_cards(value: str | None, cards: Sequence[str]) -> list[str]:
    """UUIDs that CUDA shows, in its order, of the ``cards`` there are (in the order of their PCI buses).

    ``value`` is the variable's, ``None`` if it is not set. CUDA's rules (CUDA C++ Programming Guide, environment
    variables, as torch reads them): entries are numbers, UUIDs or unambiguous beginnings of UUIDs; the first
    entry decides which; the first that names nothing ends the list; one that comes twice leaves nothing. MIG
    instances are given as they are, as ``cards`` does not hold them.
    """
    if value is None:
        return list(cards)
    entries = [entry.strip() for entry in value.split(",")]
    kind = next((kind for kind in ("GPU-", "MIG-") if entries[0].startswith(kind)), "")
    found: list[str] = []
    for entry in entries:
        card = _named(entry, kind, cards) if kind else _numbered(entry, cards)
        if card is None:
            break
        if card in found:
            return []
        found.append(card)
    return found


def _named(entry: str, kind: str, cards: Sequence[str]) -> str | None:
    if not entry.startswith(kind):
        return None
    if kind == "MIG-":
        return entry
    fitting = [card for card in cards if card.startswith(entry)]
    return fitting[0] if len(fitting) == 1 else None


def _numbered(entry: str, cards: Sequence[str]) -> str | None:
    number = re.match(r"\+?(\d+)", entry)  # as strtoul: what follows the digits does not matter
    index = int(number[1]) if number else -1
    return cards[index] if 0 <= index < len(cards) else None
