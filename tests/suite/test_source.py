"""What can be wrong with a file before anything in it is looked at."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.suite.load import SuiteError, load, loads
from harness.suite.source import MAX_BYTES

pytestmark = pytest.mark.usefixtures("toys")

MINIMAL = "name: demo\nworkload: toy\nexperiments:\n- {protocol: train, sizes: [0.1M], seeds: 1, arms: [dense]}\n"


def problem_of(raw: bytes) -> str:
    with pytest.raises(SuiteError) as raised:
        loads(raw, "s.yaml")
    return str(raised.value)


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (b"", "s.yaml: is empty; a suite needs at least name, workload, arms, experiments"),
        (b"# only a comment\n", "s.yaml: is empty; a suite needs at least name, workload, arms, experiments"),
        (b"\n- a\n", "s.yaml:2: must be a mapping of keys such as 'workload: language'"),
        (b"just text", "s.yaml:1: must be a mapping of keys such as 'workload: language'"),
        (b"name: demo\ntitle: caf\xe9\n", "s.yaml:2: is not UTF-8 text; save the file as UTF-8"),
        ("name: demo\n".encode("utf-16"), "s.yaml:1: is not UTF-8 text; save the file as UTF-8"),
        (b"name: demo\ntitle: a\x07b\n", "s.yaml:2: character U+0007 is not allowed in YAML"),
        (b"#" * (MAX_BYTES + 1), "s.yaml: is bigger than 1,000,000 bytes; a suite file has a few thousand"),
        (b"a: " + b"[" * 2000 + b"]" * 2000, "s.yaml: is nested too deeply"),
        (b"a: 1\n  b: 2\n", "s.yaml:2: is not valid YAML: mapping values are not allowed here"),
    ],
)
def test_a_file_that_is_no_suite_says_why(raw: bytes, expected: str) -> None:
    assert problem_of(raw) == expected


def test_a_byte_order_mark_and_windows_line_ends_change_nothing() -> None:
    windows = b"\xef\xbb\xbf" + MINIMAL.replace("\n", "\r\n").encode()
    assert loads(windows) == loads(MINIMAL)


def test_a_bomb_of_aliases_is_refused_without_being_expanded() -> None:
    levels = "".join(f"k{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 30))
    text = problem_of(("k0: &a0 [lol]\n" + levels).encode())
    assert "s.yaml:2: alias '*a0' is not allowed in a suite; write the value out" in text


def test_missing_file_names_the_suites_that_are_there(tmp_path: Path) -> None:
    (tmp_path / "real.yaml").write_text(MINIMAL)
    with pytest.raises(SuiteError) as raised:
        load(tmp_path / "rael.yaml")
    assert str(raised.value) == f"{tmp_path}/rael.yaml: no such file; there are: {tmp_path}/real.yaml"


def test_a_folder_is_not_a_suite(tmp_path: Path) -> None:
    with pytest.raises(SuiteError) as raised:
        load(tmp_path)
    assert str(raised.value) == f"{tmp_path}: is a folder, not a suite file"


def test_a_path_that_can_not_exist_is_the_users_error() -> None:
    with pytest.raises(SuiteError, match="can't be read"):
        load("a\0b")


def test_a_claims_file_beside_the_suite_is_found_and_its_mistakes_are_reported(tmp_path: Path) -> None:
    suite = tmp_path / "mine.yaml"
    suite.write_text(MINIMAL + "claims: own.yaml\n")
    with pytest.raises(SuiteError, match=r"mine\.yaml:5: claims: .*own\.yaml: can't be read"):
        load(suite)
    (tmp_path / "own.yaml").write_text("claims:\n- {id: a, text: b, metric: enrgy}\n")
    with pytest.raises(SuiteError, match=r"own\.yaml:2: claims\[0\]"):
        load(suite)
    (tmp_path / "own.yaml").write_text("claims:\n- {id: a, text: b, metric: none, needs: c}\n")
    assert load(suite).claims == str(tmp_path / "own.yaml")
