"""What was kept when the last ``run`` ended: sums of the files, the judgement, and the page."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from harness.audit.differ import differences
from harness.judge.types import Judgement
from harness.record.ledger import Ledger, sha256_of
from harness.record.seal import Seal, sum_of
from harness.types import canonical_json


def changed_files(ledger: Ledger, seal: Seal) -> Iterator[str]:
    """Files of the set that are not what they were; records.jsonl by its lines."""
    for name, wanted in sorted(seal.files.items()):
        path = ledger.root / name
        if not path.is_file():
            yield f"{name}: is missing; take it back from where the set was published, or record the set anew"
        elif sha256_of(path) != wanted:
            if name == "records.jsonl":
                yield from _lines(path, seal)
            else:
                yield (
                    f"{name}: was changed after the last run (SHA-256 {sha256_of(path)[:16]}, {wanted[:16]} was "
                    "sealed); take it back from where the set was published, or record the set anew"
                )


def _lines(path: Path, seal: Seal) -> Iterator[str]:
    now = [sum_of(line) for line in path.read_bytes().splitlines()]
    then = list(seal.records)
    gone, new = Counter(then) - Counter(now), Counter(now) - Counter(then)
    if not gone and not new:
        moved = next((i for i, (a, b) in enumerate(zip(now, then, strict=False), start=1) if a != b), 0)
        yield f"records.jsonl: its lines stand in another order than when they were written, from line {moved} on"
        return
    for number, (mine, sealed) in enumerate(zip(now, then, strict=False), start=1):
        if mine != sealed and len(now) == len(then):
            yield f"records.jsonl:{number}: was changed after the last run"
    if len(now) != len(then):
        missing = [number for number, line in enumerate(then, start=1) if gone[line]]
        lost = f"; missing: line {', '.join(map(str, missing[:5]))} of the sealed ones" if missing else ""
        yield f"records.jsonl: holds {len(now)} lines, {len(then)} were sealed when the last run ended{lost}"


def kept_judgement(ledger: Ledger, judgement: Judgement) -> Iterator[str]:
    """Where judgement.json is not what the records give."""
    path = ledger.root / "judgement.json"
    if not path.is_file():
        return
    text = path.read_text(encoding="utf-8", errors="replace")
    if text == canonical_json(judgement) + "\n":
        return
    try:
        claimed = json.loads(text)
    except ValueError as error:
        yield f"judgement.json: not JSON ({error}); it was cut or edited"
        return
    found = differences(claimed, judgement.model_dump(mode="json"), "it was judged")
    yield from (f"judgement.json: {what}" for what in found or ["is not in canonical form: it was rewritten"])


def page_differs(path: Path, derived: str) -> str | None:
    """How the page in a file differs from the one that follows; ``None`` if it is the same bytes."""
    found, wanted = path.read_bytes(), derived.encode()
    if found == wanted:
        return None
    mine, yours = found.split(b"\n"), wanted.split(b"\n")
    number = next(
        (n for n, (a, b) in enumerate(zip(mine, yours, strict=False), start=1) if a != b),
        min(len(mine), len(yours)) + 1,
    )
    shown = (mine[number - 1] if number <= len(mine) else b"").strip()[:100].decode(errors="replace")
    return (
        f"{path}: is not the page that follows ({len(found)} bytes, {len(wanted)} follow); from line {number} on it "
        f"reads {shown!r}; `report` writes it anew"
    )
