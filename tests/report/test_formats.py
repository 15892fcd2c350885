"""Numbers in words: what is missing is a word, what is shown is the number."""

from __future__ import annotations

import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.judge.types import Estimate
from harness.report import formats
from harness.types import Basis

finite = st.floats(min_value=-1e12, max_value=1e12, allow_nan=False)


def estimate(value: float, low: float | None, high: float | None, **changes: object) -> Estimate:
    return Estimate.model_validate(
        {"value": value, "low": low, "high": high, "n": 3, "unit": "share", "basis": "measured", **changes}
    )


@pytest.mark.parametrize(
    ("made", "words"),
    [
        (estimate(0.618, 0.602, 0.633), "61.8 % [60.2, 63.3], n=3, measured"),
        (estimate(0.45, None, None, n=1), "45.0 % (n=1, no interval), measured"),
        (estimate(-0.031, -0.05, -0.012, basis="modelled"), "−3.1 % [−5.0, −1.2], n=3, modelled"),
        (estimate(0.6605, None, None, n=1, basis="counted"), "66.0 % (exact count), counted"),
        (
            estimate(0.0342, 0.0281, 0.0403, unit="nats per token"),
            "0.0342 nats per token [0.0281, 0.0403], n=3, measured",
        ),
        (estimate(0.0002, -0.027, 0.027), "0.0 % [−2.7, 2.7], n=3, measured"),
        (estimate(0.055, 0.021, 0.089, unit="share per decade"), "5.5 points per decade [2.1, 8.9], n=3, measured"),
        (estimate(1532.0, 1480.0, 1584.0, unit="J"), "1.532 kJ [1.480, 1.584], n=3, measured"),
        (estimate(0.618, 0.602, 0.633, level=0.9), "61.8 % [60.2, 63.3] at 90 %, n=3, measured"),
        (estimate(-2.34, -18.7, 14.0, unit="points worse"), "−2.3 points worse [−18.7, 14.0], n=3, measured"),
        (estimate(72, None, None, unit="returns", basis="counted"), "72 returns (exact count), counted"),
    ],
)
def test_estimates_in_words(made: Estimate, words: str) -> None:
    assert formats.estimate_text(made) == words


@pytest.mark.parametrize(
    ("value", "unit", "words"),
    [
        (None, "J", "not measured"), (0.0, "J", "0 J"), (950.0, "J", "950 J"), (999.8, "J", "1.00 kJ"),
        (3.6e6, "J", "3.60 MJ"), (0.00123, "kWh", "1.23 Wh"), (2.5e-5, "USD", "25.0 µUSD"), (90.0, "s", "1.50 min"),
        (1.23e15, "FLOPs", "1.23 PFLOPs"), (-0.0312, "share", "−3.1 %"), (7e22, "widgets", "7.00 × 10²² widgets"),
    ],
)  # fmt: skip
def test_quantities(value: float | None, unit: str, words: str) -> None:
    assert formats.quantity(value, unit) == words


@pytest.mark.parametrize(
    ("count", "words"),
    [(None, "not measured"), (110_000, "110 k"), (1e6, "1 M"), (3.1e6, "3.1 M"), (124e6, "124 M"), (1.3e10, "13 B")],
)
def test_parameters(count: float | None, words: str) -> None:
    assert formats.parameters(count) == words


@given(finite)
def test_significant_says_the_number(value: float) -> None:
    text = formats.significant(value, 3)
    plain = text.replace(",", "").replace(formats.MINUS, "-")
    power = re.fullmatch(r"(.+) × 10(.+)", plain)
    if power:
        exponent = power[2].translate(str.maketrans("⁻⁰¹²³⁴⁵⁶⁷⁸⁹", "-0123456789"))
        read = float(power[1]) * 10.0 ** int(exponent)
    else:
        read = float(plain)
    assert math.isclose(read, value, rel_tol=0.006, abs_tol=1e-300)


def test_a_number_too_small_for_its_unit_is_0():
    assert "0" in formats.shown(estimate(5e-324, -1000.0, 1000.0, unit="J")).number  # underflows in kJ


@given(finite, st.floats(min_value=1e-9, max_value=1e6), st.sampled_from(["share", "J", "nats per token", "kWh"]))
def test_interval_ends_never_change_places(value: float, half: float, unit: str) -> None:
    words = formats.shown(estimate(value, value - half, value + half, unit=unit))
    assert not re.search(r"nan|inf|None", words.text)
    if "×" in words.interval:
        return
    low, high = re.fullmatch(r"\[(.+), (.+)\]", words.interval).groups()  # type: ignore[union-attr]
    read = [float(end.replace(",", "").replace(formats.MINUS, "-")) for end in (low, high)]
    assert read[0] <= read[1]


@given(st.floats(min_value=-1e5, max_value=1e5, allow_nan=False))
def test_no_negative_zero(value: float) -> None:
    assert not re.fullmatch(r"−0(\.0*)?", formats.fixed(value, 2))


@pytest.mark.parametrize(("value", "plus"), [(0.02, "+"), (-0.02, ""), (0.00001, ""), (0.0, "")])
def test_plus_sign_only_before_what_is_shown_as_positive(value: float, plus: str) -> None:
    assert formats.shown(estimate(value, value - 0.01, value + 0.01)).plus == plus


def test_every_basis_has_its_word() -> None:
    for basis in Basis:
        assert formats.estimate_text(estimate(0.5, None, None, n=2, basis=basis)).endswith(basis.value)


@pytest.mark.parametrize(
    ("value", "words"), [(None, "no test"), (0.0123, "p = 0.012"), (0.0004, "p < 0.001"), (1.0, "p = 1.000")]
)
def test_p_values(value: float | None, words: str) -> None:
    assert formats.p_value(value) == words


@pytest.mark.parametrize(("label", "inside"), [("Held-out loss", "held-out loss"), ("BLEU", "BLEU"), ("", "")])
def test_labels_inside_a_sentence(label: str, inside: str) -> None:
    assert formats.inner(label) == inside
