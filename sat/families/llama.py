"""Llama-family decoders of ``transformers``: Llama, Mistral, Qwen2, Qwen3 and whatever has their layers.

Known by structure, not by class: ``layers`` of ``self_attn.{q,k,v,o}_proj`` and ``mlp.{gate,up,down}_proj``.
"""

from __future__ import annotations

from torch import nn

from sat.structure import Count, Cut, Site, Stack, Structure
from sat.units import attention_units, mlp_units

_ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
_MLP = ("gate_proj", "up_proj", "down_proj")


def find_llama(model: nn.Module) -> Structure | str:
    """The structure of a Llama-family decoder with or without its head, or what was missing."""
    inner = getattr(model, "model", None)
    prefix, owner = ("model.", inner) if isinstance(inner, nn.Module) else ("", model)
    layers = getattr(owner, "layers", None)
    if not isinstance(layers, nn.ModuleList) or not len(layers):
        return "an nn.ModuleList 'model.layers' (or 'layers') of decoder layers: not there"
    parts: list[Site] = []
    outputs: list[tuple[nn.Module, ...]] = []
    for index, layer in enumerate(layers):
        name = f"{prefix}layers.{index}"
        for holder, wanted in (("self_attn", _ATTENTION), ("mlp", _MLP)):
            for part in wanted:
                if not isinstance(getattr(getattr(layer, holder, None), part, None), nn.Linear):
                    return f"nn.Linear '{name}.{holder}.{part}': not there"
        attention, mlp = layer.get_submodule("self_attn"), layer.get_submodule("mlp")
        head_dim = getattr(attention, "head_dim", None)
        if not isinstance(head_dim, int):
            return f"whole number '{name}.self_attn.head_dim': not there"
        parts += [_attention(attention, f"{name}.self_attn", head_dim), _mlp(mlp, f"{name}.mlp")]
        outputs.append((attention.get_submodule("o_proj"), mlp.get_submodule("down_proj")))
    stack = Stack(f"{prefix}layers", owner, "layers", tuple(outputs), getattr(owner, "config", None))
    return Structure("llama", stack, tuple(parts))


def _attention(module: nn.Module, name: str, head_dim: int) -> Site:
    """KV heads with their query heads. The forward views by ``head_dim``, so only the sizes need to follow."""
    query, key, value, output = (_linear(module, part) for part in _ATTENTION)
    group, units = attention_units(query.out_features // head_dim, key.out_features // head_dim)
    cuts = (
        *_rows(query, f"{name}.q_proj", group * head_dim),
        *_rows(key, f"{name}.k_proj", head_dim),
        *_rows(value, f"{name}.v_proj", head_dim),
        Cut(f"{name}.o_proj.weight", output, "weight", 1, group * head_dim, output=True),
    )
    counts = (
        Count(query, "out_features", group * head_dim),
        Count(key, "out_features", head_dim),
        Count(value, "out_features", head_dim),
        Count(output, "in_features", group * head_dim),
    )
    return Site(name, "attention", units, cuts, counts, output, group * head_dim)


def _mlp(module: nn.Module, name: str) -> Site:
    gate, up, down = (_linear(module, part) for part in _MLP)
    unit, units = mlp_units(up.out_features)
    cuts = (
        *_rows(gate, f"{name}.gate_proj", unit),
        *_rows(up, f"{name}.up_proj", unit),
        Cut(f"{name}.down_proj.weight", down, "weight", 1, unit, output=True),
    )
    counts = (
        Count(gate, "out_features", unit),
        Count(up, "out_features", unit),
        Count(down, "in_features", unit),
    )
    return Site(name, "mlp", units, cuts, counts, down, unit)


def _linear(module: nn.Module, part: str) -> nn.Linear:
    found = getattr(module, part)
    assert isinstance(found, nn.Linear)
    return found


def _rows(linear: nn.Linear, name: str, size: int) -> list[Cut]:
    """Cuts of a projection whose output features belong to units: its rows, and its bias if it has one."""
    cuts = [Cut(f"{name}.weight", linear, "weight", 0, size)]
    if linear.bias is not None:
        cuts.append(Cut(f"{name}.bias", linear, "bias", 0, size))
    return cuts
