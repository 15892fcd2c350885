"""What a step of SAT takes beside what it should take: time ratios beside FLOP ratios, from one run each.

    pytest tests/benchmarks/test_sat_step.py --benchmark-only

Timed steps of both models are interleaved, so that a busy machine slows both; ``extra_info`` has the ratios:
``time_ratio`` (median SAT step / median dense step), ``flop_ratio`` (counted) and ``time_over_flops``.
"""

from __future__ import annotations

import statistics
import time

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import LlamaConfig, LlamaForCausalLM

import sat

BATCH, LENGTH, VOCABULARY = 4, 128, 256
ROUNDS = 25
INTERVAL = 500


def model_of(seed=0):
    """About 2 M parameters: 8 layers of width 144."""
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=144, intermediate_size=384, num_hidden_layers=8, num_attention_heads=8,
        num_key_value_heads=8, max_position_embeddings=LENGTH, tie_word_embeddings=True, use_cache=False,
    )  # fmt: skip
    return LlamaForCausalLM(config)


def batch(seed):
    return torch.randint(0, VOCABULARY, (BATCH, LENGTH), generator=torch.Generator().manual_seed(seed))


def prepared(**settings):
    model = model_of()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)

    def loss(index):
        ids = batch(index)
        return model(input_ids=ids, labels=ids).loss

    controller = None
    if settings:
        config = sat.SATConfig(**settings)
        controller = sat.sparsify_(model, optimizer, config, total_steps=10 * INTERVAL, loss=loss, start=False)

    def step():
        optimizer.zero_grad()
        loss(0).backward()
        optimizer.step()

    return step, controller, optimizer


def flops(run):
    with FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()


def seconds(run):
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


ARMS = {
    "depth": {"axis": "depth"},
    "width": {"axis": "width", "score": "gate_probe"},
    "freeze": {"mode": "freeze"},
}


@pytest.mark.parametrize("share", [0.25, 0.5])
@pytest.mark.parametrize("arm", ARMS)
def test_sat_step_against_dense_step(benchmark, arm, share):
    dense, _, _ = prepared()
    sparse, controller, _ = prepared(**ARMS[arm])
    controller.set_share(share)
    flop_ratio = flops(sparse) / flops(dense)
    for _ in range(3):
        dense(), sparse()
    dense_s, sparse_s = [], []

    def pair():
        dense_s.append(seconds(dense))
        sparse_s.append(seconds(sparse))

    benchmark.pedantic(pair, rounds=ROUNDS)
    time_ratio = statistics.median(s / d for s, d in zip(sparse_s, dense_s, strict=True))
    benchmark.extra_info.update(
        share=share,
        flop_ratio=round(flop_ratio, 4),
        time_ratio=round(time_ratio, 4),
        time_over_flops=round(time_ratio / flop_ratio, 3),
        dense_step_ms=round(1e3 * statistics.median(dense_s), 2),
        sat_step_ms=round(1e3 * statistics.median(sparse_s), 2),
    )
    assert flop_ratio < 1


@pytest.mark.parametrize("arm", ["width", "freeze"])
def test_probe_and_swap_as_a_share_of_a_run(benchmark, arm):
    """A re-evaluation every 500 steps at a third: probe of four micro-batches and exchange of units."""
    settings = ARMS[arm] | {"schedule": ((0.0, 0.33),), "interval": INTERVAL, "hysteresis": 0.0}
    regime = {"regime": "rotating", "ramp_steps": 0} if arm == "width" else {}
    dense, _, _ = prepared()
    sparse, controller, _ = prepared(**settings, **regime)
    # the same exchange chosen at random needs no probe: that is the swap alone
    other_step, other, _ = prepared(**settings | {"score": "random"}, **regime)
    controller.begin_step(0)
    other.begin_step(0)
    for _ in range(3):
        dense(), sparse(), other_step()
    dense_s, sparse_s, probe_s, swap_s = [], [], [], []
    due = iter(range(INTERVAL, 10 * INTERVAL, INTERVAL))

    def measured():
        dense_s.append(seconds(dense))
        sparse_s.append(seconds(sparse))
        probe_s.append(seconds(controller.probe))
        at = next(due)
        swap_s.append(seconds(lambda: other.begin_step(at)))

    benchmark.pedantic(measured, rounds=6)
    probe, swap = statistics.median(probe_s), statistics.median(swap_s)
    step, plain = statistics.median(sparse_s), statistics.median(dense_s)
    benchmark.extra_info.update(
        probe_over_dense_step_per_micro_batch=round(probe / 4 / plain, 3),
        probe_share_of_sat_run=round(probe / (probe + swap + INTERVAL * step), 5),
        swap_share_of_sat_run=round(swap / (probe + swap + INTERVAL * step), 6),
        probe_and_swap_share_of_dense_run=round((probe + swap) / (INTERVAL * plain), 5),
        units_exchanged=other.report().swaps,
    )
    assert other.report().swaps > 0
