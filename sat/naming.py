"""Describing a model by names: which list holds the residual layers, which projections inside them belong together.

All families of transformers with the usual layers are described with these types (``sat/families/``), and so is
a model of one's own:

>>> controller = sat.sparsify_(
...     model, optimizer, config, total_steps=10_000, loss=probe_loss,
...     structure=[
...         sat.Layers(
...             "encoder.blocks",
...             sat.Attention(query="attn.q", key="attn.k", value="attn.v", output="attn.o", head_dim=64),
...             sat.MLP(inputs=["ff.up"], output="ff.down"),
...         )
...     ],
... )
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from torch import nn

from sat.projection import MissingError, Projection, projection
from sat.structure import Count, Cut, Site, Stack, Structure
from sat.units import attention_units, mlp_units


@dataclass(frozen=True)
class MLP:
    """Feed-forward projections of a layer, by names relative to it.

    ``inputs`` write the hidden channels (``up``, or ``gate`` and ``up``; a fused one writes all gates, then all ups),
    ``output`` reads them and writes the residual stream. A unit is a block of 8 to 128 hidden channels
    (:func:`sat.mlp_units`).
    """

    inputs: Sequence[str]
    output: str
    kind: ClassVar[str] = "mlp"

    def site(self, layer: nn.Module, name: str) -> Site:
        """The site in ``layer``, which is called ``name`` in the model.

        Raises:
            MissingError: a name leads nowhere or to something that is no projection.
        """
        inputs = [projection(layer, name, each) for each in self.inputs]
        output = projection(layer, name, self.output)
        hidden = output.in_features
        size, units = mlp_units(hidden)
        sizes: list[int | tuple[int, ...]] = []
        for each in inputs:
            runs, rest = divmod(each.out_features, hidden)
            if rest or not runs:
                raise MissingError(f"a projection '{each.name}' to a multiple of {hidden} features: not there")
            sizes.append(size if runs == 1 else (size,) * runs)
        return _site(name, self, units, list(zip(inputs, sizes, strict=True)), [(output, size)])

    def names(self) -> list[str]:
        """All names."""
        return [*self.inputs, self.output]


@dataclass(frozen=True)
class Attention:
    """Projections of an attention, by names relative to the layer.

    Either ``query``, ``key`` and ``value``, or ``fused``: one projection that writes all queries, then all keys,
    then all values (with a ``query`` beside it: all keys, then all values). A unit is one key-value head with its
    query heads. The forward pass must take the number of heads from the tensors (``view(..., -1, head_dim)``);
    attributes it reads instead are named in ``heads`` (number of query heads) and ``features`` (query heads x head
    dimension), and follow the active units.

    Attributes:
        head_dim: a number, or the name of an attribute that holds it.
        optional: a layer without it is fine (cross-attention).
    """

    output: str
    head_dim: int | str
    query: str | None = None
    key: str | None = None
    value: str | None = None
    fused: str | None = None
    heads: Sequence[str] = ()
    features: Sequence[str] = ()
    optional: bool = False
    kind: ClassVar[str] = "attention"

    def __post_init__(self) -> None:
        if set(self._parts()) not in ({"query", "key", "value"}, {"fused"}, {"query", "fused"}):
            raise ValueError(
                "sat.Attention: name query, key and value; or fused, which holds all three; or query and fused, which "
                "then holds keys and values"
            )

    def site(self, layer: nn.Module, name: str) -> Site:
        """The site in ``layer``, which is called ``name`` in the model.

        Raises:
            MissingError: a name leads nowhere or to something that is no projection.
        """
        inputs = {part: projection(layer, name, path) for part, path in self._parts().items()}
        output = projection(layer, name, self.output)
        head = self._head_dim(layer, name)
        heads = output.in_features // head
        if "key" in inputs:
            kv_heads = inputs["key"].out_features // head
        else:  # the fused projection also holds the queries, unless they are apart
            kv_heads = (inputs["fused"].out_features // head - (0 if "query" in inputs else heads)) // 2
        try:
            group, units = attention_units(heads, kv_heads)
        except ValueError as error:
            raise MissingError(f"an attention that can be cut at '{name}.{self.output}': {error}") from None
        queries, keys = group * head, head
        whole = (keys, keys) if "query" in inputs else (queries, keys, keys)
        sizes: dict[str, int | tuple[int, ...]] = {"query": queries, "key": keys, "value": keys, "fused": whole}
        site = _site(name, self, units, [(each, sizes[part]) for part, each in inputs.items()], [(output, queries)])
        follow = [*((path, group) for path in self.heads), *((path, queries) for path in self.features)]
        counts = tuple(Count(*_attribute(layer, name, path), per_unit) for path, per_unit in follow)
        own = {id(parameter) for each in (*inputs.values(), output) for parameter in each.module.parameters()}
        obstacle = _across_heads(layer, _shared(list(self._parts().values())), own, head, {heads, kv_heads})
        return replace(site, counts=(*site.counts, *counts), obstacle=obstacle)

    def names(self) -> list[str]:
        """All names."""
        return [*self._parts().values(), self.output]

    def _parts(self) -> dict[str, str]:
        named = {"query": self.query, "key": self.key, "value": self.value, "fused": self.fused}
        return {part: path for part, path in named.items() if path is not None}

    def _head_dim(self, layer: nn.Module, name: str) -> int:
        if isinstance(self.head_dim, int):
            return self.head_dim
        module, attribute = _attribute(layer, name, self.head_dim)
        found = getattr(module, attribute)
        if not isinstance(found, int):
            raise MissingError(f"whole number '{name}.{self.head_dim}': not there")
        return found


class Layers:
    """A list of residual layers and the sites in each of them.

    Args:
        path: of the list, from the model: ``"encoder.blocks"``.
        sites: what can shrink inside a layer. Their output projections are taken to be all that writes into the
            residual stream; name ``outputs`` (relative to the layer) where that is not so, or without sites.
        outputs: modules that write into the residual stream.
        identity: False where a norm follows the sum of residual and branch (as in BERT), so that a layer whose
            branches write nothing still changes its input.
        pinned: layers that can't be left out.
        config_fields: fields of the owner's ``config`` that must follow the number of layers.
    """

    def __init__(
        self,
        path: str,
        *sites: Attention | MLP,
        outputs: Sequence[str] = (),
        identity: bool = True,
        pinned: Sequence[int] = (),
        config_fields: Sequence[str] = ("num_hidden_layers",),
    ) -> None:
        if not sites and not outputs:
            raise ValueError(f"sat.Layers({path!r}): name its sites, its outputs, or both")
        self.path = path
        self.sites = sites
        self.outputs = tuple(outputs)
        self.identity = identity
        self.pinned = tuple(pinned)
        self.config_fields = tuple(config_fields)

    def find(self, model: nn.Module) -> tuple[Stack, list[Site]]:
        """The stack and the sites in its layers.

        Raises:
            MissingError: what a name should lead to is not there.
        """
        owner, attribute = _attribute(model, "", self.path)
        layers = getattr(owner, attribute)
        if not isinstance(layers, nn.ModuleList | nn.Sequential) or not len(layers):
            raise MissingError(f"an nn.ModuleList or nn.Sequential '{self.path}' of layers: not there")
        sites: list[Site] = []
        outputs = []
        for index, layer in enumerate(layers):
            name = f"{self.path}.{index}"
            present = [site for site in self.sites if not _left_out(site, layer)]
            sites += [site.site(layer, name) for site in present]
            paths = self.outputs or tuple(site.output for site in present)
            outputs.append(tuple(projection(layer, name, path).module for path in paths))
        config = getattr(owner, "config", None)
        pinned, fields = self.pinned, self.config_fields
        return Stack(self.path, owner, attribute, tuple(outputs), config, fields, pinned, identity=self.identity), sites


def structure_of(model: nn.Module, named: Sequence[Layers], family: str = "own") -> Structure:
    """The structure of ``model`` by the names of its lists of layers.

    Raises:
        MissingError: what a name should lead to is not there.
        ValueError: nothing is named, or something twice.
    """
    if not named:
        raise ValueError("structure: name at least one list of layers, e.g. sat.Layers('blocks', sat.MLP(...))")
    found = [layers.find(model) for layers in named]
    sites = tuple(site for _, inside in found for site in inside)
    names = [layers.path for layers in named] + [site.name for site in sites]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ValueError(f"structure: {twice!r} is named twice")
    return Structure(family, tuple(stack for stack, _ in found), sites)


def _site(
    layer: str,
    named: Attention | MLP,
    units: int,
    inputs: Sequence[tuple[Projection, int | tuple[int, ...]]],
    outputs: Sequence[tuple[Projection, int]],
) -> Site:
    cuts: list[Cut] = []
    counts: list[Count] = []
    for each, size in inputs:
        cuts += each.writes(size)
        counts.append(each.out_count(size))
    for each, width in outputs:
        cuts.append(each.reads(width))
        counts.append(each.in_count(width))
    gates = tuple(each.gate(size) for each, size in outputs)
    return Site(f"{layer}.{_shared(named.names()) or named.kind}", named.kind, units, tuple(cuts), tuple(counts), gates)


def _shared(paths: Sequence[str]) -> str:
    """Name of the innermost module that holds all that is named; empty if it is the layer."""
    shared = []
    for parts in zip(*(path.split(".")[:-1] for path in paths), strict=False):
        if len(set(parts)) > 1:
            break
        shared.append(parts[0])
    return ".".join(shared)


def _across_heads(layer: nn.Module, holder: str, own: set[int], head_dim: int, heads: set[int]) -> str:
    """Which other parameter of an attention spans its heads (a norm over all of them, a bias for each), if any."""
    if not holder:
        return ""
    spans = heads | {head_dim * number for number in heads}
    for name, parameter in layer.get_submodule(holder).named_parameters():
        if id(parameter) not in own and any(size in spans and size != head_dim for size in parameter.shape):
            return f"{name} spans all heads"
    return ""


def _left_out(named: Attention | MLP, layer: nn.Module) -> bool:
    return isinstance(named, Attention) and named.optional and not hasattr(layer, named.output.split(".")[0])


def _attribute(root: nn.Module, name: str, path: str) -> tuple[nn.Module, str]:
    """The module that holds an attribute, and the attribute's name."""
    parents, _, attribute = path.rpartition(".")
    try:
        holder = root.get_submodule(parents)
    except AttributeError:
        holder = None
    if holder is None or not hasattr(holder, attribute):
        raise MissingError(f"'{name}.{path}': not there" if name else f"'{path}': not there")
    return holder, attribute
