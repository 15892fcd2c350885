import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from statsmodels.regression.linear_model import OLS

from harness.workloads.language import held_out

DOCUMENTS = st.lists(st.lists(st.integers(0, 9), min_size=2, max_size=30).map(np.array), min_size=1, max_size=6)


@given(DOCUMENTS, st.integers(1, 12))
def test_every_token_but_the_first_is_predicted_once_from_the_one_before(documents, length):
    cut = held_out.sequences(documents, length)
    assert cut.inputs.shape == cut.targets.shape
    assert cut.inputs.shape[1] == length
    for index, document in enumerate(documents):
        mine = cut.document == index
        targets = cut.targets[mine].flatten()
        real = targets != held_out.IGNORED
        assert targets[real].tolist() == document[1:].tolist()
        assert cut.inputs[mine].flatten()[real].tolist() == document[:-1].tolist()
        assert real.tolist() == sorted(real.tolist(), reverse=True)  # padding at the end of the document only


@given(st.integers(1, 400), st.integers(1, 5000))
def test_a_choice_is_spread_evenly(count, tokens):
    whole = held_out.Sequences(np.zeros((count, 8), int), np.zeros((count, 8), int), np.arange(count))
    chosen = held_out.choose(whole, tokens).document
    assert len(chosen) == max(1, min(count, tokens // 8))
    assert len(set(chosen)) == len(chosen)
    gaps = np.diff([-1, *chosen, count])
    if tokens // 8 >= count:
        assert chosen.tolist() == list(range(count))
    elif len(chosen) > 1:
        assert gaps[1:-1].max() - gaps[1:-1].min() <= 1


def test_standard_errors_are_those_of_a_regression_clustered_by_document():
    """statsmodels scales by (N - 1) / (N - 1): with one coefficient the two formulas are the same."""
    rng = np.random.default_rng(0)
    document = np.sort(rng.integers(0, 12, size=200))
    level = rng.normal(2.0, 0.5, size=12)
    losses = rng.normal(level[document], 0.2)  # sequences of one token
    hits = (rng.random(200) < 0.4).astype(float)
    ones = np.ones(200)
    found = held_out.quality(losses, hits, ones, 2 * ones, document)
    for name, values in (("loss", losses), ("accuracy", 100 * hits), ("bits_per_byte", losses / math.log(2) / 2)):
        fitted = OLS(values, ones).fit(cov_type="cluster", cov_kwds={"groups": document})
        assert found.metrics[name] == pytest.approx(fitted.params[0])
        assert found.standard_errors[name] == pytest.approx(fitted.bse[0], rel=1e-9)
    assert found.standard_errors["perplexity"] == pytest.approx(
        found.standard_errors["loss"] * math.exp(found.metrics["loss"])
    )


def test_standard_errors_are_about_the_scatter_of_repeated_draws():
    rng = np.random.default_rng(1)
    means, errors = [], []
    for _ in range(400):
        sizes = rng.integers(5, 50, size=30).astype(float)
        losses = sizes * rng.normal(2.0, 0.4, size=30)
        found = held_out.quality(losses, sizes * 0, sizes, sizes, np.arange(30))
        means.append(found.metrics["loss"])
        errors.append(found.standard_errors["loss"])
    assert np.mean(errors) == pytest.approx(np.std(means), rel=0.1)


def test_one_document_has_no_standard_error():
    one = np.ones(3)
    found = held_out.quality(one, one, one, one, np.zeros(3, int))
    assert found.metrics == pytest.approx(
        {"loss": 1.0, "bits_per_byte": 1 / math.log(2), "perplexity": math.e, "accuracy": 100.0}
    )
    assert found.standard_errors == {}


def test_a_loss_beyond_floating_point_has_no_perplexity():
    one = np.ones(2)
    found = held_out.quality(1e4 * one, one, one, one, np.arange(2))
    assert set(found.metrics) == {"loss", "bits_per_byte", "accuracy"}
    assert set(found.standard_errors) == set(found.metrics)
