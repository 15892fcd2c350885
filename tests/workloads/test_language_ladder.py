import re
import subprocess
import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from harness.types import UserError
from harness.workloads.language import ladder
from harness.workloads.language.ladder import SIZES, Shape
from harness.workloads.language.task import make_model


def built_parameters(shape: Shape) -> int:
    """Counted on the real model."""
    model = make_model(shape, 0, torch.device("meta"))
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("size", SIZES)
def test_a_rung_is_what_its_label_says_and_what_is_built(size):
    shape = ladder.shape(size)
    assert shape.parameters == pytest.approx(ladder.parse_size(size), rel=0.05)
    assert shape.parameters == built_parameters(shape)


def test_rungs_rise_together():
    shapes = [ladder.shape(size) for size in SIZES]
    for rising in ("parameters", "layers", "width", "vocab", "sequence_length", "head_dim"):
        values = [getattr(shape, rising) for shape in shapes]
        assert values == sorted(values), rising
    assert len({shape.parameters for shape in shapes}) == len(SIZES)
    assert (shapes[0].layers, shapes[-1].layers) == (6, 40)
    assert [size for size, shape in zip(SIZES, shapes, strict=True) if not shape.tied] == ["1.3B", "3B", "7B", "13B"]


@given(st.floats(2e4, 1e11))
def test_any_size_follows_the_rule(target):
    shape = ladder.shape(f"{target / 1e3:.3f}K")
    assert shape.parameters == pytest.approx(target, rel=0.15)
    assert shape.layers % 2 == 0
    assert shape.width % 8 == 0
    assert shape.width == shape.heads * shape.head_dim
    assert shape.hidden % max(16, shape.head_dim) == 0
    assert 1.3 <= shape.hidden / shape.width <= 5.5


def test_shapes_are_pinned():
    """Results are comparable only while a rung keeps its shape: change one, raise the workload's version."""
    assert ladder.shape("0.1M") == Shape(
        layers=6, width=32, heads=4, kv_heads=4, head_dim=8, hidden=112, vocab=256, sequence_length=128, tied=True
    )
    assert ladder.shape("124M") == Shape(
        layers=18, width=704, heads=11, kv_heads=11, head_dim=64, hidden=1728, vocab=32_000, sequence_length=1024,
        tied=True,
    )  # fmt: skip
    assert ladder.shape("13B") == Shape(
        layers=40, width=5120, heads=40, kv_heads=40, head_dim=128, hidden=13_824, vocab=32_000, sequence_length=2048,
        tied=False,
    )  # fmt: skip


@pytest.mark.parametrize("size", ["", "M", "12", "0.1m", "-1M", "1.M", "1MB", "huge", "1e6"])
def test_what_is_no_size_is_refused(size):
    with pytest.raises(UserError, match=re.escape(f"size {size!r} is not a number with K, M or B")):
        ladder.shape(size)


@pytest.mark.parametrize("size", ["1K", "2000B", "0M"])
def test_a_size_beyond_reason_is_refused(size):
    with pytest.raises(UserError, match="is outside 20K to 1000B parameters"):
        ladder.shape(size)


def test_a_vocabulary_that_eats_the_model_is_refused():
    with pytest.raises(UserError, match=r"a vocabulary of 32,000 does not fit a model of 0\.1M parameters"):
        ladder.shape("0.1M", vocab=32_000)


@pytest.mark.parametrize("layers", [2, 12, 24])
def test_another_depth_keeps_the_size(layers):
    found = ladder.shape("0.1M", layers=layers)
    assert found.layers == layers
    assert found.parameters == pytest.approx(1e5, rel=0.15)
    assert built_parameters(found) == found.parameters


def test_a_depth_that_eats_the_model_is_refused():
    with pytest.raises(UserError, match=r"a vocabulary of 256 with 500 layers does not fit .*, or fewer 'layers'"):
        ladder.shape("0.1M", layers=500)


@pytest.mark.parametrize("size", ["0.1M", "0.8M", "10M", "350M"])
def test_smaller_models_are_complete_and_get_smaller(size):
    full = ladder.shape(size)
    shallower = ladder.smaller(full, "depth")
    assert [shape.layers for shape in shallower] == list(range(full.layers - 1, 0, -1))
    narrower = ladder.smaller(full, "width")
    assert [shape.heads for shape in narrower] == list(range(full.heads - 1, 0, -1))
    for found in (shallower, narrower):
        sizes = [shape.parameters for shape in found]
        assert sizes == sorted(sizes, reverse=True)
        assert sizes[0] < full.parameters
        assert len(set(sizes)) == len(sizes)
        assert built_parameters(found[0]) == sizes[0]
        assert built_parameters(found[-1]) == sizes[-1]
    for shape in narrower:
        assert shape.width == shape.heads * full.head_dim
        assert shape.hidden / shape.width == pytest.approx(full.hidden / full.width, rel=0.5)


def test_smaller_models_keep_groups_of_query_heads():
    full = Shape(
        layers=2, width=64, heads=8, kv_heads=4, head_dim=8, hidden=160, vocab=256, sequence_length=16, tied=False
    )
    assert [(s.heads, s.kv_heads, s.width) for s in ladder.smaller(full, "width")] == [
        (6, 3, 48),
        (4, 2, 32),
        (2, 1, 16),
    ]
    assert built_parameters(full) == full.parameters


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layers": 0}, "layers: Input should be greater than or equal to 1"),
        ({"colour": 1}, "colour: Extra inputs are not permitted"),
        ({"kv_heads": 3}, "model: Value error, 4 heads can't share 3 KV heads evenly"),
    ],
)
def test_a_broken_shape_is_refused(change, message):
    with pytest.raises(UserError, match=re.escape(f"language model shape: {message}")):
        Shape.read({**ladder.shape("0.1M").model_dump(), **change})


def test_planning_imports_no_torch():
    program = (
        "import sys; from harness.workloads.base import WORKLOADS; from harness.suite.spec import Phase, Protocol\n"
        "w = WORKLOADS.get('language')(); o = w.Options().model_dump(); m = w.model('13B', o)\n"
        "r = w.recipe('13B', m, o, Protocol.STEADY); w.step_flops(m, r, o, Phase(steps=1)); w.memory_bytes(m, r, o)\n"
        "w.smaller(m, 'width'); print(sorted({'torch', 'transformers', 'tokenizers', 'scipy'} & set(sys.modules)))"
    )
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
