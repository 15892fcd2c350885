"""What the fork server imports before it forks: slow imports, no device, no threads.

All of our own code that a worker uses is in it, also what is imported late elsewhere: a set is recorded under one
code revision, and a file that changes while it is recorded must not reach its later runs.
"""

import torch
import torch.utils.flop_counter
import transformers.models.llama.modeling_llama  # noqa: F401

import harness.methods.controls
import harness.methods.dense
import harness.methods.sat
import harness.run.count
import harness.run.train
import harness.run.worker
import harness.workloads.language.task  # noqa: F401
import sat.attach  # noqa: F401

assert not torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
