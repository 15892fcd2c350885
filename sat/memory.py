"""Memory of a training's tensors, counted from the tensors themselves."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from torch import Tensor, nn
from torch.optim import Optimizer

from sat.parts import Part


@dataclass(frozen=True)
class Memory:
    """Bytes of the tensors that stay between steps; activations and what the allocator keeps back are apart.

    Each piece of memory counts once and whole, also where a tensor is a view of a part of it. ``bank`` is what is
    kept of units that are out; it lies on the device unless ``bank_on_host``. Then ``lent`` is what of it comes to the
    device, beside all the rest, while a gate probe runs or the plain model is looked at.
    """

    parameters: int  # with buffers
    gradients: int
    optimizer_state: int
    bank: int
    bank_on_host: bool
    lent: int = 0

    @property
    def on_device(self) -> int:
        """Bytes on the device that trains."""
        return self.parameters + self.gradients + self.optimizer_state + (0 if self.bank_on_host else self.bank)

    @property
    def in_probe(self) -> int:
        """Bytes on the device while a gate probe runs."""
        return self.on_device + self.lent

    def __str__(self) -> str:
        megabytes = [f"{part / 1e6:,.1f}" for part in (self.parameters, self.gradients, self.optimizer_state)]
        return (
            f"{self.on_device / 1e6:,.1f} MB on the device: parameters {megabytes[0]}, gradients {megabytes[1]}, "
            f"optimizer state {megabytes[2]}; bank {self.bank / 1e6:,.1f} MB on the "
            f"{'host' if self.bank_on_host else 'device'}"
            + (f", {self.in_probe / 1e6:,.1f} MB on the device during a gate probe" if self.lent else "")
        )


def memory(model: nn.Module, optimizer: Optimizer | None, parts: Sequence[Part], bank_on_host: bool) -> Memory:
    """What the tensors of a training take now."""
    seen: set[int] = set()
    bank = _bytes((tensor for part in parts for tensor in part.banked()), seen)
    present = [*model.parameters(), *model.buffers()]
    states = optimizer.state.values() if optimizer is not None else ()
    return Memory(
        parameters=_bytes(present, seen),
        gradients=_bytes((tensor.grad for tensor in present if tensor.grad is not None), seen),
        optimizer_state=_bytes((v for held in states for v in held.values() if isinstance(v, Tensor)), seen),
        bank=bank,
        bank_on_host=bank_on_host,
        lent=_bytes((tensor for part in parts for tensor in part.lent()), set()) if bank_on_host else 0,
    )


def _bytes(tensors: Iterable[Tensor], seen: set[int]) -> int:
    total = 0
    for tensor in tensors:
        local = tensor.to_local() if hasattr(tensor, "to_local") else tensor  # a shard is what this process has
        storage = local.untyped_storage()
        if storage._cdata not in seen:
            seen.add(storage._cdata)
            total += storage.nbytes()
    return total
