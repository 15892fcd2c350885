from __future__ import annotations

import pytest
import torch.cuda
from hypothesis import given
from hypothesis import strategies as st

from harness.meter.visible import visible_cards

A, B, C = "GPU-aaaa1111", "GPU-aaaa2222", "GPU-bbbb0000"
CARDS = [A, B, C]


@pytest.mark.parametrize(
    ("value", "visible"),
    [
        (None, CARDS),
        ("", []),
        ("0", [A]),
        ("2,0", [C, A]),
        (" 1 , 2", [B, C]),
        ("1,-1,2", [B]),
        ("-1", []),
        ("NoDevFiles", []),
        ("7", []),
        ("0,7,1", [A]),
        ("0,0", []),
        ("1gpu,2", [B, C]),
        (B, [B]),
        (f"{C},{A}", [C, A]),
        ("GPU-b", [C]),
        ("GPU-aaaa2", [B]),
        ("GPU-aaaa", []),  # of two cards
        (f"{C},GPU-b", []),  # the same twice
        (f"{C},GPU-x,{A}", [C]),
        (f"{C},0", [C]),
        ("MIG-GPU-aaaa1111/3/0", ["MIG-GPU-aaaa1111/3/0"]),
        ("MIG-5,MIG-6", ["MIG-5", "MIG-6"]),
    ],
)
def test_cuda_visible_devices(value, visible):
    assert visible_cards(value, CARDS) == visible


entry = st.sampled_from(["0", "1", "2", "3", "-1", "", "x", "1y", A, B, C, "GPU-b", "GPU-aaaa", "GPU-aaaa1"])


@given(st.lists(entry, min_size=1, max_size=4))
def test_it_agrees_with_torch(entries):
    value = ",".join(entries)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CUDA_VISIBLE_DEVICES", value)
        parsed = torch.cuda._parse_visible_devices()
    if parsed and isinstance(parsed[0], str):
        parsed = torch.cuda._transform_uuid_to_ordinals(parsed, CARDS)
    expected = []
    for index in parsed:
        if index >= len(CARDS):
            break
        expected.append(CARDS[index])
    assert visible_cards(value, CARDS) == expected
