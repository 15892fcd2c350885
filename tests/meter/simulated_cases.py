"""Small builders shared by the tests that use simulated cards."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def scenario_file(folder: Path, content: Any = None, name: str = "scenario.yaml", **keys: Any) -> Path:
    """A scenario file; JSON is YAML."""
    path = folder / name
    path.write_text(json.dumps(keys if content is None else content))
    return path
