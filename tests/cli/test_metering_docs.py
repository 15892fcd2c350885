"""The table of rules names code and tests that exist, and all fifteen rules."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "metering.md").read_text(encoding="utf-8")


def test_every_rule_has_code_and_a_test():
    rows = re.findall(r"^\| (\d+) \| .* \| (.*) \| (.*) \|$", PAGE, re.MULTILINE)
    assert [int(number) for number, *_ in rows] == list(range(1, 16))
    assert all("`" in code and "::test_" in tests for _, code, tests in rows)


def test_files_that_are_named_exist():
    for path in re.findall(r"`((?:harness|tests|studies)/[\w/]+\.py)", PAGE):
        assert (ROOT / path).is_file(), path


def test_tests_that_are_named_exist():
    named = re.findall(r"`(tests/[\w/]+\.py)::(test_\w+)`", PAGE)
    assert len(named) >= 15
    for path, name in named:
        tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
        functions = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
        assert name in functions, f"{path}::{name}"
