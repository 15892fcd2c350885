"""A set recorded by the real runner, changed in every way we could think of: each is named, and nothing else is."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from acted_runs import ActingLauncher

from harness import app
from harness.audit.audit import Report
from harness.record import fingerprint
from harness.record.ledger import Ledger, sha256_of
from harness.record.record import Record
from harness.types import canonical_json, digest

SUITE = """\
name: made
title: Made
workload: language
workload_options: {data: markov, sequence_length: 16, evaluation_tokens: 256, curve_tokens: 256}
arms:
  dense: {}
  sat: {}
experiments:
  - protocol: train
    sizes: [0.1M]
    seeds: 1
    arms: [dense, sat]
    recipe: {steps: 30, batch_size: 2, evaluations: 2}
idle: 0.4s
timeout: 2m
"""
SCENARIO = """\
load: {power_w: 300}
arms: {sat: {power_w: 150}}
cards: [{sensor: {period_s: 0.02, window_s: 0.005, noise_w: 2}, counter: {of: sensor}}]
"""


@pytest.fixture(scope="module")
def recorded(tmp_path_factory) -> Path:
    """Two acted runs on a simulated card, with idle baseline, calibration, seal and page."""
    home = tmp_path_factory.mktemp("recorded")
    (home / "suite.yaml").write_text(SUITE, encoding="utf-8")
    (home / "card.yaml").write_text(SCENARIO, encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fingerprint, "code_revision", lambda: "test")
        patch.setattr("harness.run.runner.LocalLauncher", ActingLauncher)
        app.run(
            home / "suite.yaml", results=home / "set", output=home / "page.html", budget=None, only=None, shard=None,
            meter=f"simulated:{home / 'card.yaml'}", overrides=[], fresh=False, mix_revisions=False,
        )  # fmt: skip
    return home


@pytest.fixture
def made(recorded, tmp_path, monkeypatch) -> Path:
    """A copy of the set, to be spoilt."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(fingerprint, "code_revision", lambda: "test")
    shutil.copytree(recorded / "set", tmp_path / "set")
    shutil.copy(recorded / "page.html", tmp_path / "page.html")
    return tmp_path / "set"


def audited(root: Path, page: Path | None = None) -> Report:
    return app.audit(root, page)


def one_record(root: Path, arm: str = "sat") -> Record:
    return next(record for record in Ledger(root).records() if record.spec.arm == arm)


def edit_record(root: Path, arm: str, change) -> None:
    """Change the JSON of one record, and write its line in canonical form again."""
    path = root / "records.jsonl"
    lines = []
    for line in path.read_text(encoding="utf-8").splitlines():
        record = json.loads(line)
        if record["spec"]["arm"] == arm:
            change(record)
        lines.append(canonical_json(record) + "\n")
    path.write_text("".join(lines), encoding="utf-8")


def edit_json(path: Path, change) -> None:
    content = json.loads(path.read_text(encoding="utf-8"))
    change(content)
    path.write_text(json.dumps(content), encoding="utf-8")


def unseal(root: Path) -> None:
    """A forger who knows of the seal takes it away."""
    (root / "seal.json").unlink()
    (root / "judgement.json").unlink()


def test_what_was_recorded_is_put_together_again_to_the_same_bytes(made):
    report = audited(made, made.parent / "page.html")
    assert (report.findings, report.notes) == ([], [])
    assert (report.records, report.rebuilt) == (2, 2)
    assert "is the page that follows, byte by byte" in report.text


def test_the_records_keep_what_they_were_made_from(made):
    for arm, watts in (("dense", 300), ("sat", 150)):
        record = one_record(made, arm)
        assert record.status == "ok"
        assert record.ended.status == "ok"
        assert record.meter.calibration.channels[0].period_s == pytest.approx(0.02, rel=0.05)
        assert record.meter.update_period_s == pytest.approx(0.02, rel=0.05)
        assert record.calibration.sha256 == sha256_of(made / record.calibration.path)
        assert record.idle_power_w == pytest.approx(300, rel=0.06)  # 0.4 s of a counter in steps of 20 ms
        assert record.idle.samples.sha256 == sha256_of(made / record.idle.samples.path)
        assert 0 < record.conditions["sampler_cpu_share"] < 0.2
        assert record.energy.joules / record.seconds == pytest.approx(watts, rel=0.06)


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: -max(10, path.stat().st_size // 5)])


@pytest.mark.parametrize("spoil", [flip, cut, Path.unlink])
@pytest.mark.parametrize("which", ["samples", "events", "idle", "calibration"])
def test_a_raw_file_that_was_spoilt_is_named(made, which, spoil):
    record = one_record(made)
    file = record.idle.samples if which == "idle" else getattr(record, which)
    spoil(made / file.path)
    report = audited(made)
    wanted = "is missing" if spoil is Path.unlink else "has SHA-256"
    assert any(finding.startswith(file.path) and wanted in finding for finding in report.findings), report.text


@pytest.mark.parametrize("which", ["samples", "events"])
def test_a_cut_raw_file_is_called_cut(made, which):
    file = getattr(one_record(made), which)
    cut(made / file.path)
    assert any(finding.startswith(file.path) and "cut" in finding for finding in audited(made).findings)


@pytest.mark.parametrize("which", ["samples", "events"])
def test_two_files_that_were_swapped_are_named_as_such(made, which):
    one, other = (made / getattr(one_record(made, arm), which).path for arm in ("dense", "sat"))
    first, second = one.read_bytes(), other.read_bytes()
    one.write_bytes(second)
    other.write_bytes(first)
    findings = audited(made).findings
    for path, holds in ((one, other), (other, one)):
        name, owner = (p.relative_to(made).as_posix() for p in (path, holds))
        assert any(f.startswith(name) and f"it holds what {owner} should hold" in f for f in findings)


@pytest.mark.parametrize("which", ["samples", "events"])
def test_swapped_in_the_records_too(made, which):
    """Paths and sums changed along with the files: nothing but what the samples give can tell."""
    unseal(made)
    references = {arm: json.loads(canonical_json(getattr(one_record(made, arm), which))) for arm in ("dense", "sat")}
    edit_record(made, "dense", lambda record: record.update({which: references["sat"]}))
    edit_record(made, "sat", lambda record: record.update({which: references["dense"]}))
    report = audited(made)
    assert report.rebuilt == 0
    assert len(report.findings) > 2


def scale_energy(record: dict, factor: float) -> None:
    """Make it seem to have taken less, in every place at once: windows, parts, sum, curve."""

    def scaled(energy: dict) -> None:
        for key in ("joules", "uncertainty_j", "second_joules"):
            if energy.get(key) is not None:
                energy[key] *= factor
        energy["parts"] = {name: value * factor for name, value in energy["parts"].items()}

    scaled(record["energy"])
    for window in record["windows"]:
        scaled(window["energy"])
    for point in record["curve"]:
        if point["energy_j"] is not None:
            point["energy_j"] *= factor


@pytest.mark.parametrize("sealed", [True, False])
def test_joules_changed_consistently_with_the_windows(made, sealed):
    if not sealed:
        unseal(made)
    edit_record(made, "sat", lambda record: scale_energy(record, 0.8))
    report = audited(made)
    run = one_record(made).run_id
    assert any(f.startswith(f"{run}, attempt 1: ") and "joules: the record says" in f for f in report.findings)
    assert not any(f.startswith(one_record(made, "dense").run_id) for f in report.findings)
    assert report.rebuilt == 1
    if sealed:
        assert any(f.startswith("records.jsonl:") and "was changed after the last run" in f for f in report.findings)
        assert any(f.startswith("judgement.json: ") for f in report.findings)
        assert any("the page that follows has SHA-256" in f for f in report.findings)


FIELDS = {
    "idle_power_w": lambda r: r.update(idle_power_w=r["idle_power_w"] / 2),
    "status": lambda r: r.update(status="invalid", reason="made up"),
    "quality": lambda r: r["quality"].update(loss=0.1),
    "peak_memory_bytes": lambda r: r.update(peak_memory_bytes=(r["peak_memory_bytes"] or 0) + 1),
    "wall_clock": lambda r: r.update(wall_clock="2020-01-01T00:00:00+00:00"),
    "device_id": lambda r: r.update(device_id="GPU-other"),
    "flops": lambda r: r["flops"].update(total=r["flops"]["total"] / 2),
    "conditions": lambda r: r["conditions"].update(longest_gap_s=0.0),
    "meter.update_period_s": lambda r: r["meter"].update(update_period_s=0.001),
    "meter.calibration": lambda r: r["meter"]["calibration"]["channels"][0].update(period_s=0.001),
    "meter.basis": lambda r: r["meter"].update(basis="measured"),
    "energy.basis": lambda r: r["energy"].update(basis="measured"),
    "warnings": lambda r: r.update(warnings=["none"]),
    "parameters": lambda r: r.update(parameters=1),
}


@pytest.mark.parametrize("field", FIELDS)
def test_any_field_of_a_record_that_was_changed_is_named_with_both_values(made, field):
    unseal(made)
    edit_record(made, "sat", FIELDS[field])
    report = audited(made)
    assert any(one_record(made).run_id in f and field in f for f in report.findings), report.text


def test_a_specification_that_was_changed(made):
    unseal(made)
    edit_record(made, "sat", lambda record: record["spec"]["recipe"].update(learning_rate=1.0))
    assert any("its specification has the id" in finding for finding in audited(made).findings)


def lines_of(root: Path) -> list[str]:
    return (root / "records.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)


def test_a_record_that_was_taken_out(made):
    first = lines_of(made)[0]
    (made / "records.jsonl").write_text(first, encoding="utf-8")
    findings = audited(made).findings
    assert any("holds 1 lines, 2 were sealed" in f and "line 2" in f for f in findings)
    assert any("no record refers to it" in f for f in findings)
    unseal(made)
    assert any("its line was taken out of records.jsonl" in f for f in audited(made).findings)


def test_records_in_another_order(made):
    (made / "records.jsonl").write_text("".join(reversed(lines_of(made))), encoding="utf-8")
    assert any("another order" in finding for finding in audited(made).findings)


def test_a_record_that_was_doubled(made):
    lines = lines_of(made)
    unseal(made)
    (made / "records.jsonl").write_text("".join([*lines, lines[0]]), encoding="utf-8")
    findings = audited(made).findings
    assert any("attempt 1 stands where attempt 2 is expected" in f for f in findings)
    assert any("2 records refer to it" in f for f in findings)


def test_records_that_were_cut_in_mid_line(made):
    path = made / "records.jsonl"
    path.write_bytes(path.read_bytes()[:-100])
    assert any("its last line is cut" in finding for finding in audited(made).findings)


def test_a_line_that_is_no_record(made):
    lines = lines_of(made)
    (made / "records.jsonl").write_text(lines[0] + '{"run_id": 3}\n' + lines[1], encoding="utf-8")
    report = audited(made)
    assert any(finding.startswith("records.jsonl:2: not a record") for finding in report.findings)


def test_the_claims_threshold_edited_after_the_run(made):
    def easier(plan: dict) -> None:
        for claim in plan["claims"]:
            if claim["at_least"] is not None:
                claim["at_least"] /= 10

    edit_json(made / "plan.json", easier)
    findings = audited(made).findings
    assert any(f.startswith("plan.json: was changed after the last run") for f in findings)
    assert any(f.startswith("judgement.json: verdicts") and "at_least" in f for f in findings)


@pytest.mark.parametrize("name", ["set.json", "suite.yaml", "plan.json", "judgement.json", "records.jsonl"])
@pytest.mark.parametrize("spoil", [flip, cut, Path.unlink])
def test_a_file_of_the_set_itself_that_was_spoilt_is_named(made, name, spoil):
    spoil(made / name)
    assert any(finding.startswith(name) for finding in audited(made).findings)


def test_a_seal_that_was_spoilt_is_named(made):
    cut(made / "seal.json")
    assert any("seal.json: not a seal" in finding for finding in audited(made).findings)
    (made / "seal.json").unlink()
    report = audited(made)
    assert report.findings == []
    assert any("the set has no seal" in note for note in report.notes)


def test_a_verdict_in_the_kept_judgement_that_was_changed(made):
    def verified(judgement: dict) -> None:
        judgement["verdicts"][0]["status"] = "verified"

    edit_json(made / "judgement.json", verified)
    findings = audited(made).findings
    assert any("verdicts[0].status: it was judged" in finding and "follows" in finding for finding in findings)


def test_a_page_that_was_changed_is_shown_where(made):
    page = made.parent / "page.html"
    page.write_text(page.read_text(encoding="utf-8").replace("<h1", "<h1 hidden", 1), encoding="utf-8")
    findings = audited(made, page).findings
    assert len(findings) == 1
    assert "page.html: is not the page that follows" in findings[0]
    assert "hidden" in findings[0]


def test_the_default_page_is_looked_at(made):
    Path("reports").mkdir()
    Path("reports/set.html").write_text("<html>", encoding="utf-8")
    assert any("reports/set.html: is not the page that follows" in finding for finding in audited(made).findings)


def test_an_extra_raw_file_and_an_orphan(made):
    (made / "samples" / "stray.samples").write_bytes(b"x")
    shutil.copy(made / one_record(made).samples.path, made / "samples" / "run-orphan.samples")
    report = audited(made)
    assert [f.split(":")[0] for f in report.findings] == ["samples/stray.samples"]
    assert any("run-orphan.samples: kept of a run that was killed" in note for note in report.notes)


def test_a_path_that_leads_out_of_the_set(made):
    (made.parent / "outside").write_bytes(b"x")
    edit_record(made, "sat", lambda record: record["samples"].update(path="../outside"))
    assert any("lies outside the result set" in finding for finding in audited(made).findings)


def test_a_record_from_before_these_fields_is_noted_not_failed(made):
    unseal(made)

    def older(record: dict) -> None:
        for key in ("ended", "idle", "calibration"):
            del record[key]

    edit_record(made, "sat", older)
    report = audited(made)
    assert report.findings == [
        f for f in report.findings if "idle" in f or "calibration" in f
    ]  # nothing but what is now unreferenced
    assert any("1 of 2 records are from before" in note for note in report.notes)
    assert report.rebuilt == 1


def test_numbers_of_other_code_are_named_as_such(made, monkeypatch):
    monkeypatch.setattr(fingerprint, "code_revision", lambda: "later")
    assert audited(made).notes == []  # everything agrees: nothing to explain
    edit_record(made, "sat", lambda record: scale_energy(record, 0.8))
    assert any("recorded by code revision test, audited by later" in note for note in audited(made).notes)


def test_a_line_in_another_form_is_named(made):
    unseal(made)
    lines = lines_of(made)
    spaced = json.dumps(json.loads(lines[0])) + "\n"
    (made / "records.jsonl").write_text(spaced + lines[1], encoding="utf-8")
    assert any("not in canonical form" in finding for finding in audited(made).findings)


def test_a_record_from_before_a_key_existed_is_still_put_together_again(made):
    """Keys with a default may be added later: the id is that of the specification as it was written."""
    unseal(made)

    def older(record: dict) -> None:
        assert record["spec"]["recipe"].pop("jitter_s") == 0
        name, _, _ = record["run_id"].rpartition("-")
        record["run_id"] = f"{name}-{digest(record['spec'])}"

    edit_record(made, "sat", older)
    report = audited(made)
    assert report.findings == []
    assert report.rebuilt == 2
