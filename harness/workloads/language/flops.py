"""Matmul FLOPs of a decoder-only model in closed form, equal to torch's counter on meta tensors. No torch.

What ``torch.utils.flop_counter.FlopCounterMode`` counts of a step, and so what is counted here:

- a product of (m, k) with (k, n) is 2 m k n FLOPs; norms, rotations, activations, softmax, the loss and the
  optimizer are nothing;
- attention is two batched products over the *full* T x T square: the causal half that a kernel skips is
  counted, as is usual; its backward pass is four such products;
- a linear layer costs the same for its forward, its input gradient and its weight gradient;
- the first layer's input gradient is computed, because the embedding below it is trained; the embedding
  itself is a look-up and counts nothing, forward or backward;
- the lowest layer above a frozen prefix computes its input gradient too, because the weight of its norm is trained;
- a frozen prefix takes the embedding with it; where that is the head's matrix as well, the head has no weight gradient;
- gradient checkpointing runs each layer's forward once more, up to the last tensor that its backward needs:
  the down projection is left out.
"""

from __future__ import annotations

from dataclasses import dataclass

from harness.suite.spec import Phase, Recipe
from harness.workloads.language.ladder import Shape
from sat.config import attention_units, mlp_units, units_kept


@dataclass(frozen=True, slots=True)
class _Layer:
    """Forward FLOPs of the products of one decoder layer over a batch."""

    qkv: int
    scores: int  # both products of attention: queries x keys, weights x values
    out: int
    up: int  # gate and up projection
    down: int

    @property
    def linear(self) -> int:
        return self.qkv + self.out + self.up + self.down

    @property
    def forward(self) -> int:
        return self.linear + self.scores

    @property
    def input_gradient(self) -> int:
        return self.linear + 2 * self.scores

    @property
    def recomputed(self) -> int:
        """The part of the forward pass that gradient checkpointing repeats."""
        return self.forward - self.down


def _layer(shape: Shape, batch_size: int, width: float) -> _Layer:
    """A layer of which the share ``width`` of the MLP blocks and of the KV groups works."""
    group, groups = attention_units(shape.heads, shape.kv_heads)
    kv_heads = units_kept(groups, width)
    heads = group * kv_heads
    block, blocks = mlp_units(shape.hidden)
    hidden = block * units_kept(blocks, width)
    tokens = batch_size * shape.sequence_length
    per_channel = 2 * tokens * shape.width
    return _Layer(
        qkv=per_channel * shape.head_dim * (heads + 2 * kv_heads),
        scores=2 * 2 * tokens * shape.sequence_length * heads * shape.head_dim,
        out=per_channel * shape.head_dim * heads,
        up=per_channel * 2 * hidden,
        down=per_channel * hidden,
    )


def _head(shape: Shape, batch_size: int) -> int:
    return 2 * batch_size * shape.sequence_length * shape.width * shape.vocab


def step_flops(shape: Shape, recipe: Recipe, phase: Phase) -> int:
    """FLOPs of one optimizer step (forward, loss, backward) with the parts of the model that ``phase`` has.

    The shares become whole layers, KV groups and MLP blocks by ``sat.config.units_kept``, the rule that SAT
    itself uses.
    """
    layers = units_kept(shape.layers, phase.depth)
    backward = units_kept(layers, min(phase.backward, phase.suffix))  # layers with a backward pass
    trained = min(backward, units_kept(layers, phase.gradient))  # and with weight gradients
    layer = _layer(shape, recipe.batch_size, phase.width)
    head_frozen = shape.tied and units_kept(layers, phase.suffix) < layers
    total = (2 if head_frozen else 3) * _head(shape, recipe.batch_size)
    total += layers * layer.forward + backward * layer.input_gradient + trained * layer.linear
    if recipe.checkpointing:
        total += backward * layer.recomputed
    return total


def probe_flops(shape: Shape, recipe: Recipe, phase: Phase) -> int:
    """FLOPs of one importance probe of SAT in ``phase``: ``phase.probe_batches`` passes over the full model.

    Which probe it is follows from the share that is below 1:

    - gates of parts of layers (``width``): forward and input gradients, no weight gradient; in the first
      layer nothing below the gate on attention's output needs a gradient;
    - gates of whole layers (``depth``): likewise, and the first layer's inside needs none at all;
    - ``gradient``, ``backward`` (the forward pass is whole): a whole training step of the full model.
    """
    if min(phase.gradient, phase.backward) < 1.0:
        return phase.probe_batches * step_flops(shape, recipe, Phase(steps=1))
    layer = _layer(shape, recipe.batch_size, 1.0)
    passes = 2 * _head(shape, recipe.batch_size) + shape.layers * layer.forward
    passes += (shape.layers - 1) * layer.input_gradient
    if recipe.checkpointing:
        passes += (shape.layers - 1) * layer.recomputed
    if phase.depth == 1.0:
        passes += layer.out + layer.up + layer.down
        if recipe.checkpointing:
            passes += layer.recomputed
    return phase.probe_batches * passes
