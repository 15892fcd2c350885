"""What the processes of one training must agree on: scores, and which units are active."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor


class Scored(Protocol):
    """Something with a score per unit."""

    score: list[float]


class Ranks:
    """The processes that train one model together; a single process where ``torch.distributed`` is not in use.

    Everything is gathered and then reduced in the order of ranks, so each process computes the same bits whatever the
    backend's algorithm. A few hundred numbers travel, at switches only. Every rank must make the same calls.

    Args:
        group: the processes; ``None`` for all of them.
    """

    def __init__(self, group: dist.ProcessGroup | None = None) -> None:
        self.group = group

    def __deepcopy__(self, memo: dict[int, Any]) -> Ranks:
        return self  # a process group can't be copied, and a copy of the model has the same

    @property
    def size(self) -> int:
        """Number of processes."""
        return dist.get_world_size(self.group) if dist.is_available() and dist.is_initialized() else 1

    def gather(self, value: Any) -> list[Any]:
        """``value`` of every rank, in order."""
        if self.size == 1:
            return [value]
        found: list[Any] = [None] * self.size
        dist.all_gather_object(found, value, group=self.group)
        return found

    def mean(self, rows: Sequence[Sequence[Tensor]]) -> Sequence[Sequence[Tensor]]:
        """Mean over the ranks of tensors in equal shapes, in fp32; on the device they came from."""
        if self.size == 1 or any(tensor.device.type == "meta" for row in rows for tensor in row):
            return rows
        gathered = self.gather([[tensor.detach().float().cpu() for tensor in row] for row in rows])
        means = []
        for index, row in enumerate(rows):
            ours = [torch.stack([theirs[index][at] for theirs in gathered]).mean(0) for at in range(len(row))]
            means.append([mean.to(tensor.device) for mean, tensor in zip(ours, row, strict=True)])
        return means

    def average(self, histories: Mapping[str, Scored]) -> None:
        """Replace the scores of every part by their mean over the ranks, in fp32."""
        if self.size == 1:
            return
        (means,) = self.mean([[torch.tensor(history.score, dtype=torch.float32) for history in histories.values()]])
        for history, mean in zip(histories.values(), means, strict=True):
            history.score = mean.tolist()

    def agree(self, values: Mapping[str, object]) -> None:
        """Compare a hash of each value over the ranks.

        Args:
            values: by name; compared by their ``repr``.

        Raises:
            ValueError: on all ranks, where any value differs: its name, the ranks, and the values.
        """
        digests = {name: hashlib.sha256(repr(value).encode()).hexdigest() for name, value in values.items()}
        gathered = self.gather(digests)
        names = dict.fromkeys(name for theirs in gathered for name in theirs)
        bad = [name for name in names if len({theirs.get(name) for theirs in gathered}) > 1]
        if not bad:
            return
        shown = self.gather(repr(values.get(bad[0])))
        rank = next(rank for rank, value in enumerate(shown) if value != shown[0])
        others = f", and so do {len(bad) - 1} other things, {bad[1]} among them" if len(bad) > 1 else ""
        raise ValueError(
            f"{bad[0]} differ between processes: {shown[0]} on rank 0, {shown[rank]} on rank {rank}{others}. The "
            "processes of one training need the same model, settings and steps, and gradients reduced over them all "
            "(DistributedDataParallel, fully_shard); where each process trains a model of its own, give sparsify_ a "
            "process_group of that process alone"
        )


@torch.no_grad()
def checksums(model: nn.Module) -> dict[str, int]:
    """Of every parameter that is not sharded: the sum of its bits read as integers, whatever the order of adding."""
    plain = {name: p for name, p in model.named_parameters() if not isinstance(p, DTensor) and p.device.type != "meta"}
    kinds = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    sums = [p.detach().contiguous().view(kinds[p.element_size()]).sum() for p in plain.values()]
    return dict(zip((f"weights {name}" for name in plain), torch.stack(sums).tolist(), strict=True)) if sums else {}
