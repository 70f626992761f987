"""What is drawn at random for a batch: small tables of numbers, on the processor.

The generator is asked in a fixed order, and for everything whether it is used or not. So the same
seed means the same on every device, and a setting that is changed changes nothing else:

1. `numbers`, one row of uniform numbers per sample, a column for each of `COLUMNS`;
2. the seeds of the noise, one for each sample;
3. `mixing`, uniform, for each pair of channels;
4. `rectangles`, uniform, what is hidden by dropout;
5. `points`, normal, the displacements of the elastic deformation (last, since how many there are
   is a setting).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import torch
from torch import Generator, Tensor

__all__ = ["Draws", "draw"]

COLUMNS = (
    "rotation", "scale", "flip_z", "flip_y", "flip_x", "gray", "invert", "gamma", "contrast",
    "brightness", "blur", "noise", "dropout",
)  # fmt: skip
"""What each uniform number is for."""
N_RECTANGLES = 12
"""Rectangles that hide a part of a patch."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Draws:
    """Random numbers for `b` samples, none of them scaled by any setting yet.

    Attributes
    ----------
    numbers : `(b, column)`, uniform in [0, 1), float64.
    noise_seeds : `(b,)`, int64, from which the noise of each sample is drawn.
    mixing : `(b, c, c)`, uniform in [0, 1).
    rectangles : `(b, rectangle, 2 * axis)`, uniform in [0, 1): middles, then sizes.
    points : `(b, 2, pz, py, px)`, standard normal: displacements along y and x; `pz` is 1 in 2D.
    common : `(b, 2, 1, py, px)`, standard normal: those that all slices of a volume share.
    """

    numbers: Tensor
    noise_seeds: Tensor
    mixing: Tensor
    rectangles: Tensor
    points: Tensor
    common: Tensor

    def __getitem__(self, part: slice) -> Draws:
        """Those for some of the samples."""
        return Draws(**{f.name: getattr(self, f.name)[part] for f in fields(self)})

    def uniform(self, name: str, low: float = 0.0, high: float = 1.0) -> Tensor:
        """The column `name` `(b,)`, float64, spread evenly from `low` to `high`."""
        return low + (high - low) * self.numbers[:, COLUMNS.index(name)]

    def factor(self, name: str, limit: float) -> Tensor:
        """Factors `(b,)` in `[1 / limit, limit]`, equally often above and below one."""
        return torch.exp(self.uniform(name, -1, 1) * math.log(limit))


def draw(n: int, n_channels: int, n_dims: int, n_points: int, generator: Generator) -> Draws:
    """Draw for `n` samples with so many channels and axes, and control points along each axis."""
    depth = n_points if n_dims == 3 else 1
    return Draws(
        numbers=torch.rand(n, len(COLUMNS), generator=generator, dtype=torch.float64),
        noise_seeds=torch.randint(2**62, (n,), generator=generator),
        mixing=torch.rand(n, n_channels, n_channels, generator=generator),
        rectangles=torch.rand(n, N_RECTANGLES, 2 * n_dims, generator=generator),
        points=torch.randn(n, 2, depth, n_points, n_points, generator=generator),
        common=torch.randn(n, 2, 1, n_points, n_points, generator=generator),
    )
