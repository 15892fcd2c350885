"""``measure`` as a user meets it: streams, signals, exit codes, what is kept, what can be derived again."""

from __future__ import annotations

import json
import math
import os
import pty
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import ClassVar

import pytest
from answers import Harness, harness_in_process
from tiny_commands import scenario

from harness.meter import base
from harness.meter.opinions.base import OPINIONS, Opinion, Part, SecondOpinion
from harness.types import Basis

HARNESS = [sys.executable, "-m", "harness", "measure"]
TWO_LOADS = "load: {power_w: 100}\narms: {a: {power_w: 400}, b: {power_w: 280}}"
COUNTS_SIGNALS = """
import signal, sys, time
seen = []
for name in sys.argv[1:]:
    signal.signal(getattr(signal, name), lambda number, frame: seen.append(number))
print("ready", flush=True)
end = time.monotonic() + 0.7
while time.monotonic() < end: time.sleep(0.05)
sys.exit(10 + len(seen))
"""


@pytest.fixture
def measure(capfd, monkeypatch, tmp_path) -> Harness:
    """``measure("--json", "--", "true")`` in this process and an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(base, "MAX_MARGIN_S", 0.02)

    return harness_in_process(capfd, monkeypatch, "measure")


@pytest.fixture
def exactly(measure, monkeypatch) -> Harness:
    """The same, reading long enough beside each window for its edges: where joules are tested."""
    monkeypatch.setattr(base, "MAX_MARGIN_S", 0.16)
    return measure


def wait_for(condition: Callable[[], bool], timeout_s: float = 30.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def pairs_of(meter: str, n: int, a: Sequence[str], b: str, *options: str) -> list[str]:
    plan = ["--no-calibrate", "--meter", meter, "--pairs", str(n), "--warmups", "0", "--seed", "7"]
    return [*plan, *options, "--vs", b, "--", *a]


def test_streams_are_the_commands_own(tmp_path):
    given = bytes(range(256)) * 300
    code = "import sys; sys.stdout.buffer.write(sys.stdin.buffer.read()); sys.stderr.write('its own\\n'); sys.exit(3)"
    done = subprocess.run(
        [*HARNESS, "--", sys.executable, "-c", code], input=given, capture_output=True, check=False, cwd=tmp_path
    )
    assert done.returncode == 3
    assert done.stdout == given
    assert done.stderr.startswith(b"its own\n")
    assert b"exit code 3" in done.stderr
    assert b"MODELLED" in done.stderr or b"MEASURED" in done.stderr


def test_json_is_one_document_and_the_commands_output_goes_to_stderr(measure):
    ours = ["--json", "--meter", "modelled", "--label", "mine"]
    told = measure(*ours, "sh", "-c", "echo out; exit 4", "--strict", "--vs")  # what follows it is the command's
    assert told.code == told.document["exit_code"] == 4
    assert told.err.startswith("out\n")
    assert told.document["plan"]["label"] == "mine"
    assert told.document["runs"][0]["figures"][0]["energy"]["basis"] == "modelled"


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ([], 2, "is empty"),
        (["--meter", "watts", "--", "true"], 2, "watts"),
        (["--meter", "modelled", "--meter", "modelled", "--", "true"], 2, "asked for twice"),
        (["--idle", "soon", "--", "true"], 2, "--idle"),
        (["--vs", "echo 'unclosed", "--", "true"], 2, "--vs"),
        (["--vs", "true", "--pairs", "0", "--", "true"], 2, "--pairs"),
        (["--vs", "true", "--half-width", "0.001", "--", "true"], 2, "over a thousand pairs"),
        (["--second-opinion", "gut-feeling", "--", "true"], 2, "gut-feeling"),
        (["--replay", "nowhere"], 2, "no measurement"),
        (["--", "no-such-command"], 127, "command not found"),
        (["--meter", "modelled", "--vs", "no-such-command", "--", "true"], 127, "command not found"),
    ],
)
def test_mistakes_are_told(measure, arguments, code, words):
    told = measure(*arguments)
    assert (told.code, words in told.err + told.out) == (code, True), told


def test_shell_runs_a_pipeline(measure):
    told = measure("--shell", "--meter", "modelled", "--", "printf abc | tr a-c d-f; exit 9")
    assert (told.code, told.out) == (9, "def")


def test_signals_sent_to_us_reach_the_command_once(tmp_path):
    names = ["SIGINT", "SIGTERM", "SIGUSR1"]
    argv = [*HARNESS, "--meter", "modelled", "--", sys.executable, "-c", COUNTS_SIGNALS, *names]
    process = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=tmp_path)
    assert process.stdout.readline() == b"ready\n"
    for name in names:
        process.send_signal(getattr(signal, name))
    _, err = process.communicate(timeout=20)
    assert process.returncode == 13
    assert b"exit code 13" in err


def test_ctrl_c_in_a_terminal_reaches_the_command_once_and_the_report_comes(tmp_path):
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(tmp_path)
        os.execv(
            sys.executable, [*HARNESS, "--meter", "modelled", "--", sys.executable, "-c", COUNTS_SIGNALS, "SIGINT"]
        )
    seen = b""
    while b"ready" not in seen:
        seen += os.read(terminal, 4096)
    os.write(terminal, b"\x03")
    while True:
        try:
            data = os.read(terminal, 4096)
        except OSError:  # the other end is closed
            break
        if not data:
            break
        seen += data
    _, status = os.waitpid(pid, 0)
    os.close(terminal)
    assert os.waitstatus_to_exitcode(status) == 11
    assert b"exit code 11" in seen
    assert b"mean power" in seen


def test_idle_is_taken_off_beside_the_gross_figure(exactly, tmp_path):
    meter = scenario(tmp_path, TWO_LOADS)
    told = exactly("--json", "--no-calibrate", "--meter", meter, "--idle", "0.4s", "--", "sleep", "0.4")
    figure = told.document["runs"][0]["figures"][0]
    seconds = told.document["runs"][0]["seconds"]
    assert figure["net"]["idle_power_w"] == pytest.approx(100, rel=0.02)
    assert figure["energy"]["joules"] == pytest.approx(400 * seconds, rel=0.03)
    assert figure["net"]["joules"] == pytest.approx(300 * seconds, rel=0.04)
    assert figure["energy"]["basis"] == "simulated"
    assert figure["kwh"] == figure["energy"]["joules"] / 3.6e6


def test_a_figure_that_can_not_be_trusted_is_loud_and_strict_makes_it_4(measure, tmp_path):
    meter = scenario(tmp_path, "load: {power_w: 100}")
    path = tmp_path / "scenario.yaml"
    path.write_text(path.read_text().replace("cards: [{", "cards: [{faults: [{kind: foreign, value: 2}], "))
    told = measure("--no-calibrate", "--meter", meter, "--strict", "--", "sleep", "0.2")
    assert told.code == 4
    assert "INVALID" in told.err
    assert "2 foreign processes" in told.err
    assert measure("--no-calibrate", "--meter", meter, "--strict", "--", "sh", "-c", "exit 3").code == 3
    assert measure("--no-calibrate", "--meter", meter, "--", "true").code == 0


def test_pairs_find_the_planted_saving_and_split_it(exactly, tmp_path):
    told = exactly(*pairs_of(scenario(tmp_path, TWO_LOADS), 2, ["sleep", "0.2"], "sleep 0.3", "--json"))
    assert told.code == 0
    (saving,) = told.document["savings"]
    assert (saving["basis"], saving["used"], told.document["done_pairs"]) == ("simulated", 2, 2)
    assert saving["power"]["value"] == pytest.approx(0.30, abs=0.03)  # 280 W instead of 400 W
    seconds = {arm: [row[f"seconds_{arm}"] for row in saving["pairs"]] for arm in "ab"}
    longer = math.prod(b / a for a, b in zip(seconds["a"], seconds["b"], strict=True)) ** (1 / 2)
    assert saving["time"]["value"] == pytest.approx(1 - longer)
    assert saving["energy"]["value"] == pytest.approx(1 - 0.7 * longer, abs=0.05)
    assert saving["energy"]["low"] <= saving["energy"]["value"] <= saving["energy"]["high"]
    whole = (1 - saving["time"]["value"]) * (1 - saving["power"]["value"])
    assert 1 - saving["energy"]["value"] == pytest.approx(whole)
    order = [run["run"]["arm"] for run in told.document["runs"]]
    assert order in (list("abba"), list("baab"))
    assert order[::2] == told.document["plan"]["first"]


def test_a_saving_by_a_simulation_says_so_in_every_line(measure, tmp_path):
    told = measure(*pairs_of(scenario(tmp_path, TWO_LOADS), 1, ["sleep", "0.1"], "sleep 0.1"))
    lines = [
        line for line in told.out.splitlines() if "B saves" in line or "power part" in line or "mean of a run" in line
    ]
    assert len(lines) == 4  # with the table's head
    assert all("simulated" in line for line in lines)
    assert "n=1, no interval" in told.out


def test_a_failing_command_ends_the_pairs_with_its_code(measure, tmp_path):
    meter = scenario(tmp_path, TWO_LOADS)
    told = measure(*pairs_of(meter, 3, ["true"], "sh -c 'echo why it failed; exit 5'"))
    assert told.code == 5
    assert "why it failed" in told.err
    assert "0 of 3 planned pairs" in told.out


def test_failures_that_are_allowed_are_left_out_by_name(measure, tmp_path):
    flaky = tmp_path / "flaky"
    flaky.write_text("#!/bin/sh\nsleep 0.05\necho x >> runs\n[ $(wc -l < runs) -ne 1 ]\n")
    flaky.chmod(0o755)
    meter = scenario(tmp_path, TWO_LOADS)
    told = measure(*pairs_of(meter, 2, ["sleep", "0.05"], str(flaky), "--allow-failures", "--json"))
    assert told.code == 0
    (saving,) = told.document["savings"]
    assert [row["left_out"] for row in saving["pairs"]] == ["B: exit code 1", ""]
    assert saving["used"] == saving["energy"]["n"] == 1


def test_pairs_go_on_after_a_kill_and_make_the_cut_pair_anew(measure, tmp_path):
    meter = scenario(tmp_path, TWO_LOADS)
    command = "sh -c 'sleep 0.1; while [ -e hold ]; do sleep 0.02; done'"
    words = pairs_of(meter, 2, shlex.split(command), command, "--results", "kept", "--json")
    kept = tmp_path / "kept"

    process = subprocess.Popen([*HARNESS, *words], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=tmp_path)
    wait_for((kept / "runs.jsonl").exists)  # half of the first pair is done
    (tmp_path / "hold").touch()
    wait_for((kept / "running.json").exists)
    time.sleep(0.5)  # the second half has begun
    process.kill()
    process.wait()
    with (kept / "runs.jsonl").open("ab") as torn:
        torn.write(b'{"key": "torn')

    beside = measure(*words)
    assert (beside.code, "still runs as process" in beside.err) == (2, True), beside
    (tmp_path / "hold").unlink()
    other = measure(*[word.replace("0.1", "0.2") for word in words])
    assert (other.code, "another plan (argv" in other.err) == (2, True), other

    done = measure(*words)
    assert done.code == 0, done.err
    runs = [made["run"] for made in done.document["runs"]]
    assert [(run["pair"], run["attempt"]) for run in runs] == [(1, 1), (1, 2), (1, 2), (2, 1), (2, 1)]
    assert done.document["done_pairs"] == 2
    assert done.document["savings"][0]["used"] == 2
    cut = done.document["runs"][0]["figures"][0]["energy"]["joules"]
    assert done.document["wasted_j"]["simulated"] == cut > 0
    assert (kept / "runs.torn").read_bytes() == b'{"key": "torn\n'


def test_what_is_kept_gives_the_same_bytes_again_and_tampering_is_named(measure, tmp_path):
    meter = scenario(tmp_path, TWO_LOADS)
    told = measure("--no-calibrate", "--meter", meter, "--results", "kept", "-o", "out.json", "--", "sleep", "0.2")
    assert told.code == 0
    assert "measure --replay kept" in told.err
    report = (tmp_path / "kept" / "report.json").read_text()
    assert (tmp_path / "out.json").read_text() == report
    again = measure("--replay", "kept", "--json")
    assert (again.code, again.out) == (0, report)
    assert measure("--results", "kept", "--meter", meter, "--", "sleep", "0.2").code == 2  # never overwritten

    line = (tmp_path / "kept" / "runs.jsonl").read_text()
    end_ns = json.loads(line)["end_ns"]
    (tmp_path / "kept" / "runs.jsonl").write_text(line.replace(str(end_ns), str(end_ns - 10_000_000)))
    told = measure("--replay", "kept")
    assert (told.code, "report.json: its bytes do not follow" in told.err) == (4, True)
    (tmp_path / "kept" / "runs.jsonl").write_text(line)
    (samples,) = (tmp_path / "kept" / "samples").iterdir()
    samples.write_bytes(samples.read_bytes()[:-30])
    told = measure("--replay", "kept")
    assert told.code == 4
    assert f"{samples.name}: is not the file that was written" in told.err


class Witness(Opinion):
    """Says 10 % more than 400 W over its window."""

    name: ClassVar[str] = "witness"
    title: ClassVar[str] = "Witness"

    @classmethod
    def available(cls) -> str | None:
        return None

    def _prepare(self, devices: Sequence[str]) -> None:
        assert list(devices) == []

    def _start(self) -> None:
        self._began = time.monotonic()

    def _stop(self) -> list[SecondOpinion]:
        seconds = time.monotonic() - self._began
        return [
            SecondOpinion(
                tool="Witness 1",
                joules=440 * seconds,
                basis=Basis.MEASURED,
                covers="1 GPU",
                seconds=seconds,
                part=Part.GPU,
            )
        ]

    def _release(self) -> None:
        return

    def _tool(self) -> str:
        return "Witness 1"


def test_a_second_opinion_stands_beside_ours_with_its_difference(exactly, monkeypatch, tmp_path):
    monkeypatch.setitem(OPINIONS._loaded, "witness", Witness)
    meter = scenario(tmp_path, TWO_LOADS)
    asked = ["--no-calibrate", "--meter", meter, "--second-opinion", "witness", "-o", "out.json"]
    assert "Witness 1" in exactly(*asked, "--", "sleep", "0.4").err
    (opined,) = json.loads((tmp_path / "out.json").read_text())["runs"][0]["opinions"]
    assert opined["meter"] == "simulated"
    assert opined["row"]["difference"] == pytest.approx(0.1, abs=0.03)
    told = exactly(*pairs_of(meter, 1, ["sleep", "0.2"], "sleep 0.2", "--second-opinion", "witness", "--json"))
    (saving,) = told.document["opinion_savings"]
    assert (saving["tool"], saving["used"]) == ("Witness 1", 1)
    assert saving["energy"]["value"] == pytest.approx(0.0, abs=0.1)


def test_keys_of_the_document_are_stable(measure, tmp_path):
    """A golden list: whoever parses the document may rely on it; a change raises ``version``."""
    told = measure(*pairs_of(scenario(tmp_path, TWO_LOADS), 1, ["true"], "true", "--json", "--allow-failures"))
    document = told.document
    run = document["runs"][0]
    found = {
        "document": sorted(document),
        "plan": sorted(document["plan"]),
        "run": sorted(run["run"]),
        "figure": sorted(run["figures"][0]),
        "energy": sorted(run["figures"][0]["energy"]),
        "saving": sorted(document["savings"][0]),
        "pair": sorted(document["savings"][0]["pairs"][0]),
    }
    golden = json.loads((Path(__file__).parent / "document_keys.json").read_text())
    assert found == golden
    assert document["version"] == 1
