"""Sources by name, with and without files of weights."""

from __future__ import annotations

import pytest

from tlx.errors import UsageError
from tlx.studies.source_list import labels_of, parse_sources


@pytest.mark.parametrize(
    ("words", "model", "expected"),
    [
        ((), None, [("net", None)]),
        ((), "w.pth", [("net", "w.pth")]),
        (("a",), "w.pth", [("a", "w.pth")]),
        (("a", " b ", "a"), None, [("a", None), ("b", None)]),
        (("timm:x", "b=/data/x=1.pth"), None, [("timm:x", None), ("b", "/data/x=1.pth")]),
        (("a=1.pth", "a = 2.pth", "a"), None, [("a", "1.pth"), ("a", "2.pth"), ("a", None)]),
    ],
)
def test_names_and_files(words, model, expected):
    sources = parse_sources(words, "net", model)
    assert [(source.architecture, source.model) for source in sources] == expected
    labels = [source.label for source in sources]
    assert len(set(labels)) == len(labels)


@pytest.mark.parametrize("words", [("a=",), ("=w",), ("",)])
def test_what_names_no_network_is_refused(words):
    with pytest.raises(UsageError, match="NAME or NAME=FILE"):
        parse_sources(words, "net", None)


def test_files_of_one_name_are_refused_for_one_backbone():
    with pytest.raises(UsageError, match="files of different names"):
        parse_sources(("a=x/w.pth", "a=y/w.pth"), "net", None)
    assert len(parse_sources(("a=x/w.pth", "b=y/w.pth"), "net", None)) == 2


def test_sources_of_one_name_are_told_apart_by_their_weights():
    specs = [
        {"architecture": "a", "model": "x/w.pth", "weights": "12345678ff"},
        {"architecture": "a", "model": "y/w.pth", "weights": "87654321ff"},
        {"architecture": "a", "model": None, "weights": "0"},
    ]
    assert labels_of(specs) == ["a (w.pth), weights 12345678", "a (w.pth), weights 87654321", "a"]


@pytest.mark.parametrize("words", [("a", "b"), ("a=w",)])
def test_one_file_beside_several_networks_is_refused(words):
    with pytest.raises(UsageError, match="a weight file is of one network"):
        parse_sources(words, "net", "other.pth")
