"""Photos without labels: listed at any depth, by the rules for links, litter and names."""

from __future__ import annotations

import os
import shutil

import pytest

from tlx.data.folders import list_photos
from tlx.errors import BadDataError, MissingError, UnsafeError


@pytest.fixture
def photos(tmp_path, bars):
    source = sorted((bars / "test").rglob("*.png"))[0]
    root = tmp_path / "photos"
    (root / "deep" / "deeper").mkdir(parents=True)
    for name in ("b.png", "a.JPG", "deep/c.png", "deep/deeper/d.png"):
        shutil.copy(source, root / name)
    return root


def names(listing, root):
    return [str(path.relative_to(root)) for path in listing]


def test_photos_at_any_depth_are_listed_by_name(photos):
    listing, notes, problems = list_photos(photos)
    assert names(listing, photos) == ["a.JPG", "b.png", "deep/c.png", "deep/deeper/d.png"]
    assert (notes, problems) == ([], [])


def test_what_is_no_photo_is_left_out_and_counted(photos):
    (photos / "notes.txt").write_text("x")
    (photos / ".hidden.png").write_bytes(b"x")
    (photos / "x.heic").write_bytes(b"x")
    (photos / "gone.png").symlink_to("nowhere")
    os.mkfifo(photos / "pipe.png")
    listing, notes, problems = list_photos(photos)
    assert len(listing) == 4
    text = " ".join(notes)
    for words in ("not images by their name", "hidden files", ".heic", "2 left out: broken links"):
        assert words in text
    assert problems == []


def test_links_lead_out_only_where_that_is_allowed(photos, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    shutil.copy(photos / "b.png", outside / "o.png")
    (photos / "folder").symlink_to(outside)
    (photos / "file.png").symlink_to(outside / "o.png")
    listing, _, problems = list_photos(photos)
    assert len(listing) == 4
    assert [type(problem) for problem in problems] == [UnsafeError]
    listing, _, problems = list_photos(photos, [outside])
    assert names(listing, photos)[3:] == ["deep/deeper/d.png", "file.png", "folder/o.png"]
    assert problems == []


def test_links_in_a_circle_end(photos):
    (photos / "deep" / "circle").symlink_to(photos)
    listing, _, problems = list_photos(photos)
    assert len(listing) == 4
    assert problems == []


def test_no_folder_is_an_error(tmp_path):
    with pytest.raises(MissingError):
        list_photos(tmp_path / "nowhere")
    (tmp_path / "file").write_text("x")
    with pytest.raises(BadDataError):
        list_photos(tmp_path / "file")
