"""A whole feature-extraction sweep beside a plain loop that extracts and fits anew for every trial.

    python tests/benchmarks/feature_extraction.py FOLDER [--shots 1,5,10] [--splits 5] [--rounds 5]

Both start with decoded images absent, use one thread, the same network (EfficientNet-Lite0 at 96 px, blocks pooled),
the same splits, embedding (FNE) and classifiers, and the same images per forward pass. The plain loop reads images with
torchvision's loader and Pillow, forwards the training and the test images of each trial, and fits scikit-learn's
estimator on the features as they are. Rounds alternate; medians are of whole sweeps.
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
from PIL import Image

from tlx.data import datasets, splits
from tlx.features import classifiers, embedding, fitting, voting
from tlx.lab.settings import Settings
from tlx.models import activations
from tlx.report import studies
from tlx.trials import inputs, study
from tlx.trials.feature_extraction import FeatureExtraction, Sweep
from tlx.trials.fewshot import FewShot

SIZE, BATCH = 96, 64


class Files(torch.utils.data.Dataset):
    def __init__(self, paths):
        self.paths = paths

    def __len__(self):
        return len(self.paths)

    def __getitem__(self, i):
        with Image.open(self.paths[i]) as image:
            pixels = np.asarray(image.convert("RGB").resize((SIZE, SIZE), Image.Resampling.LANCZOS))
        return torch.from_numpy(pixels.copy()).permute(2, 0, 1).float().div(255).sub(0.5).div(0.5)


@torch.inference_mode()
def features(network, paths):
    tap = activations.Capture(network, list(range(1, len(network.blocks) + 1)), reduce="pooled")
    parts = [tap(x) for x in torch.utils.data.DataLoader(Files(paths), batch_size=BATCH)]
    return torch.cat([torch.cat(list(found.values()), dim=1) for found in parts]).numpy()


def plain(asked, folder, names, few, settings):
    """Every trial by itself: extract train and test, embed, fit, score."""
    network = inputs.whole_network(asked, asked.layers, None)
    root = datasets.locate(asked.dataset, settings.cache_folder).root
    find, found = partial(splits.find, root=root), {}
    where = {label: number for number, label in enumerate(folder.classes)}
    for shots in few.shots:
        for split in folder.draws(shots)[: few.splits]:
            for name in names:
                rows = (folder.train(shots, split), folder.test)
                train, test = (features(network, [find(row) for row in part]) for part in rows)
                y, truth = (np.array([where[row.label] for row in part]) for part in rows)
                fitted = embedding.FNE().fit(train)
                model = fitting.fit(classifiers.classifier(name), fitted.transform(train), y)
                counts = voting.confusion(truth, model.predict(fitted.transform(test)), len(where))
                found[shots, split, name] = voting.mean_per_class_accuracy(counts)
    return found


def ours(asked, names, few, settings):
    made, _ = inputs.feature_extraction_study(asked, few, Sweep(classifier=" ".join(names)), settings)
    report = study.perform(made, settings, lambda event: None, studies.summarise)
    return {(r.spec["shots"], r.spec["split"], r.spec["classifier"]): r.scores["test_accuracy"]
            for r in report.results}


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("folder")
    options.add_argument("--shots", default="1,5,10")
    options.add_argument("--splits", type=int, default=5)
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--classifiers", default="linear-svc ridge knn ncm logistic")
    given = options.parse_args()
    torch.set_num_threads(1)
    asked = FeatureExtraction(architecture="efficientnet-lite0", dataset=given.folder, input_size=SIZE, use_crops=False)
    few = FewShot(shots=tuple(map(int, given.shots.split(","))), splits=given.splits)
    names = Sweep(classifier=given.classifiers).classifiers
    took: dict[str, list[float]] = {"plain": [], "tlx": []}
    for number in range(given.rounds):
        base = Path(tempfile.mkdtemp())
        settings = Settings(cache=str(base), store=str(base / "runs"), tracking=False, workers=0, device="cpu",
                            system_metrics=False)
        found = inputs.look_at_features(asked, few, settings, keep=False)  # draws the splits, for both
        began = time.perf_counter()
        theirs = plain(asked, found.splits, names, few, settings)
        middle = time.perf_counter()
        mine = ours(asked, names, few, settings)
        took["plain"].append(middle - began)
        took["tlx"].append(time.perf_counter() - middle)
        worst = max(abs(theirs[key] - mine[key]) for key in theirs)
        print(f"round {number + 1}: plain {took['plain'][-1]:.1f} s, tlx {took['tlx'][-1]:.1f} s, {len(mine)} trials, "
              f"largest difference in accuracy {worst:.4f}", flush=True)
        shutil.rmtree(base)
    a, b = (statistics.median(took[side]) for side in ("plain", "tlx"))
    print(f"medians: plain {a:.1f} s, tlx {b:.1f} s, ratio {a / b:.1f}")


if __name__ == "__main__":
    main()
