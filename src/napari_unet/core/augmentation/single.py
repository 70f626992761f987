"""Random deformations and intensity changes of one training patch, as fine-tuning draws it.

An elastic deformation is a grid of random displacements, interpolated smoothly to every
pixel. Rotation, scale, flips and the elastic part make one sampling grid, so that an image is
interpolated once and its target is read at the same places, by nearest neighbour. Whatever
comes from outside the image is `IGNORE` in the target. 2D and 3D; in 3D, everything but a flip
is in the plane `(y, x)`, since z is sampled differently in nearly every microscope, and slices
that lie close together are deformed nearly alike.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import scipy.ndimage as ndi
import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from napari_unet.core.corrections import IGNORE
from napari_unet.core.settings import AugmentationSettings

__all__ = ["augment_intensity", "elastic_field", "sample", "sampling_grid", "spline_basis"]


@lru_cache(maxsize=64)
def spline_basis(size: int, n_points: int) -> Tensor:
    """Cardinal cubic splines `(size, n_points)`, control points from first to last pixel."""
    if n_points == 1:
        return torch.ones(size, 1)
    coefficients = ndi.spline_filter1d(np.eye(n_points), order=3, axis=0, mode="mirror")
    where = np.linspace(0, n_points - 1, size)[None]
    columns = [
        ndi.map_coordinates(column, where, order=3, mode="mirror", prefilter=False)
        for column in np.ascontiguousarray(coefficients.T)
    ]
    return torch.from_numpy(np.stack(columns, axis=1)).float()


def elastic_field(displacements: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Interpolate control displacements to every pixel by cubic splines.

    Parameters
    ----------
    displacements : `(axis, [pz,] py, px)` in px, at points spread evenly from the first to
        the last pixel of each axis.
    shape : size of the field, `([z,] y, x)`, in px.

    Returns
    -------
    Tensor
        `(axis, [z,] y, x)`, in px. Two small matrix products, no convolution.
    """
    field = displacements
    for axis, size in enumerate(shape, start=1):
        basis = spline_basis(size, displacements.shape[axis]).to(field)
        field = torch.movedim(torch.tensordot(field, basis, dims=([axis], [1])), -1, axis)
    return field


def _uniform(low: float, high: float, generator: Generator) -> float:
    return low + (high - low) * torch.rand((), generator=generator).item()


def _log_uniform(limit: float, generator: Generator) -> float:
    """A factor in `[1 / limit, limit]`, equally often above and below one."""
    return math.exp(_uniform(-1, 1, generator) * math.log(limit))


def _affine(n_dims: int, settings: AugmentationSettings, generator: Generator) -> Tensor:
    """Random rotation, zoom and flips about the centre, `(axis, axis)`."""
    matrix = torch.eye(n_dims)
    angle = math.radians(_uniform(-settings.rotation, settings.rotation, generator))
    zoom = _log_uniform(settings.scale, generator)
    cos, sin = math.cos(angle) * zoom, math.sin(angle) * zoom
    matrix[-2:, -2:] = torch.tensor([[cos, -sin], [sin, cos]])
    if settings.flips:
        signs = torch.randint(0, 2, (n_dims,), generator=generator) * 2 - 1
        matrix = matrix * signs
    return matrix


def _through_slices(
    drawn: Tensor, shape: tuple[int, ...], settings: AugmentationSettings, generator: Generator
) -> Tensor:
    """Displacements `(axis, pz, py, px)` that change through a flat volume as they do in the plane.

    Control points lie as much closer together along z as the volume is flatter than wide; if each
    were displaced by itself, the slices would be sheared. So most of the displacement is common
    to all slices, and the spread stays what it is.
    """
    own = min(1.0, shape[0] * 2 / sum(shape[1:]))
    common = torch.randn(3, 1, *drawn.shape[2:], generator=generator) * settings.elastic_sigma
    mixed = own * drawn + math.sqrt(1 - own**2) * common
    mixed[0] = 0  # NOTE: thin stacks leave no room to move along z
    return mixed


def sampling_grid(
    shape: tuple[int, ...],
    center: tuple[float, ...],
    settings: AugmentationSettings,
    generator: Generator,
) -> Tensor:
    """Draw where each pixel of a training patch comes from.

    Parameters
    ----------
    shape : size of the patch, `([z,] y, x)`, in px.
    center : place in the image, in px, that the middle of the patch shows.
    settings, generator : what to vary, and the only source of randomness.

    Returns
    -------
    Tensor
        `([z,] y, x, axis)`, coordinates in the image in px, axes in the order of `shape`.
    """
    n_dims = len(shape)
    axes = [torch.arange(n, dtype=torch.float32) - (n - 1) / 2 for n in shape]
    grid = torch.stack(torch.meshgrid(*axes, indexing="ij"))  # (axis, [z,] y, x)
    if settings.elastic_sigma > 0:
        points = [settings.elastic_points] * n_dims
        drawn = torch.randn(n_dims, *points, generator=generator) * settings.elastic_sigma
        if n_dims == 3:
            drawn = _through_slices(drawn, shape, settings, generator)
        grid = grid + elastic_field(drawn, shape)
    grid = torch.tensordot(_affine(n_dims, settings, generator), grid, dims=1)
    return torch.movedim(grid, 0, -1) + torch.tensor(center, dtype=torch.float32)


def sample(
    image: Tensor, targets: Tensor | None, grid: Tensor, ignore: int = IGNORE
) -> tuple[Tensor, Tensor | None]:
    """Read an image and its targets at the places in `grid`.

    Parameters
    ----------
    image : `(c, [z,] y, x)`, float. Read by linear interpolation, mirrored at its borders.
    targets : `(k, [z,] y, x)`, uint8, or None. Read by nearest neighbour, never interpolated;
        `ignore` outside the image.
    grid : `([z,] y, x, axis)`, in px, from `sampling_grid`.

    Returns
    -------
    tuple of Tensor
        The image `(c, [z,] y, x)` and the targets `(k, [z,] y, x)` in the shape of the grid.
    """
    sizes = torch.tensor(image.shape[1:], dtype=torch.float32, device=grid.device)
    scaled = grid * 2 / (sizes - 1).clamp(min=1) - 1
    scaled = scaled.flip(-1)[None].to(image.device)  # (1, [z,] y, x, axis), x first
    read = F.grid_sample(
        image[None], scaled, mode="bilinear", padding_mode="reflection", align_corners=True
    )[0]
    if targets is None:
        return read, None
    shifted = targets[None].float() - ignore  # zero outside means `ignore`
    nearest = F.grid_sample(
        shifted, scaled, mode="nearest", padding_mode="zeros", align_corners=True
    )[0]
    found = (nearest + ignore).round().to(torch.uint8)
    if grid.shape[-1] == 3:  # NOTE: on a single slice, what is outside cannot be told from inside
        outside = ((grid - grid.clamp(min=0).minimum(sizes - 1)).abs() > 0.5).any(dim=-1)
        found[:, outside.to(found.device)] = ignore
    return read, found


def augment_intensity(
    image: Tensor, settings: AugmentationSettings, generator: Generator
) -> Tensor:
    """Vary the normalised values of `(c, [z,] y, x)`; returns a new tensor of its shape."""
    image = _mix_channels(image, settings, generator)
    if settings.invert and _uniform(0, 1, generator) < settings.invert:
        image = 1 - image
    if settings.gamma > 1:
        exponent = _log_uniform(settings.gamma, generator)
        image = image.sign() * image.abs().pow(exponent)
    stretch = 1 + _uniform(-settings.contrast, settings.contrast, generator)
    shift = _uniform(-settings.brightness, settings.brightness, generator)
    image = (image - 0.5) * stretch + 0.5 + shift
    if settings.blur:
        image = _blur(image, _uniform(0, settings.blur, generator))
    if settings.noise:
        drawn = torch.randn(image.shape, generator=generator)
        image = image + drawn.to(image) * _uniform(0, settings.noise, generator)
    return image


def _mix_channels(image: Tensor, settings: AugmentationSettings, generator: Generator) -> Tensor:
    n_channels = image.shape[0]
    if n_channels < 2:
        return image
    if settings.gray and _uniform(0, 1, generator) < settings.gray:
        weights = torch.rand(n_channels, generator=generator) + 0.1
        gray: Tensor = torch.tensordot((weights / weights.sum()).to(image), image, dims=1)
        return gray[None].expand_as(image)
    if settings.color:
        mixing = torch.rand(n_channels, n_channels, generator=generator) * settings.color
        mixing += torch.eye(n_channels)
        mixing /= mixing.sum(dim=1, keepdim=True)
        mixed: Tensor = torch.tensordot(mixing.to(image), image, dims=1)
        return mixed
    return image


def _blur(image: Tensor, sigma: float) -> Tensor:
    """Gaussian blur in the plane `(y, x)`, borders mirrored."""
    radius = math.ceil(2 * sigma)
    if sigma < 0.2 or radius >= min(image.shape[-2:]):
        return image
    offsets = torch.arange(-radius, radius + 1, dtype=torch.float32)
    kernel = torch.exp(-0.5 * (offsets / sigma) ** 2).to(image)
    kernel = kernel / kernel.sum()
    flat = image.reshape(-1, 1, *image.shape[-2:])  # (c * z, 1, y, x)
    flat = F.pad(flat, (radius,) * 4, mode="reflect")
    flat = F.conv2d(F.conv2d(flat, kernel.view(1, 1, -1, 1)), kernel.view(1, 1, 1, -1))
    return flat.reshape(image.shape)
