"""Batches of one row, on which batch norm cannot train if the map is 1 × 1."""

from __future__ import annotations

import torch

from ..errors import UsageError
from .blocks import run_on_shapes
from .network import Network
from .recipe import Recipe

REFUSAL = "more than 1 value per channel"  # what batch norm says


def cannot_be_joined(rows: int, size: int) -> bool:
    """Return whether batches of `size` leave a single row that no other batch can take."""
    return (rows % size == 1 or size == 1) and (size <= 2 or rows == 1)


def must_be_avoided(network: Network, rows: int, size: int) -> bool:
    """Return whether batches of `size` would leave a single row that cannot be trained on.

    It depends on the network as it is frozen. Checked on shapes before any training. Raises
    UsageError where no row of another batch can join the single one.
    """
    if rows % size != 1 and size > 1:
        return False
    if _trains_on_one(network):
        return False
    if not cannot_be_joined(rows, size):
        return True
    remedy = "--batch-size 3, or more" if rows > 1 else "give more training images"
    what = (
        f"{rows:,} training rows in batches of {size} leave a batch of one row, which the batch "
        f"norm of "
        f"{network.row.title} cannot train on at {network.input_size} pixels"
    )
    raise UsageError(
        "batch-of-one",
        what,
        where="--batch-size",
        expected="batches of two or more rows",
        remedy=remedy,
    )


def refuse_lone_parts(network: Network, recipe: Recipe) -> None:
    """Raise UsageError where parts of one row cannot be trained on, as the network is frozen."""
    if recipe.replicas < recipe.batch_size or recipe.replicas == 1 or _trains_on_one(network):
        return
    raise UsageError(
        "part-of-one",
        f"--replicas {recipe.replicas} cuts batches of {recipe.batch_size} into parts of one row, "
        f"which the batch norm of {network.row.title} cannot train on at {network.input_size} "
        "pixels",
        where="--replicas",
        expected="parts of two or more rows",
        remedy=f"--batch-size {2 * recipe.replicas}, or more",
    )


def _trains_on_one(network: Network) -> bool:
    modes = {module: module.training for module in network.modules()}
    network.train()
    try:
        run_on_shapes(
            network.net,
            torch.zeros(1, network.channels, network.input_size, network.input_size, device="meta"),
        )
    except ValueError as error:
        return REFUSAL not in str(error)
    finally:
        for module, mode in modes.items():
            module.training = mode
    return True
