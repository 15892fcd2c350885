"""The audit finds what was planted, and nothing where nothing was."""

from __future__ import annotations

import pytest
from synthetic import records, suite_arms

from harness.audit.arithmetic import arithmetic
from harness.judge.claims import load_claims
from harness.judge.judge import judge
from harness.judge.types import VerdictStatus
from harness.meter import samples as samples_format
from harness.meter.base import ReadStatus, Sample
from harness.meter.energy import combine, windows_energy
from harness.record.ledger import sha256_of
from harness.record.record import SamplesFile, Status
from harness.run.events import Window
from harness.suite.spec import FootprintOptions, Protocol
from harness.types import Basis, canonical_json

CLAIMS = load_claims("sat-article")


def judged(found):
    return judge("s", "t", found, CLAIMS, "dense", FootprintOptions(), suite_arms())


@pytest.mark.parametrize("protocol", list(Protocol))
@pytest.mark.parametrize("basis", [Basis.MEASURED, Basis.MODELLED])
def test_a_true_judgement_has_no_findings(tmp_path, protocol, basis):
    statuses = {
        ("1M", 1, "sat"): Status.FAILED,
        ("3M", 0, "freeze"): Status.SKIPPED,
        ("1M", 0, "sat-width"): Status.INVALID,
    }
    found = records(protocol=protocol, basis=basis, statuses=statuses, retried=[("3M", 1, "sat")])
    assert arithmetic(tmp_path, found, judged(found)) == []


def at_level(found, rate):
    """The same runs as one level of a factor: in blocks of their own, with ids of their own."""
    changed = []
    for record in found:
        recipe = record.spec.recipe.model_copy(update={"learning_rate": rate})
        spec = record.spec.model_copy(update={"levels": {"learning_rate": rate}, "recipe": recipe})
        block = f"{record.block_id}-{rate}"
        changed.append(record.model_copy(update={"spec": spec, "run_id": spec.run_id, "block_id": block}))
    return changed


def test_pairs_of_each_level_of_a_factor_are_a_comparison_of_their_own(tmp_path):
    found = [*at_level(records(sizes=("1M",)), 0.01), *at_level(records(sizes=("1M",), seed=7), 0.02)]
    judgement = judged(found)
    assert {c.levels["learning_rate"] for c in judgement.comparisons} == {0.01, 0.02}
    assert arithmetic(tmp_path, found, judgement) == []
    mixed = [c.model_copy(update={"levels": {"learning_rate": 0.02}}) for c in judgement.comparisons]
    findings = arithmetic(tmp_path, found, judgement.model_copy(update={"comparisons": mixed}))
    assert any("learning_rate 0.01" in finding and "no comparison in the judgement" in finding for finding in findings)


def altered(found, **update):
    """The last dense record of 3M changed, the others as they were."""
    index = next(i for i, r in enumerate(found) if r.spec.size == "3M" and r.spec.arm == "sat")
    return [*found[:index], found[index].model_copy(update=update), *found[index + 1 :]]


def sat(found):
    return next(r for r in found if r.spec.size == "3M" and r.spec.arm == "sat")


def test_energy_that_is_not_the_sum_of_its_windows(tmp_path):
    found = records()
    energy = sat(found).energy
    found = altered(found, energy=energy.model_copy(update={"joules": energy.joules * 0.9}))
    findings = arithmetic(tmp_path, found, judged(found))
    assert any("energy is recorded as" in finding and sat(found).run_id in finding for finding in findings)


def test_time_curve_flops_and_id(tmp_path):
    found = records()
    record = sat(found)
    curve = (*record.curve[:-1], record.curve[-1].model_copy(update={"energy_j": record.curve[-1].energy_j * 0.5}))
    flops = record.flops.model_copy(update={"total": record.flops.total * 0.5})
    for update, says in (
        ({"seconds": record.seconds / 2}, "time is recorded as"),
        ({"curve": curve}, "learning curve at step 200"),
        ({"flops": flops}, "FLOPs is recorded as"),
        ({"run_id": "made-up"}, "its specification has the id"),
        ({"windows": (*record.windows[:1], *record.windows)}, "windows overlap"),
    ):
        changed = altered(found, **update)
        assert any(says in finding for finding in arithmetic(tmp_path, changed, judged(changed))), says


def test_steady_energy_per_step(tmp_path):
    found = records(protocol=Protocol.STEADY)
    energy = sat(found).energy_per_step
    changed = altered(found, energy_per_step=energy.model_copy(update={"joules": energy.joules * 0.8}))
    assert any("energy of a step is recorded as" in f for f in arithmetic(tmp_path, changed, judged(changed)))


def test_a_judgement_that_says_something_else(tmp_path):
    found = records(basis=Basis.MEASURED)
    judgement = judged(found)
    first = judgement.comparisons[0]
    wrong = first.model_copy(update={"saving": first.saving.model_copy(update={"value": 0.9})})
    assert any("saving of energy: is given as 0.9" in f for f in arithmetic(tmp_path, found, _with(judgement, wrong)))
    short = first.model_copy(update={"pairs": first.pairs[:-1]})
    assert any("is left out" in f for f in arithmetic(tmp_path, found, _with(judgement, short)))
    none = judgement.model_copy(update={"comparisons": judgement.comparisons[1:]})
    assert any("no comparison in the judgement" in f for f in arithmetic(tmp_path, found, none))
    narrow = first.model_copy(update={"saving": first.saving.model_copy(update={"low": first.saving.value})})
    assert any("saving of energy, low" in f for f in arithmetic(tmp_path, found, _with(judgement, narrow)))


def _with(judgement, comparison):
    return judgement.model_copy(update={"comparisons": (comparison, *judgement.comparisons[1:])})


def test_a_verified_claim_on_modelled_energy_is_found(tmp_path):
    found = records()
    judgement = judged(found)
    lie = judgement.verdicts[0].model_copy(update={"status": VerdictStatus.VERIFIED})
    lying = judgement.model_copy(update={"verdicts": (lie, *judgement.verdicts[1:])})
    findings = arithmetic(tmp_path, found, lying)
    assert any("energy-range is called verified on energy that is modelled" in finding for finding in findings)


def recorded(root, record):
    """The record of a run whose samples and events lie under ``root``: its energies come from those samples."""
    info = record.meter
    start = 10**12
    samples = [
        Sample(0, start + i * 50_000_000, ReadStatus.OK, value=i * 0.05)
        for i in range(int(record.windows[-1].end_s * 20) + 40)
    ]
    (root / "samples").mkdir(exist_ok=True)
    path = root / "samples" / "a.samples.gz"
    count = samples_format.write(path, info, samples)
    events = [
        Window(
            kind=w.kind, start_ns=start + round(w.start_s * 1e9), end_ns=start + round(w.end_s * 1e9), phase=w.phase,
            first_step=w.first_step, steps=w.steps,
        )
        for w in record.windows
    ]  # fmt: skip
    lines = root / "samples" / "a.jsonl"
    lines.write_text("".join(canonical_json(event) + "\n" for event in events) + '{"event": "win')
    energies = windows_energy(info, samples, [(e.start_ns, e.end_ns) for e in events])
    windows = tuple(
        w.model_copy(
            update={"energy": energy, "start_s": (e.start_ns - start) / 1e9, "end_s": (e.end_ns - start) / 1e9}
        )
        for w, e, energy in zip(record.windows, events, energies, strict=True)
    )
    charged = [w for w in windows if w.charged]
    return record.model_copy(
        update={
            "windows": windows, "energy": combine([w.energy for w in charged]),
            "seconds": sum(w.seconds for w in charged), "curve": (),
            "samples": SamplesFile(path="samples/a.samples.gz", sha256=sha256_of(path), count=count),
            "events": SamplesFile(path="samples/a.jsonl", sha256=sha256_of(lines), count=len(events)),
        }
    )  # fmt: skip


@pytest.fixture
def metered(tmp_path):
    return tmp_path, recorded(tmp_path, records(("0.3M",), (0,), {})[0])


def test_windows_follow_from_raw_samples(metered):
    root, record = metered
    assert arithmetic(root, [record], judged([record])) == []


def test_a_window_that_does_not_follow_from_raw_samples(metered):
    root, record = metered
    window = record.windows[1]
    energy = window.energy.model_copy(update={"joules": window.energy.joules * 1.01})
    windows = (record.windows[0], window.model_copy(update={"energy": energy}), *record.windows[2:])
    findings = arithmetic(root, [record.model_copy(update={"windows": windows})], judged([record]))
    assert any("energy from raw samples is recorded as" in finding for finding in findings)
