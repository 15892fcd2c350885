"""The held-out text as sequences, and quality over it with its uncertainty. No torch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from harness.workloads.base import Evaluation

IGNORED = -100
"""Target of a place that is padding; what torch's cross-entropy leaves out by default."""

LARGEST_EXPONENT = 700.0
"""Above this loss (a training that blew up) exp(loss) is no finite number, and no perplexity is given."""

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Sequences:
    """Held-out sequences of one length, in the order of the documents."""

    inputs: NDArray[np.int64]  # (n, length)
    targets: NDArray[np.int64]  # (n, length): the next tokens, IGNORED after a document's end
    document: NDArray[np.int64]  # (n,): the document each comes from


def sequences(documents: Sequence[NDArray[np.integer]], length: int) -> Sequences:
    """Cut documents into sequences, each token but the first of a document being predicted exactly once.

    Args:
        documents: tokens with the end-of-document token first.
        length: tokens predicted in each sequence; a document's last one is padded.
    """
    inputs, targets, owner = [], [], []
    for index, document in enumerate(documents):
        predicted = len(document) - 1
        rows = math.ceil(predicted / length)
        padding = rows * length - predicted
        whole = document.astype(np.int64)
        inputs.append(np.pad(whole[:-1], (0, padding)).reshape(rows, length))
        targets.append(np.pad(whole[1:], (0, padding), constant_values=IGNORED).reshape(rows, length))
        owner.append(np.full(rows, index, dtype=np.int64))
    return Sequences(np.concatenate(inputs), np.concatenate(targets), np.concatenate(owner))


def choose(whole: Sequences, tokens: int) -> Sequences:
    """At most about ``tokens`` tokens of it, sequences taken at even distances over all documents."""
    count, length = whole.inputs.shape
    wanted = max(1, min(count, tokens // length))
    at = np.floor((np.arange(wanted) + 0.5) * count / wanted).astype(np.int64)
    return Sequences(whole.inputs[at], whole.targets[at], whole.document[at])


def quality(losses: Floats, hits: Floats, tokens: Floats, lengths: Floats, document: NDArray[np.int64]) -> Evaluation:
    """Metrics and their standard errors from sums over sequences.

    Documents are the independent pieces: tokens of one document are not. With S_d the sum of a document and n_d
    its size, a metric is the ratio R = sum S / sum n, and its variance that of a ratio estimator,
    D / (D - 1) * sum (S_d - R n_d)^2 / (sum n)^2 over D documents (Cochran, *Sampling Techniques*, 1977,
    section 6.4, without the finite population correction). The standard error of perplexity = exp(loss) is
    the loss's times perplexity. With one document there is no standard error, and none is given.

    Args:
        losses: sum of -ln p over the tokens of each sequence, shape (n,).
        hits: tokens whose likeliest prediction was right, shape (n,).
        tokens: tokens predicted, shape (n,).
        lengths: bytes those tokens stand for, shape (n,).
        document: the document each sequence comes from, shape (n,).
    """

    def by_document(values: Floats) -> Floats:
        return np.bincount(document, weights=values).astype(np.float64)[np.unique(document)]

    sums, size, text = by_document(losses), by_document(tokens), by_document(lengths)
    loss, loss_error = _ratio(sums, size)
    bits, bits_error = _ratio(sums / math.log(2), text)
    accuracy, accuracy_error = _ratio(100.0 * by_document(hits), size)
    metrics = {"loss": loss, "bits_per_byte": bits, "accuracy": accuracy}
    if loss < LARGEST_EXPONENT:
        metrics["perplexity"] = math.exp(loss)
    if loss_error is None or bits_error is None or accuracy_error is None:
        return Evaluation(metrics, {})
    errors = {"loss": loss_error, "bits_per_byte": bits_error, "accuracy": accuracy_error}
    if "perplexity" in metrics:
        errors["perplexity"] = metrics["perplexity"] * loss_error
    return Evaluation(metrics, errors)


def _ratio(sums: Floats, sizes: Floats) -> tuple[float, float | None]:
    """``sum sums / sum sizes`` and its standard error; ``None`` for one piece."""
    total = float(sizes.sum())
    ratio = float(sums.sum()) / total
    pieces = len(sums)
    if pieces < 2:
        return ratio, None
    spread = float(np.square(sums - ratio * sizes).sum())
    return ratio, math.sqrt(pieces / (pieces - 1) * spread) / total
