"""Every row of DATASETS: complete, found by all its spellings, and an error that helps where it is
absent.
"""

from __future__ import annotations

import subprocess
import sys

import pytest

from tlx.data import datasets, published
from tlx.data.catalogue import Dataset
from tlx.errors import BadDataError, TlxError

DATASETS = datasets.DATASETS
TRADE_OFF = {  # key → name, classes, shots, validation images a class, test images
    "caltech101": ("Caltech 101", 101, (1, 2, 3, 5, 7, 10, 15, 20), 10, 2945),
    "cub200": ("CUB200", 200, (1, 2, 3, 5, 7, 10, 15, 20), 10, 11788),
    "textures": ("DTD", 47, (1, 2, 3, 5, 7, 10, 15, 20, 30, 40, 50, 70), 10, 1880),
    "food101": (
        "Food-101",
        101,
        (1, 2, 3, 5, 7, 10, 15, 20, 30, 40, 50, 75, 100, 150, 190),
        10,
        25250,
    ),
    "mame": ("MAMe", 29, (1, 2, 3, 5, 7, 10, 15, 20, 30, 40, 50, 75, 100, 150, 200), 10, 15657),
    "mit67": ("MIT ISR", 67, (1, 2, 3, 5, 7, 10, 15, 20, 30, 40, 50, 67), 10, 1340),
    "wood": ("Knots6", 6, (1, 2, 3, 5, 7, 10, 15, 18), 5, 86),
    "flowers102": ("Oxford Flower", 102, (1, 2, 3, 5, 7, 10), 10, 6149),
    "catsdogs": ("Oxford-IIIT-Pet", 37, (1, 2, 3, 5, 7, 10, 15, 20, 30, 40, 50, 75, 83), 10, 3669),
    "stanforddogs": (
        "Stanford Dogs",
        120,
        (1, 2, 3, 5, 7, 10, 15, 20, 30, 40, 50, 75, 90),
        10,
        8580,
    ),
}
DISTANCE = {
    "CIFAR-10": 10,
    "CIFAR-100": 100,
    "Caltech-101": 101,
    "CUB-200": 200,
    "Aircraft": 100,
    "Flowers": 17,
    "Land-Use": 17,
    "POCUS": 3,
    "DTD": 47,
    "DomainNet": 345,
    "domainnet-real": 345,
    "domainnet-painting": 345,
    "domainnet-clipart": 345,
    "caltech102": 102,
}
THESIS = (
    "mnist",
    "mnist2class",
    "mnist_noise",
    "mnist_noise_struct",
    "mnist_split1",
    "mnist_split2",
    "fashionmnist",
    "cifar10",
    "imagenet",
    "custom3D",
    "places365",
    "vggface",
    "segnet",
    "Malaria",
    "Pets",
    "cars",
)
SPELLINGS = {
    "fashion-mnist": "fashionmnist",
    "fashion_mnist": "fashionmnist",
    "FashionMNIST": "fashionmnist",
    "dtd": "textures",
    "mit-isr": "mit67",
    "oxford-flowers102": "flowers102",
    "oxford-iiit-pet": "catsdogs",
    "stanford-dogs": "stanforddogs",
    "knots6": "wood",
    "food-101": "food101",
    "MNIST": "mnist",
    "mnist-noise": "mnist_noise",
    "CIFAR-10": "cifar10",
    "Malaria": "malaria",
    "self_driving_data": "self-driving",
    "cifar100": "cifar100",
    "digits": "digits",
}


@pytest.mark.parametrize("key", DATASETS)
def test_row_is_complete(key):
    row = DATASETS[key]
    assert isinstance(row, Dataset)
    for text in (row.title, row.licence, row.where, row.folder):
        assert text.strip()
    assert list(row.shots) == sorted(set(row.shots))
    assert row.classes is None or row.classes >= 2
    assert (row.kind == "derived") == bool(row.base)
    assert not row.base or DATASETS[row.base].kind == "idx"
    assert not row.folder.startswith("/")
    assert ".." not in row.folder


@pytest.mark.parametrize("key", DATASETS)
def test_row_is_found_by_every_spelling(key):
    row = DATASETS[key]
    for spelling in (key, row.folder, *row.aliases):
        for written in (spelling, spelling.upper(), spelling.replace("_", "-")):
            assert datasets.key_of(written) == key, written


def test_no_two_rows_share_a_spelling():
    from tlx.data.catalogue import _plain

    owners: dict[str, set[str]] = {}
    for key, row in DATASETS.items():
        for spelling in (key, row.folder, *row.aliases):
            owners.setdefault(_plain(spelling), set()).add(key)
    assert {name: keys for name, keys in owners.items() if len(keys) > 1} == {}


@pytest.mark.parametrize("key", TRADE_OFF)
def test_the_ten_of_the_trade_off(key):
    row = DATASETS[key]
    assert (row.title, row.classes, row.shots, row.val_per_class, row.test) == TRADE_OFF[key]


@pytest.mark.parametrize(("name", "classes"), DISTANCE.items())
def test_the_twelve_of_parameter_distance(name, classes):
    assert datasets.known(name).classes == classes


@pytest.mark.parametrize("name", THESIS)
def test_those_of_the_thesis(name):
    datasets.known(name)


@pytest.mark.parametrize(("spelling", "key"), SPELLINGS.items())
def test_spellings_of_the_originals(spelling, key):
    assert datasets.key_of(spelling) == key


@pytest.mark.parametrize("key", [key for key, row in DATASETS.items() if row.kind != "digits"])
def test_an_absent_dataset_says_where_to_get_it_and_where_to_put_it(key, tmp_path, monkeypatch):
    monkeypatch.delenv("TLX_DATA", raising=False)
    row = DATASETS[key]
    with pytest.raises(BadDataError) as caught:
        datasets.locate(key, tmp_path, offline=True)
    source = DATASETS[row.base] if row.base else row
    for text in (source.where.rstrip("."), source.folder, "path"):
        assert text in str(caught.value), str(caught.value)
    assert caught.value.exit_code == 3


@pytest.mark.parametrize("key", [key for key, row in DATASETS.items() if row.torchvision])
def test_torchvision_has_it_and_takes_the_arguments(key):
    import inspect

    import torchvision

    name, by_split = DATASETS[key].torchvision
    parameters = inspect.signature(getattr(torchvision.datasets, name)).parameters
    for arguments in by_split.values():
        assert {*arguments, "download"} <= set(parameters)
    assert name in published.MARKERS


def test_looking_for_a_dataset_makes_nothing(tmp_path):
    (tmp_path / "root").mkdir()
    for key, row in DATASETS.items():
        if row.torchvision:
            with pytest.raises(BadDataError):
                datasets.locate(key, tmp_path / "cache", data_root=tmp_path / "root", offline=True)
    assert list((tmp_path / "root").iterdir()) == []


@pytest.mark.parametrize(
    ("key", "leaked"),
    [("textures", 420), ("mit67", 588), ("catsdogs", 339), ("food101", 942), ("mame", 272)],
)
def test_leaks_of_published_splits_are_counted_over_all_their_files(key, leaked):
    row = DATASETS[key]
    assert f"{leaked:,} of {row.classes * row.val_per_class:,} published val rows" in row.faults


def test_a_missing_network_is_found_in_seconds(tmp_path, monkeypatch):
    import time

    monkeypatch.setattr(published, "NAME_SECONDS", 0.2)
    monkeypatch.setattr(published.socket, "getaddrinfo", lambda *_: time.sleep(30))
    monkeypatch.setattr(published.urllib.request, "getproxies", dict)
    start = time.perf_counter()
    with pytest.raises(TlxError, match="no network"):
        datasets.locate("cifar10", tmp_path)
    assert time.perf_counter() - start < 20  # the look-up would take 30


def test_a_failed_download_is_one_sentence(tmp_path, monkeypatch):
    import torchvision

    class Refusing:
        def __init__(self, root, **arguments):
            raise (
                OSError("connection refused")
                if arguments.get("download")
                else RuntimeError("not found")
            )

    monkeypatch.setattr(torchvision.datasets, "CIFAR10", Refusing)
    monkeypatch.setattr(published, "name_server_answers", lambda: True)
    with pytest.raises(BadDataError, match=r"connection refused.*\$TLX_DATA/cifar10"):
        datasets.locate("cifar10", tmp_path)


def test_the_table_is_listed_without_heavy_imports():
    script = (
        "import sys; from tlx.data.datasets import DATASETS;"
        "print(sorted({'torch', 'torchvision', 'sklearn', 'mlflow', 'pandas'} & set(sys.modules)))"
    )
    assert (
        subprocess.run(
            [sys.executable, "-c", script], capture_output=True, text=True, check=True
        ).stdout
        == "[]\n"
    )
