"""The interactive report in a real browser: axes, hover, keys, filters, sorting, rows compared; light and dark; print; no script."""

import pandas as pd
import pytest

from tests.helpers.browser import Visit, chromium
from tests.helpers.report_rows import classified, judged, results
from tokenprune.report.__main__ import main
from tokenprune.report.figures.shared.pareto import on_front

pytestmark = pytest.mark.system
pytest.importorskip("altair", reason="the extra `page` is not installed")
EVIT, TOME = "Evit, remove, 0.7", "Tome, merge"


@pytest.fixture(scope="module")
def browser():
    with chromium() as found:
        yield found


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """A page of two machines, the second with two rows."""
    folder = tmp_path_factory.mktemp("page")
    other = folder / "server"
    judged(other, classified("d0", "none", 75.5, 4.0, environment={"device": "H200"}), 151)
    judged(other, classified("s0", "evit", 61.0, 1.0, rate=0.7, environment={"device": "H200"}), 122)
    assert main([str(results(folder / "laptop")), str(other), "--out", str(folder / "out")]) == 0
    return folder / "out" / "report.html"


def opened(browser, file, **options):
    visit = Visit(browser, file, **options)
    visit.page.wait_for_function("document.querySelectorAll('.plot svg path[aria-roledescription=point]').length === 6")
    return visit


@pytest.fixture
def page(browser, file):
    visit = opened(browser, file, viewport={"width": 1280, "height": 900})
    yield visit.page
    visit.check(file)


def chart(page, number=0):
    return page.locator(".chart").nth(number)


def rows(page) -> list[str]:
    return page.locator("#lines tbody tr:visible .name").all_inner_texts()


def marks(page, number=0) -> list[str]:
    """Return what each mark of a chart says of itself."""
    found = chart(page, number).locator("path[aria-roledescription=point]")
    return [found.nth(n).get_attribute("aria-label") for n in range(found.count())]


def test_each_device_has_a_chart_of_its_own(page):
    titles = page.locator(".chart h3").all_inner_texts()
    assert len(titles) == 2 and titles[1] == "H200"
    assert len(marks(page)) == 4 and len(marks(page, 1)) == 2
    assert page.locator("#count").inner_text() == "7 of 7 rows are shown."  # the row that diverged has no mark
    assert page.locator("#compared").get_by_text("other device: not compared").count() == 0


def test_pointing_at_a_mark_shows_setting_spread_and_command(page):
    tip = chart(page).locator(".tip")
    assert tip.is_hidden()
    mark = chart(page).locator("path[aria-roledescription=point]", has=page.locator("xpath=self::*[contains(@aria-label,'Evit')]"))
    mark.hover()
    said = tip.inner_text()
    for part in (
        EVIT,
        "schedule stages, keep_rate 0.7",
        "62.0 ± 2.8",
        "standard deviation over 2 seeds",
        "tokenprune run task=classification",
    ):
        assert part in said
    page.mouse.move(5, 5)
    assert tip.is_hidden()


def test_the_command_that_was_typed_is_told_from_a_derived_one(page):
    page.get_by_role("button", name=TOME).click()
    pinned = page.locator("#pinned")
    assert "Command, as it was typed" in pinned.inner_text() and "tokenprune run method=tome 'data.root=/a b'" in pinned.inner_text()
    page.get_by_role("button", name="Copy the command").click()
    assert "Copied" in pinned.inner_text() or "Selected" in pinned.inner_text()
    page.get_by_role("button", name="Close").click()
    assert pinned.is_hidden()


def test_keys_go_from_mark_to_mark(page):
    plot, tip = chart(page).locator(".plot"), chart(page).locator(".tip")
    plot.focus()
    seen = []
    for key in ("ArrowRight", "ArrowRight", "End", "Home", "ArrowLeft"):
        page.keyboard.press(key)
        seen.append(tip.locator("strong").inner_text())
    assert seen == [EVIT, "Random, remove, 0.5", "Dense", EVIT, EVIT]  # by GMAC: 2, 2.2, 2.5, 4
    page.keyboard.press("Enter")
    assert EVIT in page.locator("#pinned").inner_text()
    page.keyboard.press("Escape")
    assert tip.is_hidden()


def test_axes_change_and_the_front_is_that_of_the_tables(page):
    data = pd.DataFrame({"x": [2.0, 2.2, 2.5, 4.0], "y": [62.0, 40.0, 70.0, 75.0]}, index=[EVIT, "Random, remove, 0.5", TOME, "Dense"])
    expected = list(data.index[on_front(data, "x", "y")])
    assert chart(page).locator(".front").inner_text() == f"Pareto front: {'; '.join(expected)}."
    page.get_by_label("Across").select_option(label="images/s, batch 1, whole model")
    assert chart(page).locator(".axis").last.inner_text() == "images/s, batch 1, whole model (more is better) →"
    assert any(mark.startswith("Dense: top-1 75.0 ± 2.0, images/s, batch 1, whole model 25") for mark in marks(page))
    expected = "; ".join(reversed(expected))  # the slowest first
    assert chart(page).locator(".front").inner_text() == f"Pareto front: {expected}."
    options = page.locator("#x-axis option").all_inner_texts()
    assert {"encoder GMAC", "peak memory of the encoder (MiB an image)", "whole-model latency (ms an image, batch 1)"} <= set(options)


def test_filters_act_on_charts_and_table(page):
    page.get_by_role("checkbox", name="evit", exact=True).uncheck()
    assert EVIT not in rows(page) and len(marks(page)) == 3 and len(marks(page, 1)) == 1
    page.get_by_role("group", name="Treatment").get_by_role("checkbox", name="merge", exact=True).uncheck()
    assert TOME not in rows(page) and len(marks(page)) == 2
    page.get_by_role("group", name="Device").get_by_role("checkbox", name="H200").uncheck()
    assert page.locator(".chart").count() == 1
    page.get_by_role("searchbox", name="Find").fill("random")
    assert rows(page) == ["Random, remove, 0.5"] and page.locator("#count").inner_text() == "1 of 7 rows are shown."
    page.get_by_role("button", name="Show all").click()
    assert len(rows(page)) == 7 and page.locator(".chart").count() == 2
    page.wait_for_function("document.querySelectorAll('.plot svg path[aria-roledescription=point]').length === 6")


def test_tables_sort_by_numbers_and_words_and_say_so(page):
    head = page.locator("#lines thead").get_by_role("button", name="top-1")
    head.click()
    assert rows(page)[0] == "Random, remove, 0.5" and rows(page)[-1] == "Ats, remove"  # a row without the number comes last
    assert page.locator("#lines th[aria-sort=ascending]").count() == 1
    head.focus()
    page.keyboard.press("Enter")
    assert rows(page)[:2] == ["Dense", "Dense"] and page.locator("#lines th[aria-sort=descending]").count() == 1
    static = page.locator(".experiment .wide table").first
    static.get_by_role("button", name="GMAC encoder").click()
    numbers = [float(text) for text in static.locator("tbody tr td:nth-child(6)").all_inner_texts() if text != "—"]
    assert numbers == sorted(numbers) and len(numbers) > 2


def test_two_rows_are_compared(page):
    first, second = page.get_by_label("First (A)"), page.get_by_label("Second (B)")
    for select, name in ((first, EVIT), (second, TOME)):
        value = page.evaluate(
            "([id, name]) => [...document.getElementById(id).options].find((one) => one.text.startsWith(name)).value",
            [select.get_attribute("id"), name],
        )
        select.select_option(value)
    text = page.locator("#compared").inner_text()
    assert "-10.00 (one seed in common)" in text.replace("−", "-")  # EViT has two seeds, ToMe one
    assert "-14.16 to -5.84" in text.replace("−", "-") and "200" in text and "90.0 %" in text
    assert "tokenprune show PICTURE --model laptop/rows/e0 laptop/rows/t0" in text
    assert page.locator("#compared .bars").count() == 2 and page.locator("#compared .map").count() == 3
    assert "100 % in the first block to 50 % in the last" in text
    page.get_by_role("button", name="Swap").click()
    assert "5.84 to +14.16" in page.locator("#compared").inner_text()
    assert page.locator("#lines input:checked").count() == 2


def test_ticking_a_row_compares_it_and_devices_are_not_mixed(page):
    page.locator("#lines tbody tr", has_text="H200").get_by_role("checkbox").first.check()
    assert page.locator("#lines input:checked").count() == 2
    assert "other device: not compared" in page.locator("#compared").inner_text()


def test_every_control_has_a_name(page):
    nameless = page.evaluate("""[...document.querySelectorAll('button, input, select, [tabindex="0"]')].filter((one) =>
      !(one.getAttribute('aria-label') || one.labels?.length || one.textContent.trim())).map((one) => one.outerHTML)""")
    assert nameless == []
    assert page.locator(".plot").first.get_attribute("aria-label").startswith("top-1 against encoder GMAC on ")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [400, 1280])
def test_it_fits_and_can_be_read(browser, file, scheme, width):
    visit = opened(browser, file, color_scheme=scheme, viewport={"width": width, "height": 800})
    assert visit.page.evaluate("document.documentElement.scrollWidth") <= width
    ink = visit.page.evaluate("getComputedStyle(document.querySelector('.plot text')).fill")
    light = sum(map(int, ink[4:-1].split(","))) / 3
    assert light > 140 if scheme == "dark" else light < 120
    plot, svg = (visit.page.locator(where).first.bounding_box() for where in (".plot", ".plot svg"))
    assert svg["x"] >= plot["x"] - 1 and svg["x"] + svg["width"] <= plot["x"] + plot["width"] + 1
    visit.check(file)


def test_it_prints_as_the_static_page(browser, file):
    visit = opened(browser, file)
    visit.page.emulate_media(media="print")
    assert visit.page.locator("#explore").is_hidden() and visit.page.locator(".experiment table").first.is_visible()
    visit.check(file)


def test_without_its_script_it_is_the_static_page(browser, file):
    visit = Visit(browser, file, java_script_enabled=False)
    assert visit.page.locator("#explore").is_hidden() and visit.page.locator("button:visible, input:visible").count() == 0
    assert visit.page.locator(".experiment table").first.is_visible()
    visit.check(file)
