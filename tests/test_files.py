"""The door to the disk: all or nothing, checksummed, strict."""

from __future__ import annotations

import errno
import os
import random
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tlx import files, locks
from tlx.errors import BadDataError, IntegrityError, ResourceError, UnsafeError
from tlx.files import Journal

# ---------------------------------------------------------------- durable writes


def test_a_file_is_replaced_all_or_nothing(tmp_path):
    path = tmp_path / "deep" / "er" / "file"
    files.write_text(path, "old")

    def half():
        with files.atomic_write(path) as file:
            file.write(b"half of the n")
            raise KeyError

    with pytest.raises(KeyError):
        half()
    assert path.read_text() == "old"
    assert os.listdir(path.parent) == ["file"]
    files.write_text(path, "new")
    assert path.read_text() == "new"


def test_a_file_keeps_the_umask(tmp_path):
    old = os.umask(0o027)
    try:
        files.write_text(tmp_path / "file", "x")
    finally:
        os.umask(old)
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o640


def test_file_and_folder_are_synced_before_and_after_the_rename(tmp_path, monkeypatch):
    calls = []
    real_fsync, real_replace = os.fsync, os.replace
    monkeypatch.setattr(
        os, "fsync", lambda fd: (calls.append(os.readlink(f"/proc/self/fd/{fd}")), real_fsync(fd))
    )
    monkeypatch.setattr(
        os, "replace", lambda a, b, **k: (calls.append("replace"), real_replace(a, b, **k))
    )
    files.write_text(tmp_path / "file", "x")
    assert calls == [str(tmp_path / ".tmp-file"), "replace", str(tmp_path)]


@pytest.mark.parametrize(
    ("number", "code"),
    [
        (errno.ENOSPC, "disk-full"),
        (errno.EDQUOT, "disk-full"),
        (errno.EFBIG, "disk-full"),
        (errno.EIO, "storage-failing"),
        (errno.EACCES, "permission"),
        (errno.EROFS, "permission"),
    ],
)
def test_trouble_with_storage_is_said_in_words(tmp_path, number, code):
    def write():
        with files.atomic_write(tmp_path / "not yet" / "file"):
            raise OSError(number, os.strerror(number))

    with pytest.raises(ResourceError, match=code) as caught:
        write()
    assert caught.value.exit_code == 5
    assert str(tmp_path) in caught.value.where


def test_other_trouble_is_left_as_it_is(tmp_path):
    with pytest.raises(FileNotFoundError), files.storage_errors(tmp_path):
        raise FileNotFoundError(errno.ENOENT, "gone")


def test_sweeping_takes_what_interrupted_writes_left_and_nothing_else(tmp_path):
    (tmp_path / ".tmp-a").write_text("x")
    (tmp_path / ".tmp-b" / "c").mkdir(parents=True)
    (tmp_path / "kept").write_text("x")
    outside = tmp_path / "folder"
    outside.mkdir()
    (outside / "file").write_text("x")
    (tmp_path / ".tmp-link").symlink_to(outside)
    files.remove_temporary(tmp_path)
    assert sorted(os.listdir(tmp_path)) == ["folder", "kept"]
    assert (outside / "file").exists()


# ---------------------------------------------------------------- manifests


@pytest.fixture
def sealed(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "a.txt").write_text("some text")
    (tmp_path / "sub" / "b.bin").write_bytes(bytes(range(200)))
    files.seal(tmp_path)
    return tmp_path


def test_every_flipped_bit_is_noticed(sealed):
    """Every bit of the manifest, and 300 of the files."""
    files.verify(sealed)
    rng = random.Random(1)
    flips = [("MANIFEST.json", bit) for bit in range(8 * (sealed / "MANIFEST.json").stat().st_size)]
    flips += [
        (name, rng.randrange(8 * size))
        for name, size in (("a.txt", 9), ("sub/b.bin", 200))
        for _ in range(150)
    ]
    for name, bit in flips:
        path = sealed / name
        whole = path.read_bytes()
        broken = bytearray(whole)
        broken[bit // 8] ^= 1 << bit % 8
        path.write_bytes(broken)
        with pytest.raises(IntegrityError):
            files.verify(sealed)
        path.write_bytes(whole)
    files.verify(sealed)


def test_damage_names_the_file(sealed):
    for spoil, code in (
        (lambda p: p.write_bytes(p.read_bytes()[:-1]), "file-size"),
        (lambda p: p.write_bytes(bytes(200)), "file-damaged"),
        (lambda p: p.unlink(), "file-missing"),
    ):
        spoil(sealed / "sub" / "b.bin")
        with pytest.raises(IntegrityError, match=r"b\.bin") as caught:
            files.verify(sealed)
        assert (caught.value.code, caught.value.exit_code) == (code, 9)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"3",
        b'{"files":{}}',
        b'{"files":3,"sha256":"x"}',
        b'{"files":{},"files":{},"sha256":""}',
        b"\xff",
    ],
)
def test_a_manifest_that_is_none_is_noticed(tmp_path, content):
    (tmp_path / "MANIFEST.json").write_bytes(content)
    with pytest.raises(IntegrityError):
        files.manifest(tmp_path)


def test_a_folder_without_manifest_is_not_whole(tmp_path):
    with pytest.raises(IntegrityError, match="manifest"):
        files.verify(tmp_path)


def test_sealing_leaves_out_what_is_to_be_left_out(tmp_path):
    for name in ("kept", "skipped", ".tmp-left"):
        (tmp_path / name).write_text("x")
    files.seal(tmp_path, skip=lambda name: name == "skipped")
    assert set(files.manifest(tmp_path)) == {"kept"}


# ---------------------------------------------------------------- JSON

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63)
    | st.text()
    | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)


@given(JSON.filter(lambda v: "\\ud" not in ascii(v)))
def test_canonical_json_comes_back_and_has_one_spelling(value):
    data = files.canonical_json(value)
    assert files.parse_json(data) == value
    assert files.canonical_json(files.parse_json(data)) == data


def test_the_order_of_keys_does_not_change_the_digest():
    assert files.digest({"a": 1, "b": [1, 2]}) == files.digest({"b": [1, 2], "a": 1})
    assert files.digest({"a": 1}) != files.digest({"a": 1.5})
    assert (
        files.digest({}) == "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"
    )  # sha256 of {}


@pytest.mark.parametrize("value", [float("nan"), float("inf"), {"a": [float("-inf")]}])
def test_what_is_not_finite_is_refused(value):
    with pytest.raises(ValueError):
        files.canonical_json(value)


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"", "json-syntax"),
        (b"{'a': 1}", "json-syntax"),
        (b"[1,]", "json-syntax"),
        (b"{} // no", "json-syntax"),
        (b'{"a":1,"a":2}', "json-duplicate-key"),
        (b"NaN", "json-not-finite"),
        (b"[-Infinity]", "json-not-finite"),
        (b"[" * 200_000, "json-depth"),
        (b'{"a":' * 40 + b"1" + b"}" * 40, "json-depth"),
        (b"\xff\xfe", "json-encoding"),
        (b"1" * 5000, "json-number"),
    ],
)
def test_json_is_read_by_strict_rules(data, code):
    with pytest.raises(BadDataError) as caught:
        files.parse_json(data, where="x.json")
    assert (caught.value.code, caught.value.where) == (code, "x.json")


def test_json_that_is_fine_is_read():
    assert files.parse_json(b'\xef\xbb\xbf{"a": "[[[\\"{{{"}') == {
        "a": '[[["{{{'
    }  # BOM; brackets in text
    assert files.parse_json(b"[" * 32 + b"]" * 32)


def deepest(text: str) -> int:
    """Return how deep brackets outside of strings are nested, read one character at a time."""
    depth, most, in_string, escaped = 0, 0, False, False
    for c in text:
        if in_string:
            in_string, escaped = escaped or c != '"', c == "\\" and not escaped
        elif c == '"':
            in_string = True
        else:
            depth += (c in "[{") - (c in "]}")
            most = max(most, depth)
    return most


@given(st.text('"\\[]{}\na', max_size=40), st.booleans())
def test_the_depth_of_any_text_is_found(text, ends):
    """Also of one that is no JSON: a string that does not end, a bracket too many."""
    text += '"' if ends else "\\"
    text = "[" * files.JSON_DEPTH + text
    is_deep = False
    try:
        files.parse_json(text.encode())
    except BadDataError as error:
        is_deep = error.code == "json-depth"
    assert is_deep == (deepest(text) > files.JSON_DEPTH)


def test_a_huge_file_is_refused_before_it_is_read(tmp_path):
    path = tmp_path / "big.json"
    with open(path, "wb") as file:
        file.truncate(5 << 30)
    with pytest.raises(BadDataError, match="json-size"):
        files.read_json(path)


# ---------------------------------------------------------------- journal


@pytest.fixture
def journal(tmp_path):
    path = tmp_path / "journal"
    with Journal(path) as opened:
        for n in range(5):
            opened.append({"n": n, "text": "é" * n})
    return path


def test_a_journal_comes_back(journal):
    rows = [{"n": n, "text": "é" * n} for n in range(5)]
    assert Journal.read(journal) == rows
    with Journal(journal) as opened:
        assert opened.records == rows
        opened.append({"n": 5})
    assert len(Journal.read(journal)) == 6
    assert Journal.read(journal.with_name("absent")) == []


def test_a_torn_tail_is_cut_off_at_every_length(journal):
    whole = journal.read_bytes()
    ends = [i + 1 for i, byte in enumerate(whole) if byte == 10]
    for length in range(len(whole) + 1):
        for tail in (b"", bytes(7)):  # cut short, or the length there and zeros in it
            journal.write_bytes(whole[:length] + tail)
            before = [n for n, end in enumerate(ends) if end <= length]
            assert [r["n"] for r in Journal.read(journal)] == before
            with Journal(journal) as opened:
                assert [r["n"] for r in opened.records] == before
                opened.append({"n": 99})
            assert [r["n"] for r in Journal.read(journal)] == [*before, 99]


def test_a_flipped_bit_is_damage_never_a_shorter_journal(journal):
    """Every bit of every record, the last one and its line end included."""
    whole = journal.read_bytes()
    rows = Journal.read(journal)
    for bit in range(8 * len(whole)):
        broken = bytearray(whole)
        broken[bit // 8] ^= 1 << bit % 8
        journal.write_bytes(broken)
        try:
            read = Journal.read(journal)
        except IntegrityError:
            continue
        assert read == rows, f"bit {bit}"  # the letter case of a checksum


def test_a_record_whose_first_block_was_never_written_is_a_torn_tail(journal):
    """A power cut can keep the end of the last record, with its line end, and not its beginning."""
    whole = journal.read_bytes()
    last = whole[:-1].rindex(b"\n") + 1
    for length in range(8, len(whole) - last - 1):
        journal.write_bytes(whole[:last] + bytes(length) + whole[last + length :])
        assert [r["n"] for r in Journal.read(journal)] == [0, 1, 2, 3]


def test_a_damaged_journal_is_not_opened_for_writing(journal):
    broken = bytearray(journal.read_bytes())
    broken[-5] ^= 4
    journal.write_bytes(broken)
    with pytest.raises(IntegrityError, match="run the same command again"):
        Journal(journal)
    assert journal.read_bytes() == broken


def test_a_full_disk_leaves_the_journal_as_it_was(journal, monkeypatch):
    before, write = journal.read_bytes(), os.write
    with Journal(journal) as opened:
        for fail in (lambda fd, data: write(fd, data[:4]), no_space):
            monkeypatch.setattr(os, "write", fail)
            with pytest.raises(ResourceError, match="disk-full"):
                opened.append({"n": 5})
            assert journal.read_bytes() == before
            assert len(opened.records) == 5
        monkeypatch.setattr(os, "write", write)
        opened.append({"n": 5})
    assert [r["n"] for r in Journal.read(journal)] == [0, 1, 2, 3, 4, 5]


def no_space(fd, data):
    raise OSError(errno.ENOSPC, "no space")


def test_a_record_is_one_line_with_its_checksum(journal):
    for line in journal.read_bytes().splitlines():
        crc, body = line.split(b" ", 1)
        assert int(crc, 16) == zlib.crc32(body)


# ---------------------------------------------------------------- links


@pytest.fixture
def outside(tmp_path):
    """A user's file that no planted link may lead a write to."""
    path = tmp_path / "elsewhere" / "precious"
    path.parent.mkdir()
    path.write_text("precious")
    yield path
    assert os.listdir(path.parent) == ["precious"]
    assert path.read_text() == "precious"


def plant_link(path, target):
    path.symlink_to(target)


def plant_hard_link(path, target):
    os.link(target, path)


@pytest.mark.parametrize("plant", [plant_link, plant_hard_link])
@pytest.mark.parametrize("name", ["file", ".tmp-file"])
def test_replacing_a_file_writes_through_no_link(tmp_path, outside, plant, name):
    plant(tmp_path / name, outside)
    files.write_text(tmp_path / "file", "new")
    assert (tmp_path / "file").read_text() == "new"
    assert not (tmp_path / "file").is_symlink()


@pytest.mark.parametrize(
    "plant", [plant_link, plant_hard_link, lambda path, target: os.mkfifo(path)]
)
@pytest.mark.parametrize(
    "opening",
    [
        Journal,
        lambda path: locks.lock(path).__enter__(),
        lambda path: files.open_own(path, os.O_WRONLY | os.O_CREAT),
    ],
)
def test_what_is_appended_to_is_no_link_and_a_regular_file(tmp_path, outside, plant, opening):
    plant(tmp_path / "own", outside)
    with pytest.raises(UnsafeError, match="rm ") as caught:
        opening(tmp_path / "own")
    assert caught.value.exit_code == 4


def test_a_dangling_link_is_not_followed_to_make_a_file(tmp_path, outside):
    (tmp_path / "own").symlink_to(outside.with_name("new"))
    with pytest.raises(UnsafeError):
        Journal(tmp_path / "own")


def test_no_folder_below_a_guarded_one_may_be_a_link(tmp_path, outside):
    root = files.guard(tmp_path / "store")
    root.mkdir()
    (root / "trials").symlink_to(outside.parent)
    for write in (
        lambda: files.write_text(root / "trials" / "precious", "x"),
        lambda: files.make_folder(root / "trials" / "deep" / "er"),
        lambda: Journal(root / "trials" / "journal"),
        lambda: locks.lock(root / "trials" / "lock").__enter__(),
    ):
        with pytest.raises(UnsafeError, match="trials"):
            write()


def test_a_guarded_folder_itself_may_be_reached_through_a_link(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "store").symlink_to(tmp_path / "disk")
    root = files.guard(tmp_path / "store")
    files.write_text(root / "a" / "b", "x")
    assert (tmp_path / "disk" / "a" / "b").read_text() == "x"


def test_two_writers_of_one_file_each_write_all_of_it(tmp_path):
    with files.atomic_write(tmp_path / "file") as first:
        first.write(b"first")
        with files.atomic_write(tmp_path / "file") as second:
            second.write(b"the second, longer")
        assert (tmp_path / "file").read_bytes() == b"the second, longer"
    assert (tmp_path / "file").read_bytes() == b"first"
    assert os.listdir(tmp_path) == ["file"]
