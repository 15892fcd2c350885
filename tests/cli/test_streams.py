"""Text for terminals that know ASCII only."""

from __future__ import annotations

import pytest

from harness.streams import plain, prepare_streams


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("saves −3.0 %", b"saves -3.0 %"),  # the sign is never lost
        ("18 mJ ± 1", b"18 mJ +/- 1"),
        ("1.2 × 10⁻³ J", b"1.2 x 10^-3 J"),
        ("✓ µs … 10⁷", b"ok us ... 10^7"),
        ("naïve 漢", b"na\\xefve \\u6f22"),
    ],
)
def test_what_ascii_lacks_is_told_in_ascii(text, told):
    prepare_streams()
    assert text.encode("ascii", "harness.plain") == told


def test_what_can_not_be_decoded_is_an_error_as_ever():
    with pytest.raises(UnicodeDecodeError):
        plain(UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad"))
