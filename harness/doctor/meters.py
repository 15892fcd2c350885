"""Each meter tried: is it there, how often is it refreshed, what does a read cost, how sure is a minute of it."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness.doctor.types import CardFacts, ChannelFacts, MeterFacts
from harness.meter.base import METERS, Calibration, Meter, MeterInfo, Quantity, ReadStatus, Sample
from harness.meter.calibration import REFRESHED, calibrated, observed_period_s
from harness.meter.energy import energy_of
from harness.meter.refresh import NS
from harness.meter.sampler import Sampler, SamplerError
from harness.meter.samples import read
from harness.types import UserError

SAMPLE_HZ = 20.0
WINDOW_S = 60
CARD_LOAD = 0.7
"""Share of its power limit that a card is taken to draw in training, for the figure of uncertainty."""
PACKAGE_W = 100.0
"""What a CPU package is taken to draw."""


def examine_meter(name: str, options: Mapping[str, Any] | None, cards: tuple[CardFacts, ...], cores: int) -> MeterFacts:
    """One meter. ``options`` ``None``: only whether it is there, as for one that needs an argument."""
    kind = METERS.get(name)
    lacking = kind.available()
    facts = MeterFacts(
        name=name, available=lacking is None, remedy=lacking or "", basis=kind.basis, covers=tuple(sorted(kind.covers)),
        argument=kind.argument, sample_hz=SAMPLE_HZ,
    )  # fmt: skip
    if lacking is not None or options is None:
        return facts
    try:
        info, calibration, samples = _tried(name, kind, options)
    except (UserError, SamplerError) as error:
        return facts.model_copy(update={"problem": str(error)})
    info = calibrated(info, calibration)
    typical_w = _typical_w(info, cards, cores)
    share, dominating = stated_uncertainty(info.model_copy(update={"sample_hz": SAMPLE_HZ}), typical_w)
    return facts.model_copy(
        update={
            "basis": info.basis,
            "source": info.source,
            "channels": _channels(info, calibration),
            "update_period_s": info.update_period_s,
            "period_is_observed": observed_period_s(info) is not None,
            "power_now_w": _power_now_w(info, samples),
            "sampler_core_share": calibration.read_cpu_s * SAMPLE_HZ if calibration else None,
            "typical_power_w": typical_w,
            "uncertainty_60s": share,
            "dominating": dominating,
        }
    )


def _tried(
    name: str, kind: type[Meter], options: Mapping[str, Any]
) -> tuple[MeterInfo, Calibration | None, tuple[Sample, ...]]:
    with tempfile.TemporaryDirectory(prefix="harness-doctor-") as folder:
        if not kind.calibrates:
            meter = kind(**options)
            try:
                return meter.open(None, None), None, ()
            finally:
                meter.close()
        path = Path(folder) / "calibration.samples"
        with Sampler(name, options, SAMPLE_HZ) as sampler:
            calibration = sampler.calibrate(None, path)
        recording = read(path)
        return recording.info, calibration, recording.samples


def _channels(info: MeterInfo, calibration: Calibration | None) -> tuple[ChannelFacts, ...]:
    seen = {one.channel: one for one in calibration.channels} if calibration else {}
    units = {Quantity.ENERGY_J: "J", Quantity.POWER_W: "W", Quantity.POWER_MEAN_W: "W"}
    return tuple(
        ChannelFacts(
            name=channel.name,
            unit=units[channel.quantity],
            update_period_s=seen[channel.name].period_s if channel.name in seen else None,
            quantum=seen[channel.name].quantum if channel.name in seen else None,
            averaging_window_s=seen[channel.name].averaging_window_s if channel.name in seen else None,
        )
        for channel in info.channels
        if channel.quantity in REFRESHED
    )


def _power_now_w(info: MeterInfo, samples: tuple[Sample, ...]) -> float | None:
    """Mean power while it was polled."""
    if not samples:
        return None
    energy = energy_of(info, samples, samples[0].at_ns, samples[-1].at_ns)
    return energy.joules / energy.seconds if energy.joules is not None and energy.seconds else None


def _typical_w(info: MeterInfo, cards: tuple[CardFacts, ...], cores: int) -> float:
    """What a training may draw on the devices of the meter, in watts; a guess."""
    processor = next((c for c in info.channels if c.quantity is Quantity.CPU_S), None)
    if processor is not None:
        return processor.scale * cores
    limits = [card.power_limit_w for card in cards if any(c.device == card.uuid for c in info.channels)]
    if limits:
        return CARD_LOAD * math.fsum(500.0 if limit is None else limit for limit in limits)
    packages = {c.device for c in info.channels if c.quantity is Quantity.ENERGY_J and c.device.startswith("package")}
    return PACKAGE_W * max(1, len(packages))


def stated_uncertainty(info: MeterInfo, power_w: float) -> tuple[float | None, str]:
    """95 % relative uncertainty of a minute at a constant power, and its largest part.

    Made-up readings of a steady load go through the very budget that a run's do.
    """
    devices = list(dict.fromkeys(c.device for c in info.channels if c.quantity in REFRESHED))
    share_w = power_w / max(1, len(devices))
    hz = info.sample_hz or SAMPLE_HZ
    period_s = info.update_period_s or 0.0
    samples = []
    for tick in range(round((WINDOW_S + 4) * hz) + 1):
        at_s = tick / hz
        shown_s = math.floor(at_s / period_s + 1e-9) * period_s if period_s else at_s
        for index, channel in enumerate(info.channels):
            value = _steady(channel.quantity, channel.scale, share_w, power_w, shown_s=shown_s)
            if value is not None:
                samples.append(Sample(index, NS + round(at_s * NS), ReadStatus.OK, value))
    energy = energy_of(info, samples, 3 * NS, (3 + WINDOW_S) * NS)
    if energy.expanded_j is None or not energy.joules:
        return None, ""
    return energy.expanded_j / energy.joules, energy.dominating


def _steady(quantity: Quantity, scale: float, share_w: float, power_w: float, *, shown_s: float) -> float | None:
    if quantity is Quantity.ENERGY_J:
        return 1000.0 + share_w * shown_s
    if quantity is Quantity.CPU_S:
        return power_w / scale * shown_s
    return share_w if quantity in {Quantity.POWER_W, Quantity.POWER_MEAN_W} else None
