"""Probabilities that mean what they say.

A network that was trained on other images is too sure of itself. Dividing its logits by one
number, the temperature, corrects that (Guo et al. 2017, "On calibration of modern neural
networks"); it is found on corrections that were not trained on.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize_scalar

from napari_unet.core.corrections import IGNORE
from napari_unet.core.errors import SettingsError

__all__ = ["calibration_error", "chances_of", "check_temperature", "temperature", "tempered"]

Floats: TypeAlias = npt.NDArray[np.floating[Any]]

LEAST = 1e-4
"""Probabilities are kept in 16 bits, which know nothing closer to 0 or 1."""

COOLEST, HOTTEST = 0.5, 10.0
CAUTION = 10.0
"""How much better, in nats, the held-out pixels must be explained for a temperature of e."""


def tempered(probabilities: Floats, temperature: float) -> npt.NDArray[np.float32]:
    """Class probabilities `(class, ...)` as they were if the logits were divided by
    `temperature`."""
    check_temperature(temperature)
    chances = chances_of(probabilities)
    chances **= np.float32(1 / temperature)
    chances /= chances.sum(axis=0)
    return chances


def chances_of(probabilities: Floats) -> npt.NDArray[np.float32]:
    """A copy of probabilities `(class, ...)` that stays away from 0.

    Those of outputs that are each by themselves may sum to anything.
    """
    return np.asarray(np.clip(probabilities, LEAST, 1.0, dtype=np.float32), np.float32)


def check_temperature(temperature: float) -> None:
    """Raise `SettingsError` unless it is one."""
    if not 0 < temperature < float("inf"):
        raise SettingsError(f"temperature must be above 0 and finite, but is {temperature}.")


def temperature(probabilities: Floats, target: npt.NDArray[np.integer[Any]]) -> float:
    """The temperature under which what was painted is the likeliest.

    Parameters
    ----------
    probabilities : `(class, ...)`, of corrections that were not trained on. Softmax of logits will
        do: only their differences count.
    target : class of each pixel `(...)`, `IGNORE` where nobody painted.

    Returns
    -------
    float
        Above 1 if the network is too sure of itself. Few pixels move it little away from 1, none
        leave it there: people paint on errors, and the pixels of a stroke are no independent
        witnesses.
    """
    chances, truth = _known(probabilities, target)
    if truth.size == 0 or len(chances) < 2:
        return 1.0
    logs = np.log(chances)  # (class, pixel)
    logs -= logs[truth, np.arange(truth.size)]

    def surprise(log_temperature: float) -> float:
        scaled = logs / np.exp(log_temperature)
        top = scaled.max(axis=0)
        losses = top + np.log(np.exp(scaled - top).sum(axis=0))
        return float(losses.sum() + CAUTION * log_temperature**2)

    bounds = (float(np.log(COOLEST)), float(np.log(HOTTEST)))
    return float(np.exp(minimize_scalar(surprise, bounds=bounds, method="bounded").x))


def calibration_error(
    probabilities: Floats, target: npt.NDArray[np.integer[Any]], n_bins: int = 10
) -> float:
    """Expected calibration error, 0 (says 90 % where it is right in 90 of 100) to 1.

    Pixels are put into `n_bins` bins of equal width by the probability of their likeliest class;
    how far the mean probability of a bin is from its share of right pixels, mean over the pixels.
    Parameters as in `temperature`; not a number if nothing is painted.
    """
    chances, truth = _known(probabilities, target)
    if truth.size == 0:
        return float("nan")
    chances /= chances.sum(axis=0)
    said, right = chances.max(axis=0), chances.argmax(axis=0) == truth
    bins = np.minimum((said * n_bins).astype(np.intp), n_bins - 1)
    gaps = np.bincount(bins, weights=said - right, minlength=n_bins)
    return float(np.abs(gaps).sum() / truth.size)


def _known(
    probabilities: Floats, target: npt.NDArray[np.integer[Any]]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.intp]]:
    """Probabilities `(class, pixel)` and classes `(pixel,)` of what was painted."""
    if probabilities.shape[1:] != target.shape:
        raise SettingsError(
            f"The target has the shape {target.shape}, but the probabilities are of "
            f"{probabilities.shape[1:]}; give one class for each pixel."
        )
    known = target != IGNORE
    chances = np.clip(probabilities[:, known], LEAST, 1.0, dtype=np.float64)
    return chances, target[known].astype(np.intp)
