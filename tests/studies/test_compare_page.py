"""The page of a comparison in a browser: what it asks for, fits on, prints, and switches."""

from __future__ import annotations

import io
import re

import browser
import numpy as np
import pytest
from PIL import Image
from studies.comparisons import compare, settings_of

from tlx.studies.compare import report

pytestmark = pytest.mark.e2e

WINDOWS = ((360, 800), (1280, 900))
SHOWN = """[...document.querySelectorAll('.panel')]
    .filter(panel => getComputedStyle(panel).display !== 'none')
    .map(panel => panel.className.match(/panel-(\\d+)/)[1])"""


@pytest.fixture(scope="module")
def page_file(bars, cache, tmp_path_factory):
    settings = settings_of(tmp_path_factory.mktemp("runs"), cache)
    done = compare(bars, settings, any_time=False, recipes="all bias")
    return done.study_folder / report.PAGE


@pytest.fixture(scope="module")
def opened(page_file, tmp_path_factory):
    with browser.browser(tmp_path_factory.mktemp("profile")) as page:
        yield page


@pytest.mark.parametrize(("width", "height"), WINDOWS)
def test_the_page_asks_for_nothing_says_nothing_and_fits(opened, page_file, width, height):
    opened.open(page_file, width, height)
    others = [url for url in opened.requests if not url.startswith("data:")]
    assert others == [page_file.as_uri()]
    assert opened.lines == []
    assert opened.run("document.documentElement.scrollWidth") <= width
    pictures = "[...document.images].map(image => image.naturalWidth)"
    assert all(opened.run(pictures))


def test_what_a_page_asks_for_and_says_would_be_seen(opened, tmp_path):
    bad = tmp_path / "bad.html"
    bad.write_text("<img src='other.png'><script>console.log('said'); missing()</script>")
    opened.open(bad, 360, 800)
    assert any(url.endswith("other.png") for url in opened.requests)
    assert any("said" in line for line in opened.lines)
    assert any("missing is not defined" in line for line in opened.lines)


def test_a_number_of_images_is_chosen_without_a_script(opened, page_file):
    opened.open(page_file, 1280, 900)
    assert opened.run(SHOWN) == ["2"]
    opened.run("document.querySelector('label[for=shots-1]').click()")
    assert opened.run(SHOWN) == ["1"]
    assert "at 1 image per class" in opened.run("document.querySelector('.panel-1').innerText")


def test_the_page_prints_on_few_sheets(opened, page_file):
    opened.open(page_file, 1280, 900)
    sheets = re.findall(rb"/Type\s*/Page\b", opened.print())
    assert 1 <= len(sheets) <= 4


TABLES = """[...document.querySelectorAll('.scroll')]
    .filter(box => box.checkVisibility())
    .map(box => {
        box.scrollLeft = %s;
        const place = box.getBoundingClientRect();
        return [place.left, place.top + scrollY, place.right, place.bottom + scrollY,
                box.scrollWidth - box.clientWidth];
    })"""
FEW = 24  # hidden pixels that are no part of a column
SHADED, PLAIN = 235, 250  # brightest pixel of a column of a table's edge: below, or from there


def edges(page, scroll):
    """Return (brightness at the left edge, at the right edge, hidden pixels) of every table."""
    tables = page.run(TABLES % scroll)
    shown = np.asarray(Image.open(io.BytesIO(page.picture())).convert("L"))
    rows = []
    for left, top, right, bottom, hidden in tables:
        part = shown[round(top) + 1 : round(bottom) - 1, round(left) : round(right)]
        rows.append((int(part[:, 0].max()), int(part[:, -1].max()), hidden))
    return rows


def test_a_table_that_goes_on_has_a_shade_on_that_side(opened, page_file):
    opened.open(page_file, 360, 800)
    start, end = edges(opened, "0"), edges(opened, "box.scrollWidth")
    assert any(hidden > FEW for _, _, hidden in start), "else this tests nothing"
    for left, right, hidden in start:
        assert left >= PLAIN
        assert right < SHADED if hidden > FEW else hidden or right >= PLAIN
    for left, right, hidden in end:
        assert left < SHADED if hidden > FEW else hidden or left >= PLAIN
        assert right >= PLAIN


def test_a_table_that_fits_has_none(opened, page_file):
    opened.open(page_file, 1280, 900)
    for left, right, hidden in edges(opened, "0"):
        assert hidden == 0
        assert min(left, right) >= PLAIN
