"""What to change to measure more, the largest gain first. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from harness.doctor.types import Advice, CardFacts, MeterFacts, Surroundings, TorchFacts
from harness.types import Basis

AT_MOST = {
    Basis.MEASURED: "verified or refuted: the energy is measured",
    Basis.MODELLED: 'energy at most "supported by a model"; quality and counted FLOPs can be verified',
    Basis.SIMULATED: "nothing: every joule is made up by a scenario (for tests and demos)",
}
NOTHING = "counted FLOPs alone (protocol count): there is no meter"


def at_most(basis: Basis | None) -> str:
    """What a verdict on energy can be with a meter of this basis."""
    return NOTHING if basis is None else AT_MOST.get(basis, NOTHING)


def advice(
    device: str,
    used: MeterFacts | None,
    meters: dict[str, MeterFacts],
    cards: tuple[CardFacts, ...],
    torch: TorchFacts,
    around: Surroundings,
    opinions: dict[str, str | None],
) -> tuple[Advice, ...]:
    """Everything that would help here, in the order of its gain."""
    found = [
        *_of_the_card(device, meters, cards, torch),
        *_of_the_cpu(device, used, meters.get("rapl"), around),
        *_of_its_use(cards),
        *_of_certainty(used, cards, torch, opinions),
        *(Advice(what=note, gain="quieter figures") for note in around.notes),
    ]
    return tuple(found)


def _of_the_card(
    device: str, meters: dict[str, MeterFacts], cards: tuple[CardFacts, ...], torch: TorchFacts
) -> Iterator[Advice]:
    nvml = meters.get("nvml")
    if nvml is not None and not nvml.available and device == "cuda":
        yield Advice(what=nvml.remedy, gain="measured energy of the card")
    if torch.version is None:
        yield Advice(what="pip install torch", gain="trainings can run at all")
    elif cards and torch.usable is False:
        yield Advice(what=f"torch can't use the card: {torch.says}", gain="trainings on the card")


def _of_the_cpu(
    device: str, used: MeterFacts | None, rapl: MeterFacts | None, around: Surroundings
) -> Iterator[Advice]:
    if device != "cpu" or (used is not None and used.basis is not Basis.MODELLED):
        return
    grant = rapl.remedy.partition("Grant it: ")[2] if rapl is not None else ""
    if grant:
        yield Advice(what=grant, gain="measured CPU energy, not modelled")
    elif around.virtual:
        yield Advice(
            what="bare metal (a virtual machine has no RAPL), or an NVIDIA card",
            gain="measured energy: verdicts can be verified",
        )
    elif rapl is not None and not rapl.available:
        yield Advice(what=rapl.remedy, gain="measured CPU energy, not modelled")
    yield Advice(
        what="a wall meter, PDU or exporter with --meter external:...", gain="measured energy of the whole machine"
    )


def _of_its_use(cards: tuple[CardFacts, ...]) -> Iterator[Advice]:
    for card in cards:
        if card.compute_processes:
            yield Advice(
                what=f"end what else runs on {short(card.uuid)} (processes: {card.compute_processes})",
                gain="runs on a shared card are invalid",
            )
        if card.scope != "gpu":
            yield Advice(
                what=f"{short(card.uuid)} reads as {card.scope}: use a whole card (MIG off, no vGPU)",
                gain="energy of the training, not of its neighbours too",
            )
        if card.persistence is False:
            yield Advice(what="sudo nvidia-smi -pm 1 (persistence mode)", gain="no waking of the card in a run")


def _of_certainty(
    used: MeterFacts | None, cards: tuple[CardFacts, ...], torch: TorchFacts, opinions: dict[str, str | None]
) -> Iterator[Advice]:
    if used is not None and used.update_period_s is not None and not used.period_is_observed:
        yield Advice(
            what="doctor again while the card works: a constant power hides its refresh",
            gain=f"an observed refresh, not {used.update_period_s * 1e3:g} ms assumed",
        )
    if cards and torch.usable:
        yield Advice(
            what="python -m harness doctor --square-wave", gain="does the counter share the sensor's blind time?"
        )
    missing = sorted(name for name, lacking in opinions.items() if lacking is not None)
    if missing:
        yield Advice(what="pip install 'sat-harness[opinions]'", gain=f"second opinions: {', '.join(missing)}")


def short(uuid: str) -> str:
    """A UUID as far as people compare it: its first group, and of a simulated card all, which says what it is."""
    kind, _, rest = uuid.partition("-")
    return uuid if len(rest) <= 12 or rest.startswith("SIMULATED") else f"{kind}-{rest[:8]}"
