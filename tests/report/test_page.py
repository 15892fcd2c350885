"""The page: complete, honest about what it rests on, offline, readable without eyes."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from judged import judged
from page_reader import Element, read

from harness.judge.types import Judgement
from harness.record.record import Record
from harness.report import page
from harness.report.sections.base import SECTIONS, Section, ordered
from harness.types import Basis, UserError

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def made() -> tuple[Judgement, list[Record]]:
    return judged()


@pytest.fixture(scope="module")
def tree(made: tuple[Judgement, list[Record]]) -> Element:
    return read(page.render_html(*made))


def test_same_records_same_bytes_whatever_the_hash_seed() -> None:
    code = (
        "import hashlib; from judged import judged; from harness.report import page; j, r = judged()\n"
        "for form in page.RENDERERS: print(form, hashlib.sha256(page.render(j, r, form).encode()).hexdigest())"
    )
    outputs = [
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT,
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"},
        ).stdout
        for seed in ("1", "2")
    ]  # fmt: skip
    assert outputs[0].count("\n") == 3
    assert outputs[0] == outputs[1]


@pytest.mark.parametrize("form", ["html", "md", "json"])
def test_the_order_of_records_does_not_matter(made: tuple[Judgement, list[Record]], form: page.Format) -> None:
    judgement, records = made
    assert page.render(judgement, records, form) == page.render(judgement, records[::-1], form)


def test_nothing_is_loaded_from_anywhere(made: tuple[Judgement, list[Record]], tree: Element) -> None:
    text = page.render_html(*made)
    assert not [e for e in tree.all() if e.tag in {"link", "img", "iframe", "object", "embed", "video", "audio"}]
    for element in tree.all():
        for name in ("src", "href", "xlink:href", "action", "data", "poster", "srcset"):
            value = element.attributes.get(name, "")
            assert value == "" or value.startswith("#"), f"<{element.tag} {name}={value!r}>"
    assert not re.search(r"@import|url\((?!#)", text)
    assert not re.search(r"\b(fetch|XMLHttpRequest|WebSocket|sendBeacon|import)\s*\(", text)
    policy = next(e for e in tree.all("meta") if e.attributes.get("http-equiv") == "Content-Security-Policy")
    assert "default-src 'none'" in policy.attributes["content"]


def test_every_reference_inside_the_page_has_its_target(tree: Element) -> None:
    ids = [e.attributes["id"] for e in tree.all() if "id" in e.attributes]
    assert len(ids) == len(set(ids))
    wanted = {e.attributes["href"][1:] for e in tree.all("a", "use")}
    wanted |= {
        name
        for e in tree.all()
        for a in ("aria-labelledby", "aria-describedby")
        for name in e.attributes.get(a, "").split()
    }
    assert wanted <= set(ids)


PLANT = "<script>alert(1)</script>\"'&<img src=x onerror=alert(1)>"


def _plant(made: tuple[Judgement, list[Record]]) -> tuple[Judgement, list[Record]]:
    """The same judgement with markup in every string that a suite, a run or a machine can put there."""
    judgement, records = made
    verdict = judgement.verdicts[0]
    claim = verdict.claim.model_copy(update={"text": PLANT, "how": PLANT, "id": PLANT, "arms": (PLANT, "sat")})
    check = verdict.checks[0].model_copy(update={"what": PLANT})
    first = verdict.model_copy(
        update={"claim": claim, "reason": PLANT, "attribution": PLANT, "needs": PLANT, "checks": (check,)}
    )
    assert judgement.footprint is not None
    factor = judgement.footprint.factors[0].model_copy(update={"name": PLANT, "source": PLANT, "kind": PLANT})
    footprint = judgement.footprint.model_copy(update={"factors": (factor,), "notes": (PLANT,)})
    comparisons = tuple(
        c.model_copy(update={"arm": PLANT if c.arm == "sat" else c.arm, "invalid": PLANT if c.arm == "freeze" else ""})
        for c in judgement.comparisons
    )
    planted = judgement.model_copy(
        update={
            "title": PLANT, "headline": PLANT, "suite": PLANT, "verdicts": (first, *judgement.verdicts[1:]),
            "comparisons": comparisons, "footprint": footprint, "problems": (PLANT,),
            "skipped": tuple(s.model_copy(update={"reason": PLANT, "arm": PLANT}) for s in judgement.skipped),
            "provenance": {PLANT: PLANT, "suite file": f"{PLANT}\n{PLANT}"},
        }
    )  # fmt: skip
    changed = [
        r.model_copy(
            update={
                "reason": PLANT if r.reason else "", "warnings": (PLANT,), "fingerprint": {PLANT: [PLANT]},
                "spec": r.spec.model_copy(update={"arm": PLANT if r.spec.arm == "sat" else r.spec.arm}),
            }
        )
        for r in records
    ]  # fmt: skip
    return planted, changed


def test_markup_in_names_and_reasons_stays_words(made: tuple[Judgement, list[Record]]) -> None:
    text = page.render_html(*_plant(made))
    tree = read(text)
    assert len(tree.all("script")) == 1  # the page's own
    assert not tree.all("img")
    assert not [e for e in tree.all() if any(name.startswith("on") for name in e.attributes)]
    assert "alert(1)" not in "".join(e.attributes.get("style", "") for e in tree.all())
    assert text.count("&lt;script&gt;") > 20
    markdown = page.render_markdown(*_plant(made))
    assert "<script>" not in re.sub(r"\\<", "", markdown)


def test_each_claim_has_a_row_the_untested_too(made: tuple[Judgement, list[Record]], tree: Element) -> None:
    rows = {e.attributes["id"]: e for e in tree.all("tr") if e.has_class("verdict")}
    assert set(rows) == {f"claim-{v.claim.id}" for v in made[0].verdicts}
    for verdict in made[0].verdicts:
        words = rows[f"claim-{verdict.claim.id}"].text
        assert verdict.claim.text in words
        assert verdict.reason in words
        assert verdict.needs in words
        assert (verdict.model_says or verdict.status.value) in words


def test_verdicts_are_the_first_section(tree: Element) -> None:
    main = next(e for e in tree.all("main"))
    assert [e.attributes["id"] for e in main.all("section")] == [s.name for s in ordered()]
    assert main.all("section")[0].attributes["id"] == "verdicts"


def test_every_number_of_the_verdict_table_says_its_basis(tree: Element) -> None:
    words = {basis.value for basis in Basis}
    cells = [
        cell for table in tree.all("table") if table.has_class("verdicts")
        for row in table.all("tr") if row.has_class("verdict")
        for cell in row.all("td") if cell.has_class("found")
    ]  # fmt: skip
    numbers = [e for cell in cells for e in cell.all("span") if e.has_class("est")]
    assert len(numbers) >= 5
    for number in numbers:
        assert next(b.text for b in number.all("span") if b.has_class("basis")) in words
    for cell in cells:
        if re.search(r"\d", cell.text.split("not tested")[0]):
            assert any(word in cell.text for word in words), cell.text


@pytest.mark.parametrize("basis", [Basis.MODELLED, Basis.SIMULATED])
def test_a_page_without_an_instrument_says_so_everywhere(basis: Basis) -> None:
    tree = read(page.render_html(*judged(basis)))
    strip = next(e for e in tree.all("div") if e.has_class("strip"))
    assert basis.value.upper() in strip.text
    assert basis.value.upper() in next(iter(tree.all("title"))).text
    charts = [e for e in tree.all("svg") if e.has_class("chart")]
    energies = [c for c in charts if "energy" in " ".join(t.text for t in c.all("text") if t.has_class("label"))]
    assert len(energies) == 11  # scaling twice (wide and narrow), ratios, four sizes each of trade-off and curves
    for chart in energies:
        labels = [t.text for t in chart.all("text") if t.has_class("label") and "energy" in t.text]
        assert all(f"({basis.value})" in label for label in labels), labels
        assert any(t.has_class("watermark") and t.text == basis.value.upper() for t in chart.all("text"))
    heads = [e.text for e in tree.all("th") if e.text.startswith(("Energy", "Net of idle"))]
    assert len(heads) > 5
    assert all(basis.value in head for head in heads), heads


def test_a_simulated_page_can_not_be_cropped_into_a_measured_one() -> None:
    judgement, records = judged(Basis.SIMULATED)
    tree = read(page.render_html(judgement, records))
    strip = next(e for e in tree.all("div") if e.has_class("strip"))
    assert strip.text.startswith("SIMULATED, NOT MEASURED")  # words, whatever the colours
    for section in next(e for e in tree.all("main")).all("section"):
        assert "simulated energies" in section.all("h2")[0].text
    assert not [e for e in tree.all("span") if e.has_class("chip-supported") or e.has_class("chip-contradicted")]
    for row in (e for e in tree.all("tr") if e.has_class("verdict")):
        cells = row.all("td")
        numbers = [e.text for e in row.all("span") if e.has_class("est")]
        if any("simulated" in number for number in numbers):
            assert "its energy: simulated, decides nothing" in cells[0].text
            assert "verified" not in cells[0].text
    heads = [e.text for e in tree.all("th") if e.text.startswith(("CO2e", "Rental", "Electricity", "Power ratio"))]
    assert len(heads) > 5
    assert all("(simulated)" in head for head in heads), heads
    footprint = next(e for e in tree.all("section") if e.attributes["id"] == "footprint").text
    assert "nothing was found that could be projected" in footprint
    assert "GPT-4" not in footprint


def test_markdown_and_json_of_a_simulated_set_open_with_the_word() -> None:
    judgement, records = judged(Basis.SIMULATED)
    text = page.render_markdown(judgement, records)
    assert text.startswith("# [SIMULATED] ")
    assert "(its energy: simulated, decides nothing)" in text
    document = json.loads(page.render_json(judgement, records))
    assert document["basis"] == "simulated"
    assert document["notice"].startswith("SIMULATED, NOT MEASURED")
    assert {run["meter_basis"] for run in document["runs"] if run["energy"]} == {"simulated"}
    measured = json.loads(page.render_json(*judged(Basis.MEASURED)))
    assert (measured["basis"], measured["notice"]) == ("measured", "")


def test_a_measured_page_does_not_pretend_to_be_modelled() -> None:
    tree = read(page.render_html(*judged(Basis.MEASURED)))
    assert "MEASURED" in next(e for e in tree.all("div") if e.has_class("strip")).text
    assert not [t for t in tree.all("text") if t.has_class("watermark")]
    assert "(modelled)" not in tree.text


def _without_numbers(made: tuple[Judgement, list[Record]]) -> tuple[Judgement, list[Record]]:
    """All that may be missing is missing."""
    judgement, records = made
    nothing = dict.fromkeys(
        ("saving", "net_saving", "time_saving", "power_saving", "flops_saving", "ceiling", "tokens_per_parameter"), None
    )
    pairs = {"log_energy_ratio": None, "log_time_ratio": None, "log_power_ratio": None, "quality": {}}
    bare = judgement.model_copy(
        update={
            "comparisons": tuple(
                c.model_copy(
                    update={**nothing, "quality": {}, "pairs": tuple(p.model_copy(update=pairs) for p in c.pairs)}
                )
                for c in judgement.comparisons
            ),
            "controls": (), "trends": (), "footprint": None, "provenance": {"revision": None, "list": []},
            "headline": "",
            "verdicts": tuple(v.model_copy(update={"checks": ()}) for v in judgement.verdicts),
        }
    )  # fmt: skip
    unknown = [
        r.model_copy(
            update={
                "energy": r.energy.model_copy(
                    update={"joules": None, "reason": "sensor lost", "uncertainty_j": None, "coverage": 0.0}
                ) if r.energy else None,
                "energy_per_step": None, "seconds": None, "seconds_per_step": None, "idle_power_w": None, "flops": None,
                "curve": (), "quality": {}, "activity": (), "meter": None, "fingerprint": {}, "windows": (),
            }
        )
        for r in records
    ]  # fmt: skip
    return bare, unknown


def _words(tree: Element) -> str:
    return " ".join(e.text for e in tree.all("header", "main"))


def test_missing_is_a_word_never_a_number(made: tuple[Judgement, list[Record]]) -> None:
    tree = read(page.render_html(*_without_numbers(made)))
    assert not re.search(r"\b(nan|None|inf|undefined)\b", _words(tree))
    for tile in (e for e in tree.all("div") if e.has_class("tile")):
        assert "not measured" in tile.text
        assert not re.search(r"\b0(\.0+)? ?(%|J|kWh)", tile.text)
    cells = [cell.text for table in tree.all("table") if table.has_class("comparisons") for cell in table.all("td")[2:]]
    assert "not measured" in cells
    assert not [c for c in cells if re.fullmatch(r"[+−]?0(\.0+)?( ?%)?", c)]
    runs = next(e for e in tree.all("section") if e.attributes["id"] == "provenance").all("tr")[1:]
    assert runs
    for run in runs:
        assert "not measured" in run.text
        assert " 0 J" not in run.text


def test_no_python_leaks_into_a_full_page(tree: Element) -> None:
    assert not re.search(r"\b(nan|None|inf|undefined|Markup|Basis\.|VerdictStatus\.)\b", _words(tree))


def test_an_empty_result_set_still_gives_a_page(made: tuple[Judgement, list[Record]]) -> None:
    judgement = made[0].model_copy(
        update={"comparisons": (), "controls": (), "trends": (), "footprint": None, "skipped": (), "problems": ()}
    )
    tree = read(page.render_html(judgement, []))
    assert len([e for e in tree.all("tr") if e.has_class("verdict")]) == len(judgement.verdicts)
    for form in ("md", "json"):
        assert page.render(judgement, [], form)


def test_one_pair_has_no_interval() -> None:
    text = _words(read(page.render_html(*judged(seeds=(0,), sizes=("0.1M", "1M")))))
    assert "(n=1, no interval)" in text
    assert "±0" not in text
    assert not re.search(r"\[([\d.]+), \1\]", text)


def test_screen_readers_find_their_way(tree: Element) -> None:
    assert next(iter(tree.all("html"))).attributes["lang"] == "en"
    for landmark in ("header", "nav", "main", "footer"):
        assert len(tree.all(landmark)) == 1
    assert len(tree.all("h1")) == 1
    level = 0
    for heading in tree.all("h1", "h2", "h3", "h4"):
        assert int(heading.tag[1]) <= level + 1, heading.text
        level = int(heading.tag[1])
    for section in tree.all("section"):
        assert section.attributes["aria-labelledby"] == section.all("h2")[0].attributes["id"]
    for table in tree.all("table"):
        assert table.all("caption")[0].text
        heads = table.all("th")
        assert heads
        assert all(head.attributes.get("scope") in {"col", "row"} for head in heads)
        columns = len(table.all("thead")[0].all("th"))
        for row in table.all("tbody")[0].all("tr"):
            cells = [c for c in row.children if c.tag in {"th", "td"}]
            assert sum(int(c.attributes.get("colspan", "1")) for c in cells) == columns, row.text
    for figure in tree.all("figure"):
        assert figure.all("figcaption")[0].text
    for chart in (e for e in tree.all("svg") if e.has_class("chart")):
        assert chart.attributes["role"] == "img"
        assert chart.attributes["aria-label"]
        assert chart.attributes["aria-describedby"]
    for svg in tree.all("svg"):
        assert svg.attributes.get("role") == "img" or svg.attributes.get("aria-hidden") == "true"
    for region in (e for e in tree.all("div") if e.has_class("scroll")):
        assert region.attributes["tabindex"] == "0"
        assert region.attributes["aria-label"]


def test_a_verdict_is_never_told_by_colour_alone(tree: Element) -> None:
    chips = [e for e in tree.all("span") if e.has_class("chip")]
    assert chips
    for chip in chips:
        assert chip.text
        assert chip.all("use")[0].attributes["href"].startswith("#icon-")


def _luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def _contrast(a: str, b: str) -> float:
    high, low = sorted((_luminance(a), _luminance(b)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_contrast_is_enough_to_read(scheme: str) -> None:
    """WCAG 2.2: 4.5 for text (1.4.3), 3 for lines and marks (1.4.11)."""
    css = (page.TEMPLATES / "style.css").read_text()
    light, dark = css.split("@media (prefers-color-scheme: dark)", 1)
    block = light if scheme == "light" else dark.split("* {", 1)[0]
    colours = dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6});", block))
    for ink, ground in (
        ("ink", "paper"), ("ink", "raised"), ("ink-soft", "paper"), ("ink-soft", "raised"), ("link", "paper"),
        ("good", "good-bg"), ("bad", "bad-bg"), ("open", "open-bg"), ("off", "off-bg"), ("broken", "broken-bg"),
        ("model", "model-bg"), ("sim", "sim-bg"), ("meas", "meas-bg"), ("good", "paper"), ("bad", "paper"),
        ("open", "paper"),
    ):  # fmt: skip
        assert _contrast(colours[ink], colours[ground]) >= 4.5, (ink, ground)
    for arm in [name for name in colours if name.startswith("arm-")]:
        assert _contrast(colours[arm], colours["paper"]) >= 3.0, arm


def test_failures_and_skips_are_told(made: tuple[Judgement, list[Record]], tree: Element) -> None:
    section = next(e for e in tree.all("section") if e.attributes["id"] == "failures").text
    for skipped in made[0].skipped:
        assert skipped.run_id in section
        assert skipped.reason in section
    for record in made[1]:
        if not record.ok:
            assert record.run_id in section
            assert record.reason in section
    assert "by a later attempt" in section
    for problem in made[0].problems:
        assert problem in section


def test_the_suite_file_is_in_the_page(made: tuple[Judgement, list[Record]], tree: Element) -> None:
    assert made[0].provenance["suite_file"] in "".join("".join(e.pieces) for e in tree.all("pre"))


def test_a_section_from_outside_is_one_class() -> None:
    class Extra(Section):
        name, title, short, order = "extra", "Extra", "Extra", 55

        def context(self, view: object) -> dict[str, object]:
            return {}

        def html(self, view: object, environment: object) -> str:  # type: ignore[override]
            return "<plain words>"

    SECTIONS.add("extra")(Extra)
    try:
        tree = read(page.render_html(*judged(seeds=(0,), sizes=("0.1M",))))
        section = next(e for e in tree.all("section") if e.attributes["id"] == "extra")
        assert "<plain words>" in section.text  # a plain string is escaped like any other
    finally:
        del SECTIONS._loaded["extra"]


def test_write_leaves_the_old_page_when_it_fails(
    made: tuple[Judgement, list[Record]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "deep" / "page.html"
    page.write(*made, path)
    before = path.read_text()

    def broken(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", broken)
    with pytest.raises(UserError, match="No space left"):
        page.write(*made, path)
    assert path.read_text() == before
    assert [p.name for p in path.parent.iterdir()] == ["page.html"]


def test_unknown_format_is_the_users_mistake(made: tuple[Judgement, list[Record]]) -> None:
    with pytest.raises(UserError, match=r"pdf.*known: html, md, json"):
        page.render(*made, "pdf")  # type: ignore[arg-type]


def test_importing_the_report_is_cheap() -> None:
    code = (
        "import sys; from harness.report import page; from judged import judged; page.render_html(*judged())\n"
        "print([m for m in ('torch', 'pandas', 'matplotlib', 'transformers', 'scipy') if m in sys.modules])"
    )
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT,
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"},
    )  # fmt: skip
    assert out.stdout.strip() == "[]"
