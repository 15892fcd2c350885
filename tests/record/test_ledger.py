"""The results store keeps everything through crashes, and says what it could not keep."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
from pathlib import Path

import pytest
from synthetic import records as make_records

from harness.record.ledger import Ledger, SetInfo, latest, sha256_of, unused, write_atomically
from harness.record.record import Record, Status
from harness.types import UserError


@pytest.fixture
def some() -> list[Record]:
    return make_records(sizes=("0.1M",), seeds=(0,))


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    ledger = Ledger(tmp_path / "set")
    ledger.root.mkdir()
    return ledger


def test_what_was_appended_is_read_back(ledger: Ledger, some: list[Record]) -> None:
    for record in some:
        ledger.append(record)
    assert ledger.records() == some


def test_a_torn_last_line_is_set_aside_and_reported(ledger: Ledger, some: list[Record]) -> None:
    for record in some[:2]:
        ledger.append(record)
    path = ledger.root / "records.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole[:-40])
    assert ledger.records() == some[:1]
    with ledger.writing() as mended:
        assert len(mended) == 1
        assert "torn" in mended[0]
        ledger.append(some[1])
    assert ledger.records() == some[:2]
    assert (ledger.root / "records.torn").read_bytes().strip() == whole[whole.index(b"\n") + 1 : -40]


def test_reading_never_changes_the_files(ledger: Ledger, some: list[Record]) -> None:
    ledger.append(some[0])
    path = ledger.root / "records.jsonl"
    path.write_bytes(path.read_bytes() + b'{"half')
    before = path.read_bytes()
    ledger.records()
    assert path.read_bytes() == before


def test_a_bad_line_in_the_middle_is_an_error_with_its_number(ledger: Ledger, some: list[Record]) -> None:
    ledger.append(some[0])
    with (ledger.root / "records.jsonl").open("ab") as stream:
        stream.write(b'{"run_id": 3}\n')
    ledger.append(some[1])
    with pytest.raises(UserError, match=r"records\.jsonl:2: not a record"):
        ledger.records()


def test_one_writer_at_a_time(ledger: Ledger) -> None:
    with ledger.writing(), pytest.raises(UserError, match="another run is writing"), Ledger(ledger.root).writing():
        pass


def test_a_killed_writer_leaves_no_lock(ledger: Ledger) -> None:
    context = multiprocessing.get_context("fork")
    process = context.Process(target=_hold_and_die, args=(ledger.root,))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    with ledger.writing() as mended:
        assert mended == []


def _hold_and_die(root: Path) -> None:
    with Ledger(root).writing():
        os.kill(os.getpid(), signal.SIGKILL)


def test_a_newer_schema_is_refused(ledger: Ledger) -> None:
    ledger.create(SetInfo(suite="s", title="t", code_revision="r"), "name: s\n")
    path = ledger.root / "set.json"
    data = json.loads(path.read_text())
    path.write_text(json.dumps(data | {"record_schema": 99}))
    with pytest.raises(UserError, match="newer version"):
        ledger.info()


def test_atomic_write_leaves_the_old_file_when_it_fails(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_atomically(path, "old")
    with pytest.raises(UnicodeEncodeError):
        write_atomically(path, "\ud800")
    assert path.read_text() == "old"


def test_latest_prefers_the_last_ok_attempt(some: list[Record]) -> None:
    good = some[0]
    failed = good.model_copy(update={"status": Status.FAILED, "attempt": 2})
    newer = good.model_copy(update={"attempt": 3})
    assert latest([good, failed])[good.run_id] == good
    assert latest([failed, good])[good.run_id] == good
    assert latest([good, newer])[good.run_id] == newer
    assert latest([failed])[good.run_id] == failed


def test_file_reference_hashes_the_content(ledger: Ledger) -> None:
    path = ledger.root / "samples" / "a"
    path.parent.mkdir()
    path.write_bytes(b"abc")
    reference = ledger.file_reference(path, 3)
    assert (reference.path, reference.count) == ("samples/a", 3)
    assert reference.sha256 == sha256_of(path) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_orphans_are_kept_under_numbers_and_shared_files_stay(tmp_path):
    ledger = Ledger(tmp_path)
    for folder in ("samples", "events"):
        (tmp_path / folder).mkdir()
    for attempt in range(3):  # three runners killed, one after the other
        (tmp_path / "samples" / "run.samples").write_text(f"attempt {attempt}")
        (tmp_path / "events" / "run.jsonl").write_text(f"attempt {attempt}")
        said = ledger.set_aside_orphans([])
        assert len(said) == 2
        assert "used nowhere" in said[0]
    for name in ("calibration.samples", "idle-block.samples"):
        (tmp_path / "samples" / name).write_text("shared")
    assert ledger.set_aside_orphans([]) == []
    kept = {path.relative_to(tmp_path).as_posix(): path.read_text() for path in tmp_path.glob("*/*")}
    assert kept == {
        "samples/run-orphan.samples": "attempt 0", "samples/run-orphan-2.samples": "attempt 1",
        "samples/run-orphan-3.samples": "attempt 2", "events/run-orphan.jsonl": "attempt 0",
        "events/run-orphan-2.jsonl": "attempt 1", "events/run-orphan-3.jsonl": "attempt 2",
        "samples/calibration.samples": "shared", "samples/idle-block.samples": "shared",
    }  # fmt: skip
    assert unused(tmp_path / "samples" / "calibration.samples").name == "calibration-2.samples"


def test_a_place_that_can_not_be_written_is_told_with_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    for place in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(UserError, match=r"can't be written there .* --results"), Ledger(place).writing():
            pass
    assert (tmp_path / "file").read_text() == "mine"
