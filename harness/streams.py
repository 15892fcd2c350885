"""The standard streams as a shell, a cron job or an old terminal may leave them: closed, or not UTF-8."""

from __future__ import annotations

import codecs
import os
import re
import sys
from itertools import groupby

_PLAIN = {"−": "-", "±": "+/-", "×": "x", "µ": "u", "–": "-", "—": "-", "…": "...", "✓": "ok", "✗": "failed", "·": "."}
_RAISED = dict(zip("⁻⁰¹²³⁴⁵⁶⁷⁸⁹", "-0123456789", strict=True))
_ERRORS = "harness.plain"
# C0 but tab and newline, DEL, C1, and what turns the direction of writing round (Unicode, bidirectional controls)
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def visible(text: str) -> str:
    """Text as a terminal may get it: control characters as pictures ("␛" for escape), so that none is obeyed.

    Titles, labels and names come from suite files, records and other programs' messages.
    """
    return _CONTROL.sub(lambda found: _picture(ord(found[0])), text)


def visible_json(text: str) -> str:
    """The same for JSON, where an escape says the same thing."""
    return _CONTROL.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def _picture(code: int) -> str:
    return chr(0x2400 + code) if code < 0x20 else "\u2421" if code == 0x7F else "\ufffd"


def prepare_streams() -> None:
    """Make the standard streams usable: called once, before anything is opened or printed.

    A closed one becomes the null device, else the next file that is opened would take its number and get what is
    printed. One that can't show all characters gets plain ones in their place; a minus sign stays one.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number: this one
            os.set_inheritable(descriptor, True)
    sys.stdin = sys.stdin or os.fdopen(0, closefd=False)
    sys.stdout = sys.stdout or os.fdopen(1, "w", encoding="utf-8", closefd=False)
    sys.stderr = sys.stderr or os.fdopen(2, "w", encoding="utf-8", closefd=False)
    codecs.register_error(_ERRORS, plain)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure") and codecs.lookup(stream.encoding or "ascii").name != "utf-8":
            stream.reconfigure(errors=_ERRORS)


def plain(error: UnicodeError) -> tuple[str, int]:
    """Error handler of codecs: ASCII for what can't be encoded, its code point where nothing else will do."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    told = ""
    for raised, characters in groupby(error.object[error.start : error.end], lambda c: c in _RAISED):
        if raised:
            told += "^" + "".join(_RAISED[character] for character in characters)
        else:
            told += "".join(_PLAIN.get(c) or c.encode("ascii", "backslashreplace").decode() for c in characters)
    return told, error.end
