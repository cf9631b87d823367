"""A whole feature-extraction sweep beside a plain loop that extracts and fits anew for every trial.

    python tests/benchmarks/feature_extraction.py FOLDER [--shots 1,2,3,5,7,10] [--splits 5]
    [--crops] [--rounds 5]

Both start with decoded images absent and have the same number of threads (tlx as so many workers of
one thread), the same network (EfficientNet-Lite0, blocks pooled), splits, embedding (FNE) and
classifiers, and the same images per forward pass. The plain loop reads images with torchvision's
loader and Pillow, forwards the training and the test images of each trial, and fits scikit-learn's
estimator on the features as they are. It takes hours, so each round it does one split of every
shots, another split each round, and its time is multiplied by the number of splits: over as many
rounds as splits it does the whole sweep once. tlx does the whole sweep every round. Medians are of
sweeps.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import tempfile
import time
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from threadpoolctl import threadpool_limits
from torchvision.transforms import functional

from tlx.data import datasets, splits
from tlx.features import classifiers, embedding, fitting, voting
from tlx.lab.settings import Settings
from tlx.models import activations
from tlx.spec import derive_seed
from tlx.studies import activations as inputs
from tlx.studies import reporting, runner
from tlx.studies.feature_extraction import plan as feature_extraction_plan
from tlx.studies.feature_extraction.spec import FeatureExtraction, FeatureExtractionGrid
from tlx.studies.few_shot import FewShotGrid

BATCH = 64


class Files(torch.utils.data.Dataset):
    def __init__(self, paths, size, crops):
        self.paths, self.size, self.crops = paths, size, crops

    def __len__(self):
        return len(self.paths)

    def __getitem__(self, i):
        with Image.open(self.paths[i]) as file:
            image = ImageOps.exif_transpose(file).convert("RGB")
            if not self.crops:
                views = [image.resize((self.size, self.size), Image.Resampling.LANCZOS)]
            else:
                whole = image.resize((round(self.size * 256 / 224),) * 2, Image.Resampling.LANCZOS)
                views = functional.ten_crop(whole, self.size)
            pixels = np.stack([np.asarray(view) for view in views])
        return torch.from_numpy(pixels).permute(0, 3, 1, 2).float().div(255).sub(0.5).div(0.5)


@torch.inference_mode()
def features(network, paths, size, crops):
    tap = activations.Capture(network, list(range(1, len(network.blocks) + 1)), reduce="pooled")
    loader = torch.utils.data.DataLoader(
        Files(paths, size, crops), batch_size=max(1, BATCH // (10 if crops else 1))
    )
    parts = [tap(x.flatten(0, 1)) for x in loader]
    return torch.cat([torch.cat(list(found.values()), dim=1) for found in parts]).numpy()


def plain(asked, folder, names, few, settings, number):
    """Every trial of one split by itself: extract train and test, embed, fit, score."""
    network = inputs.whole_network(asked, asked.layers, None)
    root = datasets.locate(asked.dataset, settings.cache_folder).root
    find, found = partial(splits.find, root=root), {}
    where = {label: number for number, label in enumerate(folder.classes)}
    crops = 10 if asked.use_crops else 1
    for shots in few.shots:
        split = folder.draws(shots)[number % few.splits]
        for name in names[shots]:
            rows = (folder.train(shots, split), folder.test)
            train, test = (
                features(network, [find(row) for row in part], asked.input_size, asked.use_crops)
                for part in rows
            )
            y, truth = (np.array([where[row.label] for row in part]) for part in rows)
            fitted = embedding.FNE().fit(train)
            model = fitting.fit(
                classifiers.classifier(name),
                fitted.transform(train),
                np.repeat(y, crops),
                seed=derive_seed(asked.seed, "classifier") % 2**32,
            )
            decided = voting.per_image(
                model.scores(fitted.transform(test), classes=len(where)), crops
            )
            found[shots, split, name] = voting.mean_per_class_accuracy(
                voting.confusion(truth, decided, len(where))
            )
    return found


def ours(asked, sweep, few, settings):
    made, _ = feature_extraction_plan.feature_extraction_study(asked, few, sweep, settings)
    report = runner.run_stage(made, settings, lambda event: None, reporting.write_summary)
    return {
        (r.spec["shots"], r.spec["split"], r.spec["classifier"]): r.scores["test_accuracy"]
        for r in report.results
    }


def main() -> None:
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("folder")
    options.add_argument("--shots", default="1,2,3,5,7,10")
    options.add_argument("--splits", type=int, default=5)
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--size", type=int, default=96)
    options.add_argument("--threads", type=int, default=2)
    options.add_argument("--crops", action="store_true")
    options.add_argument("--classifiers", default="all")
    given = options.parse_args()
    torch.set_num_threads(given.threads)
    asked = FeatureExtraction(
        architecture="efficientnet-lite0",
        dataset=given.folder,
        input_size=given.size,
        use_crops=given.crops,
    )
    few = FewShotGrid(shots=tuple(map(int, given.shots.split(","))), splits=given.splits)
    sweep = FeatureExtractionGrid(classifier=given.classifiers)
    took: dict[str, list[float]] = {"plain": [], "tlx": []}
    for number in range(given.rounds):
        base = Path(tempfile.mkdtemp())
        settings = Settings(
            cache=str(base),
            store=str(base / "runs"),
            tracking=False,
            workers=given.threads,
            device="cpu",
            system_metrics=False,
        )
        found = feature_extraction_plan.look_at_features(
            asked, few, settings, keep=False
        )  # draws the splits, for both
        middle = time.perf_counter()
        mine = ours(asked, sweep, few, settings)
        took["tlx"].append(time.perf_counter() - middle)
        names = {
            shots: list(dict.fromkeys(name for k, _, name in mine if k == shots))
            for shots in few.shots
        }
        began = time.perf_counter()
        with threadpool_limits(given.threads):
            theirs = plain(asked, found.splits, names, few, settings, number)
        took["plain"].append((time.perf_counter() - began) * few.splits)
        worst = [abs(theirs[key] - mine[key]) for key in theirs]
        names_of = sorted({key[2] for key in theirs if theirs[key] != mine[key]})
        print(
            f"round {number + 1}: plain {took['plain'][-1]:.1f} s ({len(theirs)} trials × "
            f"{few.splits}), tlx "
            f"{took['tlx'][-1]:.1f} s, {len(mine)} trials; accuracies differ in "
            f"{np.count_nonzero(worst)} of "
            f"{len(worst)}, by {max(worst):.4f} at most {names_of}",
            flush=True,
        )
        shutil.rmtree(base)
    a, b = (statistics.median(took[side]) for side in ("plain", "tlx"))
    print(f"medians: plain {a:.1f} s, tlx {b:.1f} s, ratio {a / b:.1f}")


if __name__ == "__main__":
    main()
