"""What is promised of every family under every mode: one definition for the tests and for the table in the docs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sat_families import FAMILIES

CAPABILITIES = {
    "train": "the active share is kept, entries change no output, and what is left at the end is the plain model",
    "resume": "from a checkpoint on disk into other weights; the same bits as without the stop",
    "bf16": "autocast; losses are those of fp32 but for bf16's rounding, and weights stay fp32",
    "checkpointing": "gradient checkpointing changes nothing",
    "compile": "layers compiled one by one train as in eager, with no more graphs than promised",
    "DDP": "two processes train as one does on the whole batch, with the same units",
    "FSDP2": "likewise",
}
MODES: dict[str, dict[str, Any]] = {
    "depth": {"axis": "depth", "schedule": ((0.0, 0.3), (0.5, 1.0)), "ramp_steps": 3},
    "width": {"axis": "width", "schedule": ((0.0, 0.3), (0.5, 1.0)), "probe_batches": 1},
    "freeze": {"mode": "freeze", "schedule": ((0.0, 0.4),), "interval": 3, "probe_batches": 1},
    "backward_drop": {"mode": "backward_drop", "schedule": ((0.0, 0.4),), "interval": 3, "probe_batches": 1},
    "prefix": {"mode": "prefix", "schedule": ((0.0, 0.4), (0.5, 0.2))},
}
TITLES = {"depth": "`skip`, `depth`", "width": "`skip`, `width`"}
WITH_KIN = ("compile", "DDP", "FSDP2")  # what relatives of a family are not run for again


@dataclass(frozen=True)
class Refusal:
    """Why something can't work, in the table's words, and the error that says so."""

    reason: str
    error: str  # a regular expression


NO_LOWEST = Refusal(
    "refused: of several stacks side by side none has the lowest layer; name one stack",
    r"there is no one lowest layer",
)
NOT_OFFERED = Refusal(
    "all but checkpointing, which `transformers` does not offer for it",
    r"does not support (gradient|activation) checkpointing",
)
RUN_WITH_KIN = (
    "train, resume, bf16 and checkpointing are run; the rest is run with the family of the same layers (llama, bert, "
    "t5-gated)"
)


def refusal(family: str, mode: str, capability: str) -> Refusal | None:
    """Why this can't work; ``None`` where it does."""
    if mode == "prefix" and not FAMILIES[family].chain:
        return NO_LOWEST
    if capability == "checkpointing" and FAMILIES[family].convolutional:
        return NOT_OFFERED
    return None


def cells(capability: str) -> list[tuple[str, str]]:
    """Families and modes for which it works, and is run."""
    return [
        (name, mode)
        for name, family in FAMILIES.items()
        for mode in MODES
        if refusal(name, mode, capability) is None and not (family.relative and capability in WITH_KIN)
    ]


def table() -> str:
    """For the docs: families by modes."""
    notes: list[str] = []

    def note(text: str) -> str:
        if text not in notes:
            notes.append(text)
        return f"<sup>{'abc'[notes.index(text)]}</sup>"

    def cell(name: str, mode: str) -> str:
        found = {found.reason for what in CAPABILITIES if (found := refusal(name, mode, what))}
        works = "✓" if (name, mode) in cells("train") else "–"
        if FAMILIES[name].relative and works == "✓":
            found.add(RUN_WITH_KIN)
        return works + "".join(note(text) for text in sorted(found))

    rows = [
        f"| family | {' | '.join(TITLES.get(mode, f'`{mode}`') for mode in MODES)} |",
        "|---" * (len(MODES) + 1) + "|",
        *(f"| {name} | {' | '.join(cell(name, mode) for mode in MODES)} |" for name in FAMILIES),
    ]
    meant = ["✓: all of", "", *(f"- **{name}**: {text}" for name, text in CAPABILITIES.items())]
    marks = [f"<sup>{'abc'[at]}</sup> {text}  " for at, text in enumerate(notes)]
    return "\n".join([*rows, "", *meant, "", *marks]).rstrip()
