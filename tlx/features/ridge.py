"""Ridge regression to ±1: every λ, and every row left out in turn, from one factorisation."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .products import BLOCK_BYTES, inner


class RidgePath:
    """Least squares to ±1 with penalty λ‖w‖² and a free intercept, for all λ at once.

    With centred rows X = U·√s·Vᵀ the residuals are e = (I − UUᵀ)·y + U·λ/(s + λ)·Uᵀy, and the
    prediction of a row by all the others is y − e/a with a = 1 − 1/n − Σ U² + Σ U²·λ/(s + λ)
    (Allen's PRESS). Where U has all the n − 1 columns it can have, what comes before the last sum
    is 0 and is taken as 0: nothing cancels however small λ is. For rows that are left out together,
    a is a matrix and e/a a solution.

    classes  (k',) — the labels seen
    targets  (n, k') float64, ±1; (n, 1) for two classes, +1 being the second
    """

    def __init__(self, basis: np.ndarray, squares: np.ndarray, y: np.ndarray):
        """Store the factorisation.

        basis (n, q) float64 — U; squares (q,) — s, not negative; y (n,) — labels.
        """
        self.classes, labels = np.unique(y, return_inverse=True)
        signs = 2 * np.eye(len(self.classes))[labels] - 1
        self.targets = signs[:, 1:] if len(self.classes) == 2 else signs
        self.mean_target = self.targets.mean(axis=0)
        centred = self.targets - self.mean_target
        self._basis, self._squares = basis, squares
        self._turned = basis.T @ centred
        self._complete = basis.shape[1] == len(basis) - 1
        self._rest = np.zeros_like(centred) if self._complete else centred - basis @ self._turned

    @classmethod
    def of_products(cls, products: np.ndarray, y: np.ndarray) -> RidgePath:
        """Factorise X·Xᵀ (n, n) float64.

        Best of rows that were centred beforehand, whose products have lost no digits.
        """
        mirror = _mirror(len(products))
        turned = products - 2 * np.outer(mirror, mirror @ products)
        turned -= 2 * np.outer(turned @ mirror, mirror)
        squares, inside = np.linalg.eigh(
            turned[1:, 1:]
        )  # of the rows less their mean, and one dimension fewer
        basis = np.concatenate([np.zeros((1, inside.shape[1])), inside])
        basis -= 2 * np.outer(mirror, mirror @ basis)
        noise = len(products) * np.finfo(float).eps * squares[-1]
        return cls(basis, np.where(squares > noise, squares, 0.0), y)

    @classmethod
    def of(cls, X: np.ndarray, y: np.ndarray) -> RidgePath:
        """Factorise the rows X (n, d) of any real dtype, by the smaller of n and d."""
        n, d = X.shape
        if n <= d:
            return cls.of_products(inner(X, origin=mean_row(X)), y)
        left, values, _ = np.linalg.svd(X - mean_row(X), full_matrices=False)
        kept = values > values[0] * n * np.finfo(float).eps
        return cls(left[:, kept], values[kept] ** 2, y)

    def mix(self, alpha: float) -> np.ndarray:
        """Return the mix of training rows at λ = alpha: (k', n), each row summing to 0.

        Weights are mix · X.
        """
        result: np.ndarray = (self._basis @ (self._turned / (self._squares + alpha)[:, None])).T
        return result

    def left_out(self, alpha: float, groups: np.ndarray | None = None) -> np.ndarray:
        """Predict every row by a model that has not seen it, nor its group.

        A group is, e.g., the crops of one image.

        groups   (n,) whole numbers: rows of one number are left out together; None: each by itself
        →        (n, k') float64, as `targets`
        """
        result: np.ndarray = self._left_out([alpha], groups)[0]
        return result

    def left_out_error(self, alpha: float, groups: np.ndarray | None = None) -> float:
        """Compute the share of rows misclassified by models that have not seen them."""
        return self._left_out_errors([alpha], groups)[0]

    def best(self, grid: Sequence[float], groups: np.ndarray | None = None) -> tuple[float, float]:
        """Return the λ of a grid with least leave-one-out error, and that error, a fraction.

        Of several as good, the one in the middle of them: an error counted in rows has plateaus.
        """
        errors = self._left_out_errors(grid, groups)
        least = [alpha for alpha, error in zip(grid, errors, strict=True) if error == min(errors)]
        return least[len(least) // 2], min(errors)

    def _left_out_errors(self, alphas: Sequence[float], groups: np.ndarray | None) -> list[float]:
        """Compute the error of each λ, as many of them at once as fit a block of memory."""
        errors: list[float] = []
        step = max(1, BLOCK_BYTES // (8 * self.targets.size))
        for start in range(0, len(alphas), step):
            predicted = self._left_out(alphas[start : start + step], groups)
            if len(self.classes) == 2:
                is_wrong = (predicted > 0) != (self.targets > 0)
            else:
                is_wrong = predicted.argmax(axis=-1) != self.targets.argmax(axis=-1)
            errors += is_wrong.reshape(len(predicted), -1).mean(axis=1).tolist()
        return errors

    def _left_out(self, alphas: Sequence[float], groups: np.ndarray | None) -> np.ndarray:
        """Predict every row by models that have not seen its group, for each λ: (a, n, k')."""
        strength = np.asarray(alphas, np.float64)[:, None]
        shares = strength / (self._squares + strength)  # (a, q)
        residual = self._rest + self._basis @ (self._turned * shares[:, :, None])
        if groups is None:
            own = shares @ (self._basis**2).T
            if not self._complete:
                own += 1 - 1 / len(self._basis) - (self._basis**2).sum(axis=1)
            left_out: np.ndarray = self.targets - residual / own[:, :, None]
            return left_out
        out: np.ndarray = np.empty_like(residual)
        for rows in _rows_of_groups(groups):
            step = max(1, BLOCK_BYTES // (8 * rows.shape[1] ** 2 * self._basis.shape[1]))
            for start in range(0, len(rows), step):
                block = rows[start : start + step]
                change = np.linalg.solve(self._own(block, shares), residual[:, block])
                out[:, block] = self.targets[block] - change
        return out

    def _own(self, rows: np.ndarray, shares: np.ndarray) -> np.ndarray:
        """Return what the rows of each group weigh in their own prediction: (a, g, m, m).

        One product of all pairs of rows with all λ.

        rows  (g, m) numbers of rows;  shares (a, q)
        """
        part = self._basis[rows]
        pairs = part[:, :, None, :] * part[:, None, :, :]
        own = shares @ pairs.reshape(-1, part.shape[2]).T
        result: np.ndarray = own.reshape(len(shares), *pairs.shape[:3])
        if not self._complete:
            count = len(self._basis)
            result += np.eye(rows.shape[1]) - 1 / count - part @ part.transpose(0, 2, 1)
        return result


def _rows_of_groups(groups: np.ndarray) -> list[np.ndarray]:
    """Return the rows of each group, (g, m), those of groups of one size m together."""
    order = np.argsort(groups, kind="stable")
    _, starts, sizes = np.unique(groups[order], return_index=True, return_counts=True)
    return [order[starts[sizes == size][:, None] + np.arange(size)] for size in np.unique(sizes)]


def mean_row(X: np.ndarray) -> np.ndarray:
    """Compute the mean of the rows, in float64 and in blocks of rows: (d,)."""
    step = max(1, BLOCK_BYTES // (8 * X.shape[1]))
    origin = X[0].astype(np.float64)
    total = sum((X[i : i + step] - origin).sum(axis=0) for i in range(0, len(X), step))
    result: np.ndarray = origin + total / len(X)
    return result


def _mirror(n: int) -> np.ndarray:
    """Return the unit vector v of the reflection that maps (1, …, 1)/√n to the first axis: (n,).

    The reflection is I − 2vvᵀ.
    """
    v = np.full(n, 1 / np.sqrt(n))
    v[0] += (
        # away from the axis, so that nothing cancels: it goes to minus the axis, which spans the
        # same
        1
    )
    result: np.ndarray = v / np.linalg.norm(v)
    return result
