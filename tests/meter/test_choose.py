from __future__ import annotations

import subprocess
import sys

import pytest
from meter_samples import channel, counter, info
from simulated_cases import scenario_file

from harness.meter.base import Quantity
from harness.meter.choose import choose
from harness.meter.modelled import ModelledCpuMeter
from harness.meter.nvml import NvmlMeter
from harness.meter.rapl import RaplMeter
from harness.meter.samples import write
from harness.types import UserError


@pytest.fixture
def machine(monkeypatch):
    """A machine that lacks what is named, with that reason."""

    def has(**lacking: str) -> None:
        for kind, name in ((NvmlMeter, "nvml"), (RaplMeter, "rapl"), (ModelledCpuMeter, "modelled")):
            monkeypatch.setattr(kind, "available", classmethod(lambda cls, name=name: lacking.get(name)))

    return has


def test_auto_takes_the_best_there_is_and_says_why_not_better(machine):
    machine()
    assert choose("auto", "cuda").name == "nvml"
    assert choose("auto", "cpu").name == "rapl"
    machine(rapl="no RAPL: a virtual machine")
    name, options, why = choose("auto", "cpu")
    assert (name, options) == ("modelled", {})
    assert "modelled" in why
    assert "not measured" in why
    assert "no RAPL: a virtual machine" in why


def test_a_card_is_never_metered_by_less(machine):
    machine(nvml="no driver")
    with pytest.raises(UserError, match="no meter for the card: no driver"):
        choose("auto", "cuda")
    for name in ("rapl", "modelled"):
        with pytest.raises(UserError, match="does not cover a training on 'cuda'; use auto or 'nvml'"):
            choose(name, "cuda")
    with pytest.raises(UserError, match="does not cover a training on 'cpu'"):
        choose("nvml", "cpu")


def test_no_meter_at_all_says_both_reasons(machine):
    machine(rapl="R", modelled="M")
    with pytest.raises(UserError, match="rapl: R; modelled: M"):
        choose("auto", "cpu")


def test_an_explicit_meter_is_taken_or_refused(machine):
    machine(rapl="counters may not be read: sudo chmod")
    assert choose("modelled", "cpu").explanation == ("modelled was asked for; its energies are modelled, not measured")
    with pytest.raises(UserError, match="'rapl' was asked for but can't be used: counters may not be read: sudo chmod"):
        choose("rapl", "cpu")


def test_made_up_instruments_say_that_nothing_is_measured(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    scenario_file(tmp_path, load={"power_w": 1}, name="s.yaml")
    write(tmp_path / "rec", info(channel(Quantity.ENERGY_J)), counter(1, 1, index=0))
    for request, options in (
        ("simulated:s.yaml", {"scenario": str(tmp_path / "s.yaml")}),
        ("replay:rec", {"file": str(tmp_path / "rec")}),
    ):
        for device in ("cpu", "cuda"):
            name, found, why = choose(request, device)
            assert (name, found) == (request.partition(":")[0], options)
            assert why == f"{request} was asked for; its energies are simulated: nothing is measured, whatever runs"
    for request, says in (
        ("replay", "needs a file"),
        ("replay:x", "there is no file 'x'"),
        ("simulated", "needs a scenario"),
        ("simulated:h100-savin", "did you mean 'h100-saving'"),
    ):
        with pytest.raises(UserError, match=says):
            choose(request, "cpu")


def test_auto_never_makes_anything_up(machine):
    lacking = {"nvml": "N", "rapl": "R", "modelled": "M"}
    machine(**lacking)
    for device in ("cpu", "cuda"):
        with pytest.raises(UserError, match="no meter for"):
            choose("auto", device)


def test_unknown_names_are_answered_with_the_nearest(machine):
    machine()
    with pytest.raises(UserError, match="unknown meter 'rappl', did you mean 'rapl'"):
        choose("rappl", "cpu")
    with pytest.raises(UserError, match="takes no argument"):
        choose("rapl:x", "cpu")


def test_choosing_imports_nothing_heavy():
    code = (
        "import sys; from harness.meter.choose import choose; choose('auto', 'cpu');"
        "print([m for m in ('torch', 'numpy', 'scipy', 'pandas', 'codecarbon', 'transformers') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip() == "[]"
