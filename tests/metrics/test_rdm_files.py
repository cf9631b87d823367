"""Files of RDMs: rsatoolbox's layout pinned without it, what it writes read back, and nothing
unsafe let in.
"""

from __future__ import annotations

import h5py
import numpy as np
import pytest

from tlx.errors import BadDataError, MissingError, UnsafeError, UsageError
from tlx.metrics.comparison import compare_rdms
from tlx.metrics.rdm_files import Rdms, read_rdms, write_rdms

RNG = np.random.default_rng(0)
SOME = Rdms(
    RNG.random((3, 10)),
    "correlation",
    {"session": "a b", "subject": 3, "weights": np.arange(2.0)},
    {"layer": ["in", "conv1", "fc"], "step": np.arange(3)},
    {"label": np.array(["x", "y", "x", "z", "z"]), "size": [1.5, 2, 3, 4, 5]},
)


def same(found, want):
    assert found.dissimilarities.tolist() == want.dissimilarities.tolist()
    assert found.measure == want.measure
    for name in ("descriptors", "rdm_descriptors", "pattern_descriptors"):
        one, other = dict(getattr(found, name)), dict(getattr(want, name))
        if name != "descriptors":
            other.setdefault("index", np.arange(3 if name == "rdm_descriptors" else 5))
        assert one.keys() == other.keys()
        for key, value in one.items():
            assert np.asarray(value).tolist() == np.asarray(other[key]).tolist(), key


def rsatoolbox_file(path, version="0.3.2"):
    """What rsatoolbox 0.3.2 puts there for two RDMs of three stimuli, written with h5py alone."""
    with h5py.File(path, "a") as file:
        file.attrs["rsatoolbox_version"] = version
        file["dissimilarities"] = np.array([[1.0, 2, 3], [4, 5, 6]])
        group = file.create_group("descriptors")
        group.attrs["session"] = "s1"
        group["n"] = 4
        group = file.create_group("rdm_descriptors")
        group["model"] = np.array(["m1", "m2"]).astype("S")
        group["index"] = np.array([0, 1])
        group = file.create_group("pattern_descriptors")
        group["label"] = np.array(["a", "bb", "a"]).astype("S")
        group["index"] = np.array([0, 1, 2])
        mixed = group.create_group("mixed")
        for i, value in enumerate(["one", 2, 3.5]):
            mixed[str(i)] = value
        group.attrs["names"] = ("p", "q", "r")
        file.attrs["dissimilarity_measure"] = "squared euclidean"


def test_what_rsatoolbox_wrote(tmp_path):
    rsatoolbox_file(tmp_path / "rdms.h5")
    found = read_rdms(tmp_path / "rdms.h5")
    assert found.dissimilarities.tolist() == [[1, 2, 3], [4, 5, 6]]
    assert found.measure == "squared euclidean"
    assert found.descriptors == {"session": "s1", "n": 4}
    assert {key: list(value) for key, value in found.rdm_descriptors.items()} == {
        "model": ["m1", "m2"],
        "index": [0, 1],
    }
    assert {key: list(value) for key, value in found.pattern_descriptors.items()} == {
        "label": ["a", "bb", "a"],
        "index": [0, 1, 2],
        "mixed": ["one", 2, 3.5],
        "names": ["p", "q", "r"],
    }
    assert found.stimuli == 3
    assert compare_rdms(found.dissimilarities, found.dissimilarities).shape == (2, 2)


def test_no_measure(tmp_path):
    rsatoolbox_file(tmp_path / "rdms.h5")
    with h5py.File(tmp_path / "rdms.h5", "a") as file:
        del file.attrs["dissimilarity_measure"]
        file["dissimilarity_measure"] = h5py.Empty("f")
    assert read_rdms(tmp_path / "rdms.h5").measure is None


@pytest.mark.parametrize(
    "rdms",
    [
        SOME,
        Rdms(SOME.dissimilarities.astype(np.float32)[:1]),
        Rdms(np.array([[np.nan, 1, 2]]), None, {"wo": "Köln"}, {}, {"label": ["ä", "b", "日本"]}),
    ],
)
def test_there_and_back(rdms, tmp_path):
    write_rdms(tmp_path / "new" / "rdms.hdf5", rdms)
    found = read_rdms(str(tmp_path / "new" / "rdms.hdf5"))
    assert found.dissimilarities.dtype == rdms.dissimilarities.dtype
    np.testing.assert_array_equal(found.dissimilarities, rdms.dissimilarities)
    if rdms is SOME:
        same(found, rdms)
    assert list(found.pattern_descriptors.get("label", [])) == list(
        rdms.pattern_descriptors.get("label", [])
    )
    assert found.descriptors.get("wo") == rdms.descriptors.get("wo")
    assert found.measure == rdms.measure


def test_the_layout(tmp_path):
    """What rsatoolbox.rdm.load_rdm asks for (0.3.2 was seen to read such a file)."""
    write_rdms(tmp_path / "rdms.h5", SOME)
    with h5py.File(tmp_path / "rdms.h5") as file:
        assert sorted(file) == [
            "descriptors",
            "dissimilarities",
            "pattern_descriptors",
            "rdm_descriptors",
        ]
        assert file["dissimilarities"].shape == (3, 10)
        assert file.attrs["dissimilarity_measure"] == "correlation"
        assert file["descriptors"].attrs["session"] == "a b"
        assert file["descriptors/subject"][()] == 3
        assert file["rdm_descriptors/layer"].dtype == "S5"
        assert file["rdm_descriptors/layer"][:].tolist() == [b"in", b"conv1", b"fc"]
        assert file["rdm_descriptors/index"][:].tolist() == [0, 1, 2]
        assert file["pattern_descriptors/index"][:].tolist() == [0, 1, 2, 3, 4]
        assert file["pattern_descriptors/size"][:].tolist() == [1.5, 2, 3, 4, 5]
    write_rdms(tmp_path / "rdms.h5", Rdms(SOME.dissimilarities))  # takes the place of the other
    with h5py.File(tmp_path / "rdms.h5") as file:
        assert file["dissimilarity_measure"].shape is None


def test_nothing_is_left_of_a_file_that_could_not_be_written(tmp_path):
    for descriptors, code in (
        ({"who": object()}, "descriptor-kind"),
        ({"a/b": 1}, "descriptor-name"),
        ({"": 1}, "descriptor-name"),
        ({"z": 1j}, "descriptor-kind"),
    ):
        with pytest.raises(UsageError, match=code):
            write_rdms(tmp_path / "rdms.h5", Rdms(SOME.dissimilarities, None, descriptors))
    assert list(tmp_path.iterdir()) == []


def test_what_is_no_rdms():
    for dissimilarities in (np.zeros(3), np.zeros((0, 3)), np.zeros((2, 4)), np.array([["a"]])):
        with pytest.raises(BadDataError, match="rdm-shape"):
            Rdms(dissimilarities)
    for wrong in (
        {"rdm_descriptors": {"a": [1, 2]}},
        {"pattern_descriptors": {"a": "word"}},
        {"pattern_descriptors": {"a": 3}},
    ):
        with pytest.raises(BadDataError, match="descriptor-length"):
            Rdms(SOME.dissimilarities, **wrong)


def link_outside(file):
    file["pattern_descriptors/other"] = h5py.ExternalLink("/etc/passwd", "/")


def soft_link(file):
    file["pattern_descriptors/other"] = h5py.SoftLink("/dissimilarities")


def numbers_outside(file):
    del file["dissimilarities"]
    file.create_dataset("dissimilarities", (1, 3), "f8", external=[("/etc/hostname", 0, 24)])


def virtual(file):
    layout = h5py.VirtualLayout((1, 3), "f8")
    layout[0] = h5py.VirtualSource("other.h5", "x", (3,))
    del file["dissimilarities"]
    file.create_virtual_dataset("dissimilarities", layout)


def circle(file):
    file["descriptors/again"] = file["descriptors"]


def plug_in(file):
    recipe = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    recipe.set_chunk((1, 3))
    recipe.set_filter(32_000 + 8, h5py.h5z.FLAG_OPTIONAL, ())
    h5py.h5d.create(
        file["descriptors"].id,
        b"packed",
        h5py.h5t.NATIVE_DOUBLE,
        h5py.h5s.create_simple((1, 3)),
        recipe,
    )


def a_type(file):
    file["descriptors/type"] = np.dtype("f8")


@pytest.mark.parametrize(
    "change", [link_outside, soft_link, numbers_outside, virtual, circle, plug_in, a_type]
)
def test_what_reaches_out_of_the_file(change, tmp_path):
    rsatoolbox_file(tmp_path / "rdms.h5")
    with h5py.File(tmp_path / "rdms.h5", "a") as file:
        change(file)
    with pytest.raises(UnsafeError, match="rdm-file-"):
        read_rdms(tmp_path / "rdms.h5")


def huge(file):
    file.create_dataset("descriptors/huge", (1 << 40,), "f8", chunks=True)


def compound(file):
    file["descriptors/pairs"] = np.zeros(3, "f8,i4")


def reference(file):
    file.create_dataset("descriptors/there", data=file.ref, dtype=h5py.ref_dtype)


def no_numbers(file):
    del file["dissimilarities"]


def texts(file):
    del file["dissimilarities"]
    file["dissimilarities"] = np.array([[b"a", b"b", b"c"]])


def flat(file):
    del file["dissimilarities"]
    file["dissimilarities"] = np.zeros(3)


def too_few_labels(file):
    del file["pattern_descriptors/label"]
    file["pattern_descriptors/label"] = np.array([b"a"])


def gap(file):
    del file["pattern_descriptors/mixed/1"]


@pytest.mark.parametrize(
    "change", [huge, compound, reference, no_numbers, texts, flat, too_few_labels, gap]
)
def test_what_is_in_no_such_file(change, tmp_path):
    rsatoolbox_file(tmp_path / "rdms.h5")
    with h5py.File(tmp_path / "rdms.h5", "a") as file:
        change(file)
    with pytest.raises(BadDataError):
        read_rdms(tmp_path / "rdms.h5")


def test_files_that_are_none(tmp_path):
    with pytest.raises(MissingError):
        read_rdms(tmp_path / "none.h5")
    rsatoolbox_file(tmp_path / "rdms.h5")
    whole = (tmp_path / "rdms.h5").read_bytes()
    for part in (b"", b"not HDF5", whole[: len(whole) // 2], whole[:-1]):
        (tmp_path / "part.h5").write_bytes(part)
        with pytest.raises(BadDataError, match="rdm-file-damaged"):
            read_rdms(tmp_path / "part.h5")


def test_damaged_bytes_are_an_error_or_other_numbers(tmp_path):
    rsatoolbox_file(tmp_path / "rdms.h5")
    whole = bytearray((tmp_path / "rdms.h5").read_bytes())
    rng = np.random.default_rng(0)
    for _ in range(150):
        part = whole.copy()
        for place in rng.integers(0, len(part), 3):
            part[place] = rng.integers(256)
        (tmp_path / "part.h5").write_bytes(part)
        try:
            found = read_rdms(tmp_path / "part.h5")
        except (BadDataError, UnsafeError):
            continue
        assert found.dissimilarities.ndim == 2
