"""Tokens of a text, split and ready: the training stream and the held-out documents. No torch.

Encoding (and training a BPE) is done once: the result lies in the user's cache, ``$XDG_CACHE_HOME/sat-harness``
or ``~/.cache/sat-harness``, under a name that is the hash of all that decides it. Files appear there whole or
not at all, so that processes may share the folder. A cache that can't be written, or a damaged file in it,
costs time and nothing else.
"""

from __future__ import annotations

import os
import tempfile
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from harness.types import UserError, digest
from harness.workloads.language import data, markov, tokenizer
from harness.workloads.language.tokenizer import END_OF_DOCUMENT

_FORMAT = 1


@dataclass(frozen=True, slots=True)
class Corpus:
    """A text in tokens. Every document begins with the end-of-document token."""

    name: str
    sha256: str  # of the text
    train: NDArray[np.integer]  # (n,): all training documents one after the other
    held: NDArray[np.integer]  # (m,): the held-out documents likewise
    held_ends: NDArray[np.int64]  # (documents,): where each of them ends in ``held``
    lengths: NDArray[np.int64]  # (vocabulary,): bytes each token stands for

    def held_out(self) -> list[NDArray[np.integer]]:
        """Each held-out document, end-of-document token first."""
        return np.split(self.held, self.held_ends[:-1])


def load(place: str, vocabulary: int, sha256: str | None = None) -> Corpus:
    """The corpus of a ``data`` option.

    Args:
        place: ``sotu``, ``markov``, or the path of one's own text.
        vocabulary: tokens; 256 is bytes.
        sha256: what one's own text must have.

    Raises:
        UserError: the text is missing, damaged or another one; see ``data.py``.
    """
    if place == markov.MARKOV:
        if vocabulary <= markov.STATES:
            raise UserError(f"language: data 'markov' needs a vocabulary above {markov.STATES}, not {vocabulary}")
        return _cut(
            "Markov source", markov.sha256(), [d + 1 for d in markov.documents()], np.ones(vocabulary, np.int64)
        )
    source = data.sotu() if place == data.SOTU else data.own_text(place, sha256)
    key = digest([_FORMAT, source.sha256, Path(source.name).suffix, tokenizer.identity(vocabulary)], 32)
    cached = cache_folder() / f"tokens-{key}.npz"
    found = _cached(cached, source)
    if found is None:
        found = _encode(source, vocabulary)
        _store(found, cached)
    return found


def cache_folder() -> Path:
    """Where encoded text is kept between runs."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(base) if os.path.isabs(base) else Path("~/.cache").expanduser()) / "sat-harness"


def _encode(source: data.Source, vocabulary: int) -> Corpus:
    documents = source.documents()
    training, _ = data.split(documents)
    tokens = tokenizer.make(training, vocabulary)
    return _cut(source.name, source.sha256, [tokens.encode(text) for text in documents], tokens.lengths())


def _cut(name: str, sha256: str, documents: list[tokenizer.Tokens], lengths: NDArray[np.int64]) -> Corpus:
    training, held = data.split(documents)
    small = np.min_scalar_type(len(lengths) - 1)
    return Corpus(
        name=name,
        sha256=sha256,
        train=_join(training).astype(small),
        held=_join(held).astype(small),
        held_ends=np.cumsum([len(document) + 1 for document in held]),
        lengths=lengths,
    )


def _join(documents: Iterable[tokenizer.Tokens]) -> tokenizer.Tokens:
    return np.concatenate([part for document in documents for part in (np.array([END_OF_DOCUMENT]), document)])


def _cached(path: Path, source: data.Source) -> Corpus | None:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return Corpus(name=source.name, sha256=source.sha256, **{name: arrays[name] for name in arrays.files})
    except (OSError, ValueError, TypeError, EOFError, zipfile.BadZipFile):
        return None  # absent, unreadable or damaged (each member of the archive has a checksum): made anew


def _store(corpus: Corpus, path: Path) -> None:
    arrays = {name: getattr(corpus, name) for name in ("train", "held", "held_ends", "lengths")}
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(prefix=path.stem, suffix=".tmp", dir=path.parent)
        with os.fdopen(descriptor, "wb") as file:
            np.savez(file, **arrays)
        os.replace(temporary, path)
    except OSError:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)
