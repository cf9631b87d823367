"""Served model: one torch module from the pixels of images to labels and probabilities.

    images (n, height, width, channels) uint8
      → scaled and normalised → crops by slicing and flipping → scores of every crop (n·c, k)
      → label (n,) int64 by the vote of the trial, probabilities (n, k) float32

The label is the trial's: the vote on the scores themselves. Probabilities are calibrated in two
steps: q is the mean over the crops of softmax(scores / T_crop), and p = softmax(log q / T_image),
because a mean over crops that disagree is less sure than it should be. Where another class than the
voted one has the largest p, the two are exchanged, so that the label is the likeliest class always.

Heads compute in float64 as scikit-learn does: a ternary feature next to its threshold, or two
neighbours equally far, must not be decided by rounding.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import UnknownNameError
from .activations import DTYPES, REDUCTIONS
from .layers import Layer, is_input, resolve, survey, tensor_of
from .network import Network
from .onnx_file import INPUT, OUTPUTS, Crop, missing_package

TINY = 1e-300  # a probability that underflowed still has a logarithm


# ---------------------------------------------------------------- votes


def majority(scores: Tensor) -> Tensor:
    """Return the class that most crops vote for; of several, the first among the crops.

    scores (n, c, k) → (n,) int64, as `voting.majority`.
    """
    ballots = scores.argmax(dim=2)
    votes = (ballots[:, :, None] == ballots[:, None, :]).double().sum(dim=2)
    first = votes.argmax(dim=1, keepdim=True)
    return ballots.gather(1, first).squeeze(1)


def mean_probability(scores: Tensor) -> Tensor:
    """Return the class of the largest softmax averaged over the crops: (n, c, k) → (n,) int64."""
    return scores.softmax(dim=2).mean(dim=1).argmax(dim=1)


VOTES = {"majority": majority, "mean-probability": mean_probability}


# ---------------------------------------------------------------- the whole


class Served(nn.Module):
    """Model from uint8 images to labels and probabilities.

    body         (n·c, channels, size, size) normalised float32 → scores (n·c, k)
    size         of a crop, in pixels
    crops        where each crop is in the input; [(0, 0, False)] for images without crops
    mean, std    per channel, of pixels scaled to 0-1
    vote         a row of VOTES
    temperatures (T_crop, T_image) of the probabilities
    """

    def __init__(
        self,
        body: nn.Module,
        *,
        size: int,
        crops: Sequence[Crop],
        mean: Sequence[float],
        std: Sequence[float],
        vote: str,
        temperatures: tuple[float, float] = (1.0, 1.0),
    ):
        super().__init__()
        if vote not in VOTES:
            raise UnknownNameError("vote", vote, VOTES)
        self.body, self.size, self.crops, self.vote = body, size, tuple(crops), vote
        self.temperatures = temperatures
        self.shift: Tensor
        self.scale: Tensor
        self.register_buffer("shift", torch.tensor(list(mean)).mul(255).view(1, -1, 1, 1))
        self.register_buffer("scale", torch.tensor(list(std)).mul(255).view(1, -1, 1, 1))

    def scores(self, images: Tensor) -> Tensor:
        """Return the scores of every crop, (n, c, k) float64."""
        x = (images.permute(0, 3, 1, 2).float() - self.shift) / self.scale
        rows = torch.stack([self._cut(x, *crop) for crop in self.crops], dim=1).flatten(0, 1)
        scores: Tensor = self.body(rows)
        by_image: Tensor = scores.double().unflatten(0, (-1, len(self.crops)))
        return by_image

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return (n,) int64 labels and (n, k) float32 probabilities of (n, h, w, ch) uint8."""
        scores = self.scores(images)
        label = VOTES[self.vote](scores)[:, None]
        of_crop, of_image = self.temperatures
        mean = (scores / of_crop).softmax(dim=2).mean(dim=1)
        probability = (mean.clamp(min=TINY).log() / of_image).softmax(dim=1)
        likeliest = probability.argmax(dim=1, keepdim=True)
        of_label, largest = probability.gather(1, label), probability.gather(1, likeliest)
        probability = probability.scatter(1, likeliest, of_label).scatter(1, label, largest)
        return label.squeeze(1), probability.float()

    def _cut(self, x: Tensor, top: int, left: int, mirrored: bool) -> Tensor:
        window = x[:, :, top : top + self.size, left : left + self.size]
        return window.flip(3) if mirrored else window


class FrozenFeatures(nn.Module):
    """Activations of layers of a frozen network, side by side, in float64.

    x (r, channels, size, size) → (r, d); `reduce` and `dtype` as those of an extraction.
    """

    def __init__(self, network: Network, layers: Sequence[str], reduce: str, dtype: str):
        super().__init__()
        self.network = network.eval()
        self.layers = survey(network, resolve(network, layers))
        self.reduce, self.dtype = REDUCTIONS[reduce], DTYPES[dtype]
        self._in_network = {layer.module: layer for layer in self.layers}

    def forward(self, x: Tensor) -> Tensor:
        """Return the features (r, d) of normalised crops x (r, channels, size, size)."""
        taken: dict[str, Tensor] = {}
        calls: dict[str, int] = {}
        handles = []
        for layer in self.layers:
            if is_input(self.network, layer.module):
                taken[layer.name] = self._reduced(x, layer)

        def hook(module: str) -> Any:
            def take(_module: nn.Module, _inputs: Any, output: Any) -> None:
                calls[module] = calls.get(module, 0) + 1
                for layer in self.layers:
                    if (layer.module, layer.call) == (module, calls[module]):
                        taken[layer.name] = self._reduced(tensor_of(output), layer)

            return take

        for module in {layer.module for layer in self.layers if layer.name not in taken}:
            inner = self.network.net.get_submodule(module)
            handles.append(inner.register_forward_hook(hook(module), prepend=True))
        try:
            self.network.net(x)
        finally:
            for handle in handles:
                handle.remove()
        rows = [taken[layer.name].to(self.dtype).double() for layer in self.layers]
        return torch.cat(rows, dim=1)

    def _reduced(self, output: Tensor | None, layer: Layer) -> Tensor:
        assert output is not None
        # a copy: an in-place layer after it must change nothing
        return self.reduce(layer.applied(output.clone()), layer)


# ---------------------------------------------------------------- heads: (r, d) → scores (r, k)


class LinearScores(nn.Module):
    """Scores X·coefᵀ + intercept; of two classes, their negative and themselves."""

    def __init__(self, coef: np.ndarray, intercept: np.ndarray):
        super().__init__()
        coef, intercept = np.atleast_2d(coef), np.atleast_1d(intercept)
        if len(coef) == 1:
            coef, intercept = np.concatenate([-coef, coef]), np.concatenate([-intercept, intercept])
        self.coef = _constant(coef)
        self.intercept = _constant(intercept)

    def forward(self, rows: Tensor) -> Tensor:
        """Return (r, k)."""
        return rows @ self.coef.T + self.intercept


class NeighbourScores(nn.Module):
    """Shares of the votes of the k nearest training rows, which are in the graph.

    rows     (m, d) training rows less `origin` (d,), which all rows are compared without
    one_hot  (m, k) the classes of the training rows
    weights  "uniform", "distance" (a vote counts 1 / distance) or "cosine" (exp(cosine /
             temperature), the k rows of largest cosine)
    """

    def __init__(
        self,
        rows: np.ndarray,
        origin: np.ndarray,
        one_hot: np.ndarray,
        k: int,
        weights: str,
        temperature: float = 1.0,
    ):
        super().__init__()
        self.k, self.weights, self.temperature = k, weights, temperature
        self.origin, self.rows = _constant(origin), _constant(rows)
        self.squares = _constant((rows**2).sum(axis=1))
        self.one_hot = _constant(one_hot)

    def forward(self, rows: Tensor) -> Tensor:
        """Return (r, k), rows sum to 1."""
        rows = rows - self.origin
        products, squares = rows @ self.rows.T, (rows * rows).sum(dim=1, keepdim=True)
        weight = self._cosine(products, squares)
        if self.weights != "cosine":
            weight = self._euclidean(products, squares)
        votes = weight @ self.one_hot
        return votes / votes.sum(dim=1, keepdim=True)

    def _euclidean(self, products: Tensor, squares: Tensor) -> Tensor:
        chosen = nearest(products - 0.5 * self.squares, self.k)
        if self.weights == "uniform":
            return chosen.double()
        total = squares + self.squares
        distance = (total - 2 * products).clamp(min=0)
        equal = distance < 32 * np.finfo(float).eps * total
        distance = torch.where(equal, 0.0, distance).sqrt()
        least = torch.where(chosen, distance, np.inf).amin(dim=1, keepdim=True)
        near = torch.where(distance > 0, least / torch.where(distance > 0, distance, 1.0), 1.0)
        return torch.where(chosen, near, 0.0)

    def _cosine(self, products: Tensor, squares: Tensor) -> Tensor:
        lengths = squares.sqrt() * self.squares.sqrt()
        cosine = torch.where(lengths > 0, products / torch.where(lengths > 0, lengths, 1.0), 0.0)
        largest = cosine.amax(dim=1, keepdim=True)
        weight = ((cosine - largest) / self.temperature).exp()
        return torch.where(nearest(cosine, self.k), weight, 0.0)


def nearest(closeness: Tensor, k: int) -> Tensor:
    """Return which k columns of each row are largest; of equals the first: (r, m) → bool."""
    last = closeness.topk(k, dim=1).values[:, k - 1 : k]
    nearer, equal = closeness > last, closeness == last
    room = k - nearer.double().sum(dim=1, keepdim=True)
    return nearer | (equal & (equal.double().cumsum(dim=1) <= room))


class MeanScores(nn.Module):
    """Closeness to the mean of each class, by distance or by angle."""

    def __init__(self, means: np.ndarray, origin: np.ndarray, is_cosine: bool):
        super().__init__()
        self.is_cosine = is_cosine
        self.means, self.origin = _constant(means), _constant(origin)
        shared = np.zeros(len(means)) if is_cosine else 0.5 * (means**2).sum(axis=1)
        self.shared = _constant(shared)

    def forward(self, rows: Tensor) -> Tensor:
        """Return (r, k)."""
        rows = unit_rows(rows) if self.is_cosine else rows - self.origin
        return rows @ self.means.T - self.shared


class MeanProducts(nn.Module):
    """Closeness to the mean of each class by distance, from products with the sums of classes.

    Sums of whole numbers are exact, as those of the full-network embedding: what is tied in a trial
    is tied here.

    sums  (k, d) of the training rows of each class; counts (k,)
    """

    def __init__(self, sums: np.ndarray, counts: np.ndarray):
        super().__init__()
        between = (sums @ sums.T) / np.outer(counts, counts)
        self.sums, self.counts = _constant(sums), _constant(counts)
        self.shared = _constant(0.5 * (between.diagonal() - between.mean()))

    def forward(self, rows: Tensor) -> Tensor:
        """Return (r, k)."""
        means = (rows @ self.sums.T) / self.counts
        return (means - self.shared) - means.mean(dim=1, keepdim=True)


class KernelScores(nn.Module):
    """Support vector machine with a kernel, every pair of classes, by its support vectors.

    vectors    (v, d) support vectors
    weights    (p, v) of the pairs (0, 1), (0, 2), …, (1, 2), …; intercept (p,)
    kernel     "rbf", "linear" or "poly"
    """

    def __init__(
        self,
        vectors: np.ndarray,
        weights: np.ndarray,
        intercept: np.ndarray,
        *,
        classes: int,
        kernel: str,
        gamma: float,
    ):
        super().__init__()
        self.kernel, self.gamma = kernel, gamma
        self.vectors, self.weights = _constant(vectors), _constant(weights)
        self.intercept, self.squares = _constant(intercept), _constant((vectors**2).sum(axis=1))
        pairs = [(i, j) for i in range(classes) for j in range(i + 1, classes)]
        first, second = np.zeros((len(pairs), classes)), np.zeros((len(pairs), classes))
        for pair, (i, j) in enumerate(pairs):
            first[pair, i] = second[pair, j] = 1
        self.first, self.second, self.classes = _constant(first), _constant(second), classes

    def forward(self, rows: Tensor) -> Tensor:
        """Return (r, k): the votes of the pairs and, below one vote, their confidence."""
        decision = self._kernel(rows) @ self.weights.T + self.intercept
        if self.classes == 2:
            return torch.cat([-decision, decision], dim=1)
        is_first = (decision >= 0).double()
        votes = is_first @ self.first + (1 - is_first) @ self.second
        confidence = decision @ (self.first - self.second)
        scores = votes + confidence / (3 * (confidence.abs() + 1))
        # of classes with as many votes libsvm takes the first, and a decision of 0 is the second's
        strict = (decision > 0).double()
        chosen = (strict @ self.first + (1 - strict) @ self.second).argmax(dim=1, keepdim=True)
        largest = scores.amax(dim=1, keepdim=True)
        is_raised = scores.argmax(dim=1, keepdim=True) != chosen
        raised = torch.where(is_raised, largest + 1e-12, scores.gather(1, chosen))
        return scores.scatter(1, chosen, raised)

    def _kernel(self, rows: Tensor) -> Tensor:
        products = rows @ self.vectors.T
        if self.kernel == "linear":
            return products
        if self.kernel == "poly":
            scaled = self.gamma * products
            return scaled * scaled * scaled
        squares = (rows * rows).sum(dim=1, keepdim=True) + self.squares
        return (-self.gamma * (squares - 2 * products).clamp(min=0)).exp()


class AllColumns(nn.Module):
    """Scores with a column for every class; one that was not in training is below all others."""

    def __init__(self, head: nn.Module, seen: np.ndarray, classes: int):
        super().__init__()
        self.head, self.classes = head, classes
        place = np.zeros((len(seen), classes))
        place[np.arange(len(seen)), seen] = 1
        self.place, self.unseen = _constant(place), _constant(1 - place.sum(axis=0))

    def forward(self, rows: Tensor) -> Tensor:
        """Return (r, classes)."""
        scores = self.head(rows)
        below = scores.amin(dim=1, keepdim=True).clamp(max=0) - 1
        result: Tensor = scores @ self.place + below * self.unseen
        return result


def unit_rows(rows: Tensor) -> Tensor:
    """Return rows (r, d) of Euclidean length 1; rows of zeros stay."""
    largest = rows.abs().amax(dim=1, keepdim=True)
    rows = rows / torch.where(largest > 0, largest, 1.0)
    length = (rows * rows).sum(dim=1, keepdim=True).sqrt()
    return rows / torch.where(length > 0, length, 1.0)


def _constant(values: Any) -> nn.Parameter:
    return nn.Parameter(torch.from_numpy(np.array(values, np.float64)), requires_grad=False)


# ---------------------------------------------------------------- file


def export_onnx(model: Served, shape: tuple[int, int, int], path: Path) -> None:
    """Write the model as ONNX, for any number of images of `shape` (height, width, channels).

    Raises ResourceError where the packages of the extra `export` are absent.
    """
    try:
        import onnx  # noqa: F401 — torch's exporter needs both
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise missing_package(error) from error
    example = torch.zeros(2, *shape, dtype=torch.uint8)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # torch's exporter on torch's own code
        program = torch.onnx.export(
            model.eval().cpu(),
            (example,),
            dynamo=True,
            dynamic_shapes=({0: "n"},),
            input_names=[INPUT],
            output_names=list(OUTPUTS),
            verbose=False,
        )
        assert program is not None
        program.save(str(path))
