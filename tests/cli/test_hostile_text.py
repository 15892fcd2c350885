"""Titles, labels and names that others wrote: a terminal shows them and obeys none."""

from __future__ import annotations

import io
import json

import pytest
from answers import Harness
from made_sets import make_set, planted
from rich.live import Live
from rich.table import Table
from rich.text import Text

from harness import cli
from harness.console import Console
from harness.streams import visible, visible_json
from harness.types import UserError

EVIL = "\x1b[2J\x1b]0;owned\x07 \x9b31m \u202e[/bold] [simulated]"
SHOWN = "\u241b[2J\u241b]0;owned\u2407 \ufffd31m \ufffd[/bold] [simulated]"
SUITE = f"""name: s
title: {json.dumps(EVIL)}
workload: language
workload_options: {{tokens_per_parameter: 1}}
arms: {{dense: {{method: dense}}}}
experiments: [{{protocol: train, sizes: [0.1M], seeds: [0], arms: [dense]}}]
"""


def is_safe(text: str) -> bool:
    return not set(text) & {chr(code) for code in (*range(9), *range(11, 32), *range(127, 160), 0x202E)}


def test_controls_are_shown_and_everything_else_is_left_alone() -> None:
    assert visible(EVIL) == SHOWN
    assert visible("line\n\ttab ± 漢 \u200d é") == "line\n\ttab ± 漢 \u200d é"


def test_json_with_controls_is_safe_and_the_same_document() -> None:
    text = json.dumps({"title": EVIL}, ensure_ascii=False, indent=1)
    assert not is_safe(text)
    assert is_safe(visible_json(text))
    assert json.loads(visible_json(text)) == {"title": EVIL}


def test_a_console_shows_them_in_texts_cells_and_titles_and_keeps_its_own_colours() -> None:
    stream = io.StringIO()
    console = Console(file=stream, width=100, force_terminal=True, color_system="standard")
    table = Table(title=EVIL)
    table.add_column(EVIL)
    table.add_row(EVIL)
    console.print(EVIL, Text(EVIL, style="red"), table)
    told = stream.getvalue()
    assert told.count("\u241b[2J\u241b]0;owned") == 5
    assert "\x1b[31m" in told
    assert "\x1b[2J" not in told


def test_a_live_line_goes_on_moving_the_cursor() -> None:
    stream = io.StringIO()
    console = Console(file=stream, width=100, force_terminal=True)
    with Live(Text(EVIL), console=console, auto_refresh=False, transient=True) as live:
        live.update(Text("b"), refresh=True)
    assert "\x1b[2K" in stream.getvalue()
    assert "\x1b[2J" not in stream.getvalue()


@pytest.mark.parametrize(
    "arguments", [["verify"], ["verify", "--json"], ["report", "--format", "md"], ["report", "--json"], ["audit"]]
)
def test_a_result_set_with_such_a_title_is_told_without_it(harness_: Harness, tmp_path, arguments) -> None:
    made = make_set(tmp_path / "made", planted(0.6, seeds=2), title=EVIL)
    verb, *options = arguments
    answer = harness_(verb, made, *options)
    assert answer.out
    assert is_safe(answer.out + answer.err)


def test_the_title_is_told_whole(harness_: Harness, tmp_path) -> None:
    made = make_set(tmp_path / "made", planted(0.6, seeds=2), title=EVIL)
    assert "[/bold] [simulated]" in " ".join(harness_("verify", made).out.split())


def test_a_suite_file_with_such_a_title_too(harness_: Harness, tmp_path) -> None:
    (tmp_path / "s.yaml").write_text(SUITE)
    answer = harness_("plan", "s.yaml")
    assert "\u241b[2J" in answer.out
    assert is_safe(answer.out + answer.err)


def test_an_error_is_told_without_them(monkeypatch, capsys) -> None:
    def fails(**_) -> None:
        raise UserError(EVIL)

    monkeypatch.setattr(cli, "app", fails)
    with pytest.raises(SystemExit):
        cli.main()
    assert capsys.readouterr().err == f"error: {SHOWN}\n"
