"""Compact execution along the width, against the plain model and against a masked one."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sat_models import adamw, attach, llama, loss_of, snapshot, tokens, train

import sat
from sat.parts import CompactSite

SHARED = llama(layers=1)
GROWING = {"axis": "width", "schedule": ((0.0, 0.3), (0.5, 1.0))}


def masked_oracle(model, controller):
    """A plain model in which the output projections of inactive units are zero."""
    oracle = llama(layers=len(model.model.layers), kv_heads=model.config.num_key_value_heads)
    oracle.load_state_dict(sat.state_dict(model))
    inactive = {}
    for part in controller.parts:
        for cut in part.site.cuts:
            mask = torch.zeros(part.units, dtype=torch.bool)
            mask[list(part.active)] = True
            inactive[cut.name] = (cut, mask.repeat_interleave(cut.size))
            if cut.output:
                with torch.no_grad():
                    oracle.get_parameter(cut.name)[:, ~inactive[cut.name][1]] = 0
    return oracle, inactive


def backward(model, seed=7):
    model.zero_grad()
    output = model(input_ids=tokens(seed), labels=tokens(seed))
    output.loss.backward()
    return output.logits


@pytest.mark.parametrize("kv_heads", [2, 4])
@pytest.mark.parametrize("share", [0.17, 0.5, 0.8])
def test_the_compact_model_equals_a_masked_full_one(kv_heads, share):
    model = llama(kv_heads=kv_heads)
    controller = attach(model, adamw(model), axis="width", schedule=((0.0, share),), regime="persistent")
    oracle, masks = masked_oracle(model, controller)
    torch.testing.assert_close(backward(model), backward(oracle), rtol=1e-5, atol=1e-6)
    checked = 0
    for name, parameter in model.named_parameters():
        expected = oracle.get_parameter(name).grad
        if name in masks:
            cut, mask = masks[name]
            expected = expected[mask] if cut.dim == 0 else expected[:, mask]
            checked += expected.numel() < oracle.get_parameter(name).numel()
        torch.testing.assert_close(parameter.grad, expected, rtol=1e-4, atol=1e-6)
    assert checked > 0


def test_counts_sizes_and_layout_follow_the_share():
    model = llama(mlp=96, kv_heads=4)
    attach(model, adamw(model), axis="width", schedule=((0.0, 0.5),), regime="persistent")
    mlp, attention = model.model.layers[1].mlp, model.model.layers[1].self_attn
    assert sat.mlp_units(96) == (16, 6)
    assert (mlp.up_proj.out_features, mlp.down_proj.in_features) == (48, 48)
    assert tuple(mlp.gate_proj.weight.shape) == (48, 32)
    assert tuple(mlp.down_proj.weight.shape) == (32, 48)
    assert (attention.q_proj.out_features, attention.k_proj.out_features, attention.o_proj.in_features) == (16, 16, 16)
    assert all(p.is_contiguous() and p.is_leaf for p in model.parameters())


def test_a_fully_active_model_is_the_dense_one_bit_for_bit():
    dense, model = llama(), llama()
    dense_optimizer, optimizer = adamw(dense), adamw(model)
    controller = attach(model, optimizer, axis="width", schedule=((0.0, 1.0),))
    assert train(dense, dense_optimizer, None, 0, 5) == train(model, optimizer, controller, 0, 5)
    assert torch.equal(backward(dense), backward(model))
    for ours, theirs in zip(model.parameters(), dense.parameters(), strict=True):
        assert torch.equal(ours, theirs)
        assert torch.equal(ours.grad, theirs.grad)


def test_shrinking_and_growing_back_is_the_identity():
    """Full again after a switch, nothing trained between: outputs and gradients are those of before."""
    dense, model = llama(), llama()
    controller = attach(model, adamw(model), start=False, **GROWING)
    for part in controller.parts:
        part.switch(tuple(range(part.units // 2)))
        part.switch(tuple(range(part.units)))
    assert torch.equal(backward(dense), backward(model))
    for ours, theirs in zip(model.parameters(), dense.parameters(), strict=True):
        assert torch.equal(ours, theirs)
        assert torch.equal(ours.grad, theirs.grad)


def test_entry_changes_nothing_and_then_learns():
    model = llama()
    optimizer = adamw(model)
    controller = attach(model, optimizer, 20, **GROWING)
    train(model, optimizer, controller, 0, 10)
    before = model(input_ids=tokens(5)).logits
    switch = controller.begin_step(10)
    assert (switch.exits, switch.returns) == (0, 0)
    assert switch.entries > 0
    torch.testing.assert_close(model(input_ids=tokens(5)).logits, before, rtol=0, atol=1e-6)
    fresh = controller.parts[1]
    out = fresh.site.gates[0].module.weight
    entered = [u for u in range(fresh.units) if not out[:, u * 8 : u * 8 + 8].any()]
    assert len(entered) == fresh.units - sat.units_kept(fresh.units, 0.3)
    train(model, optimizer, controller, 10, 12)
    assert all(out[:, u * 8 : u * 8 + 8].any() for u in entered)


def test_random_entry_does_change_the_output():
    model = llama()
    optimizer = adamw(model)
    controller = attach(model, optimizer, 20, entry="random", **GROWING)
    train(model, optimizer, controller, 0, 10)
    before = model(input_ids=tokens(5)).logits
    controller.begin_step(10)
    assert (model(input_ids=tokens(5)).logits - before).abs().max() > 1e-4


def test_nothing_moves_an_inactive_unit():
    model = llama()
    initial = snapshot(model)
    optimizer = adamw(model)
    controller = attach(model, optimizer, 60, **GROWING)
    train(model, optimizer, controller, 0, 30)
    now = sat.state_dict(model)
    moved = 0
    for part in controller.parts:
        outside = [unit for unit in range(part.units) if unit not in part.active]
        assert outside
        for cut in part.site.cuts:
            was, is_ = (t[cut.name].unflatten(cut.dim, (part.units, cut.size)) for t in (initial, now))
            for unit in range(part.units):
                same = torch.equal(was.select(cut.dim, unit), is_.select(cut.dim, unit))
                assert same == (unit in outside)
                moved += not same
    assert moved


@pytest.mark.parametrize(
    "make",
    [
        lambda p: torch.optim.AdamW(p, lr=3e-3, amsgrad=True),
        lambda p: torch.optim.AdamW(p, lr=3e-3, fused=True),
        lambda p: torch.optim.SGD(p, lr=1e-2, momentum=0.9),
        lambda p: torch.optim.RMSprop(p, lr=1e-3),
    ],
)
def test_optimizer_state_of_units_that_stay_survives_exactly_and_fresh_ones_start_afresh(make):
    model = llama()
    optimizer = make(model.parameters())
    controller = attach(model, optimizer, 20, entry_moment="mean", **GROWING)
    train(model, optimizer, controller, 0, 10)
    part = controller.parts[1]
    stayed = part.active
    weights = list(part.site.cuts)
    before = {
        cut.name: {k: v.clone() for k, v in optimizer.state[cut.tensor].items() if torch.is_tensor(v)}
        for cut in weights
    }
    controller.begin_step(10)
    cut_states = 0
    for cut in weights:
        for key, value in optimizer.state[cut.tensor].items():
            old = before[cut.name].get(key)
            if old is None or old.numel() == 1:
                assert old is None or torch.equal(value, old)
                continue
            assert value.shape == cut.tensor.shape
            blocks = value.unflatten(cut.dim, (-1, cut.size))
            was = old.unflatten(cut.dim, (-1, cut.size))
            for unit in range(part.units):
                block = blocks.select(cut.dim, unit)
                fresh = was.mean(cut.dim) if key.endswith(("_sq", "square_avg")) else torch.zeros_like(block)
                expected = was.select(cut.dim, stayed.index(unit)) if unit in stayed else fresh
                torch.testing.assert_close(block, expected, rtol=0 if unit in stayed else 1e-6, atol=0)
                cut_states += 1
    assert cut_states


def test_a_unit_that_left_finds_its_weights_and_state_again():
    model = llama()
    optimizer = adamw(model)
    part = CompactSite(sat_site(model), optimizer)
    part.switch((0, 1, 2))
    one_step(model, optimizer)
    cut = part.site.cuts[0]
    weight, moment = cut.tensor.detach().clone(), optimizer.state[cut.tensor]["exp_avg"].clone()
    address = cut.tensor.data_ptr()
    part.switch((0, 4, 5))
    assert cut.tensor.data_ptr() == address  # constant count: in place
    assert not optimizer.state[cut.tensor]["exp_avg"][8:].any()
    one_step(model, optimizer)
    part.switch((1, 2, 7))
    assert torch.equal(cut.tensor[:16], weight[8:])
    assert torch.equal(optimizer.state[cut.tensor]["exp_avg"][:16], moment[8:])


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.sets(st.integers(0, 7), min_size=1), st.sets(st.integers(0, 7))), min_size=1, max_size=8))
def test_any_sequence_of_switches_trains_each_unit_exactly_while_it_is_active(sequence):
    """Oracle: the full tensors, in which training adds to the blocks of active units only."""
    model = SHARED
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    one_step(model, optimizer)
    part = CompactSite(sat_site(model), optimizer)
    with part.full():
        weights = [cut.tensor.detach().clone() for cut in part.site.cuts]
        moments = [optimizer.state[cut.tensor]["exp_avg"].clone() for cut in part.site.cuts]
    for chosen, zeroed in [*sequence, (set(range(8)), set())]:
        active = tuple(sorted(chosen))
        fresh = sorted(zeroed & chosen)
        part.switch(active, fresh)
        for cut, weight, moment in zip(part.site.cuts, weights, moments, strict=True):
            if cut.output and fresh:
                weight.unflatten(cut.dim, (8, cut.size)).index_fill_(cut.dim, torch.tensor(fresh), 0.0)
            with torch.no_grad():
                cut.tensor.add_(1.0)
            optimizer.state[cut.tensor]["exp_avg"].add_(0.5)
            for full, amount in ((weight, 1.0), (moment, 0.5)):
                blocks = full.unflatten(cut.dim, (8, cut.size))
                for unit in active:
                    blocks.select(cut.dim, unit).add_(amount)
        with part.full():
            for cut, weight, moment in zip(part.site.cuts, weights, moments, strict=True):
                assert torch.equal(cut.tensor, weight)
                assert torch.equal(optimizer.state[cut.tensor]["exp_avg"], moment)


def test_a_bank_apart_from_the_parameters_gives_the_same_training(monkeypatch):
    """``bank="host"`` keeps the bank in other memory; a copy on the same device stands in for it here."""
    runs = []
    for apart in (False, True):
        if apart:
            monkeypatch.setattr(CompactSite, "_home", lambda self, tensor: tensor.clone())
            monkeypatch.setattr(CompactSite, "_present", lambda self, tensor, parameter: tensor.clone())
        model = llama()
        optimizer = adamw(model)
        controller = attach(
            model,
            optimizer,
            16,
            axis="width",
            bank="host",
            regime="rotating",
            interval=3,
            schedule=((0.0, 0.4), (0.5, 0.6)),
        )
        losses = train(model, optimizer, controller, 0, 16)
        runs.append((losses, sat.densify_(model).state_dict()))
    assert runs[0][0] == runs[1][0]
    assert all(torch.equal(runs[1][1][name], value) for name, value in runs[0][1].items())


def sat_site(model):
    from sat.families import find_structure

    return find_structure(model).parts[1]


def one_step(model, optimizer):
    optimizer.zero_grad()
    loss_of(model)(0).backward()
    optimizer.step()


def test_a_graph_kept_alive_over_a_switch_does_no_harm():
    """A loop's ``loss`` often outlives the step; its gradient accumulators remember the old shapes."""
    model = llama()
    optimizer = adamw(model)
    controller = attach(model, optimizer, 4, **GROWING)
    kept = []
    for _ in range(4):
        optimizer.zero_grad()
        kept.append(loss_of(model)(0))
        kept[-1].backward()
        optimizer.step()
        controller.step()
    assert controller.report().active_units == 1.0


def test_biases_are_cut_with_their_units():
    model = llama(attention_bias=True, mlp_bias=True)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.normal_()
    initial = {name: value.clone() for name, value in model.state_dict().items()}
    attach(model, adamw(model), axis="width", schedule=((0.0, 0.5),), regime="persistent")
    layer = model.model.layers[0]
    assert layer.mlp.up_proj.bias.shape == (32,)
    assert layer.self_attn.k_proj.bias.shape == (8,)
    assert layer.mlp.down_proj.bias.shape == (32,)  # writes to the stream: always whole
    assert all(torch.equal(value, initial[name]) for name, value in sat.state_dict(model).items())


def test_densify_restores_parameters_names_shapes_and_weights():
    model = llama()
    identities = {name: id(parameter) for name, parameter in model.named_parameters()}
    shapes = {name: value.shape for name, value in model.state_dict().items()}
    optimizer = adamw(model)
    controller = attach(model, optimizer, 20, **GROWING)
    train(model, optimizer, controller, 0, 5)
    compact = model(input_ids=tokens(1)).logits
    trained = sat.state_dict(model)
    assert sat.densify_(model) is model
    assert {name: id(parameter) for name, parameter in model.named_parameters()} == identities
    assert {name: value.shape for name, value in model.state_dict().items()} == shapes
    torch.testing.assert_close(model(input_ids=tokens(1)).logits, compact, rtol=0, atol=1e-6)
    for part in controller.parts:
        for cut in (cut for cut in part.site.cuts if not cut.output):
            assert torch.equal(model.get_parameter(cut.name), trained[cut.name])
    assert train(model, optimizer, None, 5, 8)
    assert model.model.layers[0].mlp.up_proj.out_features == 64
    with pytest.raises(ValueError, match="LlamaForCausalLM is not sparsified"):
        sat.densify_(model)


def test_a_persistent_model_ends_as_its_active_part():
    model = llama()
    optimizer = adamw(model)
    controller = attach(model, optimizer, 12, axis="width", schedule=((0.0, 0.4),), regime="persistent", interval=3)
    train(model, optimizer, controller, 0, 12)
    compact = model(input_ids=tokens(1)).logits
    sat.densify_(model)
    torch.testing.assert_close(model(input_ids=tokens(1)).logits, compact, rtol=0, atol=1e-6)


def test_a_rotating_model_ends_scaled_and_untrained_units_are_silent():
    model = llama()
    optimizer = adamw(model)
    settings = {"axis": "width", "schedule": ((0.0, 0.4),), "regime": "rotating", "interval": 2, "hysteresis": 0.0}
    controller = attach(model, optimizer, 12, ramp_steps=0, **settings)
    train(model, optimizer, controller, 0, 12)
    report = controller.report()
    assert report.exits > 0
    before = sat.state_dict(model)
    sat.densify_(model)
    part = controller.parts[1]
    cut = part.site.cuts[-1]
    kept = sat.units_kept(part.units, 0.4) / part.units
    for unit in range(part.units):
        columns = slice(unit * cut.size, (unit + 1) * cut.size)
        factor = 0.0 if unit in report.never_trained[part.name] else kept
        expected = before[cut.name][:, columns] * factor
        torch.testing.assert_close(model.get_parameter(cut.name)[:, columns], expected, rtol=1e-6, atol=0)


def test_returning_units_ramp_up():
    model = llama(layers=1)
    optimizer = adamw(model)
    controller = attach(model, optimizer, 40, axis="width", schedule=((0.0, 0.5),), regime="rotating", ramp_steps=4)
    part = controller.parts[1]
    gone = part.active[0]
    part.switch(tuple(sorted({*range(part.units)} - {*part.active}))[:4])
    part.switch(tuple(sorted({gone, *part.active[:3]})))
    controller.ramp.start(part, [gone], torch.device("cpu"))
    at = part.active.index(gone)
    seen = []
    probe = part.site.gates[0].module.register_forward_hook(
        lambda m, args, out: seen.append(args[0][..., at * 8 : at * 8 + 8])
    )
    for step in range(5):
        model(input_ids=tokens(0))
        with controller.ramp.suspended(controller.parts):
            model(input_ids=tokens(0))
        gated, plain = seen[-2], seen[-1]
        torch.testing.assert_close(gated, plain * min(1.0, (step + 1) / 4))
        controller.end_step(step)
    probe.remove()


def test_gradient_checkpointing_gives_the_same_training():
    runs = []
    for checkpointing in (False, True):
        model = llama()
        if checkpointing:
            model.gradient_checkpointing_enable()
        optimizer = adamw(model)
        controller = attach(model, optimizer, 12, **GROWING)
        runs.append(train(model, optimizer, controller, 0, 12))
    assert runs[0] == pytest.approx(runs[1], abs=1e-6)


def test_layers_compiled_in_place_train_the_same_and_their_probes_see_the_gates():
    runs, graphs = [], []
    for compiled in (False, True):
        model = llama(layers=2)
        if compiled:
            torch._dynamo.reset()
            for layer in model.model.layers:
                layer.compile(backend=lambda graph, inputs: graphs.append(graph) or graph.forward)
        optimizer = adamw(model)
        controller = attach(model, optimizer, 8, **GROWING)
        runs.append((train(model, optimizer, controller, 0, 8), controller.report()))
    assert graphs  # not eager all along
    assert runs[0] == runs[1]
    assert all(threshold > 0 for threshold in runs[1][1].thresholds.values())


def test_deep_copies_are_independent():
    model = llama()
    optimizer = adamw(model)
    attach(model, optimizer, 12, **GROWING)
    twin = copy.deepcopy(model)
    sat.densify_(twin)
    assert model.model.layers[0].mlp.up_proj.out_features < 64 == twin.model.layers[0].mlp.up_proj.out_features
