"""Micro-batches for probes, drawn from a loader's training data without moving the loader."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils.data import IterableDataset

from sat.select import generator


class ProbeBatches:
    """Micro-batch i: examples drawn by seed, i and rank, put together by the loader's own collator.

    Args:
        loader: of the training data; its order and position stay as they are.
        batch_size: examples of a micro-batch on this process.
        seed: of the draw.

    Raises:
        ValueError: the data can't be drawn from (iterable data sets, loaders of another kind).
    """

    def __init__(self, loader: Any, batch_size: int, seed: int) -> None:
        dataset: Any = getattr(loader, "dataset", None)
        drawable = hasattr(dataset, "__getitem__") and hasattr(dataset, "__len__")
        if not drawable or isinstance(dataset, IterableDataset) or not callable(getattr(loader, "collate_fn", None)):
            raise ValueError(
                f"probes draw micro-batches from the training data, but {type(dataset or loader).__name__} can't be "
                "drawn from by index; give SATCallback(..., loss=...), a callable that returns the loss of probe "
                "micro-batch i, or choose score 'magnitude' or 'random'"
            )
        self._dataset, self._collate, self._size, self._seed = dataset, loader.collate_fn, batch_size, seed

    def __call__(self, index: int) -> Any:
        """Micro-batch ``index``, on the host."""
        distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
        rank = torch.distributed.get_rank() if distributed else 0
        examples = range(len(self._dataset))
        drawn = generator(self._seed, index, f"probe/{rank}").sample(examples, min(self._size, len(examples)))
        return self._collate([self._dataset[example] for example in drawn])
