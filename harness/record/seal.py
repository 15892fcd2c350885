"""The seal of a result set: what its files were when the last ``run`` ended, so that later changes show.

It is no signature: who forges every file together with the seal is found only by what raw samples give, or by
the commit that holds the set.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from pydantic import ValidationError

from harness.record.ledger import Ledger, sha256_of, write_atomically
from harness.types import Frozen, UserError

SEALED = ("set.json", "suite.yaml", "plan.json", "records.jsonl", "judgement.json")


class Seal(Frozen):
    """SHA-256 of each file of the set by name, of each line of records.jsonl, and of the page written from it."""

    files: dict[str, str]
    records: tuple[str, ...]
    page_sha256: str


def put_seal(ledger: Ledger, judgement: str, page: Path) -> None:
    """Keep the judgement (its canonical JSON) and the sums of everything, the page's (HTML) included."""
    write_atomically(ledger.root / "judgement.json", judgement + "\n")
    seal = Seal(
        files={name: sha256_of(ledger.root / name) for name in SEALED if (ledger.root / name).is_file()},
        records=tuple(sum_of(line) for line in (ledger.root / "records.jsonl").read_bytes().splitlines()),
        page_sha256=sha256_of(page),
    )
    write_atomically(ledger.root / "seal.json", json.dumps(seal.model_dump(mode="json"), indent=1) + "\n")


def break_seal(ledger: Ledger) -> None:
    """Before a set is added to: what is sealed would no longer be so."""
    for name in ("seal.json", "judgement.json"):
        (ledger.root / name).unlink(missing_ok=True)


def seal_of(ledger: Ledger) -> Seal | None:
    """The seal, or ``None`` where the last run did not end or wrote none.

    Raises:
        UserError: it is there and no seal.
    """
    path = ledger.root / "seal.json"
    if not path.exists():
        return None
    try:
        return Seal.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise UserError(f"{path}: not a seal; it was edited or cut. The same `run` writes it anew") from error


def sum_of(content: bytes) -> str:
    """SHA-256 as hex."""
    return hashlib.sha256(content).hexdigest()
