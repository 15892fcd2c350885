"""Outputs of a frozen prefix, kept for data that come again."""

from __future__ import annotations

from bisect import insort
from collections.abc import Iterable, Iterator, Mapping, Sequence
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
class _Mark:
    """What tells the inputs of an example apart."""

    hidden: Tensor  # of the hidden states, one number per position
    beside: int  # of the tensors that come with them: masks, positions, rotations

    def fits(self, other: _Mark) -> bool:
        """Whether an example has its shape and its masks again, so that its hidden states must be the same too."""
        return self.hidden.shape == other.hidden.shape and self.beside == other.beside


@dataclass(frozen=True, eq=False)
class _Kept:
    output: Tensor  # of the prefix, on the host
    mark: _Mark  # of its input


class ActivationCache:
    """Skips the forward pass of a frozen prefix (mode ``prefix``) for examples that it has seen.

    >>> cache = sat.ActivationCache(model, limit_bytes=8 * 2**30)
    >>> for index, batch in loader:  # index: a number for each example, always the same one
    ...     with cache.examples(index):
    ...         loss = model(**batch).loss

    A batch whose examples are all there (with the shape and the masks they have in this batch) skips the prefix's
    layers; any other runs them whole, and its examples are kept while there is room, each in place of what was kept of
    it before. What comes back are the stored bits, so a batch met again gives the bits that it would give without the
    cache; examples that meet in other batches give what their own batch gave, which differs by the rounding of a
    product over another batch. Embeddings, masks and rotations are computed as ever; all tensors that reach the lowest
    layer are compared. All is forgotten when the boundary moves, a weight of the prefix changes
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
        self._file = _File(Path(path), limit_bytes) if path is not None else None
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
        if self._file is not None:
            self._file.clear()

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

    def _found(self, keys: Sequence[int], marks: Sequence[_Mark], hidden: Tensor) -> Tensor | None:
        """The outputs of all examples as a batch, where all are there."""
        usable = []
        for key, mark in zip(keys, marks, strict=True):
            one = self._kept.get(key)
            if one is None or not one.mark.fits(mark):
                continue
            if (one.mark.hidden - mark.hidden).norm() > _SAME_INPUT * mark.hidden.norm():
                raise ValueError(
                    f"example {key} comes with other data than when it was stored (augmentation, or dropout below "
                    "the layers): an activation cache needs fixed data"
                )
            usable.append(one.output)
        if len(usable) < len(keys):
            self.misses += len(keys)
            return None
        self.hits += len(keys)
        return torch.stack(usable).to(hidden.device)

    def _keep(self, keys: Sequence[int], marks: Sequence[_Mark], outputs: Tensor) -> None:
        for key, mark, output in zip(keys, marks, outputs.detach(), strict=True):
            old = self._kept.get(key)
            if old is not None and old.mark.fits(mark):
                continue
            self._drop(key)
            room = self._room(output)
            if room is not None:
                self._kept[key] = _Kept(room.copy_(output), mark)
                self._used += _size(room)

    def _room(self, like: Tensor) -> Tensor | None:
        if self._used + _size(like) > self._limit:
            return None
        return torch.empty(like.shape, dtype=like.dtype) if self._file is None else self._file.take(like)

    def _drop(self, key: int) -> None:
        old = self._kept.pop(key, None)
        if old is None:
            return
        self._used -= _size(old.output)
        if self._file is not None:
            self._file.give(old.output)


class _File:
    """Tensors in a file mapped into memory; what is given back is used again.

    Args:
        path: of the file, made anew.
        size: in bytes.
    """

    def __init__(self, path: Path, size: int) -> None:
        if path.exists():
            raise ValueError(
                f"{path} is there already; an activation cache makes its file anew: delete it, or name another"
            )
        self._bytes = torch.from_file(str(path), shared=True, size=size, dtype=torch.uint8)
        self.clear()

    def clear(self) -> None:
        """All room is free."""
        self._gaps = [(0, len(self._bytes))]  # start, end; rising, apart from one another

    def take(self, like: Tensor) -> Tensor | None:
        """Room for a tensor: the first that is large enough."""
        size = _size(like)
        for at, (start, end) in enumerate(self._gaps):
            if start + size <= end:
                rest = min(end, start + _aligned(size))
                self._gaps[at : at + 1] = [(rest, end)] if rest < end else []
                return self._bytes[start : start + size].view(like.dtype).view(like.shape)
        return None

    def give(self, room: Tensor) -> None:
        """Room that is no longer needed; it grows together with the gaps beside it."""
        start = room.data_ptr() - self._bytes.data_ptr()
        insort(self._gaps, (start, min(len(self._bytes), start + _aligned(_size(room)))))
        joined = self._gaps[:1]
        for start, end in self._gaps[1:]:
            if start == joined[-1][1]:
                joined[-1] = (joined[-1][0], end)
            else:
                joined.append((start, end))
        self._gaps = joined


class _Batch:
    """One batch on its way through the prefix."""

    def __init__(self, cache: ActivationCache, keys: list[int]) -> None:
        self.cache = cache
        self.keys = keys
        self.marks: list[_Mark] = []
        self.found: Tensor | None = None

    def enter(self, hidden: Tensor, beside: Iterable[tuple[object, Tensor]]) -> None:
        if len(hidden) != len(self.keys):
            raise ValueError(f"{len(self.keys)} keys for a batch of {len(hidden)} examples")
        self.marks = [_Mark(*mark) for mark in zip(_signed(hidden), _hashed(beside, len(hidden)), strict=True)]
        self.found = self.cache._found(self.keys, self.marks, hidden)

    def leave(self, result: Any) -> None:
        if not isinstance(result, Tensor):
            raise ValueError(
                f"the layers of the prefix return a {type(result).__name__}, more than hidden states (T5 hands on its "
                "position bias): what layers above need of it would be lost; train without an activation cache"
            )
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
            hidden = hidden_of(self.layer, args, kwargs)
            batch.enter(hidden, ((name, each) for name, each in _tensors((args, kwargs)) if each is not hidden))
        if batch.found is not None:
            return batch.found
        result = self.forward(*args, **kwargs)
        if self.last:
            batch.leave(result)
        return result


@torch.no_grad()
def _signed(hidden: Tensor) -> Tensor:
    """A signed sum over the features of every position, shape (batch, positions), fp32: it bears rounding."""
    generator = torch.Generator().manual_seed(0)  # its own: no other draw moves
    signs = torch.randint(0, 2, hidden.shape[-1:], generator=generator) * 2 - 1
    signed = hidden.float() * signs.to(hidden.device, torch.float32)
    return signed.sum(-1).flatten(1).cpu()


def _tensors(value: object, name: tuple[object, ...] = ()) -> Iterator[tuple[object, Tensor]]:
    """All tensors in nested tuples, lists and dictionaries, with where they are."""
    if isinstance(value, Tensor):
        yield name, value
    elif isinstance(value, Mapping):
        for key, each in value.items():
            yield from _tensors(each, (*name, key))
    elif isinstance(value, tuple | list):
        for at, each in enumerate(value):
            yield from _tensors(each, (*name, at))


@torch.no_grad()
def _hashed(tensors: Iterable[tuple[object, Tensor]], examples: int) -> list[int]:
    """For each example a hash of all that is its own, or everybody's: names, shapes and bits.

    What has a first dimension of 1 is everybody's, as it is in a broadcast.
    """
    found: list[list[object]] = [[] for _ in range(examples)]
    for name, tensor in tensors:
        rows = tensor if tensor.dim() > 1 and len(tensor) in {1, examples} else tensor[None]
        hashes = torch.stack([_hash(row) for row in rows]).tolist()
        for number, own in enumerate(found):
            own += [name, tensor.dtype, tuple(rows.shape[1:]), hashes[number % len(hashes)]]
    return [hash(tuple(own)) for own in found]


def _hash(tensor: Tensor) -> Tensor:
    """The tensor's bytes, eight at a time, mixed with their place (as in splitmix64) and summed modulo 2^64."""
    given = tensor.flatten().contiguous().view(torch.uint8)
    whole = given.new_zeros(-(-len(given) // 8) * 8)
    whole[: len(given)] = given
    words = whole.view(torch.int64)
    mixed = words + torch.arange(1, len(words) + 1, device=words.device) * 0x1E3779B97F4A7C15
    mixed = (mixed ^ (mixed >> 30)) * 0x3F58476D1CE4E5B9
    return ((mixed ^ (mixed >> 27)) * 0x14D049BB133111EB).sum()


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


def _size(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def _aligned(size: int) -> int:
    return -(-size // _ALIGNMENT_BYTES) * _ALIGNMENT_BYTES
