import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from language_runs import WORDS

from harness.types import UserError
from harness.workloads.language import tokenizer

TRAINING = [" ".join(WORDS), "Die Mühe lohnt sich — 100 %.", "def f(x):\n\treturn x  # naïve", "<|endoftext|> in words"]
BPE = tokenizer.BpeTokenizer(TRAINING * 3, 600)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=60) | st.sampled_from(
    [*TRAINING, "", "<|endoftext|>"]
)


@pytest.mark.parametrize("made", [tokenizer.ByteTokenizer(), BPE], ids=["bytes", "bpe"])
@given(text=TEXTS)
def test_nothing_is_lost(made, text):
    tokens = made.encode(text)
    assert made.decode(tokens) == text
    assert made.lengths()[tokens].sum() == len(text.encode())
    assert all(0 <= token < made.vocabulary for token in tokens)


@given(TEXTS)
def test_text_never_becomes_the_end_of_document(text):
    assert tokenizer.END_OF_DOCUMENT not in BPE.encode(text)


def test_merges_are_learnt_from_the_text_and_shorten_it():
    text = " ".join(WORDS)
    assert len(BPE.encode(text)) < 0.5 * len(text)


def test_the_same_text_gives_the_same_merges_with_any_number_of_threads():
    program = (
        "import sys; sys.path.insert(0, sys.argv[1]); import test_language_tokens as t\n"
        "print([t.BPE.encode(x).tolist() for x in t.TRAINING])"
    )
    folder = __file__.rpartition("/")[0]
    here = str([BPE.encode(text).tolist() for text in TRAINING])
    for parallel in ("false", "true"):
        found = subprocess.run(
            [sys.executable, "-c", program, folder],
            capture_output=True,
            text=True,
            check=True,
            env={"TOKENIZERS_PARALLELISM": parallel, "RAYON_NUM_THREADS": "3"},
        )
        assert found.stdout.strip() == here


def test_a_vocabulary_too_small_for_merges_is_refused():
    with pytest.raises(UserError, match="300 is too small for byte-level BPE; give 256 for bytes, or at least 512"):
        tokenizer.make(TRAINING, 300)
