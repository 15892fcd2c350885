"""Whatever is in a suite file: it loads, or the user is told what is wrong. Nothing else may happen."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harness.suite.load import loads
from harness.suite.override import parse_path
from harness.types import UserError

TEXT = """\
name: demo
title: A demo
question: does it?
workload: toy
workload_options: {context: 32}
recipe: {steps: 20, warmup_share: 0.1}
baseline: dense
arms:
  again: dense
  sat: {share: 0.25, options: {interval: 5}}
  short: {method: dense-short, match: sat}
experiments:
  - {protocol: train, sizes: [0.1M, 0.2M], seeds: 2, arms: [dense, again, sat, short], recipe: {steps: 30}}
  - {protocol: count, sizes: [13B], arms: [dense, sat], options: {text: austen}}
meter: auto
device: auto
footprint: {pue: 1.1, pue_source: Uptime 2024}
budget: 9m
timeout: 90
cooldown_c: 3
sample_hz: 10
"""
DATA = yaml.safe_load(TEXT)
PATHS = [
    (), ("name",), ("workload",), ("workload_options",), ("workload_options", "context"), ("recipe", "steps"),
    ("baseline",), ("arms",), ("arms", "again"), ("arms", "sat"), ("arms", "sat", "share"), ("arms", "sat", "options"),
    ("arms", "short", "match"), ("arms", "short", "method"), ("experiments",), ("experiments", 0),
    ("experiments", 0, "protocol"), ("experiments", 0, "sizes"), ("experiments", 0, "sizes", 1),
    ("experiments", 0, "seeds"), ("experiments", 0, "arms"), ("experiments", 0, "arms", 2),
    ("experiments", 0, "recipe"), ("experiments", 1, "options"), ("claims",), ("meter",), ("device",), ("footprint",),
    ("footprint", "pue"), ("budget",), ("timeout",), ("cooldown_c",), ("sample_hz",),
]  # fmt: skip
WORDS = [
    "dense",
    "sat",
    "short",
    "dense-short",
    "toy",
    "train",
    "count",
    "0.1M",
    "13B",
    "",
    "9m",
    "replay:",
    "simulated:",
    "simulated:h100",
    "x.yaml",
    "options",
]

scalars = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from(WORDS) | st.text(max_size=8) | st.dates()
)
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(WORDS) | st.text(max_size=6) | st.integers() | st.booleans(), inner, max_size=4
        )
    ),
    max_leaves=8,
)
patient = settings(
    max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


def loads_or_user_error(raw: bytes | str, changes: tuple[str, ...] = ()) -> None:
    try:
        said = loads(raw, "s.yaml", changes=changes).name
    except UserError as error:
        said = str(error)
    assert said.strip()


@pytest.mark.usefixtures("toys")
def test_the_seed_of_the_mutations_loads() -> None:
    assert len(loads(TEXT).experiments) == 2


@pytest.mark.usefixtures("toys")
@patient
@given(changes=st.lists(st.tuples(st.sampled_from(PATHS), values), min_size=1, max_size=3))
def test_any_value_anywhere(changes: list[tuple[tuple[Any, ...], Any]]) -> None:
    data: Any = copy.deepcopy(DATA)
    for path, value in changes:
        if not path:
            data = value
            continue
        holder = data
        try:
            for part in path[:-1]:
                holder = holder[part]
            holder[path[-1]] = value
        except (KeyError, IndexError, TypeError):
            continue
    loads_or_user_error(yaml.safe_dump(data, allow_unicode=True))


@pytest.mark.usefixtures("toys")
@patient
@given(st.data())
def test_any_edit_of_the_text(data: st.DataObject) -> None:
    raw = bytearray(TEXT.encode())
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(raw) - 1))
        length = data.draw(st.integers(0, 6))
        raw[at : at + length] = data.draw(
            st.binary(max_size=4)
            | st.sampled_from([b"*a", b"&a ", b"!!x ", b"\t", b"- ", b": ", b"{", b"[", b"'", b"\n", b"? ", b"<<: "])
        )
    loads_or_user_error(bytes(raw))


@pytest.mark.usefixtures("toys")
@patient
@given(
    path=st.sampled_from(
        ["seeds", "experiments[0].seeds", "experiments[3].x", "arms.sat", "arms.sat.share.x", "a[0][1]"]
    )
    | st.text(max_size=12),
    value=st.text(max_size=12),
)
def test_any_set(path: str, value: str) -> None:
    loads_or_user_error(TEXT, (f"{path}={value}",))


@given(st.lists(st.from_regex(r"[a-z0-9_-]{1,8}", fullmatch=True), min_size=1, max_size=4), st.lists(st.integers(0, 9)))
def test_a_path_is_read_back(names: list[str], indices: list[int]) -> None:
    text = ".".join(names) + "".join(f"[{index}]" for index in indices)
    assert parse_path(text) == (*names, *indices)
