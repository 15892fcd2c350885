"""Depth: layers that are out are not there, and come in without a jump."""

from __future__ import annotations

import pytest
import torch
from sat_models import adamw, attach, llama, snapshot, tokens, train
from transformers import Qwen3Config, Qwen3ForCausalLM

import sat


def logits(model, seed=3):
    with torch.no_grad():
        return model(input_ids=tokens(seed)).logits


def layer_numbers(model):
    return [layer.self_attn.layer_idx for layer in model.model.layers]


def test_one_layer_until_four_fifths_then_all():
    model = llama()
    optimizer = adamw(model)
    controller = attach(model, optimizer, 20)
    assert len(model.model.layers) == model.config.num_hidden_layers == 1
    train(model, optimizer, controller, 0, 16)
    assert len(model.model.layers) == 1
    train(model, optimizer, controller, 16, 17)
    assert len(model.model.layers) == model.config.num_hidden_layers == 4
    assert layer_numbers(model) == [0, 1, 2, 3]


def test_a_fully_active_model_is_the_dense_one_bit_for_bit():
    dense, model = llama(), llama()
    a, b = adamw(dense), adamw(model)
    assert train(dense, a, None, 0, 5) == train(model, b, attach(model, b, schedule=((0.0, 1.0),)), 0, 5)
    for ours, theirs in zip(model.parameters(), dense.parameters(), strict=True):
        assert torch.equal(ours, theirs)
        assert torch.equal(ours.grad, theirs.grad)


def test_the_shallow_model_is_a_shallow_dense_one_bit_for_bit():
    model, dense = llama(layers=4), llama(layers=2)
    attach(model, adamw(model), schedule=((0.0, 0.5), (0.5, 1.0)))
    dense.load_state_dict(model.state_dict())
    assert torch.equal(logits(model), logits(dense))


@pytest.mark.parametrize("attention_bias", [False, True])
def test_zero_entry_changes_nothing_at_all(attention_bias):
    model = llama(attention_bias=attention_bias, mlp_bias=attention_bias)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.normal_()
    optimizer = adamw(model)
    controller = attach(model, optimizer, 20)
    train(model, optimizer, controller, 0, 16)
    before = logits(model)
    switch = controller.begin_step(16)
    assert (switch.entries, switch.exits, switch.returns, switch.active_units) == (3, 0, 0, 1.0)
    assert torch.equal(logits(model), before)
    first = model.model.layers[2].mlp.down_proj.weight
    train(model, optimizer, controller, 16, 18)
    assert first.any()


def test_nothing_moves_a_layer_that_is_out():
    model = llama()
    initial = snapshot(model)
    optimizer = adamw(model)
    controller = attach(model, optimizer, 60)
    held = dict(model.model.layers.named_parameters())
    train(model, optimizer, controller, 0, 45)
    now = sat.state_dict(model)
    for name, was in initial.items():
        outside = name.startswith(("model.layers.1.", "model.layers.2.", "model.layers.3."))
        assert torch.equal(now[name], was) == outside, name
    assert held
    assert len(optimizer.state) == sum(1 for _ in model.parameters())  # no state before a layer has been trained


def test_trained_layers_keep_their_optimizer_state_over_the_switch():
    model = llama()
    optimizer = adamw(model)
    controller = attach(model, optimizer, 20)
    train(model, optimizer, controller, 0, 16)
    before = {p: {k: v.clone() for k, v in s.items()} for p, s in optimizer.state.items()}
    controller.begin_step(16)
    assert set(optimizer.state) == set(before)
    assert all(torch.equal(optimizer.state[p][k], v) for p, s in before.items() for k, v in s.items())


def test_interleaved_copies_take_the_trained_layer_below():
    model = llama()
    optimizer = adamw(model)
    controller = attach(model, optimizer, 20, entry="interleaved", schedule=((0.0, 0.5), (0.5, 1.0)))
    assert controller.parts[0].active == (0, 2)
    assert layer_numbers(model) == [0, 1]
    train(model, optimizer, controller, 0, 10)
    controller.begin_step(10)
    layers = model.model.layers
    for copied, source in ((1, 0), (3, 2)):
        for ours, theirs in zip(layers[copied].parameters(), layers[source].parameters(), strict=True):
            assert torch.equal(ours, theirs)
            assert ours not in optimizer.state
    assert not torch.equal(layers[0].mlp.up_proj.weight, layers[2].mlp.up_proj.weight)


def test_stacked_copies_repeat_the_trained_block():
    model = llama()
    optimizer = adamw(model)
    controller = attach(model, optimizer, 20, entry="copy", schedule=((0.0, 0.5), (0.5, 1.0)))
    assert controller.parts[0].active == (0, 1)
    train(model, optimizer, controller, 0, 11)
    # one step later they differ; compare where the switch itself left them
    twin = llama()
    other = adamw(twin)
    controller = attach(twin, other, 20, entry="copy", schedule=((0.0, 0.5), (0.5, 1.0)))
    train(twin, other, controller, 0, 10)
    controller.begin_step(10)
    up = [layer.mlp.up_proj.weight for layer in twin.model.layers]
    assert torch.equal(up[2], up[0])
    assert torch.equal(up[3], up[1])
    assert not torch.equal(up[0], up[1])


def test_random_layers_are_drawn_by_the_seed():
    def active(seed):
        model = llama(layers=8)
        return attach(model, adamw(model), score="random", seed=seed, schedule=((0.0, 0.5), (0.5, 1.0))).parts[0].active

    assert active(1) == active(1)
    assert len({active(seed) for seed in range(6)}) > 3


def test_gate_probe_can_place_layers_too():
    model = llama()
    optimizer = adamw(model)
    controller = attach(model, optimizer, 20, score="gate_probe", schedule=((0.0, 0.5), (0.5, 1.0)))
    scores = controller.report().thresholds["model.layers"]
    assert scores > 0
    train(model, optimizer, controller, 0, 20)
    assert controller.report().probes == 1


def test_densify_early_completes_the_model_without_changing_its_function():
    model = llama()
    identities = {name: id(parameter) for name, parameter in model.named_parameters()}
    whole = model.model.layers
    optimizer = adamw(model)
    controller = attach(model, optimizer, 20)
    train(model, optimizer, controller, 0, 5)
    before = logits(model)
    sat.densify_(model)
    assert model.model.layers is whole
    assert {name: id(parameter) for name, parameter in model.named_parameters()} == identities
    assert torch.equal(logits(model), before)
    assert controller.report().entries == 4


def test_layers_that_come_in_follow_train_and_eval():
    model = llama(attention_dropout=0.1)
    optimizer = adamw(model)
    controller = attach(model, optimizer, 20)
    model.eval()
    controller.set_share(1.0)
    assert not any(module.training for module in model.modules())


def test_modules_kept_in_evaluation_mode_stay_so():
    """A frozen batch norm, say: only ``train()`` and ``eval()`` of the model are carried over."""
    model = llama()
    for layer in model.model.layers:
        layer.mlp.act_fn.eval()
    optimizer = adamw(model)
    controller = attach(model, optimizer, 20)
    sat.state_dict(model)
    train(model, optimizer, controller, 0, 17)
    assert not any(layer.mlp.act_fn.training for layer in model.model.layers)


def test_a_cache_works_on_the_shallow_model():
    model = llama()
    attach(model, adamw(model), score="random", seed=3, schedule=((0.0, 0.5), (0.5, 1.0)))
    model.eval()
    plain = model(input_ids=tokens(1), use_cache=False).logits
    cached = model(input_ids=tokens(1)[:, :4], use_cache=True)
    rest = model(input_ids=tokens(1)[:, 4:], use_cache=True, past_key_values=cached.past_key_values).logits
    torch.testing.assert_close(rest, plain[:, 4:], rtol=1e-4, atol=1e-5)


def test_another_model_of_the_same_configuration_keeps_its_layers():
    model = llama()
    teacher = type(model)(model.config)
    before = logits(teacher)
    attach(model, adamw(model), 20)
    assert len(model.model.layers) == model.config.num_hidden_layers == model.model.config.num_hidden_layers == 1
    assert torch.equal(logits(teacher), before)


def test_layer_types_follow_the_layers():
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=50, hidden_size=32, intermediate_size=64, num_hidden_layers=4, num_attention_heads=4,
        num_key_value_heads=2, head_dim=8, use_sliding_window=True, sliding_window=4, max_window_layers=2,
        use_cache=False,
    )  # fmt: skip
    model = Qwen3ForCausalLM(config)
    whole = list(model.config.layer_types)
    assert len(set(whole)) == 2
    controller = attach(model, adamw(model), entry="interleaved", schedule=((0.0, 0.5), (0.5, 1.0)))
    assert model.config.layer_types == [whole[0], whole[2]]
    assert logits(model).shape == (2, 8, 50)
    controller.set_share(1.0)
    assert model.config.layer_types == whole
