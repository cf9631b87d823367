"""Dumps: the right numbers, the same to the bit however often the work is cut off, and no damage
unnoticed.
"""

from __future__ import annotations

import contextlib
import gc
import itertools
import json
import os
import pickle
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import processes
import pytest
import torch
from features.extracting import HOW, LAYERS, Pictures, network, sums

from tlx import files
from tlx.data.pixels import pixels
from tlx.data.sizing import Sizing
from tlx.errors import (
    BadDataError,
    BusyError,
    ErrorGroup,
    IntegrityError,
    MissingError,
    ResourceError,
    Stopped,
    UnknownNameError,
    UnsafeError,
    UsageError,
)
from tlx.features import exports, parts, shelf
from tlx.features import extract as extraction
from tlx.features.dump import Dump, ExtractionConfig, identity, key
from tlx.features.dumps import Dumps
from tlx.features.extract import ExtractionContext, bytes_needed, extract
from tlx.features.shelf import file_name
from tlx.models import activations, backbones, folding

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def net():
    return network()


def make(net, root, layers=LAYERS, pictures=None, how=HOW, **place):
    return extract(
        net,
        "random",
        Pictures() if pictures is None else pictures,
        layers,
        ExtractionContext(root, **place),
        how,
    )


def normalised(net, pictures):
    x = torch.from_numpy(pictures.rows).permute(0, 3, 1, 2).double() / 255
    return (
        (x - torch.tensor(net.mean).view(1, -1, 1, 1)) / torch.tensor(net.std).view(1, -1, 1, 1)
    ).float()


# ---------------------------------------------------------------- numbers

BACKBONES = {
    "mnist-cnn": None,
    "resnet18": 64,
    "vgg11": 32,
    "mobilenet_v2": 64,
    "efficientnet-lite0": 64,
}


@pytest.mark.slow
@pytest.mark.parametrize("name", BACKBONES)
@pytest.mark.parametrize(("reduce", "dtype"), [("pooled", "float32"), ("raw", "float16")])
def test_a_dump_holds_what_the_network_gives(tmp_path, name, reduce, dtype):
    network = backbones.load(
        name, weights=None, classes=5, head="linear", seed=2, input_size=BACKBONES[name]
    )
    pictures = Pictures(3, 2, network.input_size, network.channels)
    layers = sorted({1, (len(network.blocks) + 1) // 2, len(network.blocks)})
    dump = make(
        network, tmp_path, layers, pictures, ExtractionConfig(batch=4, reduce=reduce, dtype=dtype)
    )
    expected = activations.capture(network, normalised(network, pictures), layers, reduce=reduce)
    assert dump.layers == tuple(expected)
    assert (dump.rows, dump.images, dump.crops) == (6, 3, 2)
    for layer, value in expected.items():
        found = dump.array(layer)
        assert (found.shape, str(found.dtype)) == (tuple(value.shape), dtype)
        scale = float(value.abs().max())
        np.testing.assert_allclose(
            found,
            value.numpy(),
            rtol=0,
            atol=max(1e-7, scale * (2e-3 if dtype == "float16" else 2e-5)),
        )
    dump.verify()


def test_without_folding_the_numbers_are_those_of_capture_to_the_bit(tmp_path, net):
    pictures = Pictures(12, 2)
    dump = make(
        net, tmp_path, pictures=pictures, how=ExtractionConfig(batch=8, reduce="raw", fold=False)
    )
    shift, scale = torch.tensor(net.mean).mul(255), torch.tensor(net.std).mul(255)
    inner = folding.for_inference(net, fold=False)[0]
    for start in range(0, 24, 8):
        x = (
            torch.from_numpy(pictures.rows[start : start + 8]).permute(0, 3, 1, 2).float() - shift
        ) / scale
        for layer, value in activations.capture(inner, x, LAYERS).items():
            assert np.array_equal(dump.array(layer)[start : start + 8], value.numpy()), layer


def test_real_pixels_with_ten_crops(tmp_path, bars, net):
    paths = sorted(bars.rglob("*.png"))[:5]
    rows = pixels(paths, Sizing(28, channels=1), tmp_path / "cache")
    dump = make(
        net,
        tmp_path / "dumps",
        ["fc1"],
        rows,
        ids=[p.name for p in paths],
        labels=[p.parent.name for p in paths],
    )
    assert (dump.rows, dump.crops) == (50, 10)
    assert list(dump.row_labels()[:11]) == [paths[0].parent.name] * 10 + [paths[1].parent.name]
    part = make(net, tmp_path / "dumps", ["fc1"], rows.subset([3, 1]))
    assert part.key != dump.key
    np.testing.assert_allclose(
        part.array("fc1")[:10], dump.array("fc1")[30:40], rtol=1e-4, atol=1e-5
    )


def test_a_convolution_that_is_folded_away_is_taken_before_its_norm(tmp_path):
    network = backbones.load(
        "resnet18", weights=None, classes=5, head="linear", seed=2, input_size=32
    )
    network.net.bn1.running_mean.fill_(0.5)
    pictures = Pictures(2, 1, 32, 3)
    dump = make(
        network, tmp_path, ["conv1", "bn1"], pictures, ExtractionConfig(batch=4, reduce="raw")
    )
    expected = activations.capture(network, normalised(network, pictures), ["conv1", "bn1"])
    for layer, value in expected.items():
        np.testing.assert_allclose(dump.array(layer), value.numpy(), atol=1e-4)
    assert len(dump.passes) == 2


def test_bfloat16_is_another_dump(tmp_path, net):
    full, low = (
        make(net, tmp_path, ["fc1"], how=ExtractionConfig(batch=8, precision=p))
        for p in ("float32", "bfloat16")
    )
    assert full.key != low.key
    assert (
        0
        < np.abs(full.array("fc1") - low.array("fc1")).max()
        < 0.1 * np.abs(full.array("fc1")).max()
    )


def test_rows_and_matrices(tmp_path, net, monkeypatch):
    dump = make(net, tmp_path, pictures=Pictures(9, 2))
    monkeypatch.setattr("tlx.features.dump.CHUNK_BYTES", 1000)
    rows = [17, 0, 3, 3]
    whole = dump.matrix()
    assert whole.shape == (18, sum(dump.widths.values()))
    assert (whole.dtype, whole.flags.c_contiguous) == (np.float32, True)
    assert np.array_equal(dump.matrix(rows=rows), whole[rows])
    assert np.array_equal(dump.matrix(["fc1"], rows), dump.take("fc1", rows))
    begin = dump.widths["conv1"]
    assert np.array_equal(
        whole[:, begin : begin + dump.widths["relu2"]], dump.array("relu2").reshape(18, -1)
    )
    with pytest.raises(ValueError, match="read-only"):
        dump.array("fc1")[0] = 1
    with pytest.raises(IndexError):
        dump.take("fc1", [18])


# ---------------------------------------------------------------- identity: content, never places


def test_the_same_content_elsewhere_is_the_same_dump(tmp_path, net):
    a = make(net, tmp_path / "a", ids=list("abcdef"))
    b = make(network(), tmp_path / "b", labels=list("uvwxyz"), about={"x": "y"})
    assert a.key == b.key
    assert {k: v for k, v in sums(tmp_path / "a").items() if v} == {
        k: v for k, v in sums(tmp_path / "b").items() if v
    }


def test_any_other_content_is_another_dump(net):
    def of(net=net, weights="w", images="i", **how):
        return key(net, weights, images, ExtractionConfig(**how))

    other = network()
    with torch.no_grad():
        other.net.fc2.bias[0] += 1e-6
    keys = [
        of(),
        of(weights="v"),
        of(images="j"),
        of(reduce="flat"),
        of(dtype="float16"),
        of(batch=32),
        of(fold=False),
        of(precision="bfloat16"),
        of(other),
        of(backbones.load("mnist-cnn", weights=None, classes=3, seed=0)),
        of(weights="random"),
        of(network(seed=1), weights="random"),
    ]
    assert len(set(keys)) == len(keys)
    assert of() == of(network())
    assert files.digest(identity(net, "w", "i", ExtractionConfig())) == of()


@pytest.mark.parametrize(
    "how", [{"reduce": "x"}, {"dtype": "float64"}, {"precision": "half"}, {"batch": 0}]
)
def test_how_is_checked(how):
    with pytest.raises(UsageError):
        ExtractionConfig(**how)


# ---------------------------------------------------------------- once, and what is missing


def test_what_is_there_is_not_redone(tmp_path, net):
    first = make(net, tmp_path)
    assert first.own_s > 0
    pictures = Pictures()
    again = make(net, tmp_path, pictures=pictures)
    assert pictures.taken == []
    assert again.own_s == 0
    assert again.inherited_s == pytest.approx(sum(p["seconds"] for p in again.passes))
    assert again.layers == first.layers


def test_missing_layers_are_added_and_the_old_bytes_left_alone(tmp_path, net):
    old = make(net, tmp_path, ["conv1", "fc1"])
    before = {
        name: (path.read_bytes(), path.stat().st_mtime_ns, path.stat().st_ino)
        for name in ("conv1.npy", "fc1.npy", "header.json")
        for path in [old.folder / name]
    }
    new = make(net, tmp_path, ["relu2", "conv1"])
    assert new.layers == ("relu2", "conv1")
    for name, state in before.items():
        path = new.folder / name
        assert (path.read_bytes(), path.stat().st_mtime_ns, path.stat().st_ino) == state
    together = make(net, tmp_path / "together")
    assert {
        k.split("/")[-1]: v for k, v in sums(tmp_path).items() if v and "together" not in k
    } == {k.split("/")[-1]: v for k, v in sums(tmp_path / "together").items() if v}
    assert sorted(p["layers"] for p in Dump(new.folder).passes) == [1, 2]
    assert together.key == new.key
    new.verify()


def test_an_open_dump_goes_to_another_process_by_its_place(tmp_path, net):
    dump = make(net, tmp_path, ids=list("abcdef"))
    data = pickle.dumps(dump)
    assert len(data) < 2000
    assert np.array_equal(pickle.loads(data).matrix(), dump.matrix())
    assert pickle.loads(data).ids == dump.ids


def test_names_kept_and_names_given(tmp_path, net):
    make(net, tmp_path, ids=list("abcdef"), labels=list("xxyyzz"))
    assert Dump(next(tmp_path.glob("[0-9a-f]*"))).ids == tuple("abcdef")
    assert make(net, tmp_path, ids=list("ghijkl")).ids == tuple("ghijkl")


# ---------------------------------------------------------------- cut off and continued


def driver(*argv):
    environ = {
        **os.environ,
        "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}",
        "OMP_NUM_THREADS": "1",
    }
    done = processes.run(
        [sys.executable, "-m", "features.extracting", *map(str, argv)],
        cwd=ROOT,
        env=environ,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.crash
@pytest.mark.parametrize(("mode", "least"), [("random", 25), ("every", 40)])
def test_killed_and_continued_is_bit_identical(tmp_path, mode, least):
    """25 kills at random times; and one before every call to the disk."""
    told = driver(mode, tmp_path, 5)
    assert "failed" not in told, told
    assert told["kills"] >= least
    assert len(told["undisturbed"]) == 3 + len(
        LAYERS
    )  # header, images, manifest: nothing is left over
    for found in told["found"]:
        assert found == told["undisturbed"]


def test_a_stop_keeps_what_was_done(tmp_path, net):
    seen, pictures = [], Pictures(40)
    with pytest.raises(Stopped):
        make(
            net,
            tmp_path,
            pictures=pictures,
            progress=lambda done, of: seen.append((done, of)),
            stopping=lambda: len(seen) >= 3,
        )
    assert seen == [(8, 40), (16, 40), (24, 40)]
    pictures.taken.clear()
    dump = make(net, tmp_path, pictures=pictures)
    assert min(pictures.taken) == 24
    assert dump.inherited_s > 0
    assert np.array_equal(
        dump.matrix(), make(net, tmp_path / "other", pictures=Pictures(40)).matrix()
    )


class FakeMeter:
    """Meter whose every reading is a second of CPU time and two joules more than the last."""

    def __init__(self, *names):
        self.names, self.readings = names, 0

    def __call__(self):
        return contextlib.nullcontext(self.read)

    def read(self):
        self.readings += 1
        per_reading = {"cpu_s": 1.0, "cpu_j": 2.0}
        return {name: self.readings * per_reading[name] for name in self.names}


def test_what_a_pass_uses_is_kept_with_the_dump_and_shared_by_rows(tmp_path, net):
    dump = make(net, tmp_path, metered=FakeMeter("cpu_s", "cpu_j"))
    used = dump.passes[0]["used"]
    assert used["cpu_j"] == 2 * used["cpu_s"] > 0
    share = dump.usage(dump.rows // 2)
    assert share["cpu_s"] == pytest.approx(used["cpu_s"] / 2)
    assert share["wall_s"] == pytest.approx((dump.own_s + dump.inherited_s) / 2)
    size = sum((dump.folder / file_name(layer)).stat().st_size for layer in dump.layers)
    assert share["disk_bytes"] == pytest.approx(size / 2)
    again = make(net, tmp_path, metered=FakeMeter("cpu_s"))
    rounded = {"wall_s": pytest.approx(dump.passes[0]["seconds"])}
    assert again.usage(again.rows) == dump.usage(dump.rows) | rounded, "found, it costs the same"


def test_a_pass_without_a_meter_has_no_cpu_time_and_no_energy(tmp_path, net):
    dump = make(net, tmp_path, ["conv1"], metered=FakeMeter("cpu_s"))
    assert "cpu_s" in dump.usage(1)
    both = make(net, tmp_path, ["conv1", "fc1"])
    assert set(both.usage(1)) == {"wall_s", "disk_bytes"}


def test_a_continued_pass_adds_up_what_all_its_calls_have_used(tmp_path, net, monkeypatch):
    monkeypatch.setattr("tlx.features.parts.MARK_S", 0.0)  # a mark after each batch

    def run(first, second):
        folder, seen = tmp_path / f"{first.names}{second.names}", []
        with pytest.raises(Stopped):
            make(
                net,
                folder,
                pictures=Pictures(40),
                progress=lambda done, of: seen.append(done),
                stopping=lambda: len(seen) >= 3,
                metered=first,
            )
        return make(net, folder, pictures=Pictures(40), metered=second).passes[0]["used"]

    used = run(FakeMeter("cpu_s", "cpu_j"), FakeMeter("cpu_s", "cpu_j"))
    assert used == {"cpu_s": 5.0, "cpu_j": 10.0}, "five batches, a mark and a reading each"
    assert run(FakeMeter("cpu_s", "cpu_j"), FakeMeter("cpu_s")) == {"cpu_s": 5.0}
    assert run(FakeMeter(), FakeMeter("cpu_s")) == {}


@pytest.fixture
def stopped(tmp_path, net, monkeypatch):
    """A part with a mark after each of three batches of five."""
    monkeypatch.setattr(parts, "MARK_S", 0.0)
    turns = itertools.count()
    with pytest.raises(Stopped):
        make(net, tmp_path, pictures=Pictures(40), stopping=lambda: next(turns) >= 3)
    return next(tmp_path.glob("*.part"))


@pytest.mark.parametrize("damage", ["tail", "torn", "flip", "gone", "header", "journal tail"])
def test_a_damaged_part_is_continued_from_where_it_is_whole(tmp_path, net, stopped, damage):
    path, size = stopped / "fc1.npy", (stopped / "fc1.npy").stat().st_size
    row = (size - 128) // 24
    match damage:
        case "tail":
            path.write_bytes(path.read_bytes() + b"x" * 77)
        case "torn":
            os.truncate(path, 128 + 20 * row)
        case "flip":
            with open(path, "r+b") as file:
                file.seek(128 + 9 * row)
                byte = file.read(1)
                file.seek(128 + 9 * row)
                file.write(bytes([byte[0] ^ 1]))
        case "gone":
            path.unlink()
        case "header":
            path.write_bytes(b"\0" * 128 + path.read_bytes()[128:])
        case "journal tail":
            os.truncate(stopped / "journal", (stopped / "journal").stat().st_size - 5)
    first = {"tail": 24, "torn": 16, "flip": 8, "gone": 0, "header": 0, "journal tail": 16}[damage]
    pictures = Pictures(40)
    dump = make(net, tmp_path, pictures=pictures)
    assert min(pictures.taken) == first
    dump.verify()
    assert np.array_equal(
        dump.matrix(), make(net, tmp_path / "other", pictures=Pictures(40)).matrix()
    )


def test_cut_off_again_after_damage(tmp_path, net, stopped):
    (stopped / "fc1.npy").unlink()
    for first, batches in ((0, 4), (32, 0)):  # from the start, past where it was; then from there
        turns, pictures = itertools.count(), Pictures(40)
        with pytest.raises(Stopped):
            make(
                net,
                tmp_path,
                pictures=pictures,
                stopping=lambda turns=turns, n=batches: next(turns) >= n,
            )
        assert min(pictures.taken) == first
    dump = make(net, tmp_path, pictures=Pictures(40))
    assert np.array_equal(
        dump.matrix(), make(net, tmp_path / "other", pictures=Pictures(40)).matrix()
    )


def test_other_layers_meanwhile_do_not_lose_the_part(tmp_path, net, stopped):
    make(net, tmp_path, ["pool1"], Pictures(40))
    assert stopped.is_dir()
    pictures = Pictures(40)
    make(net, tmp_path, pictures=pictures)
    assert min(pictures.taken) == 24
    assert not stopped.is_dir()


# ---------------------------------------------------------------- what is refused


def test_sizes_that_do_not_fit(tmp_path, net):
    for pictures in (Pictures(size=20), Pictures(channels=3)):
        with pytest.raises(UsageError, match="28 × 28"):
            make(net, tmp_path, pictures=pictures)
    with pytest.raises(UsageError):
        make(net, tmp_path, pictures=Pictures(0))
    with pytest.raises(UsageError, match="2 ids for 6"):
        make(net, tmp_path, ids=["a", "b"])
    with pytest.raises(UnknownNameError):
        make(net, tmp_path, ["conv9"])
    assert not list(tmp_path.glob("*.part"))


def test_numbers_that_are_none_are_refused(tmp_path):
    broken = network()
    with torch.no_grad():
        broken.net.fc1.weight[0, 0] = float("nan")
    with pytest.raises(BadDataError, match="fc1 gives NaN") as caught:
        make(broken, tmp_path)
    assert caught.value.exit_code == 3
    with torch.no_grad():
        broken.net.fc1.weight[0, 0] = 0
        broken.net.fc1.bias[0] = 1e7
    with pytest.raises(BadDataError, match="float32"):
        make(broken, tmp_path, how=ExtractionConfig(batch=8, dtype="float16"))
    assert make(broken, tmp_path, how=ExtractionConfig(batch=8)).matrix().max() > 65504


def test_no_space_is_said_before_anything_is_computed(tmp_path, net, monkeypatch):
    monkeypatch.setattr(files, "free_bytes", lambda path: shelf.SPARE_BYTES + 1000)
    pictures = Pictures()
    with pytest.raises(ResourceError, match="are free") as caught:
        make(net, tmp_path, pictures=pictures)
    assert (caught.value.code, caught.value.exit_code, pictures.taken) == ("disk-space", 5, [])
    need = bytes_needed(net, LAYERS, 6, HOW)
    assert f"need {need:,} bytes and {shelf.SPARE_BYTES:,} are to be left" in str(caught.value)


def test_the_bytes_needed_are_the_bytes_taken(tmp_path, net):
    dump = make(net, tmp_path)
    taken = sum((dump.folder / f"{layer}.npy").stat().st_size - 128 for layer in LAYERS)
    assert bytes_needed(net, LAYERS, dump.rows, HOW) == taken


@pytest.fixture
def small_disk(tmp_path):
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)],
        capture_output=True,
        text=True,
        check=False,
    )
    if mounted.returncode:
        pytest.skip(f"cannot mount a small disk here: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_is_said_and_the_extraction_continues_when_there_is_room(
    small_disk, tmp_path, net, monkeypatch
):
    """Every amount of room, a page more each time: a sentence and exit 5, never damage; then the
    same bytes.
    """
    monkeypatch.setattr(
        extraction, "check_space", lambda where, need: None
    )  # the disk fills behind its back
    monkeypatch.setattr(parts, "MARK_S", 0.0)
    pictures, page, errors = Pictures(16), os.sysconf("SC_PAGE_SIZE"), []
    make(net, tmp_path / "whole", pictures=pictures)
    expected = {k: v for k, v in sums(tmp_path / "whole").items() if v}
    for pages in range(0, 500, 24):
        root, filler = files.make_folder(small_disk / "dumps"), small_disk / "filler"
        with open(filler, "wb", buffering=0) as file:
            file.write(bytes(max(0, files.free_bytes(small_disk) - pages * page)))
        try:
            make(net, root, pictures=pictures).close()
        except ResourceError as error:
            errors.append((error.exit_code, error.code))
        filler.unlink()
        make(net, root, pictures=pictures).close()
        assert {k: v for k, v in sums(root).items() if v} == expected
        Dumps(root).verify(Dumps(root).keys()[0])
        shutil.rmtree(root)
    assert set(errors) == {(5, "disk-full")}
    assert 10 <= len(errors) < 21


# ---------------------------------------------------------------- damage


@pytest.fixture(scope="module")
def made_once(tmp_path_factory, net):
    return make(net, tmp_path_factory.mktemp("dumps")).folder


@pytest.mark.slow
@pytest.mark.parametrize("name", ["fc1.npy", "header.json", "images.json", "MANIFEST.json"])
@pytest.mark.parametrize("damage", ["cut", "flip", "longer", "gone"])
def test_damage_is_told_with_the_file(tmp_path, net, made_once, name, damage):
    folder = tmp_path / made_once.name
    shutil.copytree(made_once, folder)
    path = folder / name
    data = path.read_bytes()
    match damage:
        case "cut":
            path.write_bytes(data[: len(data) // 2])
        case "flip":
            path.write_bytes(data[:-9] + bytes([data[-9] ^ 4]) + data[-8:])
        case "longer":
            path.write_bytes(data + b"x")
        case "gone":
            path.unlink()
    with pytest.raises(IntegrityError, match=name if name != "MANIFEST.json" else folder.name):
        Dump(folder).matrix()
    with pytest.raises(IntegrityError):
        Dumps(tmp_path).verify(folder.name)
    assert (
        damage == "flip"
        or Dumps(tmp_path).entry(folder.name).damage
        or (name, damage) == ("MANIFEST.json", "gone")
    )
    gc.collect()  # the errors above hold open dumps
    if name == "fc1.npy":  # made anew by itself
        notes = []
        assert make(net, tmp_path, note=notes.append).matrix().size
        assert path.read_bytes() == data
        assert len(notes) == 1
        return
    if (
        name != "MANIFEST.json" or damage != "gone"
    ):  # without a manifest it is only unfinished, and made again
        with pytest.raises(IntegrityError, match="tlx dumps rm"):
            make(net, tmp_path).matrix()
        gc.collect()
        Dumps(tmp_path).remove(folder.name)
    make(net, tmp_path).matrix()
    Dumps(tmp_path).verify(folder.name)


def test_an_unfinished_dump_is_no_dump(tmp_path, net, stopped):
    folder = stopped.with_name(stopped.name.split(".")[0])
    with pytest.raises(IntegrityError, match="continues"):
        Dump(folder)
    with pytest.raises(MissingError):
        Dump(tmp_path / "nothing")
    make(net, tmp_path, ["pool1"], Pictures(40))
    with pytest.raises(UnknownNameError, match="adds layers"):
        Dump(folder, ["fc1"])


def test_a_newer_format_is_refused(tmp_path, net):
    folder = make(net, tmp_path).folder
    header = files.read_json(folder / "header.json")
    files.write_json(folder / "header.json", header | {"format": 99})
    files.seal(folder)
    with pytest.raises(BadDataError, match="format 99"):
        Dump(folder)


# ---------------------------------------------------------------- looking after them


def test_the_list_says_what_there_is(tmp_path, net, stopped):
    make(net, tmp_path, about={"backbone": "mnist-cnn"}, how=ExtractionConfig(batch=8))
    one, two = Dumps(tmp_path).entries()
    assert one.used >= two.used
    assert (one.about, one.images, one.crops, one.unfinished, one.damage) == (
        {"backbone": "mnist-cnn"},
        6,
        1,
        0,
        "",
    )
    assert set(one.layers) == set(LAYERS)
    assert one.bytes == sum(p.stat().st_size for p in (tmp_path / one.key).rglob("*"))
    assert (two.layers, two.images) == ({}, 40)
    assert two.unfinished == sum(p.stat().st_size for p in stopped.iterdir())
    assert Dumps(tmp_path).find(one.key[:9]) == one.key
    for prefix, error in (("", MissingError), ("zz", MissingError)):
        with pytest.raises(error):
            Dumps(tmp_path).find(prefix)
    assert Dumps(tmp_path / "none").entries() == []


def test_a_dump_in_use_is_not_removed(tmp_path, net):
    dump = make(net, tmp_path)
    dumps = Dumps(tmp_path)
    with pytest.raises(BusyError):
        dumps.remove(dump.key)
    other = Dump(dump.folder)
    dump.close()
    with pytest.raises(BusyError):
        dumps.remove(dump.key)
    assert dumps.trim(0) == []
    del other
    assert dumps.remove(dump.key) > 10_000
    assert dumps.keys() == []
    with pytest.raises(MissingError):
        dumps.remove(dump.key)
    assert not [p for p in tmp_path.iterdir() if p.name != "locks"]


def test_the_budget_takes_what_was_not_used_for_longest(tmp_path, net):
    made = []
    for batch in (1, 2, 3, 4):
        made.append(make(net, tmp_path, how=ExtractionConfig(batch=batch)))
        made[-1].close()
        time.sleep(0.02)
    held = Dump(made[1].folder)  # used last, and in use
    size = Dumps(tmp_path).entry(made[0].key).bytes
    assert Dumps(tmp_path).trim(10 * size) == []
    assert Dumps(tmp_path).trim(2 * size + 100) == [made[0].key, made[2].key]
    assert Dumps(tmp_path).trim(0) == [made[3].key]
    assert Dumps(tmp_path).keys() == [held.key]


def test_parts_of_a_dump_go_with_it(tmp_path, net, stopped):
    assert Dumps(tmp_path).trim(0) == [stopped.name.split(".")[0]]
    assert not stopped.exists()


# ---------------------------------------------------------------- memory

MEMORY = """
import sys, torch
from pathlib import Path
from features.extracting import Pictures, network
from tlx.features.dump import ExtractionConfig
from tlx.features.extract import ExtractionContext, extract
torch.set_num_threads(1)
class Many(Pictures):
    def take(self, rows):
        return self.rows[rows % len(self.rows)]
def read(name):
    lines = open("/proc/self/status")
    return next(int(line.split()[1]) >> 10 for line in lines if line.startswith(name))
net, how = network(), ExtractionConfig(batch=64, reduce="flat")
def many(n):
    made = Many(64)
    made.shape, made.digest = (n, 1, 28, 28, 1), str(n)
    return made
extract(net, "random", many(128), ["conv1"], ExtractionContext(Path(sys.argv[1])), how)
open("/proc/self/clear_refs", "w").write("5")
before = read("VmRSS")
place = ExtractionContext(Path(sys.argv[1]))
dump = extract(net, "random", many(int(sys.argv[2])), ["conv1"], place, how)
made = read("VmHWM")
first = dump.take("conv1", [0, dump.rows - 64 * (dump.rows // 64)])
last = dump.take("conv1", range(64))
dump.verify()
size = sum(p.stat().st_size for p in dump.folder.iterdir()) >> 20
print(size, made - before, read("VmHWM") - before)
"""


@pytest.mark.slow
def test_a_dump_larger_than_the_memory_it_takes(tmp_path):
    environ = {
        **os.environ,
        "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}",
        "OMP_NUM_THREADS": "1",
    }
    done = subprocess.run(
        [sys.executable, "-c", MEMORY, str(tmp_path), "4400"],
        env=environ,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    size, making, reading = map(int, done.stdout.split())
    assert size >= 300  # MiB
    assert making < 100
    assert reading < 150


# ---------------------------------------------------------------- files that others read


def test_features_go_out_and_come_back(tmp_path, net, monkeypatch):
    monkeypatch.setattr(exports, "CHUNK_BYTES", 100_000)
    dump = make(
        net, tmp_path / "dumps", pictures=Pictures(5, 2), ids=["a b", "ü", "c/d.png", "e", "f"]
    )
    exports.write(dump, tmp_path / "out", ["fc1", "conv1"])
    plain = np.load(tmp_path / "out" / "features.npy", allow_pickle=False)
    assert np.array_equal(plain, dump.matrix(["fc1", "conv1"]))
    found = exports.read(tmp_path / "out")
    assert np.array_equal(found.array, plain)
    assert found.names[:4] == ("a b_crop_0", "a b_crop_1", "ü_crop_0", "ü_crop_1")
    assert not found.array.flags.writeable


def test_activations_go_out_as_the_thesis_keeps_them(tmp_path, net):
    dump = make(
        net, tmp_path / "dumps", pictures=Pictures(3, 2), ids=list("abc"), labels=list("yxy")
    )
    exports.write_extracted({"model_ft_100.pt": dump}, tmp_path / "x_extracted.pt")
    found = torch.load(tmp_path / "x_extracted.pt", weights_only=True)
    assert list(found) == ["model_ft_100.pt"]
    kept = found["model_ft_100.pt"]
    assert kept["labels"].tolist() == [1, 1, 0, 0, 1, 1]
    assert len(kept["layers"]) == len(dump.layers)
    for layer, tensor in zip(dump.layers, kept["layers"], strict=True):
        assert np.array_equal(tensor.numpy(), dump.array(layer).reshape(6, -1).astype(np.float32))


def test_names_that_a_list_cannot_hold_are_refused(tmp_path, net):
    for ids in (list("abcde\n"), list("abcdea"), []):
        with pytest.raises(UsageError):
            exports.write(make(net, tmp_path / "dumps", ids=ids), tmp_path / "out")


def foreign(folder, array=None, names="a\nb\nc\n"):
    folder.mkdir()
    np.save(
        folder / "features.npy",
        np.arange(6, dtype=np.float64).reshape(3, 2) if array is None else array,
    )
    if names is not None:
        (folder / "file_names.txt").write_bytes(names.encode() if isinstance(names, str) else names)
    return folder


def test_features_of_others(tmp_path):
    found = exports.read(foreign(tmp_path / "a", names="a\nb\nc"))
    assert found.names == ("a", "b", "c")
    assert found.array.dtype == np.float64
    assert exports.read(foreign(tmp_path / "b", np.zeros((3, 2, 2)))).array.shape == (3, 4)


@pytest.mark.parametrize(
    ("array", "names", "error"),
    [
        (None, "a\nb\n", BadDataError),
        (None, "a\n\nc\n", BadDataError),
        (None, b"a\n\xff\nc\n", BadDataError),
        (None, None, MissingError),
        (np.zeros(3), "a\nb\nc\n", BadDataError),
        (np.array([[1.0, np.nan]] * 3), "a\nb\nc\n", BadDataError),
        (np.array([["x", "y"]] * 3), "a\nb\nc\n", BadDataError),
    ],
)
def test_features_of_others_that_are_wrong(tmp_path, array, names, error):
    with pytest.raises(error):
        exports.read(foreign(tmp_path / "a", array, names))


def test_pickles_and_cut_files_are_refused(tmp_path):
    folder = foreign(tmp_path / "a")
    np.save(folder / "features.npy", np.array([[object()]] * 3), allow_pickle=True)
    with pytest.raises(UnsafeError):
        exports.read(folder)
    folder = foreign(tmp_path / "b")
    data = (folder / "features.npy").read_bytes()
    for other in (data[:-1], data + b"x", data[:40], b""):
        (folder / "features.npy").write_bytes(other)
        with pytest.raises(BadDataError):
            exports.read(folder)
    with pytest.raises(ErrorGroup):
        exports.read(tmp_path)
