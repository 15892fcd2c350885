"""What goes wrong around a measurement: streams, disks, words, options. Nothing of it may cost a figure silently."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from harness.measure.figures import _figure
from harness.measure.store import Folder
from harness.measure.text import show
from harness.measure.types import Document, MeterPlan, MeterRun, PairRow, Plan, Role, Run, Saving, Survivor
from harness.measure.verb import Options, answer, measure
from harness.record.record import SamplesFile
from harness.types import Basis, UserError

METER = MeterPlan(label="modelled", name="modelled", why="", asked=True)
HARNESS = [sys.executable, "-m", "harness", "measure", "--no-calibrate", "--meter", "modelled"]


def plan(**fields: Any) -> Plan:
    common: dict[str, Any] = {"directory": "", "machine": {}, "sample_hz": 20.0, "idle_s": 0.0}
    return Plan(**({"kind": "once", "argv": {"a": ("true",)}, "meters": (METER,)} | common | fields))


def a_run(**fields: Any) -> Run:
    common = {"key": "command", "role": Role.ONCE, "arm": "a", "wall_clock": "", "exit_code": 0}
    return Run(**(common | fields))


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"pairs": 3}, "--pairs: only for two commands"),
        ({"warmups": 0, "allow_failures": True}, "--warmups, --allow-failures: only for two commands"),
        ({"versus": "true", "cooldown_c": float("nan")}, "--cooldown"),
        ({"versus": "true", "cooldown_c": -5.0}, "--cooldown"),
        ({"devices": [""]}, "--device is empty"),
        ({"devices": ["GPU-1"], "meters": ["modelled"]}, "--device names a card"),
        ({"command": ["echo", "\udcff"]}, "is not UTF-8"),
        ({"label": "\udcff"}, "--label"),
        ({"results": Path("/dev/null")}, "can't be made a folder"),
    ],
)
def test_what_makes_no_sense_is_told_before_anything_runs(fields, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options = {"command": ["touch", "ran"], "meters": ["modelled"]} | fields
    if "devices" in fields and "meters" not in fields:
        del options["meters"]
    with pytest.raises(UserError, match=words):
        measure(Options(**options))
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("output", [Path("nowhere/out.json"), Path(".")])
def test_where_the_document_goes_is_looked_at_before_the_command_runs(output, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="-o"):
        answer(Options(command=["touch", "ran"], meters=["modelled"]), output)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("lost", ["this run", "report"])
def test_a_full_disk_at_the_end_costs_what_is_kept_and_not_the_figures(tmp_path, monkeypatch, capfd, lost):
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    real = os.write
    if lost == "this run":
        monkeypatch.setattr(os, "write", lambda fd, data: full() if data.startswith(b'{"arm"') else real(fd, data))
    monkeypatch.setattr("harness.measure.verb.write_atomically", full)
    options = Options(command=["sh", "-c", "exit 3"], meters=["modelled"], results=tmp_path / "kept")
    assert answer(options, None) == 3
    told = capfd.readouterr().err
    assert f"{lost} is not kept" in told
    assert ("/kept/runs.jsonl" in told) == (lost == "this run")
    assert "mean power" in told
    assert "raw samples and report" not in told
    assert not (tmp_path / "kept" / "report.json").exists()


def test_samples_that_can_not_be_read_again_are_named_and_the_rest_is_told(tmp_path):
    file = SamplesFile(path="samples/command.modelled.samples", sha256="0" * 64, count=1)
    left = MeterRun(meter="modelled", samples=file)
    run = a_run(start_ns=0, end_ns=1_000_000_000, meters=(left,))
    folder = Folder(tmp_path)
    for spoil in (lambda path: None, lambda path: path.write_bytes(b"garbage"), _as_folder):
        (tmp_path / "samples").mkdir(exist_ok=True)
        spoil(tmp_path / file.path)
        assert folder.recordings([run]) == {}
        assert len(folder.tampered([run])) == 1
    figure = _figure(plan(), run, left, {})
    assert figure.energy.reason == "samples/command.modelled.samples is missing or can't be read"
    assert figure.invalid


def _as_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize("text", ["", "{", "[]", '{"pid": "x", "started": 1}'])
def test_a_note_of_what_runs_that_says_nothing_is_no_leave_to_start(tmp_path, text):
    (tmp_path / "running.json").write_text(text)
    with pytest.raises(UserError, match="delete it"):
        Folder(tmp_path).refuse_leftover()


def test_many_that_outlive_the_command_are_counted_not_listed(tmp_path):
    left = MeterRun(meter="modelled")
    survivors = tuple(Survivor(pid=pid, name="sleep") for pid in range(40))
    told = answer_text(tmp_path, survivors)
    assert "(pid 4) and 35 more" in told
    assert "(pid 5)" not in told
    assert left.samples is None


def answer_text(tmp_path: Path, survivors: tuple[Survivor, ...]) -> str:
    """The one caution that names them."""
    from harness.measure.figures import _cautions
    from harness.meter.base import MeterInfo

    info = MeterInfo(name="modelled", basis=Basis.MODELLED, source="", channels=())
    (told,) = _cautions(a_run(survivors=survivors), info, None)
    return told


class Lines:
    """A stream that is no terminal."""

    def __init__(self) -> None:
        self.text = ""

    def write(self, text: str) -> None:
        self.text += text

    def flush(self) -> None:
        return


@pytest.mark.parametrize("columns", ["20", "80"])
def test_millijoules_are_not_shown_as_zero_and_a_narrow_terminal_gets_whole_words(monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", columns)
    row = PairRow(
        pair=1, first="a", joules_a=0.01774, joules_b=None, seconds_a=0.0042, seconds_b=2.0, log_energy_ratio=None,
        log_time_ratio=0.0, left_out="B: no reading",
    )  # fmt: skip
    saving = Saving(
        meter="modelled", scope="process tree", basis=Basis.MODELLED, source="table", pairs=(row,), used=0,
        energy=None, time=None, power=None, net=None, order_effect=None, mean_joules_a=None, mean_joules_b=None,
    )  # fmt: skip
    made = plan(kind="pairs", argv={"a": ("x",), "b": ("y",)}, pairs=1, first=("a",))
    stream: Any = Lines()
    show(Document(plan=made, runs=(), savings=(saving,), exit_code=0), stream)
    assert "17.74 mJ" in stream.text
    assert "4.20 ms" in stream.text
    assert "0.0" not in stream.text
    assert "no pair counts, so there is no saving" in " ".join(stream.text.split())


def test_closed_streams_are_the_null_device(tmp_path):
    """Else files that are opened take their numbers and get what is printed."""
    line = " ".join([*HARNESS, "--results", "kept", "--", "sh", "-c", "'echo out; echo err >&2; exit 7'", ">&- 2>&-"])
    done = subprocess.run(["/bin/sh", "-c", line], cwd=tmp_path, check=False, stdin=subprocess.DEVNULL)
    assert done.returncode == 7
    assert json.loads((tmp_path / "kept" / "report.json").read_text())["exit_code"] == 7
    assert b"out\n" not in b"".join(path.read_bytes() for path in (tmp_path / "kept").rglob("*") if path.is_file())
