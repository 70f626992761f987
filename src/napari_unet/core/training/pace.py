"""How far a training is, when it measures, and what is random in each step."""

from __future__ import annotations

import numpy as np
import torch

from napari_unet.core.training.run_folder import State
from napari_unet.core.training.settings import TrainSettings

__all__ = ["N_MEASUREMENTS", "generator_of", "is_due", "is_over", "seed_of", "share_done"]

N_MEASUREMENTS = 20
"""In a training, unless the user says how often."""


def seed_of(seed: int, step: int, use: int) -> int:
    """A seed for one use in one step."""
    return int(np.random.SeedSequence((seed, step, use)).generate_state(1, np.uint64)[0] >> 1)


def generator_of(seed: int, step: int) -> torch.Generator:
    """Where the patches of a step come from."""
    return torch.Generator().manual_seed(seed_of(seed, step, 0))


def share_done(state: State, settings: TrainSettings) -> float:
    """How much of the training is done, by steps or by time, 0 to 1."""
    by_time = state.seconds / (60 * settings.minutes) if settings.minutes else 0.0
    return min(1.0, max(state.step / settings.steps, by_time))


def is_over(state: State, settings: TrainSettings) -> bool:
    """Whether the steps are done, the time is up, or the score has not risen for too long."""
    is_stale = 0 < settings.patience <= state.n_worse
    return share_done(state, settings) >= 1 or is_stale


def is_due(share: float, state: State, settings: TrainSettings, every: int) -> bool:
    """Whether to measure: after so many steps, at the end, and as time goes by."""
    now = share_done(state, settings)
    by_time = settings.minutes is not None and settings.measure_every == 0
    has_passed = by_time and int(now * N_MEASUREMENTS) > int(share * N_MEASUREMENTS)
    return state.step % every == 0 or now >= 1 or has_passed
