"""The programs of docs/sat-training.md run, one after the other, as a reader would paste them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from sat_models import llama, tokens

import sat.optimizers

ROOT = Path(__file__).parents[2]
DOCUMENT = ROOT / "docs" / "sat-training.md"


def test_the_programs_of_the_training_document_run(capsys, monkeypatch):
    monkeypatch.setattr("sat.optimizers._KNOWN", {**sat.optimizers._KNOWN})  # registered for this test alone
    programs = dict(re.findall(r"<!-- runs: (\w+) -->\n```python\n(.*?)```", DOCUMENT.read_text(), re.DOTALL))
    assert list(programs) == ["loop", "register", "compile"]
    model = llama()
    plain = {name: weight.shape for name, weight in model.state_dict().items()}
    given = {"model": model, "batches": [dict.fromkeys(("input_ids", "labels"), tokens(seed=i)) for i in range(16)]}
    for name, program in programs.items():
        exec(compile(program, f"{DOCUMENT.name}: {name}", "exec"), given)
        assert {n: w.shape for n, w in model.state_dict().items()} == plain, name
        assert given["controller"].report().entries > 0, name
    assert "8 steps" in capsys.readouterr().out


@pytest.mark.parametrize("path", sorted((ROOT / "sat").rglob("*.py")), ids=lambda path: path.name)
def test_documents_that_the_library_names_are_there(path):
    for named in re.findall(r"docs/[\w./-]+\.md", path.read_text(encoding="utf-8")):
        assert (ROOT / named).is_file(), named
