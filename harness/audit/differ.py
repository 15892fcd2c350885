"""Where two JSON documents differ, in words."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

SHOWN = 3
"""So many differences are named; the rest is counted."""
_ABSENT = object()


def differences(claimed: Any, derived: Any, says: str) -> list[str]:
    """Each as ``path: SAYS x, y follows``; the first few, then how many more."""
    found = list(_walk(claimed, derived, ""))
    told = [f"{path or 'the whole'}: {says} {_text(mine)}, {_text(yours)} follows" for path, mine, yours in found]
    more = len(told) - SHOWN
    return [*told[:SHOWN], *([f"and {more} more {'fields' if more > 1 else 'field'}"] if more > 0 else [])]


def _walk(claimed: Any, derived: Any, path: str) -> Iterator[tuple[str, Any, Any]]:
    if isinstance(claimed, dict) and isinstance(derived, dict):
        for key in dict.fromkeys([*claimed, *derived]):
            inner = f"{path}.{key}" if path else str(key)
            yield from _walk(claimed.get(key, _ABSENT), derived.get(key, _ABSENT), inner)
    elif isinstance(claimed, list) and isinstance(derived, list) and len(claimed) == len(derived):
        for index, (mine, yours) in enumerate(zip(claimed, derived, strict=True)):
            yield from _walk(mine, yours, f"{path}[{index}]")
    elif type(claimed) is not type(derived) or claimed != derived:
        yield path, claimed, derived


def _text(value: Any) -> str:
    if value is _ABSENT:
        return "nothing"
    if isinstance(value, list | dict):
        return f"{len(value)} entries"
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 80 else f"{text[:77]}..."
