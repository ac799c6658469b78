"""The page: one file that fetches nothing, says what was kept, and works without its script."""

import re
from html.parser import HTMLParser

import pytest

from tests.helpers.shown import classified, detected, entry, segmented
from tokenprune.report.show.page import gmac_in_words, in_html
from tokenprune.report.show.shown import Shown


class Parts(HTMLParser):
    """Collects addresses, tags with their attributes, and text outside of style and script."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.text, self._silent = "", False

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self._silent = tag in ("style", "script")

    def handle_endtag(self, tag):
        self._silent = False

    def handle_data(self, data):
        self.text += "" if self._silent else data

    def of(self, tag, **wanted):
        return [a for name, a in self.tags if name == tag and all(a.get(key) == value for key, value in wanted.items())]


def parts_of(*shown: Shown) -> Parts:
    parts = Parts()
    parts.feed(in_html(shown, "Which tokens", ["Model <tiny>."]))
    parts.text = " ".join(parts.text.split())
    return parts


def test_nothing_is_fetched():
    page = in_html([classified(), detected(), segmented()], "Which tokens")
    addresses = re.findall(r"(?:href|src|srcset|action|data)=\"([^\"]*)\"", page)
    assert addresses and all(address.startswith(("data:image/", "#")) for address in addresses)
    assert not re.search(r"url\(|@import|https?:(?!//www\.w3\.org)|fetch\(|XMLHttpRequest|import\(", page)


def test_frames_counts_and_cost_are_there_without_a_script():
    parts = parts_of(classified())
    strip = [attributes for tag, attributes in parts.tags if tag == "li" and "data-first" in attributes]
    assert [(one["data-first"], one["data-last"]) for one in strip] == [
        ("0", "4"), ("0", "1"), ("2", "3"), ("4", "4"), ("0", "2"), ("3", "4"),
    ]  # fmt: skip
    for words in ("blocks 2 to 3 6 of 12 tokens", "block 4 5 of 12 tokens", "8 of 12 tokens, 2 of them merged"):
        assert words in parts.text
    assert "0.6 GMAC, 60% of dense (layers with weights alone: 0.5)" in parts.text
    assert "1 GMAC (layers with weights alone: 0.9)" in parts.text
    assert "its weights are & stay random" in parts.text
    (form,) = parts.of("form")
    assert "hidden" in form  # the controls appear with the script


def test_names_are_escaped_and_agreement_is_marked():
    page = in_html([classified()], "Which tokens", ["Model <tiny>."])
    assert "<b>dog" not in page and "&lt;b&gt;dog&lt;/b&gt;" in page and "Model &lt;tiny&gt;." in page
    rows = re.findall(r'<tr( class="agrees")?><th scope="row">([^<]*)</th>', page)
    assert [(name, bool(agrees)) for agrees, name in rows if name == "cat"] == [("cat", True)] * 3
    assert not any(agrees for agrees, name in rows if name != "cat")


def test_every_control_and_picture_has_a_name():
    parts = parts_of(classified(), detected(), segmented())
    (slider,) = parts.of("input", type="range")
    assert parts.of("label", **{"for": slider["id"]}) and slider["max"] == "4"
    pictures = parts.of("svg", role="img")
    assert len(pictures) > 10 and all(one["aria-label"] for one in pictures)
    assert all("aria-hidden" in one or one.get("role") == "img" for one in parts.of("svg"))


def test_a_picture_is_stored_once_and_used_by_every_frame():
    page = in_html([classified(), segmented()], "Which tokens")
    assert page.count("data:image/png") == 3  # two pictures and the labels
    assert page.count('href="#picture-0-0"') == 6 and page.count('href="#picture-1-0"') == 3 + 1


def test_models_that_see_other_pixels_have_a_picture_of_their_own():
    one, other = entry("dense"), entry("drop")
    object.__setattr__(other.picture, "pixels", other.picture.pixels[:, :-1])
    parts = parts_of(Shown("a", (one, other)))
    assert [(image["id"], image["width"]) for image in parts.of("image") if "id" in image] == [("picture-0-0", "30"), ("picture-0-1", "29")]
    assert [svg["viewbox"] for svg in parts.of("svg", **{"class": "picture"})] == ["0 0 30 22"] + ["0 0 29 22"] * 3


def test_a_detectors_objects_have_boxes_names_and_one_colour_a_class():
    parts = parts_of(detected())
    boxes = [one for one in parts.of("rect") if "stroke" in one]
    assert [(one["x"], one["y"], one["width"], one["height"]) for one in boxes[:2]] == [
        ("3.0", "2.0", "9.0", "7.0"), ("15.0", "10.0", "13.0", "10.0"),
    ]  # fmt: skip
    assert boxes[1]["stroke"] == boxes[2]["stroke"] != boxes[0]["stroke"]  # the star of both models
    assert "2 objects found with a score of 0.5 or more" in parts.text and "1 object found" in parts.text
    assert "ring 90%" in parts.text and "disk" not in parts.text


def test_a_segmenters_labels_have_a_list():
    parts = parts_of(segmented())
    assert "predicted labels: 2 classes" in parts.text and "road 52%" in parts.text and "sky 35%" in parts.text


def test_outlines_can_be_switched_off_where_there_are_some():
    assert parts_of(classified()).of("input", type="checkbox", id="outlines")
    assert not parts_of(segmented()).of("input", type="checkbox", id="outlines")


@pytest.mark.parametrize("gmac", [None, (0.5, 0.6)])
def test_a_cost_without_a_dense_model_is_not_compared(gmac):
    one = entry("drop")
    object.__setattr__(one.picture, "gmac", gmac)
    assert gmac_in_words(one, None) == (("?", "") if gmac is None else ("0.6", " (layers with weights alone: 0.5)"))
