"""The NVIDIA cards of a machine, or of a simulation, as their driver tells of them."""

from __future__ import annotations

from typing import Any

from harness.doctor.types import CardFacts
from harness.meter.nvml_cards import find_cards, text
from harness.types import UserError


def cards_of(nvml: Any) -> tuple[CardFacts, ...]:
    """Every card that NVML shows; none where it shows none."""
    try:
        nvml.nvmlInit()
    except nvml.NVMLError:
        return ()
    try:
        driver = text(nvml.nvmlSystemGetDriverVersion())
        return tuple(_facts(nvml, i, card, driver) for i, card in enumerate(find_cards(nvml, None)))
    except (nvml.NVMLError, UserError):
        return ()
    finally:
        nvml.nvmlShutdown()


def real_cards() -> tuple[CardFacts, ...]:
    """Those of this machine."""
    try:
        import pynvml
    except ImportError:
        return ()
    return cards_of(pynvml)


def _facts(nvml: Any, index: int, card: Any, driver: str) -> CardFacts:
    def ask(function: str) -> Any:
        try:
            return getattr(nvml, function)(card.handle)
        except (AttributeError, nvml.NVMLError):
            return None

    limit_mw, processes = ask("nvmlDeviceGetEnforcedPowerLimit"), ask("nvmlDeviceGetComputeRunningProcesses")
    persistence = ask("nvmlDeviceGetPersistenceMode")
    name = ask("nvmlDeviceGetName")
    return CardFacts(
        index=index,
        name="unnamed card" if name is None else text(name),
        uuid=card.uuid,
        scope=card.scope,
        driver=driver,
        power_limit_w=None if limit_mw is None else limit_mw / 1000,
        compute_processes=None if processes is None else len(processes),
        persistence=None if persistence is None else bool(persistence),
        notes=card.notes,
    )
