"""Dumps in shards: the bytes of a dump in one piece, whoever makes the shards, and read as one."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import hypothesis
import numpy as np
import pytest
import torch
from features.extracting import HOW, LAYERS, Pictures, network
from features.test_dump import driver
from hypothesis import strategies

from tlx import files, metrics
from tlx.errors import (
    BadDataError,
    BusyError,
    IntegrityError,
    MissingError,
    ResourceError,
    Stopped,
    UsageError,
)
from tlx.features import cuts, exports, image_names, shard_parts, sharded
from tlx.features.cuts import RowCuts
from tlx.features.dump import Dump, ExtractionConfig
from tlx.features.dumps import Dumps
from tlx.features.embedding import EMBEDDINGS
from tlx.features.extract import ExtractionContext, PassContext, extract, make_shard
from tlx.features.shard_parts import ShardOrder, ShardPart, ShardWriter
from tlx.metrics.streams import blocks

ROWS = 41  # of 16 in a shard: 16, 16, 9, the last batch of one row


@pytest.fixture(scope="module")
def net():
    return network()


@pytest.fixture
def small_shards(monkeypatch):
    """Shards of two batches of eight rows: of conv1, the widest layer, one batch takes 692 kB."""
    monkeypatch.setattr(cuts, "SHARD_BYTES", 1 << 20)


def make(net, root, layers=LAYERS, pictures=None, how=HOW, **place):
    pictures = Pictures(ROWS) if pictures is None else pictures
    return extract(net, "random", pictures, layers, ExtractionContext(root, **place), how)


@pytest.fixture(scope="module")
def whole(net, tmp_path_factory):
    """A dump in one piece."""
    return make(net, tmp_path_factory.mktemp("whole"))


@pytest.fixture
def parted(net, tmp_path, small_shards):
    """The same dump in shards."""
    return make(net, tmp_path / "dumps")


def rows_of(dump, layer):
    """The numbers of a layer, read from its files without the code under test."""
    paths = sorted(dump.folder.glob(f"{layer}*.npy"))
    return np.concatenate([np.load(path) for path in paths])


# ---------------------------------------------------------------- the same bytes


def test_the_rows_of_a_shard_are_the_multiple_of_the_batch_nearest_to_64_mib():
    assert cuts.SHARD_BYTES == 64 << 20
    for row_bytes, batch, rows in [
        (8192, 64, 8192),
        (8192, 63, 63 * 130),  # 130.03 batches
        (1 << 20, 48, 48),  # 1.33 batches
        (1 << 20, 40, 80),  # 1.6 batches
        (1 << 30, 64, 64),  # a batch at least
    ]:
        assert RowCuts.fitting(10**6, row_bytes, batch).rows == rows
    assert [*map(len, map(RowCuts(ROWS, 16).range, range(3)))] == [16, 16, 9]
    assert RowCuts(32, 16).count == 2


def test_shards_one_behind_the_other_are_the_dump_in_one_piece(whole, parted):
    assert parted.key == whole.key
    assert whole.header["format"] == 1
    assert (parted.header["format"], parted.header["shard_rows"]) == (2, 16)
    names = {path.name for path in parted.folder.glob("*.npy")}
    assert names == {f"{layer}.{shard:05d}.npy" for layer in LAYERS for shard in range(3)}
    for layer in LAYERS:
        assert rows_of(parted, layer).tobytes() == np.load(whole.folder / f"{layer}.npy").tobytes()
        assert np.array_equal(np.asarray(parted.array(layer)), whole.array(layer))
    parted.verify()
    assert not list(parted.folder.parent.glob("*.part"))
    assert not list(parted.folder.glob(".tmp*"))


def test_a_cut_inside_a_batch_may_give_other_bits_so_there_is_none(net, tmp_path, monkeypatch):
    """Of conv1 at 86 kB a row, a cut at exactly 1 MiB would come after 12 rows."""
    monkeypatch.setattr(cuts, "SHARD_BYTES", 12 * 86528)
    dump = make(net, tmp_path)
    assert dump.header["shard_rows"] % HOW.batch == 0


@pytest.mark.parametrize("reduce", ["raw", "pooled"])
def test_everything_that_reads_a_dump_reads_shards_alike(tmp_path, net, monkeypatch, reduce):
    how = ExtractionConfig(batch=8, reduce=reduce)
    whole = make(net, tmp_path / "whole", how=how)
    monkeypatch.setattr(cuts, "SHARD_BYTES", 1000)  # a batch each
    dump = make(net, tmp_path / "parted", how=how)
    layer = dump.array("conv1")
    assert len(layer._files) == 6
    assert dump.widths == whole.widths
    assert np.array_equal(dump.matrix(), whole.matrix())
    rows = [40, 0, 17, 17, 8]
    assert np.array_equal(dump.matrix(["fc1", "conv1"], rows), whole.matrix(["fc1", "conv1"], rows))
    assert np.array_equal(dump.take("conv1", rows), whole.take("conv1", rows))
    share = dump.usage(ROWS)
    assert share["disk_bytes"] == sum(p.stat().st_size for p in dump.folder.glob("*.npy"))
    assert share["wall_s"] == pytest.approx(dump.passes[0]["seconds"])
    assert len(dump.passes) == 1
    again = pickle.loads(pickle.dumps(dump))
    assert np.array_equal(again.array("fc1")[3:30], whole.array("fc1")[3:30])


def test_exports_of_shards_are_those_of_one_piece(tmp_path, net, small_shards, whole):
    ids, labels = [str(i) for i in range(ROWS)], [str(i % 3) for i in range(ROWS)]
    dump = make(net, tmp_path / "dumps", ids=ids, labels=labels)
    exports.write(dump, tmp_path / "out", ["fc1", "conv1"])
    assert np.array_equal(exports.read(tmp_path / "out").array, whole.matrix(["fc1", "conv1"]))
    exports.write_extracted({"m": dump}, tmp_path / "x.pt")
    kept = torch.load(tmp_path / "x.pt", weights_only=True)["m"]["layers"]
    for layer, tensor in zip(dump.layers, kept, strict=True):
        assert np.array_equal(tensor.numpy(), whole.array(layer).reshape(ROWS, -1))


@pytest.mark.parametrize("name", EMBEDDINGS)
def test_embeddings_of_shards_are_those_of_one_piece(name, parted, whole):
    train, test = np.array([40, 3, 15, 16, 22]), slice(5, 35)
    embedded = []
    for dump in (parted, whole):
        layers = [dump.array(layer) for layer in ("relu2", "fc1")]
        fitted = EMBEDDINGS[name]().fit(layers, train)
        embedded.append((fitted.transform(layers, train), fitted.transform(layers, test)))
    for ours, theirs in zip(*embedded, strict=True):
        assert ours.tobytes() == theirs.tobytes()


@pytest.mark.parametrize("read", [False, True])
def test_metrics_of_shards_are_those_of_one_piece(read, parted, whole):
    labels = np.arange(ROWS) % 3
    shards, array = parted.array("relu2"), whole.array("relu2")
    for rows in (1, 7, 16, 100):
        parts = [(start, part.copy()) for start, part in blocks(shards, rows, read=read)]
        assert [start for start, _ in parts] == list(range(0, ROWS, rows))
        assert np.concatenate([part for _, part in parts]).tobytes() == array.tobytes()
    ours, theirs = (metrics.sum_of_squares(x, labels, read=read) for x in (shards, array))
    assert (ours.within, ours.between, ours.total) == (theirs.within, theirs.between, theirs.total)
    for metric, beside in (("sum_of_squares", {"labels": labels}), ("intrinsic_dimension", {})):
        ours, theirs = (
            metrics.over(x, metric, block_rows=10, **beside).value for x in (shards, array)
        )
        assert repr(ours) == repr(theirs)
    ours, theirs = (metrics.cka(x, whole.array("fc1")) for x in (shards, array))
    assert ours == theirs


# ---------------------------------------------------------------- shards are rows, as numpy's

INDEX = strategies.integers(-ROWS - 3, ROWS + 2)
INSIDE = strategies.integers(-ROWS, ROWS - 1)
ENDS = strategies.none() | INDEX


@pytest.fixture(scope="module")
def both(net, tmp_path_factory):
    """A layer in shards of eight rows, and the array that it is."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cuts, "SHARD_BYTES", 1000)
        dump = make(
            net,
            tmp_path_factory.mktemp("both"),
            ["pool1"],
            how=ExtractionConfig(batch=8, reduce="raw"),
        )
    return dump.array("pool1"), rows_of(dump, "pool1")


@hypothesis.given(data=strategies.data())
@hypothesis.settings(max_examples=150)
def test_shards_are_indexed_as_an_array_is(both, data):
    shards, array = both
    index = data.draw(
        strategies.one_of(
            INDEX,
            strategies.builds(slice, ENDS, ENDS, strategies.sampled_from([None, 1, 2, -1, -3])),
            strategies.lists(INDEX, max_size=6),
            strategies.lists(INSIDE, min_size=1, max_size=9).map(np.array),
            strategies.lists(strategies.booleans(), min_size=ROWS, max_size=ROWS).map(np.array),
            strategies.integers(0, ROWS + 1).map(lambda n: np.ones(n, bool)),
            strategies.just(np.arange(6).reshape(2, 3)),
            strategies.just(...),
            strategies.just(np.int64(3)),
            strategies.just((slice(2, 20), slice(None), 3)),
            strategies.just((5, 1, slice(2))),
            strategies.just(([1, 30], slice(1, 3))),
            strategies.just(np.array([1.0])),
        )
    )
    try:
        expected = array[index]
    except IndexError:
        with pytest.raises(IndexError):
            shards[index]
        return
    result = shards[index]
    assert (result.shape, result.dtype) == (expected.shape, expected.dtype)
    assert np.array_equal(result, expected)


@hypothesis.given(rows=strategies.integers(1, ROWS + 5), start=INSIDE, many=INSIDE)
def test_blocks_and_reads_are_runs_of_the_array(both, rows, start, many):
    shards, array = both
    parts = list(shards.blocks(rows))
    assert [first for first, _ in parts] == list(range(0, ROWS, rows))
    assert np.array_equal(np.concatenate([part for _, part in parts]), array)
    begin, end = sorted((abs(start), abs(many)))
    assert np.array_equal(shards.read(begin, end), array[begin:end])


def test_shards_say_what_an_array_says(both):
    shards, array = both
    for name in ("shape", "ndim", "size", "itemsize", "nbytes", "dtype"):
        assert getattr(shards, name) == getattr(array, name), name
    flat = shards.reshape(len(shards), -1)
    assert flat.shape == array.reshape(len(array), -1).shape
    assert np.array_equal(flat[7:19], array.reshape(len(array), -1)[7:19])
    for shape in ((-1,), (ROWS, 7), (1, -1)):
        with pytest.raises(ValueError, match="reshape"):
            shards.reshape(*shape)
    with pytest.raises(TypeError):
        shards["conv1"[0] == "c", None]
    with pytest.raises(ValueError, match="read-only"):
        shards[3:5][0] = 1
    with pytest.raises(ValueError, match="read-only"):
        shards[3:30][0] = 1
    again = pickle.loads(pickle.dumps(shards))
    assert np.array_equal(np.asarray(again), array)
    assert np.asarray(shards, np.float16).dtype == np.float16


def test_shards_larger_than_half_of_the_memory_are_no_array(both, monkeypatch):
    class Little:
        available = 2 * both[0].nbytes - 2

    monkeypatch.setattr(sharded.psutil, "virtual_memory", lambda: Little)
    with pytest.raises(ResourceError, match="over"):
        np.asarray(both[0])
    assert np.array_equal(both[0][4:12], both[1][4:12])


# ---------------------------------------------------------------- cut off, and continued


@pytest.mark.crash
@pytest.mark.parametrize(
    ("mode", "least", "shards"), [("shards", 5, 3), ("each third shard call", 15, 2)]
)
def test_killed_and_continued_in_shards_is_bit_identical(tmp_path, rng, mode, least, shards):
    result = driver(mode, tmp_path, rng.randrange(1000))
    assert "failed" not in result, result
    assert result["kills"] >= least
    assert len(result["undisturbed"]) == 3 + shards * len(LAYERS)  # and header, images, manifest
    for files_left in result["found"]:
        assert files_left == result["undisturbed"]


def stopped_after(net, root, batches, **place):
    """Extract until so many batches are done; the rows that were taken."""
    pictures, seen = Pictures(ROWS), []
    with pytest.raises(Stopped):
        make(
            net,
            root,
            pictures=pictures,
            progress=lambda done, of: seen.append((done, of)),
            stopping=lambda: len(seen) >= batches,
            **place,
        )
    return seen


def test_a_stop_keeps_the_shards_that_are_whole_and_no_other_is_made_again(
    net, tmp_path, small_shards, whole
):
    seen = stopped_after(net, tmp_path, 3)
    assert seen == [(8, 41), (16, 41), (24, 41)]
    (part,) = tmp_path.glob("*.part")
    assert sorted(p.name for p in part.glob("*.npy")) == [f"{n}.00000.npy" for n in sorted(LAYERS)]
    assert not list(part.glob(".tmp*"))
    entry = Dumps(tmp_path).entries()[0]
    assert entry.layers == {}
    assert entry.unfinished > 0
    pictures, seen = Pictures(ROWS), []
    dump = make(net, tmp_path, pictures=pictures, progress=lambda done, of: seen.append(done))
    assert min(pictures.taken) == 16
    assert seen == [24, 32, 40, 41]
    assert dump.inherited_s > 0
    assert np.array_equal(dump.matrix(), whole.matrix())
    dump.verify()


def test_shards_that_are_whole_and_on_no_list_are_found(net, tmp_path, small_shards, whole):
    """As after a kill: the manifest of the part is written now and then."""
    stopped_after(net, tmp_path, 5)
    (part,) = tmp_path.glob("*.part")
    (part / files.MANIFEST).unlink()
    os.truncate(part / "fc1.00001.npy", 100)  # what has a name and is not whole is not taken
    pictures = Pictures(ROWS)
    dump = make(net, tmp_path, pictures=pictures)
    assert (min(pictures.taken), max(pictures.taken)) == (16, 40)
    assert np.array_equal(dump.matrix(), whole.matrix())


def test_a_shard_that_is_gone_from_a_part_is_made_again(net, tmp_path, small_shards, whole):
    stopped_after(net, tmp_path, 5)
    (part,) = tmp_path.glob("*.part")
    (part / "relu2.00000.npy").unlink()
    pictures = Pictures(ROWS)
    dump = make(net, tmp_path, pictures=pictures)
    assert not {*range(16, 32)} & {*pictures.taken}
    assert np.array_equal(dump.matrix(), whole.matrix())


def test_all_shards_whole_and_the_dump_not_yet_is_published_by_the_next_call(
    net, tmp_path, small_shards, monkeypatch, whole
):
    def power_cut(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("tlx.features.shelf.DumpDirectory.publish", power_cut)
        with pytest.raises(KeyboardInterrupt):
            make(net, tmp_path)
    pictures = Pictures(ROWS)
    dump = make(net, tmp_path, ["pool1"], pictures=pictures)  # another layer finds them too
    assert set(Dump(dump.folder).layers) == {*LAYERS, "pool1"}
    assert np.array_equal(Dump(dump.folder, LAYERS).matrix(), whole.matrix())


def test_numbers_that_are_none_are_refused_with_their_row_of_all_rows(tmp_path, small_shards):
    broken, pictures = network(), Pictures(ROWS)
    pictures.rows[:] = round(255 * broken.mean[0])
    pictures.rows[35] = 255
    with torch.no_grad():
        broken.net.conv1.weight.fill_(1e38)
        broken.net.conv1.bias.zero_()
    with pytest.raises(BadDataError, match="conv1 gives NaN or infinity in 1 of 8 rows") as caught:
        make(broken, tmp_path, ["conv1"], pictures=pictures)
    assert "first in row 35" in str(caught.value)
    (part,) = tmp_path.glob("*.part")  # the shards before it are kept
    assert sorted(p.name for p in part.glob("*.npy")) == ["conv1.00000.npy", "conv1.00001.npy"]


# ---------------------------------------------------------------- formats beside each other


def test_layers_in_one_piece_stay_as_they_are_when_others_come_in_shards(
    net, tmp_path, monkeypatch, whole
):
    narrow = make(net, tmp_path, ["fc1"])
    assert narrow.header["format"] == 1
    before = (narrow.folder / "fc1.npy").stat()
    monkeypatch.setattr(cuts, "SHARD_BYTES", 1 << 20)
    pictures = Pictures(ROWS)
    both = make(net, tmp_path, LAYERS, pictures)
    assert pictures.taken
    assert (narrow.folder / "fc1.npy").stat() == before
    assert (both.header["format"], both.header["shard_rows"]) == (2, 16)
    assert isinstance(both.array("fc1"), np.ndarray)
    assert isinstance(both.array("conv1"), sharded.Sharded)
    assert np.array_equal(both.matrix(), whole.matrix())
    both.verify()
    assert len(both.passes) == 2
    # a layer that comes later is cut at the same rows
    monkeypatch.setattr(cuts, "SHARD_BYTES", 64 << 20)
    later = make(net, tmp_path, ["pool1"])
    assert len(later.array("pool1")._files) == 3
    reopened = Dump(later.folder)
    assert set(reopened.layers) == {*LAYERS, "pool1"}
    reopened.verify()


def test_a_dump_of_format_1_is_read_as_it_was_written(tmp_path, whole):
    """Its header has no word of shards, and its rows of the manifest have none."""
    header = files.read_json(whole.folder / "header.json")
    assert header["format"] == 1
    assert not any("shard" in word for word in (*header, *header["identity"]))
    assert not any("shard" in row for row in files.manifest(whole.folder).values())
    shutil.copytree(whole.folder, tmp_path / whole.key)
    assert np.array_equal(Dump(tmp_path / whole.key, LAYERS).matrix(), whole.matrix())


# ---------------------------------------------------------------- damage


def damage(path, how):
    """Damage a file that nobody has open; the bytes it had are returned."""
    data = path.read_bytes()
    match how:
        case "cut":
            path.write_bytes(data[:-7])
        case "flip":
            path.write_bytes(data[:-9] + bytes([data[-9] ^ 4]) + data[-8:])
        case "gone":
            path.unlink()
        case "longer":
            path.write_bytes(data + b"x")
        case "other rows":
            np.save(path, np.load(path)[::-1])
    return data


@pytest.mark.parametrize("how", ["cut", "flip", "gone", "longer", "other rows"])
def test_a_damaged_shard_is_named(tmp_path, net, parted, how):
    parted.close()
    path = parted.folder / "fc1.00001.npy"
    damage(path, how)
    dumps = Dumps(parted.folder.parent)
    with pytest.raises(IntegrityError, match=r"fc1\.00001\.npy") as caught:
        Dump(parted.folder).array("fc1")[20]
    assert "run the command that made it again" in caught.value.remedy
    with pytest.raises(IntegrityError, match=r"fc1\.00001\.npy"):
        dumps.verify(parted.key)
    is_seen = how in ("cut", "gone", "longer")
    assert ("fc1.00001.npy" in dumps.entry(parted.key).damage) == is_seen
    if not is_seen:  # the other shards are what they were
        assert Dump(parted.folder).array("fc1")[3].shape == (128,)


@pytest.mark.parametrize(
    ("command", "is_shown"),
    [
        ("tlx extract --dataset 'my photos' --layers fc1", True),
        ("tlx extract --dataset x; rm -rf here", False),
        ("tlx extract --dataset $(touch here)", False),
        ("curl host", False),
        ("tlx extract '", False),
        ("tlx extract 'a\x1b[2Jb'", False),
        (["tlx"], False),
    ],
)
def test_only_a_command_of_tlx_is_taken_from_a_manifest(parted, command, is_shown):
    parted.close()
    rows = files.manifest(parted.folder)
    for row in rows.values():
        if "made" in row:
            row["made"]["command"] = command
    files.write_manifest(parted.folder, rows)
    damage(parted.folder / "fc1.00001.npy", "cut")
    with pytest.raises(IntegrityError) as caught:
        Dumps(parted.folder.parent).verify(parted.key)
    assert ("run: " in caught.value.remedy) is is_shown
    assert str(command) in caught.value.remedy or not is_shown
    assert "it makes this file alone anew" in caught.value.remedy


def states(folder, but):
    """Which files there are, and when each was written."""
    written = {path.name: path.stat() for path in folder.iterdir() if path != but}
    return {name: (state.st_ino, state.st_mtime_ns) for name, state in written.items()}


@pytest.mark.parametrize("how", ["cut", "flip", "gone"])
def test_an_extraction_makes_a_damaged_shard_anew_and_no_other(net, tmp_path, parted, how):
    parted.close()
    path = parted.folder / "fc1.00001.npy"
    before = states(parted.folder, path)
    data = damage(path, how)
    notes, pictures, seen = [], Pictures(ROWS), []
    mended = make(
        net,
        tmp_path / "dumps",
        pictures=pictures,
        note=notes.append,
        progress=lambda done, of: seen.append((done, of)),
    )
    assert path.read_bytes() == data
    assert states(parted.folder, path) == before
    assert sorted(pictures.taken) == list(range(16, 32))
    assert seen == [(8, 16), (16, 16)]
    (note,) = notes
    assert str(path) in note
    assert "made anew in" in note
    assert "\n" not in note
    mended.verify()
    assert mended.own_s == 0  # not what the features cost
    assert not list(parted.folder.parent.glob("*.part"))
    notes.clear()
    make(net, tmp_path / "dumps", pictures=pictures, note=notes.append)
    assert (notes, len(pictures.taken)) == ([], 16)


def test_damage_here_and_there_is_all_made_anew(net, tmp_path, parted):
    parted.close()
    names = ["fc1.00002.npy", "relu2.00002.npy", "conv1.00000.npy", "fc1.00000.npy"]
    kept = {name: damage(parted.folder / name, "flip") for name in names}
    notes, pictures = [], Pictures(ROWS)
    make(net, tmp_path / "dumps", pictures=pictures, note=notes.append).verify()
    assert {name: (parted.folder / name).read_bytes() for name in names} == kept
    assert sorted(pictures.taken) == [*range(16), *range(32, ROWS)]  # together where they can be
    (note,) = notes
    assert "and 3 more files" in note


def test_only_the_layers_that_are_asked_for_are_looked_at(net, tmp_path, parted):
    parted.close()
    damage(parted.folder / "fc1.00001.npy", "gone")
    notes = []
    make(net, tmp_path / "dumps", ["conv1"], note=notes.append)
    assert not notes
    both = make(net, tmp_path / "dumps", ["fc1", "pool1"], note=notes.append)
    assert len(notes) == 1
    both.verify()


def test_a_damaged_layer_in_one_file_is_made_anew(net, tmp_path, whole):
    shutil.copytree(whole.folder, tmp_path / whole.key)
    data = damage(tmp_path / whole.key / "relu2.npy", "flip")
    notes, pictures = [], Pictures(ROWS)
    make(net, tmp_path, pictures=pictures, note=notes.append).verify()
    assert (tmp_path / whole.key / "relu2.npy").read_bytes() == data
    assert sorted(pictures.taken) == list(range(ROWS))
    assert len(notes) == 1


def test_a_shard_that_would_get_other_bytes_stays_damaged_and_is_told(net, tmp_path, parted):
    """As with another torch or another kind of machine: the dump would be of two kinds."""
    parted.close()
    path = parted.folder / "fc1.00001.npy"
    damage(path, "cut")
    other = Pictures(ROWS, seed=1)
    other.digest = Pictures(ROWS).digest  # the same dump by its key, other numbers
    for _ in range(2):
        with pytest.raises(IntegrityError, match="other bytes than it had") as caught:
            make(net, tmp_path / "dumps", pictures=other)
        assert caught.value.where == str(path)
        assert f"--threads {torch.get_num_threads()}" in caught.value.remedy
        assert "tlx dumps rm" in caught.value.remedy
    assert not list(parted.folder.parent.glob("*.part"))
    del caught
    make(net, tmp_path / "dumps").verify()


def test_what_a_killed_repair_left_is_removed(net, tmp_path, parted):
    parted.close()
    for is_damaged in (True, False):
        part = files.make_folder(parted.folder.with_name(f"{parted.key}.mended.part"))
        (part / "fc1.00001.npy").write_bytes(b"half of it")
        if is_damaged:
            damage(parted.folder / "fc1.00001.npy", "flip")
        make(net, tmp_path / "dumps").verify()
        assert not list(parted.folder.parent.glob("*.part"))


def test_two_extractions_at_once_make_a_damaged_shard_anew_once(net, tmp_path, parted):
    parted.close()
    data = damage(parted.folder / "fc1.00001.npy", "gone")
    with ProcessPoolExecutor(2, mp_context=get_context("fork")) as pool:
        runs = [pool.submit(_mended, tmp_path / "dumps") for _ in range(2)]
        notes = [note for run in runs for note in run.result()]
    assert len(notes) == 1
    assert (parted.folder / "fc1.00001.npy").read_bytes() == data


def _mended(root):
    notes = []
    make(network(), root, note=notes.append)
    return notes


def test_the_error_of_a_reader_says_what_to_type(net, tmp_path, small_shards):
    dump = make(net, tmp_path, command="tlx extract --dataset x --layers fc1")
    dump.close()
    path = dump.folder / "fc1.00002.npy"
    damage(path, "flip")
    readers = {
        "a row": lambda layer: layer[40],
        "a read": lambda layer: layer.read(30, 40),
        "all": np.asarray,
        "some": lambda layer: layer[[0, 33]],
        "metrics.over": lambda layer: metrics.over(layer, "cka", y=layer, block_rows=9),
        "another process": lambda layer: pickle.loads(pickle.dumps(layer))[-1],
    }
    for read in readers.values():
        with pytest.raises(IntegrityError, match=r"fc1\.00002\.npy") as caught:
            read(Dump(dump.folder).array("fc1"))
        assert "run: tlx extract --dataset x --layers fc1 (" in caught.value.remedy
    for read in (Dumps(tmp_path).verify, lambda key: metrics.over(path, "cka", y=path)):
        with pytest.raises(IntegrityError, match="run: tlx extract --dataset x"):
            read(dump.key)


def test_a_shard_that_the_manifest_does_not_list_is_missed(parted):
    rows = files.manifest(parted.folder)
    del rows["relu2.00002.npy"]
    files.write_manifest(parted.folder, rows)
    with pytest.raises(IntegrityError, match=r"1 shard of 'relu2'.*"):
        Dump(parted.folder)
    assert Dump(parted.folder, ["fc1"]).matrix().shape == (ROWS, 128)


def test_the_list_says_how_many_shards_and_a_dump_in_use_is_not_removed(parted):
    dumps = Dumps(parted.folder.parent)
    entry = dumps.entry(parted.key)
    assert entry.shards == 3
    assert entry.layers["conv1"] == sum(p.stat().st_size for p in parted.folder.glob("conv1.*.npy"))
    layer = parted.array("conv1")
    with pytest.raises(BusyError):
        dumps.remove(parted.key)
    parted.close()
    del layer
    assert dumps.remove(parted.key) > 0
    assert dumps.keys() == []


# ---------------------------------------------------------------- two writers


def order_of(folder, rows=16):
    return ShardOrder(folder, tuple(LAYERS), RowCuts(ROWS, rows), HOW)


SHAPES = dict.fromkeys(LAYERS, (3,))  # of a row of each layer
ONES = dict.fromkeys(LAYERS, np.ones((16, 3), np.float32))  # a whole shard


def test_two_writers_of_one_shard_leave_one_that_both_list(net, tmp_path, whole):
    order, pictures = order_of(files.make_folder(tmp_path / "part")), Pictures(ROWS)
    first = make_shard(net, pictures, order, 1, PassContext())
    inodes = {path.name: path.stat().st_ino for path in order.folder.iterdir()}
    second = make_shard(net, pictures, order, 1, PassContext())
    assert {path.name: path.stat().st_ino for path in order.folder.iterdir()} == inodes
    assert first.rows == second.rows
    for name, row in first.rows.items():
        files.check(order.folder / name, row)
    assert len(inodes) == len(LAYERS)


def test_two_writers_side_by_side_leave_one_shard(net, tmp_path):
    """Both are begun before one ends, as two attempts on two nodes."""
    order = order_of(files.make_folder(tmp_path / "part"))
    with ShardWriter(order, 0, SHAPES) as first, ShardWriter(order, 0, SHAPES) as second:
        first.append(ONES)
        second.append(ONES)
        assert first.finish() == second.finish()
    assert {path.name for path in order.folder.iterdir()} == set(order.names(0).values())
    assert all(path.stat().st_nlink == 1 for path in order.folder.iterdir())


def test_the_first_of_two_that_differ_stays_and_is_what_both_list(tmp_path):
    """As on nodes of two kinds: bytes and list must agree."""
    order = order_of(files.make_folder(tmp_path / "part"))
    listed = []
    for value in (1, 2):
        with ShardWriter(order, 0, SHAPES) as writer:
            writer.append({layer: value * rows for layer, rows in ONES.items()})
            listed.append(writer.finish())
    assert listed[0] == listed[1]
    assert (np.load(order.folder / "fc1.00000.npy") == 1).all()


def test_a_file_system_without_links_renames(tmp_path, monkeypatch):
    def no_link(*_):
        raise PermissionError(1, "no links here")

    monkeypatch.setattr(os, "link", no_link)
    order = order_of(files.make_folder(tmp_path / "part"))
    for _ in range(2):
        with ShardWriter(order, 0, SHAPES) as writer:
            writer.append(ONES)
            rows = writer.finish()
    assert {path.name for path in order.folder.iterdir()} == set(rows)


def test_a_writer_whose_folder_is_gone_says_so(net, tmp_path):
    with pytest.raises(ResourceError, match="another command"):
        ShardWriter(order_of(tmp_path / "gone"), 0, SHAPES)
    order = order_of(files.make_folder(tmp_path / "part"))
    with ShardWriter(order, 0, SHAPES) as writer:
        writer.append(ONES)
        shutil.rmtree(order.folder)
        with pytest.raises(ResourceError, match="another command"):
            writer.finish()
    with pytest.raises(ValueError, match="0 of 16 rows"):
        ShardWriter(order_of(files.make_folder(tmp_path / "x")), 0, {"fc1": (3,)}).finish()


def test_a_file_that_nobody_writes_any_more_is_swept(tmp_path):
    order = order_of(files.make_folder(tmp_path / "part"))
    old, young = order.folder / ".tmp-old.0", order.folder / ".tmp-young.0"
    old.touch()
    young.touch()
    os.utime(old, (1, 1))
    ShardPart(order, {}, {})
    assert not old.exists()
    assert young.exists()


def _make_all(root, turns):
    """Make the shards of a part in some order, in a process of its own."""
    net, order = network(), order_of(root)
    return [make_shard(net, Pictures(ROWS), order, turn, PassContext()).rows for turn in turns]


def test_processes_that_make_the_same_shards_at_once_give_the_dump_in_one_piece(tmp_path, whole):
    folder = files.make_folder(tmp_path / "part")
    with ProcessPoolExecutor(2, mp_context=get_context("fork")) as pool:
        runs = [pool.submit(_make_all, folder, turns) for turns in ([0, 1, 2], [0, 2, 1])]
        first, second = (run.result() for run in runs)
    assert {json.dumps(row, sort_keys=True) for row in first} == {
        json.dumps(row, sort_keys=True) for row in second
    }
    for layer in LAYERS:
        parts = [np.load(folder / f"{layer}.{shard:05d}.npy") for shard in range(3)]
        assert np.array_equal(np.concatenate(parts), whole.array(layer))


def test_a_long_extraction_lists_its_shards_now_and_then(net, tmp_path, small_shards, monkeypatch):
    monkeypatch.setattr(shard_parts, "SAVE_S", 0.0)
    listed = []

    def look(done, of):
        for part in tmp_path.glob("*.part"):
            if (part / files.MANIFEST).exists():
                listed.append(len(files.manifest(part)) // len(LAYERS))

    make(net, tmp_path, progress=look)
    assert listed == [1, 1, 2, 2]  # before each batch of the second and the third shard


# ---------------------------------------------------------------- names of many images


@pytest.fixture
def many(monkeypatch):
    """Names of more than 10 images are columns."""
    monkeypatch.setattr(image_names, "MANY", 10)


IDS = [f"test/kl ä{i}.png" for i in range(ROWS)]
LABELS = [f"class {i % 3}" for i in range(ROWS)]


def test_many_names_are_columns_and_come_back(net, tmp_path, many):
    dump = make(net, tmp_path, ["fc1"], ids=IDS, labels=LABELS, about={"dataset": "x"})
    assert (dump.ids, dump.labels, dump.about) == (tuple(IDS), tuple(LABELS), {"dataset": "x"})
    kept = files.read_json(dump.folder / "images.json")
    assert set(kept) == {"about", "columns"}
    assert (dump.folder / "images.json").stat().st_size < 200
    raw = np.load(dump.folder / kept["columns"]["ids"])
    assert raw.tobytes().decode().split("\0") == [*IDS, ""]
    assert set(kept["columns"].values()) <= set(files.manifest(dump.folder))
    assert len(pickle.dumps(dump)) < 1000
    assert pickle.loads(pickle.dumps(dump)).labels == tuple(LABELS)
    assert Dump(dump.folder).ids == tuple(IDS)
    assert list(Dump(dump.folder).row_labels()) == LABELS
    assert Dumps(tmp_path).entry(dump.key).about == {"dataset": "x"}
    dump.verify()


def test_many_names_that_change_take_the_place_of_the_old(net, tmp_path, many):
    make(net, tmp_path, ["fc1"], ids=IDS, labels=LABELS)
    other = [label.upper() for label in LABELS]
    for _ in range(2):
        dump = make(net, tmp_path, ["fc1"], ids=IDS, labels=other)
        assert dump.labels == tuple(other)
    listed = [name for name in files.manifest(dump.folder) if name.startswith("images-")]
    assert len(listed) == 3
    third = make(net, tmp_path, ["fc1"], ids=IDS, labels=LABELS[::-1])
    assert third.labels == tuple(LABELS[::-1])
    on_disk = {p.name for p in dump.folder.iterdir()}
    assert not set(listed) & on_disk
    assert on_disk == {*files.manifest(dump.folder), files.MANIFEST}
    # an extraction that knows no labels leaves those of the same ids
    assert make(net, tmp_path, ["fc1"], ids=IDS).labels == tuple(LABELS[::-1])


def test_a_damaged_column_is_named(net, tmp_path, many):
    dump = make(net, tmp_path, ["fc1"], ids=IDS, labels=LABELS)
    path = dump.folder / "images.labels.npy"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    assert Dump(dump.folder).matrix().shape == (ROWS, 128)  # nobody asked for names
    with pytest.raises(IntegrityError, match=r"images\.labels\.npy"):
        Dump(dump.folder).row_labels()
    with pytest.raises(IntegrityError, match=r"images\.labels\.npy"):
        Dumps(tmp_path).verify(dump.key)


def test_a_name_that_no_column_holds_is_refused(net, tmp_path, many):
    with pytest.raises(UsageError, match="zero"):
        make(net, tmp_path, ["fc1"], ids=["a\0b", *IDS[1:]])
    with pytest.raises(MissingError):
        Dump(tmp_path / "nothing")
