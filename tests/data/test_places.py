"""From a CSV row to a file: inside the root or not at all."""

from __future__ import annotations

import os
import socket
import unicodedata
from pathlib import Path

import pytest

from tlx.data.path_resolution import Finder, find
from tlx.data.splits import Row
from tlx.errors import BadDataError, TlxError, UnsafeError


def row(path: str, label: str = "cat", split: str = "train") -> Row:
    return Row(path, split, path.rsplit("/", 1)[-1], label)


@pytest.fixture
def root(tmp_path) -> Path:
    """root/pets/train/cat/a.png, and a secret beside the root."""
    (tmp_path / "pets" / "train" / "cat").mkdir(parents=True)
    (tmp_path / "pets" / "train" / "cat" / "a.png").write_bytes(b"a")
    (tmp_path / "secret.png").write_bytes(b"s")
    return tmp_path / "pets"


@pytest.mark.parametrize(
    "path", ["pets/train/cat/a.png", "other-name/train/cat/a.png", "train/cat/a.png", "a.png"]
)
def test_found_by_split_label_and_name(path, root):
    assert find(row(path), root).read_bytes() == b"a"


@pytest.mark.parametrize(("path", "kind"), [("pets/deep/b.png", "beside"), ("deep/b.png", "below")])
def test_found_by_path(path, kind, root):
    (root / "deep").mkdir()
    (root / "deep" / "b.png").write_bytes(b"b")
    assert find(row(path, label="../../x"), root).read_bytes() == b"b"


def test_without_splits(tmp_path):
    (tmp_path / "d" / "cat").mkdir(parents=True)
    (tmp_path / "d" / "cat" / "a.png").write_bytes(b"a")
    assert find(row("d/cat/a.png", split=""), tmp_path / "d").read_bytes() == b"a"


def test_absolute_path_inside_is_fine_and_outside_needs_leave(root):
    inside, outside = root / "train/cat/a.png", root.parent / "secret.png"
    assert find(row(str(inside)), root) == inside
    with pytest.raises(UnsafeError, match=r"leaves the image root.*--allow-outside") as caught:
        find(row(str(outside)), root)
    assert caught.value.exit_code == 4
    assert find(row(str(outside)), root, allow=(root.parent,)) == outside


@pytest.mark.parametrize(
    "path", ["../secret.png", "pets/../secret.png", "train/../../secret.png", "../../../etc/passwd"]
)
def test_climbing_out_is_refused_or_not_there(path, root):
    with pytest.raises(TlxError) as caught:
        find(row(path), root)
    assert caught.value.exit_code in (3, 4)
    if "secret" in path:
        assert isinstance(caught.value, UnsafeError)


@pytest.mark.parametrize("label", ["..", "../..", ".", "a/b", "/etc", "x\0y"])
def test_a_label_is_text_and_never_climbs(label, root):
    with pytest.raises(BadDataError, match="not there"):
        find(Row("nothing/secret.png", "", "secret.png", label), root)


def test_a_link_out_names_link_and_target(root):
    (root / "train/cat/out.png").symlink_to(root.parent / "secret.png")
    with pytest.raises(UnsafeError, match=r"out\.png.*leads to .*secret\.png"):
        find(row("pets/train/cat/out.png"), root)
    (root / "train/cat/in.png").symlink_to("a.png")
    assert find(row("pets/train/cat/in.png"), root).read_bytes() == b"a"


def test_a_folder_that_leads_out_is_refused(root):
    (root / "train" / "dog").symlink_to(root.parent)
    with pytest.raises(UnsafeError, match="leaves the image root"):
        find(row("pets/train/dog/secret.png", label="dog"), root)


@pytest.mark.parametrize(
    ("typed", "stored"), [("NFC", "NFD"), ("NFD", "NFC"), ("NFC", "NFC"), ("NFD", "NFD")]
)
def test_a_name_is_found_in_either_unicode_form(typed, stored, tmp_path):
    root, name = tmp_path / "été", "café.png"
    label = root / "train" / unicodedata.normalize(stored, "crème")
    label.mkdir(parents=True)
    (label / unicodedata.normalize(stored, name)).write_bytes(b"a")
    asked = unicodedata.normalize(typed, f"été/train/crème/{name}")
    found = find(row(asked, label=unicodedata.normalize(typed, "crème")), root)
    assert found.read_bytes() == b"a"
    with pytest.raises(BadDataError, match="not there"):
        find(row(asked.replace("caf", "kaf")), root)


def test_a_link_out_is_refused_in_either_unicode_form(tmp_path):
    (tmp_path / "pets" / "cat").mkdir(parents=True)
    (tmp_path / "secret.png").write_bytes(b"s")
    (tmp_path / "pets" / "cat" / unicodedata.normalize("NFD", "é.png")).symlink_to(
        tmp_path / "secret.png"
    )
    with pytest.raises(UnsafeError):
        find(Row("pets/cat/é.png", "", "é.png", "cat"), tmp_path / "pets")


def test_a_link_to_itself(root):
    (root / "train/cat/loop.png").symlink_to("loop.png")
    with pytest.raises(BadDataError, match="leads to itself") as caught:
        find(row("pets/train/cat/loop.png"), root)
    assert caught.value.exit_code == 3


@pytest.mark.parametrize("kind", ["pipe", "socket", "device", "folder"])
def test_what_is_no_regular_file(kind, root):
    path = root / "train/cat/odd.png"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as server:
            here = Path.cwd()
            os.chdir(path.parent)  # the name of a socket has room for a hundred bytes
            server.bind(path.name)
            os.chdir(here)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    else:
        path.mkdir()
    with pytest.raises(UnsafeError):
        find(row("pets/train/cat/odd.png"), root)


def test_a_missing_file_names_the_nearest(root):
    (root / "train/cat/image_0042.jpg").write_bytes(b"x")
    with pytest.raises(BadDataError, match=r"image_0042\.jpg") as caught:
        find(row("pets/train/cat/image_042.jpg"), root)
    assert (caught.value.code, caught.value.exit_code) == ("image-missing", 3)


def test_a_folder_is_resolved_once_for_all_its_rows(root, monkeypatch):
    """A row then costs a look at the file and no more, however deep the folder lies."""
    resolved = []
    real = os.path.realpath
    monkeypatch.setattr(
        os.path,
        "realpath",
        lambda path, **more: (resolved.append(str(path)), real(path, **more))[1],
    )
    finder = Finder(root)
    for _ in range(1000):
        finder.find(row("pets/train/cat/a.png"))
    assert len(resolved) < 10
