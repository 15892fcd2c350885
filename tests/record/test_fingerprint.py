"""Which revision of the code a set was recorded by."""

from __future__ import annotations

import subprocess

import pytest

from harness.record.fingerprint import code_revision


@pytest.fixture
def checkout(tmp_path):
    """A repository with code, and a function that commits a change of one file in it."""

    def git(*arguments):
        identity = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
        subprocess.run(["git", "-C", str(tmp_path), *identity, *arguments], check=True, capture_output=True)

    def commit(path):
        file = tmp_path / path
        file.parent.mkdir(exist_ok=True)
        file.write_text(file.read_text() + "x" if file.exists() else "x")
        git("add", "-A")
        git("commit", "-m", path)

    git("init")
    commit("harness/a.py")
    commit("sat/b.py")
    return tmp_path, commit


def test_commits_of_records_and_documents_leave_the_revision_as_it_is(checkout):
    root, commit = checkout
    before = code_revision(root)
    assert len(before) == 12
    commit("results/records.jsonl")
    commit("docs/page.md")
    assert code_revision(root) == before


@pytest.mark.parametrize("path", ["harness/a.py", "sat/new.py"])
def test_commits_and_changes_of_code_do_not(checkout, path):
    root, commit = checkout
    before = code_revision(root)
    (root / path).write_text("changed")
    assert code_revision(root).startswith(f"{before}+dirty-")
    commit(path)
    assert "dirty" not in code_revision(root)
    assert code_revision(root) != before


def test_outside_a_checkout_it_is_unknown(tmp_path):
    assert code_revision(tmp_path) == "unknown"
