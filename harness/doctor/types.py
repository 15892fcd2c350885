"""What the doctor finds, as the document that ``--json`` prints."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from harness.types import Basis, Frozen


class CardFacts(Frozen):
    """One NVIDIA card as its driver tells of it. ``None`` is not readable."""

    index: int
    name: str
    uuid: str
    scope: str  # what its readings cover: "gpu", "board" (MIG), "vgpu"
    driver: str
    power_limit_w: float | None = None
    compute_processes: int | None = None  # running on it now: while the doctor looks all of them are others'
    persistence: bool | None = None
    notes: tuple[str, ...] = ()


class ChannelFacts(Frozen):
    """What fast polling has shown of a counter or a sensor; ``None`` was not seen."""

    name: str
    unit: str
    update_period_s: float | None
    quantum: float | None
    averaging_window_s: float | None = None


class MeterFacts(Frozen):
    """One meter on this machine."""

    name: str
    available: bool
    remedy: str = ""  # what is missing and how to get it
    basis: Basis
    covers: tuple[str, ...]  # devices of a training
    argument: str = ""  # what must follow its name
    source: str = ""
    channels: tuple[ChannelFacts, ...] = ()
    update_period_s: float | None = None  # what the budget of uncertainty is computed with
    period_is_observed: bool = False
    power_now_w: float | None = None
    sampler_core_share: float | None = None  # of one core, at ``sample_hz``
    sample_hz: float = 20.0
    typical_power_w: float | None = None
    uncertainty_60s: float | None = None  # 95 %, relative, of 60 s at the typical power, held constant
    dominating: str = ""  # the largest part of it
    problem: str = ""  # it is there, but could not be tried


class TorchFacts(Frozen):
    """Whether torch is there and can use the card, found out in a process of its own."""

    version: str | None
    cuda_build: str | None = None
    usable: bool | None = None  # None: there is no card to try, or it was not tried
    says: str = ""


class Surroundings(Frozen):
    """What a measurement should know of where it runs."""

    virtual: bool | None
    container: str | None
    clock: str  # of the kernel
    clock_step_s: float
    load_1min: float | None
    notes: tuple[str, ...] = ()


class Advice(Frozen):
    """One thing to change."""

    what: str
    gain: str


class Examination(Frozen):
    """Everything the doctor found."""

    simulated: bool = False
    machine: dict[str, Any]
    revision: str
    packages: dict[str, str]
    surroundings: Surroundings
    cards: tuple[CardFacts, ...] = ()
    torch: TorchFacts
    meters: dict[str, MeterFacts] = Field(default_factory=dict)
    auto: dict[str, str | None]  # meter and why
    verdict: str  # what a verdict on energy can at most be here
    opinions: dict[str, str | None] = Field(default_factory=dict)  # tool: what is missing, None where installed
    advice: tuple[Advice, ...] = ()

    @property
    def measures(self) -> bool:
        """Whether anything at all can be metered."""
        return self.auto["meter"] is not None
