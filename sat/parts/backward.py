"""Depth: every layer runs forward, and backward passes by the branches of inactive layers (``backward_drop``)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from sat.parts.layers import FrozenLayers
from sat.structure import Stack


class BypassedLayers(FrozenLayers):
    """Mode ``backward_drop``: an inactive layer computes what it always did, and its gradient is that of its input.

    What the branches of an inactive layer write into the residual stream is detached. The forward pass is the same
    to the bit; no product of the layer runs backward, and autograd frees a branch's activations as soon as it
    has run. The residual path is left alone: where a norm follows the sum (BERT, Marian), the gradient goes through
    that norm as ever, and only the branch's share of it is missing. A decoder layer that is out sends no gradient
    to the encoder's states; the active ones do. Pinned layers stay active.
    """

    def __init__(self, stack: Stack) -> None:
        super().__init__(stack)
        self.pinned = stack.pinned
        self._branches = [_Branch() for _ in self._all]
        self._handles: list[RemovableHandle] = []

    def switch(self, active: tuple[int, ...], fresh: Sequence[int] = ()) -> None:
        """See :meth:`Part.switch`."""
        super().switch(active, fresh)
        if not self._handles:
            self._handles = [
                module.register_forward_hook(branch)
                for branch, modules in zip(self._branches, self.stack.outputs, strict=True)
                for module in modules
            ]
        self._detach()

    @contextmanager
    def full(self, *, states: bool = True, keep: bool = False) -> Iterator[None]:
        """See :meth:`Part.full`: all branches have their gradients."""
        for branch in self._branches:
            branch.detached = False
        try:
            yield
        finally:
            self._detach()

    def release(self) -> None:
        """See :meth:`Part.release`."""
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def _detach(self) -> None:
        for unit, branch in enumerate(self._branches):
            branch.detached = unit not in self.active


class _Branch:
    """Forward hook of the modules by which a layer writes into the residual stream.

    It stays on them while SAT is on and looks at a flag, since code compiled before a hook came would not know it.
    """

    def __init__(self) -> None:
        self.detached = False

    def __call__(self, module: nn.Module, args: tuple[Any, ...], result: Any) -> Any:
        if not self.detached:
            return None
        if not isinstance(result, Tensor):
            raise ValueError(
                f"mode 'backward_drop': {type(module).__name__}, which writes into the residual stream, must return "
                f"a tensor, not a {type(result).__name__}; name the projection itself (outputs=[...])"
            )
        return result.detach()
