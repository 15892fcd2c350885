"""What the documents tell a reader to type works word for word."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path

import pytest

from harness import cli
from harness.suite.load import loads

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "suites").glob("*.yaml"))]


def commands() -> list[tuple[str, str]]:
    """Every ``python -m harness`` line of every page."""
    found = []
    for page in PAGES:
        for match in re.finditer(r"(?:python -m )(harness [a-z][^`\n]*)", page.read_text().replace("\\\n", "")):
            command = re.split(r"\s{2,}|\s+[#>]", match[1].strip())[0].rstrip(".,;:)")
            found.append((page.name, command))
    return found


@pytest.mark.parametrize(("page", "command"), commands())
def test_verbs_and_options_exist(page: str, command: str, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    _, verb, *arguments = shlex.split(command)
    options = [word.partition("=")[0] for word in arguments if word.startswith("-")]
    monkeypatch.setattr(sys, "argv", ["harness", verb, "--help"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 0, command
    help_ = capsys.readouterr().out
    for option in options:
        assert re.search(rf"{re.escape(option)}\b", help_), f"{page}: {command}"
    for path in (word for word in arguments if word.startswith("suites/") and "*" not in word):
        assert (ROOT / path).is_file(), f"{page}: {path}"


def test_every_make_target_that_is_named_exists() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = {name for page in PAGES for name in re.findall(r"`?\bmake ([a-z]+)`", page.read_text())}
    named |= set(re.findall(r"^make ([a-z]+)", (ROOT / "README.md").read_text(), re.MULTILINE))
    assert named
    assert named <= targets


@pytest.mark.parametrize("page", [page for page in PAGES if page.suffix == ".md"], ids=lambda page: page.name)
def test_links_between_the_pages_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), target


def test_the_suite_of_the_reference_is_valid() -> None:
    text = (ROOT / "docs" / "suite-file.md").read_text()
    example = re.search(r"```yaml\n(name: .*?)```", text, re.DOTALL)
    assert example is not None
    assert loads(example[1]).name == "my-suite"
