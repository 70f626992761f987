"""An image to show a saved network at work with, its result, and a picture of both."""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy import ndimage
from torch import nn

from napari_unet.core.checkpoints.packages.bioimageio_normalization import steps_of
from napari_unet.core.checkpoints.packages.bioimageio_processing import Step, apply_steps
from napari_unet.core.checkpoints.saving.sizes import Sizes
from napari_unet.core.errors import ModelFileError
from napari_unet.core.model import Description

__all__ = ["Example", "example_of", "picture_of"]

LARGEST = {2: 256, 3: 48}
"""Examples need not be larger than this, in px."""
SMALLEST = {2: 64, 3: 16}
DTYPES = ("uint8", "int8", "uint16", "int16", "uint32", "int32", "float32")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Example:
    """A raw image, the steps before and after the network, and the result.

    Attributes
    ----------
    image : raw values `(1, c, [z,] y, x)`.
    result : probabilities `(1, output, [z,] y, x)`, float32.
    before, after : steps that bioimage.io knows.
    """

    image: npt.NDArray[Any]
    result: npt.NDArray[np.float32]
    before: tuple[Step, ...]
    after: tuple[Step, ...]


def example_of(
    network: nn.Module,
    about: Description,
    sizes: Sizes,
    image: npt.NDArray[np.generic] | None = None,
) -> Example:
    """Run a network on the middle of an image `(c, [z,] y, x)`, or of a simulated one.

    Raises
    ------
    ModelFileError
        If the image is not one for this network, or bioimage.io has no words for the steps.
    """
    raw = _simulated(about, sizes) if image is None else _usable(image, about)
    raw = _fitted(raw, sizes)[None]  # (1, c, [z,] y, x)
    before = steps_of(about.normalization, about.in_channels, raw.dtype)
    after = _after(about)
    with torch.inference_mode():
        logits = network(torch.from_numpy(apply_steps(raw, before))).numpy()
    result = apply_steps(logits, after)
    return Example(image=raw, result=result, before=tuple(before), after=after)


def _after(about: Description) -> tuple[Step, ...]:
    """What makes probabilities of logits."""
    steps = [Step(name="sigmoid")] if about.activation == "sigmoid" else []
    if about.activation == "softmax":
        steps = [Step(name="softmax", values={"axis": "channel"})]
    if about.inverted:
        steps.append(Step(name="scale_linear", values={"gain": -1.0, "offset": 1.0}))
    return (*steps, Step(name="ensure_dtype", values={"dtype": "float32"}))


def _usable(image: npt.NDArray[np.generic], about: Description) -> npt.NDArray[Any]:
    """An image of a type that bioimage.io knows, with the channels that the network takes."""
    image = np.asarray(image)
    if image.ndim != about.dims + 1 or image.shape[0] not in (1, about.in_channels):
        raise ModelFileError(
            f"The example image has the shape {image.shape}, but the model takes "
            f"{about.in_channels} channel(s) of {about.dims} axes each. Choose another image, or "
            f"save without one."
        )
    if image.dtype.name not in DTYPES:
        image = image.astype(np.uint8 if image.dtype == bool else np.float32)
    if image.dtype.kind == "f":
        image = np.nan_to_num(image)
    n_times = about.in_channels if image.shape[0] == 1 else 1
    repeated: npt.NDArray[Any] = np.repeat(image, n_times, axis=0)
    return repeated


def _simulated(about: Description, sizes: Sizes) -> npt.NDArray[Any]:
    """Soft blobs, always the same ones, of a brightness that the network is used to."""
    random = np.random.default_rng(0)
    shape = sizes.within((SMALLEST[about.dims],) * about.dims)
    noise = random.standard_normal((about.in_channels, *shape))
    blobs = np.stack([ndimage.gaussian_filter(channel, 4) for channel in noise])
    blobs = (blobs - blobs.min()) / np.ptp(blobs)  # 0 ... 1
    blobs += 0.02 * random.standard_normal(blobs.shape)
    normal = about.normalization
    if normal.kind != "none":
        bytes_: npt.NDArray[np.uint8] = np.clip(20 + 200 * blobs, 0, 255).astype(np.uint8)
        return bytes_
    column = (-1, *[1] * about.dims)
    middle = np.reshape(normal.offset or (0.0,), column)
    width = np.abs(np.reshape(normal.scale or (1.0,), column))
    raw: npt.NDArray[np.float32] = (middle + width * (4 * blobs - 2)).astype(np.float32)
    return raw


def _fitted(image: npt.NDArray[Any], sizes: Sizes) -> npt.NDArray[Any]:
    """The middle of an image `(c, [z,] y, x)` of a size that fits; a small one is mirrored."""
    dims = image.ndim - 1
    shape = sizes.within(tuple(min(n, LARGEST[dims]) for n in image.shape[1:]))
    missing = [max(0, n - have) for n, have in zip(shape, image.shape[1:], strict=True)]
    image = np.pad(image, [(0, 0), *((0, n) for n in missing)], mode="symmetric")
    starts = [(have - n) // 2 for n, have in zip(shape, image.shape[1:], strict=True)]
    window = tuple(slice(at, at + n) for at, n in zip(starts, shape, strict=True))
    return np.ascontiguousarray(image[(slice(None), *window)])


# --- picture -----------------------------------------------------------------------------------


def picture_of(example: Example, about: Description) -> bytes:
    """A PNG of twice the width of its height: the image on the left, its objects on the right."""
    image, result = example.image[0], example.result[0]
    if about.dims == 3:
        image, result = image[:, image.shape[1] // 2], result[:, result.shape[1] // 2]
    objects = [at for at, number in enumerate(about.output_class) if number > 0]
    shown = [_grey(image.mean(0)), (np.clip(result[objects].max(0), 0, 1) * 255).astype(np.uint8)]
    size = min(min(part.shape) for part in shown)
    return _png(np.hstack([_middle(part, size) for part in shown]))


def _grey(values: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    low, high = np.percentile(values, (1, 99.8))
    grey: npt.NDArray[np.float64] = np.clip((values - low) / max(high - low, 1e-12), 0, 1) * 255
    return grey.astype(np.uint8)


def _middle(picture: npt.NDArray[np.uint8], size: int) -> npt.NDArray[np.uint8]:
    y, x = ((n - size) // 2 for n in picture.shape)
    return picture[y : y + size, x : x + size]


def _png(picture: npt.NDArray[np.uint8]) -> bytes:
    """A grey picture `(y, x)` as PNG."""
    height, width = picture.shape
    rows = np.hstack([np.zeros((height, 1), np.uint8), picture])  # (y, 1 + x): no filter
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    parts = ((b"IHDR", header), (b"IDAT", zlib.compress(rows.tobytes(), 9)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in parts
    )
