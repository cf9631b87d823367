"""Errors say what to type, cross process borders, and leave with their code."""

from __future__ import annotations

import copy
import pickle

import pytest

from tlx import errors
from tlx.errors import (
    BadDataError,
    ErrorGroup,
    MissingError,
    Stopped,
    TlxError,
    UnknownNameError,
    UnsafeError,
    UsageError,
    raise_all,
)

EVERY = [
    TlxError("a-code", "what"),
    UsageError("a", "b", where="w", expected="e", remedy="r"),
    UnknownNameError("classifier", "svn", ["knn", "linear-svc"]),
    MissingError("weights", "x.pth", made_by="tlx pretrain"),
    UnsafeError("pickle", "code"),
    errors.ResourceError("disk-full", "x"),
    errors.UntrackedError("u", "x"),
    Stopped(15),
    errors.TrialsFailedError("t", "x"),
    errors.BusyError("b", "x"),
    errors.IntegrityError("i", "x"),
    ErrorGroup([BadDataError("one", "1"), UnsafeError("two", "2")]),
]


@pytest.mark.parametrize("error", EVERY, ids=lambda e: type(e).__name__)
def test_an_error_crosses_a_process_border_whole(error):
    for other in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert type(other) is type(error)
        assert str(other) == str(error)
        assert other.exit_code == error.exit_code
        assert other.args == error.args


def test_one_class_an_exit_code():
    codes = {error.exit_code for error in EVERY}
    assert codes == {1, 2, 3, 4, 5, 6, 7, 8, 9, 143}
    assert [Stopped(n).exit_code for n in (1, 2, 15)] == [129, 130, 143]


def test_the_line_says_where_what_expected_and_remedy():
    error = BadDataError(
        "csv-fields", "3 fields", where="a.csv:7", expected="4", remedy="add the label"
    )
    assert str(error) == "error[csv-fields] a.csv:7: 3 fields. expected 4. add the label"
    assert (
        str(MissingError("activations", "dump", made_by="tlx extract"))
        == "error[missing] dump: activations not found. make it with: tlx extract"
    )


def test_an_unknown_name_shows_the_nearest_and_the_known():
    text = str(UnknownNameError("classifier", "linear-svn", ["ridge", "knn", "linear-svc"]))
    assert text.startswith("error[unknown-classifier] unknown classifier 'linear-svn'")
    assert "one of knn, linear-svc, ridge; nearest: linear-svc" in text
    assert "nearest" not in str(UnknownNameError("classifier", "zzz", ["knn"]))
    assert "and 70 more" in str(
        UnknownNameError("classifier", "zzz", [f"name{i}" for i in range(100)])
    )


@pytest.mark.parametrize(
    "evil", ["\x1b[2Jgone", "a\nb", "a\rb", "a\u202eb", "a\u200bb", "\ud800", "\x00", "\x7f"]
)
def test_no_label_drives_a_terminal(evil):
    text = str(BadDataError("x", f"label '{evil}'", where=evil, expected=evil, remedy=evil))
    assert text.isprintable()
    assert text.encode()


def test_readable_letters_stay_as_they_are():
    assert errors.escape_control("Käse 猫 🐈") == "Käse 猫 🐈"


@pytest.mark.parametrize(
    ("classes", "code"),
    [
        ((BadDataError, UnsafeError), 4),
        ((BadDataError, errors.IntegrityError), 9),
        ((UsageError, BadDataError), 3),
        ((TlxError, UsageError), 2),
    ],
)
def test_problems_exit_with_the_gravest(classes, code):
    assert ErrorGroup([c("x", "y") for c in classes]).exit_code == code
    assert ErrorGroup([c("x", "y") for c in reversed(classes)]).exit_code == code


def test_all_problems_are_told_twenty_are_shown():
    text = str(ErrorGroup([BadDataError("x", f"row {i}") for i in range(152)]))
    assert len(text.splitlines()) == 21
    assert text.endswith("and 132 more")


def test_raise_all():
    raise_all([])
    one = BadDataError("x", "y")
    with pytest.raises(BadDataError) as caught:
        raise_all([one])
    assert caught.value is one
    with pytest.raises(ErrorGroup) as many:
        raise_all([one, UnsafeError("z", "y")])
    assert len(many.value.problems) == 2
    with pytest.raises(ValueError, match="at least one"):
        ErrorGroup([])


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (OSError(24, "Too many open files"), "limit"),
        (OSError(11, "Resource temporarily unavailable"), "limit"),
        (RuntimeError("can't start new thread"), "limit"),
        (MemoryError(), "out-of-memory"),
        (OSError(12, "Cannot allocate memory"), "out-of-memory"),
        (PermissionError(13, "Permission denied", "/a/b"), "permission"),
        (OSError(28, "No space left on device", "/a/b"), "disk-full"),
        (OSError(30, "Read-only", "/a/b"), "permission"),
        (OSError(16, "Device or resource busy", "/a/b"), "in-use"),
        (RuntimeError("CUDA out of memory. Tried to allocate 3 GiB"), "out-of-memory"),
        (ImportError("libtorch.so: failed to map segment from shared object"), "out-of-memory"),
        (ImportError("libgomp.so: cannot open shared object file: Too many open files"), "limit"),
        (RuntimeError("Could not determine home directory."), "no-home"),
        (
            RuntimeError("cannot cache function 'f': no locator available for file 'x.py'"),
            "no-kernel-cache",
        ),
    ],
)
def test_what_the_system_refuses_is_no_fault_in_tlx(error, code):
    said = errors.resource_error(error)
    assert (said.code, said.exit_code) == (code, 5)
    assert getattr(error, "filename", None) in (None, said.where)
    assert said.remedy


@pytest.mark.parametrize(
    "error",
    [
        KeyError("x"),
        FileNotFoundError(2, "No such file"),
        RuntimeError("shapes differ"),
        ValueError("out of memory of what it was"),
    ],
)
def test_other_errors_stay_what_they_are(error):
    assert errors.resource_error(error) is None


@pytest.mark.parametrize(
    ("count", "words", "text"),
    [
        (0, ("trial",), "0 trials"),
        (1, ("trial",), "1 trial"),
        (2, ("trial",), "2 trials"),
        (1, ("class", "classes"), "1 class"),
        (2, ("class", "classes"), "2 classes"),
        (1, ("more study", "more studies"), "1 more study"),
    ],
)
def test_a_count_has_the_noun_that_belongs_to_it(count, words, text):
    assert errors.counted(count, *words) == text
