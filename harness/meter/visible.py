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
    named = next((kind for kind in ("GPU-", "MIG-") if value.strip().startswith(kind)), None)
    entries: list[str | int] = []
    for word in value.split(","):
        entry = _number(word.strip()) if named is None else word.strip()
        if entry in entries:
            return []
        if (isinstance(entry, int) and entry < 0) or (isinstance(entry, str) and not entry.startswith(named or "")):
            break
        entries.append(entry)
    found: list[str] = []
    for entry in entries:
        card = _card(entry, cards)
        if card is None:
            break
        if card in found:
            return []
        found.append(card)
    return found


def _number(word: str) -> int:
    """As ``strtoul``: what follows the digits does not matter; -1 of what is none."""
    number = re.match(r"\+?(\d+)", word)
    return int(number[1]) if number else -1


def _card(entry: str | int, cards: Sequence[str]) -> str | None:
    if isinstance(entry, int):
        return cards[entry] if entry < len(cards) else None
    if entry.startswith("MIG-"):
        return entry
    fitting = [card for card in cards if card.startswith(entry)]
    return fitting[0] if len(fitting) == 1 else None
