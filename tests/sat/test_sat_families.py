"""Every family under every mode: one table of models (``sat_families.py``), one set of promises."""

from __future__ import annotations

import copy
import io
from contextlib import nullcontext

import pytest
import torch
from sat_families import FAMILIES, Family
from sat_models import adamw, steep
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import PreTrainedModel

import sat

STEPS = 6
ARMS = {
    "depth": {"axis": "depth", "schedule": ((0.0, 0.3), (0.5, 1.0)), "ramp_steps": 3},
    "width": {"axis": "width", "schedule": ((0.0, 0.3), (0.5, 1.0)), "probe_batches": 1},
    "freeze": {"mode": "freeze", "schedule": ((0.0, 0.4),), "interval": 3, "probe_batches": 1},
    "backward_drop": {"mode": "backward_drop", "schedule": ((0.0, 0.4),), "interval": 3, "probe_batches": 1},
    "prefix": {"mode": "prefix", "schedule": ((0.0, 0.4), (0.5, 0.2))},
}

every_family = pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
every_kind = pytest.mark.parametrize(  # relatives differ in what the tests of every family look at
    "family", [family for family in FAMILIES.values() if not family.relative], ids=lambda family: family.name
)
every_family_and_arm = pytest.mark.parametrize(
    ("family", "arm"),
    [
        (family, arm)
        for family in FAMILIES.values()
        for arm in ARMS
        if (arm == "width" or not family.relative) and (arm != "prefix" or family.chain)
    ],
    ids=lambda value: value if isinstance(value, str) else value.name,
)
every_kind_and_arm = pytest.mark.parametrize(
    ("family", "arm"),
    [
        (family, arm)
        for family in FAMILIES.values()
        for arm in ARMS
        if not family.relative and (arm != "prefix" or family.chain)
    ],
    ids=lambda value: value if isinstance(value, str) else value.name,
)


def attach(family: Family, model: nn.Module, optimizer, *, start: bool = True, total_steps: int = STEPS, **settings):
    return sat.sparsify_(
        model,
        optimizer,
        steep(**settings),
        total_steps=total_steps,
        loss=lambda index: family.loss(model, 1000 + index),
        start=start,
    )


def train(family: Family, model, optimizer, controller, first: int, last: int, autocast: bool = False) -> list[float]:
    losses = []
    for step in range(first, last):
        controller.begin_step(step)
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16) if autocast else nullcontext():
            loss = family.loss(model, step)
        loss.backward()
        controller.before_optimizer(step)
        optimizer.step()
        controller.end_step(step)
        losses.append(loss.item())
    return losses


def shapes(model: nn.Module) -> dict[str, torch.Size]:
    return {name: value.shape for name, value in model.state_dict().items()}


def through_disk(state):
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def same(ours, theirs) -> bool:
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in theirs)


@every_family_and_arm
def test_it_trains_enters_unseen_resumes_exactly_and_ends_plain(family, arm):
    model = family.make()
    plain, dense_outputs = shapes(model), family.outputs(model)
    optimizer = adamw(model)
    controller = attach(family, model, optimizer, start=False, **ARMS[arm])
    losses = train(family, model, optimizer, controller, 0, STEPS // 2)
    assert controller.report().active_units < 0.6
    assert {name: value.shape for name, value in sat.state_dict(model).items()} == plain
    state = through_disk(controller.state_dict())
    before = family.outputs(model)
    assert not torch.allclose(before, dense_outputs)
    switch = controller.begin_step(STEPS // 2)
    if arm not in {"depth", "width"}:
        assert switch.active_units < 0.6
    else:
        assert switch.active_units == 1.0
        assert switch.entries
    torch.testing.assert_close(family.outputs(model), before, rtol=1e-5 if arm == "width" else 0, atol=1e-6)
    losses += train(family, model, optimizer, controller, STEPS // 2, STEPS)

    second = family.make(seed=9)  # other weights: all must come from the state
    other = adamw(second)
    resumed = attach(family, second, other, start=False, **ARMS[arm])
    resumed.load_state_dict(state)
    assert train(family, second, other, resumed, STEPS // 2, STEPS) == losses[STEPS // 2 :]
    assert same(sat.state_dict(second), sat.state_dict(model))

    after = family.outputs(model)
    assert sat.densify_(model) is model
    assert shapes(model) == plain
    torch.testing.assert_close(family.outputs(model), after, rtol=0, atol=0)  # all is in, no gate is left


def masked(family: Family, model: nn.Module, controller) -> nn.Module:
    """The plain model with the output columns of inactive units at zero."""
    oracle = family.make(seed=5)
    oracle.load_state_dict(sat.state_dict(model))
    tensors = {**dict(oracle.named_parameters()), **dict(oracle.named_buffers())}
    with torch.no_grad():
        for part in controller.parts:
            inactive = [unit for unit in range(part.units) if unit not in part.active]
            for cut in part.site.cuts:
                if cut.output:
                    tensors[cut.name].index_fill_(cut.dim, rows(cut, inactive, part.units), 0.0)
    return oracle


def rows(cut: sat.Cut, units, number: int) -> torch.Tensor:
    """Indices of the units' rows, spelled out."""
    found, start = [], 0
    for size in cut.sizes:
        found += [start + unit * size + at for unit in units for at in range(size)]
        start += number * size
    return torch.tensor(found, dtype=torch.long)


@pytest.mark.parametrize("share", [0.3, 0.75])
@every_family
def test_the_compact_step_is_the_masked_dense_step(family, share):
    model = family.make()
    settings = {**ARMS["width"], "schedule": ((0.0, share), (0.5, 1.0)), "score": "random"}
    controller = attach(family, model, adamw(model), **settings)
    oracle = masked(family, model, controller)
    ours, theirs = family.loss(model, 3), family.loss(oracle, 3)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
    ours.backward()
    theirs.backward()
    cuts: dict[str, list] = {}
    for part in controller.parts:
        for cut in part.site.cuts:
            cuts.setdefault(cut.name, []).append((cut, part))
    compared = 0
    tensors = [(name, p.grad, oracle.get_parameter(name).grad) for name, p in model.named_parameters()]
    tensors += [(name, b, oracle.get_buffer(name)) for name, b in model.named_buffers()]  # running statistics
    for name, value, expected in tensors:
        if expected is None:
            assert value is None
            continue
        for cut, part in cuts.get(name, []):
            kept = rows(cut, part.active, part.units)
            compared += len(kept) < expected.shape[cut.dim]
            expected = expected.index_select(cut.dim, kept)  # noqa: PLW2901
        torch.testing.assert_close(value, expected, rtol=1e-4, atol=2e-6, msg=lambda text, name=name: f"{name}: {text}")
    assert compared >= 4


@every_kind
def test_layers_that_are_out_are_layers_that_do_nothing(family):
    model = family.make()
    controller = attach(family, model, adamw(model), **ARMS["depth"])
    oracle = family.make(seed=5)
    oracle.load_state_dict(sat.state_dict(model))
    if family.post_norm:
        pytest.skip("no weights make a layer that normalises after the sum do nothing")
    for part, stack in zip(controller.parts, sat.families.find_structure(oracle).stacks, strict=True):
        for unit in set(range(part.units)) - set(part.active):
            for parameter in (p for module in stack.outputs[unit] for p in module.parameters(recurse=False)):
                nn.init.zeros_(parameter)
    assert torch.equal(family.outputs(model), family.outputs(oracle))


@pytest.mark.parametrize("arm", ["depth", "width"])
@every_kind
def test_save_pretrained_works_while_sat_is_on(family, arm, tmp_path):
    model = family.make()
    if not isinstance(model, PreTrainedModel):
        pytest.skip("not a model of transformers")
    optimizer = adamw(model)
    controller = attach(family, model, optimizer, **ARMS[arm])
    train(family, model, optimizer, controller, 0, 1)
    kept = shapes(model)
    model.save_pretrained(tmp_path)
    assert shapes(model) == kept  # and training can go on
    twin = copy.deepcopy(model)
    assert twin.save_pretrained.__self__.model is twin
    again = type(model).from_pretrained(tmp_path)
    assert same(again.state_dict(), sat.state_dict(model))
    wanted, ours = family.make().config.to_dict(), again.config.to_dict()
    for key in ("num_hidden_layers", "num_layers", "n_layer", "encoder_layers", "decoder_layers", "depths"):
        assert wanted.get(key) == ours.get(key)
    sat.densify_(model)
    assert model.save_pretrained.__func__ is PreTrainedModel.save_pretrained


@every_kind_and_arm
def test_gradient_checkpointing_gives_the_same_training(family, arm):
    if not getattr(family.make(), "supports_gradient_checkpointing", False):
        pytest.skip("the model has no checkpointing")
    runs = []
    for checkpointing in (False, True):
        model = family.make()
        if checkpointing:
            model.gradient_checkpointing_enable()
        optimizer = adamw(model)
        controller = attach(family, model, optimizer, total_steps=2, **ARMS[arm])
        runs.append(train(family, model, optimizer, controller, 0, 2))
    assert runs[0] == pytest.approx(runs[1], abs=1e-5)


PRODUCTS = ("mm", "addmm", "convolution", "convolution_backward")


def products(family: Family, model: nn.Module) -> int:
    """Counted FLOPs of a training step's products with weights; those of attention scores are batched, and apart."""
    with FlopCounterMode(display=False) as counter:
        family.loss(model, 0).backward()
    return sum(
        count for op, count in counter.get_flop_counts()["Global"].items() if str(op).partition(".")[2] in PRODUCTS
    )


def expected_products(family: Family, model: nn.Module, names: set[str]) -> dict[str, int]:
    """2 FLOPs per weight, position and product (three of them), by module, positions as seen in a forward pass."""
    found: dict[str, int] = {}

    def hook(name, module):
        def note(_, args, output):
            weight = module.weight
            features = weight.shape[0] if not hasattr(module, "nf") else module.nf
            found[name] = 6 * weight.numel() * (output.numel() // features)

        return module.register_forward_hook(note)

    handles = [
        hook(name, module)
        for name, module in model.named_modules()
        if f"{name}.weight" in names and module.weight.dim() > 1 and not isinstance(module, nn.Embedding)
    ]
    family.loss(model, 0)
    for handle in handles:
        handle.remove()
    return found


@every_kind
def test_counted_flops_fall_by_the_units_costs(family):
    dense = family.make()
    whole = products(family, dense)
    structure = sat.families.find_structure(dense)

    model = family.make()
    controller = attach(family, model, None, start=False, **ARMS["width"])
    names = {cut.name for site in structure.parts for cut in site.cuts}
    full = sum(expected_products(family, dense, names).values())
    controller.set_share(0.5)
    assert whole - products(family, model) == full - sum(expected_products(family, model, names).values()) > 0
    for site, part in zip(structure.parts, controller.parts, strict=True):
        weights = {id(cut.tensor): cut.tensor for cut in part.site.cuts if cut.multiplies}
        assert site.flops(len(part.active)) == 6 * sum(weight.numel() for weight in weights.values())

    model = family.make()
    controller = attach(family, model, None, start=False, **ARMS["depth"])
    controller.set_share(0.5)
    costs = expected_products(family, dense, set(dict(dense.named_parameters())))
    gone = [
        f"{part.name}.{unit}." for part in controller.parts for unit in range(part.units) if unit not in part.active
    ]
    saved = sum(cost for name, cost in costs.items() if name.startswith(tuple(gone)))
    assert whole - products(family, model) == saved > 0

    model = family.make()
    controller = attach(family, model, None, start=False, **ARMS["freeze"])
    controller.set_share(0.5)
    out = [f"{part.name}.{unit}." for part in controller.parts for unit in range(part.units) if unit not in part.active]
    weight_gradients = sum(cost for name, cost in costs.items() if name.startswith(tuple(out))) // 3
    assert whole - products(family, model) == weight_gradients > 0

    model = family.make()
    controller = attach(family, model, None, start=False, **ARMS["backward_drop"])
    controller.set_share(0.5)
    out = [f"{part.name}.{unit}." for part in controller.parts for unit in range(part.units) if unit not in part.active]
    backward = 2 * sum(cost for name, cost in costs.items() if name.startswith(tuple(out))) // 3
    assert whole - products(family, model) == backward > 0


@pytest.mark.parametrize(
    "family", [each for each in FAMILIES.values() if each.chain and not each.relative], ids=lambda each: each.name
)
def test_a_prefix_costs_what_freezing_by_hand_costs(family):
    model, oracle = family.make(), family.make()
    whole, costs = products(family, oracle), expected_products(family, oracle, set(dict(oracle.named_parameters())))
    controller = attach(family, model, None, start=False, **ARMS["prefix"])
    controller.set_share(0.5)
    (part,) = controller.parts
    frozen = {id(parameter) for parameter in part.frozen_parameters}
    names = {name for name, parameter in model.named_parameters() if id(parameter) in frozen}
    for name in names:
        oracle.get_parameter(name).requires_grad_(False)
    assert products(family, model) == products(family, oracle)
    layers = [name for name in costs if f"{name}.weight" in names and name.startswith(family.stacks)]
    assert layers
    assert whole - products(family, model) >= 2 * sum(costs[name] for name in layers) // 3


REGIMES = {
    "rotating, taylor": {"axis": "width", "regime": "rotating", "score": "taylor", "observe_every": 1},
    "rotating, gate_probe": {"axis": "depth", "regime": "rotating", "score": "gate_probe"},
    "rotating, random": {"axis": "depth", "regime": "rotating", "score": "random"},
    "persistent, magnitude": {"axis": "width", "regime": "persistent", "score": "magnitude"},
    "persistent, taylor": {"axis": "depth", "regime": "persistent", "score": "taylor", "observe_every": 1},
    "freeze, gate_probe": {"mode": "freeze", "regime": "persistent", "score": "gate_probe"},
    "backward_drop, gate_probe": {"mode": "backward_drop", "regime": "rotating", "score": "gate_probe"},
    "backward_drop, magnitude": {"mode": "backward_drop", "regime": "persistent", "score": "magnitude"},
    "prefix, order": {"mode": "prefix", "regime": "narrowing", "score": "order"},
}


@pytest.mark.parametrize(
    ("family", "regime"),
    [
        (family, regime)
        for family in FAMILIES.values()
        for regime in REGIMES
        if not family.relative and (family.chain or "prefix" not in regime)
    ],
    ids=lambda value: value if isinstance(value, str) else value.name,
)
def test_regimes_and_scores_in_bf16(family, regime):
    settings = {
        "schedule": ((0.0, 0.6),), "interval": 1, "probe_batches": 1, "ramp_steps": 2, "hysteresis": 0.0,
        "swap_share": 1.0, "swap_until": None, **REGIMES[regime],
    }  # fmt: skip
    model = family.make()
    optimizer = adamw(model)
    if family.post_norm and settings.get("axis") == "depth" and settings["regime"] == "persistent":
        with pytest.raises(ValueError, match=r"regime 'persistent' delivers .* normalise after the residual sum"):
            attach(family, model, optimizer, total_steps=3, **settings)
        return
    controller = attach(family, model, optimizer, total_steps=3, **settings)
    stacks = controller.structure.stacks
    assert tuple(stack.name for stack in stacks) == family.stacks
    assert [stack.pinned for stack in stacks] == [(0,) if at in family.pinned else () for at in range(len(stacks))]
    losses = []
    for step in range(3):
        losses += train(family, model, optimizer, controller, step, step + 1, autocast=True)
        if settings.get("axis") == "depth" or settings.get("mode") == "backward_drop":
            assert all(0 in controller.parts[stack].active for stack in family.pinned)
    assert 0 < controller.report().active_units < 1
    assert torch.tensor(losses).isfinite().all()
    assert all(parameter.dtype == torch.float32 for parameter in model.parameters())
    controller.ramp.stop()
    before = family.outputs(model)
    sat.densify_(model)
    if settings["regime"] == "persistent":  # the full model computes what the active part computes
        torch.testing.assert_close(family.outputs(model), before, rtol=1e-5, atol=1e-5)
    else:
        assert family.outputs(model).isfinite().all()


@every_kind
def test_a_probe_leaves_no_trace(family):
    """Not in running statistics either."""
    arms = {arm: ARMS[arm] for arm in ("width", "freeze", "backward_drop")}
    if family.chain:
        arms["prefix"] = {**ARMS["prefix"], "score": "taylor", "probe_batches": 1}
    for settings in arms.values():
        model = family.make()
        controller = attach(family, model, adamw(model), **settings)
        before = {name: value.clone() for name, value in model.state_dict().items()}
        assert controller.probe()
        assert same(model.state_dict(), before)


@pytest.mark.parametrize("entry", ["copy", "interleaved"])
@every_kind
def test_new_layers_can_be_copies_where_the_shapes_allow(family, entry):
    model = family.make()
    optimizer = adamw(model)
    settings = {"axis": "depth", "entry": entry, "schedule": ((0.0, 0.3), (0.5, 1.0))}
    if family.convolutional:
        with pytest.raises(
            ValueError, match=rf"entry '{entry}': layer 1 of .* can't be a copy of layer 0, .* shapes differ"
        ):
            attach(family, model, optimizer, **settings)
        return
    controller = attach(family, model, optimizer, **settings)
    train(family, model, optimizer, controller, 0, STEPS // 2)
    controller.begin_step(STEPS // 2)
    stack = sat.families.find_structure(model).stacks[-1]
    first, second = (dict(layer.named_parameters()) for layer in list(stack.layers)[:2])
    assert all(torch.equal(value, first[name]) for name, value in second.items())


@pytest.mark.parametrize("family", [FAMILIES["bert"], FAMILIES["marian"]], ids=lambda family: family.name)
def test_layers_that_normalise_after_the_sum_enter_by_a_gate(family):
    model = family.make()
    optimizer = adamw(model)
    with pytest.raises(ValueError, match=r"it enters by a gate that rises over ramp_steps, which is 1"):
        attach(family, model, optimizer, **{**ARMS["depth"], "ramp_steps": 1})
    controller = attach(family, model, optimizer, **ARMS["depth"])
    train(family, model, optimizer, controller, 0, 3)
    held = controller.parts[0].stack.layers
    controller.begin_step(3)
    hooks = [len(layer._forward_hooks) for layer in controller.parts[0].stack.layers]
    assert sum(hooks) == len(hooks) > 1
    assert len(held) == 1
    train(family, model, optimizer, controller, 3, 4)
    second = family.make(seed=9)  # the gate goes on rising after a resume
    other = adamw(second)
    resumed = attach(family, second, other, start=False, **ARMS["depth"])
    resumed.load_state_dict(through_disk(controller.state_dict()))
    losses = train(family, model, optimizer, controller, 4, 6)
    assert train(family, second, other, resumed, 4, 6) == losses
    assert not any(layer._forward_hooks for layer in controller.parts[0].stack.layers)


@pytest.mark.parametrize(
    "family", [FAMILIES["gpt2"], FAMILIES["marian"], FAMILIES["t5"]], ids=lambda family: family.name
)
@pytest.mark.parametrize("arm", ["depth", "width"])
def test_generation_works_on_the_partial_model(family, arm):
    model = family.make().eval()
    attach(family, model, None, **{**ARMS[arm], "score": "random"})
    ids = torch.arange(1, 5)[None]
    given = {"max_new_tokens": 4, "do_sample": False}
    assert torch.equal(model.generate(ids, use_cache=True, **given), model.generate(ids, use_cache=False, **given))


def test_ending_early_where_layers_can_not_enter_unseen_is_said():
    family = FAMILIES["bert"]
    model = family.make()
    attach(family, model, adamw(model), **ARMS["depth"])
    with pytest.warns(UserWarning, match=r"bert.encoder.layer: layers that never trained enter the final model"):
        sat.densify_(model)
