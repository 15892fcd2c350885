"""T5: gated and ungated MLPs, encoder and decoder, or one of them alone.

The first block's self-attention holds a position bias for every head, and hands it to all later blocks. So the
first block can't be left out, and a head is the same head in all blocks: the self-attentions of a stack are one
site, whose unit is a head in every block with its column of the position bias. The cross-attentions share a
(zero) bias in the same way.
"""

from __future__ import annotations

from torch import nn

from sat.families.dialect import lists_called
from sat.naming import MLP, Attention
from sat.projection import MissingError, projection
from sat.structure import Count, Cut, Site, Stack, Structure


def find_t5(model: nn.Module) -> Structure | str:
    """The structure of a T5, or what was missed."""
    lists = dict(lists_called(model, "block"))
    if not lists:
        return "an nn.ModuleList 'block' of layers with layer.*.SelfAttention and layer.*.DenseReluDense: not there"
    stacks, sites, missed = [], [], []
    for path, blocks in lists.items():
        try:
            stack, inside = _stack(model.get_submodule(path.rpartition(".")[0]), path, blocks)
        except MissingError as error:
            missed.append(str(error))
            continue
        stacks.append(stack)
        sites += inside
    return Structure("t5", tuple(stacks), tuple(sites)) if stacks else missed[0]


def _stack(owner: nn.Module, path: str, blocks: nn.ModuleList | nn.Sequential) -> tuple[Stack, list[Site]]:
    attentions: dict[str, list[Site]] = {}
    mlps: list[Site] = []
    outputs: list[tuple[nn.Module, ...]] = []
    for index, block in enumerate(blocks):
        parts = getattr(block, "layer", None)
        if not isinstance(parts, nn.ModuleList):
            raise MissingError(f"an nn.ModuleList '{path}.{index}.layer': not there")
        written: list[nn.Module] = []
        for at, part in enumerate(parts):
            name = f"{path}.{index}.layer.{at}"
            named = _named(part)
            (attentions.setdefault(named.output, []) if isinstance(named, Attention) else mlps).append(
                named.site(part, name)
            )
            written.append(projection(part, name, named.output).module)
        outputs.append(tuple(written))
    biased = {index: table for index, block in enumerate(blocks) if (table := _bias(block)) is not None}
    tied = [
        _tied(f"{path}.{output.partition('.')[0]}", sites, path, biased if output.startswith("SelfAttention") else {})
        for output, sites in attentions.items()
    ]
    pinned = tuple(biased) if len(biased) < len(blocks) else ()
    config = getattr(owner, "config", None)
    return Stack(path, owner, path.rpartition(".")[2], tuple(outputs), config, pinned=pinned), [*tied, *mlps]


def _named(part: nn.Module) -> Attention | MLP:
    for holder in ("SelfAttention", "EncDecAttention"):
        if hasattr(part, holder):
            return Attention(
                query=f"{holder}.q",
                key=f"{holder}.k",
                value=f"{holder}.v",
                output=f"{holder}.o",
                head_dim=f"{holder}.key_value_proj_dim",
                heads=(f"{holder}.n_heads",),
                features=(f"{holder}.inner_dim",),
            )
    gated = hasattr(getattr(part, "DenseReluDense", None), "wi_0")
    inputs = ("wi_0", "wi_1") if gated else ("wi",)
    return MLP([f"DenseReluDense.{each}" for each in inputs], "DenseReluDense.wo")


def _tied(name: str, sites: list[Site], path: str, biased: dict[int, nn.Embedding]) -> Site:
    """The same heads of all blocks as one site, with their columns of the position bias."""
    tables = [
        (table, f"{path}.{index}.layer.0.SelfAttention.relative_attention_bias") for index, table in biased.items()
    ]
    return Site(
        name,
        "attention",
        sites[0].units,
        (
            *(cut for site in sites for cut in site.cuts),
            *(Cut(f"{where}.weight", table, "weight", 1, 1) for table, where in tables),
        ),
        (
            *(count for site in sites for count in site.counts),
            *(Count(table, "embedding_dim", 1) for table, _ in tables),
        ),
        tuple(gate for site in sites for gate in site.gates),
    )


def _bias(block: nn.Module) -> nn.Embedding | None:
    return next((module for name, module in block.named_modules() if name.endswith("relative_attention_bias")), None)
