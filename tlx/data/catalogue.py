"""DATASETS: every data set known by name, with its classes, shots, licence and source.

Sizes and shots are those of the studies the names come from; `faults` lists errors in the split
files published with them. A name is found in any case, by its key, its folder or an alias.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from ..errors import UnknownNameError

Kind = Literal["digits", "folder", "idx", "torchvision", "derived", "npy"]


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """Facts about a data set that are known before any of its files is read.

    classes        number of classes; None where it depends on the copy
    shots          training images per class of its few-shot study; () where there is none
    val_per_class  images per class held for validation
    test           number of test images in the study; None where it depends on the copy
    train          number of training images where the study states it
    kind           digits: made from scikit-learn · folder: yours to fetch · idx: files in MNIST's
                   layout ·
                   torchvision: can be downloaded · derived: computed from `base` · npy: arrays
    folder         its name under the data root
    torchvision    (class in torchvision.datasets, {our split: arguments})
    base           the dataset that a derived one is made from
    faults         known faults of the published splits
    """

    title: str
    classes: int | None
    kind: Kind
    folder: str
    licence: str
    where: str
    shots: tuple[int, ...] = ()
    val_per_class: int = 10
    test: int | None = None
    train: int | None = None
    aliases: tuple[str, ...] = ()
    torchvision: tuple[str, dict[str, dict[str, Any]]] | None = None
    base: str = ""
    notes: str = ""
    faults: str = ""


TO_20 = (1, 2, 3, 5, 7, 10, 15, 20)
TO_50 = (*TO_20, 30, 40, 50)
BY_FLAG: dict[str, dict[str, Any]] = {"train": {"train": True}, "test": {"train": False}}
BY_NAME: dict[str, dict[str, Any]] = {"train": {"split": "train"}, "test": {"split": "test"}}
WITH_VAL: dict[str, dict[str, Any]] = {**BY_NAME, "val": {"split": "val"}}
RESEARCH = "research and education only; images belong to their owners"
UNSTATED = "not stated by its authors; ask before you publish"
PUBLIC_MNIST = "CC BY-SA 3.0"
MNIST_SITE = "https://yann.lecun.com/exdb/mnist/ or torchvision"
UNBALANCED = "from 15 shots on the published training files are not balanced"

DATASETS: dict[str, Dataset] = {
    # the embedded default
    "digits": Dataset(
        title="Optical digits (scikit-learn)",
        classes=10,
        kind="digits",
        folder="digits",
        shots=(1, 2, 3, 5, 7, 10),
        test=500,
        train=1297,
        licence="CC BY 4.0",
        where="inside scikit-learn: nothing to fetch",
        aliases=("sklearn-digits", "optdigits"),
        notes="8 x 8 grey; 50 images a class are the test pool, by a seeded draw",
    ),
    **{
        f"digits_{name}": Dataset(
            title=f"Optical digits: {title}",
            classes=classes,
            kind="digits",
            folder=f"digits_{name}",
            test=50 * classes,
            train=train,
            licence="CC BY 4.0",
            where="made from scikit-learn's digits: nothing to fetch",
            notes=notes,
        )
        for name, title, classes, train, notes in (
            ("split1", "0 to 4", 5, 651, "as mnist_split1"),
            ("split2", "5 to 9, relabelled 0 to 4", 5, 646, "as mnist_split2"),
            (
                "noise",
                "their labels on noise",
                10,
                1297,
                "every pixel uniform, numpy seed 1, as mnist_noise",
            ),
            (
                "noise_struct",
                "their labels on noise with 6 pixels per class held",
                10,
                1297,
                "as mnist_noise_struct",
            ),
        )
    },
    # the ten of the trade-off between feature extraction and fine-tuning
    "caltech101": Dataset(
        title="Caltech 101",
        classes=101,
        kind="torchvision",
        folder="caltech101",
        shots=TO_20,
        test=2945,
        licence="CC BY 4.0",
        where="https://data.caltech.edu/records/mzrjq-6wc02",
        torchvision=("Caltech101", {"": {}}),
        aliases=("caltech-101", "caltech_101"),
        notes="1 to 50 test images a class",
    ),
    "cub200": Dataset(
        title="CUB200",
        classes=200,
        kind="folder",
        folder="cub200",
        shots=TO_20,
        test=11788,
        licence=RESEARCH,
        where="https://www.vision.caltech.edu/datasets/cub_200_2011/",
        aliases=("cub-200", "cub_200_2011", "CUB-200-2011"),
        train=5994,
        faults="the published test.csv is the whole set: 11,588 of its 11,788 rows are also in "
        "train or val",
    ),
    "textures": Dataset(
        title="DTD",
        classes=47,
        kind="torchvision",
        folder="dtd",
        shots=(*TO_50, 70),
        test=1880,
        train=1880,
        licence=RESEARCH,
        where="https://www.robots.ox.ac.uk/~vgg/data/dtd/",
        torchvision=("DTD", WITH_VAL),
        aliases=("describable-textures",),
        faults="420 of 470 published val rows are in some train file; its pool mixes official "
        "train and val",
    ),
    "food101": Dataset(
        title="Food-101",
        classes=101,
        kind="torchvision",
        folder="food-101",
        shots=(*TO_50, 75, 100, 150, 190),
        test=25250,
        licence=RESEARCH,
        where="https://data.vision.ee.ethz.ch/cvl/datasets_extra/food-101/",
        torchvision=("Food101", BY_NAME),
        faults="942 of 1,010 published val rows are in some train file",
    ),
    "mame": Dataset(
        title="MAMe",
        classes=29,
        kind="folder",
        folder="mame",
        shots=(*TO_50, 75, 100, 150, 200),
        test=15657,
        licence="CC0 or public domain, image by image",
        where="https://hpai.bsc.es/MAMe-dataset/",
        notes="class names contain spaces",
        faults="272 of 290 published val rows are in some train file",
    ),
    "mit67": Dataset(
        title="MIT ISR",
        classes=67,
        kind="folder",
        folder="mit-isr",
        shots=(*TO_50, 67),
        test=1340,
        licence=RESEARCH,
        where="https://web.mit.edu/torralba/www/indoor.html",
        aliases=("mit-indoor", "indoor67"),
        faults=f"588 of 670 published val rows are in some train file; {UNBALANCED}",
    ),
    "wood": Dataset(
        title="Knots6",
        classes=6,
        kind="folder",
        folder="knots6",
        shots=(1, 2, 3, 5, 7, 10, 15, 18),
        val_per_class=5,
        test=86,
        licence=UNSTATED,
        where="University of Oulu, Knots in wood",
        aliases=("knots",),
    ),
    "flowers102": Dataset(
        title="Oxford Flower",
        classes=102,
        kind="torchvision",
        folder="oxford-flowers102",
        shots=(1, 2, 3, 5, 7, 10),
        test=6149,
        train=1020,
        licence=RESEARCH,
        where="https://www.robots.ox.ac.uk/~vgg/data/flowers/102/",
        torchvision=("Flowers102", WITH_VAL),
        aliases=("oxford-flowers", "flowers-102"),
    ),
    "catsdogs": Dataset(
        title="Oxford-IIIT-Pet",
        classes=37,
        kind="torchvision",
        folder="oxford-iiit-pet",
        shots=(*TO_50, 75, 83),
        test=3669,
        licence="CC BY-SA 4.0",
        where="https://www.robots.ox.ac.uk/~vgg/data/pets/",
        torchvision=("OxfordIIITPet", {"train": {"split": "trainval"}, "test": {"split": "test"}}),
        faults=f"339 of 370 published val rows are in some train file; {UNBALANCED}",
    ),
    "stanforddogs": Dataset(
        title="Stanford Dogs",
        classes=120,
        kind="folder",
        folder="stanford-dogs",
        shots=(*TO_50, 75, 90),
        test=8580,
        licence=RESEARCH,
        where="http://vision.stanford.edu/aditya86/ImageNetDogs/",
        aliases=("dogs",),
    ),
    # parameter distance (some of its twelve are above: Caltech-101, CUB-200, DTD)
    "cifar10": Dataset(
        title="CIFAR-10",
        classes=10,
        kind="torchvision",
        folder="cifar10",
        test=10000,
        train=50000,
        licence=UNSTATED,
        where="https://www.cs.toronto.edu/~kriz/cifar.html",
        torchvision=("CIFAR10", BY_FLAG),
    ),
    "cifar100": Dataset(
        title="CIFAR-100",
        classes=100,
        kind="torchvision",
        folder="cifar100",
        test=10000,
        train=50000,
        licence=UNSTATED,
        where="https://www.cs.toronto.edu/~kriz/cifar.html",
        torchvision=("CIFAR100", BY_FLAG),
    ),
    "caltech102": Dataset(
        title="Caltech-101 with its background class",
        classes=102,
        kind="folder",
        folder="101_ObjectCategories",
        train=3060,
        licence="CC BY 4.0",
        where="https://data.caltech.edu/records/mzrjq-6wc02",
        notes="the folder as published: 101 objects and BACKGROUND_Google",
    ),
    "aircraft": Dataset(
        title="FGVC-Aircraft",
        classes=100,
        kind="torchvision",
        folder="aircraft",
        train=6667,
        test=3333,
        licence=RESEARCH,
        where="https://www.robots.ox.ac.uk/~vgg/data/fgvc-aircraft/",
        torchvision=("FGVCAircraft", WITH_VAL),
        aliases=("fgvc-aircraft",),
    ),
    "flowers17": Dataset(
        title="Oxford Flowers 17",
        classes=17,
        kind="folder",
        folder="flowers17",
        train=1088,
        licence=RESEARCH,
        where="https://www.robots.ox.ac.uk/~vgg/data/flowers/17/",
        aliases=("flowers", "flowers-17"),
    ),
    "landuse": Dataset(
        title="UC Merced Land Use",
        classes=17,
        kind="folder",
        folder="land-use",
        train=1680,
        licence="public domain",
        where="http://weegee.vision.ucmerced.edu/datasets/landuse.html",
        aliases=("uc-merced", "ucmerced"),
        notes="17 classes in the study; the full set has 21",
    ),
    "pocus": Dataset(
        title="POCUS lung ultrasound",
        classes=3,
        kind="folder",
        folder="pocus",
        train=1692,
        licence="per video; see its repository",
        where="https://github.com/jannisborn/covid19_ultrasound",
    ),
    "domainnet-real": Dataset(
        title="DomainNet real",
        classes=345,
        kind="folder",
        folder="domainnet/real",
        train=120906,
        licence=RESEARCH,
        where="http://ai.bu.edu/M3SDA/",
        aliases=("domainnet-r", "domainnet"),
    ),
    "domainnet-painting": Dataset(
        title="DomainNet painting",
        classes=345,
        kind="folder",
        folder="domainnet/painting",
        train=50416,
        licence=RESEARCH,
        where="http://ai.bu.edu/M3SDA/",
        aliases=("domainnet-p",),
    ),
    "domainnet-clipart": Dataset(
        title="DomainNet clipart",
        classes=345,
        kind="folder",
        folder="domainnet/clipart",
        train=33525,
        licence=RESEARCH,
        where="http://ai.bu.edu/M3SDA/",
        aliases=("domainnet-c",),
    ),
    # the thesis on layers
    "mnist": Dataset(
        title="MNIST",
        classes=10,
        kind="idx",
        folder="mnist",
        test=10000,
        train=60000,
        licence=PUBLIC_MNIST,
        where=MNIST_SITE,
        torchvision=("MNIST", BY_FLAG),
    ),
    "mnist2class": Dataset(
        title="MNIST, even or odd",
        classes=2,
        kind="derived",
        base="mnist",
        folder="mnist2class",
        test=10000,
        train=60000,
        licence=PUBLIC_MNIST,
        where=MNIST_SITE,
        notes="label 0: even digits, 1: odd",
    ),
    "mnist_noise": Dataset(
        title="MNIST's labels on noise",
        classes=10,
        kind="derived",
        base="mnist",
        folder="mnist_noise",
        test=10000,
        train=60000,
        licence=PUBLIC_MNIST,
        where=MNIST_SITE,
        notes="every pixel uniform, numpy seed 1, stored as uint8",
        faults="the original stored float64 as bytes: its images show the bytes of the first 98 "
        "numbers",
    ),
    "mnist_noise_struct": Dataset(
        title="MNIST's labels on noise with 78 pixels per class held",
        classes=10,
        kind="derived",
        base="mnist",
        folder="mnist_noise_struct",
        test=10000,
        train=60000,
        licence=PUBLIC_MNIST,
        where=MNIST_SITE,
        faults="as mnist_noise",
    ),
    "mnist_split1": Dataset(
        title="MNIST digits 0 to 4",
        classes=5,
        kind="derived",
        base="mnist",
        folder="mnist_split1",
        test=5139,
        train=30596,
        licence=PUBLIC_MNIST,
        where=MNIST_SITE,
    ),
    "mnist_split2": Dataset(
        title="MNIST digits 5 to 9, relabelled 0 to 4",
        classes=5,
        kind="derived",
        base="mnist",
        folder="mnist_split2",
        test=4861,
        train=29404,
        licence=PUBLIC_MNIST,
        where=MNIST_SITE,
    ),
    "fashionmnist": Dataset(
        title="Fashion-MNIST",
        classes=10,
        kind="idx",
        folder="fashion-mnist",
        test=10000,
        train=60000,
        licence="MIT",
        where="https://github.com/zalandoresearch/fashion-mnist or torchvision",
        torchvision=("FashionMNIST", BY_FLAG),
        aliases=("fashion_mnist", "fashion"),
    ),
    "custom3d": Dataset(
        title="40 rendered objects",
        classes=40,
        kind="folder",
        folder="custom3D",
        train=1200,
        test=240,
        licence=UNSTATED,
        where="https://github.com/ansuini/IntrinsicDimDeep",
        notes="36 views each: 30 train, 6 test",
    ),
    "malaria": Dataset(
        title="Malaria cell images",
        classes=2,
        kind="folder",
        folder="malaria",
        licence="public domain (US NIH)",
        where="https://lhncbc.nlm.nih.gov/LHC-research/LHC-projects/image-processing/malaria-datasheet.html",
        notes="13,779 images of each class",
        aliases=("cell_images",),
    ),
    "pets": Dataset(
        title="Oxford-IIIT-Pet, 80/20 by class",
        classes=37,
        kind="folder",
        folder="pets",
        licence="CC BY-SA 4.0",
        where="https://www.robots.ox.ac.uk/~vgg/data/pets/",
        aliases=("oxford-pets",),
        notes="sort images/*.jpg into folders by the name before the last underscore",
        faults="the original split follows the order of a directory listing, which differs between "
        "machines",
    ),
    # what the pre-trained sources were trained on
    "imagenet": Dataset(
        title="ImageNet 2012",
        classes=1000,
        kind="folder",
        folder="imagenet",
        train=1281167,
        test=50000,
        licence=RESEARCH,
        where="https://image-net.org/download.php",
        aliases=("ilsvrc2012", "imagenet-1k"),
    ),
    "places365": Dataset(
        title="Places365",
        classes=365,
        kind="folder",
        folder="places365",
        train=1803460,
        test=36500,
        licence=RESEARCH,
        where="http://places2.csail.mit.edu/download.html",
    ),
    "vggface": Dataset(
        title="VGG-Face",
        classes=2622,
        kind="folder",
        folder="vggface",
        licence=RESEARCH,
        where="https://www.robots.ox.ac.uk/~vgg/data/vgg_face/",
        notes="published as a list of addresses",
    ),
    "cars": Dataset(
        title="Stanford Cars",
        classes=196,
        kind="folder",
        folder="stanford-cars",
        train=8144,
        test=8041,
        licence=RESEARCH,
        where="https://ai.stanford.edu/~jkrause/cars/car_dataset.html",
        aliases=("stanfordcars",),
        notes="the head of the published network has 164 classes",
    ),
    "segnet": Dataset(
        title="CamVid, SegNet's training set",
        classes=11,
        kind="folder",
        folder="camvid",
        licence=RESEARCH,
        where="http://mi.eng.cam.ac.uk/research/projects/VideoRec/CamVid/",
        notes="labels are per pixel",
    ),
    # lane following by a toy car
    "self-driving": Dataset(
        title="Self-driving lane following",
        classes=3,
        kind="npy",
        folder="self-driving",
        train=56172,
        test=7022,
        licence=UNSTATED,
        where="https://github.com/paulaksm/self_driving_data",
        aliases=("self_driving_data", "lane"),
        notes="{train,valid,test}_data.npy (N, 10800) uint8 = 45 x 80 x 3 and _labels.npy: 0 "
        "forward, 1 left, 2 right",
        faults="the published test set was balanced by an unseeded draw (3 x 1,362 of 7,022)",
    ),
}


def _plain(name: str) -> str:
    """Return a name without what its spellings differ in: case and separators."""
    return "".join(c for c in name.lower() if c.isalnum())


def _spellings() -> dict[str, str]:
    return {
        _plain(spelling): key
        for key, row in DATASETS.items()
        for spelling in (key, row.folder, *row.aliases)
    }


SPELLINGS = _spellings()


def key_of(name: str) -> str | None:
    """Return the key in DATASETS of a name in any of its spellings.

    None if it is no data set's.
    """
    return SPELLINGS.get(_plain(name))


def known(name: str) -> Dataset:
    """Return the row of a name.

    Raises UnknownNameError with the nearest one.
    """
    key = key_of(name)
    if key is None:
        raise UnknownNameError(
            "dataset", name, DATASETS, remedy="or give the path of an image folder, as ./name"
        )
    return DATASETS[key]
