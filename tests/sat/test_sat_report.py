"""The report against plain loops: torch's own FLOP counter over every step, bytes by hand, unknowns left unknown."""

from __future__ import annotations

import json

import pytest
import torch
from sat_models import adamw, attach, llama, loss_of, snapshot, tokens, train
from torch import nn
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

import sat
from sat.flops import Flops, count_flops

BATCH, LENGTH, STEPS = 2, 16, 6
ARMS = {
    "depth": {},
    "width": {"axis": "width", "probe_batches": 1},
    "freeze": {"mode": "freeze", "interval": 3, "probe_batches": 2},
    "width, rotating": {
        "axis": "width", "regime": "rotating", "interval": 2, "probe_batches": 1, "schedule": ((0.0, 0.25), (0.5, 0.5)),
    },
}  # fmt: skip


def counted(run) -> int:
    with FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()


def meta_loss(model):
    ids = torch.zeros((BATCH, LENGTH), dtype=torch.long, device="meta")
    mask = torch.zeros((BATCH, 1, LENGTH, LENGTH), device="meta")  # ready: there are no values to build one from
    return model(input_ids=ids, attention_mask=mask, labels=ids).loss


def meta_controller(steps=STEPS, **settings):
    with torch.device("meta"):
        model = llama(layers=2, kv_heads=4)
    config = sat.SATConfig(**settings)
    return sat.sparsify_(model, adamw(model), config, total_steps=steps, loss=lambda _: meta_loss(model), start=False)


@pytest.mark.parametrize("arm", ARMS)
def test_flops_equal_torchs_counter_over_the_whole_training(arm):
    controller = meta_controller(**ARMS[arm])
    model, forward, total, probes = controller.model, [], [], 0
    for step in range(STEPS):
        probes += counted(lambda: controller.begin_step(step))  # noqa: B023
        losses = []
        forward.append(counted(lambda: losses.append(meta_loss(model))))  # noqa: B023
        total.append(forward[-1] + counted(losses[0].backward))
        model.zero_grad()
        controller.end_step(step)
    report = controller.report()
    assert report.probe_flops == probes
    assert (report.probes > 0) == (probes > 0)
    assert report.step_flops == sum(total)
    assert report.total_flops == sum(total) + probes
    for phase in report.phases:
        steps = slice(phase.first_step, phase.first_step + phase.steps)
        assert phase.forward_flops == sum(forward[steps])
        assert phase.flops == sum(total[steps])
    planned = [(each.first_step, each.steps, each.probes) for each in sat.phases(controller.config, STEPS)]
    assert [(phase.first_step, phase.steps, phase.probes) for phase in report.phases] == planned


def test_share_of_dense_and_means_are_those_of_the_steps():
    controller = meta_controller(schedule=((0.0, 0.5), (0.5, 1.0)))
    dense = counted(lambda: meta_loss(llama_on_meta()).backward())
    for step in range(STEPS):
        assert controller.report().flops_of_dense is None  # no dense step has been seen
        if step == STEPS // 2:
            break
        walk(controller, step)
    for step in range(STEPS // 2, STEPS):
        walk(controller, step)
    report = controller.report()
    assert report.dense_step_flops == dense
    assert report.flops_of_dense == report.total_flops / (STEPS * dense)
    assert report.mean_active_units == (0.5 + 1.0) / 2
    assert report.phases[0].active_parameters < report.mean_active_parameters < report.phases[1].active_parameters == 1


def llama_on_meta():
    with torch.device("meta"):
        return llama(layers=2, kv_heads=4)


def walk(controller, step, micro_batches=1):
    controller.begin_step(step)
    for _ in range(micro_batches):
        meta_loss(controller.model).backward()
    controller.model.zero_grad()
    controller.end_step(step)


def test_a_step_is_all_its_micro_batches():
    once, thrice = meta_controller(), meta_controller()
    walk(once, 0)
    walk(thrice, 0, micro_batches=3)
    assert thrice.report().step_flops == 3 * once.report().step_flops > 0


def test_evaluation_is_not_training():
    plain, evaluated = meta_controller(), meta_controller()
    walk(plain, 0)
    evaluated.begin_step(0)
    with torch.no_grad():
        meta_loss(evaluated.model)
    meta_loss(evaluated.model).backward()
    evaluated.end_step(0)
    assert evaluated.report().step_flops == plain.report().step_flops


def test_what_was_not_seen_is_unknown_not_zero():
    controller = meta_controller()
    controller.begin_step(0)
    body = controller.model.model  # a loop that runs the model in parts
    with torch.device("meta"):
        body(input_ids=torch.zeros((1, 4), dtype=torch.long), attention_mask=torch.zeros(1, 1, 4, 4))
    controller.end_step(0)
    report = controller.report()
    assert report.step_flops is report.total_flops is report.phases[0].backward_flops is None
    assert report.probe_seconds is report.switch_seconds is report.peak_memory_bytes is None
    assert "steps unknown" in str(report)
    assert json.loads(json.dumps(report.to_dict()))["total_flops"] is None


def test_before_the_first_step_nothing_is_known_of_steps():
    report = meta_controller().report()
    assert (report.steps, report.mean_active_units, report.phases) == (0, None, ())


def test_counting_changes_no_bit_of_the_training():
    """A share of 1 throughout is the plain training, dropout and all, although its first step is counted."""
    trained = []
    for sparsified in (True, False):
        model = llama(attention_dropout=0.1)
        optimizer = adamw(model)
        controller = attach(model, optimizer, 4, schedule=((0.0, 1.0),)) if sparsified else None
        torch.manual_seed(5)
        losses = train(model, optimizer, controller, 0, 4)
        trained.append((losses, snapshot(model)))
    (ours, our_weights), (theirs, their_weights) = trained
    assert ours == theirs
    assert all(torch.equal(our_weights[name], their_weights[name]) for name in their_weights)


def test_compiled_layers_are_counted_beside_the_training():
    trained = []
    for compiled in (False, True):
        model = llama(attention_dropout=0.1)
        for layer in model.model.layers if compiled else ():
            layer.compile(backend="eager")  # the same kernels, so losses are equal to the bit
        optimizer = adamw(model)
        controller = attach(model, optimizer, 4, axis="width", score="random")
        torch.manual_seed(5)
        trained.append((train(model, optimizer, controller, 0, 2), controller.report().phases))
    assert trained[0] == trained[1]
    assert trained[0][1][0].flops > 0


class Branches(nn.Module):
    """A product that is trained, one cut from the graph, one under ``no_grad``; the first may be checkpointed."""

    def __init__(self, reentrant=None):
        super().__init__()
        self.trained = nn.Sequential(nn.Linear(8, 8, bias=False), nn.Tanh())
        self.cut, self.still = (nn.Linear(8, 8, bias=False) for _ in range(2))
        self.reentrant = reentrant

    def forward(self, x):
        x = x.requires_grad_()
        with torch.no_grad():
            still = self.still(x)
        if self.reentrant is None:
            trained = self.trained(x)
        else:
            trained = checkpoint(self.trained, x, use_reentrant=self.reentrant)
        return trained + self.cut(x).detach() + still


PRODUCT = 2 * 4 * 8 * 8


@pytest.mark.parametrize("reentrant", [None, False])
def test_only_what_the_loss_leads_to_goes_backward(reentrant):
    model, x = Branches(reentrant), torch.randn(4, 8)
    assert count_flops(model, lambda: model(x)) == Flops(3 * PRODUCT, 2 * PRODUCT)
    # the oracle sees the recomputation of checkpointing as well
    assert counted(lambda: model(x).sum().backward()) == (6 if reentrant is False else 5) * PRODUCT


def test_what_hides_in_an_autograd_function_is_unknown():
    model = Branches(reentrant=True)
    assert count_flops(model, lambda: model(torch.randn(4, 8))) == Flops(3 * PRODUCT, None)


@pytest.mark.parametrize("shared", [1, 2])
def test_attention_on_a_cpu_counts_as_its_products(shared):
    """torch's counter has no formula for the fused kernel of CPUs; on ``meta`` it sees the two products."""
    on_cpu = llama(kv_heads=4 // shared)
    with torch.device("meta"):
        on_meta = llama(kv_heads=4 // shared)
    ids = tokens(0, BATCH, LENGTH)
    expected = counted(lambda: meta_loss(on_meta).backward())
    assert count_flops(on_cpu, lambda: on_cpu(input_ids=ids, labels=ids)).total == expected


def test_convolutions_count_as_torch_counts_them():
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3, stride=2))
    x = torch.randn(2, 3, 12, 12)
    assert count_flops(model, lambda: model(x)).total == counted(lambda: model(x).sum().backward())


def test_a_model_called_inside_torchs_counter_is_seen_by_both():
    model = llama()
    found = []

    def run():
        found.append(count_flops(model, lambda: model(input_ids=tokens(0))))

    assert counted(run) > 0
    assert found[0].forward > 0


def test_switches_cost_time_and_the_bytes_that_they_copy():
    model = llama(kv_heads=4)
    optimizer = adamw(model)
    controller = attach(
        model, optimizer, 12, axis="width", regime="rotating", score="random", interval=4, ramp_steps=0,
        schedule=((0.0, 0.5),),
    )  # fmt: skip
    train(model, optimizer, controller, 0, 4)
    compact = {  # bytes of the weights, by part
        name: sum(p.numel() * 4 for parameter, p in model.named_parameters() if parameter.startswith(name))
        for name in controller.report().active
    }
    before = controller.report()
    assert before.switch_bytes == sum(compact.values())  # from the whole model, which is the bank, into compact tensors
    controller.begin_step(4)
    after = controller.report()
    exchanged = [name for name in compact if after.active[name] != before.active[name]]
    assert exchanged
    # weights and both Adam moments, to the bank and back
    assert after.switch_bytes - before.switch_bytes == 2 * 3 * sum(compact[name] for name in exchanged)
    assert after.switch_seconds > before.switch_seconds > 0
    assert after.probe_seconds == 0.0
    assert after.probe_flops == 0


def test_depth_copies_nothing():
    model = llama()
    optimizer = adamw(model)
    controller = attach(model, optimizer, 4, schedule=((0.0, 0.25), (0.5, 1.0)))
    train(model, optimizer, controller, 0, 4)
    report = controller.report()
    assert (report.switch_bytes, report.entries) == (0, 4)
    assert report.switch_seconds > 0


def test_probes_are_timed():
    model = llama(kv_heads=4)
    controller = attach(model, adamw(model), 4, axis="width", probe_batches=4)
    report = controller.report()
    assert report.probe_seconds > 0
    assert report.probe_flops == 4 * count_probe_pass()


def count_probe_pass():
    """One micro-batch of a gate probe by torch's own counter, where it sees attention."""
    with torch.device("meta"):
        model = llama(kv_heads=4)
    ids = torch.zeros((2, 8), dtype=torch.long, device="meta")
    mask = torch.zeros((2, 1, 8, 8), device="meta")
    controller = sat.sparsify_(
        model, adamw(model), sat.SATConfig(axis="width", probe_batches=1), total_steps=4, start=False,
        loss=lambda _: model(input_ids=ids, attention_mask=mask, labels=ids).loss,
    )  # fmt: skip
    return counted(controller.probe)


def test_a_resume_before_the_first_step_of_a_phase_counts_that_step():
    def fresh(seed=0):
        model = llama(seed)
        optimizer = adamw(model)
        return model, optimizer, attach(model, optimizer, 8, start=False, schedule=((0.0, 0.25), (0.5, 1.0)))

    model, optimizer, whole = fresh()
    train(model, optimizer, whole, 0, 8)
    model, optimizer, first = fresh()
    train(model, optimizer, first, 0, 4)
    first.begin_step(4)  # grown, and killed before the step
    state = first.state_dict()
    model, optimizer, second = fresh(seed=1)
    second.load_state_dict(state)
    train(model, optimizer, second, 4, 8)
    assert second.report() == whole.report()
    assert second.report().switch_seconds > first.report().switch_seconds * 0.5  # the first run's time is kept


def test_memory_says_what_it_is_of():
    model = llama()
    report = attach(model, adamw(model)).report()
    assert report.peak_memory_of == "resident set of the whole process"
    assert report.peak_memory_bytes > sum(p.numel() * 4 for p in model.parameters())


def test_nothing_is_left_on_the_model():
    model = llama()
    attach(model, adamw(model))
    sat.densify_(model)
    assert not model._forward_hooks
    assert not model._forward_pre_hooks


def test_the_report_is_a_table_and_plain_values():
    model = llama()
    optimizer = adamw(model)
    controller = attach(model, optimizer, 8, schedule=((0.0, 0.25), (0.5, 1.0)))
    train(model, optimizer, controller, 0, 8)
    report = controller.report()
    lines = str(report).splitlines()
    assert lines[0] == report.summary
    assert lines[2].split()[:4] == ["from", "step", "steps", "asked"]
    assert [line.split()[:3] for line in lines[4:6]] == [["0", "4", "25.0%"], ["4", "4", "100.0%"]]
    plain = json.loads(json.dumps(report.to_dict()))
    assert plain["total_flops"] == report.total_flops == sum(phase["flops"] for phase in plain["phases"])
    assert plain["peak_memory_bytes"] > 0
    assert plain["active"] == {"model.layers": [0, 1, 2, 3]}
    assert loss_of(model)(0).item() > 0
