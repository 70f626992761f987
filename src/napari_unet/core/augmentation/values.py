"""Changes of the values of a whole batch at once, each sample by its own numbers.

What is done to a sample, and in which order, is what `augment_intensity` does; dropout is added.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from napari_unet.core.augmentation.draws import Draws
from napari_unet.core.settings import AugmentationSettings

__all__ = ["vary_values"]


def vary_values(image: Tensor, settings: AugmentationSettings, draws: Draws) -> Tensor:
    """Vary the normalised values of `(b, c, [z,] y, x)`, float32; `image` may be overwritten."""
    image = _mixed(image, settings, draws)
    image = _stretched(image, settings, draws)
    if settings.blur:
        image = _blurred(image, draws.uniform("blur", 0, settings.blur))
    if settings.noise:
        image = _noisy(image, settings, draws)
    if settings.dropout:
        image = _hidden(image, settings, draws)
    return image


def _per_sample(numbers: Tensor, image: Tensor) -> Tensor:
    """`(b,)` as `(b, 1, ...)`, of the type and on the device of `image`."""
    return numbers.float().to(image).view(-1, *[1] * (image.ndim - 1))


def _mixed(image: Tensor, settings: AugmentationSettings, draws: Draws) -> Tensor:
    """Channels mixed into each other, or shown as one gray value."""
    n_channels = image.shape[1]
    if n_channels < 2 or not (settings.gray or settings.color):
        return image
    mixing = torch.eye(n_channels) + draws.mixing * settings.color
    weights = (draws.mixing[:, :1] + 0.1).expand_as(mixing)
    is_gray = draws.uniform("gray") < settings.gray
    mixing = torch.where(is_gray[:, None, None], weights, mixing)
    mixing = mixing / mixing.sum(dim=2, keepdim=True)
    return (mixing.to(image) @ image.flatten(2)).view(image.shape)


def _stretched(image: Tensor, settings: AugmentationSettings, draws: Draws) -> Tensor:
    """Inverted, bent by an exponent, stretched about 0.5 and shifted."""
    if settings.invert:
        is_inverted = _per_sample(draws.uniform("invert") < settings.invert, image)
        image = image.mul_(1 - 2 * is_inverted).add_(is_inverted)
    if settings.gamma > 1:
        exponent = _per_sample(draws.factor("gamma", settings.gamma), image)
        bent = image.abs().log2_().mul_(exponent).exp2_()
        image = torch.copysign(bent, image, out=bent)
    if settings.contrast or settings.brightness:
        stretch = 1 + draws.uniform("contrast", -settings.contrast, settings.contrast)
        shift = draws.uniform("brightness", -settings.brightness, settings.brightness)
        shift = shift + 0.5 - 0.5 * stretch
        image = image.mul_(_per_sample(stretch, image)).add_(_per_sample(shift, image))
    return image


def _blurred(image: Tensor, sigmas: Tensor) -> Tensor:
    """Gaussian blur in the plane `(y, x)`, of `sigmas` `(b,)` px, borders mirrored."""
    radii = (2 * sigmas).ceil()
    is_off = (sigmas < 0.2) | (radii >= min(image.shape[-2:]))
    radius = int(radii.masked_fill(is_off, 0).max().item())
    if not radius:
        return image
    offsets = torch.arange(-radius, radius + 1, dtype=torch.float64)
    kernels = torch.exp(-0.5 * (offsets / sigmas.clamp(min=1e-3)[:, None]) ** 2)
    kernels[offsets.abs() > radii[:, None]] = 0
    kernels[is_off] = (offsets == 0).double()
    kernels = (kernels / kernels.sum(dim=1, keepdim=True)).float().to(image)
    n = len(image)
    flat = image.reshape(n, -1, *image.shape[-2:]).transpose(0, 1)  # (c * z, b, y, x)
    flat = F.pad(flat, (radius,) * 4, mode="reflect")
    flat = F.conv2d(flat, kernels.view(n, 1, -1, 1), groups=n)
    flat = F.conv2d(flat, kernels.view(n, 1, 1, -1), groups=n)
    return flat.transpose(0, 1).reshape(image.shape)


def _noisy(image: Tensor, settings: AugmentationSettings, draws: Draws) -> Tensor:
    """Gaussian noise, drawn on the processor, so that it is the same on every device."""
    seeded = [Generator().manual_seed(seed) for seed in draws.noise_seeds.tolist()]
    noise = torch.stack([torch.randn(image.shape[1:], generator=one) for one in seeded])
    strength = _per_sample(draws.uniform("noise", 0, settings.noise), image)
    return image.addcmul_(noise.to(image.device, non_blocking=True), strength)


def _hidden(image: Tensor, settings: AugmentationSettings, draws: Draws) -> Tensor:
    """Rectangles that show the mean value of the sample, over all channels alike."""
    share = draws.uniform("dropout", 0, settings.dropout)
    mask = _rectangles(draws.rectangles, share, image.shape[2:], image.device)
    means = image.mean(dim=tuple(range(2, image.ndim)), keepdim=True)
    return torch.where(mask[:, None], means, image)


def _rectangles(
    drawn: Tensor, share: Tensor, shape: tuple[int, ...], device: torch.device
) -> Tensor:
    """Which px are hidden, `(b, [z,] y, x)`, bool: at most `share` `(b,)` of them.

    The rectangles of a sample are equally large, up to twice as long as wide, and may overlap.
    """
    n, n_rectangles, _ = drawn.shape
    n_dims = len(shape)
    middles, stretch = drawn.double().split(n_dims, dim=2)  # (b, rectangle, axis)
    aspect = (stretch - stretch.mean(dim=2, keepdim=True)).mul(math.log(2)).exp()
    edges = (share / n_rectangles)[:, None, None] ** (1 / n_dims) * aspect  # part of the patch
    inside = []
    for axis, size in enumerate(shape):
        px = (torch.arange(size, dtype=torch.float64) + 0.5) / size
        distance = (px - middles[..., axis, None]).abs()
        inside.append((distance <= edges[..., axis, None] / 2).float().to(device))
    rows = inside[-2].transpose(1, 2)  # (b, y, rectangle)
    if n_dims == 3:
        rows = torch.einsum("bkz,bky->bzyk", inside[0], inside[1]).flatten(1, 2)
    hidden: Tensor = (rows @ inside[-1]) > 0
    return hidden.view(n, *shape)
