"""Where the text comes from: documents in order, with a hash of their content. No torch.

Three sources: the State of the Union addresses that ship with the harness, one's own text, and the Markov
source of known entropy (``markov.py``). The split is by document: every tenth is held out.
"""

from __future__ import annotations

import hashlib
import json
import lzma
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from harness.types import UserError

T = TypeVar("T")

SOTU = "sotu"
SOTU_FILE = Path(__file__).parent / "data" / "sotu.jsonl.xz"
SOTU_SHA256 = "220f13c3628d4d2c7b9b54c13817897a6f0286118e23f882fe5a3cb2b8c35530"
"""Of the decompressed content of ``data/sotu.jsonl.xz``."""

HELD_OUT_EVERY = 10
LEAST_DOCUMENTS = 2 * HELD_OUT_EVERY
"""Two held-out documents at least: with one there is no standard error."""


@dataclass(frozen=True, slots=True)
class Source:
    """Raw text, hashed but not yet cut into documents."""

    name: str  # for people and messages
    sha256: str
    documents: Callable[[], list[str]]


def split(documents: Sequence[T]) -> tuple[list[T], list[T]]:
    """``(training, held out)``: the 10th, 20th ... document is held out."""
    held = HELD_OUT_EVERY - 1
    return (
        [document for i, document in enumerate(documents) if i % HELD_OUT_EVERY != held],
        [document for i, document in enumerate(documents) if i % HELD_OUT_EVERY == held],
    )


def sotu(path: Path = SOTU_FILE) -> Source:
    """The State of the Union addresses. The content is checked when it is read.

    Raises:
        UserError: (from ``documents``) the file is missing, damaged, or not the pinned one.
    """

    def documents() -> list[str]:
        return _json_lines(_checked(_read(path), SOTU_SHA256, path), path)

    return Source("State of the Union addresses", SOTU_SHA256, documents)


def own_text(place: str, sha256: str | None = None) -> Source:
    """One's own text: a folder, where every file is a document, or a file.

    A folder is read with its subfolders in the order of the paths; names that start with a dot are left out.
    A ``.jsonl`` file holds an object with a ``text`` on each line (blank lines are passed over); in any other
    file documents are separated by blank lines. ``.xz`` files are decompressed. All of it is UTF-8.

    Args:
        place: path of the folder or file, relative to the current folder; ``~`` is the home folder.
        sha256: what the content must have. Of a file: of its decompressed bytes. Of a folder: of the lines
            ``<sha256>  <relative path>`` of its files.

    Raises:
        UserError: it is missing, unreadable, empty, not UTF-8, has too few documents, or another hash.
    """
    path = Path(place).expanduser()
    if path.is_dir():
        files = sorted(p for p in path.rglob("*") if p.is_file() and not _hidden(p.relative_to(path)))
        contents = {file: _read(file) for file in files}
        listing = "".join(f"{_sha256(body)}  {file.relative_to(path)}\n" for file, body in contents.items())
        return Source(
            str(path),
            _pinned(_sha256(listing.encode()), sha256, path),
            lambda: _enough([_text(body, file) for file, body in contents.items()], path),
        )
    content = _read(path)
    found = _pinned(_sha256(content), sha256, path)
    if path.name.removesuffix(".xz").endswith(".jsonl"):
        return Source(str(path), found, lambda: _enough(_json_lines(content, path), path))
    return Source(str(path), found, lambda: _enough(re.split(r"\r?\n[ \t]*\r?\n\s*", _text(content, path)), path))


def check_place(place: str) -> None:
    """Whether one's own text is there, without reading it.

    Raises:
        UserError: it is not.
    """
    if not Path(place).expanduser().exists():
        raise UserError(_missing(place))


def _missing(place: str | Path) -> str:
    return (
        f"language: data: there is no file or folder {str(place)!r} (seen from {Path.cwd()}); "
        "give 'sotu', 'markov', or the path of a text file, a .jsonl file or a folder of text files"
    )


def _read(path: Path) -> bytes:
    try:
        body = path.read_bytes()
        return lzma.decompress(body) if path.suffix == ".xz" else body
    except FileNotFoundError:
        raise UserError(_missing(path)) from None
    except OSError as error:
        raise UserError(f"language: data: {path}: {error.strerror}") from None
    except lzma.LZMAError as error:
        raise UserError(f"language: data: {path}: damaged xz file ({error}); get it anew") from None


def _hidden(relative: Path) -> bool:
    return any(part.startswith(".") for part in relative.parts)


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _checked(content: bytes, expected: str, path: Path) -> bytes:
    found = _sha256(content)
    if found != expected:
        raise UserError(f"language: data: {path}: SHA-256 of the content is {found}, expected {expected}; get it anew")
    return content


def _pinned(found: str, expected: str | None, path: Path) -> str:
    if expected is not None and found != expected.lower():
        raise UserError(f"language: data: {path}: SHA-256 is {found}, but data_sha256 says {expected}")
    return found


def _text(content: bytes, path: Path) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(
            f"language: data: {path}: not UTF-8 at byte {error.start}; convert it, or move it away"
        ) from None


def _json_lines(content: bytes, path: Path) -> list[str]:
    documents = []
    for number, line in enumerate(_text(content, path).split("\n"), 1):
        if not line.strip():
            continue
        try:
            entry: Any = json.loads(line)
        except json.JSONDecodeError as error:
            raise UserError(f"language: data: {path}, line {number}: not JSON: {error.msg}") from None
        if not isinstance(entry, dict) or not isinstance(entry.get("text"), str):
            raise UserError(f"language: data: {path}, line {number}: needs an object with a string 'text'")
        documents.append(entry["text"])
    return documents


def _enough(documents: list[str], path: Path) -> list[str]:
    """The documents that are not blank; at least :data:`LEAST_DOCUMENTS` of them."""
    found = [document for document in documents if document.strip()]
    if len(found) < LEAST_DOCUMENTS:
        raise UserError(
            f"language: data: {path}: {len(found)} documents, at least {LEAST_DOCUMENTS} are needed, as every "
            f"{HELD_OUT_EVERY}th is held out; documents are the files of a folder, the lines of a .jsonl file, or "
            "the parts of a text between blank lines"
        )
    return found
