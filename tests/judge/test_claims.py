"""Claims files: the shipped one is whole, bad ones are refused with their place."""

from __future__ import annotations

import pytest

from harness.judge.claims import load_claims, parse_claims, shipped
from harness.types import UserError

IDS = [
    "energy-range",
    "energy-small",
    "energy-large",
    "scale-trend",
    "parity",
    "cost",
    "hardware",
    "vision",
    "glue",
    "translation",
    "flops-13b",
    "active-share",
    "re-entry",
    "multimodal",
    "rlhf",
    "compounding",
]


def test_the_shipped_file_has_every_claim_with_the_articles_figures():
    claims = {claim.id: claim for claim in load_claims("sat-article")}
    assert list(claims) == IDS
    assert (claims["energy-range"].at_least, claims["energy-range"].at_most) == (0.62, 0.75)
    assert (claims["energy-small"].at_least, claims["energy-small"].max_parameters) == (0.45, 1e9)
    large = claims["energy-large"]
    assert (large.at_least, large.min_parameters, large.protocol, large.aggregate) == (0.70, 1e10, "steady", "each")
    assert (claims["parity"].quality_metric, claims["parity"].quality_margin) == ("accuracy", 0.3)
    assert claims["cost"].at_least == 0.75
    flops = claims["flops-13b"]
    assert (flops.at_least, flops.quality_margin, flops.quality_relative) == (0.73, 0.012, True)
    assert flops.min_parameters < 13e9 < flops.max_parameters
    assert (claims["active-share"].at_least, claims["active-share"].at_most) == (0.25, 0.38)
    assert claims["hardware"].hardware == ("A100", "H100")
    assert {i for i, c in claims.items() if c.context} == {"rlhf", "compounding"}
    assert all(claim.how and claim.needs for claim in claims.values())


def test_prices_are_not_claims():
    assert shipped() == ["sat-article"]


def test_unknown_name_suggests():
    with pytest.raises(UserError, match="did you mean 'sat-article'"):
        load_claims("sat-articel")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match="can't be read: No such file"):
        load_claims(str(tmp_path / "mine.yaml"))


def test_a_file_of_ones_own(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("claims:\n- {id: a, text: t, metric: energy_saving, at_least: 0.1, arms: [mine]}\n")
    assert load_claims(str(path))[0].arms == ("mine",)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "is empty"),
        ("claims: []\n", "at least one claim"),
        ("claim: []\n", "did you mean 'claims'"),
        ("claims:\n- a\n", "must be a mapping"),
        ("claims:\n- {id: a, text: t}\n", "'metric' is missing"),
        ("claims:\n- {id: a, text: t, metric: speed}\n", "claim 'a': metric"),
        ("claims:\n- {id: a, text: t, metric: quality, at_last: 1}\n", "did you mean 'at_least'"),
        ("claims:\n- {id: a, text: t, metric: energy_saving}\n", "needs 'at_least'"),
        ("claims:\n- {id: a, text: t, metric: energy_saving, at_least: 62}\n", "0.62 for 62 %"),
        ("claims:\n- {id: a, text: t, metric: active_share, at_least: 0.4, at_most: 0.3}\n", "above at_most"),
        ("claims:\n- {id: a, text: t, metric: quality}\n", "needs 'quality_metric'"),
        ("claims:\n- {id: a, text: t, metric: quality, quality_metric: loss}\n", "go together"),
        ("claims:\n- {id: a, text: t, metric: hardware}\n", "needs 'hardware'"),
        ("claims:\n- {id: a, text: t, metric: none}\n", "what it would take"),
        ("claims:\n- {id: a, text: t, metric: none, needs: x}\n- {id: a, text: t, metric: none, needs: x}\n",
         "claim 'a' is there already, at mine.yaml:2"),
        ("claims:\n- {id: a, text: t, metric: none, needs: x, id: b}\n", "id"),
    ],
)  # fmt: skip
def test_mistakes_are_told_with_file_and_line(text, says):
    with pytest.raises(UserError) as error:
        parse_claims(text.encode(), "mine.yaml")
    assert says in str(error.value)
    assert "mine.yaml" in str(error.value)


def test_all_mistakes_at_once():
    text = "claims:\n- {id: a, text: t, metric: hardware}\n- {id: b, text: t}\n- {id: c, text: t, metric: quality}\n"
    with pytest.raises(UserError) as error:
        parse_claims(text.encode(), "mine.yaml")
    assert all(f"mine.yaml:{line}" in str(error.value) for line in (2, 3, 4))
