"""What can be switched is found, listed with its cost, or refused with a clear text."""

from __future__ import annotations

import pytest
import torch
from sat_models import adamw, attach, llama, tokens, train
from torch import nn
from transformers import LlamaModel, MistralConfig, MistralForCausalLM, Qwen2Config, Qwen2ForCausalLM

import sat
from sat.families import find_structure


def test_sites_are_listed_with_their_cost():
    model = llama(layers=2, hidden=32, heads=4, kv_heads=2, mlp=64)
    listed = sat.sites(model)
    assert [(s.name, s.kind, s.axis, s.units) for s in listed] == [
        ("model.layers", "layers", "depth", 2),
        ("model.layers.0.self_attn", "attention", "width", 2),
        ("model.layers.0.mlp", "mlp", "width", 8),
        ("model.layers.1.self_attn", "attention", "width", 2),
        ("model.layers.1.mlp", "mlp", "width", 8),
    ]
    attention, mlp = listed[1], listed[2]
    assert attention.unit_flops == 6 * (2 * 8 * 32 + 8 * 32 + 8 * 32 + 2 * 8 * 32)
    assert mlp.unit_flops == 6 * 3 * 8 * 32
    assert listed[0].unit_flops == 2 * attention.unit_flops + 8 * mlp.unit_flops
    assert listed[0].unit_parameters == sum(p.numel() for p in model.model.layers[0].parameters())


@pytest.mark.parametrize("axis", ["depth", "width"])
@pytest.mark.parametrize(
    "make",
    [
        lambda shape: MistralForCausalLM(MistralConfig(**shape)),
        lambda shape: Qwen2ForCausalLM(Qwen2Config(**shape)),
        lambda shape: LlamaModel(llama().config),
    ],
)
def test_relatives_of_llama_train_and_come_back(make, axis):
    shape = {
        "vocab_size": 50, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 4, "num_attention_heads": 4,
        "num_key_value_heads": 2, "use_cache": False,
    }  # fmt: skip
    model = make(shape)
    plain = {name: value.shape for name, value in model.state_dict().items()}
    optimizer = adamw(model)
    config = sat.SATConfig(axis=axis)

    def loss(index):
        return model(input_ids=tokens(index))[0].float().square().mean()

    controller = sat.sparsify_(model, optimizer, config, total_steps=8, loss=loss)
    for step in range(8):
        optimizer.zero_grad()
        loss(step).backward()
        optimizer.step()
        controller.step()
    assert controller.report().active_units == 1.0
    sat.densify_(model)
    assert {name: value.shape for name, value in model.state_dict().items()} == plain


def test_an_unknown_structure_says_what_was_looked_for():
    with pytest.raises(sat.UnknownStructureError) as caught:
        sat.sites(nn.Sequential(nn.Linear(3, 3)))
    assert str(caught.value) == (
        "Sequential: no known structure to switch. Looked for:\n"
        "  llama: an nn.ModuleList 'model.layers' (or 'layers') of decoder layers: not there\n"
        "  own: a method sat_structure() on the model that returns a sat.Structure\n"
        "Give the model that method, or add a finder in sat/families/."
    )


def test_a_near_miss_names_the_part_that_is_missing():
    model = llama()
    model.model.layers[2].mlp.up_proj = nn.Identity()
    with pytest.raises(sat.UnknownStructureError, match=r"llama: nn.Linear 'model.layers.2.mlp.up_proj': not there"):
        sat.sites(model)


class OwnBlock(nn.Module):
    def __init__(self):
        super().__init__()
        self.wide = nn.Linear(8, 24)
        self.narrow = nn.Linear(24, 8)

    def forward(self, hidden):
        return hidden + self.narrow(self.wide(hidden).relu())


class Own(nn.Module):
    """A model of nobody's family, which names its sites."""

    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList(OwnBlock() for _ in range(3))

    def forward(self, hidden):
        for block in self.blocks:
            hidden = block(hidden)
        return hidden

    def sat_structure(self):
        parts = []
        for i, block in enumerate(self.blocks):
            cuts = (
                sat.Cut(f"blocks.{i}.wide.weight", block.wide, "weight", 0, 4),
                sat.Cut(f"blocks.{i}.wide.bias", block.wide, "bias", 0, 4),
                sat.Cut(f"blocks.{i}.narrow.weight", block.narrow, "weight", 1, 4, output=True),
            )
            counts = (sat.Count(block.wide, "out_features", 4), sat.Count(block.narrow, "in_features", 4))
            parts.append(sat.Site(f"blocks.{i}", "mlp", 6, cuts, counts, (sat.Gate(block.narrow, 4),)))
        stack = sat.Stack("blocks", self, "blocks", tuple((block.narrow,) for block in self.blocks))
        return sat.Structure("own", (stack,), tuple(parts))


@pytest.mark.parametrize("axis", ["depth", "width"])
def test_a_model_of_ones_own_names_its_sites(axis):
    torch.manual_seed(0)
    model = Own()
    data = torch.randn(16, 8)

    def loss(index):
        return (model(data) - data.flip(0)).square().mean()

    optimizer = adamw(model)
    controller = sat.sparsify_(model, optimizer, sat.SATConfig(axis=axis), total_steps=12, loss=loss)
    assert controller.report().active_units < 0.4
    first = loss(0).item()
    for _ in range(12):
        before = loss(0).item()
        optimizer.zero_grad()
        loss(0).backward()
        optimizer.step()
        after = loss(0).item()
        controller.step()
        assert loss(0).item() == pytest.approx(after, abs=1e-6)  # entry changes nothing
        assert after < before
    assert after < first
    assert len(sat.densify_(model).blocks) == 3


def test_a_wrong_answer_from_ones_own_model_is_named():
    model = Own()
    model.sat_structure = lambda: ["blocks"]
    with pytest.raises(sat.UnknownStructureError, match=r"Own.sat_structure must return a sat.Structure, not list"):
        find_structure(model)


def test_sparsifying_twice_or_with_a_foreign_optimizer_is_refused():
    model = llama()
    with pytest.raises(ValueError, match=r"the optimizer does not hold 'model.embed_tokens.weight' and 38 other"):
        attach(model, adamw(llama()))
    attach(model, adamw(model))
    with pytest.raises(ValueError, match="sparsified already"):
        attach(model, adamw(model))


def test_the_report_reads_well():
    model = llama()
    optimizer = adamw(model)
    controller = attach(model, optimizer, 20)
    train(model, optimizer, controller, 0, 4)
    assert str(controller.report()) == (
        "4 steps; active units 25.0% (mean 25.0%), parameters 31.0%; 1 entries, 0 exits, 0 returns in 1 switches, "
        "0 probes; 3 units never trained"
    )
