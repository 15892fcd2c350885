"""The ladder: one rule from a parameter count to a model shape, from 0.1 M to 13 B. No torch.

The rule, for a target of N parameters:

- vocabulary: 256 (bytes) below 5 M, 8,192 below 100 M, 32,000 from there (byte-level BPE);
- input and output embeddings tied below 1 B, two matrices from there;
- layers: the even number nearest to 6 (N / 0.1 M)^0.161, at least 2: 6 at 0.1 M, 40 at 13 B;
- head dimension by width: 8 below 64, 16 below 256, 32 below 512, 64 below 2,048, 128 from there;
  as many KV heads as heads;
- width: the multiple of the head dimension whose total, with a SwiGLU hidden size of 8/3 width, is nearest N;
- hidden: then the multiple of the head dimension, at least of 16, that brings the total nearest to N.

The last step keeps every rung within a few per cent of its label, also where the widths are coarse; it
moves the ratio hidden / width away from 8/3 on the smallest rungs only. ``python -m
harness.workloads.language.ladder`` prints the table.
"""

from __future__ import annotations

import re
from typing import Annotated, Literal, Self

from pydantic import Field, ValidationError, model_validator

from harness.suite.spec import Json
from harness.types import Frozen, UserError

SIZES = (
    "0.1M", "0.2M", "0.4M", "0.8M", "1.6M", "3M", "6M", "10M", "30M", "60M",
    "124M", "350M", "760M", "1.3B", "3B", "7B", "13B",
)  # fmt: skip
"""The rungs that are shown. Any other size, ``0.3M`` or ``2.7B``, follows the same rule."""

BYTES = 256
"""Vocabulary of byte tokens; byte 0 ends a document."""

_SIZE = re.compile(r"(\d+(?:\.\d+)?)([KMB])")
_SCALE = {"K": 1e3, "M": 1e6, "B": 1e9}
_SMALLEST, _LARGEST = 20e3, 1e12

Positive = Annotated[int, Field(ge=1)]


class Shape(Frozen):
    """A decoder-only model of the Llama family: all that decides its parameters and its FLOPs."""

    layers: Positive
    width: Positive
    heads: Positive
    kv_heads: Positive
    head_dim: Annotated[int, Field(ge=2, multiple_of=2)]  # rotary embeddings turn pairs
    hidden: Positive  # of the SwiGLU MLP
    vocab: Annotated[int, Field(ge=2)]
    sequence_length: Positive  # tokens predicted in each sequence
    tied: bool  # whether input and output embeddings are one matrix

    @model_validator(mode="after")
    def _heads_share_evenly(self) -> Self:
        if self.heads % self.kv_heads:
            raise ValueError(f"{self.heads} heads can't share {self.kv_heads} KV heads evenly")
        return self

    @classmethod
    def read(cls, model: Json) -> Shape:
        """A shape from its JSON form.

        Raises:
            UserError: a key is missing, unknown or out of range.
        """
        try:
            return cls.model_validate(model)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"]) or "model"
            raise UserError(f"language model shape: {where}: {first['msg']}") from None

    @property
    def layer_parameters(self) -> int:
        """Of one decoder layer: four attention matrices, three of the MLP, two norms."""
        attention = 2 * self.width * self.head_dim * (self.heads + self.kv_heads)
        return attention + 3 * self.width * self.hidden + 2 * self.width

    @property
    def parameters(self) -> int:
        """Of the whole model, exact."""
        embeddings = self.vocab * self.width * (1 if self.tied else 2)
        return embeddings + self.layers * self.layer_parameters + self.width


def parse_size(size: str) -> float:
    """Target parameters of a label such as ``0.1M``, ``124M`` or ``1.3B``.

    Raises:
        UserError: it is no size, or outside 20K to 1000B.
    """
    found = _SIZE.fullmatch(size.strip())
    if not found:
        raise UserError(
            f"language: size {size!r} is not a number with K, M or B such as '0.1M', '124M' or '1.3B'; "
            f"rungs: {', '.join(SIZES)}"
        )
    target = float(found[1]) * _SCALE[found[2]]
    if not _SMALLEST <= target <= _LARGEST:
        raise UserError(f"language: size {size!r} is outside 20K to 1000B parameters; rungs: {', '.join(SIZES)}")
    return target


def vocabulary(target: float) -> int:
    """Tokens of the rung's vocabulary."""
    if target < 5e6:
        return BYTES
    return 8_192 if target < 100e6 else 32_000


def sequence_length(target: float) -> int:
    """Tokens of a training sequence: 128 below 5 M, 512 below 100 M, 1,024 below 1 B, 2,048 from there."""
    if target < 5e6:
        return 128
    if target < 100e6:
        return 512
    return 1024 if target < 1e9 else 2048


def shape(size: str, *, vocab: int | None = None, length: int | None = None, layers: int | None = None) -> Shape:
    """The model of a rung.

    Args:
        size: label of the rung; see :func:`parse_size`.
        vocab: another vocabulary than the rule's.
        length: another sequence length than the rule's.
        layers: another depth than the rule's, at the same number of parameters: the width follows.

    Raises:
        UserError: no such size, or vocabulary and layers do not fit it.
    """
    target = parse_size(size)
    vocab = vocab or vocabulary(target)
    length = length or sequence_length(target)
    tied = target < 1e9
    depth = layers or max(2, 2 * round(6 * (target / 1e5) ** 0.161 / 2))

    def at(width: int) -> Shape:
        dim = head_dim(width)
        return Shape(
            layers=depth,
            width=width,
            heads=width // dim,
            kv_heads=width // dim,
            head_dim=dim,
            hidden=_multiple(8 / 3 * width, hidden_multiple(width)),
            vocab=vocab,
            sequence_length=length,
            tied=tied,
        )

    best = at(8)
    width = 8
    while at(width).parameters < target:
        width = next_width(width)
        best = min(best, at(width), key=lambda s: abs(s.parameters - target))
    rest = best.model_copy(update={"hidden": 0}).parameters
    hidden = _multiple((target - rest) / (3 * best.width * depth), hidden_multiple(best.width))
    fitted = best.model_copy(update={"hidden": hidden})
    if abs(fitted.parameters - target) > 0.15 * target:
        wanted = f"a vocabulary of {vocab:,}" + (f" with {layers} layers" if layers else "")
        raise UserError(
            f"language: {wanted} does not fit a model of {size} parameters; "
            "take a larger size or a smaller 'vocabulary'" + (", or fewer 'layers'" if layers else "")
        )
    return fitted


def head_dim(width: int) -> int:
    """Channels of an attention head in a model of the ladder."""
    for bound, dim in ((64, 8), (256, 16), (512, 32), (2048, 64)):
        if width < bound:
            return dim
    return 128


def next_width(width: int) -> int:
    """The next larger width of the ladder."""
    return width + head_dim(width)


def hidden_multiple(width: int) -> int:
    """What the MLP's hidden size is a multiple of: blocks of SAT and tiles of a GPU want it."""
    return max(16, head_dim(width))


def smaller(model: Shape, axis: Literal["depth", "width"]) -> list[Shape]:
    """Every complete model shallower (or narrower) than ``model``, largest first.

    Narrower ones keep depth, head dimension and the ratio hidden / width, rounded as on the ladder; the
    heads follow the width.
    """
    if axis == "depth":
        return [model.model_copy(update={"layers": n}) for n in range(model.layers - 1, 0, -1)]
    group = model.heads // model.kv_heads
    found = []
    for kv_heads in range(model.kv_heads - 1, 0, -1):
        share = kv_heads / model.kv_heads
        width = round(model.width * share)
        hidden = min(model.hidden, _multiple(model.hidden * share, hidden_multiple(model.width)))
        found.append(
            model.model_copy(update={"width": width, "heads": kv_heads * group, "kv_heads": kv_heads, "hidden": hidden})
        )
    return found


def _multiple(value: float, of: int) -> int:
    """The multiple of ``of`` nearest to ``value``, at least one of it."""
    return max(1, round(value / of)) * of


def table() -> str:
    """The rungs as a Markdown table."""
    lines = [
        "| size | layers | width | heads × dim | hidden | vocabulary | sequence | tied | parameters |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for size in SIZES:
        s = shape(size)
        lines.append(
            f"| {size} | {s.layers} | {s.width:,} | {s.heads} × {s.head_dim} | {s.hidden:,} | {s.vocab:,} | "
            f"{s.sequence_length:,} | {'yes' if s.tied else 'no'} | {s.parameters:,} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    print(table())
