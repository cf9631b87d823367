"""The safe door for weights, row by row of the catalogue of bad inputs; every file is made here."""

from __future__ import annotations

import builtins
import functools
import io
import json
import os
import pickle
import shlex
import struct
import subprocess
import sys
import tarfile
import zipfile
from collections import OrderedDict

import h5py
import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from tlx.errors import (
    BadDataError,
    IntegrityError,
    MissingError,
    ResourceError,
    TlxError,
    UnsafeError,
)
from tlx.models.weights import reader as weights_reader


def state(**more):
    generator = torch.Generator().manual_seed(0)
    return {
        "a.weight": torch.randn(4, 3, generator=generator),
        "a.bias": torch.randn(4, generator=generator),
        **more,
    }


def same(found, expected):
    assert list(found) == list(expected)
    assert all(torch.equal(found[k], expected[k]) for k in expected)


# ---------------------------------------------------------------- what is accepted


@pytest.mark.parametrize("ending", [".safetensors", ".pth", ".pt", ".th", ".bin"])
def test_plain_files_come_back_as_they_were(tmp_path, ending):
    path = tmp_path / f"w{ending}"
    save_file(state(), path) if ending == ".safetensors" else torch.save(state(), path)
    found = weights_reader.read(path)
    assert {k: v.dtype for k, v in found.items()} == dict.fromkeys(state(), torch.float32)
    assert all(torch.equal(found[k], v) for k, v in state().items())
    assert found.notes == []


def test_the_form_before_pytorch_1_6_is_read(tmp_path):
    torch.save(state(), tmp_path / "w.pth", _use_new_zipfile_serialization=False)
    same(weights_reader.read(tmp_path / "w.pth"), state())


@pytest.mark.parametrize(
    ("wrap", "words"),
    [
        (lambda s: {"state_dict": s, "epoch": 3}, ["state_dict", "epoch"]),
        (lambda s: {"model": s}, ["model"]),
        (lambda s: {"model": {"state_dict": s}}, ["model", "state_dict"]),
        (lambda s: {f"module.{k}": v for k, v in s.items()}, ["module."]),
        (
            lambda s: {"state_dict": {f"module.{k}": v for k, v in s.items()}, "best": 1.0},
            ["state_dict", "module."],
        ),
        (lambda s: {f"_orig_mod.{k}": v for k, v in s.items()}, ["_orig_mod."]),
        (lambda s: {k: nn.Parameter(v) for k, v in s.items()}, []),
        (OrderedDict, []),
    ],
)
def test_row_86_wrappers_and_prefixes_are_understood_and_named(tmp_path, wrap, words):
    torch.save(wrap(state()), tmp_path / "w.pth")
    found = weights_reader.read(tmp_path / "w.pth")
    same(found, state())
    assert all(word in " ".join(found.notes) for word in words)
    assert bool(found.notes) == bool(words)


def test_a_prefix_that_not_all_names_have_stays(tmp_path):
    mixed = {"module.a.weight": torch.ones(2) / 3, "b.weight": torch.ones(2)}
    torch.save(mixed, tmp_path / "w.pth")
    assert set(weights_reader.read(tmp_path / "w.pth")) == set(mixed)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_row_91_other_widths_are_made_float32_and_said_so(tmp_path, dtype):
    weights_reader.write(tmp_path / "w.safetensors", {"a.weight": state()["a.weight"].to(dtype)})
    found = weights_reader.read(tmp_path / "w.safetensors")
    assert found["a.weight"].dtype == torch.float32
    assert str(dtype).removeprefix("torch.") in " ".join(found.notes)
    assert torch.equal(found["a.weight"], state()["a.weight"].to(dtype).float())


def test_row_90_constant_weights_are_accepted_with_a_warning(tmp_path):
    torch.save(
        state(**{"b.weight": torch.zeros(3, 3), "b.bias": torch.zeros(3)}), tmp_path / "w.pth"
    )
    found = weights_reader.read(tmp_path / "w.pth")
    assert [n for n in found.notes if "warning" in n] == ["warning: 'b.weight' is 0 throughout"]


def test_what_is_written_is_read_and_the_same_twice(tmp_path):
    metadata = {name: str(i) for i, name in enumerate("zyxwvutsrqponml")}
    for name in ("a", "b"):
        weights_reader.write(tmp_path / f"{name}.safetensors", state(), metadata)
    found = weights_reader.read(tmp_path / "a.safetensors")
    assert {k: torch.equal(found[k], v) for k, v in state().items()} == dict.fromkeys(state(), True)
    assert found.metadata == metadata
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.safetensors", "b.safetensors"]


def test_tensors_that_share_memory_can_be_written(tmp_path):
    t = torch.arange(12.0)
    tensors = {"all": t, "part": t[3:6], "turned": t.view(3, 4).t()}
    weights_reader.write(tmp_path / "w.safetensors", tensors)
    found = weights_reader.read(tmp_path / "w.safetensors")
    assert all(torch.equal(found[k], tensors[k]) for k in tensors)


# ---------------------------------------------------------------- programs: the canary never
# appears


class Reduced:
    """Pickles into a call of `function` with `arguments`."""

    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


class Dict(dict):
    pass


def payloads(canary):
    touch = f"touch {canary}"
    code = f"open({str(canary)!r}, 'w').close()"
    return {
        "os.system": Reduced(os.system, touch),
        "builtins.exec": Reduced(builtins.exec, code),
        "builtins.eval": Reduced(builtins.eval, f"open({str(canary)!r}, 'w')"),
        "torch.hub": Reduced(
            torch.hub.load_state_dict_from_url, canary.as_uri(), str(canary.parent)
        ),
        "nested": {
            "state_dict": {"a.weight": torch.ones(2), "b": [{"c": Reduced(os.system, touch)}]}
        },
        "partial": Reduced(functools.partial(os.system, touch)),
        "dict subclass": Dict(a=torch.ones(2), b=Reduced(os.system, touch)),
        "beside tensors": {**state(), "epoch": Reduced(os.system, touch)},
        "whole module": nn.Sequential(nn.Linear(2, 2)),
    }


def as_zip(path, thing):
    torch.save(thing, path)


def as_legacy(path, thing):
    torch.save(thing, path, _use_new_zipfile_serialization=False)


def as_bare_pickle(path, thing):
    path.write_bytes(pickle.dumps(thing, protocol=2))


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("force", [False, True], ids=["", "forced"])
@pytest.mark.parametrize("form", [as_zip, as_legacy, as_bare_pickle])
@pytest.mark.parametrize(
    "name",
    [
        "os.system",
        "builtins.exec",
        "builtins.eval",
        "torch.hub",
        "nested",
        "partial",
        "dict subclass",
        "beside tensors",
        "whole module",
    ],
)
def test_rows_80_and_81_pickles_with_code_are_refused_and_never_run(
    tmp_path, monkeypatch, name, form, force
):
    canary = tmp_path / "canary"
    if force:
        monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    form(tmp_path / "w.pth", payloads(canary)[name])
    with pytest.raises(UnsafeError) as refused:
        weights_reader.read(tmp_path / "w.pth")
    assert not canary.exists()
    assert refused.value.exit_code == 4
    assert "refused; convert with a trusted tool: torch.save(model.state_dict()" in str(
        refused.value
    )
    expected = {
        "os.system": "posix.system",
        "nested": "posix.system",
        "builtins.exec": "exec",
        "torch.hub": "torch.hub",
        "whole module": "torch.nn.modules",
    }
    assert expected.get(name, "") in str(refused.value)


def test_the_payloads_do_run_where_nobody_looks(tmp_path):
    """The canaries above can sing."""
    canary = tmp_path / "canary"
    pickle.loads(pickle.dumps(payloads(canary)["os.system"]))
    assert canary.exists()


def plugin(path):
    """What some other library in the process declared safe to call."""
    open(path, "w").close()
    return torch.ones(2)


def test_globals_that_other_code_declared_safe_are_refused_all_the_same(tmp_path):
    canary = tmp_path / "canary"
    torch.save({"a": Reduced(plugin, str(canary))}, tmp_path / "w.pth")
    torch.serialization.add_safe_globals([plugin])
    try:
        with pytest.raises(UnsafeError, match="plugin"):
            weights_reader.read(tmp_path / "w.pth")
        assert not canary.exists()
        assert plugin in torch.serialization.get_safe_globals()
        torch.load(tmp_path / "w.pth", weights_only=True)  # the danger is real
        assert canary.exists()
    finally:
        torch.serialization.clear_safe_globals()


def test_row_82_a_torchscript_archive_is_a_program(tmp_path):
    with zipfile.ZipFile(tmp_path / "w.pt", "w") as archive:  # the layout of torch.jit.save
        archive.writestr("m/code/__torch__.py", "class M(Module): pass")
        archive.writestr("m/constants.pkl", pickle.dumps(()))
        archive.writestr("m/data.pkl", pickle.dumps({}))
    with pytest.raises(UnsafeError, match="program, not weights"):
        weights_reader.read(tmp_path / "w.pt")


def tar_of_old(path):
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        data = pickle.dumps(Reduced(os.system, f"touch {path.parent / 'canary'}"))
        row = tarfile.TarInfo("pickle")
        row.size = len(data)
        tar.addfile(row, io.BytesIO(data))


def rebuilt(path, *, compress=zipfile.ZIP_STORED, twice=False, many=0):
    """A good file of torch.save, its archive written anew in a bad way."""
    torch.save({"a": torch.zeros(4096)}, path)
    with zipfile.ZipFile(path) as archive:
        entries = [(row.filename, archive.read(row)) for row in archive.infolist()]
    with zipfile.ZipFile(path, "w", compress) as archive:
        for name, data in entries:
            archive.writestr(name, data)
        if twice:
            archive.writestr(
                "other/data.pkl",
                pickle.dumps(Reduced(os.system, f"touch {path.parent / 'canary'}")),
            )
        for i in range(many):
            archive.writestr(f"x/{i}", b"")


@pytest.mark.parametrize(
    "make",
    [
        tar_of_old,
        functools.partial(rebuilt, twice=True),
        functools.partial(rebuilt, compress=zipfile.ZIP_DEFLATED),
        functools.partial(rebuilt, many=10_001),
    ],
    ids=["tar", "two data.pkl", "deflated", "many entries"],
)
def test_archives_that_torch_save_never_writes_are_refused(tmp_path, make):
    make(tmp_path / "w.pth")
    with pytest.raises(UnsafeError):
        weights_reader.read(tmp_path / "w.pth")
    assert not (tmp_path / "canary").exists()


# ---------------------------------------------------------------- Keras files that reach out


def h5_external(path):
    (path.parent / "secret").write_bytes(b"s3cr3t!!" * 4)
    with h5py.File(path, "w") as file:
        file.create_dataset(
            "a/a/kernel:0", (8,), "f4", external=[(str(path.parent / "secret"), 0, 32)]
        )


def h5_external_link(path):
    with h5py.File(path.parent / "other.h5", "w") as other:
        other["x"] = np.ones(3)
    with h5py.File(path, "w") as file:
        file["a"] = h5py.ExternalLink(str(path.parent / "other.h5"), "x")


def h5_soft_link(path):
    with h5py.File(path, "w") as file:
        file["deep/er/b"] = np.ones(3)
        file["deep/er/a"] = h5py.SoftLink("/elsewhere")


def h5_virtual(path):
    with h5py.File(path.parent / "other.h5", "w") as other:
        other["x"] = np.ones(3)
    layout = h5py.VirtualLayout((3,), "f8")
    layout[:] = h5py.VirtualSource(str(path.parent / "other.h5"), "x", (3,))
    with h5py.File(path, "w") as file:
        file.create_virtual_dataset("a", layout)


def h5_filter(path):
    with h5py.File(path, "w") as file:
        file.create_dataset("a/a/kernel:0", data=np.ones((64, 64)), compression="lzf")


def h5_circle(path):
    with h5py.File(path, "w") as file:
        group = file.create_group("a")
        group["b"] = group


@pytest.mark.parametrize(
    "make", [h5_external, h5_external_link, h5_soft_link, h5_virtual, h5_filter, h5_circle]
)
def test_row_93_hdf5_that_reaches_out_is_refused(tmp_path, make):
    make(tmp_path / "w.h5")
    with pytest.raises(UnsafeError) as refused:
        weights_reader.read(tmp_path / "w.h5")
    assert refused.value.exit_code == 4
    assert "s3cr3t" not in str(refused.value)
    named = {
        h5_external: "secret",
        h5_external_link: "other.h5",
        h5_soft_link: "/elsewhere",
        h5_filter: "32000",
    }
    assert named.get(make, "") in str(refused.value)


def test_row_94_a_whole_keras_model_gives_its_weights_and_leaves_its_programs(tmp_path):
    with h5py.File(tmp_path / "m.h5", "w") as file:
        file.attrs["model_config"] = json.dumps({"config": {"layers": [{"class_name": "Lambda"}]}})
        file["model_weights/fc/fc/kernel:0"] = np.arange(6, dtype="f4").reshape(2, 3)
        file["optimizer_weights/fc/kernel:0"] = np.ones(3)
    found = weights_reader.read(tmp_path / "m.h5")
    assert list(found) == ["fc.weight"]
    assert "Lambda" in " ".join(found.notes)


# ---------------------------------------------------------------- damage and mistakes: one row, one
# file, one sentence


def cut(path, data, share=0.6):
    path.write_bytes(data[: int(len(data) * share)])


def bytes_of(save, *arguments):
    buffer = io.BytesIO()
    save(*arguments, buffer)
    return buffer.getvalue()


def safe_bytes(header, body=b""):
    text = json.dumps(header).encode() if not isinstance(header, bytes) else header
    return struct.pack("<Q", len(text)) + text + body


def row(start, end, shape=(2,), dtype="F32"):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [start, end]}


def good_safetensors():
    return safe_bytes({"a": row(0, 8), "b": row(8, 16)}, struct.pack("<4f", 1, 2, 3, 4))


def h5_cut(path):
    with h5py.File(path, "w") as file:
        file["a/a/kernel:0"] = np.random.default_rng(0).normal(size=(64, 64))
    cut(path, path.read_bytes(), 0.5)


def h5_huge(path):
    with h5py.File(path, "w") as file:
        file.create_dataset("a/a/kernel:0", (2**20, 2**20), "f4", chunks=(64, 64))


def strided(path):
    torch.save({"a.weight": torch.ones(1).expand(2**20, 2**20)}, path)


def nan(path):
    torch.save(state(**{"c.weight": torch.tensor([1.0, float("nan"), float("inf")])}), path)


def lfs(path):
    path.write_text(
        "version https://git-lfs.github.com/spec/v1\noid sha256:" + "0" * 64 + "\nsize 553433881\n"
    )


def write(data):
    return lambda path: path.write_bytes(data)


def h5_new_form(path):
    with h5py.File(path, "w") as file:
        file["layers/conv2d/vars/0"] = np.ones((3, 3, 1, 2))


def quantised(path):
    torch.save({"a.weight": torch.ones(3, dtype=torch.int8)}, path)


def list_of_tensors(path):
    torch.save([torch.ones(3)], path)


BAD = [  # catalogue row, ending, how it is made, what the message says
    (79, ".pth", lambda path: None, ["not found", "w.pth"]),
    (79, ".pth", write(b""), ["empty file"]),
    (79, ".h5", lambda path: path.mkdir(), ["is a directory"]),
    (79, ".pth", os.mkfifo, ["no regular file"]),
    (
        83,
        ".pth",
        lambda path: cut(path, bytes_of(torch.save, state())),
        ["cut short or damaged", "bytes"],
    ),
    (
        83,
        ".pth",
        lambda path: cut(
            path,
            bytes_of(functools.partial(torch.save, _use_new_zipfile_serialization=False), state()),
            0.9,
        ),
        ["cut short or damaged", "bytes"],
    ),
    (
        83,
        ".safetensors",
        lambda path: path.write_bytes(good_safetensors()[:-3]),
        ["bytes. expected"],
    ),
    (
        83,
        ".safetensors",
        lambda path: path.write_bytes(good_safetensors()[:40]),
        ["bytes. expected at least"],
    ),
    (85, ".pth", lfs, ["Git-LFS pointer", "git lfs pull", "bytes"]),
    (85, ".pth", write(b"<!DOCTYPE html><html>404</html>"), ["HTML"]),
    (85, ".safetensors", write(b"layer 1: 0.5, 0.25, 0.125\n"), ["text that begins 'layer 1"]),
    (85, ".pth", write(bytes(range(200, 256)) * 4), ["not a format of weights"]),
    (89, ".pth", nan, ["c.weight", "2 of 3 values"]),
    (91, ".pth", quantised, ["int8"]),
    (
        92,
        ".safetensors",
        write(safe_bytes({"a": row(0, 8), "b": row(16, 24)}, bytes(24))),
        ["safetensors"],
    ),
    (
        92,
        ".safetensors",
        write(safe_bytes({"a": row(0, 8), "b": row(4, 12)}, bytes(12))),
        ["safetensors"],
    ),
    (92, ".safetensors", write(good_safetensors() + bytes(8)), ["safetensors"]),
    (
        92,
        ".safetensors",
        write(safe_bytes({"a": row(0, 8, (2**40, 2**40))}, bytes(8))),
        ["safetensors"],
    ),
    (
        92,
        ".safetensors",
        write(struct.pack("<Q", 200 << 20) + b"{" + bytes(64)),
        ["a header of 209,715,200 bytes"],
    ),
    (
        92,
        ".safetensors",
        write(
            safe_bytes(
                b'{"a":'
                + json.dumps(row(0, 8)).encode()
                + b',"a":'
                + json.dumps(row(0, 8)).encode()
                + b"}",
                bytes(8),
            )
        ),
        ["occurs twice"],
    ),
    (
        92,
        ".safetensors",
        write(safe_bytes({"__metadata__": {"a": 1}, "a": row(0, 8)}, bytes(8))),
        ["metadata"],
    ),
    (92, ".safetensors", write(safe_bytes({"a": [1]}, bytes(8))), ["without its place"]),
    (95, ".h5", h5_cut, ["damaged HDF5"]),
    (95, ".h5", h5_huge, ["1048576"]),
    (95, ".h5", h5_new_form, ["numbers for layer names"]),
    (96, ".safetensors", lambda path: torch.save(state(), path), ["'.safetensors'", "zip", ".pth"]),
    (96, ".pth", lambda path: path.write_bytes(good_safetensors()), ["'.pth'", "safetensors"]),
    (96, ".h5", lambda path: torch.save(state(), path), ["'.h5'", "zip"]),
    (96, ".weights", lambda path: torch.save(state(), path), ["'.weights'"]),
    (89, ".pth", strided, ["a.weight", "few numbers many times"]),
    (85, ".pth", list_of_tensors, ["a list"]),
    (85, ".pth", lambda path: torch.save({"epoch": 3}, path), ["no tensors"]),
]


@pytest.mark.parametrize(
    ("number", "ending", "make", "words"), BAD, ids=[f"row-{r[0]}-{i}" for i, r in enumerate(BAD)]
)
def test_the_catalogue(tmp_path, number, ending, make, words):
    path = tmp_path / f"w{ending}"
    make(path)
    with pytest.raises(BadDataError) as refused:
        weights_reader.read(path)
    assert refused.value.exit_code == 3
    text = str(refused.value)
    assert "\n" not in text
    assert str(path) in text
    assert all(word in text for word in words), text


def test_row_79_a_missing_file_names_its_neighbours(tmp_path):
    (tmp_path / "vgg16.pth").touch()
    with pytest.raises(MissingError, match=r"vgg16\.pth"):
        weights_reader.read(tmp_path / "vgg61.pth")


def test_row_84_a_flipped_bit_in_the_numbers_is_found(tmp_path):
    path = tmp_path / "w.pth"
    torch.save({"a.weight": torch.arange(5000.0)}, path)
    data = bytearray(path.read_bytes())
    data[data.find(torch.arange(100.0, 110.0).numpy().tobytes())] ^= 4
    path.write_bytes(data)
    torch.load(path, weights_only=True)  # which PyTorch reads without a word
    with pytest.raises(IntegrityError, match=r"data/0.*CRC") as found:
        weights_reader.read(path)
    assert found.value.exit_code == 9


def test_row_97_another_sha256_than_the_one_given(tmp_path):
    torch.save(state(), tmp_path / "w.pth")
    with pytest.raises(IntegrityError) as refused:
        weights_reader.read(tmp_path / "w.pth", sha256="ab" * 32)
    assert "ab" * 32 in str(refused.value)
    assert refused.value.exit_code == 9


def test_row_98_more_than_memory_holds(tmp_path, monkeypatch):
    path = tmp_path / "w.safetensors"
    path.write_bytes(good_safetensors())
    os.truncate(path, 40 << 30)  # a hole: no disk is used
    with pytest.raises(ResourceError) as refused:
        weights_reader.read(path)
    assert f"needs {40 << 30:,} bytes" in str(refused.value)
    assert "available" in str(refused.value)
    assert refused.value.exit_code == 5
    path.write_bytes(good_safetensors())
    monkeypatch.setattr(weights_reader, "available_bytes", lambda: 10)
    with pytest.raises(ResourceError):
        weights_reader.read(path)


@pytest.mark.parametrize("ending", [".safetensors", ".pth", ".h5"])
def test_no_cut_of_a_file_ends_in_anything_but_words(tmp_path, ending):
    whole = tmp_path / f"whole{ending}"
    if ending == ".h5":
        with h5py.File(whole, "w") as file:
            file["a/a/kernel:0"] = np.random.default_rng(0).normal(size=(8, 8))
    else:
        save_file(state(), whole) if ending == ".safetensors" else torch.save(state(), whole)
    data, path = whole.read_bytes(), tmp_path / f"cut{ending}"
    for length in range(1, len(data) - 1, max(1, len(data) // 60)):
        path.write_bytes(data[:length])
        with pytest.raises(TlxError) as refused:
            weights_reader.read(path)
        assert refused.value.exit_code in (3, 9)


# ---------------------------------------------------------------- putting them into a network


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        OrderedDict(a=nn.Linear(3, 4), b=nn.BatchNorm1d(4), c=nn.Linear(4, 4), head=nn.Linear(4, 2))
    )


def given(seed=1):
    torch.manual_seed(seed)
    return {
        k: torch.randn(t.shape)
        for k, t in network().state_dict().items()
        if not k.endswith("tracked")
    }


def test_everything_that_fits_is_copied():
    net, weights = network(), given()
    match = weights_reader.load_into(net, weights)
    assert (match.matched, match.total, match.share) == (10, 10, 1.0)
    assert all(torch.equal(net.state_dict()[k], v) for k, v in weights.items())


@pytest.mark.parametrize("rename", [lambda k: f"other.{k}", lambda k: k.replace("a.", "x.")])
def test_row_87_too_few_matches_stop_and_change_nothing(rename):
    net, before = network(), {k: t.clone() for k, t in network().state_dict().items()}
    with pytest.raises(BadDataError) as refused:
        weights_reader.load_into(net, {rename(k): v for k, v in given().items()})
    matched = sum(rename(k) == k for k in given())
    text = str(refused.value)
    assert f"{matched} of 10" in text
    assert "first missing: 'a.weight'" in text
    assert f"first unexpected: '{rename('a.weight')}'" in text
    assert all(torch.equal(net.state_dict()[k], before[k]) for k in before)


def test_row_88_another_shape_is_refused_but_in_the_head():
    net = network()
    other_head = given() | {"head.weight": torch.ones(7, 4), "head.bias": torch.ones(7)}
    assert weights_reader.load_into(net, other_head, ignore=("head",)).matched == 8
    with pytest.raises(BadDataError, match=r"\(7, 4\).*\(2, 4\)") as refused:
        weights_reader.load_into(network(), other_head, least=0.8)
    assert refused.value.exit_code == 3
    with pytest.raises(BadDataError, match=r"'c.weight' is \(4, 9\)"):
        weights_reader.load_into(
            network(), given() | {"c.weight": torch.ones(4, 9)}, ignore=("head",), least=0.5
        )


def test_a_head_of_the_same_name_beginning_is_not_the_head():
    net = nn.Sequential(OrderedDict(head=nn.Linear(2, 2), header=nn.Linear(2, 2)))
    weights = {k: v for k, v in net.state_dict().items() if k.startswith("head.")}
    with pytest.raises(BadDataError, match="0 of 2"):
        weights_reader.load_into(net, weights, ignore=("head",))


def test_a_few_missing_ones_are_let_pass_and_named():
    net = nn.Sequential(*(nn.Linear(2, 2) for _ in range(15)))
    weights = {k: torch.ones_like(v) for k, v in net.state_dict().items() if k != "3.bias"}
    match = weights_reader.load_into(net, weights)
    assert match.missing == ("3.bias",)
    assert str(match) == "29 of 30 tensors matched"


@pytest.mark.slow
@pytest.mark.parametrize("folder", ["plain", "with 'quotes' $HOME"])
def test_the_command_of_a_refused_module_saves_what_can_be_read(tmp_path, folder):
    """The message says what to type: it is typed here, in a process of its own."""
    path = tmp_path / folder / "model_pre_mnist_0_10.pt"
    path.parent.mkdir()
    net = nn.Sequential(nn.Linear(2, 3), nn.ReLU())
    torch.save(net, path)
    with pytest.raises(UnsafeError) as refused:
        weights_reader.read(path)
    command = str(refused.value)[str(refused.value).index("python -c") :]
    command = command.replace("python", shlex.quote(sys.executable), 1)
    subprocess.run(command, shell=True, check=True, timeout=120)  # noqa: S602 — a shell is what it is for
    read = weights_reader.read(path.with_name("model_pre_mnist_0_10-state.pth"))
    same(read, net.state_dict())
