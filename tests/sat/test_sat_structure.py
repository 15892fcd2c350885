"""What can be switched is found, listed with its cost, or refused with a clear text."""

from __future__ import annotations

import pytest
import torch
from sat_models import adamw, attach, llama, steep, tokens, train
from torch import nn
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaModel,
    MistralConfig,
    MistralForCausalLM,
    Olmo2Config,
    Olmo2ForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    ResNetConfig,
    ResNetForImageClassification,
    VisionEncoderDecoderModel,
    ViTConfig,
    ViTModel,
)

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
    config = steep(axis=axis)

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


def test_an_unknown_structure_says_what_was_looked_for_and_what_to_do():
    with pytest.raises(sat.UnknownStructureError) as caught:
        sat.sites(nn.Sequential(nn.Linear(3, 3)))
    lines = str(caught.value).splitlines()
    assert lines[0] == "Sequential: no known structure to switch. Looked for:"
    assert [line.split(":")[0].strip() for line in lines[1:-1]] == [
        "llama", "gpt2", "bert", "vit", "clip", "marian", "t5", "resnet", "own",
    ]  # fmt: skip
    assert lines[2] == (
        "  gpt2: an nn.ModuleList 'h' of layers with attn.c_attn, attn.c_proj, mlp.c_fc, mlp.c_proj: not there"
    )
    assert lines[-1].startswith("Name your own sites, e.g. structure=[sat.Layers('blocks', sat.MLP(inputs=['up'],")


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
    controller = sat.sparsify_(model, optimizer, steep(axis=axis), total_steps=12, loss=loss)
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
    with pytest.raises(
        sat.UnknownStructureError,
        match=r"Own.sat_structure must return .* a list of sat.Layers, not \['blocks'\]",
    ):
        find_structure(model)


def test_sparsifying_twice_or_with_a_foreign_optimizer_is_refused():
    model = llama()
    with pytest.raises(ValueError, match=r"the optimizer does not hold 'model.embed_tokens.weight' and 38 other"):
        attach(model, adamw(llama()))
    attach(model, adamw(model))
    with pytest.raises(ValueError, match="sparsified already"):
        attach(model, adamw(model))


def compiled_in_place(model):
    model.compile(backend="eager")
    return model


@pytest.mark.parametrize(
    ("wrap", "text"),
    [
        (nn.DataParallel, "DistributedDataParallel"),
        (lambda model: torch.compile(model, backend="eager"), "compile_layers"),
        (compiled_in_place, "compile_layers"),
    ],
)
def test_what_can_not_follow_a_switch_is_refused(wrap, text):
    with pytest.raises(ValueError, match=text):
        sat.sparsify_(wrap(llama()), None, sat.SATConfig(), total_steps=8)


def test_a_model_with_a_sparsified_part_is_refused():
    model = llama()
    sat.sparsify_(model.model, None, sat.SATConfig(), total_steps=8)
    with pytest.raises(ValueError, match="sparsified already: its part 'model'"):
        sat.sparsify_(model, None, sat.SATConfig(), total_steps=8)


def test_a_start_that_fails_leaves_model_and_optimizer_as_they_were():
    model = llama()
    optimizer = adamw(model)

    def loss(index):
        raise RuntimeError("no data")

    config = sat.SATConfig(axis="width", rate_exponent=0.5, rewarm_steps=4)
    with pytest.raises(RuntimeError, match="no data"):
        sat.sparsify_(model, optimizer, config, total_steps=8, loss=loss)
    assert not optimizer._optimizer_step_pre_hooks
    assert not optimizer._optimizer_step_post_hooks
    assert vars(model).keys() == vars(llama()).keys()


@pytest.mark.parametrize(
    "settings",
    [{"axis": "depth"}, {"mode": "freeze", "score": "random"}, {"axis": "width", "score": "random"}],
    ids=["depth", "freeze", "width"],
)
def test_layers_that_share_their_weights_are_refused(settings):
    model = Nameless()
    model.blocks[2] = model.blocks[0]
    with pytest.raises(ValueError, match=r"blocks\.0.* and blocks\.2.* share a weight"):
        sat.sparsify_(model, None, steep(**settings), total_steps=8, structure=NAMED)


@pytest.mark.parametrize("settings", [{"axis": "depth"}, {"axis": "width", "score": "random"}], ids=["depth", "width"])
def test_an_entry_that_would_erase_a_frozen_weight_for_good_is_refused(settings):
    model = llama()
    model.model.layers[2].mlp.down_proj.weight.requires_grad_(False)
    with pytest.raises(ValueError, match=r"model\.layers\.2\.mlp\.down_proj\.weight is frozen.*entry 'random'"):
        attach(model, adamw(model), **settings)


class Adapted(nn.Linear):
    """A low-rank adapter beside the weight, in the same module."""

    def __init__(self, inside):
        super().__init__(inside.in_features, inside.out_features, bias=False)
        self.down = nn.Parameter(torch.ones(2, inside.in_features))
        self.up = nn.Parameter(torch.zeros(inside.out_features, 2))

    def forward(self, hidden):
        return super().forward(hidden) + hidden @ self.down.T @ self.up.T


@pytest.mark.parametrize("change", [Adapted, nn.utils.parametrizations.weight_norm], ids=["adapter", "weight_norm"])
def test_an_output_that_is_more_than_its_weight_is_not_put_to_zero(change):
    model = llama()
    model.model.layers[2].mlp.down_proj = change(model.model.layers[2].mlp.down_proj)
    with pytest.raises(ValueError, match=r"model\.layers\.2\.mlp\.down_proj is a linear layer with other parameters"):
        attach(model, adamw(model), axis="depth")
    attach(model, adamw(model), mode="freeze", score="random")


def test_an_adapter_beside_a_weight_can_not_be_cut():
    model = llama()
    model.model.layers[2].mlp.up_proj = Adapted(model.model.layers[2].mlp.up_proj)
    with pytest.raises(ValueError, match=r"up_proj is a linear layer with other parameters"):
        attach(model, adamw(model), axis="width", score="random")


def test_frozen_layers_can_come_in_as_they_are():
    model = llama()
    frozen = model.model.layers[2].mlp.down_proj.weight.requires_grad_(False)
    before = frozen.clone()
    optimizer = adamw(model)
    controller = attach(model, optimizer, 10, axis="depth", entry="random")
    train(model, optimizer, controller, 0, 10)
    sat.densify_(model)
    assert torch.equal(frozen, before)


def test_the_report_reads_well():
    model = llama()
    optimizer = adamw(model)
    controller = attach(model, optimizer, 20)
    train(model, optimizer, controller, 0, 4)
    assert controller.report().summary == (
        "4 steps; active units 25.0% (mean 25.0%), parameters 31.0%; 1 entries, 0 exits, 0 returns in 1 switches, "
        "0 probes; 3 units never trained"
    )


NAMED = [sat.Layers("blocks", sat.MLP(inputs=["wide"], output="narrow"))]


class Nameless(Own):
    """The same model without the method."""

    sat_structure = None


@pytest.mark.parametrize("axis", ["depth", "width"])
@pytest.mark.parametrize("whole", [False, True])
def test_sites_can_be_named_from_outside(axis, whole):
    torch.manual_seed(0)
    model = Nameless()
    data = torch.randn(16, 8)

    def loss(index):
        return (model(data) - data.flip(0)).square().mean()

    structure = find_structure(model, NAMED) if whole else NAMED
    with pytest.raises(sat.UnknownStructureError):
        sat.sites(model)
    assert [(site.name, site.units) for site in sat.sites(model, structure)] == [
        ("blocks", 3), ("blocks.0.mlp", 3), ("blocks.1.mlp", 3), ("blocks.2.mlp", 3),
    ]  # fmt: skip
    config = steep(axis=axis, schedule=((0.0, 0.3), (0.5, 1.0)))
    optimizer = adamw(model)
    controller = sat.sparsify_(model, optimizer, config, total_steps=6, loss=loss, structure=structure)
    assert controller.report().active_units == 1 / 3
    for _ in range(6):
        optimizer.zero_grad()
        loss(0).backward()
        optimizer.step()
        before = loss(0).item()
        controller.step()
        assert loss(0).item() == pytest.approx(before, abs=1e-6)
    assert controller.report().active_units == 1


@pytest.mark.parametrize(
    ("structure", "text"),
    [
        ([sat.Layers("bricks", sat.MLP(["wide"], "narrow"))], "structure: looked for 'bricks': not there"),
        ([sat.Layers("blocks", sat.MLP(["wid"], "narrow"))], r"looked for nn.Linear 'blocks.0.wid': not there"),
        ([sat.Layers("blocks", outputs=["narrow.x"])], r"looked for nn.Linear 'blocks.0.narrow.x': not there"),
        ([*NAMED, *NAMED], "'blocks' is named twice"),
        ([], "name at least one list of layers"),
        ("blocks", "structure must be a sat.Structure or a list of sat.Layers, not 'blocks'"),
        (
            [sat.Layers("blocks", sat.Attention(fused="wide", output="narrow", head_dim=7))],
            "looked for an attention that can be cut at 'blocks.0.narrow'",
        ),
    ],
)
def test_names_that_lead_nowhere_are_told(structure, text):
    with pytest.raises(ValueError, match=text):
        sat.sites(Nameless(), structure)


def test_half_an_attention_is_refused():
    with pytest.raises(ValueError, match=r"sat.Attention: name query, key and value; or fused"):
        sat.Attention(query="q", key="k", output="o", head_dim=8)
    with pytest.raises(ValueError, match=r"sat.Layers\('blocks'\): name its sites, its outputs, or both"):
        sat.Layers("blocks")


def test_units_that_do_not_divide_a_tensor_are_refused():
    model = Nameless()
    block = model.blocks[0]
    cuts = (sat.Cut("blocks.0.wide.weight", block.wide, "weight", 0, 5),)
    site = sat.Site("blocks.0", "mlp", 5, cuts, (), (sat.Gate(block.narrow, 5),))
    with pytest.raises(ValueError, match=r"blocks.0.wide.weight: dimension 0 has 24 entries, .* 5 units of 5"):
        sat.sparsify_(
            model, None, sat.SATConfig(axis="width", score="random"), total_steps=4,
            structure=sat.Structure("own", (), (site,)),
        )  # fmt: skip


@pytest.mark.parametrize("axis", ["depth", "width"])
def test_an_axis_that_was_not_described_is_refused(axis):
    described = sat.Structure("own", (), ())
    with pytest.raises(ValueError, match=r"own: no .* described; use axis '(depth|width)'"):
        sat.sparsify_(
            Nameless(), None, sat.SATConfig(axis=axis, score="random"), total_steps=4, structure=described
        )  # fmt: skip


def test_the_table_of_sites_has_equal_ones_on_one_line_and_knows_a_sparsified_model():
    model = llama(layers=3)
    table = str(sat.sites(model))
    assert table.splitlines()[:2] + table.splitlines()[3:6] == [
        "llama: 31,072 parameters; in units: 90% by depth, 89% by width; the rest is always active",
        "axis   site                      sites  unit       units  parameters of a unit  training FLOPs of a unit",
        "depth  model.layers                  1  layer          3                 9,280                    55,296",
        "width  model.layers.*.self_attn      3  KV head        2                 1,536                     9,216",
        "width  model.layers.*.mlp            3  MLP block      8                   768                     4,608",
    ]
    for axis in ("depth", "width"):
        model = llama(layers=3)
        attach(model, adamw(model), axis=axis)
        assert str(sat.sites(model)) == table


@pytest.mark.parametrize("depths", [(3, 4, 6, 3), (3, 8, 36, 3)], ids=["ResNet-50", "ResNet-152"])
def test_stages_of_the_large_resnets(depths):
    with torch.device("meta"):
        model = ResNetForImageClassification(ResNetConfig(depths=list(depths)))
    listed = sat.sites(model)
    stacks = [site for site in listed if site.axis == "depth"]
    assert [(stack.units, stack.pinned) for stack in stacks] == [(depth, 1) for depth in depths]
    assert sum(site.axis == "width" for site in listed) == sum(depths)
    assert listed.share("depth") > 0.99  # all but stem and head
    controller = sat.sparsify_(model, None, steep(), total_steps=10)
    assert [len(stage.layers) for stage in model.resnet.encoder.stages] == [1, 1, 1, 1]
    controller.set_share(1.0)
    assert [len(stage.layers) for stage in model.resnet.encoder.stages] == list(depths)


def test_models_made_of_two_families_have_the_stacks_of_both():
    with torch.device("meta"):
        encoder = ViTModel(ViTConfig(num_hidden_layers=2))
        decoder = GPT2LMHeadModel(GPT2Config(n_layer=3, add_cross_attention=True))
        model = VisionEncoderDecoderModel(encoder=encoder, decoder=decoder)
    listed = sat.sites(model)
    assert listed.family == "gpt2+vit"
    assert [(site.name, site.units) for site in listed if site.axis == "depth"] == [
        ("decoder.transformer.h", 3), ("encoder.layers", 2),
    ]  # fmt: skip
    assert sum(site.name.endswith("crossattention") for site in listed) == 3


def test_a_configuration_that_says_another_number_is_left_alone():
    model = llama(layers=4)
    model.config.num_hidden_layers = 7
    attach(model, adamw(model))
    assert (len(model.model.layers), model.config.num_hidden_layers) == (1, 7)


def test_an_attention_with_a_norm_across_its_heads_is_not_cut():
    with torch.device("meta"):
        model = Olmo2ForCausalLM(
            Olmo2Config(vocab_size=50, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4)
        )
    assert "model.layers.*.self_attn can't be cut: q_norm.weight spans all heads" in str(sat.sites(model))
    width = steep(axis="width")
    with pytest.raises(ValueError, match=r"model.layers.0.self_attn can't be cut into units: q_norm.weight spans all"):
        sat.sparsify_(model, None, width, total_steps=4)
    mlps = [sat.Layers("model.layers", sat.MLP(["mlp.gate_proj", "mlp.up_proj"], "mlp.down_proj"))]
    sat.sparsify_(model, None, steep(axis="width", score="random"), total_steps=4, structure=mlps)
    assert model.model.layers[0].mlp.up_proj.out_features == 8
    assert model.model.layers[0].self_attn.q_proj.out_features == 32
