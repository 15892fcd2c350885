"""Matmul FLOPs of training steps, counted while they run: forward as it happens, backward from autograd's graph.

A mode that watches the backward pass would have to sit in the user's own loop. Watching the forward pass is enough: it
says what every product costs and which autograd node it made; what the backward pass will do is then read off the
graph, since a product's gradient with respect to one operand costs what the product costs. So a frozen weight, a layer
below the lowest trained one or a branch that is cut from the graph counts as little as it costs.

What is counted (*model FLOPs*, the convention behind model FLOPs utilisation):

- products of matrices, convolutions and fused attention, by torch's own formulas
  (``torch.utils.flop_counter``): a product of (m, k) with (k, n) is 2 m k n; norms, activations, softmax, look-ups,
  the loss and the optimizer are nothing;
- attention is two products over the whole square of positions and four in the backward pass, whichever kernel runs.
  The kernel for CPUs, for which torch has no formula, is counted like the others;
- what is computed twice counts once: neither gradient checkpointing nor what a fused kernel repeats is added.

On shapes where nothing is computed twice this equals ``FlopCounterMode`` over forward and backward, exactly.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import BackwardCFunction
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from sat.score import is_compiled

_aten = torch.ops.aten
_OPERANDS: Mapping[Any, tuple[int, int]] = {
    _aten.mm: (0, 1),
    _aten.bmm: (0, 1),
    _aten.addmm: (1, 2),
    _aten.baddbmm: (1, 2),
    _aten.convolution: (0, 1),
    _aten._convolution: (0, 1),
    _aten.cudnn_convolution: (0, 1),
    _aten.convolution_overrideable: (0, 1),
    _aten._slow_conv2d_forward: (0, 1),
}
_ATTENTION = {
    _aten._scaled_dot_product_efficient_attention,
    _aten._scaled_dot_product_flash_attention,
    _aten._scaled_dot_product_flash_attention_for_cpu,
    _aten._scaled_dot_product_cudnn_attention,
    _aten._scaled_dot_product_fused_attention_overrideable,
}


@dataclass(frozen=True)
class Flops:
    """Counted matmul FLOPs. ``backward`` is ``None`` where the graph does not tell it.

    That is so for products inside a ``torch.autograd.Function`` (reentrant checkpointing is one).
    """

    forward: int
    backward: int | None

    @property
    def total(self) -> int | None:
        """Forward and backward together."""
        return None if self.backward is None else self.forward + self.backward

    def __add__(self, other: Flops) -> Flops:
        known = self.backward is not None and other.backward is not None
        return Flops(self.forward + other.forward, (self.backward or 0) + (other.backward or 0) if known else None)


class FlopWatch:
    """Counts the forward passes of a model between :meth:`start` and :meth:`stop`; costs nothing outside of them.

    Passes without gradients (evaluation) are left out. What runs outside the model's own ``forward``, for instance a
    loss, is not seen; nor are kernels that torch's counter has no formula for.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._hooks: list[Any] = []
        self._found: Flops | None = None
        self._mode: _Products | None = None

    @property
    def watching(self) -> bool:
        """Whether it is on."""
        return bool(self._hooks)

    def start(self) -> None:
        """Count from zero. Starting twice is starting anew."""
        self.stop()
        self._hooks = [
            self._model.register_forward_pre_hook(self._before, with_kwargs=True),
            self._model.register_forward_hook(self._after, always_call=True),
        ]

    def stop(self) -> Flops | None:
        """The count; ``None`` if no forward pass with gradients was seen."""
        for hook in self._hooks:
            hook.remove()
        found, self._hooks, self._found, self._mode = self._found, [], None, None
        return found

    def _before(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if not torch.is_grad_enabled() or torch.compiler.is_compiling() or self._mode is not None:
            return
        if not is_compiled(module):
            self._mode = _Products()
            self._mode.__enter__()  # type: ignore[no-untyped-call]
            return
        # compiled code hides its products: look at one eager pass beside the real one, which stays as it is
        with _undisturbed(module), torch.compiler.set_stance("force_eager"), _Products() as products:
            output = module.forward(*args, **kwargs)
        self._book(products, output)

    def _after(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        mode, self._mode = self._mode, None
        if mode is not None:
            mode.__exit__(None, None, None)  # type: ignore[no-untyped-call]
            self._book(mode, output)

    def _book(self, products: _Products, output: Any) -> None:
        counted = products.count(output)
        self._found = counted if self._found is None else self._found + counted


@contextmanager
def watched(watch: FlopWatch) -> Iterator[Callable[[], Flops | None]]:
    """Watch inside a block; the callable that it yields gives the count afterwards."""
    found: list[Flops | None] = []
    watch.start()
    try:
        yield lambda: found[0]
    finally:
        found.append(watch.stop())


def count_flops(model: nn.Module, run: Callable[[], Any]) -> Flops | None:
    """Matmul FLOPs of the forward passes of ``model`` in ``run``, and of the backward passes they would have.

    ``run`` need not go backward. On device ``meta`` nothing is computed and the count is the same.
    """
    with watched(FlopWatch(model)) as found:
        run()
    return found()


class _Products(TorchDispatchMode):
    """Records each product with the number of the autograd node it belongs to."""

    supports_higher_order_operators = True

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.forward = 0
        self._by_node: dict[int, int] = {}  # sequence number of the node -> FLOPs of its gradients
        self._hidden = False  # a product that needs a gradient was computed with autograd off

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        kind = getattr(func, "overloadpacket", func)
        if kind in _ATTENTION:
            self._record(*_attention(*args[:3]))
        elif kind in flop_registry:
            flops = flop_registry[kind](*args, **kwargs, out_val=result)
            self._record(flops, _gradients(kind, flops, args))
        return result

    def _record(self, flops: int, gradients: int) -> None:
        self.forward += flops
        if not gradients:
            return
        if not torch.is_grad_enabled():
            self._hidden = True
            return
        # autograd makes the node, and so draws its number, just before it calls the kernel
        node = torch._C._autograd._get_sequence_nr() - 1
        self._by_node[node] = self._by_node.get(node, 0) + gradients

    def count(self, output: Any) -> Flops:
        """What was recorded, of the backward pass only what ``output`` (its ``loss``, if it has one) leads to."""
        reached, opaque = _graph(output)
        if self._hidden and opaque:
            return Flops(self.forward, None)
        return Flops(self.forward, sum(flops for node, flops in self._by_node.items() if node in reached))


def _gradients(kind: Any, flops: int, args: tuple[Any, ...]) -> int:
    """FLOPs of a product's gradients, each operand's as many as the product's own."""
    if kind in _OPERANDS:
        return flops * sum(bool(args[at].requires_grad) for at in _OPERANDS[kind])
    tensors = [arg for arg in args if isinstance(arg, Tensor)]
    return 2 * flops if any(tensor.requires_grad for tensor in tensors) else 0


def _attention(query: Tensor, key: Tensor, value: Tensor) -> tuple[int, int]:
    """FLOPs of softmax(query key^T) value and of its gradients; heads of keys and values may be shared."""
    *outer, positions, width = query.shape
    square = 2 * positions * key.shape[-2]
    for size in outer:
        square *= size
    scores, mixed = square * width, square * value.shape[-1]
    needs_scores = query.requires_grad or key.requires_grad
    gradients = scores * (query.requires_grad + key.requires_grad) + mixed * (needs_scores + value.requires_grad)
    return scores + mixed, gradients


def _graph(output: Any) -> tuple[set[int], bool]:
    """Sequence numbers of the autograd nodes below ``output``, and whether any is a ``torch.autograd.Function``."""
    nodes = [tensor.grad_fn for tensor in _tensors(output) if tensor.grad_fn is not None]
    seen = set(nodes)
    opaque = False
    while nodes:
        node = nodes.pop()
        opaque |= isinstance(node, BackwardCFunction)
        for below, _ in node.next_functions:
            if below is not None and below not in seen:
                seen.add(below)
                nodes.append(below)
    return {node._sequence_nr() for node in seen}, opaque


def _tensors(output: Any) -> list[Tensor]:
    loss = output.get("loss") if isinstance(output, Mapping) else getattr(output, "loss", None)
    if isinstance(loss, Tensor):
        return [loss]
    if dataclasses.is_dataclass(output) and not isinstance(output, Mapping | type):
        output = vars(output)
    if isinstance(output, Mapping):
        output = dict(output)
    return [leaf for leaf in tree_leaves(output) if isinstance(leaf, Tensor)]


@contextmanager
def _undisturbed(model: nn.Module) -> Iterator[None]:
    """A pass that leaves no trace: generators and buffers (running statistics) are put back."""
    device = next(model.parameters()).device
    buffers = [(buffer, buffer.detach().clone()) for buffer in model.buffers()]
    with torch.random.fork_rng([device]) if device.type == "cuda" else nullcontext():
        state = torch.get_rng_state()
        try:
            yield
        finally:
            torch.set_rng_state(state)
            for buffer, value in buffers:
                buffer.data.copy_(value)
