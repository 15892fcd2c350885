"""Residual convolutional networks of ``transformers`` (ResNet): a stack per stage, channels inside the blocks.

Depth: with its last batch norm at zero a block is the identity, since its input has been through a ReLU. Blocks
with a projection shortcut can't be left out. Width: the channels between the convolutions of a block. A batch
norm treats each channel alone, so leaving channels out, with their running statistics, changes no other; in a
bottleneck a unit is a group of channels of both inner layers, and the middle convolution is cut along both.
"""

from __future__ import annotations

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from sat.families.dialect import Container, lists_called
from sat.projection import MissingError
from sat.structure import Count, Cut, Gate, Site, Stack, Structure
from sat.units import mlp_units


def find_resnet(model: nn.Module) -> Structure | str:
    """The structure of a ResNet, or what was missed."""
    lists = {
        path: blocks
        for path, blocks in lists_called(model, "layers")
        if isinstance(getattr(blocks[0], "layer", 0), nn.Sequential)
    }
    if not lists:
        return "an nn.Sequential 'layers' of blocks with shortcut, layer.*.convolution and .normalization: not there"
    stacks: list[Stack] = []
    sites: list[Site] = []
    try:
        for path, blocks in lists.items():
            stacks.append(_stack(model.get_submodule(path.rpartition(".")[0]), path, blocks))
            sites += [_channels(block, f"{path}.{index}") for index, block in enumerate(blocks)]
    except MissingError as error:
        return str(error)
    return Structure("resnet", tuple(stacks), tuple(sites))


def _stack(owner: nn.Module, path: str, blocks: Container) -> Stack:
    outputs = []
    for index, block in enumerate(blocks):
        for wanted in ("shortcut", "activation"):
            if not hasattr(block, wanted):
                raise MissingError(f"'{path}.{index}.{wanted}': not there")
        outputs.append((_layers(block, f"{path}.{index}")[-1][1],))
    pinned = tuple(index for index, block in enumerate(blocks) if not isinstance(block.shortcut, nn.Identity))
    identity = all(isinstance(block.activation, nn.ReLU) for block in blocks)
    return Stack(path, owner, "layers", tuple(outputs), pinned=pinned, identity=identity)


def _layers(block: nn.Module, name: str) -> list[tuple[nn.Conv2d, _BatchNorm]]:
    """Convolutions and batch norms of a block, in order."""
    found = []
    for index, layer in enumerate(block.get_submodule("layer").children()):
        convolution, norm = getattr(layer, "convolution", None), getattr(layer, "normalization", None)
        where = f"{name}.layer.{index}"
        if not isinstance(convolution, nn.Conv2d) or convolution.groups != 1:
            raise MissingError(f"nn.Conv2d '{where}.convolution' without groups: not there")
        if not isinstance(norm, _BatchNorm):
            raise MissingError(f"a batch norm '{where}.normalization': not there")
        found.append((convolution, norm))
    if len(found) < 2:
        raise MissingError(f"two or more convolutions in '{name}.layer': not there")
    return found


def _channels(block: nn.Module, name: str) -> Site:
    """The channels between the first and the last convolution; the last one's batch norm is always whole."""
    layers = _layers(block, name)
    _, units = mlp_units(layers[0][0].out_channels)
    cuts: list[Cut] = []
    counts: list[Count] = []
    gates: list[Gate] = []
    for index, (convolution, norm) in enumerate(layers):
        where = f"{name}.layer.{index}"
        if index < len(layers) - 1:
            writes = convolution.out_channels // units
            if convolution.out_channels % units:
                raise MissingError(f"'{where}.convolution' with a multiple of {units} channels: not there")
            cuts.append(Cut(f"{where}.convolution.weight", convolution, "weight", 0, writes))
            if convolution.bias is not None:
                cuts.append(Cut(f"{where}.convolution.bias", convolution, "bias", 0, writes))
            cuts += [
                Cut(f"{where}.normalization.{tensor}", norm, tensor, 0, writes)
                for tensor in ("weight", "bias", "running_mean", "running_var")
                if getattr(norm, tensor) is not None
            ]
            counts += [Count(convolution, "out_channels", writes), Count(norm, "num_features", writes)]
        if index:
            reads = convolution.in_channels // units
            cuts.append(Cut(f"{where}.convolution.weight", convolution, "weight", 1, reads, output=True))
            counts.append(Count(convolution, "in_channels", reads))
            gates.append(Gate(convolution, reads, dim=1))
    return Site(f"{name}.layer", "channels", units, tuple(cuts), tuple(counts), tuple(gates))
