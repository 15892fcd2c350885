"""Controls that spent other FLOPs take no error level from those that spent the same."""

from __future__ import annotations

from synthetic import ARMS, records, suite_arms

from harness.judge import controls, stats
from harness.judge.claims import load_claims
from harness.judge.controls import control_rows, is_fair
from harness.judge.metrics import Directions, metrics_of


def test_fair_controls_are_a_family_of_their_own(monkeypatch):
    families: list[int] = []

    def holm(values):
        families.append(len(values))
        return stats.holm(values)

    monkeypatch.setattr(controls, "stats", type("Spied", (), {**vars(stats), "holm": staticmethod(holm)}))
    good = {record.run_id: record for record in records(noise=0.02)}
    rows = control_rows(good, load_claims("sat-article"), "dense", suite_arms(ARMS), Directions(metrics_of("language")))
    losses = [row for row in rows if row.metric == "loss"]
    fair = sum(map(is_fair, losses))
    assert 0 < fair < len(losses)
    assert families[:2] == [fair, len(losses) - fair]
