"""The language workload on a device: a stock Llama from transformers, batches, loss, evaluation."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional
from transformers import LlamaConfig, LlamaForCausalLM

from harness.suite.spec import RunSpec
from harness.types import UserError
from harness.workloads.base import Evaluation, Task
from harness.workloads.language import corpus, held_out
from harness.workloads.language.attention import CAUSAL
from harness.workloads.language.ladder import Shape
from harness.workloads.language.tokenizer import END_OF_DOCUMENT
from harness.workloads.language.workload import Options

_TRAINING, _PROBES = 1, 2  # streams of the generator
_EVALUATION_LOGITS = {"cpu": 2**21, "cuda": 2**28}  # elements of one evaluation batch


class LanguageTask(Task):
    """One run's model and data. On ``meta`` there are shapes only, and no text is read."""

    def __init__(self, spec: RunSpec, device: torch.device) -> None:
        self.shape = Shape.read(spec.model)
        self.device = device
        self.seed = spec.seed
        self.batch_size = spec.recipe.batch_size
        self.examples_per_step = self.batch_size * self.shape.sequence_length
        self.model: nn.Module = make_model(self.shape, spec.seed, device)
        if spec.recipe.checkpointing:
            self.model.activation_checkpointing_enable()
        if spec.recipe.precision == "pure-bf16":
            for parameter in self.model.parameters():  # not buffers: rotary frequencies need fp32
                parameter.data = parameter.data.to(torch.bfloat16)
        self.model.train()
        if device.type != "meta":
            self._read(Options.read(spec.workload_options))

    def _read(self, options: Options) -> None:
        length = self.shape.sequence_length
        text = corpus.load(options.data, self.shape.vocab, options.data_sha256)
        if len(text.train) <= length:
            raise UserError(
                f"language: data: {text.name}: the training documents have {len(text.train)} tokens, too few for "
                f"sequences of {length}; give more text or a smaller 'sequence_length'"
            )
        self._stream = text.train
        self._lengths = text.lengths
        whole = held_out.sequences(text.held_out(), length)
        self._final = held_out.choose(whole, options.evaluation_tokens)
        self._curve = held_out.choose(whole, options.curve_tokens)
        self.provenance = {"text": text.name, "text_sha256": text.sha256, "training_tokens": len(text.train)}

    def batch(self, step: int) -> Tensor:
        """Random crops of the training stream, shape (batch, sequence_length + 1), int64."""
        return self._crops(_TRAINING, step)

    def probe_batch(self, index: int) -> Tensor:
        """As :meth:`batch`, from a stream of its own."""
        return self._crops(_PROBES, index)

    def _crops(self, stream: int, index: int) -> Tensor:
        length = self.shape.sequence_length
        if self.device.type == "meta":
            return torch.zeros(self.batch_size, length + 1, dtype=torch.int64, device=self.device)
        starts = crop_starts(self.seed, stream, index, self.batch_size, len(self._stream) - length)
        rows = self._stream[starts[:, None] + np.arange(length + 1)].astype(np.int64)
        return self._to_device(rows)

    def _to_device(self, values: NDArray[np.int64]) -> Tensor:
        tensor = torch.from_numpy(values)
        if self.device.type == "cuda":
            return tensor.pin_memory().to(self.device, non_blocking=True)
        return tensor

    def loss(self, batch: Tensor) -> Tensor:
        """Mean cross-entropy of every next token, in nats."""
        logits = self.model(input_ids=batch[:, :-1]).logits
        return functional.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())

    def evaluate(self, *, final: bool) -> Evaluation:
        """Loss, bits per byte, perplexity and accuracy on held-out documents, with standard errors."""
        chosen = self._final if final else self._curve
        limit = _EVALUATION_LOGITS.get(self.device.type, _EVALUATION_LOGITS["cpu"])
        rows = max(1, limit // (self.shape.vocab * self.shape.sequence_length))
        training = self.model.training
        self.model.eval()
        try:
            with torch.inference_mode():
                parts = [
                    self._sums(chosen.inputs[at : at + rows], chosen.targets[at : at + rows])
                    for at in range(0, len(chosen.inputs), rows)
                ]
                losses, hits = torch.cat(parts, dim=1).cpu().numpy()
        finally:
            self.model.train(training)
        real = chosen.targets != held_out.IGNORED
        lengths = np.where(real, self._lengths[np.where(real, chosen.targets, 0)], 0).sum(axis=1)
        return held_out.quality(losses, hits, real.sum(axis=1), lengths, chosen.document)

    def _sums(self, inputs: NDArray[np.int64], targets: NDArray[np.int64]) -> Tensor:
        """Sum of losses and number of hits of each sequence, shape (2, rows), float64."""
        wanted = self._to_device(targets)
        logits = self.model(input_ids=self._to_device(inputs)).logits
        losses = functional.cross_entropy(logits.flatten(0, 1), wanted.flatten(), reduction="none").view_as(wanted)
        hits = logits.argmax(dim=-1) == wanted
        return torch.stack([losses.double().sum(dim=1), hits.double().sum(dim=1)])

    def blocks(self) -> list[nn.Module]:
        """The decoder layers."""
        layers: Any = self.model.model.layers  # type: ignore[union-attr]
        return list(layers)


def make_model(shape: Shape, seed: int, device: torch.device) -> LlamaForCausalLM:
    """A stock model with weights that depend on the seed and the shape alone (and the kind of device).

    Matrices are normal with standard deviation sqrt(2 / (5 width)) ("small init", Nguyen and Salazar,
    "Transformers without Tears", 2019): 0.02 at width 1,000, and right for narrow models too.
    """
    config = LlamaConfig(
        vocab_size=shape.vocab,
        hidden_size=shape.width,
        intermediate_size=shape.hidden,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        head_dim=shape.head_dim,
        max_position_embeddings=shape.sequence_length,
        tie_word_embeddings=shape.tied,
        initializer_range=math.sqrt(2 / (5 * shape.width)),
        bos_token_id=END_OF_DOCUMENT,
        eos_token_id=END_OF_DOCUMENT,
        use_cache=False,
        attn_implementation=CAUSAL,  # type: ignore[call-arg]
    )
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        with device:
            return LlamaForCausalLM(config)


def crop_starts(seed: int, stream: int, index: int, count: int, places: int) -> NDArray[np.int64]:
    """``count`` starts below ``places``, a function of ``(seed, stream, index)`` alone.

    A counter-based generator (Philox) gives any step without the ones before it: a resumed run, and every
    arm of a block, see the same text. Raw 64-bit numbers are used, whose values numpy guarantees; the bias of
    the remainder is below 1e-11.
    """
    key = np.array([seed % 2**64, stream], dtype=np.uint64)  # a plain list would pass through floats
    generator = np.random.Philox(key=key, counter=np.array([0, 0, 0, index], dtype=np.uint64))
    return (generator.random_raw(count) % np.uint64(places)).astype(np.int64)
