"""The tools that write pages: argument tables, examples, cells and entries, by hand."""

from __future__ import annotations

import pytest
from docs.test_pages import tool


def test_a_table_of_arguments_becomes_a_list():
    text = "Return x.\n\na, b   two rows\n       that go on\nn      a number\n\nAfterwards."
    assert tool("docstrings").with_lists(text) == (
        "Return x.\n\n\n- `a, b`: two rows that go on\n- `n`: a number\n\nAfterwards."
    )


def test_prose_is_left_as_it_is():
    text = "Return x.\n\nOne sentence. Another one.\nA third: with (n, d) rows."
    assert tool("docstrings").with_lists(text) == text


def test_an_example_becomes_code():
    text = "Return x.\n\n>>> f(1)\n[0.5, 0.7]\n\nAfterwards."
    assert "```pycon\n>>> f(1)\n[0.5, 0.7]\n```" in tool("docstrings").with_code(text)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("root/<label>/<image>", "root/&lt;label>/&lt;image>"),
        ("<stem>_crop_<0..9>", "&lt;stem>\\_crop\\_&lt;0..9>"),
        ("see `a_b|c` and d|e", "see `a_b|c` and d\\|e"),
        ("two\n  lines", "two lines"),
        ("[`tlx ls`](ls_page.md)", "[`tlx ls`](ls_page.md)"),
    ],
)
def test_markup_is_escaped_outside_code_and_links(text, shown):
    assert tool("reference").cell(text) == shown


def test_a_function_that_is_made_has_an_entry_with_its_settings():
    def study(*, shots=(1, 5), dataset="digits"):
        pass

    study.__doc__ = "Run a study.\n\nMore.\n\nSettings:\n    shots: images per class.\n"
    entry = tool("reference").made_function("tlx.study", study)
    assert entry[:3] == ["## tlx.study", "", "Run a study.\n\nMore."]
    assert "| `shots` | `(1, 5)` | images per class. |" in entry
    assert not any("dataset" in line for line in entry)


def test_a_saved_figure_keeps_its_size_and_takes_fewer_bytes(tmp_path):
    import numpy as np
    from PIL import Image

    ramp = np.tile(np.arange(256, dtype=np.uint8), (64, 1))
    picture, target = tmp_path / "a.png", tmp_path / "b.png"
    Image.fromarray(np.stack([ramp, ramp, ramp[:, ::-1]], axis=2)).save(picture, compress_level=0)
    tool("gallery").shrink(picture, target)
    with Image.open(target) as image:
        assert image.size == (256, 64)
        assert image.mode == "P"
    assert target.stat().st_size < picture.stat().st_size
