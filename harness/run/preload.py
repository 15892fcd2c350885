"""What the fork server imports before it forks: slow imports, no device, no threads."""

import torch
import torch.utils.flop_counter
import transformers.models.llama.modeling_llama  # noqa: F401

import harness.methods.dense
import harness.methods.sat
import harness.run.count
import harness.run.train
import harness.run.worker
import harness.workloads.language.task  # noqa: F401

assert not torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
