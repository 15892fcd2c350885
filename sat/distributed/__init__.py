"""Training with several processes: agreement on units, DDP, FSDP2, distributed checkpoints. See docs/distributed.md."""

from sat.distributed.ranks import Ranks, checksums
from sat.distributed.replicas import Replicas
from sat.distributed.shards import ShardedSite, prepare, settle, whole

__all__ = ["Ranks", "Replicas", "ShardedSite", "checksums", "prepare", "settle", "whole"]
