"""What the doctor says of made-up machines: remedies, limits of a verdict, what to change."""

from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace

import pytest

from harness.doctor import examine as examination
from harness.doctor import torch_probe
from harness.doctor.advice import AT_MOST, advice, at_most
from harness.doctor.cards import cards_of
from harness.doctor.examine import examine
from harness.doctor.meters import examine_meter, stated_uncertainty
from harness.doctor.screen import screen
from harness.doctor.surroundings import surroundings
from harness.doctor.types import CardFacts, MeterFacts, Surroundings, TorchFacts
from harness.meter.base import METERS, Channel, MeterInfo, Quantity
from harness.meter.rapl import REMEDY, RaplMeter
from harness.meter.simulated.nvml import SimulatedNvml
from harness.meter.simulated.scenario import Card, Fault, FaultKind, Scenario
from harness.types import Basis, UserError

BARE = Surroundings(virtual=False, container=None, clock="tsc", clock_step_s=1e-7, load_1min=0.1)
TORCH = TorchFacts(version="2.13", says="there is no card for it to use")


def chosen(name: str, options=None):
    return lambda request, device: SimpleNamespace(name=name, options=options or {}, why="asked for")


@pytest.fixture
def no_card(monkeypatch):
    monkeypatch.setattr(examination, "real_cards", lambda: ())


def test_a_machine_with_a_model_only(no_card):
    found = examine("auto", chosen("modelled", {"watts_per_core": 4.0}))
    assert found.measures
    assert found.auto["meter"] == "modelled"
    assert found.verdict == AT_MOST[Basis.MODELLED]
    assert "supported by a model" in found.verdict
    assert set(found.meters) == set(METERS.names())
    model = found.meters["modelled"]
    assert model.uncertainty_60s > 0
    assert model.dominating == "watts per core"
    assert found.torch.usable is None
    shown = screen(found, width=80)
    assert len(shown.splitlines()) <= 24
    assert max(map(len, shown.splitlines())) <= 80
    assert "modelled ✓ modelled (used)" in shown


def test_where_nothing_can_be_measured_it_says_so(no_card):
    def none(request, device):
        raise UserError("no meter for the card: no permission; ask for it")

    found = examine("auto", none)
    assert not found.measures
    assert found.verdict == at_most(None)
    assert "counted FLOPs alone" in screen(found)
    assert "no permission; ask for it" in " ".join(screen(found).split())


def test_a_meter_that_does_not_exist_is_an_error(no_card):
    def unknown(request, device):
        raise UserError("unknown meter 'nvlm'")

    with pytest.raises(UserError, match="nvlm"):
        examine("nvlm", unknown)


def test_a_simulated_card_shows_what_it_would_look_like_and_is_marked(tmp_path):
    scenario = tmp_path / "card.yaml"
    scenario.write_text(
        "load: {power_w: 300}\ncards: [{sensor: {period_s: 0.05, window_s: 0.0125, noise_w: 2}}]\n", encoding="utf-8"
    )
    options = {"scenario": str(scenario)}
    found = examine(f"simulated:{scenario}", chosen("simulated", options))
    assert found.simulated
    card = found.meters["simulated"]
    assert card.basis is Basis.SIMULATED
    assert card.update_period_s == pytest.approx(0.05, rel=0.05)
    assert card.period_is_observed
    assert 0 < card.sampler_core_share < 0.1
    assert card.power_now_w == pytest.approx(300, rel=0.05)
    assert card.uncertainty_60s == pytest.approx(0.1, abs=0.02)  # 95 %: twice a gain error of 5 %
    assert card.dominating == "sensor gain"
    shown = screen(found, width=80)
    assert shown.startswith("SIMULATED")
    assert "nothing: every joule is made up" in shown
    assert len(shown.splitlines()) <= 24
    assert "\x1b[" not in shown
    assert "\x1b[" in screen(found, width=80, colour=True)


def test_cards_as_their_driver_tells_of_them():
    mig = Card(mig=True)
    shared = Card(faults=(Fault(kind=FaultKind.FOREIGN, value=2),), power_limit_w=500)
    blind = Card(faults=(Fault(kind=FaultKind.DENIED, readings=("power_limit", "processes")),))
    first, second, third = cards_of(SimulatedNvml(Scenario(cards=(mig, shared, blind))))
    assert first.scope == "board"
    assert (second.power_limit_w, second.compute_processes, second.scope) == (500, 2, "gpu")
    assert (third.power_limit_w, third.compute_processes) == (None, None)


def test_a_driver_that_can_not_be_opened_has_no_cards():
    class Broken:
        class NVMLError(Exception):
            pass

        def nvmlInit(self):  # noqa: N802
            raise self.NVMLError

    assert cards_of(Broken()) == ()


def facts(name: str, **changes) -> MeterFacts:
    base = {"name": name, "available": True, "basis": Basis.MEASURED, "covers": ("cpu",)}
    return MeterFacts(**(base | changes))


def told(device="cpu", used=None, meters=(), cards=(), torch=TORCH, around=BARE, opinions=None):
    found = advice(device, used, {m.name: m for m in meters}, cards, torch, around, opinions or {})
    return [one.what for one in found]


def test_unreadable_rapl_gives_the_exact_remedy_first():
    model = facts("modelled", basis=Basis.MODELLED)
    rapl = facts("rapl", available=False, remedy=f"RAPL counters may not be read by this user. Grant it: {REMEDY}")
    assert told(used=model, meters=(model, rapl))[0] == REMEDY


def test_a_virtual_machine_is_not_sent_after_kernel_modules():
    model = facts("modelled", basis=Basis.MODELLED)
    rapl = facts("rapl", available=False, remedy="no RAPL: modprobe intel_rapl_msr")
    virtual = BARE.model_copy(update={"virtual": True})
    assert "bare metal" in told(used=model, meters=(model, rapl), around=virtual)[0]
    assert "modprobe" in told(used=model, meters=(model, rapl))[0]


def test_a_shared_cut_or_sleeping_card():
    card = CardFacts(
        index=0, name="NVIDIA H100", uuid="GPU-12345678-aaaa-bbbb", scope="board", driver="580", compute_processes=1,
        persistence=False,
    )  # fmt: skip
    nvml = facts("nvml", covers=("cuda",), update_period_s=0.1)
    found = told("cuda", nvml, (nvml,), (card,), TorchFacts(version="2", usable=True))
    assert any("end what else runs on GPU-12345678 (processes: 1)" in one for one in found)
    assert any("reads as board" in one for one in found)
    assert any("nvidia-smi -pm 1" in one for one in found)
    assert any("--square-wave" in one for one in found)
    assert any("while the card works" in one for one in found)
    assert not any("wall meter" in one for one in found)


def test_nothing_to_add_where_all_is_well():
    card = CardFacts(index=0, name="H100", uuid="GPU-1", scope="gpu", driver="580", compute_processes=0)
    nvml = facts("nvml", covers=("cuda",), update_period_s=0.1, period_is_observed=True)
    well = told("cuda", nvml, (nvml,), (card,), TorchFacts(version="2", usable=True), opinions={"zeus": None})
    assert well == ["python -m harness doctor --square-wave"]


def test_missing_second_opinions_and_a_torch_that_fails():
    assert any("sat-harness[opinions]" in one for one in told(opinions={"zeus": "not installed"}))
    card = CardFacts(index=0, name="H100", uuid="GPU-1", scope="gpu", driver="580")
    found = told("cuda", None, (), (card,), TorchFacts(version="2", usable=False, says="CUDA error: out of memory"))
    assert found[0] == "torch can't use the card: CUDA error: out of memory"


def test_stated_uncertainty_follows_the_gain_error():
    for gain in (0.02, 0.05):
        channels = (
            Channel(name="package-0/energy", quantity=Quantity.ENERGY_J, device="package-0", scope="packages",
                    basis=Basis.MEASURED, quantum=1e-6, gain_error=gain),
        )  # fmt: skip
        info = MeterInfo(
            name="rapl", basis=Basis.MEASURED, source="t", channels=channels, update_period_s=0.001, sample_hz=20
        )
        share, dominating = stated_uncertainty(info, 100.0)
        assert share == pytest.approx(2 * gain, rel=0.05)
        assert dominating == "sensor gain"


def test_a_meter_that_is_there_but_can_not_be_opened(monkeypatch):
    monkeypatch.setattr(RaplMeter, "available", classmethod(lambda cls: None))
    found = examine_meter("rapl", {"root": "/nowhere"}, (), 2)
    assert found.available
    assert "no RAPL" in found.problem


def test_a_torch_that_hangs_is_killed():
    probe = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], stdout=subprocess.PIPE, text=True)
    found = torch_probe.finish(probe, timeout_s=0.2)
    assert found.usable is False
    assert "did not answer within 0.2 s" in found.says
    assert probe.poll() is not None


def test_a_torch_that_dies_is_said_to_have():
    probe = subprocess.Popen([sys.executable, "-c", "import os; os._exit(3)"], stdout=subprocess.PIPE, text=True)
    found = torch_probe.finish(probe)
    assert found.usable is False
    assert "exit code 3" in found.says


def test_the_probe_speaks_the_documents_language():
    told_by_it = '{"version": "2.13", "cuda_build": "13", "usable": true, "says": "multiplied a matrix on 1 card"}'
    probe = subprocess.Popen(
        [sys.executable, "-c", f"print('noise'); print('''{told_by_it}''')"], stdout=subprocess.PIPE, text=True
    )
    assert torch_probe.finish(probe) == TorchFacts(
        version="2.13", cuda_build="13", usable=True, says="multiplied a matrix on 1 card"
    )


def test_surroundings_are_those_of_this_machine():
    found = surroundings(None)
    assert 0 < found.clock_step_s < 1e-3
    assert found.clock
