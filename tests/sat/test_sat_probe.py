"""Probes: equal to finite differences, and nobody notices them."""

from __future__ import annotations

import copy
from contextlib import ExitStack

import pytest
import torch
from sat_models import adamw, attach, llama, loss_of, steep, tokens, train
from torch import nn

import sat
from sat.score import gate_probe


def double_llama():
    """Double precision throughout: transformers' own norm and loss go through fp32, too coarse to differentiate."""
    model = llama(layers=3)
    for layer in model.model.layers:
        layer.input_layernorm = nn.RMSNorm(32, eps=1e-6)
        layer.post_attention_layernorm = nn.RMSNorm(32, eps=1e-6)
    model.model.norm = nn.RMSNorm(32, eps=1e-6)
    model.double()

    def loss(index):
        ids = tokens(1000 + index)
        logits = model(input_ids=ids).logits
        return nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())

    return model, loss


def losses_with_gate(controller, part, unit, value, loss, batches):
    """The probe losses where one gate has ``value`` and the others their operating point; no autograd."""
    handles = []
    with torch.no_grad():
        for each in controller.parts:
            gates = torch.tensor([float(u in each.active) for u in range(each.units)], dtype=torch.float64)
            if each is part:
                gates[unit] = value
            handles += each.gated(gates)
        losses = [loss(index).item() for index in range(batches)]
    for handle in handles:
        handle.remove()
    return losses


@pytest.mark.parametrize("axis", ["width", "depth"])
def test_gate_gradients_equal_finite_differences(axis):
    model, loss = double_llama()
    optimizer = adamw(model)
    config = sat.SATConfig(axis=axis, score="gate_probe", schedule=((0.0, 0.5),), regime="persistent", probe_batches=2)
    controller = sat.sparsify_(model, optimizer, config, total_steps=40, loss=lambda index: loss(index % 2))
    train(model, optimizer, controller, 0, 3)
    found = controller.probe()
    step = 1e-4
    checked = 0
    with ExitStack() as stack:
        for part in controller.parts:
            stack.enter_context(part.full())
        for part, unit in [(each, unit) for each in controller.parts for unit in range(each.units)]:
            at = float(unit in part.active)
            up = losses_with_gate(controller, part, unit, at + step, loss, 2)
            down = losses_with_gate(controller, part, unit, at - step, loss, 2)
            slopes = [(u - d) / (2 * step) for u, d in zip(up, down, strict=True)]
            mean, square = sum(slopes) / 2, sum(s * s for s in slopes) / 2
            assert found[part.name].gradient[unit].item() == pytest.approx(mean, rel=1e-4, abs=1e-8)
            assert found[part.name].score[unit].item() == pytest.approx(square, rel=1e-4, abs=1e-12)
            checked += unit not in part.active
    assert checked


def test_an_active_units_gate_gradient_is_its_product_of_output_weight_and_gradient():
    model = llama()
    controller = attach(model, adamw(model), start=False, axis="width")
    part = controller.parts[1]
    found = gate_probe(model, controller.parts, {p.name: [1.0] * p.units for p in controller.parts}, loss_of(model), 1)
    loss_of(model)(0).backward()
    weight = part.site.gates[0].module.weight
    products = (weight * weight.grad).unflatten(1, (part.units, -1)).sum((0, 2))
    torch.testing.assert_close(found[part.name].gradient, products.detach(), rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize(
    "settings",
    [
        {"axis": "width"},
        {"axis": "depth", "score": "gate_probe"},
        {"mode": "freeze"},
        {"mode": "freeze", "score": "gate_probe"},
    ],
)
def test_a_probe_leaves_no_trace(settings):
    model = llama(attention_dropout=0.2)
    optimizer = adamw(model)
    more = {} if settings.get("mode") == "freeze" else {"schedule": ((0.0, 0.4), (0.9, 1.0))}
    controller = attach(model, optimizer, 100, **more, **settings)
    train(model, optimizer, controller, 0, 6)
    loss_of(model)(0).backward()
    names = [name for name, _ in model.named_parameters()]
    before = {
        name: (
            p,
            p.data_ptr(),
            p._version,
            p.detach().clone(),
            p.requires_grad,
            None if p.grad is None else p.grad.clone(),
        )
        for name, p in model.named_parameters()
    }
    states = copy.deepcopy(optimizer.state_dict())
    generator = torch.get_rng_state()
    hooks = sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())
    progress = controller.progress()
    assert controller.probe()
    assert [name for name, _ in model.named_parameters()] == names
    for name, (parameter, address, version, weight, flag, gradient) in before.items():
        now = model.get_parameter(name)
        assert now is parameter
        assert (now.data_ptr(), now._version, now.requires_grad) == (address, version, flag)
        assert torch.equal(now, weight)
        assert (now.grad is None and gradient is None) or torch.equal(now.grad, gradient)
    after = optimizer.state_dict()
    assert after["param_groups"] == states["param_groups"]
    for key, state in states["state"].items():
        assert all(torch.equal(after["state"][key][k], v) for k, v in state.items())
    assert torch.equal(torch.get_rng_state(), generator)
    assert sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()) == hooks
    assert controller.progress() == progress


def test_a_probe_that_fails_leaves_no_trace_either():
    model = llama()
    optimizer = adamw(model)
    controller = attach(model, optimizer, 20, axis="width")
    shape = model.model.layers[0].mlp.up_proj.weight.shape
    hooks = [list(m._forward_pre_hooks) for m in model.modules()]

    def broken(index):
        model(input_ids=tokens(0))
        raise RuntimeError("data ran out")

    controller._loss = broken
    with pytest.raises(RuntimeError, match="data ran out"):
        controller.probe()
    assert model.model.layers[0].mlp.up_proj.weight.shape == shape
    assert all(p.requires_grad for p in model.parameters())
    assert [list(m._forward_pre_hooks) for m in model.modules()] == hooks


def test_each_probe_sees_data_of_its_own():
    model = llama()
    asked = []

    def loss(index):
        asked.append(index)
        return loss_of(model)(index)

    optimizer = adamw(model)
    config = steep(axis="width", probe_batches=3)
    controller = sat.sparsify_(model, optimizer, config, total_steps=20, loss=loss)
    train(model, optimizer, controller, 0, 13)  # the second growth is at three fifths of 20 steps
    assert asked == [0, 1, 2, 3, 4, 5]


def test_a_missing_or_useless_probe_loss_is_a_clear_error():
    model = llama()
    config = steep(axis="width")
    with pytest.raises(ValueError, match="score 'gate_probe' probes the model: give sparsify_ a loss"):
        sat.sparsify_(model, adamw(model), config, total_steps=10)
    with pytest.raises(ValueError, match="the probe loss has no gradient"):
        sat.sparsify_(model, adamw(model), config, total_steps=10, loss=lambda i: torch.zeros(()))
    with pytest.raises(ValueError, match="the probe loss has no gradient"):
        sat.sparsify_(model, adamw(model), config, total_steps=10, loss=lambda i: loss_of(model)(i).item())
    with pytest.raises(ValueError, match=r"loss must be a callable .* not Tensor"):
        sat.sparsify_(model, adamw(model), config, total_steps=10, loss=torch.zeros(()))
    with pytest.raises(ValueError, match=r"takes a sat\.SATConfig .* not dict"):
        sat.sparsify_(model, adamw(model), {"axis": "width"}, total_steps=10, loss=loss_of(model))
    sat.sparsify_(model, adamw(model), config, total_steps=10, loss=loss_of(model))  # nothing was left behind


def test_scores_that_are_no_numbers_are_an_error():
    model = llama()
    config = steep(axis="width")
    with pytest.raises(ValueError, match=r"scores of model\.layers\.0\.self_attn before step 0 are not finite"):
        sat.sparsify_(model, adamw(model), config, total_steps=10, loss=lambda i: loss_of(model)(i) * float("nan"))


def test_reentrant_checkpoints_hide_the_units_from_a_probe():
    model = llama().train()
    model.gradient_checkpointing_enable({"use_reentrant": True})
    with pytest.raises(ValueError, match="use_reentrant=False"):
        attach(model, adamw(model), axis="width")


def test_units_that_matter_score_higher():
    """A planted difference: units whose output projection is tiny matter little, and are not chosen."""
    model = llama()
    with torch.no_grad():
        for layer in model.model.layers:
            layer.mlp.down_proj.weight[:, :32] *= 1e-3
    controller = attach(model, adamw(model), axis="width", schedule=((0.0, 0.5), (0.5, 1.0)))
    assert all(part.active == (4, 5, 6, 7) for part in controller.parts if part.name.endswith("mlp"))


def test_magnitude_scores_take_the_heaviest():
    model = llama()
    with torch.no_grad():
        for layer in model.model.layers:
            layer.mlp.up_proj.weight[16:32] *= 3
            layer.self_attn.k_proj.weight[8:] *= 3
    controller = attach(model, adamw(model), axis="width", score="magnitude", schedule=((0.0, 0.25), (0.5, 1.0)))
    for part in controller.parts:
        assert part.active == ((2, 3) if part.name.endswith("mlp") else (1,))


def test_taylor_scores_are_a_moving_average_of_squared_products():
    model = llama()
    optimizer = adamw(model)
    controller = attach(
        model,
        optimizer,
        40,
        axis="width",
        score="taylor",
        observe_every=2,
        smoothing=0.5,
        schedule=((0.0, 0.5), (0.9, 1.0)),
    )
    part = controller.parts[1]
    seen = []
    for step in range(4):
        optimizer.zero_grad()
        loss_of(model)(step).backward()
        products = [
            sum(
                float(
                    (cut.tensor.detach() * cut.tensor.grad).unflatten(cut.dim, (-1, cut.size)).select(cut.dim, at).sum()
                )
                for cut in part.site.cuts
            )
            for at in range(len(part.active))
        ]
        if step % 2 == 0:
            seen.append(products)
        optimizer.step()  # observed by its pre-hook, before the weights move
        controller.step()
    expected = [0.5 * first**2 + 0.5 * second**2 for first, second in zip(*seen, strict=True)]
    scores = controller.progress()["parts"][part.name]["score"]
    assert [scores[unit] for unit in part.active] == pytest.approx(expected, rel=1e-3)
    assert all(scores[unit] == 0 for unit in range(part.units) if unit not in part.active)
