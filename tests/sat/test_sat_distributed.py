"""Two processes (gloo, CPU) train as one does; every case runs in one pair of them, ``sat_processes.py``."""

from __future__ import annotations

import pytest
import torch
from sat_models import llama
from sat_processes import ARMS, Training, accumulated, cases, trained

import sat
import sat.distributed


def compare(ranks, alone):
    assert ranks[0] == ranks[1]
    assert ranks[0]["active"] == alone["active"]
    assert ranks[0]["losses"] == pytest.approx(alone["losses"], abs=1e-5, rel=0)


@pytest.mark.parametrize("arm", ARMS)
@pytest.mark.parametrize("wrap", ["ddp", "fsdp"])
def test_two_processes_train_as_one_does_on_the_whole_batch(of, wrap, arm):
    compare(of(f"{wrap}, {arm}"), trained("none", arm, 0, 1))


@pytest.mark.parametrize("arm", ["depth, rotating", "width, rotating", "freeze", "backward_drop"])
@pytest.mark.parametrize("wrap", ["ddp", "fsdp"])
def test_what_re_chooses_does_exchange_units(of, wrap, arm):
    assert of(f"{wrap}, {arm}")[0]["exits"] > 0


@pytest.mark.parametrize("arm", ["width", "depth"])
@pytest.mark.parametrize("option", ["find_unused_parameters", "gradient_as_bucket_view", "static_graph"])
def test_options_of_ddp_are_kept(of, option, arm):
    compare(of(f"{option}, {arm}"), trained("none", arm, 0, 1))


def test_a_model_may_be_wrapped_before_it_is_sparsified(of):
    compare(of("wrapped before"), trained("none", "width", 0, 1))


def test_layers_that_are_out_start_from_rank_0s_weights_too(of):
    compare(of("other weights on rank 1"), trained("none", "depth", 0, 1))


def test_gradient_accumulation_and_the_plain_model_afterwards(of):
    ranks, alone = of("accumulated"), accumulated(0, 1)
    compare(ranks, alone)


def test_a_resumed_training_goes_on_bit_for_bit(of):
    for result in of("resumed"):
        assert result["losses"] == result["expected"]


@pytest.mark.parametrize("arm", ["depth", "width", "freeze"])
@pytest.mark.parametrize("wrap", ["ddp", "fsdp"])
def test_a_distributed_checkpoint_is_read_by_two_processes_or_one(of, directory, wrap, arm):
    ranks = of(f"saved, {wrap}, {arm}")
    for result in ranks:
        assert result["losses"] == result["expected"]  # to the bit
        assert result["same"]
    alone = Training("none", arm, 0, 1, seed=3)
    sat.distributed.load(alone.controller, directory / f"{wrap}-{arm}")
    assert alone.run(3) == pytest.approx(ranks[0]["expected"], abs=1e-5, rel=0)


def test_a_plain_model_reads_its_part_of_a_distributed_checkpoint(of, directory):
    of("saved, fsdp, width")
    plain = Training("none", "width", 0, 1, seed=3)
    sat.distributed.load(plain.controller, directory / "fsdp-width")
    expected = sat.state_dict(plain.model)
    dense = {f"model.{name}": torch.zeros_like(value) for name, value in expected.items()}
    torch.distributed.checkpoint.load(dense, checkpoint_id=directory / "fsdp-width", no_dist=True)
    assert all(torch.equal(dense[f"model.{name}"], value) for name, value in expected.items())


def test_a_distributed_checkpoint_of_something_else_is_refused(of, directory):
    of("saved, ddp, width")
    other = Training("none", "depth", 0, 1)
    with pytest.raises(ValueError, match="its config is"):
        sat.distributed.load(other.controller, directory / "ddp-width")


def test_scores_that_differ_give_the_same_masks(of):
    first, second = of("other scores")
    assert first["equal"]
    assert first["scored"] == second["scored"] > 0


def test_units_that_differ_are_an_error_that_names_the_site(of):
    for result in of("exchanged units"):
        assert "active units of model.layers.0.mlp differ between processes: " in result["error"]
        assert "on rank 1" in result["error"]


def test_weights_that_drift_apart_are_an_error(of):
    for result in of("nudged weight"):
        assert "weights model.norm.weight differ between processes" in result["error"]


def test_settings_that_differ_are_an_error(of):
    for result in of("other settings"):
        assert "settings differ between processes" in result["error"]


def test_the_wrong_order_is_an_error_that_says_the_right_one(of):
    for result in of("wrong order"):
        assert "sat.sparsify_(ddp.module, ...)" in result["ddp"]
        assert "call fully_shard(model) last, then build the optimizer, then sparsify_" in result["fsdp without a root"]
        assert "call fully_shard first, then build the optimizer" in result["fsdp afterwards"]


def test_the_documented_script_runs(of):
    first, second = of("documented")
    assert first["active"] == second["active"] == 1.0
    assert first["plain"].keys() == llama(layers=2).state_dict().keys()
    assert all(torch.equal(value, second["plain"][name]) for name, value in first["plain"].items())


def test_all_cases_are_looked_at(results, directory):
    assert list(results[0]) == ["documented", *cases(directory)]
