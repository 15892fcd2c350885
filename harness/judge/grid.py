"""Carbon intensity of electricity, from CodeCarbon's packaged tables, with what they do not say aloud.

Only the data files are read: CodeCarbon itself is not imported, nor pandas, and nothing asks the network.
What CodeCarbon answers in silence is an error or a label here:

* an unknown country gives 475 g/kWh there (a world average of 2018), an unknown cloud region its country:
  here both are errors with a suggestion;
* ``me-central1`` is misspelt ``me-cenrtal1`` in the table: read under its right name;
* country values are life-cycle, US states are direct emissions, Chinese provinces CO2 only, Canadian
  provinces are computed from the mix with factors for fossil fuels alone: every value says what it is;
* years run from 2009 to 2025: every value carries its own;
* a value of 0 (the Central African Republic) is no grid's: left out.
"""

from __future__ import annotations

import csv
import functools
import json
import math
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from harness.judge.types import Figure
from harness.registry import did_you_mean
from harness.types import Basis, UserError

LB_PER_MWH = 0.45359237  # g/kWh
UNIT = "g CO2e/kWh"
CLOUD_NAMES = {"me-cenrtal1": "me-central1"}
CANADIAN = {"coal": 995.725971, "petroleum": 816.6885263, "naturalGas": 743.8415916}
"""g/kWh; the factors that CodeCarbon 3.3.2 applies to a Canadian province's mix (core/emissions.py)."""


def _data(*parts: str) -> Path:
    found = find_spec("codecarbon")  # locates a top-level package without running its code
    if found is None or not found.submodule_search_locations:
        raise UserError("the package codecarbon, whose grid tables are used, is not installed: pip install codecarbon")
    return Path(found.submodule_search_locations[0], "data", *parts)


def _json(*parts: str) -> Any:
    return json.loads(_data(*parts).read_text(encoding="utf-8"))


@functools.cache
def _package() -> str:
    """Name and version of the package; asking costs milliseconds, and there are hundreds of regions."""
    return f"CodeCarbon {version('codecarbon')}"


def _figure(name: str, value: float, year: int | None, kind: str, source: str) -> Figure:
    source = f"{_package()}, {source}"
    return Figure(name=name, value=value, unit=UNIT, basis=Basis.MODELLED, source=source, year=year, kind=kind)


@functools.cache
def regions() -> dict[str, Figure]:
    """Every region by key: ``world``, ``FRA``, ``USA-CA``, ``CAN-ontario``, ``CN-BJ``, ``SE1``, ``gcp:us-west1``."""
    found = {"world": _world()}
    found |= _countries() | _states() | _provinces() | _chinese() | _nordic() | _clouds()
    return found


def intensity(region: str) -> Figure:
    """Carbon intensity of a region. Raises ``UserError`` for one that is not in the tables."""
    known = regions()
    if region in known:
        return known[region]
    by_name = {figure.name.lower(): key for key, figure in known.items()}
    low = {key.lower(): key for key in known}
    key = low.get(region.lower()) or by_name.get(region.lower())
    hint = f", did you mean {key!r}?" if key else did_you_mean(region, list(known))
    raise UserError(
        f"unknown region {region!r}{hint} `python -m harness ls regions` lists all {len(known)}; "
        "there is no default for a region that is not in the table"
    )


def _countries() -> dict[str, Figure]:
    table = _json("private_infra", "global_energy_mix.json")
    return {
        code: _figure(
            row["country_name"], row["carbon_intensity"], row["year"], "life-cycle, average",
            "global_energy_mix.json (Our World in Data, after Ember and the Energy Institute)",
        )
        for code, row in table.items()
        if row["carbon_intensity"]
    }  # fmt: skip


def _world() -> Figure:
    """Mean over countries weighted by generation: 480.6 g/kWh, with years 2022 and 2023 for 99.9 % of it."""
    rows = [row for row in _json("private_infra", "global_energy_mix.json").values() if row["carbon_intensity"]]
    total = math.fsum(row["total_TWh"] for row in rows)
    value = math.fsum(row["total_TWh"] * row["carbon_intensity"] for row in rows) / total
    return _figure(
        "World", value, 2023, "life-cycle, average",
        f"global_energy_mix.json (Our World in Data): mean over {len(rows)} countries weighted by generation",
    )  # fmt: skip


def _states() -> dict[str, Figure]:
    table = _json("private_infra", "2023", "usa_emissions.json")
    about = table["_source"]
    return {
        f"USA-{row['regionCode']}": _figure(
            f"{name.title()} (USA)", row["emissions"] * LB_PER_MWH, about["year"], "direct, average", about["name"]
        )
        for name, row in table.items()
        if not name.startswith("_")
    }


def _provinces() -> dict[str, Figure]:
    found = {}
    for name, mix in _json("private_infra", "2023", "canada_energy_mix.json").items():
        total = mix.get("total")
        if not total:
            continue
        value = sum(factor * mix.get(source, 0.0) / total for source, factor in CANADIAN.items())
        if value:
            found[f"CAN-{name.replace(' ', '-')}"] = _figure(
                f"{name.title()} (Canada)", value, 2023, "fossil generation only, average",
                "canada_energy_mix.json and core/emissions.py",
            )  # fmt: skip
    return found


def _chinese() -> dict[str, Figure]:
    table = _json("private_infra", "2023", "china_provincial_emissions.json")
    source = "Ministry of Ecology and Environment and National Bureau of Statistics of China, Announcement 2025 No. 47"
    return {
        key: _figure(
            f"{row['description']} (China)", row["emission_factor"], row["year"], "direct, CO2 only, average", source
        )
        for key, row in table["data"].items()
    }


def _nordic() -> dict[str, Figure]:
    return {
        key: _figure(
            row["description"], row["emission_factor"], row["year"], "life-cycle, average of generation",
            "nordic_emissions.json (ENTSO-E generation per type)",
        )
        for key, row in _json("private_infra", "nordic_emissions.json")["data"].items()
    }  # fmt: skip


def _clouds() -> dict[str, Figure]:
    with _data("cloud", "impact.csv").open(encoding="utf-8-sig", newline="") as stream:
        rows = list(csv.DictReader(stream))
    found = {}
    for row in rows:
        region = CLOUD_NAMES.get(row["region"], row["region"])
        found[f"{row['provider']}:{region}"] = _figure(
            f"{row['providerName']} {region}, {row['city']}", float(row["impact"]), None,
            "average of the grid, as the provider states it; no year given", f"impact.csv ({row['source']})",
        )  # fmt: skip
    return found
