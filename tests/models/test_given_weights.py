"""Weight file that --model means: a file, one of a folder, one in a folder of its own name."""

from __future__ import annotations

import pytest

from tlx.errors import BadDataError, MissingError, UnknownNameError
from tlx.models import backbones
from tlx.models.weights.given import given_file
from tlx.studies.fine_tuning.spec import FineTuning

NAMES = (
    "vgg16_weights_tf_dim_ordering_tf_kernels.h5",
    "vgg16_weights_tf_dim_ordering_tf_kernels_notop.h5",
    "vgg16-places365_weights_tf_dim_ordering_tf_kernels.h5",
    "resnet50_places365.pth",
    "resnet152-imagenet.safetensors",
    "resnet152-imagenet.json",
)


@pytest.fixture
def folder(tmp_path):
    for name in NAMES:
        (tmp_path / name).write_bytes(b"")
    return tmp_path


@pytest.mark.parametrize(
    ("architecture", "source", "name"),
    [
        ("VGG16", "ImageNet", NAMES[0]),
        ("vgg16", None, NAMES[0]),
        ("vgg16-4096", None, NAMES[0]),
        ("VGG16", "Places365", NAMES[2]),
        ("ResNet50", "places365", NAMES[3]),
        ("ResNet152", "ImageNet", NAMES[4]),
    ],
)
def test_a_folder_is_searched_for_architecture_and_source(folder, architecture, source, name):
    spec = FineTuning(model=str(folder), architecture=architecture, source=source)
    assert spec.start_from == str(folder / name)


def test_a_folder_without_the_file_says_where_it_is_published(folder):
    with pytest.raises(MissingError, match="resnet50_weights_tf_dim_ordering"):
        given_file(str(folder), "ResNet50", "ImageNet")
    with pytest.raises(MissingError, match="mobilenet-v1 from Places365"):
        given_file(str(folder), "mobilenet-v1", "Places365")


def test_several_files_that_fit_are_named(folder):
    (folder / "vgg16_imagenet.pth").write_bytes(b"")
    with pytest.raises(BadDataError, match=r"vgg16_imagenet\.pth"):
        given_file(str(folder), "vgg16", "ImageNet")


def test_a_file_in_a_folder_of_its_own_name_is_found(tmp_path):
    """As the trade-off study kept its weights: x.h5 is opened at x/x.h5."""
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "x.h5").write_bytes(b"")
    assert given_file(str(tmp_path / "x.h5"), "vgg16", None) == str(tmp_path / "x" / "x.h5")
    (tmp_path / "x.h5").write_bytes(b"")
    assert given_file(str(tmp_path / "x.h5"), "vgg16", None) == str(tmp_path / "x.h5")
    assert given_file("nowhere.h5", "vgg16", None) == "nowhere.h5"


def test_an_unknown_source_says_where_its_weights_are_published():
    with pytest.raises(UnknownNameError, match="Keras-VGG16-places365"):
        backbones.default_file(backbones.lookup("vgg16"), "Places365")
