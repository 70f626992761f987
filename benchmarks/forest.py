"""A random forest on features of several sizes: what ilastik and APOC learn from strokes.

The features are those of ilastik's pixel classification at sigmas of 1, 2, 4 and 8 px: Gaussian,
Laplacian of Gaussian, length of the gradient, eigenvalues of the Hessian and of the structure
tensor, and the image itself; 100 trees, as there. Needs scikit-learn, which the plugin does not.
"""

from __future__ import annotations

import numpy as np
import scipy.ndimage as ndi

SIGMAS = (1.0, 2.0, 4.0, 8.0)
N_TREES = 100
N_AT_ONCE = 2**18
"""Pixels that are classified at once, to bound memory."""


def features_of(image: np.ndarray, sigmas: tuple[float, ...] = SIGMAS) -> np.ndarray:
    """Features `(feature, y, x)`, float32, of an image `(y, x)` or `(y, x, c)` of any type.

    Intensities are first brought to 0 at the 1st and 1 at the 99.8th percentile, as for networks.
    """
    channels = image[None] if image.ndim == 2 else np.moveaxis(image, -1, 0)
    found = []
    for channel in channels:
        low, high = np.percentile(channel, (1, 99.8))
        scaled = (channel.astype(np.float32) - np.float32(low)) / np.float32(max(high - low, 1e-6))
        found.append(scaled)
        for sigma in sigmas:
            found += _at(scaled, sigma)
    return np.stack(found)


def _at(image: np.ndarray, sigma: float) -> list[np.ndarray]:
    """The seven features of one size."""

    def derived(*order: int) -> np.ndarray:
        return ndi.gaussian_filter(image, sigma, order=order, mode="reflect")

    y, x = derived(1, 0), derived(0, 1)
    yy, yx, xx = derived(2, 0), derived(1, 1), derived(0, 2)
    outer = [ndi.gaussian_filter(one, sigma / 2) for one in (y * y, y * x, x * x)]
    return [
        derived(0, 0),
        yy + xx,
        np.hypot(y, x),
        *_eigenvalues(yy, yx, xx),
        *_eigenvalues(*outer),
    ]


def _eigenvalues(yy: np.ndarray, yx: np.ndarray, xx: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The larger and the smaller eigenvalue of symmetric 2 x 2 matrices."""
    middle = (yy + xx) / 2
    spread = np.hypot((yy - xx) / 2, yx)
    return middle + spread, middle - spread


class Forest:
    """Trained anew on all strokes each time, as ilastik does."""

    def __init__(self, n_classes: int = 2, seed: int = 0, n_jobs: int = 1) -> None:
        self._n_classes, self._seed, self._n_jobs = n_classes, seed, n_jobs
        self._trees = None

    def learn(self, features: np.ndarray, corrections: np.ndarray) -> None:
        """Learn from features `(feature, y, x)` where corrections `(y, x)` are painted: 1
        background, 2 and up the classes; 0 untouched."""
        from sklearn.ensemble import RandomForestClassifier

        painted = corrections > 0
        trees = RandomForestClassifier(N_TREES, random_state=self._seed, n_jobs=self._n_jobs)
        self._trees = trees.fit(features[:, painted].T, corrections[painted] - 1)

    def probabilities(self, features: np.ndarray) -> np.ndarray:
        """Class probabilities `(class, y, x)`, float32; all background before it has learnt."""
        shape = features.shape[1:]
        found = np.zeros((self._n_classes, int(np.prod(shape))), np.float32)
        if self._trees is None:
            found[0] = 1
            return found.reshape(-1, *shape)
        pixels = features.reshape(len(features), -1).T
        for start in range(0, len(pixels), N_AT_ONCE):
            part = slice(start, start + N_AT_ONCE)
            found[self._trees.classes_.astype(int), part] = self._trees.predict_proba(
                pixels[part]
            ).T
        return found.reshape(-1, *shape)
