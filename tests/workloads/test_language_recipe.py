import math
import re

import pytest
import torch
from language_runs import TINY, run_spec, write_text

from harness.suite.spec import Protocol
from harness.types import UserError
from harness.workloads.base import WORKLOADS
from harness.workloads.language import ladder
from harness.workloads.language.task import LanguageTask
from harness.workloads.language.workload import LanguageWorkload, memory_bytes, rate_of_width

WORKLOAD = LanguageWorkload()
DEFAULTS = WORKLOAD.Options().model_dump()


def test_it_is_registered():
    assert WORKLOADS.get("language") is LanguageWorkload
    assert WORKLOAD.sizes()[0] == "0.1M"
    assert WORKLOAD.metrics[0].name == "loss"


@pytest.mark.parametrize("size", ladder.SIZES)
def test_a_training_sees_the_tokens_asked_for(size):
    for wanted in (20.0, 0.5):
        options = {**DEFAULTS, "tokens_per_parameter": wanted}
        model = WORKLOAD.model(size, options)
        recipe = WORKLOAD.recipe(size, model, options, Protocol.TRAIN)
        tokens = recipe.batch_size * model["sequence_length"]
        assert 0 <= recipe.steps * tokens - wanted * WORKLOAD.parameters(model) < tokens
        assert recipe == WORKLOAD.recipe(size, model, options, Protocol.STEADY)


def test_the_learning_rate_falls_with_the_width_alone():
    rates = [rate_of_width(ladder.shape(size).width) for size in ladder.SIZES]
    assert rates == sorted(rates, reverse=True)
    for width, gpt3 in ((768, 6.0e-4), (2048, 2.0e-4), (5140, 1.0e-4)):
        assert 0.6 < rate_of_width(width) / gpt3 < 0.9
    assert rate_of_width(16) == 0.01


def test_another_sequence_length_keeps_the_tokens_of_a_step():
    options = {**DEFAULTS, "sequence_length": 64}
    model = WORKLOAD.model("0.1M", options)
    assert model["sequence_length"] == 64
    assert WORKLOAD.recipe("0.1M", model, options, Protocol.TRAIN).batch_size == 32


def test_another_vocabulary_is_made_room_for():
    model = WORKLOAD.model("1.6M", {**DEFAULTS, "vocabulary": 1024})
    assert model["vocab"] == 1024
    assert WORKLOAD.parameters(model) == pytest.approx(1.6e6, rel=0.05)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tokens_per_paramter": 3}, "tokens_per_paramter: Extra inputs are not permitted"),
        ({"tokens_per_parameter": 0}, "tokens_per_parameter: Input should be greater than 0"),
        ({"vocabulary": 300}, "options: vocabulary: 300 is neither 256 (bytes) nor at least 512 (byte-level BPE)"),
        (
            {"data_sha256": "0" * 64},
            "options: data_sha256 is for one's own text; the content of 'sotu' is pinned already",
        ),
        ({"data": "x", "data_sha256": "abc"}, "data_sha256: String should match pattern '^[0-9a-fA-F]{64}$'"),
        ({"sequence_length": 1}, "sequence_length: Input should be greater than or equal to 8"),
    ],
)
def test_wrong_options_are_named(options, message):
    with pytest.raises(UserError, match=re.escape(f"language options: {message}")):
        WORKLOAD.model("0.1M", options)


def test_own_text_must_be_there_before_anything_runs(tmp_path):
    options = {**DEFAULTS, "data": str(tmp_path / "mine.txt")}
    model = WORKLOAD.model("0.1M", options)
    for protocol in (Protocol.TRAIN, Protocol.STEADY):
        with pytest.raises(UserError, match=r"there is no file or folder '.*mine\.txt'"):
            WORKLOAD.recipe("0.1M", model, options, protocol)
    WORKLOAD.recipe("0.1M", model, options, Protocol.COUNT)  # counting reads no text
    (tmp_path / "mine.txt").write_text("here")
    WORKLOAD.recipe("0.1M", model, options, Protocol.TRAIN)


def kept_for_backward(task: LanguageTask, precision: str) -> int:
    """Bytes of distinct storages that autograd keeps of one forward pass, parameters apart."""
    kept = []
    own = {p.untyped_storage().data_ptr() for p in task.model.parameters()}

    def pack(tensor):
        kept.append(tensor)  # alive, so that no address is used twice
        return tensor

    with (
        torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor),
        torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"),
    ):
        task.loss(task.batch(0))
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in kept}
    return sum(size for address, size in storages.items() if address not in own)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_memory_estimate_knows_what_is_kept(tmp_path, precision):
    """Layers alone, by a difference: what six layers keep more than two."""
    kept, said = [], []
    for layers in (2, 6):
        shape = TINY.model_copy(update={"width": 32, "head_dim": 16, "hidden": 96, "layers": layers})
        options = {"data": str(write_text(tmp_path / "own.jsonl"))}
        spec = run_spec(shape, batch_size=64, options=options, recipe={"precision": precision})
        kept.append(kept_for_backward(LanguageTask(spec, torch.device("cpu")), precision))
        state = (18 if precision == "bf16" else 16) * shape.parameters
        said.append(memory_bytes(shape, spec.recipe) - state)
    assert said[1] - said[0] == pytest.approx(kept[1] - kept[0], rel=0.1)


def test_memory_grows_with_what_costs_memory():
    shape = ladder.shape("124M")
    recipe = WORKLOAD.recipe("124M", shape.model_dump(), DEFAULTS, Protocol.TRAIN)
    base = memory_bytes(shape, recipe)
    assert memory_bytes(shape, recipe.model_copy(update={"batch_size": 32})) > base
    assert memory_bytes(shape, recipe.model_copy(update={"checkpointing": True})) < base
    assert memory_bytes(ladder.shape("350M"), recipe) > base
    assert 16 * 13e9 < memory_bytes(ladder.shape("13B"), recipe.model_copy(update={"checkpointing": True})) < math.inf
