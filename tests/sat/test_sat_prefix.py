"""prefix: the lowest layers and what is below them have no backward pass; their outputs can be kept."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sat_families import FAMILIES
from sat_models import adamw, attach, llama, loss_of, snapshot, tokens, train
from transformers import LlamaConfig, LlamaForCausalLM, T5Config, T5EncoderModel

import sat
from sat.cache import _File
from sat.select import rise

HALF = {"mode": "prefix", "schedule": ((0.0, 0.5),)}


def attach_family(name: str, **settings):
    family = FAMILIES[name]
    model = family.make()
    config = sat.SATConfig(**{**HALF, **settings})
    controller = sat.sparsify_(
        model, adamw(model), config, total_steps=8, loss=lambda index: family.loss(model, 1000 + index)
    )
    return family, model, controller


BELOW = {
    "llama": {"model.embed_tokens.weight"},
    "gpt2": {"transformer.wte.weight", "transformer.wpe.weight"},
    "own": {"embed.weight"},
}


@pytest.mark.parametrize("name", ["llama", "gpt2", "bert", "vit", "resnet", "own"])
def test_nothing_below_the_boundary_has_a_gradient_and_above_it_is_the_dense_one(name):
    family, model, controller = attach_family(name)
    oracle = family.make()
    (part,) = controller.parts
    assert 0 < part.boundary < part.units
    loss, dense = family.loss(model, 0), family.loss(oracle, 0)
    assert torch.equal(loss, dense)
    loss.backward()
    dense.backward()
    frozen = {id(p) for p in part.frozen_parameters}
    without = {name for name, p in model.named_parameters() if p.grad is None and id(p) in frozen}
    assert len(without) == len(frozen)
    assert {name for name in without if not any(name.startswith(stack) for stack in family.stacks)} >= BELOW.get(
        name, set()
    )
    for name_, parameter in model.named_parameters():
        if id(parameter) not in frozen:
            expected = oracle.get_parameter(name_).grad
            assert (parameter.grad is None) == (expected is None), name_
            if expected is not None:
                assert torch.equal(parameter.grad, expected), name_


def test_autograd_keeps_nothing_of_the_prefix():
    def saved(model) -> int:
        numbers = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t: numbers.append(t.numel()) or t, lambda t: t):
            loss_of(model)(0)
        return len(numbers)

    dense = saved(llama(layers=4))
    model = llama(layers=4)
    attach(model, adamw(model), mode="prefix", schedule=((0.0, 0.25),))
    assert saved(model) < 0.4 * dense


def test_the_boundary_follows_the_schedule_and_frozen_weights_stay():
    model = llama(layers=4)
    optimizer = adamw(model)
    schedule = ((0.0, 1.0), (0.25, 0.75), (0.5, 0.25))
    controller = attach(model, optimizer, 8, mode="prefix", schedule=schedule)
    boundaries = []
    for step in range(8):
        controller.begin_step(step)
        boundaries.append(controller.parts[0].boundary)
        frozen = {id(p) for p in controller.parts[0].frozen_parameters}
        before = snapshot(model)
        train(model, optimizer, controller, step, step + 1)
        for name, now in model.named_parameters():
            assert torch.equal(now, before[name]) == (id(now) in frozen), name
    assert boundaries == [0, 0, 1, 1, 3, 3, 3, 3]
    sat.densify_(model)
    assert all(p.requires_grad for p in model.parameters())
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_a_layer_joins_only_when_all_below_are_frozen():
    assert rise([0, 1, 2, 3], 0, 2) == 2
    assert rise([9, 1, 2, 3], 0, 3) == 0  # the lowest matters most: it holds the boundary
    assert rise([1, 9, 2, 3], 0, 2) == 1
    assert rise([5, 5, 1, 9], 2, 3) == 3
    assert rise([5, 5, 1, 9], 3, 2) == 3  # never back
    assert rise([1, 1, 1], 0, 2) == 2


def test_scores_hold_the_boundary_back_and_it_never_falls():
    model = llama(layers=6)
    optimizer = adamw(model)
    controller = attach(model, optimizer, 12, mode="prefix", score="taylor", interval=2, schedule=((0.0, 0.2),))
    boundaries = []
    for step in range(12):
        controller.begin_step(step)
        boundaries.append(controller.parts[0].boundary)
        train(model, optimizer, controller, step, step + 1)
    assert boundaries == sorted(boundaries)
    assert controller.report().probes == 6
    assert boundaries[-1] <= 5


def test_reentrant_checkpoints_give_the_same_gradients():
    grads = []
    for reentrant in (None, True, False):
        model = llama(layers=4)
        if reentrant is not None:
            model.gradient_checkpointing_enable({"use_reentrant": reentrant})
        attach(model, adamw(model), **HALF)
        loss_of(model)(0).backward()
        grads.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    for other in grads[1:]:
        assert other.keys() == grads[0].keys()
        for name, value in other.items():
            torch.testing.assert_close(value, grads[0][name], rtol=1e-5, atol=1e-7)


def test_a_tied_head_is_frozen_with_the_embedding():
    model = llama(tie_word_embeddings=True)
    attach(model, adamw(model), **HALF)
    loss_of(model)(0).backward()
    assert model.lm_head.weight.grad is None
    assert model.model.norm.weight.grad is not None


@pytest.mark.parametrize("name", ["t5-gated", "marian", "clip"])
def test_several_stacks_side_by_side_are_refused(name):
    with pytest.raises(ValueError, match=r"does not read what .* there is no one lowest layer"):
        attach_family(name)


def test_without_a_loss_it_can_not_be_seen_what_lies_below():
    model = llama()
    with pytest.raises(ValueError, match=r"mode 'prefix' runs a part of loss\(0\)"):
        sat.sparsify_(model, adamw(model), sat.SATConfig(**HALF), total_steps=4)


# the cache


def runs(cached: bool, *, path=None, family: str = "llama", steps: int = 6, limit: int = 2**20, **settings):
    """Losses and weights of a training over two batches that come again."""
    chosen, model, controller = attach_family(family, **settings)
    cache = sat.ActivationCache(model, limit_bytes=limit, path=path) if cached else None
    losses = []
    for step in range(steps):
        controller.begin_step(step)
        index = step % 2
        size = 4 if family in {"vit", "resnet"} else 2
        keys = torch.arange(size) + 10 * index
        if cache is None:
            loss = chosen.loss(model, index)
        else:
            with cache.examples(keys):
                loss = chosen.loss(model, index)
        loss.backward()
        controller.optimizer.step()
        controller.optimizer.zero_grad()
        controller.end_step(step)
        losses.append(loss.item())
    return losses, snapshot(model), cache


@pytest.mark.parametrize(
    ("family", "on_file"),
    [*((name, False) for name in ("llama", "qwen3", "gpt2", "bert", "vit", "own")), ("llama", True), ("vit", True)],
)
def test_training_with_the_cache_is_training_without_it_bit_for_bit(family, on_file, tmp_path):
    plain = runs(False, family=family)
    kept = runs(True, family=family, path=tmp_path / "cache" if on_file else None)
    assert kept[0] == plain[0]
    assert all(torch.equal(value, plain[1][name]) for name, value in kept[1].items())
    size = 4 if family == "vit" else 2
    assert (kept[2].hits, kept[2].misses) == (4 * size, 2 * size)
    assert kept[2].used_bytes > 0


def test_a_hit_does_not_run_the_prefix():
    _, model, _ = attach_family("llama")
    cache = sat.ActivationCache(model, limit_bytes=2**20)
    ran = []
    model.model.layers[0].mlp.register_forward_hook(lambda *_: ran.append("below"))
    model.model.layers[2].mlp.register_forward_hook(lambda *_: ran.append("above"))
    for _ in range(2):
        with cache.examples([4, 5]):
            model(input_ids=tokens(0))
    assert ran == ["below", "above", "above"]
    model(input_ids=tokens(0))  # outside of examples all is plain
    assert ran == ["below", "above", "above", "below", "above"]
    assert not any("forward" in vars(layer) for layer in model.model.layers)


def test_masks_and_rotations_reach_the_layers_above_a_hit():
    _, model, _ = attach_family("llama")
    cache = sat.ActivationCache(model, limit_bytes=2**20)
    given = {"input_ids": tokens(0), "attention_mask": torch.tensor([[0] * 3 + [1] * 5, [1] * 8])}
    outputs = []
    for _ in range(2):
        with cache.examples([0, 1]):
            outputs.append(model(**given, use_cache=True).logits)
    assert cache.hits == 2
    assert torch.equal(*outputs)
    assert torch.equal(outputs[0], model(**given).logits)


LEFT = torch.tensor([[0] * 3 + [1] * 5, [1] * 8])  # masks of two examples, one padded on the left
SHORTER = torch.tensor([[0] * 2 + [1] * 6, [1] * 8])


@pytest.mark.parametrize(
    ("family", "ways"),
    [
        (
            "llama",
            [{}, {"attention_mask": LEFT}, {"attention_mask": SHORTER}, {"position_ids": 2 * torch.arange(8)[None]}],
        ),
        ("bert", [{}, {"attention_mask": LEFT}, {"attention_mask": SHORTER}]),
    ],
)
def test_another_mask_or_other_positions_over_the_same_data_are_computed(family, ways):
    """And are a hit when they come again."""
    _, model, _ = attach_family(family)
    cache = sat.ActivationCache(model, limit_bytes=2**20)
    hits = []
    for way in ways:
        plain = model(input_ids=tokens(0), **way).logits
        for _ in range(2):
            with cache.examples([0, 1]):
                assert torch.equal(model(input_ids=tokens(0), **way).logits, plain)
            hits.append(cache.hits)
    assert hits == [2 * (visit // 2) for visit in range(1, 2 * len(ways) + 1)]
    assert len(cache) == 2


def test_what_is_every_examples_is_the_same_written_out_for_each():
    _, model, _ = attach_family("llama")
    cache = sat.ActivationCache(model, limit_bytes=2**20)
    for positions in (torch.arange(8)[None], torch.arange(8).repeat(2, 1)):
        with cache.examples([0, 1]):
            model(input_ids=tokens(0), position_ids=positions)
    assert cache.hits == 2


def test_it_is_forgotten_when_the_boundary_moves_or_a_frozen_weight_changes():
    schedule = ((0.0, 0.75), (0.5, 0.25))
    plain, kept = runs(False, schedule=schedule, steps=8), runs(True, schedule=schedule, steps=8)
    assert kept[0] == plain[0]
    assert (kept[2].hits, kept[2].misses) == (8, 8)  # two batches of two, twice missed
    _, model, _ = attach_family("llama")
    cache = sat.ActivationCache(model, limit_bytes=2**20)
    for _ in range(2):
        with cache.examples([0, 1]):
            model(input_ids=tokens(0))
        model.load_state_dict(model.state_dict())
    assert cache.hits == 0


def test_what_has_no_room_is_computed_and_another_length_is_another_example():
    one = 6 * 32 * 4
    plain, kept = runs(False), runs(True, limit=3 * one)
    assert kept[0] == plain[0]
    assert len(kept[2]) == 3
    _, model, _ = attach_family("llama")
    cache = sat.ActivationCache(model, limit_bytes=2**20)
    for length in (8, 6, 6):
        with cache.examples([0, 1]):
            model(input_ids=tokens(0, length=length))
    assert (cache.hits, cache.misses) == (2, 4)


@pytest.mark.parametrize("on_file", [False, True])
def test_room_of_another_length_is_used_again(on_file, tmp_path):
    """Examples padded to 10 and to 11 positions in turn: room for all is enough for ever."""
    _, model, _ = attach_family("llama")
    cache = sat.ActivationCache(model, limit_bytes=5 * 11 * 32 * 4, path=tmp_path / "cache" if on_file else None)
    for epoch in range(6):
        length = 10 + epoch % 2
        for first in (0, 2):
            with cache.examples([first, first + 1]):
                model(input_ids=tokens(first, length=length))
        assert (len(cache), cache.used_bytes) == (4, 4 * length * 32 * 4)
    for first in (0, 2):
        plain = model(input_ids=tokens(first, length=11)).logits
        with cache.examples([first, first + 1]):
            assert torch.equal(model(input_ids=tokens(first, length=11)).logits, plain)
    assert cache.hits == 4


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(1, 30)), max_size=60))
def test_tensors_in_a_file_never_overlap_and_what_is_given_back_is_whole_again(visits):
    with tempfile.TemporaryDirectory() as folder:
        file = _File(Path(folder) / "file", 301)
        held: dict[int, torch.Tensor] = {}
        for key, length in visits:
            if key in held:
                file.give(held.pop(key))
            room = file.take(torch.zeros(length))
            if room is not None:
                held[key] = room.fill_(key)
            assert all((values == key).all() for key, values in held.items())
        for room in held.values():
            file.give(room)
        assert file.take(torch.zeros(301, dtype=torch.uint8)) is not None


def test_data_that_are_not_fixed_are_an_error():
    _, model, _ = attach_family("llama")
    cache = sat.ActivationCache(model, limit_bytes=2**20)
    with cache.examples([0, 1]):
        model(input_ids=tokens(0))
    other = tokens(0)
    other[1, 3] = (other[1, 3] + 1) % 50
    with pytest.raises(ValueError, match="example 1 comes with other data"), cache.examples([0, 1]):
        model(input_ids=other)
    with pytest.raises(ValueError, match="3 keys for a batch of 2"), cache.examples([0, 1, 2]):
        model(input_ids=other)
    assert not any("forward" in vars(layer) for layer in model.model.layers)


def dropping(**dropout):
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=50, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, **dropout
    )
    return LlamaForCausalLM(config)


def test_random_prefixes_are_refused():
    model = dropping(attention_dropout=0.1)
    sat.sparsify_(model, adamw(model), sat.SATConfig(**HALF), total_steps=4, loss=loss_of(model))
    cache = sat.ActivationCache(model, limit_bytes=2**20)
    with pytest.raises(ValueError, match=r"active dropout \(LlamaAttention.attention_dropout = 0.1"):
        cache.examples([0, 1]).__enter__()
    model.eval()
    with cache.examples([0, 1]):
        model(input_ids=tokens(0))
    assert len(cache) == 2
    _, model, _ = attach_family("resnet")
    with pytest.raises(ValueError, match="batch norm in training mode"):
        sat.ActivationCache(model, limit_bytes=2**20).examples([0]).__enter__()


def test_layers_that_hand_on_more_than_hidden_states_are_refused():
    torch.manual_seed(0)
    model = T5EncoderModel(
        T5Config(vocab_size=50, d_model=32, d_kv=8, d_ff=64, num_layers=3, num_heads=4, dropout_rate=0.0)
    )
    loss = lambda index: model(input_ids=tokens(index)).last_hidden_state.square().mean()  # noqa: E731
    controller = sat.sparsify_(model, adamw(model), sat.SATConfig(**HALF), total_steps=4, loss=loss)
    loss(0).backward()
    assert controller.parts[0].boundary == 1
    cache = sat.ActivationCache(model, limit_bytes=2**20)
    with pytest.raises(ValueError, match="return a tuple, more than hidden states"), cache.examples([0, 1]):
        loss(0)


def test_a_cache_needs_a_prefix_room_and_a_new_file(tmp_path):
    with pytest.raises(ValueError, match="needs a frozen prefix"):
        sat.ActivationCache(llama(), limit_bytes=1)
    _, model, _ = attach_family("llama")
    with pytest.raises(ValueError, match="limit_bytes must be 1 or more"):
        sat.ActivationCache(model, limit_bytes=0)
    (tmp_path / "there").touch()
    with pytest.raises(ValueError, match="is there already"):
        sat.ActivationCache(model, limit_bytes=64, path=tmp_path / "there")
    with pytest.raises(ValueError, match="keys must be whole numbers"):
        sat.ActivationCache(model, limit_bytes=64).examples([0.5]).__enter__()
