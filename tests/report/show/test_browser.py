"""The page in a real browser: slider, keys, play, outlines; light and dark, narrow and wide; with and without its script."""

import pytest

from tests.helpers.browser import Visit, chromium
from tests.helpers.shown import DEPTH, classified, detected, segmented
from tokenprune.report.show.figure import draw
from tokenprune.report.show.page import in_html

pytestmark = pytest.mark.system

LAST = DEPTH - 1


@pytest.fixture(scope="module")
def browser():
    with chromium() as found:
        yield found


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "show.html"
    path.write_text(in_html([classified("a_very_long_name_of_a_picture_" * 4), detected(), segmented()], "Which tokens"), encoding="utf-8")
    return path


@pytest.fixture
def page(browser, file):
    visit = Visit(browser, file)
    yield visit.page
    visit.check(file)


def blocks(page) -> list[str]:
    """Return the words of the frame that each strip shows."""
    return page.locator(".strip li:visible b").all_inner_texts()


def test_one_block_is_shown_at_first_and_the_slider_moves_it(page):
    assert blocks(page)[:3] == ["blocks 0 to 4", "blocks 0 to 1", "blocks 0 to 2"] and len(blocks(page)) == 6
    page.locator("#block").fill("4")
    assert blocks(page)[:3] == ["blocks 0 to 4", "block 4", "blocks 3 to 4"]
    assert page.locator("output").inner_text() == f"4 / {LAST}"
    assert page.locator("#block").get_attribute("aria-valuetext") == f"block 4, the last is {LAST}"


def test_keys_move_the_slider_wherever_the_focus_is(page):
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    assert page.locator("#block").input_value() == "2" and blocks(page)[1] == "blocks 2 to 3"
    page.keyboard.press("ArrowLeft")
    assert page.locator("#block").input_value() == "1"
    page.locator("#block").focus()
    page.keyboard.press("ArrowRight")  # the slider's own key, counted once
    assert page.locator("#block").input_value() == "2"
    page.keyboard.press("End")
    assert page.locator("#block").input_value() == str(LAST)
    page.keyboard.press("ArrowRight")  # no further
    assert page.locator("#block").input_value() == str(LAST)
    page.keyboard.press("Home")
    assert page.locator("#block").input_value() == "0" and blocks(page)[1] == "blocks 0 to 1"


def test_every_control_is_reached_by_tab_and_has_a_name(page):
    names = []
    for _ in range(3):
        page.keyboard.press("Tab")
        names.append(page.evaluate("[document.activeElement.id, document.activeElement.labels?.[0]?.innerText.trim() ?? '']"))
    assert names == [["block", "Block"], ["play", ""], ["outlines", "outlines"]]
    assert page.get_by_role("slider", name="Block").count() == 1 and page.get_by_role("button", name="Play").count() == 1
    assert page.get_by_role("checkbox", name="outlines").count() == 1
    assert page.get_by_role("img").count() >= 12


def test_play_goes_on_and_stops(page):
    page.get_by_role("button", name="Play").click()
    page.wait_for_function("document.getElementById('block').value === '2'")
    page.get_by_role("button", name="Pause").click()
    at = page.locator("#block").input_value()
    page.wait_for_timeout(1000)
    assert page.locator("#block").input_value() == at and page.locator("#play").get_attribute("aria-pressed") == "false"


def test_a_bar_goes_to_its_block(page):
    page.locator(".bars").first.locator("rect").nth(3).click()
    assert page.locator("#block").input_value() == "3" and page.locator(".bars rect.on").count() == 6


def test_outlines_go_and_come_back(page):
    page.locator("#block").fill("4")
    assert page.locator(".groups:visible").count() == 1
    page.get_by_role("checkbox", name="outlines").uncheck()
    assert page.locator(".groups:visible").count() == 0
    page.get_by_role("checkbox", name="outlines").check()
    assert page.locator(".groups:visible").count() == 1


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [400, 1280])
def test_it_fits_and_can_be_read(browser, file, scheme, width):
    visit = Visit(browser, file, color_scheme=scheme, viewport={"width": width, "height": 800})
    assert visit.page.evaluate("document.documentElement.scrollWidth") <= width
    ink, paper = visit.page.evaluate("[getComputedStyle(document.body).color, getComputedStyle(document.body).backgroundColor]")
    light = [sum(map(int, colour[4:-1].split(","))) / 3 for colour in (ink, paper)]
    assert (light[0] > 180 and light[1] < 60) if scheme == "dark" else (light[0] < 60 and light[1] > 180)
    visit.check(file)


def test_without_its_script_it_is_a_strip(browser, file):
    visit = Visit(browser, file, java_script_enabled=False)
    assert visit.page.locator("form").is_hidden()
    assert [visit.page.locator(".strip").nth(n).locator("li:visible").count() for n in range(3)] == [1, 3, 2]
    box = visit.page.locator(".strip svg").first.bounding_box()
    assert 60 < box["width"] < 200 and abs(box["height"] / box["width"] - 22 / 30) < 0.05
    visit.check(file)


def test_pictures_are_painted(browser, file):
    """The stored picture shows through in a kept patch, and is paler in a dropped one."""
    visit = Visit(browser, file, viewport={"width": 1280, "height": 800})
    visit.page.locator("#block").fill("2")
    frame = visit.page.locator(".strip").nth(1).locator("li:visible svg")
    box = frame.bounding_box()
    import io

    import numpy as np
    from PIL import Image

    seen = np.asarray(Image.open(io.BytesIO(visit.page.screenshot(clip=box))).convert("RGB")).astype(float)
    picture = classified().entries[0].picture.pixels.astype(float)
    scale = seen.shape[1] / 30
    kept, gone = seen[: int(8 * scale)], seen[int(17 * scale) : int(21 * scale)]
    assert abs(kept.mean() - picture[:8].mean()) < 12
    assert abs(gone.mean() - (0.16 * picture[17:21].mean() + 0.84 * 255)) < 12
    visit.check(file)


def test_a_notebooks_frame_holds_the_page(browser, tmp_path):
    path = tmp_path / "notebook.html"
    path.write_text(f"<!DOCTYPE html><meta charset=utf-8><title>x</title>{draw(classified())._repr_html_()}", encoding="utf-8")
    visit = Visit(browser, path)
    inside = visit.page.frame_locator("iframe")
    inside.locator("#block").fill("4")
    assert inside.locator(".strip li:visible b").all_inner_texts()[1] == "block 4"
    assert [url for url in visit.left if not url.startswith(("data:", "about:")) and url != path.as_uri()] == [] == visit.said
    visit.context.close()
