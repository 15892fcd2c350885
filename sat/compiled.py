"""``torch.compile`` layer by layer: graphs counted and bounded, never a silent return to eager.

Whole-model compilation meets a new graph at every switch and soon torch's limit of recompilations, where torch
goes on in eager with no more than a log line. Compiled layer by layer, all layers of one kind share their graphs,
and a switch costs one graph per kind at most: along the depth none, along the width one for each new count of units.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, cast
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from sat.config import SATConfig, phases
from sat.families import Described, find_structure
from sat.structure import Structure
from sat.units import counts_allowed, units_kept

LIMIT = 64
"""Graphs that torch may keep for the layers: five counts of units, trained and evaluated, for six kinds of layers."""


class CompiledLayers:
    """What :func:`compile_layers` compiled, and into how many graphs so far.

    Attributes:
        graphs: forward graphs handed to the backend, breaks in a layer included.
        kinds: kinds of layers: those of one stack and class with parameters of the same shapes. Two stacks are called
            with different masks (the towers of CLIP), and share no graph.
    """

    def __init__(self, structure: Structure, compiler: Callable[[Any, Sequence[Tensor]], Any]) -> None:
        self.graphs = 0
        self.kinds = len({(stack.name, _kind(layer)) for stack in structure.stacks for layer in stack.layers})
        self._structure = structure
        self._compiler = compiler

    def __call__(self, graph: Any, inputs: Sequence[Tensor]) -> Any:
        """The backend, as ``torch.compile`` calls it."""
        self.graphs += 1
        return self._compiler(graph, inputs)

    def most_graphs(self, config: SATConfig, total_steps: int) -> int:
        """The graphs that training by ``config`` can need, if inputs keep their shape and no layer breaks its graph.

        Per kind of layer one for each number of units that the schedule visits (along the depth: one), and where
        some layers have gradients and others none, one for either, below and above the lowest that has. Forward
        passes without gradients (evaluation) can need as many again.
        """
        if config.threshold == "global" and config.axis == "width":  # any layer may have any mixture of counts
            kinds = {(site.kind, site.units, max(config.floor, site.floor)) for site in self._structure.parts}
            return self.kinds * math.prod(len(counts_allowed(n, floor, config.buckets)) for _, n, floor in kinds)
        shares = {phase.share for phase in phases(config, total_steps)}
        if config.axis == "depth":
            return self.kinds * (1 if config.mode == "skip" else 4)
        sites = {(site.units, max(config.floor, site.floor)) for site in self._structure.parts}
        counts = {
            tuple(units_kept(units, share, floor, config.buckets) for units, floor in sorted(sites)) for share in shares
        }
        return self.kinds * len(counts)


_COMPILED: WeakKeyDictionary[nn.Module, CompiledLayers] = WeakKeyDictionary()
_EAGER: WeakKeyDictionary[nn.Module, tuple[Any, int]] = WeakKeyDictionary()  # compiled call, gates in place


def compile_layers(
    model: nn.Module,
    *,
    structure: Described | None = None,
    backend: str | Callable[[Any, Sequence[Tensor]], Any] = "inductor",
    mode: str | None = None,
    options: dict[str, Any] | None = None,
    dynamic: bool | None = None,
    fullgraph: bool = False,
) -> CompiledLayers:
    """Compile every residual layer of the model in place. Call it before :func:`sat.sparsify_`.

    For the whole process, torch's limit of recompilations is raised to :data:`LIMIT` and made an error
    (``torch._dynamo.config.fail_on_recompile_limit_hit``): torch would go on in eager otherwise.

    Args:
        model: as :func:`sat.sparsify_` will get it.
        structure: as there, for a model that no family knows.
        backend: of ``torch.compile``; by name, or a callable.
        mode: of ``torch.compile``; for ``inductor`` only.
        options: of ``torch.compile``; for ``inductor`` only.
        dynamic: of ``torch.compile``.
        fullgraph: of ``torch.compile``: a break in a layer's graph is an error.

    Returns:
        The count of graphs, which :meth:`sat.Controller.report` shows too.

    Raises:
        UnknownStructureError: no family knows the model.
        ValueError: the model has no stack of layers or is sparsified already, or a setting that the backend
            does not take.
    """
    from sat.controller import ATTACHED

    if getattr(model, ATTACHED, None) is not None:
        raise ValueError(f"{type(model).__name__} is sparsified already; call sat.compile_layers before sat.sparsify_")
    found = find_structure(model, structure)
    if not found.stacks:
        raise ValueError(f"{found.family}: no stack of residual layers is described, so there are none to compile")
    record = CompiledLayers(found, _compiler(backend, mode, options, dynamic))
    config = torch._dynamo.config
    config.recompile_limit = max(config.recompile_limit, LIMIT)
    config.fail_on_recompile_limit_hit = True
    for stack in found.stacks:
        for layer in stack.layers:
            layer.compile(backend=record, dynamic=dynamic, fullgraph=fullgraph)
    _COMPILED[model] = record
    return record


def compiled_graphs(model: nn.Module) -> int | None:
    """Graphs compiled for a model's layers so far; ``None`` where :func:`compile_layers` has not been called."""
    record = _COMPILED.get(model)
    return record.graphs if record is not None else None


class Uncompiled:
    """One layer that runs uncompiled until :meth:`remove`: compiled code does not see hooks set after its tracing."""

    def __init__(self, layer: nn.Module) -> None:
        call, users = _EAGER.get(layer, (layer._compiled_call_impl, 0))
        _EAGER[layer] = (call, users + 1)
        layer._compiled_call_impl = None
        self._layer = layer

    def remove(self) -> None:
        """Back to compiled code, unless another gate is in the layer."""
        call, users = _EAGER.pop(self._layer)
        if users > 1:
            _EAGER[self._layer] = (call, users - 1)
        else:
            self._layer._compiled_call_impl = call


def uncompiled(model: nn.Module, modules: Iterable[nn.Module]) -> list[Uncompiled]:
    """Make all compiled modules that hold any of ``modules`` run uncompiled until the results are removed."""
    wanted = set(modules)
    return [
        Uncompiled(module)
        for module in model.modules()
        if (module._compiled_call_impl is not None or module in _EAGER) and not wanted.isdisjoint(module.modules())
    ]


def _compiler(
    backend: str | Callable[[Any, Sequence[Tensor]], Any],
    mode: str | None,
    options: dict[str, Any] | None,
    dynamic: bool | None,
) -> Callable[[Any, Sequence[Tensor]], Any]:
    """The backend as a function of graph and inputs."""
    if backend != "inductor":
        if mode is not None or options is not None:
            raise ValueError(f"sat.compile_layers: mode and options are settings of 'inductor', not of {backend!r}")
        return cast("Callable[[Any, Sequence[Tensor]], Any]", torch._dynamo.lookup_backend(backend))
    patches = {**(torch._inductor.list_mode_options(mode, dynamic) if mode is not None else {}), **(options or {})}

    def inductor(graph: Any, inputs: Sequence[Tensor]) -> Any:
        from torch._inductor.compile_fx import compile_fx

        return compile_fx(graph, inputs, config_patches=patches)

    return inductor


def _kind(layer: nn.Module) -> tuple[object, ...]:
    return (type(layer), *((name, parameter.shape) for name, parameter in layer.named_parameters()))
