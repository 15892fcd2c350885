"""The language workload: decoder-only models of the Llama family on text. Imports no torch.

The recipe, one rule for every rung and every arm:

- a step sees 2,048 tokens below 5 M parameters, 8,192 below 100 M, 16,384 below 2 B, 8,192 from there (what
  fits one card), in sequences of the ladder's length;
- steps = tokens_per_parameter x parameters / tokens of a step, rounded up;
- learning rate = 0.33 / width, at most 0.01. In a sweep with dense alone at widths 32 to 96 the best rate of five
  rows of seven was 0.32 or 0.33 / width, and the other two lie within 0.006 nats of theirs (``docs/language.md`` has
  the figures); 1 / width is how muP scales hidden matrices under Adam
  (Yang et al., "Tensor Programs V", 2022), and at widths 768 to 5,140 the line lies at 0.6 to 0.8 of the rates of
  GPT-3, whose batches were much larger (Brown et al., "Language Models are Few-Shot Learners", 2020, table
  2.1). Every arm of a rung shares it.
- one CPU thread below 1 M parameters, all cores from there.

Under the ``steady`` and ``count`` protocols the recipe is that of the whole training, a few steps of which are
run (or none).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, Self

from pydantic import BaseModel, Field, ValidationError, model_validator

from harness.suite.spec import Json, Phase, Protocol, Recipe, RunSpec
from harness.types import Frozen, UserError
from harness.workloads.base import Metric, Task, Workload
from harness.workloads.language import flops, ladder
from harness.workloads.language.data import SOTU, check_place
from harness.workloads.language.ladder import Shape
from harness.workloads.language.markov import MARKOV
from harness.workloads.language.tokenizer import LEAST_BPE_VOCABULARY

if TYPE_CHECKING:
    import torch

LEARNING_RATE_TIMES_WIDTH = 0.33
LARGEST_LEARNING_RATE = 0.01
BYTES_PER_PARAMETER = {"fp32": 16, "bf16": 18, "pure-bf16": 8}
ONE_THREAD_BELOW = 1e6
"""On the CPU a second thread makes a step of such a model 1.2 to 1.4 times faster and takes 1.4 to 1.6 times the CPU
time, most of it waiting; with any other load on the machine its waiting grows without bound (2 cores, AMD EPYC)."""


class Options(Frozen):
    """Options of the language workload."""

    data: Annotated[str, Field(min_length=1)] = Field(
        default=SOTU,
        description="'sotu' (State of the Union addresses, shipped), 'markov' (synthetic, known entropy), or the "
        "path of a text file, a .jsonl file with 'text', or a folder of text files.",
    )
    data_sha256: Annotated[str, Field(pattern=r"^[0-9a-fA-F]{64}$")] | None = Field(
        default=None, description="SHA-256 that one's own text must have; goes into the run's identity."
    )
    tokens_per_parameter: Annotated[float, Field(gt=0)] = Field(
        default=20.0, description="Training tokens for each parameter of the full model; decides the steps."
    )
    sequence_length: Annotated[int, Field(ge=8)] | None = Field(
        default=None, description="Tokens of a sequence; by default 128 to 2,048 with the size."
    )
    vocabulary: Annotated[int, Field(le=65_536)] | None = Field(
        default=None, description="256 for bytes, 512 or more for byte-level BPE; by default by size."
    )
    layers: Annotated[int, Field(ge=1, le=512)] | None = Field(
        default=None,
        exclude_if=lambda value: value is None,  # runs without it keep the ids they had before there was one
        description="Another depth at the same number of parameters; by default by size.",
    )
    evaluation_tokens: Annotated[int, Field(ge=256)] = Field(
        default=65_536, description="Held-out tokens of the final quality, at even distances over all documents."
    )
    curve_tokens: Annotated[int, Field(ge=256)] = Field(
        default=8_192, description="Held-out tokens of a point of the learning curve, likewise."
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.vocabulary is not None and self.vocabulary != ladder.BYTES and self.vocabulary < LEAST_BPE_VOCABULARY:
            raise ValueError(
                f"vocabulary: {self.vocabulary} is neither {ladder.BYTES} (bytes) nor at least "
                f"{LEAST_BPE_VOCABULARY} (byte-level BPE)"
            )
        if self.data_sha256 is not None and self.data in {SOTU, MARKOV}:
            raise ValueError(f"data_sha256 is for one's own text; the content of {self.data!r} is pinned already")
        return self

    @classmethod
    def read(cls, options: Json) -> Options:
        """Options from their JSON form.

        Raises:
            UserError: an option is unknown or out of range.
        """
        try:
            return cls.model_validate(options)
        except ValidationError as error:
            found = [
                f"{'.'.join(map(str, e['loc'])) or 'options'}: {e['msg'].removeprefix('Value error, ')}"
                for e in error.errors()
            ]
            raise UserError(f"language options: {'; '.join(found)}") from None


class LanguageWorkload(Workload):
    """Next-token prediction on documents that are split into training and held-out ones."""

    name = "language"
    version = 1
    Options: ClassVar[type[BaseModel]] = Options
    metrics = (
        Metric(name="loss", unit="nats per token", better="lower", label="Held-out loss", digits=4),
        Metric(name="bits_per_byte", unit="bits per byte", better="lower", label="Held-out bits per byte", digits=4),
        Metric(name="perplexity", unit="per token", better="lower", label="Held-out perplexity", digits=3),
        Metric(name="accuracy", unit="points", better="higher", label="Held-out next-token accuracy", digits=2),
    )
    examples = "tokens"

    def sizes(self) -> list[str]:
        """The rungs that are shown; any other size such as ``0.3M`` works too."""
        return list(ladder.SIZES)

    def model(self, size: str, options: Json) -> Json:
        """A :class:`~harness.workloads.language.ladder.Shape` as JSON."""
        chosen = Options.read(options)
        return ladder.shape(
            size, vocab=chosen.vocabulary, length=chosen.sequence_length, layers=chosen.layers
        ).model_dump()

    def recipe(self, size: str, model: Json, options: Json, protocol: Protocol) -> Recipe:
        """See the module's text. One's own text must be there, unless nothing is run."""
        chosen = Options.read(options)
        if protocol is not Protocol.COUNT and chosen.data not in {SOTU, MARKOV}:
            check_place(chosen.data)
        shape = Shape.read(model)
        batch_size = max(1, _tokens_per_step(ladder.parse_size(size)) // shape.sequence_length)
        tokens = chosen.tokens_per_parameter * shape.parameters
        return Recipe(
            steps=max(1, math.ceil(tokens / (batch_size * shape.sequence_length))),
            batch_size=batch_size,
            learning_rate=rate_of_width(shape.width),
            threads=1 if ladder.parse_size(size) < ONE_THREAD_BELOW else None,
        )

    def parameters(self, model: Json) -> int:
        """Exact; embeddings included, once where they are tied."""
        return Shape.read(model).parameters

    def layers(self, model: Json) -> int:
        """Decoder layers."""
        return Shape.read(model).layers

    def step_flops(self, model: Json, recipe: Recipe, options: Json, phase: Phase) -> float:
        """See :func:`harness.workloads.language.flops.step_flops`."""
        return float(flops.step_flops(Shape.read(model), recipe, phase))

    def probe_flops(self, model: Json, recipe: Recipe, options: Json, phase: Phase) -> float:
        """See :func:`harness.workloads.language.flops.probe_flops`."""
        return float(flops.probe_flops(Shape.read(model), recipe, phase))

    def smaller(self, model: Json, axis: Literal["depth", "width"]) -> list[Json]:
        """See :func:`harness.workloads.language.ladder.smaller`."""
        return [shape.model_dump() for shape in ladder.smaller(Shape.read(model), axis)]

    def learning_rate_of(self, smaller: Json, model: Json, learning_rate: float) -> float:
        """In proportion to the rule's rates for the two widths: a narrower model may learn faster."""
        return learning_rate * rate_of_width(Shape.read(smaller).width) / rate_of_width(Shape.read(model).width)

    def memory_bytes(self, model: Json, recipe: Recipe, options: Json) -> float:
        """See :func:`memory_bytes`."""
        return memory_bytes(Shape.read(model), recipe)

    def build(self, spec: RunSpec, device: torch.device) -> Task:
        """Model, data and evaluation on a device."""
        from harness.workloads.language.task import LanguageTask

        return LanguageTask(spec, device)


def rate_of_width(width: int) -> float:
    """Peak learning rate of a rung, by its width."""
    return min(LARGEST_LEARNING_RATE, LEARNING_RATE_TIMES_WIDTH / width)


def memory_bytes(shape: Shape, recipe: Recipe) -> float:
    """Rough peak of a dense training, in bytes, apart from what the process needs without a model.

    - 16 for each parameter: weight, gradient and two moments of AdamW in fp32; 2 more under bf16 (autocast's copy);
      8 under pure-bf16, all four in bf16;
    - activations kept for the backward pass, per token and layer: 40 width + 16 hidden in fp32, 34 width +
      8 hidden under bf16. Counted with saved-tensor hooks on the model as transformers 5.23 has it, where most of
      it is the norms' intermediate results; attention keeps no scores;
    - with gradient checkpointing: 4 width per token and layer, and the activations of one layer;
    - logits: three copies of tokens x vocabulary in fp32 (logits, log-probabilities, gradient), four under bf16.
    """
    half = recipe.precision != "fp32"
    tokens = recipe.batch_size * shape.sequence_length
    layer = tokens * (34 * shape.width + 8 * shape.hidden if half else 40 * shape.width + 16 * shape.hidden)
    kept = layer + shape.layers * tokens * 4 * shape.width if recipe.checkpointing else shape.layers * layer
    logits = tokens * shape.vocab * 4 * (4 if half else 3)
    return float(BYTES_PER_PARAMETER[recipe.precision] * shape.parameters + kept + logits)


def _tokens_per_step(target: float) -> int:
    if target < 5e6:
        return 2_048
    if target < 100e6:
        return 8_192
    return 16_384 if target < 2e9 else 8_192
