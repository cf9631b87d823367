"""Split CSVs: what the strict reader refuses and accepts, and what the check finds."""

from __future__ import annotations

import itertools
import os
import shutil
import unicodedata
from pathlib import Path

import naive
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tlx import files
from tlx.data import csvs, splits
from tlx.errors import BadDataError, ErrorGroup, IntegrityError, MissingError, TlxError

TRAIN, VAL, TEST = "train_samples_01_split_0.csv", "val.csv", "test.csv"


def line(path: str, split: str = "train", label: str = "cat") -> str:
    return f"{path},{split},{path.rsplit('/', 1)[-1]},{label}\n"


def sound() -> dict[str, bytes]:
    """The smallest sound folder: two classes, one row of each on every side."""
    return {
        name: "".join(
            line(f"d/{split}/{label}/{split}{i}.png", split, label)
            for i, label in enumerate(("cat", "dog"))
        ).encode()
        for name, split in ((TRAIN, "train"), (VAL, "val"), (TEST, "test"))
    }


def put(folder: Path, contents: dict[str, bytes]) -> Path:
    for name, data in contents.items():
        files.write_bytes(folder / name, data)
    return folder


def errors_of(call) -> list[TlxError]:
    with pytest.raises(TlxError) as caught:
        call()
    return caught.value.problems if isinstance(caught.value, ErrorGroup) else [caught.value]


# ---------------------------------------------------------------- the catalogue of bad input

GOOD = sound()[VAL].decode()
REFUSED = {  # what is in val.csv → code, exit code, where, what the message must say
    "zero bytes": (b"", "csv-empty", 3, "val.csv:", ["empty file"]),
    "only blank": (b"\n\n", "csv-empty", 3, "val.csv:", ["empty file"]),
    "header": (b"path,split,filename,label\n", "csv-header", 3, "val.csv:1", ["header", "no rows"]),
    "header and rows": (
        b"path,split,filename,label\n" + GOOD.encode(),
        "csv-header",
        3,
        "val.csv:1",
        ["header"],
    ),
    "too many fields": (
        GOOD + "d/v/cat/x,y.png,val,x,y.png,cat\n",
        "csv-fields",
        3,
        "val.csv:3",
        ["6 fields", "4"],
    ),
    "too few fields": (
        GOOD + "d/v/cat/x.png,cat\n",
        "csv-fields",
        3,
        "val.csv:3",
        ["2 fields", "4"],
    ),
    "blank line": (
        GOOD + "\n" + line("d/v/cat/y.png"),
        "csv-fields",
        3,
        "val.csv:3",
        ["empty line"],
    ),
    "unclosed quote": (
        GOOD + 'd/v/x.png,val,"x.png,cat\n' + GOOD,
        "csv-quote",
        3,
        "val.csv:3",
        ["quote"],
    ),
    "stray quote": (GOOD + '"d/v"x.png,val,x.png,cat\n', "csv-syntax", 3, "val.csv:3", ["quote"]),
    "semicolons": (GOOD.replace(",", ";"), "csv-separator", 3, "val.csv:1", ["';'"]),
    "tabs": (GOOD.replace(",", "\t"), "csv-separator", 3, "val.csv:1", ["tabs"]),
    "latin-1": (
        GOOD.encode() + b"d/v/caf\xe9.png,val,caf.png,cat\n",
        "csv-encoding",
        3,
        "val.csv:3",
        ["not UTF-8", f"offset {len(GOOD) + 7}"],
    ),
    "UTF-16": (GOOD.encode("utf-16"), "csv-encoding", 3, "val.csv:", ["UTF-16"]),
    "NUL": (
        GOOD + "d/v/a\0.png,val,a.png,cat\n",
        "csv-nul",
        3,
        "val.csv:3",
        [f"offset {len(GOOD) + 5}"],
    ),
    "empty label": (GOOD + line("d/v/x.png", label=""), "label-empty", 3, "val.csv:3", ["label"]),
    "blank label": (GOOD + line("d/v/x.png", label="  "), "label-empty", 3, "val.csv:3", ["label"]),
    "empty path": (GOOD + ",val,x.png,cat\n", "path-empty", 3, "val.csv:3", ["path"]),
    "climbing path": (
        GOOD + line("../../etc/passwd"),
        "path-escapes",
        4,
        "val.csv:3",
        ["../../etc/passwd", "leaves"],
    ),
    "climbing later": (GOOD + line("d/../../x.png"), "path-escapes", 4, "val.csv:3", ["leaves"]),
    "climbing file name": (
        GOOD + "d/v/x.png,val,../../x.png,cat\n",
        "path-escapes",
        4,
        "val.csv:3",
        ["leaves"],
    ),
    "address": (
        GOOD + line("https://host/x.png"),
        "path-remote",
        3,
        "val.csv:3",
        ["remote paths are not read"],
    ),
    "file address": (
        GOOD + line("file:/etc/passwd"),
        "path-remote",
        3,
        "val.csv:3",
        ["remote paths are not read"],
    ),
    "long path": (
        GOOD + line("d/" + "a/" * 2100 + "x.png"),
        "path-length",
        3,
        "val.csv:3",
        ["4,", "4,096"],
    ),
    "long name": (
        GOOD + f"d/{'n' * 300}.png,val,x.png,cat\n",
        "name-length",
        3,
        "val.csv:3",
        ["304", "255"],
    ),
    "long label": (
        GOOD + line("d/v/x.png", label="l" * 1000),
        "label-length",
        3,
        "val.csv:3",
        ["1,000", "255"],
    ),
    "label of 1 MB": (
        GOOD + line("d/v/x.png", label="l" * 10**6),
        "csv-field-length",
        3,
        "val.csv:3",
        ["1,000,0"],
    ),
    "path twice": (GOOD + GOOD.splitlines()[0] + "\n", "path-twice", 3, "val.csv:3", ["row 1"]),
    "path with two labels": (
        GOOD + line("d/val/cat/val0.png", "val", "dog"),
        "path-two-labels",
        3,
        "val.csv:3",
        ["row 1", "'dog'", "'cat'"],
    ),
    "path with two labels in two files": (
        line("d/test/dog/test1.png", "val", "cat") + GOOD,
        "path-two-labels",
        3,
        "val.csv:1",
        ["test.csv:2", "'dog'", "'cat'"],
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_csv_is_refused_by_name_and_row(case, tmp_path):
    data, code, exit_code, where, says = REFUSED[case]
    data = data.encode() if isinstance(data, str) else data
    found = errors_of(lambda: splits.read(put(tmp_path, sound() | {VAL: data})))
    error = next((e for e in found if e.code == code), None)
    assert error is not None, [str(e) for e in found]
    assert error.exit_code == exit_code
    assert where in error.where + ":", error.where
    for text in says:
        assert text in str(error), str(error)


def test_everything_wrong_is_said_in_one_pass(tmp_path):
    bad = {
        TRAIN: (GOOD + "a,b\n" + line("../../../x.png")).encode(),
        VAL: b"",
        TEST: GOOD.encode("utf-16"),
    }
    with pytest.raises(ErrorGroup) as caught:
        splits.read(put(tmp_path, bad))
    places = {(Path(e.where).name, e.code) for e in caught.value.problems}
    assert {
        (f"{TRAIN}:3", "csv-fields"),
        (f"{TRAIN}:4", "path-escapes"),
        (VAL, "csv-empty"),
        (TEST, "csv-encoding"),
    } <= places
    assert caught.value.exit_code == 4


def test_many_rows_of_one_fault_are_counted_not_listed(tmp_path):
    rows = "".join(f"only,two{i}\n" for i in range(500))
    found = errors_of(lambda: splits.read(put(tmp_path, sound() | {VAL: rows.encode()})))
    assert len(found) == 21
    assert "480 more" in str(found[-1])


@pytest.mark.parametrize("name", [VAL, TEST])
def test_missing_file_is_named_with_its_maker(name, tmp_path):
    contents = sound()
    del contents[name]
    contents[name.replace(".csv", "s.csv")] = b"x"
    (error,) = errors_of(lambda: splits.read(put(tmp_path, contents)))
    assert isinstance(error, MissingError)
    for text in (name, name.replace(".csv", "s.csv"), "tlx splits draw", str(Path.cwd())):
        assert text in str(error)


def test_a_directory_or_a_pipe_in_place_of_a_file(tmp_path):
    put(tmp_path, sound())
    (tmp_path / VAL).unlink()
    (tmp_path / VAL).mkdir()
    (tmp_path / TEST).unlink()
    os.mkfifo(tmp_path / TEST)
    found = errors_of(lambda: splits.read(tmp_path))
    assert {(e.code, e.exit_code) for e in found} == {("csv-directory", 3), ("not-regular", 4)}


def test_limits_on_bytes_and_rows(tmp_path):
    put(tmp_path, sound())
    found = errors_of(lambda: splits.read(tmp_path, limits=splits.CsvLimits(file_bytes=10)))
    assert {e.code for e in found} == {"csv-size"}
    found = errors_of(lambda: splits.read(tmp_path, limits=splits.CsvLimits(rows=1)))
    assert {e.code for e in found} == {"csv-rows"}
    assert "at most 1" in str(found[0])


@pytest.mark.parametrize(
    ("names", "code", "says"),
    [
        (
            ["train_samples_01_split_0.csv", "train_samples_01_split_2.csv"],
            "split-gap",
            "no split 1",
        ),
        (["train_samples_01_split_1.csv"], "split-gap", "no split 0"),
        (["train_samples_1_split_0.csv"], "split-name", "train_samples_05_split_0.csv"),
        (["train_samples_01_split_00.csv"], "split-name", "train_samples_05_split_0.csv"),
    ],
)
def test_numbering(names, code, says, tmp_path):
    contents = sound()
    train = contents.pop(TRAIN)
    found = errors_of(
        lambda: splits.read(
            put(
                tmp_path,
                contents | {TRAIN.replace("01", "02"): train} | dict.fromkeys(names, train),
            )
        )
    )
    assert code in [e.code for e in found]
    assert any(says in str(e) for e in found)


def test_folder_without_training_files(tmp_path):
    (error,) = errors_of(lambda: splits.read(put(tmp_path, {VAL: GOOD.encode()})))
    assert (error.code, error.exit_code) == ("no-splits", 3)
    (error,) = errors_of(lambda: splits.read(tmp_path / "nowhere"))
    assert isinstance(error, MissingError)


def test_one_class_is_none(tmp_path):
    contents = {name: line(f"d/{name}/x.png").encode() for name in (TRAIN, VAL, TEST)}
    (error,) = errors_of(lambda: splits.read(put(tmp_path, contents)))
    assert (error.code, error.exit_code) == ("one-class", 3)
    assert "at least 2" in str(error)


# ---------------------------------------------------------------- accepted


@pytest.mark.parametrize(
    "change",
    [
        lambda data: b"\xef\xbb\xbf" + data,
        lambda data: data.replace(b"\n", b"\r"),
        lambda data: data.replace(b"\n", b"\r\n"),
        lambda data: data.replace(b"\n", b"\r\n", 1),
        lambda data: data.rstrip(b"\n"),
        lambda data: b"\n".join(
            b'"' + row.replace(b",", b'","') + b'"' for row in data.splitlines()
        ),
    ],
    ids=["byte-order mark", "CR", "CRLF", "mixed", "no last line end", "quoted"],
)
def test_spellings_of_the_same_rows(change, tmp_path):
    plain = splits.read(put(tmp_path / "a", sound()))
    other = splits.read(put(tmp_path / "b", {name: change(data) for name, data in sound().items()}))
    assert other.tables == plain.tables
    assert other.digest(1, 0) == plain.digest(1, 0)


@pytest.mark.parametrize(
    "label",
    [
        "NA",
        "None",
        "null",
        "nan",
        "007",
        "1e3",
        "=1+1",
        "@SUM",
        "\x1b[2J",
        "<script>",
        "a,b",
        'a "b" c',
        "../../x",
        "with space",
        "ß",
        "猫",
        "a\nb",
    ],
)
def test_labels_are_text(label, tmp_path):
    for name in (TRAIN, VAL, TEST):
        csvs.write(
            tmp_path / name,
            [
                splits.Row(f"d/{name}/0.png", "train", "0.png", label),
                splits.Row(f"d/{name}/1.png", "train", "1.png", "other"),
            ],
        )
    read = splits.read(tmp_path)
    assert read.val[0].label == label
    assert set(read.classes) == {label, "other"}


@pytest.mark.parametrize(
    ("a", "b"),
    [("cat", " cat"), ("cat", "Cat"), ("007", "7"), ("\u00e9", "e\u0301"), ("\ufb01n", "fin")],
)
def test_labels_that_look_alike_are_two_classes_and_a_note(a, b, tmp_path):
    for name in (TRAIN, VAL, TEST):
        csvs.write(
            tmp_path / name,
            [
                splits.Row(f"d/{name}/{i}.png", "x", f"{i}.png", label)
                for i, label in enumerate((a, b))
            ],
        )
    read = splits.read(tmp_path)
    assert set(read.classes) == {a, b}
    (note,) = read.notes
    assert f"'{a}'" in note
    assert f"'{b}'" in note


def test_class_order_is_held_once_over_all_files(tmp_path):
    contents = sound()
    contents["all_images.csv"] = line("d/x/ant.png", "train", "ant").encode()
    read = splits.read(put(tmp_path, contents))
    assert read.classes == ("ant", "cat", "dog")
    assert read.all_images[0].label == "ant"


@given(
    st.lists(
        st.tuples(
            st.text("abcé,\"'; \n\r=", min_size=1, max_size=8), st.sampled_from(["a", "b,c", 'd"'])
        ),
        min_size=1,
        max_size=20,
        unique_by=lambda pair: pair[0],
    )
)
@settings(max_examples=60, deadline=None)
def test_what_is_written_is_read(tmp_path_factory, pairs):
    rows = [splits.Row(f"d/{name}", "train", name, label) for name, label in pairs]
    path = tmp_path_factory.mktemp("csv") / "x.csv"
    csvs.write(path, rows)
    read, errors = csvs.read(path)
    assert list(read) == rows
    assert errors == []


@given(st.integers(0, 10**6), st.integers(0, 255))
@settings(max_examples=300, deadline=None)
def test_a_changed_byte_is_a_csv_or_an_error_of_ours(tmp_path_factory, place, value):
    data = bytearray(sound()[TRAIN] * 3)
    data[place % len(data)] = value
    path = tmp_path_factory.mktemp("fuzz") / "x.csv"
    path.write_bytes(bytes(data))
    rows, errors = csvs.read(path)
    assert all(len(row) == 4 for row in rows)
    assert all(e.exit_code in (3, 4) for e in errors)


# ---------------------------------------------------------------- identity


def test_digest_is_of_what_a_trial_uses_and_of_nothing_else(tmp_path):
    base = splits.read(put(tmp_path / "a", sound())).digest(1, 0)
    renamed = {name: data.replace(b"d/", b"another-name/") for name, data in sound().items()}
    assert splits.read(put(tmp_path / "b", renamed)).digest(1, 0) == base
    more_draws = sound() | {
        "train_samples_01_split_1.csv": sound()[TRAIN].replace(b"train0", b"train9")
    }
    read = splits.read(put(tmp_path / "c", more_draws))
    assert read.digest(1, 0) == base != read.digest(1, 1)
    for name in (TRAIN, VAL, TEST):
        changed = sound()
        changed[name] = changed[name].replace(b"0.png", b"5.png")
        assert splits.read(put(tmp_path / name, changed)).digest(1, 0) != base


def test_absent_draw_says_what_there_is(tmp_path):
    read = splits.read(put(tmp_path, sound()))
    with pytest.raises(MissingError, match=r"train_samples_05_split_3\.csv.*shots 1"):
        read.train(5, 3)


@pytest.mark.parametrize(
    ("edit", "code"),
    [
        (
            lambda folder: (folder / VAL).write_bytes(
                (folder / VAL).read_bytes() + b"d/v/z.png,v,z.png,1\n"
            ),
            "split-edited",
        ),
        (lambda folder: (folder / "train_samples_01_split_1.csv").unlink(), "split-missing"),
        (
            lambda folder: shutil.copy(folder / TRAIN, folder / "train_samples_01_split_5.csv"),
            "split-added",
        ),
        (lambda folder: (folder / "splits.json").write_text("{}"), "record-damaged"),
    ],
    ids=["edited", "removed", "added", "record"],
)
def test_drawn_files_are_held_to_their_record(edit, code, tmp_path):
    folder = tmp_path / "digits"
    shutil.copytree(splits.shipped("digits"), folder)
    edit(folder)
    found = errors_of(lambda: splits.read(folder))
    assert code in [e.code for e in found]
    assert max(e.exit_code for e in found if isinstance(e, IntegrityError)) == 9
    assert all("splits.json" in str(e) for e in found if isinstance(e, IntegrityError))
    (folder / "splits.json").unlink()
    if code in ("split-edited", "record-damaged"):
        splits.read(folder)  # without a record the files stand as they are


# ---------------------------------------------------------------- the check


def test_a_sound_folder_has_no_problem(tmp_path):
    assert splits.check(splits.read(put(tmp_path, sound()))) == []


def test_the_same_path_is_a_leak_with_both_rows(tmp_path):
    contents = sound()
    contents[TRAIN] = (
        b"d/val/dog/val1.png,val,val1.png,dog\n" + contents[TRAIN].splitlines(keepends=True)[0]
    )
    (error,) = splits.check(splits.read(put(tmp_path, contents)))
    assert (error.code, error.exit_code) == ("leak", 3)
    assert f"{TRAIN}:1" in error.where
    for text in ("1 of 2 rows", "val.csv:2", "d/val/dog/val1.png"):
        assert text in str(error)


def test_same_label_and_name_is_suspected_without_images(tmp_path):
    contents = sound()
    contents[TEST] = contents[TRAIN].replace(b"d/train", b"d/test").replace(b",train,", b",test,")
    (error,) = splits.check(splits.read(put(tmp_path, contents)))
    assert (error.code, error.exit_code) == ("leak-suspected", 3)
    assert "2 of 2 rows" in str(error)


def test_val_in_test_is_a_leak(tmp_path):
    contents = sound()
    contents[TEST] = contents[VAL]
    report = splits.summary(splits.read(put(tmp_path, contents)))
    assert [e.code for e in report.problems] == ["leak"]
    assert report.counts["test.csv rows shared"] == 2


def test_a_class_missing_from_a_file_is_named(tmp_path):
    contents = sound()
    contents[TEST] = contents[TEST].splitlines(keepends=True)[0]
    (error,) = splits.check(splits.read(put(tmp_path, contents)))
    assert (error.code, error.exit_code) == ("class-missing", 3)
    assert "'dog'" in str(error)
    assert error.where.endswith(TEST)


def test_a_class_missing_for_its_unicode_form_says_so(tmp_path):
    contents = {
        name: data.decode().replace("dog", unicodedata.normalize("NFC", "dögs")).encode()
        for name, data in sound().items()
    }
    contents[TEST] = unicodedata.normalize("NFD", contents[TEST].decode()).encode()
    report = splits.summary(splits.read(put(tmp_path, contents)))
    missing = [problem for problem in report.problems if problem.code == "class-missing"]
    assert len(missing) == 3, "each form lacks where the other stands"
    assert all("another Unicode form (NFC, NFD)" in str(problem) for problem in missing)


def test_too_few_images_over_the_whole_grid(tmp_path):
    contents = sound()
    two = (
        contents[TRAIN] + contents[TRAIN].replace(b"train0", b"train7").splitlines(keepends=True)[0]
    )
    contents |= {"train_samples_02_split_0.csv": two, "train_samples_03_split_0.csv": two}
    found = splits.check(splits.read(put(tmp_path, contents)))
    assert [(e.code, Path(e.where).name) for e in found] == [
        ("too-few-images", "train_samples_02_split_0.csv"),
        ("too-few-images", "train_samples_03_split_0.csv"),
    ]
    assert "'dog' 1" in str(found[0])
    assert "'cat' 2, 'dog' 1" in str(found[1])


def test_shots_and_draws_that_are_asked_and_not_there(tmp_path):
    read = splits.read(put(tmp_path, sound() | {"train_samples_02_split_0.csv": sound()[TRAIN]}))
    found = splits.check(read, shots=(1, 5), draws=3)
    names = [Path(e.where).name for e in found if isinstance(e, MissingError)]
    assert names == [f"train_samples_01_split_{s}.csv" for s in (1, 2)] + [
        f"train_samples_05_split_{s}.csv" for s in range(3)
    ]


def image_tree(root: Path, contents: dict[str, bytes], bytes_of) -> Path:
    for data in contents.values():
        for row in data.decode().splitlines():
            path, split, filename, label = row.split(",")
            file = root / split / label / filename
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(bytes_of(path))
    return root


def test_with_images_the_bytes_decide(tmp_path):
    contents = sound()
    contents[TEST] = contents[TRAIN].replace(b"d/train", b"d/test").replace(b",train,", b",test,")
    read = splits.read(put(tmp_path / "s", contents))
    root = image_tree(tmp_path / "other", contents, lambda path: path.encode())
    assert splits.check(read, images=lambda row: splits.find(row, root)) == []
    root = image_tree(tmp_path / "same", sound(), lambda path: b"same " + path[-5:].encode())
    found = splits.check(
        splits.read(put(tmp_path / "t", sound())), images=lambda row: splits.find(row, root)
    )
    assert {e.code for e in found} == {"leak"}
    assert len(found) == 3  # val and test, train and val, train and test
    assert all("2 of 2 rows" in str(e) for e in found)


def test_repeats_are_noted_and_bytes_under_two_labels_refused(tmp_path):
    contents = sound()
    contents[TRAIN] += line("d/train/cat/again.png").encode()
    read = splits.read(put(tmp_path / "s", contents))
    root = image_tree(
        tmp_path / "i", contents, lambda path: b"one" if "train" in path else path.encode()
    )
    report = splits.summary(read, images=lambda row: splits.find(row, root))
    assert [e.code for e in report.problems] == ["image-two-labels"]
    assert any("repeat" in note for note in report.notes)


def test_missing_images_are_named_with_file_row_and_total(tmp_path):
    rows = "".join(
        line(f"d/train/{label}/{i}.png", "train", label)
        for i in range(30)
        for label in ("cat", "dog")
    )
    contents = sound() | {TRAIN: rows.encode()}
    root = image_tree(tmp_path / "i", sound(), str.encode)
    found = splits.check(
        splits.read(put(tmp_path / "s", contents)), images=lambda row: splits.find(row, root)
    )
    missing = [e for e in found if e.code == "image-missing"]
    assert len(missing) == 21
    assert f"{TRAIN}:1" in missing[0].where
    assert "60 rows in all" in str(missing[-1])


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_leak_counts_equal_the_naive_ones(tmp_path_factory, data):
    pools = {
        name: data.draw(st.lists(st.sampled_from(range(12)), min_size=1, max_size=8, unique=True))
        for name in (TRAIN, VAL, TEST)
    }
    contents = {
        name: "".join(line(f"d/{n}.png", "s", "cat") for n in pool)
        + line(f"d/{name}.png", "s", "dog")
        for name, pool in pools.items()
    }
    read = splits.read(
        put(tmp_path_factory.mktemp("leaks"), {n: text.encode() for n, text in contents.items()})
    )
    report = splits.summary(read)
    assert report.counts["val.csv rows shared"] == len({*pools[VAL]} & {*pools[TRAIN]})
    assert report.counts["test.csv rows shared"] == naive.shared(
        pools[TRAIN] + pools[VAL], pools[TEST]
    )
    leaky = {
        (a, b) for a, b in itertools.permutations(pools, 2) if naive.shared(pools[a], pools[b])
    }
    found = {Path(e.where.rsplit(":", 1)[0]).name for e in report.problems if e.code == "leak"}
    assert found == {a for a, b in leaky if b in (VAL, TEST) and (a, b) != (TEST, VAL)}


@pytest.mark.slow
def test_a_million_rows_in_time(tmp_path):
    def rows(first, last, split):
        lines = (
            f"b/{split}/c{i % 100}/{i}.jpg,{split},{i}.jpg,c{i % 100}\n" for i in range(first, last)
        )
        return "".join(lines).encode()

    put(
        tmp_path,
        {
            "all_images.csv": rows(0, 600_000, "train"),
            VAL: rows(0, 1_000, "train"),
            "train_samples_3000_split_0.csv": rows(1_000, 300_000, "train"),
            TEST: rows(600_000, 700_000, "test"),
        },
    )
    read = splits.read(tmp_path)
    found = splits.check(read)
    assert sum(map(len, read.tables.values())) == 1_000_000
    assert (
        [e.code for e in found]
        == ["too-few-images"]
        == [e.code for e in found if isinstance(e, BadDataError)]
    )
    assert np.all([label.startswith("c") for label in read.classes])
