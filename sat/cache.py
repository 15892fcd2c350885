"""Outputs of a frozen prefix, kept for data that come again."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from sat.controller import ATTACHED
from sat.parts import FrozenPrefix
from sat.parts.layers import hidden_of
from sat.score import is_compiled

_ALIGNMENT_BYTES = 16
"""Examples start at multiples of this in the file, so that any dtype can be viewed there."""

_SAME_INPUT = 1e-3
"""Largest difference of two marks of one input, relative to its length: rounding of another batch stays far below,
another token or another crop far above."""


@dataclass(frozen=True, eq=False)
class _Kept:
    output: Tensor  # of the prefix, on the host
    mark: Tensor  # of its input, one number per position


class ActivationCache:
    """Skips the forward pass of a frozen prefix (mode ``prefix``) for examples that it has seen.

    >>> cache = sat.ActivationCache(model, limit_bytes=8 * 2**30)
    >>> for index, batch in loader:  # index: a number for each example, always the same one
    ...     with cache.examples(index):
    ...         loss = model(**batch).loss

    A batch whose examples are all there (with the shape they have in this batch) skips the prefix's layers; any other
    runs them whole, and its examples are kept while there is room. What comes back are the stored bits, so a batch
    met again gives the bits that it would give without the cache; examples that meet in other batches give what
    their own batch gave, which differs by the rounding of a product over another batch. Embeddings, masks and
    rotations are computed as ever. All is forgotten when the boundary moves, a weight of the prefix changes
    (loading a checkpoint), or autocast changes its type. The cache is not part of a checkpoint; it fills again. Hidden
    states asked for by name (``output_hidden_states``) are, within a skipped prefix, all its last.

    Args:
        model: sparsified with ``SATConfig(mode="prefix")``.
        limit_bytes: most that the stored outputs may take.
        path: of a file to hold them, mapped into memory, made anew here; ``None``: in the host's memory.

    Raises:
        ValueError: another mode, compiled layers, no room for anything, or a file that is there already.
    """

    def __init__(self, model: nn.Module, *, limit_bytes: int, path: str | Path | None = None) -> None:
        parts = getattr(getattr(model, ATTACHED, None), "parts", [])
        if len(parts) != 1 or not isinstance(parts[0], FrozenPrefix):
            raise ValueError(
                "an activation cache needs a frozen prefix: call sat.sparsify_(model, ..., SATConfig(mode='prefix')) "
                "first"
            )
        if is_compiled(model):
            raise ValueError("an activation cache steps between the layers, and compiled layers can't see it")
        if limit_bytes < 1:
            raise ValueError(f"limit_bytes must be 1 or more, not {limit_bytes}")
        self._part = parts[0]
        self._limit = limit_bytes
        self._file = _mapped(Path(path), limit_bytes) if path is not None else None
        self._kept: dict[int, _Kept] = {}
        self._used = 0
        self._state: tuple[object, ...] = ()
        self.hits = 0  # examples that skipped the prefix
        self.misses = 0

    def __len__(self) -> int:
        """Examples kept."""
        return len(self._kept)

    @property
    def used_bytes(self) -> int:
        """What the stored outputs take."""
        return self._used

    def clear(self) -> None:
        """Forget all examples."""
        self._kept = {}
        self._used = 0

    @contextmanager
    def examples(self, keys: Tensor | Sequence[int]) -> Iterator[None]:
        """Forward passes inside are of these examples, in the order of the batch.

        Args:
            keys: a whole number for each example, shape (batch,); the same number means the same data.

        Raises:
            ValueError: keys that are no numbers. In the forward pass: the prefix is random (dropout) or looks at the
                whole batch (batch norm), a key comes with other data than before, keys and batch differ in
                number, or the layers hand on more than hidden states.
        """
        batch = _Batch(self, _numbers(keys))
        layers = self._part.prefix
        self._forget_if_stale()
        if layers:
            _check_repeatable(layers)
        before = [layer.__dict__.get("forward") for layer in layers]
        for at, layer in enumerate(layers):
            layer.__dict__["forward"] = _Step(batch, layer, at == 0, at == len(layers) - 1)
        try:
            yield
        finally:
            for layer, own in zip(layers, before, strict=True):
                if own is None:
                    del layer.__dict__["forward"]
                else:
                    layer.__dict__["forward"] = own

    def _forget_if_stale(self) -> None:
        dtype = torch.get_autocast_dtype("cuda") if torch.is_autocast_enabled("cuda") else None
        cpu = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else None
        weights = tuple((id(p), p._version) for p in self._part.frozen_parameters)
        state = (self._part.boundary, dtype, cpu, weights)
        if state != self._state:
            self.clear()
            self._state = state

    def _found(self, keys: Sequence[int], marks: Tensor, hidden: Tensor) -> Tensor | None:
        """The outputs of all examples as a batch, where all are there."""
        kept = [self._kept.get(key) for key in keys]
        for key, one, mark in zip(keys, kept, marks, strict=True):
            if one is None or one.mark.shape != mark.shape:
                continue
            if (one.mark - mark).norm() > _SAME_INPUT * mark.norm():
                raise ValueError(
                    f"example {key} comes with other data than when it was stored (augmentation, or dropout below "
                    "the layers): an activation cache needs fixed data"
                )
        usable = [one.output for one, mark in zip(kept, marks, strict=True) if one and one.mark.shape == mark.shape]
        if len(usable) < len(keys):
            self.misses += len(keys)
            return None
        self.hits += len(keys)
        return torch.stack(usable).to(hidden.device)

    def _keep(self, keys: Sequence[int], marks: Tensor, outputs: Tensor) -> None:
        for key, mark, output in zip(keys, marks, outputs.detach(), strict=True):
            old = self._kept.get(key)
            if old is not None and old.mark.shape == mark.shape:
                continue
            room = self._room(output)
            if room is not None:
                self._kept[key] = _Kept(room.copy_(output), mark)

    def _room(self, like: Tensor) -> Tensor | None:
        size = like.numel() * like.element_size()
        start = -(-self._used // _ALIGNMENT_BYTES) * _ALIGNMENT_BYTES
        if start + size > self._limit:
            return None
        self._used = start + size
        if self._file is None:
            return torch.empty(like.shape, dtype=like.dtype)
        return self._file[start : start + size].view(like.dtype).view(like.shape)


class _Batch:
    """One batch on its way through the prefix."""

    def __init__(self, cache: ActivationCache, keys: list[int]) -> None:
        self.cache = cache
        self.keys = keys
        self.marks: Tensor | None = None
        self.found: Tensor | None = None

    def enter(self, hidden: Tensor) -> None:
        if len(hidden) != len(self.keys):
            raise ValueError(f"{len(self.keys)} keys for a batch of {len(hidden)} examples")
        self.marks = _marks(hidden)
        self.found = self.cache._found(self.keys, self.marks, hidden)

    def leave(self, result: Any) -> None:
        if not isinstance(result, Tensor):
            raise ValueError(
                f"the layers of the prefix return a {type(result).__name__}, more than hidden states (T5 hands on its "
                "position bias): what layers above need of it would be lost; train without an activation cache"
            )
        assert self.marks is not None
        self.cache._keep(self.keys, self.marks, result)


class _Step:
    """Stands in for a layer's ``forward``: the first puts the stored outputs in, the others hand them on."""

    def __init__(self, batch: _Batch, layer: nn.Module, first: bool, last: bool) -> None:
        self.batch = batch
        self.layer = layer
        self.forward = layer.forward
        self.first = first
        self.last = last

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        batch = self.batch
        if self.first:
            batch.enter(hidden_of(self.layer, args, kwargs))
        if batch.found is not None:
            return batch.found
        result = self.forward(*args, **kwargs)
        if self.last:
            batch.leave(result)
        return result


@torch.no_grad()
def _marks(hidden: Tensor) -> Tensor:
    """What tells inputs apart: a signed sum over the features of every position, shape (batch, positions), fp32."""
    generator = torch.Generator().manual_seed(0)  # its own: no other draw moves
    signs = torch.randint(0, 2, hidden.shape[-1:], generator=generator) * 2 - 1
    signed = hidden.float() * signs.to(hidden.device, torch.float32)
    return signed.sum(-1).flatten(1).cpu()


def _check_repeatable(layers: Iterable[nn.Module]) -> None:
    for module in (module for layer in layers for module in layer.modules()):
        if not module.training:
            continue
        if isinstance(module, _BatchNorm):
            raise ValueError(
                "the frozen prefix has a batch norm in training mode, whose output depends on the whole batch: it "
                "can't be kept by example; put the prefix into eval mode, or train without an activation cache"
            )
        named = {name: value for name, value in vars(module).items() if "drop" in name}  # functional dropout
        chances = {"p": module.p} if isinstance(module, _DropoutNd) else named
        for name, value in chances.items():
            if isinstance(value, float) and value > 0:
                raise ValueError(
                    f"the frozen prefix has active dropout ({type(module).__name__}.{name} = {value} in training "
                    "mode), so its output is never the same twice; set it to 0, or train without an activation cache"
                )


def _numbers(keys: Tensor | Sequence[int]) -> list[int]:
    found = keys.tolist() if isinstance(keys, Tensor) else list(keys)
    if not isinstance(found, list) or not all(isinstance(key, int) and not isinstance(key, bool) for key in found):
        raise ValueError(f"keys must be whole numbers, one for each example, not {keys!r:.80}")
    return found


def _mapped(path: Path, size: int) -> Tensor:
    if path.exists():
        raise ValueError(
            f"{path} is there already; an activation cache makes its file anew: delete it, or name another"
        )
    return torch.from_file(str(path), shared=True, size=size, dtype=torch.uint8)
