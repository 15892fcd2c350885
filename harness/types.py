"""The base of every type that crosses a disk or a process boundary."""

from __future__ import annotations

import hashlib
import json
from enum import StrEnum
from typing import Any

from pydantic import BaseModel, ConfigDict

from harness.errors import UserError

__all__ = ["Basis", "Frozen", "UserError", "canonical_json", "digest"]


class Frozen(BaseModel):
    """An immutable, validated value. Unknown keys are errors, NaN and infinity are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Basis(StrEnum):
    """How a number came to be. Every number that reaches a user carries one."""

    MEASURED = "measured"  # read from an instrument
    MODELLED = "modelled"  # a formula over something measured (CPU seconds x watts per core)
    SIMULATED = "simulated"  # a made-up instrument: tests and demos only
    COUNTED = "counted"  # exact arithmetic (FLOPs, steps, tokens)
    PROJECTED = "projected"  # outside what was measured


def canonical_json(value: Any) -> str:
    """JSON with sorted keys and no spaces: equal values give equal bytes."""
    if isinstance(value, BaseModel):
        value = value.model_dump(mode="json")
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def digest(value: Any, length: int = 12) -> str:
    """First ``length`` hex digits of the SHA-256 of the value's canonical JSON."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()[:length]
