"""A set that was begun on one machine and card goes on there, or elsewhere with new blocks alone."""

from __future__ import annotations

import pytest
from small import Watcher, walk, write_suite

from harness import app
from harness.errors import UserError
from harness.judge.compare import compare
from harness.record import fingerprint
from harness.record.ledger import Ledger
from harness.run import place

CARD = """\
load: {power_w: 100}
cards: [{sensor: {period_s: 0.001, window_s: 0.001}, counter: {of: power, period_s: 0.001}, seed: %d}]
"""


class Stops(Watcher):
    """Ends a walk with ^C after so many runs, in the middle of a block."""

    def end(self, record) -> None:
        super().end(record)
        if len(self.records) == 3:
            raise KeyboardInterrupt


@pytest.fixture(scope="module")
def module_revision():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fingerprint, "code_revision", lambda *_: "test")
        yield


@pytest.fixture(scope="module")
def begun(tmp_path_factory, module_revision):
    """Three blocks of two runs; on card 1 seed 0 was done and seed 1 half done when it was stopped."""
    folder = tmp_path_factory.mktemp("begun")
    suite = write_suite(folder / "s.yaml", seeds=3, arms="dense, sat", steps=4)
    for number in (1, 2):
        (folder / f"card{number}.yaml").write_text(CARD % number)
    outcome, _ = walk(suite, folder / "set", Stops(), meter=card(folder, 1))
    assert outcome.interrupted
    return suite, folder


def card(folder, number):
    return app.choose_meter(f"simulated:{folder / f'card{number}.yaml'}", "cpu")


def test_another_card_is_refused_and_both_are_named(begun):
    suite, folder = begun
    with pytest.raises(UserError, match=r"3 runs made elsewhere.*GPU-SIMULATED-.*here is GPU-SIMULATED-.*--new-blocks"):
        walk(suite, folder / "set", meter=card(folder, 2))
    assert len(Ledger(folder / "set").records()) == 3


def test_on_another_card_new_blocks_are_whole_and_the_first_card_finishes_its_own(begun):
    suite, folder = begun
    outcome, watcher = walk(suite, folder / "set", meter=card(folder, 2), new_blocks=True)
    assert outcome.new == 2
    assert "2 of 3 blocks were begun on another machine or card: left to it" in watcher.said
    outcome, _ = walk(suite, folder / "set", meter=card(folder, 1), new_blocks=True)
    assert outcome.new == 1
    records = Ledger(folder / "set").records()
    places = {(record.block_id, place.of_record(record)) for record in records}
    assert len(places) == len({block for block, _ in places}) == 3  # no block lies on two cards
    (comparison,) = compare(records, "dense")
    assert [row.seed for row in comparison.pairs] == [0, 1, 2]
    assert comparison.invalid == ""


def test_another_gpu_and_another_machine_are_told_apart(begun):
    _, folder = begun
    record = Ledger(folder / "set").records()[0]
    here = place.of_record(record)
    moved = record.model_copy(update={"device_id": "GPU-1", "fingerprint": {"gpu": "NVIDIA H100"}})
    assert place.told(moved, here) == "on NVIDIA H100 (GPU-1), here is cpu"
    assert "another machine" in place.told(record.model_copy(update={"fingerprint_id": "x"}), here)
    assert place.others([record, moved], here) == [moved]
