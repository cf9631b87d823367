"""Images per second of `extract` beside a plain `model(x)` loop, and its peak memory. Run by hand:

    python tests/benchmarks/extraction.py --backbone efficientnet-lite0 --images 512 --threads 2
    python tests/benchmarks/extraction.py --memory --gib 4
    python tests/benchmarks/extraction.py --kills 50

The plain loop is what one would write: torchvision's ImageFolder and DataLoader, its transforms,
the whole model, hooks that pool; same batch size, same threads. The two take turns; medians of the
rounds are compared. Extraction is timed twice: decoding included (the first time that images are
seen), and with pixels decoded before, as every further backbone, layer or view of the same images
finds them.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import resource
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torchvision import datasets, transforms

from tlx.data.pixels import pixels
from tlx.data.sizing import Sizing
from tlx.features.dump import ExtractionConfig
from tlx.features.extract import ExtractionContext, bytes_needed, extract
from tlx.models import backbones, layers


def draw(folder: Path, count: int, size: int) -> Path:
    """JPEGs with structure, so that decoding costs what it costs for photographs."""
    rng = np.random.default_rng(0)
    for number in range(count):
        label = folder / f"class{number % 4}"
        label.mkdir(parents=True, exist_ok=True)
        coarse = Image.fromarray(rng.integers(0, 256, (size // 8, size // 8, 3), dtype=np.uint8))
        coarse.resize((size * 4 // 3, size), Image.Resampling.BICUBIC).save(
            label / f"{number:05d}.jpg", quality=90
        )
    return folder


def plain(network, names, folder, batch, workers) -> float:
    """Seconds of the loop that one would write without tlx."""
    size = network.input_size
    view = transforms.Compose(
        [
            transforms.Resize((size, size)),
            transforms.ToTensor(),
            transforms.Normalize(network.mean, network.std),
        ]
    )
    loader = torch.utils.data.DataLoader(
        datasets.ImageFolder(folder, view), batch, num_workers=workers
    )
    found: dict[str, list[torch.Tensor]] = {name: [] for name in names}
    hooks = [
        network.net.get_submodule(name).register_forward_hook(
            lambda _m, _i, out, name=name: found[name].append(
                out.mean((2, 3)) if out.ndim == 4 else out.clone()
            )
        )
        for name in names
    ]
    network.eval()
    begun = time.perf_counter()
    with torch.no_grad():
        for x, _ in loader:
            network(x)
    taken = {name: torch.cat(parts).numpy() for name, parts in found.items()}
    seconds = time.perf_counter() - begun
    for hook in hooks:
        hook.remove()
    assert all(len(rows) == len(loader.dataset) for rows in taken.values())
    return seconds


def throughput(asked) -> dict:
    root = Path(tempfile.mkdtemp(prefix="extraction-"))
    folder = draw(root / "images", asked.images, asked.image_size)
    network = backbones.load(
        asked.backbone,
        weights=asked.weights,
        classes=1000,
        seed=0,
        head="keep" if asked.weights else "auto",
    )
    names = layers.resolve(network, asked.layers or [len(network.blocks)])
    paths = [Path(path) for path, _ in datasets.ImageFolder(folder).samples]
    sizing = Sizing(network.input_size, crops=False, channels=network.channels)
    how = ExtractionConfig(batch=asked.batch, fold=not asked.no_fold)
    times: dict[str, list[float]] = {"plain": [], "first": [], "again": []}
    for turn in range(asked.rounds + 1):
        cache, dumps = root / "cache", root / "dumps"
        seconds = {"plain": plain(network, names, folder, asked.batch, asked.workers)}
        begun = time.perf_counter()
        rows = pixels(paths, sizing, cache)
        decoded = time.perf_counter()
        extract(network, "benchmark", rows, names, ExtractionContext(dumps), how)
        seconds |= {"first": time.perf_counter() - begun, "again": time.perf_counter() - decoded}
        shutil.rmtree(cache)
        shutil.rmtree(dumps)
        for key, value in seconds.items() if turn else ():  # the first turn warms up
            times[key].append(value)
        print(
            {key: round(asked.images / value, 1) for key, value in seconds.items()},
            file=sys.stderr,
            flush=True,
        )
    shutil.rmtree(root)
    rate = {key: asked.images / statistics.median(value) for key, value in times.items()}
    return {
        "backbone": asked.backbone,
        "layers": list(names),
        "images": asked.images,
        "batch": asked.batch,
        "threads": asked.threads,
        "workers": asked.workers,
        "rounds": asked.rounds,
        "images_per_s": {key: round(value, 1) for key, value in rate.items()},
        "speed_up_first": round(rate["first"] / rate["plain"], 2),
        "speed_up_again": round(rate["again"] / rate["plain"], 2),
    }


class Noise:
    """Rows of pixels that need no memory of their own."""

    def __init__(self, count: int, size: int, channels: int):
        self.shape, self.crops, self.digest = (
            (count, 1, size, size, channels),
            1,
            f"noise of {count}",
        )

    def __len__(self) -> int:
        return self.shape[0]

    def take(self, rows):
        return np.stack([np.full(self.shape[2:], row % 251, np.uint8) for row in rows])

    def prefetch(self, rows) -> None:
        pass


def memory(asked) -> dict:
    """How far the peak of resident memory rises above the loaded model while a dump of that size is
    made.
    """
    network = backbones.load("resnet18", weights=None, classes=10, seed=0)
    how, names = ExtractionConfig(batch=asked.batch, reduce="flat"), ["layer1.0"]
    one = bytes_needed(network, names, 1, how)
    count = int(asked.gib * 2**30 / one)
    root = Path(tempfile.mkdtemp(prefix="extraction-"))
    warm = extract(
        network, "benchmark", Noise(asked.batch, 224, 3), names, ExtractionContext(root), how
    )
    warm.close()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    begun = time.perf_counter()
    dump = extract(network, "benchmark", Noise(count, 224, 3), names, ExtractionContext(root), how)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    result = {
        "rows": dump.rows,
        "gib": round(count * one / 2**30, 3),
        "seconds": round(time.perf_counter() - begun, 1),
        "warm_mib": before >> 20,
        "peak_mib": peak >> 20,
        "rise_mib": (peak - before) >> 20,
    }
    shutil.rmtree(root)
    return result


def kills(asked) -> dict:
    """SIGKILL whole processes of an extraction at random moments; what is made in the end, beside
    one left alone.
    """
    root, rng = Path(tempfile.mkdtemp(prefix="extraction-")), random.Random(asked.seed)
    folder = draw(root / "images", asked.images, 64)

    def start(cache):
        command = [
            sys.executable,
            "-m",
            "tlx",
            "extract",
            "--dataset",
            str(folder),
            "--architecture",
            asked.backbone,
            "--input-size",
            "96",
            "--use-crops",
            "--cache",
            str(root / cache),
            "--layers",
            "blocks",
            "--store",
            str(root / "runs"),
            "--device",
            "cpu",
        ]
        return subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )

    begun = time.perf_counter()
    assert start("left-alone").wait() == 0
    whole_s = time.perf_counter() - begun
    want = content(root / "left-alone" / "dumps")
    killed = made = 0
    while killed < asked.kills:
        process = start("killed")
        try:
            process.wait(timeout=rng.uniform(0.3 * whole_s, whole_s))
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            killed += 1
            continue
        assert process.returncode == 0, process.returncode
        assert content(root / "killed" / "dumps") == want, "another dump"
        made += 1
        shutil.rmtree(root / "killed")  # it was whole before the kills were spent: once more
    assert start("killed").wait() == 0
    assert content(root / "killed" / "dumps") == want, "another dump"
    shutil.rmtree(root)
    return {
        "kills": killed,
        "dumps made": made + 1,
        "seconds of one left alone": round(whole_s, 1),
        "files compared": len(want),
        "seed": asked.seed,
        "all equal": True,
    }


def content(dumps: Path) -> dict[str, str]:
    """Name → SHA-256 of every activation file."""
    return {
        path.relative_to(dumps).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(dumps.rglob("*.npy"))
    }


def main() -> None:
    asked = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    asked.add_argument("--backbone", default="efficientnet-lite0")
    asked.add_argument(
        "--weights", default=None, help='"default" for the backbone\'s own; random otherwise'
    )
    asked.add_argument("--layers", nargs="*", help="the last block unless given")
    asked.add_argument("--images", type=int, default=512)
    asked.add_argument(
        "--image-size", type=int, default=375, help="short side of the JPEGs, pixels"
    )
    asked.add_argument("--batch", type=int, default=64)
    asked.add_argument("--threads", type=int, default=2)
    asked.add_argument("--workers", type=int, default=0, help="of the plain loop's DataLoader")
    asked.add_argument("--rounds", type=int, default=5)
    asked.add_argument("--no-fold", action="store_true")
    asked.add_argument("--memory", action="store_true", help="measure memory instead of time")
    asked.add_argument("--gib", type=float, default=4.0)
    asked.add_argument(
        "--kills", type=int, default=0, help="kill so many times instead of measuring"
    )
    asked.add_argument("--seed", type=int, default=0, help="of the moments")
    given = asked.parse_args()
    torch.set_num_threads(given.threads)
    measured = kills if given.kills else memory if given.memory else throughput
    print(json.dumps(measured(given), indent=1))


if __name__ == "__main__":
    main()
