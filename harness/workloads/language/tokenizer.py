"""Text to tokens: bytes, or byte-level BPE trained on the training split of the text itself. No torch."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from importlib.metadata import version
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from harness.types import UserError
from harness.workloads.language.ladder import BYTES

END_OF_DOCUMENT = 0
"""Token that stands before every document, for every tokenizer. As a byte it is NUL, which text does not have."""

LEAST_BPE_VOCABULARY = 512

Tokens = NDArray[np.int64]


class Tokenizer(Protocol):
    """What encodes one document; without the end-of-document token."""

    vocabulary: int

    def encode(self, text: str) -> Tokens:
        """Tokens of a text, shape (n,)."""

    def decode(self, tokens: Sequence[int] | Tokens) -> str:
        """The text again; :meth:`encode` loses nothing."""

    def lengths(self) -> Tokens:
        """UTF-8 bytes that each token stands for, shape (vocabulary,); 0 for end of document."""


class ByteTokenizer:
    """One token for each byte of UTF-8."""

    vocabulary = BYTES

    def encode(self, text: str) -> Tokens:
        """See :class:`Tokenizer`."""
        return np.frombuffer(text.encode("utf-8"), dtype=np.uint8).astype(np.int64)

    def decode(self, tokens: Sequence[int] | Tokens) -> str:
        """See :class:`Tokenizer`."""
        return bytes(int(token) for token in tokens).decode("utf-8")

    def lengths(self) -> Tokens:
        """See :class:`Tokenizer`."""
        return np.ones(BYTES, dtype=np.int64)


class BpeTokenizer:
    """Byte-level BPE as GPT-2 has it (256 byte symbols, its splitting pattern), merges learnt from ``texts``.

    Token 0 is ``<|endoftext|>``; where that string stands in a text it is encoded as plain text. A short text
    may hold fewer merges than asked for: the tokens beyond are never used.

    Args:
        texts: the training documents. The same texts in the same order give the same merges.
        vocabulary: tokens with the 256 bytes and end-of-document in them; at least 512.
    """

    def __init__(self, texts: Iterable[str], vocabulary: int) -> None:
        import tokenizers
        from tokenizers import decoders, models, pre_tokenizers, trainers

        if vocabulary < LEAST_BPE_VOCABULARY:
            raise UserError(
                f"language: vocabulary: {vocabulary} is too small for byte-level BPE; "
                f"give {BYTES} for bytes, or at least {LEAST_BPE_VOCABULARY}"
            )
        self.vocabulary = vocabulary
        self._model: Any = tokenizers.Tokenizer(models.BPE())
        self._model.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        self._model.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=vocabulary,
            special_tokens=["<|endoftext|>"],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
        self._model.train_from_iterator(texts, trainer)
        self._model.encode_special_tokens = True

    def encode(self, text: str) -> Tokens:
        """See :class:`Tokenizer`."""
        return np.array(self._model.encode(text).ids, dtype=np.int64)

    def decode(self, tokens: Sequence[int] | Tokens) -> str:
        """See :class:`Tokenizer`."""
        return str(self._model.decode([int(token) for token in tokens]))

    def lengths(self) -> Tokens:
        """See :class:`Tokenizer`."""
        found = np.zeros(self.vocabulary, dtype=np.int64)
        for token, number in self._model.get_vocab().items():
            found[number] = len(token)  # the byte-level alphabet has one character for each byte
        found[END_OF_DOCUMENT] = 0
        return found


def make(texts: Iterable[str], vocabulary: int) -> Tokenizer:
    """The tokenizer of a vocabulary size: bytes at 256, BPE trained on ``texts`` above."""
    return ByteTokenizer() if vocabulary == BYTES else BpeTokenizer(texts, vocabulary)


def identity(vocabulary: int) -> str:
    """What decides the tokens of a text, apart from the text."""
    return "bytes" if vocabulary == BYTES else f"bpe-{vocabulary}-tokenizers-{version('tokenizers')}"
