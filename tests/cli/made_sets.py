"""Result sets on disk with made-up records (``synthetic``)."""

from __future__ import annotations

from pathlib import Path

from synthetic import Planted, records, suite_arms

from harness.judge.types import Claim
from harness.record.ledger import Ledger, SetInfo
from harness.record.record import Record
from harness.suite.spec import Experiment, Suite
from harness.types import Basis

SAVES_45 = Claim(id="saves-45", text="Saves 45 %", metric="energy_saving", at_least=0.45, arms=("sat",))


def make_set(root: Path, found: list[Record], claims: tuple[Claim, ...] = (SAVES_45,), title: str = "Made up") -> Path:
    """A result set on disk, as ``run`` would leave it, with made-up records."""
    ledger = Ledger(root)
    protocols = list(dict.fromkeys(record.spec.protocol for record in found))
    suite = Suite(
        name=root.name,
        title=title,
        workload="language",
        arms=suite_arms(),
        experiments=tuple(
            Experiment(
                protocol=protocol,
                sizes=tuple(dict.fromkeys(r.spec.size for r in found if r.spec.protocol is protocol)),
                seeds=tuple(dict.fromkeys(r.spec.seed for r in found if r.spec.protocol is protocol)),
                arms=tuple(dict.fromkeys(r.spec.arm for r in found if r.spec.protocol is protocol)),
            )
            for protocol in protocols
        ),
    )
    with ledger.writing():
        ledger.create(SetInfo(suite=suite.name, title=suite.title, code_revision="0123456789ab"), "name: made-up\n")
        for record in found:
            ledger.append(record)
    ledger.write_json(
        "plan.json",
        {
            "suite": suite.model_dump(mode="json"),
            "claims": [claim.model_dump(mode="json") for claim in claims],
            "overrides": [],
            "skipped": [],
        },
    )
    return root


def planted(saving: float, basis: Basis = Basis.MEASURED, seeds: int = 4) -> list[Record]:
    return records(("0.3M", "1M"), range(seeds), {"sat": Planted(saving)}, basis=basis)
