"""The whole workload against a source whose best possible loss is known."""

import math

import numpy as np
import pytest
import torch
from language_runs import TINY, run_spec

from harness.methods.base import Controller
from harness.run.events import Evaluated
from harness.run.train import Loop, make_optimizer
from harness.types import UserError
from harness.workloads.language import corpus, held_out, markov
from harness.workloads.language.task import LanguageTask


def test_the_chain_is_a_chain():
    chain, shares = markov.transitions(), markov.stationary()
    assert chain.sum(axis=1) == pytest.approx(1.0)
    assert chain.min() > 0
    assert shares @ chain == pytest.approx(shares)
    assert shares.sum() == pytest.approx(1.0)
    assert 0.5 < markov.entropy_rate() < math.log(markov.STATES) - 1


def test_the_documents_follow_the_chain():
    documents = np.stack(markov.documents())
    assert documents.shape == (markov.DOCUMENTS, markov.DOCUMENT_LENGTH)
    assert np.bincount(documents.flatten()) / documents.size == pytest.approx(markov.stationary(), rel=0.05)
    pairs = np.bincount((documents[:, :-1] * markov.STATES + documents[:, 1:]).flatten(), minlength=markov.STATES**2)
    expected = (markov.stationary()[:, None] * markov.transitions()).flatten() * pairs.sum()
    assert np.abs(pairs - expected).max() < 6 * np.sqrt(expected.max())
    assert np.array_equal(np.stack(markov.documents()), documents)


def best_possible(cut: held_out.Sequences) -> np.ndarray:
    """-ln of the true probability of every target, summed over each sequence."""
    logs = np.full((markov.STATES + 1, markov.STATES + 1), np.nan)
    logs[1:, 1:] = -np.log(markov.transitions())
    logs[0, 1:] = -np.log(markov.stationary())  # the first of a document
    real = cut.targets != held_out.IGNORED
    return np.where(real, logs[cut.inputs, np.where(real, cut.targets, 1)], 0.0).sum(axis=1)


def test_no_code_is_shorter_than_the_entropy_rate():
    cut = held_out.sequences(corpus.load("markov", 256).held_out(), 64)
    tokens = (cut.targets != held_out.IGNORED).sum(axis=1)
    found = held_out.quality(best_possible(cut), tokens * 0.0, tokens, tokens, cut.document)
    first = (markov.stationary() @ -np.log(markov.stationary()) - markov.entropy_rate()) / markov.DOCUMENT_LENGTH
    assert abs(found.metrics["loss"] - markov.entropy_rate() - first) < 4 * found.standard_errors["loss"]


def test_a_trained_model_comes_near_the_entropy_and_never_below():
    shape = TINY.model_copy(
        update={"layers": 1, "width": 32, "heads": 4, "kv_heads": 4, "vocab": 40, "sequence_length": 32}
    )
    spec = run_spec(shape, batch_size=32, steps=150, options={"data": "markov"}, recipe={"evaluations": 3})
    task = LanguageTask(spec, torch.device("cpu"))
    said = []
    Loop(spec, task, Controller(), make_optimizer(task.model, spec.recipe), torch.device("cpu"), said.append).run()
    curve = [event.metrics["loss"] for event in said if isinstance(event, Evaluated)]
    chosen = task._final
    tokens = (chosen.targets != held_out.IGNORED).sum()
    floor = best_possible(chosen).sum() / tokens
    assert curve == sorted(curve, reverse=True)
    # the model can't know more than the source; on the same tokens luck has almost no room
    assert floor - 0.005 < curve[-1] < floor + 0.15
    assert curve[0] > curve[-1] + 0.1


def test_the_vocabulary_must_hold_all_states():
    with pytest.raises(UserError, match="data 'markov' needs a vocabulary above 32, not 32"):
        corpus.load("markov", 32)
