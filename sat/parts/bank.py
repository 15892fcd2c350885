"""Where what is out of the model lies: on the parameters' device, or on the host."""

from __future__ import annotations

import torch
from torch import Tensor


class Bank:
    """Moves tensors to where units that are out are kept, and back.

    On the device nothing moves. On the host, tensors lie in pinned memory; where the device *is* the host (CPU,
    and ``meta``, which has no memory) there is nowhere to move them to.
    """

    def __init__(self, host: bool) -> None:
        self.host = host

    def away(self, tensor: Tensor) -> Tensor:
        """The tensor where the bank is; itself if it is there."""
        if not self.host or tensor.device.type in {"cpu", "meta"}:
            return tensor
        return torch.empty_like(tensor, device="cpu", pin_memory=True).copy_(tensor)

    def back(self, tensor: Tensor, device: torch.device) -> Tensor:
        """The tensor on ``device``; itself if it is there."""
        return tensor.to(device)

    def keep(self, home: Tensor, used: Tensor) -> None:
        """Write to ``home``, a tensor of the bank, what ``used``, which came back from there, has become."""
        if used.data_ptr() != home.data_ptr():
            home.copy_(used)
