import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from language_runs import TINY, run_spec, write_text
from torch.nn import functional

from harness.suite.spec import Phase
from harness.types import UserError
from harness.workloads.language import corpus
from harness.workloads.language.task import LanguageTask, crop_starts, make_model

CPU, META = torch.device("cpu"), torch.device("meta")


@pytest.fixture
def text(tmp_path):
    return str(write_text(tmp_path / "own.jsonl"))


def make_task(text, shape=TINY, **fields):
    options = {"data": text, **fields.pop("options", {})}
    return LanguageTask(run_spec(shape, options=options, **fields), CPU)


def test_batches_depend_on_seed_and_step_alone(text):
    task = make_task(text)
    for arm in (
        make_task(text),
        make_task(text, arm="sat", method="sat", phases=(Phase(steps=10, depth=0.5),)),
        make_task(text, shape=TINY.model_copy(update={"layers": 1, "width": 8, "heads": 1, "kv_heads": 1})),
        make_task(text, steps=77, recipe={"weight_decay": 0.0}),
    ):
        arm.batch(3)  # no history: what was asked before does not matter
        for step in (5, 0, 9_999_999):
            assert torch.equal(arm.batch(step), task.batch(step))
            assert torch.equal(arm.probe_batch(step), task.probe_batch(step))
    seen = [task.batch(0), task.batch(1), task.probe_batch(0), task.probe_batch(1), make_task(text, seed=1).batch(0)]
    assert len({tuple(batch.flatten().tolist()) for batch in seen}) == len(seen)


def test_batches_are_crops_of_the_training_documents(text):
    task = make_task(text, batch_size=50)
    loaded = corpus.load(text, 256)
    stream, held = loaded.train.tobytes(), loaded.held.tobytes()
    for batch in (task.batch(0), task.probe_batch(0)):
        assert batch.shape == (50, TINY.sequence_length + 1)
        assert batch.dtype == torch.int64
        for row in batch:
            assert bytes(row.tolist()) in stream
    assert task.examples_per_step == 50 * TINY.sequence_length
    assert stream[100:140] not in held


@given(st.integers(-(2**40), 2**70), st.integers(0, 2**40), st.integers(1, 50), st.integers(1, 2**33))
def test_crops_start_inside(seed, index, count, places):
    starts = crop_starts(seed, 1, index, count, places)
    assert starts.shape == (count,)
    assert starts.min() >= 0
    assert starts.max() < places
    assert np.array_equal(starts, crop_starts(seed, 1, index, count, places))


def test_crops_are_spread_evenly_and_streams_do_not_repeat():
    draws = np.concatenate([crop_starts(3, stream, step, 64, 10) for stream in (1, 2) for step in range(100)])
    counts = np.bincount(draws, minlength=10)
    assert np.square(counts - 1280).sum() / 1280 < 27.9  # chi-squared with 9 degrees of freedom, p = 0.001
    many = [crop_starts(seed, stream, step, 4, 2**62) for seed in range(5) for stream in (1, 2) for step in range(50)]
    assert len(np.unique(np.concatenate(many))) == 4 * len(many)


def test_numbers_of_the_generator_are_pinned():
    """Another numpy must give the same text to the same seed, or results stop being comparable."""
    assert crop_starts(7, 1, 3, 4, 1_000_000).tolist() == [309816, 510566, 119906, 116092]


def weights(seed, shape=TINY):
    return torch.cat([p.detach().flatten() for p in make_model(shape, seed, CPU).parameters()])


def test_weights_depend_on_the_seed_alone():
    torch.manual_seed(1)
    one = weights(5)
    torch.manual_seed(2)
    before = torch.get_rng_state()
    assert torch.equal(weights(5), one)
    assert torch.equal(torch.get_rng_state(), before)
    assert not torch.equal(weights(6), one)


def test_weights_start_at_the_scale_of_the_rule():
    model = make_model(TINY.model_copy(update={"width": 64, "heads": 8, "kv_heads": 8}), 0, CPU)
    for name, parameter in model.named_parameters():
        if parameter.ndim == 2:
            assert parameter.std().item() == pytest.approx(math.sqrt(2 / 320), rel=0.1), name


def test_the_loss_is_the_librarys_own_and_every_weight_has_a_gradient(text):
    task = make_task(text)
    batch = task.batch(0)
    stock = make_model(TINY, 0, CPU)
    stock.set_attn_implementation("sdpa")
    expected = stock(input_ids=batch, labels=batch).loss  # shifts by itself
    loss = task.loss(batch)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    loss.backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in task.model.parameters())


def test_no_token_sees_the_future(text):
    task = make_task(text)
    batch = task.batch(0)[:, :-1]
    changed = batch.clone()
    changed[:, 9:] = (changed[:, 9:] + 1) % 256
    with torch.no_grad():
        before, after = task.model(input_ids=batch).logits, task.model(input_ids=changed).logits
    assert torch.equal(before[:, :9], after[:, :9])
    assert not torch.allclose(before[:, 9:], after[:, 9:])


def plain_evaluation(task, text):
    """One document, one sequence, one token after the other."""
    sums, hits, tokens = [], [], []
    for document in corpus.load(text, task.shape.vocab).held_out():
        total, right, count = 0.0, 0, 0
        for start in range(0, len(document) - 1, task.shape.sequence_length):
            piece = torch.from_numpy(document[start : start + task.shape.sequence_length + 1].astype(np.int64))
            with torch.no_grad():
                logits = task.model(input_ids=piece[None, :-1]).logits[0]
            for at, token in enumerate(piece[1:].tolist()):
                total += functional.cross_entropy(logits[at : at + 1], piece[at + 1 : at + 2]).item()
                right += int(logits[at].argmax().item() == token)
                count += 1
        sums.append(total)
        hits.append(right)
        tokens.append(count)
    return np.array(sums), np.array(hits), np.array(tokens)


def test_evaluation_equals_a_plain_loop(text):
    task = make_task(text)
    sums, hits, tokens = plain_evaluation(task, text)
    found = task.evaluate(final=True)
    loss = sums.sum() / tokens.sum()
    assert found.metrics["loss"] == pytest.approx(loss, rel=1e-6)
    assert found.metrics["perplexity"] == pytest.approx(math.exp(loss), rel=1e-6)
    assert found.metrics["bits_per_byte"] == pytest.approx(loss / math.log(2), rel=1e-6)
    assert found.metrics["accuracy"] == pytest.approx(100 * hits.sum() / tokens.sum())
    spread = math.sqrt(len(sums) / (len(sums) - 1) * np.square(sums - loss * tokens).sum()) / tokens.sum()
    assert found.standard_errors["loss"] == pytest.approx(spread, rel=1e-4)


def test_bits_per_byte_does_not_depend_on_the_tokens(text):
    """A model that knows nothing needs log2(vocabulary) bits a token: fewer for each byte where tokens are longer."""
    shape = TINY.model_copy(update={"vocab": 600})
    task = make_task(text, shape)
    torch.nn.init.zeros_(task.model.model.norm.weight)  # all logits equal
    held = corpus.load(text, 600)
    tokens, length = len(held.held) - len(held.held_ends), held.lengths[held.held].sum()
    assert length == sum(len(document) - 1 for document in corpus.load(text, 256).held_out())
    found = task.evaluate(final=True).metrics
    assert found["loss"] == pytest.approx(math.log(600))
    assert found["bits_per_byte"] == pytest.approx(math.log2(600) * tokens / length)


def test_evaluation_leaves_no_trace_and_is_repeatable(text):
    task = make_task(text, options={"curve_tokens": 256})
    task.model.train()
    before = torch.get_rng_state()
    first = task.evaluate(final=False)
    assert task.model.training
    assert torch.equal(torch.get_rng_state(), before)
    assert all(p.grad is None for p in task.model.parameters())
    task.model.eval()
    assert task.evaluate(final=False) == first
    assert not task.model.training
    assert task.evaluate(final=True) != first


def test_evaluation_does_not_depend_on_its_batch_size(text, monkeypatch):
    task = make_task(text)
    whole = task.evaluate(final=True)
    monkeypatch.setattr("harness.workloads.language.task._EVALUATION_LOGITS", {"cpu": 1})
    one_by_one = task.evaluate(final=True)
    assert one_by_one.metrics == pytest.approx(whole.metrics, rel=1e-6)


def test_on_meta_nothing_is_read():
    spec = run_spec(options={"data": "/nowhere/at/all"}, recipe={"checkpointing": True})
    task = LanguageTask(spec, META)
    task.loss(task.batch(0)).backward()
    assert all(p.is_meta and p.grad.is_meta for p in task.model.parameters())


def test_checkpointing_changes_no_gradient(text):
    gradients = []
    for checkpointing in (False, True):
        task = make_task(text, recipe={"checkpointing": checkpointing})
        task.loss(task.batch(0)).backward()
        gradients.append([p.grad for p in task.model.parameters()])
    assert all(torch.equal(one, other) for one, other in zip(*gradients, strict=True))


def test_the_model_works_under_bf16_autocast(text):
    task = make_task(text)
    exact = task.loss(task.batch(0))
    with torch.autocast("cpu", torch.bfloat16):
        loss = task.loss(task.batch(0))
        found = task.evaluate(final=True)
    loss.backward()
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(exact.item(), rel=1e-2)
    assert all(p.grad.dtype == torch.float32 for p in task.model.parameters())
    assert found.metrics["loss"] == pytest.approx(task.evaluate(final=True).metrics["loss"], rel=1e-2)


def test_blocks_are_the_layers(text):
    assert [type(block).__name__ for block in make_task(text).blocks()] == ["LlamaDecoderLayer"] * 2


def test_a_text_shorter_than_a_sequence_is_refused(text):
    with pytest.raises(
        UserError, match="too few for sequences of 100000; give more text or a smaller 'sequence_length'"
    ):
        make_task(text, TINY.model_copy(update={"sequence_length": 100_000}))
