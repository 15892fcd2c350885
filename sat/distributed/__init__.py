"""Training with several processes: agreement on units, DDP, FSDP2, distributed checkpoints. See docs/distributed.md."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from sat.distributed.ranks import Ranks, checksums
from sat.distributed.replicas import Replicas
from sat.distributed.shards import ShardedSite, prepare, settle, whole

if TYPE_CHECKING:
    from sat.controller import Controller

__all__ = ["Ranks", "Replicas", "ShardedSite", "checksums", "load", "prepare", "save", "settle", "whole"]


def save(controller: Controller, directory: str | Path) -> None:
    """Write a checkpoint, each rank its share; see :func:`sat.distributed.saving.save`."""
    from sat.distributed.saving import save as write  # torch.distributed.checkpoint takes a while to import

    write(controller, directory)


def load(controller: Controller, directory: str | Path) -> None:
    """Continue from a checkpoint, with any number of processes; see :func:`sat.distributed.saving.load`."""
    from sat.distributed.saving import load as read

    read(controller, directory)
