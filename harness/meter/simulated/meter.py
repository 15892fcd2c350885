"""The instrument behind ``--meter simulated:SCENARIO``: the NVML meter, reading a simulated driver."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from harness.meter.base import MeterInfo
from harness.meter.nvml import NvmlMeter
from harness.meter.nvml_facts import Look
from harness.meter.proctree import tree_of
from harness.meter.simulated.nvml import SimulatedNvml
from harness.meter.simulated.scenario import Scenario, find, load_scenario
from harness.types import Basis, UserError


class SimulatedMeter(NvmlMeter):
    """All cards of a scenario, whatever the training runs on; ``arm`` chooses its load."""

    name = "simulated"
    covers = frozenset({"cpu", "cuda"})
    basis = Basis.SIMULATED
    argument = "SCENARIO"
    by_arm = True

    def __init__(self, scenario: str | Path, arm: str | None = None) -> None:
        super().__init__()
        self._path = Path(scenario)
        self._arm = arm
        self._scenario = Scenario()

    @classmethod
    def options_of(cls, argument: str) -> dict[str, Any]:
        """A file, or the name of a shipped scenario."""
        if not argument:
            raise UserError("meter 'simulated' needs a scenario: simulated:FILE or simulated:NAME")
        path = find(argument)
        load_scenario(path)
        return {"scenario": str(path.absolute())}

    @classmethod
    def cards(cls, options: dict[str, Any]) -> tuple[str, ...]:
        """Those of the scenario: another scenario is another card."""
        scenario = load_scenario(Path(options["scenario"]))
        nvml = SimulatedNvml(scenario)
        return tuple(nvml.uuid_of(index) for index in range(len(scenario.cards)))

    @classmethod
    def available(cls, nvml: Any = None) -> str | None:
        """Always: it needs nothing but a file."""
        return None

    def open(self, pid: int | None, device: str | None) -> MeterInfo:
        """Start the simulation; time counts from here. ``device`` plays no part.

        Without a process nothing is trained: the scenario's idle load, unless an arm was named.

        Raises:
            UserError: the file says nonsense, or its cards can't be metered, as real ones may not be.
        """
        scenario = self._scenario = load_scenario(self._path)
        at_rest = pid is None and self._arm is None and scenario.idle is not None
        load = scenario.idle if at_rest else scenario.load_of(self._arm)

        def own() -> Iterable[int]:
            return () if pid is None else tree_of(pid)

        self._nvml = nvml = SimulatedNvml(scenario, load, own=own)
        uuids = ",".join(nvml.uuid_of(index) for index in range(len(scenario.cards)))
        info = super().open(pid, uuids)
        which = ", at rest" if at_rest else f", arm {self._arm!r}" if self._arm in scenario.arms else ""
        return info.model_copy(
            update={
                "source": f"simulation {self._path.stem} ({scenario.identity}){which}: {info.source}",
                "assumptions": ("simulated: cards, watts and faults are made up by a scenario", *info.assumptions),
            }
        )

    def _look(self, names: list[str]) -> tuple[Look, str]:
        """The scenario's own sensor, where all cards have one; what would be assumed of real cards, where not."""
        sensors = {(card.sensor.period_s, card.sensor.window_s) for card in self._scenario.cards}
        if len(sensors) > 1:
            return super()._look(names)
        period_s, look_s = sensors.pop()
        look = Look(period_s, min(period_s, look_s))
        return look, f"by the scenario the power sensor looks {look.look_s * 1e3:g} ms of every {period_s * 1e3:g} ms"
