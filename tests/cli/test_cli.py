"""Every verb as a user or a CI job meets it: what is on stdout, what on stderr, and the exit code.

Result sets are made up (``synthetic``); nothing is trained here.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from answers import Answer, Harness
from made_sets import make_set, planted
from synthetic import Planted, records

import harness.app
from harness import __version__, cli
from harness.meter.base import METERS
from harness.record.ledger import Ledger
from harness.record.record import Record
from harness.suite.spec import Protocol
from harness.types import Basis, UserError

ROOT = Path(__file__).parents[2]
SCALING = str(ROOT / "suites" / "scaling.yaml")


# The whole


def test_the_command_line_imports_nothing_heavy() -> None:
    heavy = (
        "torch",
        "scipy",
        "numpy",
        "pandas",
        "matplotlib",
        "transformers",
        "codecarbon",
        "pydantic",
        "yaml",
        "rich",
    )
    code = (
        "import sys\n"
        "import harness.cli\n"
        "sys.argv = ['harness', '--help']\n"
        "try:\n    harness.cli.main()\nexcept SystemExit:\n    pass\n"
        f"print([name for name in {heavy!r} if name in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"
    assert "Usage: harness" in done.stdout


def test_planning_validating_and_verifying_import_no_torch(tmp_path: Path) -> None:
    made = make_set(tmp_path / "made", planted(0.6))
    for arguments in (["plan", SCALING], ["validate", SCALING], ["verify", str(made)], ["ls", "sizes"]):
        code = (
            "import sys\n"
            "import harness.cli\n"
            f"sys.argv = ['harness', *{arguments!r}]\n"
            "try:\n    harness.cli.main()\nexcept SystemExit as ended:\n    assert not ended.code, ended.code\n"
            "print([name for name in ('torch', 'transformers', 'pandas') if name in sys.modules], file=sys.stderr)"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
        assert done.stderr.strip() == "[]", arguments


def test_help_and_version(harness_: Harness) -> None:
    assert harness_("--version") == Answer(0, f"{__version__}\n", "")
    help_ = harness_("--help")
    assert help_.code == 0
    for verb in ("run", "plan", "validate", "schema", "report", "verify", "compare", "audit", "doctor", "ls"):
        assert re.search(rf"^  {verb} ", help_.out, re.MULTILINE), verb
        assert harness_(verb, "--help").code == 0
        assert "--json" in harness_(verb, "--help").out, verb


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "Usage"),
        (["frobnicate"], "No such command 'frobnicate'"),
        (["verify"], "Missing argument"),
        (["plan", SCALING, "--nope"], "No such option"),
        (["report", ".", "--format", "pdf"], "pdf"),
        (["ls", "planets"], "planets"),
        (["run", SCALING, "--budget", "soon"], "'soon' is not a duration"),
        (["plan", SCALING, "--shard", "4/4"], "there is no such part"),
        (["plan", SCALING, "--only", "nothing"], "matches no run"),
        (["plan", SCALING, "--set", "experiments[9].seeds=1"], "experiments[9]"),
        (["plan", "nowhere.yaml"], "no such file"),
        (["run", SCALING, "--meter", "sundial"], "unknown meter 'sundial'"),
        (["run", SCALING, "--meter", "replay:nowhere"], "there is no file 'nowhere'"),
    ],
)
def test_wrong_usage_is_2_and_says_why_on_stderr(harness_: Harness, arguments: list[str], says: str) -> None:
    answer = harness_(*arguments)
    assert (answer.code, answer.out) == (2, "")
    assert says in answer.err


@pytest.mark.parametrize("verb", ["verify", "report", "audit"])
@pytest.mark.parametrize("what", ["missing", "empty", "file"])
def test_a_folder_without_a_result_set_is_2_and_says_so(
    harness_: Harness, tmp_path: Path, verb: str, what: str
) -> None:
    place = tmp_path / "place"
    if what == "empty":
        place.mkdir()
    elif what == "file":
        place.write_text("not a folder")
    answer = harness_(verb, place)
    assert (answer.code, answer.out) == (2, "")
    assert "no result set here" in answer.err
    assert not (tmp_path / "reports").exists()


@pytest.mark.parametrize(
    "content", ["{}", "[]", "not json", '{"suite": {}, "claims": [], "overrides": [], "skipped": []}']
)
def test_a_spoilt_plan_is_a_message(harness_: Harness, tmp_path: Path, content: str) -> None:
    made = make_set(tmp_path / "made", planted(0.6))
    (made / "plan.json").write_text(content)
    answer = harness_("verify", made)
    assert (answer.code, answer.out) == (2, "")
    assert "plan.json" in answer.err


def test_a_spoilt_record_is_a_message_with_its_line(harness_: Harness, tmp_path: Path) -> None:
    made = make_set(tmp_path / "made", planted(0.6))
    with (made / "records.jsonl").open("a") as stream:
        stream.write("{}\n")
    answer = harness_("verify", made)
    assert (answer.code, answer.out) == (2, "")
    assert re.search(r"records\.jsonl:\d+: not a record", answer.err)


def test_what_nobody_foresaw_is_4_and_never_reads_as_refuted(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError("a fault")

    monkeypatch.setattr(harness.app, "verify", broken)
    monkeypatch.setattr(sys, "argv", ["harness", "verify", "anything"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 4
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "ZeroDivisionError: a fault" in captured.err
    assert "fault of the harness" in captured.err


def test_a_full_disk_or_a_lacking_permission_is_4(harness_: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device", "records.jsonl")

    monkeypatch.setattr(harness.app, "verify", full)
    answer = harness_("verify", "anything")
    assert (answer.code, answer.out) == (4, "")
    assert "No space left on device: 'records.jsonl'" in answer.err


def test_interrupted_is_130(harness_: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(harness.app, "verify", interrupted)
    assert harness_("verify", "anything").code == 130


# One verb after the other


def test_plan(harness_: Harness) -> None:
    document = harness_("plan", SCALING, "--json").document
    assert document["suite"] == "scaling"
    assert document["totals"]["runs"] == sum(len(block["runs"]) for block in document["blocks"])
    answer = harness_("plan", SCALING, "--budget", "1m", "--results", "elsewhere")
    assert (answer.code, answer.err) == (0, "")
    assert "budget: 60 s" in answer.out
    assert not Path("elsewhere").exists()
    assert not Path("results").exists()


def test_plan_by_shards_is_the_whole_plan(harness_: Harness) -> None:
    def runs(*options: str) -> list[str]:
        blocks = harness_("plan", SCALING, "--json", *options).document["blocks"]
        return [block["block_id"] for block in blocks]

    parts = [runs("--shard", f"{index}/3") for index in range(3)]
    assert sorted(block for part in parts for block in part) == sorted(runs())


def test_validate(harness_: Harness, tmp_path: Path) -> None:
    good, bad = ROOT / "suites" / "quickstart.yaml", tmp_path / "bad.yaml"
    bad.write_text("name: bad\nworkload: lenguage\nsedes: 3\nexperiments: []\n")
    answer = harness_("validate", good, bad, "missing.yaml")
    assert answer.code == 2
    assert f"{good}: ok" in answer.out
    assert "bad.yaml:2: workload: unknown workload 'lenguage', did you mean 'language'?" in answer.out
    assert "bad.yaml:3" in answer.out
    assert "missing.yaml: no such file" in answer.out
    answer = harness_("validate", good, bad, "--json")
    assert answer.code == 2
    assert answer.document[str(good)] == []
    assert len(answer.document[str(bad)]) >= 3
    assert harness_("validate", good) == Answer(0, f"{good}: ok\n", "")


def test_schema(harness_: Harness) -> None:
    plain, as_json = harness_("schema"), harness_("schema", "--json")
    assert plain == as_json
    assert {"name", "workload", "experiments"} <= set(plain.document["properties"])


@pytest.mark.parametrize(
    ("found", "code", "status"),
    [
        (planted(0.6), 0, "verified"),
        (planted(0.2), 1, "refuted"),
        (planted(0.6, Basis.MODELLED), 3, "inconclusive"),
        (planted(0.2, Basis.SIMULATED), 3, "inconclusive"),
        (planted(0.6, seeds=1), 3, "inconclusive"),
        (records(("0.3M", "1M"), range(4), {"sat": Planted(0.6, flops=0.2)}, basis=Basis.MEASURED), 4, "invalid"),
        (records(("13B",), (0,), {"sat": Planted(0.6)}, protocol=Protocol.COUNT), 3, "not tested"),
        ([], 3, "not tested"),
    ],
    ids=["verified", "refuted", "modelled", "simulated", "one-pair", "above-the-flops", "counted", "no-runs"],
)
def test_verify_answers_by_its_exit_code(
    harness_: Harness, tmp_path: Path, found: list[Record], code: int, status: str
) -> None:
    made = make_set(tmp_path / "made", found)
    answer = harness_("verify", made)
    assert (answer.code, answer.err) == (code, "")
    assert "saves-45" in answer.out
    assert status in answer.out
    answer = harness_("verify", made, "--json")
    assert answer.code == code
    assert [verdict["status"] for verdict in answer.document["verdicts"]] == [status]


def test_report_goes_to_stdout_or_to_a_file(harness_: Harness, tmp_path: Path) -> None:
    made = make_set(tmp_path / "made", planted(0.6))
    assert harness_("report", made) == Answer(0, "reports/made.html\n", "")
    page = Path("reports/made.html").read_text()
    assert page.startswith("<!doctype html>") or page.startswith("<!DOCTYPE html>")
    markdown = harness_("report", made, "--format", "md")
    assert markdown.out.startswith("# Made up\n")
    assert markdown.out.endswith("\n")
    assert not markdown.out.endswith("\n\n")
    for options in (["--json"], ["--format", "json"]):
        assert harness_("report", made, *options).document["judgement"]["suite"] == "made"

    assert harness_("report", made, "-o", "deep/page.md").out == "deep/page.md\n"
    assert Path("deep/page.md").read_text() == markdown.out
    both = harness_("report", made, "-o", "page.html", "--json")
    assert both.document["judgement"]["suite"] == "made"
    assert Path("page.html").read_text() == page
    assert harness_("report", made, "--format", "json", "-o", "page.txt").code == 0
    assert json.loads(Path("page.txt").read_text()) == both.document


def test_report_to_a_place_that_cant_be_written(harness_: Harness, tmp_path: Path) -> None:
    made = make_set(tmp_path / "made", planted(0.6))
    (tmp_path / "file").write_text("")
    for place in ("file/page.html", str(made)):
        answer = harness_("report", made, "-o", place)
        assert (answer.code, answer.out) == (2, "")
        assert "can't be written" in answer.err
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_same_records_same_bytes(harness_: Harness, tmp_path: Path) -> None:
    found = planted(0.6)
    one, two = make_set(tmp_path / "a" / "made", found), make_set(tmp_path / "b" / "made", found[::-1])
    for form in ("html", "md", "json"):
        for place, made in (("1", one), ("2", two)):
            assert harness_("report", made, "--format", form, "-o", place).code == 0
        assert Path("1").read_bytes() == Path("2").read_bytes(), form


@pytest.mark.parametrize(
    ("base", "new", "code", "outcome"),
    [
        (0.6, 0.6, 0, "no regression shown"),
        (0.6, 0.3, 1, "regressed"),
        (0.3, 0.6, 0, "improved"),
    ],
)
def test_compare_is_a_gate(harness_: Harness, tmp_path: Path, base: float, new: float, code: int, outcome: str) -> None:
    old, young = make_set(tmp_path / "old", planted(base)), make_set(tmp_path / "new", planted(new))
    answer = harness_("compare", old, young)
    assert (answer.code, answer.err) == (code, "")
    assert f"{outcome}: sat at 0.3M" in answer.out
    answer = harness_("compare", old, young, "--json")
    assert answer.code == code
    assert {row["outcome"] for row in answer.document["rows"]} == {outcome}


def test_compare_with_nothing_to_compare_is_3(harness_: Harness, tmp_path: Path) -> None:
    old, empty = make_set(tmp_path / "old", planted(0.6)), make_set(tmp_path / "empty", [])
    assert harness_("compare", old, empty).code == 3
    assert harness_("compare", empty, old).code == 3
    assert harness_("compare", old, tmp_path / "nowhere").code == 2


def test_audit_does_not_call_joules_derived_that_have_no_samples(harness_: Harness, tmp_path: Path) -> None:
    made = make_set(tmp_path / "made", planted(0.6))
    answer = harness_("audit", made)
    assert answer.code == 4
    assert "has no raw samples" in answer.out
    counted = make_set(tmp_path / "counted", records(("13B",), (0,), {"sat": Planted(0.6)}, protocol=Protocol.COUNT))
    assert harness_("audit", counted).code == 0
    assert harness_("audit", counted, "--json").document["findings"] == []


def test_audit_finds_a_changed_number(harness_: Harness, tmp_path: Path) -> None:
    found = records(("13B",), (0,), {"sat": Planted(0.6)}, protocol=Protocol.COUNT)
    assert found[1].flops is not None
    lying = found[1].model_copy(update={"flops": found[1].flops.model_copy(update={"total": 1.0})})
    answer = harness_("audit", make_set(tmp_path / "made", [found[0], lying]), "--json")
    assert answer.code == 4
    assert any("FLOPs is recorded as 1 FLOPs" in finding for finding in answer.document["findings"])


def test_doctor(harness_: Harness) -> None:
    answer = harness_("doctor")
    assert answer.code == 0
    assert "machine" in answer.out
    document = harness_("doctor", "--json").document
    assert set(document["meters"]) == set(METERS.names())
    assert document["auto"]["meter"] in METERS.names()
    assert document["packages"]["torch"][0].isdigit()


def test_doctor_answers_where_nothing_can_be_measured(harness_: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*_: object) -> None:
        raise UserError("no meter for the card: no permission; ask for it")

    monkeypatch.setattr(harness.app, "choose_meter", none)
    answer = harness_("doctor")
    assert answer.code == 4
    assert "no meter for the card: no permission; ask for it" in answer.out
    assert harness_("doctor", "--json").document["auto"]["meter"] is None


def test_square_wave_needs_a_card_and_names_the_simulated_one(
    harness_: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("harness.meter.nvml.NvmlMeter.available", classmethod(lambda *_: "no driver"))
    answer = harness_("doctor", "--square-wave")
    assert answer.code == 2
    assert "--meter simulated:h100" in answer.err
    assert harness_("doctor", "-o", "x.json").code == 2


def test_square_wave_on_a_simulated_card(harness_: Harness, tmp_path: Path) -> None:
    kept = tmp_path / "wave.json"
    answer = harness_("doctor", "--square-wave", "--meter", "simulated:h100", "-o", kept, "--json")
    assert answer.code == 0
    assert answer.document["findings"]["answer"] == "shares the sensor's window"
    assert answer.document["basis"] == "simulated"
    assert json.loads(kept.read_text(encoding="utf-8")) == answer.document
    assert (tmp_path / "wave.samples").is_file()
    assert "never overwritten" in harness_("doctor", "--square-wave", "--meter", "simulated:h100", "-o", kept).err


@pytest.mark.parametrize("what", [item.value for item in cli.Listing])
def test_ls(harness_: Harness, what: str) -> None:
    rows = harness_("ls", what, "--json").document
    assert rows
    assert len({tuple(sorted(row)) for row in rows}) == 1
    answer = harness_("ls", what)
    assert (answer.code, answer.err) == (0, "")
    assert len(answer.out.splitlines()) == len(rows) + 1


# Runs that start nothing


def test_fresh_leaves_a_folder_alone_that_is_no_result_set(harness_: Harness, tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "thesis.txt").write_text("years")
    answer = harness_("run", SCALING, "--fresh", "--results", precious, "--meter", "modelled")
    assert answer.code == 2
    assert "no result set" in answer.err
    assert (precious / "thesis.txt").read_text() == "years"


def test_fresh_keeps_the_old_set_and_never_takes_one_in_use(tmp_path: Path) -> None:
    ledger = Ledger(make_set(tmp_path / "made", planted(0.6)))
    with ledger.writing(), pytest.raises(UserError, match="another run is writing"):
        harness.app.move_aside(Ledger(ledger.root))
    before = ledger.records()
    harness.app.move_aside(ledger)
    (aside,) = tmp_path.iterdir()
    assert aside.name.startswith("made.before-")
    assert Ledger(aside).records() == before
    harness.app.move_aside(ledger)  # nothing there: nothing to do


def test_a_run_that_can_do_nothing_is_4(harness_: Harness, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    suite = ROOT / "suites" / "gpu-smoke.yaml"
    plain = harness_("run", suite, "--meter", "modelled")
    assert plain.code == 4
    assert re.search(r"skipped: \d+ runs: needs an NVIDIA GPU", plain.out)
    answer = harness_("run", suite, "--meter", "modelled", "--json")
    assert answer.code == 4
    assert answer.document["runs"] == {"done": 0, "new": 0, "left": 0, "failed": 0}
    assert answer.document["judgement"]["skipped"]
    assert "skipped" in answer.err
