"""Which blocks and runs of a plan are wanted: ``--shard i/n`` and ``--only GLOB``."""

from __future__ import annotations

import re
from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import TypeVar

from harness.suite.spec import Block, PlannedRun
from harness.types import UserError

T = TypeVar("T")


def parse_shard(text: str) -> tuple[int, int]:
    """``(0, 4)`` of ``"0/4"``.

    Raises:
        UserError: it is not ``i/n`` with 0 <= i < n.
    """
    match = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text.strip())
    if match is None:
        raise UserError(f"--shard {text}: write it as i/n, such as 0/4")
    index, count = int(match[1]), int(match[2])
    if not index < count:
        last = f"0/{count} to {count - 1}/{count}" if count else "0/1"
        raise UserError(f"--shard {text}: there is no such part; the parts are {last}")
    return index, count


def shard_of(items: Sequence[T], shard: tuple[int, int] | None) -> list[T]:
    """Every n-th item from the i-th on: the same parts on every machine, all together exactly the items."""
    index, count = shard or (0, 1)
    return list(items[index::count])


def only(blocks: Sequence[Block], glob: str | None) -> list[Block]:
    """Runs that one of the comma-separated patterns matches.

    By run id, arm, size, protocol, block id or level of a factor (``compile=true``).

    A block keeps its baseline when any of its runs is kept, since a run without its pair says nothing.

    Raises:
        UserError: nothing matches.
    """
    if glob is None:
        return list(blocks)
    patterns = [pattern.strip() for pattern in glob.split(",") if pattern.strip()]
    kept = []
    for block in blocks:
        wanted = {run.spec.run_id for run in block.runs if _matches(block, run, patterns)}
        if wanted:
            runs = tuple(run for run in block.runs if run.spec.run_id in wanted or run.spec.arm == block.baseline)
            kept.append(block.model_copy(update={"runs": runs}))
    if not kept:
        arms = dict.fromkeys(run.spec.arm for block in blocks for run in block.runs)
        sizes = dict.fromkeys(block.size for block in blocks)
        raise UserError(f"--only {glob}: matches no run; arms: {', '.join(arms)}; sizes: {', '.join(sizes)}")
    return kept


def _matches(block: Block, run: PlannedRun, patterns: Sequence[str]) -> bool:
    spec = run.spec
    levels = (f"{name}={str(level).lower()}" for name, level in spec.levels.items())
    names = (spec.run_id, spec.arm, spec.size, spec.protocol.value, block.block_id, *levels)
    return any(fnmatchcase(name, pattern) for pattern in patterns for name in names)
