"""What ridge regressions give for samples that were left out, though none is fitted without them.

Let A be the inverse of the products of all samples with the penalty on their diagonal. The errors on a
fold F that was left out are then the solution e of A[F, F] e = (A targets)[F]. One inverse serves all
folds, where a fit without each of them would need as many.

Reference: Cawley and Talbot, "Efficient leave-one-out cross-validation of kernel Fisher discriminant
classifiers", Pattern Recognition 36, 2003 (for folds of one sample).
"""

from collections.abc import Sequence

import numpy as np


class RidgeFolds:
    """Ridge regressions for each class against the rest, each without one of some folds.

    Means and deviations of the features, and the share of each class, are those of all samples.

    Args:
        y: classes of shape (samples,).
        parts: the samples of each fold, in ascending order.
    """

    def __init__(self, y: np.ndarray, parts: Sequence[np.ndarray]) -> None:
        self.y, self.parts = y, parts
        targets = np.eye(y.max() + 1, dtype="float32")[y]
        self._mean = targets.mean(axis=0)
        self._targets = targets - self._mean
        self._products = np.zeros((len(y), len(y)), "float32", order="F")
        self._width = 0

    def add(self, z: np.ndarray) -> None:
        """Give them further features, of shape (samples, features), standardised."""
        from scipy.linalg import blas  # which comes with scikit-learn

        # Of symmetric matrices the lower half will do, here and below, as the indices of folds ascend.
        self._products = blas.ssyrk(1.0, z.T, 1.0, self._products, trans=1, lower=1, overwrite_c=1)
        self._width += z.shape[1]

    def scores(self, C: float) -> np.ndarray:
        """Return what is given for each sample by the regression that has not seen its fold.

        Args:
            C: the number of features divided by the penalty.

        Returns:
            An array of shape (samples, classes).
        """
        from scipy.linalg import blas, cho_factor, cho_solve, lapack

        matrix = self._products.copy(order="F")
        matrix[np.diag_indices_from(matrix)] += np.float32(self._width / C)
        root, _ = lapack.spotrf(matrix, lower=1, overwrite_a=1, clean=0)
        inverse, _ = lapack.spotri(root, lower=1, overwrite_c=1)
        solution = blas.ssymm(1.0, inverse, self._targets, lower=1)
        found = self._targets + self._mean
        for fold in self.parts:
            factor = cho_factor(inverse[np.ix_(fold, fold)], lower=True, check_finite=False)
            found[fold] -= cho_solve(factor, solution[fold], check_finite=False)
        return found
