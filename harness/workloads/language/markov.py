"""A synthetic source whose entropy is known: no model can do better than its entropy rate. No torch.

A first-order Markov chain over 32 states, drawn once and for all from a fixed seed. A document starts in the
stationary distribution, so a model that has learnt the chain reaches :func:`entropy_rate` on every token but
the first of a document.
"""

from __future__ import annotations

import hashlib
from functools import cache

import numpy as np
from numpy.typing import NDArray

MARKOV = "markov"
STATES = 32
DOCUMENTS = 500
DOCUMENT_LENGTH = 2048
_SEED = 20_231_123
_CONCENTRATION = 0.2  # Dirichlet: a few likely successors of each state
_FLOOR = 0.01  # share of the uniform distribution mixed in: every transition has a probability

Floats = NDArray[np.float64]


@cache
def transitions() -> Floats:
    """Probability of each next state; shape (states, states), rows sum to 1."""
    rows = np.random.default_rng(_SEED).dirichlet([_CONCENTRATION] * STATES, size=STATES)
    mixed: Floats = (1 - _FLOOR) * rows + _FLOOR / STATES
    return mixed


@cache
def stationary() -> Floats:
    """The stationary distribution; shape (states,)."""
    chain = transitions()
    equations = np.vstack([chain.T - np.eye(STATES), np.ones(STATES)])
    wanted = np.append(np.zeros(STATES), 1.0)
    found: Floats = np.linalg.lstsq(equations, wanted, rcond=None)[0]
    shares: Floats = found / found.sum()
    return shares


def entropy_rate() -> float:
    """Nats per token: sum over states of their stationary probability times the entropy of their row."""
    chain = transitions()
    return float(-(stationary() @ (chain * np.log(chain)).sum(axis=1)))


def documents() -> list[NDArray[np.int64]]:
    """States of every document, always the same."""
    rng = np.random.default_rng(_SEED + 1)
    draws = rng.random((DOCUMENT_LENGTH, DOCUMENTS))
    cumulative = transitions().cumsum(axis=1)
    states = np.empty((DOCUMENTS, DOCUMENT_LENGTH), dtype=np.int64)
    current = _pick(np.broadcast_to(stationary().cumsum(), (DOCUMENTS, STATES)), draws[0])
    for position in range(DOCUMENT_LENGTH):
        if position:
            current = _pick(cumulative[current], draws[position])
        states[:, position] = current
    return list(states)


def _pick(cumulative: Floats, draw: Floats) -> NDArray[np.int64]:
    """The first state whose cumulative probability exceeds the draw; shapes (n, states), (n,)."""
    passed: NDArray[np.int64] = (cumulative <= draw[:, None]).sum(axis=1)
    return np.minimum(passed, STATES - 1)


@cache
def sha256() -> str:
    """Of the chain and the sizes: what decides the documents."""
    head = f"{_SEED} {DOCUMENTS} {DOCUMENT_LENGTH} ".encode()
    return hashlib.sha256(head + transitions().tobytes()).hexdigest()
