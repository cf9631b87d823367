"""Sources by name, with and without files of weights."""

from __future__ import annotations

import pytest

from tlx.errors import UsageError
from tlx.studies.source_list import parse_sources


@pytest.mark.parametrize(
    ("words", "model", "expected"),
    [
        ((), None, {"net": None}),
        ((), "w.pth", {"net": "w.pth"}),
        (("a",), "w.pth", {"a": "w.pth"}),
        (("a", " b ", "a"), None, {"a": None, "b": None}),
        (("timm:x", "b=/data/x=1.pth"), None, {"timm:x": None, "b": "/data/x=1.pth"}),
    ],
)
def test_names_and_files(words, model, expected):
    assert parse_sources(words, "net", model) == expected
    assert list(parse_sources(words, "net", model)) == list(expected)


@pytest.mark.parametrize("words", [("a=v", "a=w"), ("a", "a=w"), ("a=",), ("=w",), ("",)])
def test_what_names_no_network_once_is_refused(words):
    with pytest.raises(UsageError, match="one file of weights at most"):
        parse_sources(words, "net", None)


@pytest.mark.parametrize("words", [("a", "b"), ("a=w",)])
def test_one_file_beside_several_networks_is_refused(words):
    with pytest.raises(UsageError, match="a weight file is of one network"):
        parse_sources(words, "net", "other.pth")
