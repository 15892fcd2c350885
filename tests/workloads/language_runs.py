"""Small runs of the language workload for its tests."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from harness.suite.spec import Phase, Protocol, Recipe, RunSpec
from harness.workloads.language.ladder import Shape
from harness.workloads.language.workload import LanguageWorkload

TINY = Shape(
    layers=2, width=16, heads=2, kv_heads=2, head_dim=8, hidden=48, vocab=256, sequence_length=16, tied=True
)  # fmt: skip

WORDS = [
    "the",
    "state",
    "of",
    "our",
    "union",
    "is",
    "strong",
    "and",
    "a",
    "nation",
    "of",
    "free",
    "people",
    "works",
    "with",
    "hope",
    "in",
    "every",
    "season",
]


def write_text(path: Path, documents: int = 40, seed: int = 0) -> Path:
    """A small made-up text of unequal documents, as JSON lines."""
    rng = np.random.default_rng(seed)
    lines = [
        json.dumps({"text": " ".join(rng.choice(WORDS, size=int(rng.integers(5, 60)))) + f" № {i}"})
        for i in range(documents)
    ]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def run_spec(shape: Shape = TINY, *, seed: int = 0, batch_size: int = 3, steps: int = 10, **fields: Any) -> RunSpec:
    """A spec of a dense run on the CPU; ``recipe`` and ``options`` are overrides."""
    recipe = Recipe(steps=steps, batch_size=batch_size, learning_rate=0.01, **fields.pop("recipe", {}))
    options = LanguageWorkload.Options.model_validate(fields.pop("options", {})).model_dump()
    known: dict[str, Any] = {
        "arm": "dense",
        "method": "dense",
        "method_version": 1,
        "phases": (Phase(steps=steps),),
    }
    return RunSpec(
        workload="language",
        workload_version=LanguageWorkload.version,
        workload_options=options,
        size="0.1M",
        seed=seed,
        protocol=Protocol.TRAIN,
        model=shape.model_dump(),
        recipe=recipe,
        device="cpu",
        **{**known, **fields},
    )
