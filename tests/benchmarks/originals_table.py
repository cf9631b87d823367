"""Every row of docs/reference/originals.md that is a command, run once, small.

    python tests/benchmarks/originals_table.py FOLDER [WORDS]

WORDS chooses the rows whose first cell has them. Each command is the row's, with options behind it
that make it small, on scikit-learn's digits, the real data in $TLX_TEST_DATA, and stand-ins where
nobody here has the data or the weights: ImageNet's layout with CIFAR-10 images, random VGG16 in
Keras' file. Exit code, seconds and the main figure are printed, and kept in
FOLDER/originals_table.csv; whole outputs are in FOLDER/outputs. A test compares ROWS and OTHERS
with the page.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

DATA = Path(os.environ.get("TLX_TEST_DATA", Path(__file__).resolve().parents[3] / "shared/data"))
PAGE = Path(__file__).resolve().parents[2] / "docs" / "reference" / "originals.md"
LIMIT_S = 300
QUIET = "--figures none --workers 1"
FEW = f"--dataset digits --shots 2 --splits 1 --no-use-crops {QUIET}"
NET = f"--val-per-class 5 --epochs 1 {QUIET}"
DISTANCES = r"[^\n]*mean T of the layers[^\n]*"
MEAN = r"[^\n]*(?:test|val\w*) accuracy \d\.\d+[^\n]*"
GATE = r"block [^\n]*  0\.\d{4} +0\.\d+[^\n]*"


@dataclass(frozen=True)
class Row:
    """Commands of one row.

    original  its first cell, as on the page
    commands  words behind `tlx`, one after the other; {name}: data of `prepare`
    figure    regular expression of the main figure in what the last one prints
    """

    original: str
    commands: tuple[str, ...]
    figure: str = r"[^\n]+"


TRADE_OFF = (
    Row(
        "`feature_extraction.py --model WEIGHTS DESCRIPTION`",
        (
            "feature-extraction --architecture vgg16 --model keras/vgg16_notop.h5 model_conv.json "
            f"--classifier LinearSVC --dataset photos --shots 2 --splits 1 --input-size 64 {QUIET}",
        ),
        MEAN,
    ),
    Row(
        "`--classifier LinearSVC`, `SVC`, `SGDClassifier`, `KNN`, `XGBoost`",
        (
            f"feature-extraction --classifier LinearSVC {FEW}",
            f"feature-extraction --classifier SVC {FEW}",
            f"feature-extraction --classifier SGDClassifier {FEW}",
            f"feature-extraction --classifier knn:k=5 {FEW}",
        ),
        MEAN,
    ),
    Row(
        "`--use-crops`, `--precomputed-crops PATH`",
        (
            "crops cropped --dataset photos --size 28",
            "feature-extraction --use-crops --precomputed-crops cropped --dataset photos "
            f"--classifier KNN --shots 2 --splits 1 {QUIET}",
        ),
        MEAN,
    ),
    Row(
        "`--split-path`, `--splits`, `--model-selection`, `--job`",
        (
            "splits draw csvs --dataset photos --shots 1,2 --splits 2 --val-per-class 2",
            "feature-extraction --split-path csvs --splits 2 --model-selection --job 3 "
            f"--dataset photos --classifier KNN --no-use-crops {QUIET}",
        ),
        MEAN,
    ),
    Row(
        "`--mlflow-path`",
        (f"feature-extraction --mlflow-path records.db --classifier KNN {FEW}",),
        r"[^\n]*(?:records\.db|mlflow)[^\n]*",
    ),
    Row(
        "`fine_tuning.py --architecture VGG16 --source ImageNet`",
        (
            "fine-tuning --architecture VGG16 --source ImageNet --model keras --dataset photos "
            f"--shots 2 --splits 1 --no-use-crops --epochs 1 --input-size 64 {QUIET}",
        ),
        MEAN,
    ),
    Row(
        "Keras weights of VGG16, ResNet50, ResNet152 for ImageNet and Places365",
        (
            "fine-tuning --architecture VGG16 --source Places365 --model keras --dataset photos "
            f"--shots 2 --splits 1 --no-use-crops --epochs 1 --input-size 64 {QUIET}",
        ),
        MEAN,
    ),
    Row(
        "`--configuration 0…3`, `--optimizer sgd`, `adam`, `--learning-rate`, `--weight-decay`, "
        "`--momentum`, `--epochs`, `--batch-size`",
        (
            "fine-tuning --architecture VGG16 --configuration 3 --optimizer adam --learning-rate "
            "0.001 --weight-decay 1e-4 --momentum 0.9 --epochs 1 --batch-size 8 --model keras "
            f"--dataset photos --shots 2 --splits 1 --no-use-crops --input-size 64 {QUIET}",
        ),
        MEAN,
    ),
    Row(
        "full-network embedding, standardised per set",
        (f"feature-extraction --standardize per-set --classifier LinearSVC {FEW}",),
        MEAN,
    ),
    Row(
        "vote of ten crops, ties to the class seen first",
        (
            "fine-tuning --vote majority --dataset photos --shots 2 --splits 1 --epochs 1 "
            f"--use-crops {QUIET}",
        ),
        MEAN,
    ),
    Row(
        "split CSVs of ten data sets",
        (
            "feature-extraction --split-path csvs --dataset photos --classifier SVC --shots 1 "
            f"--splits 1 --no-use-crops {QUIET}",
        ),
        MEAN,
    ),
    Row(
        "names of the ten data sets (`caltech101`, `cub200`, `textures`, …)",
        ("datasets",),
        r"caltech101[^\n]*",
    ),
    Row(
        "parameters and metrics in MLflow",
        (
            "fine-tuning --mlflow-path records.db --dataset digits --shots 1 --splits 1 "
            f"--no-use-crops --epochs 1 {QUIET}",
        ),
        MEAN,
    ),
    Row(
        "model descriptions `model_25` … `model_100` of VGG16",
        (
            "feature-extraction --architecture vgg16 --model keras/vgg16_notop.h5 --layers "
            "11,12,13 --classifier KNN --dataset photos --shots 2 --splits 1 --no-use-crops "
            f"--input-size 64 {QUIET}",
        ),
        MEAN,
    ),
)
CHAIN = (
    "--seeds 1 --epochs 1 --fine-tune-epochs 1 --checkpoints 0,0_3,1 --from-checkpoints 0,last "
    "--fine-tune-checkpoints 0,0_3,1 --train-per-class 40 --fine-tune-per-class 20 "
    f"--val-per-class 10 --samples 100 --resamplings 5 {QUIET}"
)
AREA = r"(?:mnist_noise|fashionmnist|mnist|random) +0\.\d+[^\n]*"
LAYERS = f"--samples 100 --resamplings 5 {QUIET}"
VGG = "--input-size 32 --bs 8 --val-per-class 2 --epochs 1"
THESIS = (
    Row(
        "`train.py --dataset mnist --epochs 100 --bs 64 --lr 0.0001`",
        (
            "pretrain --dataset mnist:{mnist} --epochs 1 --bs 64 --lr 0.0001 --seed 1 "
            f"--checkpoints 0,0_10,1 --out pre_mnist.safetensors {QUIET}",
        ),
        MEAN,
    ),
    Row(
        "ten seeds, twelve checkpoints, fine-tuning of each",
        (
            "checkpoints --protocol thesis --sources mnist:{mnist},random "
            f"--targets fashionmnist:{{fashion}} {CHAIN}",
        ),
        AREA,
    ),
    Row(
        "normalisation and batch size of each data set; frozen layers",
        (
            "checkpoints --data-values thesis --sources mnist_noise:{mnist} --targets "
            f"mnist:{{mnist}} {CHAIN}",
            "checkpoints --data-values thesis --freeze 2 --sources mnist_noise:{mnist} --targets "
            f"mnist:{{mnist}} {CHAIN}",
        ),
        AREA,
    ),
    Row(
        "`finetune.py --pre_dataset fashionmnist --dataset mnist`",
        (
            "checkpoints --pre_dataset fashionmnist:{fashion} --dataset mnist:{mnist} "
            f"--run_name ft_fashionmnist_mnist --out frames {CHAIN}",
        ),
        AREA,
    ),
    Row(
        "`extract.py --trained_on mnist --dataset fashionmnist --model_folder all`",
        (
            "extract --trained_on mnist --dataset fashionmnist:{fashion} --model_folder all "
            "--part test --samples 100 --layers thesis --reduce flat --extracted "
            "fashionmnist_extracted.pt",
        ),
        r"written to [^\n]*",
    ),
    Row(
        "`analyze.py`: sum of squares, RSA, intrinsic dimension",
        (f"analyze mnist --dataset fashionmnist:{{fashion}} {LAYERS}",),
        r"[^\n]*fc2:log_softmax[^\n]*",
    ),
    Row(
        "data sets `mnist2class`, `mnist_noise`, `mnist_noise_struct`, `mnist_split1`, "
        "`mnist_split2`",
        tuple(
            f"analyze mnist --dataset {name}:{{mnist}} {LAYERS}"
            for name in (
                *("mnist2class", "mnist_noise", "mnist_noise_struct"),
                *("mnist_split1", "mnist_split2"),
            )
        ),
        r"[^\n]*fc2:log_softmax[^\n]*",
    ),
    Row(
        "`custom3D`, `Malaria`, `Pets`",
        tuple(
            f"pretrain --dataset {name}:{{photos}} --architecture mnist-cnn --val-per-class 2 "
            f"--epochs 1 {QUIET}"
            for name in ("custom3d", "malaria", "pets")
        ),
        MEAN,
    ),
    Row(
        "sources `places365`, `vggface`, `cars`, `segnet`, VGG19 of CIFAR-10",
        (
            "analyze cars.pth --architecture vgg16 --dataset photos --layers thesis "
            f"--input-size 32 --samples 0 --resamplings 5 {QUIET}",
            "analyze segnet.pth --architecture vgg16_bn --dataset photos --layers thesis "
            f"--input-size 32 --samples 0 --resamplings 5 {QUIET}",
        ),
        r"[^\n]*(?:features\.43|classifier\.6:relu)[^\n]*",
    ),
    Row(
        "VGG's training: rate times 0.1 every 20 epochs",
        (f"pretrain --recipe thesis-vgg --dataset pets:{{photos}} {VGG} {QUIET}",),
        MEAN,
    ),
    Row(
        "VGG's fine-tuning (`finetune_vgg16.py`): last convolution and dense layers drawn anew and "
        "trained, all else frozen, two rates, ×0.1 every 20 epochs",
        (
            "layer-transfer --recipe thesis-vgg --model vgg16.pth --dataset pets:{photos} "
            f"--repeats 1 {VGG} {QUIET}",
            "fine-tuning --recipe thesis-vgg --model vgg16.pth --dataset photos --shots 2 "
            f"--splits 1 {VGG} {QUIET}",
        ),
        MEAN,
    ),
    Row(
        "`<target>_extracted.pt`",
        (
            "extract --trained-on mnist --dataset digits --part all --samples 100 --layers thesis "
            "--reduce flat --extracted digits_extracted.pt",
        ),
        r"written to [^\n]*",
    ),
    Row(
        "correlation dictionaries (`dill`)",
        (f"analyze mnist --dataset fashionmnist:{{fashion}} --corr-dict dicts {LAYERS}",),
        r"dissimilarities: [^\n]*",
    ),
    Row(
        "data frames `df_<run>`, `df_pre_<ds>+metrics`; `<run>_train_stats.json`",
        (
            "checkpoints --pre_dataset fashionmnist:{fashion} --dataset mnist:{mnist} "
            f"--out frames {CHAIN}",
        ),
        AREA,
    ),
    Row(
        "`model_<run>_<tag>.pt`",
        (f"analyze models/mnist/models_1 --dataset mnist:{{mnist}} {LAYERS}",),
        r"[^\n]*fc2:log_softmax[^\n]*",
    ),
    Row(
        "`--run_name pre_mnist`",
        (f"pretrain --run_name pre_digits --dataset digits {NET}",),
        MEAN,
    ),
)
GATES = f"--val-per-class 5 --train-per-class 20 --test-per-class 10 {QUIET}"
QUANTA = (
    Row(
        "`start_expe --outdir=OUT --repeat=30 --layer=5 --targetTask=cifar10 --seed=1`",
        (
            "quanta --architecture quanta-cnn --outdir=OUT --repeat=1 --layer=5 "
            "--targetTask={cifar} --seed=1 --epochs 1 --source-dataset {cifar} --source-epochs 1 "
            f"{GATES}",
        ),
        GATE,
    ),
    Row(
        "`transfer.py -s TASK -sw W -t TASK -l -1 -r 5 --nb_of_epochs 60`",
        (f"quanta -sw pre_mnist.safetensors -t digits -l -1 -r 1 --nb_of_epochs 1 {GATES}",),
        GATE,
    ),
    Row(
        "`--nb_of_samples`",
        (
            "quanta --dataset digits --positions 0 --repeats 1 --epochs 1 --train-per-class 10 "
            f"--test-per-class 10 --val-per-class 5 {QUIET}",
        ),
        GATE,
    ),
    Row(
        "`--augment_data`",
        (
            f"quanta --augment_data --dataset digits --positions 0 --repeats 1 --epochs 1 {GATES}",
            f"quanta --augment 2020 --dataset digits --positions 0 --repeats 1 --epochs 1 {GATES}",
        ),
        GATE,
    ),
    Row(
        "`--show_only_build`",
        (
            "quanta --show_only_build --architecture quanta-cnn --source-dataset digits --dataset "
            f"{{cifar}} --repeats 1 {GATES}",
        ),
        r"head [^\n]*",
    ),
    Row(
        "`--train_from_previous_training`",
        (f"quanta --dataset digits --positions 0 --repeats 2 --epochs 1 {GATES}",),
        GATE,
    ),
    Row(
        "`train_source_model.py`",
        (
            "quanta --source-dataset digits --dataset {cifar} --architecture quanta-cnn "
            f"--positions 0 --repeats 1 --epochs 1 --source-epochs 1 {GATES}",
        ),
        GATE,
    ),
    Row(
        "gate at one layer, at all at once, sigmoid form, gradient multiplier",
        (
            "quanta --positions 1,co --quanta-form sigmoid --multiplier 50 --dataset digits "
            f"--repeats 1 --epochs 1 {GATES}",
        ),
        GATE,
    ),
    Row(
        "network of 2020 and of later versions",
        (
            "quanta --architecture quanta-cnn-2020 --source-dataset {cifar} --dataset {cifar} "
            f"--positions 0 --repeats 1 --epochs 1 --source-epochs 1 {GATES}",
        ),
        GATE,
    ),
    Row(
        "`r.txt`, `r_raw.txt`, `training_metrics_of_target_r.txt`, "
        "`testing_metrics_of_target_r.txt`, `expe_summary.txt`, JSON lines",
        (f"quanta --export OUT2 --dataset digits --positions 0 --repeats 1 --epochs 1 {GATES}",),
        GATE,
    ),
    Row(
        "`.h5` and `.keras` models",
        (
            "quanta --architecture quanta-cnn --model SourceModel.h5 --dataset {cifar} --positions "
            f"0 --repeats 1 --epochs 1 {GATES}",
        ),
        GATE,
    ),
)
MOBILE = "--architecture mobilenet-v1-0.25 --input-size 64 --batch-size 8"
TRANSFER = (
    Row(
        "`selffer-network.py --n_freeze 3 --base baseB.h5` (BnB)",
        (
            f"layer-transfer --treatments BnB --n_freeze 3 --dataset photos --repeats 1 {MOBILE} "
            f"--source default --val-per-class 2 --epochs 1 {QUIET}",
        ),
        MEAN,
    ),
    Row(
        "`transfer-network.py --n_freeze 3` (AnB), `-finetune.py --n_copy 3` (AnB+)",
        (f"layer-transfer --treatments AnB,AnB+ --depths 3 --dataset digits --repeats 1 {NET}",),
        MEAN,
    ),
    Row(
        "frozen batch norm with the statistics of the batch (Keras up to 2.2)",
        (
            "layer-transfer --architecture resnet20-cifar --bn keras2 --dataset {cifar} --depths 3 "
            f"--treatments AnB --repeats 1 --train-per-class 20 {NET}",
        ),
        MEAN,
    ),
    Row(
        "`part-transfer.py` (chop at n)",
        (f"chop --depths 2 --dataset digits --repeats 1 --out small.safetensors {NET}",),
        MEAN,
    ),
    Row(
        "`iterative-pruning.py -keep_iter 0.7 -iter 5`",
        (f"prune -keep_iter 0.7 -iter 2 --dataset digits --repeats 1 {NET}",),
        MEAN,
    ),
    Row(
        "its dense network 10800-1333-200-3",
        (
            "prune --architecture dense-1333-200 --source random --dataset frames --repeats 1 "
            f"--iterations 1 {NET}",
        ),
        MEAN,
    ),
    Row(
        '`eval-batch.py -model M -data D`, `eval-balan-mobilenet.py` ("equals")',
        (
            "evaluate mobilenet.h5 --architecture mobilenet-v1 --dataset frames --balance equals "
            f"--input-size 64 {QUIET}",
        ),
        r"mobilenet\.h5[^\n]*",
    ),
    Row(
        "`train_data.npy`, `train_labels.npy` of frames",
        (f"pretrain --dataset frames --architecture mnist-cnn {NET}",),
        MEAN,
    ),
    Row(
        "resizing by nearest neighbour",
        (
            "layer-transfer --sizing nearest --dataset photos --source default --treatments AnB "
            f"--depths 1 --repeats 1 --val-per-class 2 --epochs 1 {QUIET}",
        ),
        MEAN,
    ),
    Row(
        "`all_experiments.csv`",
        (
            "layer-transfer --dataset digits --treatments AnB,BnB --depths 1,2 --repeats 1 "
            f"--export nets {NET}",
        ),
        MEAN,
    ),
    Row(
        "MobileNet v1, learning-rate decay, early stopping on accuracy, last weights",
        (
            "layer-transfer --recipe mobilenet --model mobilenet.h5 --dataset frames --depths 3 "
            f"--treatments AnB --repeats 1 --input-size 64 --bs 16 {NET}",
        ),
        MEAN,
    ),
    Row(
        "`A3B-mobilenet.h5`, `B3B-…`, `A3B+-…`",
        (
            "layer-transfer --architecture mobilenet-v1 --model mobilenet.h5 --dataset frames "
            "--treatments AnB,BnB,AnB+ --depths 3 --repeats 1 --input-size 64 --bs 16 "
            f"--export nets {NET}",
            f"evaluate nets/A3B-mobilenet.safetensors --dataset frames {QUIET}",
        ),
        r"A3B-mobilenet\.safetensors[^\n]*",
    ),
)
NETWORKS = {
    "resnet34": "resnet34",
    "densenet121": "densenet121",
    "vit_small": "timm:vit_small_patch16_224",
}
DISTANCE = (
    Row(
        "`pretrain_on_ImageNet.py --max_epoch 120 --batch_size 256 --lr 0.1 -r R.pth -a A.pth`",
        (
            "pretrain --recipe imagenet --dataset imagenet:{imagenet} -r R.pth --out A.pth "
            f"--max_epoch 1 --batch_size 16 --input-size 64 --val-per-class 2 {QUIET}",
        ),
        MEAN,
    ),
    Row(
        "`finetune.py -a A.pth --max_epoch 100 --batch_size 128 --lr 0.01`",
        (
            "parameter-distance --recipe finetune -a A.pth -r R.pth --architecture resnet50 "
            "--dataset photos --max_epoch 1 --batch_size 16 --input-size 64 --val-per-class 2 "
            f"--seeds 1 {QUIET}",
        ),
        DISTANCES,
    ),
    Row(
        "`cal_transferability.py -r R -a A -b B --num_classes 10`",
        (
            "pretrain --recipe imagenet --dataset imagenet:{imagenet} --seed 1 --out B.pth "
            f"--max_epoch 1 --batch_size 16 --input-size 64 --val-per-class 2 {QUIET}",
            f"parameter-distance -r R.pth -a A.pth -b B.pth --num_classes {{classes}} {QUIET}",
        ),
        DISTANCES,
    ),
    Row(
        "mean absolute difference, ratio of layers, mean of the first 17",
        (f"parameter-distance -r R.pth -a A.pth -b B.pth --norms all {QUIET}",),
        DISTANCES,
    ),
    Row(
        "profile of ResNet-50 on CIFAR-10",
        ("parameter-distance -r R.pth -a A.pth -b B.pth --figures study --workers 1",),
        DISTANCES,
    ),
    Row(
        "table of twelve data sets and its regression",
        ("regression --out regression",),
        r"log N[^\n]*",
    ),
    Row(
        "ResNet-50, ResNet-34, DenseNet-121, ViT-small",
        tuple(
            f"parameter-distance -r {name}-R.pth -a {name}-A.pth -b {name}-B.pth --architecture "
            f"{architecture} {QUIET}"
            for name, architecture in NETWORKS.items()
        ),
        DISTANCES,
    ),
)
ROWS = (*TRADE_OFF, *THESIS, *QUANTA, *TRANSFER, *DISTANCE)
OTHERS = {  # first cell → why nothing is run
    "raw pixels without normalisation as input of VGG16": "not here",
    "TensorBoard": "not here",
    "heads drawn anew before they are compared": "not here",
    "log and validation intervals": "not here",
}


def first_cells(page: Path = PAGE) -> list[str]:
    """Return the first cell of every row of the page's tables."""
    lines = [line for line in page.read_text(encoding="utf-8").split("\n") if line[:2] == "| "]
    cells = [line.removeprefix("| ").partition(" | ")[0] for line in lines]
    return [cell for cell in cells if cell != "original"]


# ---------------------------------------------------------------- data and stand-ins


def prepare(folder: Path) -> dict[str, str]:
    """Write the data and weights that the commands name; return those that they name by path."""
    import numpy as np
    import torch

    cifar = DATA / "cifar10-mini"
    copies(cifar, folder / "photos", classes=3, train=12, test=6)
    copies(cifar, folder / "imagenet", classes=4, train=12, test=6, held="val", ending=".JPEG")
    rng = np.random.default_rng(0)
    write_frames(folder / "frames", rng)
    torch.manual_seed(0)
    write_torch(folder)
    write_keras(folder, rng)
    names = [f"block{b}_conv{c}/Relu:0" for b, c in ((4, 3), (5, 1), (5, 3))]
    description = {"description": "convolutions", "input_reshape": [], "input_tensor": "input_2:0"}
    text = json.dumps(description | {"target_tensors": names})
    (folder / "model_conv.json").write_text(text, encoding="utf-8")
    return {
        "mnist": str(DATA / "mnist5k"),
        "fashion": str(DATA / "fashion-mnist"),
        "cifar": str(cifar),
        "photos": str(folder / "photos"),
        "imagenet": str(folder / "imagenet"),
        "classes": "4",
    }


def copies(
    source: Path,
    folder: Path,
    *,
    classes: int,
    train: int,
    test: int,
    held: str = "test",
    ending: str = ".jpg",
) -> None:
    """Write a small image folder root/<split>/<class>/<image> of a larger one."""
    chosen = sorted(path.name for path in (source / "train").iterdir())[:classes]
    for part, of, count in (("train", "train", train), (held, "test", test)):
        for name in chosen:
            (folder / part / name).mkdir(parents=True, exist_ok=True)
            for path in sorted((source / of / name).iterdir())[:count]:
                shutil.copyfile(path, folder / part / name / f"{path.stem}{ending}")


def write_frames(folder: Path, rng: object) -> None:
    """Write frames of 45 × 80 as the original's arrays: brighter where one has to steer."""
    import numpy as np

    folder.mkdir(exist_ok=True)
    for part, count in (("train", 90), ("valid", 30), ("test", 45)):
        labels = np.arange(count) % 3
        frames = rng.integers(0, 120, (count, 45, 80, 3), dtype=np.uint8)  # type: ignore[attr-defined]
        for number, label in enumerate(labels):
            frames[number, :, 27 * label : 27 * label + 20] += 120
        np.save(folder / f"{part}_data.npy", frames.reshape(count, -1))
        np.save(folder / f"{part}_labels.npy", labels)


def write_torch(folder: Path) -> None:
    """Write random weights of torchvision's networks, and checkpoints of the thesis' CNN."""
    import torch
    import torchvision

    from tlx.models import backbones

    models = torchvision.models
    vgg16 = models.vgg16(num_classes=164).state_dict()
    torch.save(vgg16, folder / "cars.pth")
    torch.save(models.vgg16(num_classes=1000).state_dict(), folder / "vgg16.pth")
    encoder = models.vgg16_bn(num_classes=2).state_dict()
    encoder = {name: value for name, value in encoder.items() if name.startswith("features.")}
    torch.save(encoder, folder / "segnet.pth")
    for name, architecture in NETWORKS.items():
        for seed, state in enumerate("RAB"):
            net = backbones.load(architecture, weights=None, classes=10, seed=seed).net
            torch.save(net.state_dict(), folder / f"{name}-{state}.pth")
    for seed in (1, 2):
        parent = folder / "models" / "mnist" / f"models_{seed}"
        parent.mkdir(parents=True, exist_ok=True)
        for tag in ("0", "0_10", "1"):
            net = backbones.load("mnist-cnn", weights=None, classes=10, seed=seed).net
            torch.save(net.state_dict(), parent / f"model_pre_mnist_{tag}.pt")


def write_keras(folder: Path, rng: object) -> None:
    """Write random weights as Keras lays them out: VGG16 without top, MobileNet, QUANTA."""
    import h5py

    (folder / "keras").mkdir(exist_ok=True)
    widths = [64] * 2 + [128] * 2 + [256] * 3 + [512] * 6
    names = [f"block{b}_conv{c}" for b, n in enumerate((2, 2, 3, 3, 3), 1) for c in range(1, n + 1)]
    paths = [folder / "keras" / name for name in ("vgg16_notop.h5", "vgg16_places365_notop.h5")]
    for path in paths:
        channels = 3
        with h5py.File(path, "w") as file:
            for name, width in zip(names, widths, strict=True):
                put(file, name, rng, kernel=(3, 3, channels, width), bias=(width,))
                channels = width
    with h5py.File(folder / "mobilenet.h5", "w") as file:
        keras_mobilenet(file, rng)
    with h5py.File(folder / "SourceModel.h5", "w") as file:
        keras_source(file, rng)


def put(file: object, layer: str, rng: object, **shapes: tuple[int, ...]) -> None:
    """Write the variables of a layer: kernels small, variances and scales one, all else zero."""
    import numpy as np

    for name, shape in shapes.items():
        ones = name in ("gamma", "moving_variance")
        values = np.full(shape, float(ones), "f4")
        if "kernel" in name:
            spread = (2 / np.prod(shape[:-1])) ** 0.5
            values = rng.normal(0, spread, shape).astype("f4")  # type: ignore[attr-defined]
        file[f"{layer}/{layer}/{name}:0"] = values  # type: ignore[index]


def keras_mobilenet(file: object, rng: object) -> None:
    """Write MobileNet v1 of three classes."""
    norms = ("gamma", "beta", "moving_mean", "moving_variance")

    def norm(layer: str, width: int) -> None:
        put(file, layer, rng, **dict.fromkeys(norms, (width,)))

    put(file, "conv1", rng, kernel=(3, 3, 3, 32))
    norm("conv1_bn", 32)
    channels = 32
    widths = (64, 128, 128, 256, 256, *[512] * 6, 1024, 1024)
    for number, width in enumerate(widths, 1):
        put(file, f"conv_dw_{number}", rng, depthwise_kernel=(3, 3, channels, 1))
        norm(f"conv_dw_{number}_bn", channels)
        put(file, f"conv_pw_{number}", rng, kernel=(1, 1, channels, width))
        norm(f"conv_pw_{number}_bn", width)
        channels = width
    put(file, "conv_preds", rng, kernel=(1, 1, 1024, 3), bias=(3,))


def keras_source(file: object, rng: object) -> None:
    """Write the network of QUANTA for ten classes, with Keras' own names of layers."""
    norms = ("gamma", "beta", "moving_mean", "moving_variance")
    channels = 3
    for number, width in enumerate((64, 64, 128, 128, 256, 256)):
        end = f"_{number}" if number else ""
        put(file, f"conv2d{end}", rng, kernel=(3, 3, channels, width), bias=(width,))
        put(file, f"batch_normalization{end}", rng, **dict.fromkeys(norms, (width,)))
        channels = width
    put(file, "dense", rng, kernel=(16 * channels, 1024), bias=(1024,))
    put(file, "dense_1", rng, kernel=(1024, 10), bias=(10,))


# ---------------------------------------------------------------- running


@dataclass(frozen=True)
class Outcome:
    """Exit code, seconds and main figure of the commands of a row."""

    code: int
    seconds: float
    figure: str


def run(row: Row, folder: Path, named: dict[str, str]) -> Iterator[tuple[str, Outcome]]:
    """Run the commands of a row one after the other."""
    tlx = Path(sys.executable).with_name("tlx")
    environment = os.environ | {"TLX_STORE": str(folder / "runs"), "OMP_NUM_THREADS": "1"}
    for text in row.commands:
        words = shlex.split(re.sub(r"\{(\w+)\}", lambda match: named[match[1]], text))
        if words[0] not in ("crops", "datasets", "regression", "splits"):
            words += ["--allow-outside", str(DATA)]
            if "--mlflow-path" not in words and words[0] != "extract":
                words.append("--no-tracking")
        began = time.perf_counter()
        try:
            done = subprocess.run(
                [tlx, *words],
                cwd=folder,
                env=environment,
                capture_output=True,
                text=True,
                timeout=LIMIT_S,
            )
            code, said = done.returncode, done.stdout + done.stderr
        except subprocess.TimeoutExpired:
            code, said = 124, f"not done in {LIMIT_S} s"
        outputs = folder / "outputs"
        outputs.mkdir(exist_ok=True)
        number = len(list(outputs.iterdir()))
        (outputs / f"{number:03d}.txt").write_text(f"tlx {text}\n{said}", encoding="utf-8")
        yield text, Outcome(code, time.perf_counter() - began, figure_of(row, code, said))


def figure_of(row: Row, code: int, said: str) -> str:
    """Return the main figure of an output: the last that fits, or the last line of an error."""
    lines = said.rstrip().split("\n")
    if code:
        return next((line for line in lines if line.startswith("error")), lines[-1])[:300]
    matches = re.findall(row.figure, said)
    return " ".join((matches or lines)[-1].split())[:160]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("words", nargs="?", default="", help="rows whose first cell has them")
    given = parser.parse_args()
    folder = given.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    named = prepare(folder)
    failed = 0
    with open(folder / "originals_table.csv", "a", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        for row in ROWS:
            if given.words not in row.original:
                continue
            print(f"== {row.original}", flush=True)
            for command, outcome in run(row, folder, named):
                failed += outcome.code != 0
                shown = f"exit {outcome.code}  {outcome.seconds:6.1f} s  {outcome.figure}"
                print(f"   tlx {command}\n   {shown}", flush=True)
                writer.writerow(
                    [row.original, command, outcome.code, f"{outcome.seconds:.1f}", outcome.figure]
                )
                file.flush()
    print(f"{failed} commands failed" if failed else "all commands ended with 0")
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
