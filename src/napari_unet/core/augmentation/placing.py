"""Where each pixel of a batch of patches comes from, as one product of small matrices.

The elastic field is a sum over control points of cubic splines of y times cubic splines of x. So
are the other parts of the place: with a constant and a ramp added to the splines, rotation, zoom,
the place of the patch and the scaling that `grid_sample` wants become entries of the same small
table. The sampling grid of a whole batch is then two matrix products, and no pass over it is
needed besides. In volumes this holds for each slice, since slices are deformed in the plane.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from napari_unet.core.augmentation.draws import Draws
from napari_unet.core.augmentation.single import spline_basis
from napari_unet.core.settings import AugmentationSettings

__all__ = ["Placement", "bounds", "grid_of", "is_whole", "place", "tables_of"]

SAMPLES = 16
"""Places between two control points at which a field is evaluated to find how far it reaches ..."""
SLACK = 0.03
"""... and how much further it reaches between them at most, as a part of the largest displacement.

A cubic spline through values of size d has second derivatives of at most 12 d (one control
interval being 1), so a sixteenth of an interval hides 12 d / 8 / 256 < 0.006 d of it, along each
axis, times what the splines of the other axis can add (less than 2).
"""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Placement:
    """Where the patches of a batch lie in their images, and how they are deformed. On the CPU.

    Attributes
    ----------
    shape : of the patches in the plane, `(y, x)`, in px.
    table : `(b, z, py + 2, px + 2, axis)`, float64, what each product of a function of y and one
        of x adds to the place `(y, x)`, in px: splines, then the ramp, then the constant.
    slices : `(b, z)`, int64, the slice of the image that each slice shows; 0 in 2D.
    flips : `(b, 2)`, bool, whether a patch is mirrored along y and x (part of `table`, too).
    """

    shape: tuple[int, int]
    table: Tensor
    slices: Tensor
    flips: Tensor

    def __getitem__(self, part: slice) -> Placement:
        """Some of the patches."""
        return Placement(
            shape=self.shape, table=self.table[part], slices=self.slices[part],
            flips=self.flips[part],
        )  # fmt: skip


def is_whole(settings: AugmentationSettings) -> bool:
    """Whether each px of a patch is a px of the image, so that nothing is interpolated."""
    return settings.elastic_sigma == 0 and settings.rotation == 0 and settings.scale == 1


def place(
    centers: Tensor, shape: tuple[int, ...], settings: AugmentationSettings, draws: Draws
) -> Placement:
    """Lay out patches of `shape` `([z,] y, x)` around `centers` `(b, axis)`, in px.

    Along z a patch always begins at a whole slice: slices are never mixed. In the plane it does
    if nothing but a flip is asked for.
    """
    n_dims = len(shape)
    flips = torch.stack([draws.uniform(f"flip_{axis}") for axis in "zyx"], dim=1) < 0.5
    flips = flips & settings.flips
    middles = centers[:, -2:]
    if is_whole(settings):
        halves = (torch.tensor(shape[-2:], dtype=torch.float64) - 1) / 2
        middles = (middles - halves + 0.5).floor() + halves
    points = _displacements(shape, settings, draws) if settings.elastic_sigma else None
    table = _table(middles, shape[-2:], _matrices(settings, draws, flips), points)
    slices = torch.zeros(len(centers), 1, dtype=torch.int64)
    if n_dims == 3:
        slices = _slices(centers[:, 0], shape[0], flips[:, 0])
        table = table.expand(-1, shape[0], -1, -1, -1)
    return Placement(shape=(shape[-2], shape[-1]), table=table, slices=slices, flips=flips[:, 1:])


def _slices(middles: Tensor, n: int, flips: Tensor) -> Tensor:
    first = (middles - (n - 1) / 2 + 0.5).floor().long()
    offsets = torch.arange(n)
    return first[:, None] + torch.where(flips[:, None], offsets.flip(0), offsets)


def _matrices(settings: AugmentationSettings, draws: Draws, flips: Tensor) -> Tensor:
    """Rotation, zoom and flips in the plane, `(b, axis, axis)`."""
    angle = torch.deg2rad(draws.uniform("rotation", -settings.rotation, settings.rotation))
    zoom = draws.factor("scale", settings.scale)
    cos, sin = angle.cos() * zoom, angle.sin() * zoom
    turned = torch.stack([cos, -sin, sin, cos], dim=1).view(-1, 2, 2)
    return turned * (1 - 2 * flips[:, 1:].double())[:, None]


def _displacements(shape: tuple[int, ...], settings: AugmentationSettings, draws: Draws) -> Tensor:
    """Displacements at the control points of each slice, `(b, z, py, px, axis)`, in px.

    Slices that lie close together are deformed nearly alike: see `single._through_slices`.
    """
    points = draws.points.double()
    if len(shape) == 3:
        own = min(1.0, shape[0] * 2 / sum(shape[1:]))
        points = own * points + math.sqrt(1 - own**2) * draws.common
        basis = spline_basis(shape[0], points.shape[2]).double()
        points = torch.einsum("zk,bakyx->bazyx", basis, points)
    return points.permute(0, 2, 3, 4, 1) * settings.elastic_sigma


def _table(
    middles: Tensor, shape: tuple[int, ...], matrices: Tensor, points: Tensor | None
) -> Tensor:
    """The table of a `Placement`, from displacements `(b, z, py, px, axis)`."""
    if points is None:
        points = torch.zeros(len(middles), 1, 2, 2, 2, dtype=torch.float64)
    n, depth, rows, columns, _ = points.shape
    table = torch.zeros(n, depth, rows + 2, columns + 2, 2, dtype=torch.float64)
    table[:, :, :rows, :columns] = torch.einsum("bac,bzijc->bzija", matrices, points)
    table[:, :, rows, columns + 1] = matrices[:, None, :, 0]
    table[:, :, rows + 1, columns] = matrices[:, None, :, 1]
    table[:, :, rows + 1, columns + 1] = middles[:, None]
    return table


@lru_cache(maxsize=64)
def _functions(size: int, n_points: int) -> Tensor:
    """Splines, the ramp from the middle in px, and the constant: `(size, n_points + 2)`."""
    ramp = torch.arange(size, dtype=torch.float64) - (size - 1) / 2
    splines = spline_basis(size, n_points).double()
    return torch.cat([splines, ramp[:, None], torch.ones(size, 1)], dim=1)


@lru_cache(maxsize=64)
def _some_functions(size: int, n_points: int) -> Tensor:
    """The same at some places."""
    return _functions(size, n_points)[_some(size, n_points)]


@lru_cache(maxsize=64)
def _columns(size: int, n_points: int) -> Tensor:
    """The functions of x for both axes of the place, `((n_points + 2) * axis, size * axis)`.

    Half of it is zero. With it one matrix product writes y and x of each place side by side.
    """
    return torch.kron(_functions(size, n_points).T.contiguous(), torch.eye(2, dtype=torch.float64))


def bounds(placement: Placement) -> tuple[Tensor, Tensor]:
    """First and last px that each patch reads, `(b, axis)`, int64; maybe a few too many.

    Found at some of its places, so that nothing needs to come back from the device.
    """
    table = placement.table
    if table.shape[1] > 1:
        table = table[:, _some(table.shape[1], table.shape[2] - 2)]
    rows, columns = (
        _some_functions(size, n - 2)
        for size, n in zip(placement.shape, table.shape[2:4], strict=True)
    )
    places = rows @ table.permute(0, 4, 1, 2, 3) @ columns.T  # (b, axis, z, y, x)
    low, high = places.flatten(2).aminmax(dim=2)  # (b, axis)
    slack = SLACK * table[:, :, :-2, :-2].abs().amax(dim=(1, 2, 3))
    low, high = low - slack, high + slack
    # NOTE: rounding must not ask for one more px where a patch ends at a whole one
    return (low + 1e-6).floor().long(), (high - 1e-6).ceil().long()


def _some(size: int, n_points: int) -> Tensor:
    """Some indices, from the first to the last one, close enough together for `SLACK`."""
    step = max(1, (size - 1) // (SAMPLES * max(1, n_points - 1)))
    return torch.cat([torch.arange(0, size - 1, step), torch.tensor([size - 1])])


def tables_of(placement: Placement, starts: Tensor, size: tuple[int, int]) -> Tensor:
    """The table of each plane for windows that begin at `starts` `(b, axis)`, as `grid_of` uses it.

    Returns
    -------
    Tensor
        `(b * z, py + 2, (px + 2) * axis)`, float32: x first, from -1 to 1 between the middles of
        the outer px of a window of `size` `(y, x)`, as `grid_sample` with `align_corners` wants it.
    """
    table = placement.table.clone()
    table[:, :, -1, -1] -= starts[:, None]
    table *= 2 / (torch.tensor(size, dtype=torch.float64) - 1).clamp(min=1)
    table[:, :, -1, -1] -= 1
    return table.flip(-1).flatten(3).flatten(0, 1).float()


def grid_of(tables: Tensor, shape: tuple[int, int]) -> Tensor:
    """Where to sample the windows: `(plane, y, x, 2)`, float32, from `tables_of`."""
    n, n_rows, n_columns = tables.shape
    rows = _functions(shape[0], n_rows - 2).float().to(tables.device)
    columns = _columns(shape[1], n_columns // 2 - 2).float().to(tables.device)
    grid = (rows @ tables) @ columns  # (plane, y, x * 2)
    return grid.view(n, *shape, 2)
