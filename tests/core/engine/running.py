"""Run a network through the engine, as a whole, on a window, or in pieces of any size."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from napari_unet.core.engine import Plan, Request, Source, make_plan
from napari_unet.core.engine.ways import RowByRow
from napari_unet.core.image import Image, make_image
from napari_unet.core.normalization import IntensityScale


def image_of(array: npt.NDArray[Any]) -> Image:
    """`(c, [z,] y, x)` as an image."""
    return make_image(array, "cyx" if array.ndim == 3 else "czyx")


def unscaled(n_channels: int) -> IntensityScale:
    """Raw values are the input of the network."""
    return IntensityScale(offset=(0.0,) * n_channels, scale=(1.0,) * n_channels)


def request_for(network: nn.Module, array: npt.NDArray[Any], **about: Any) -> Request:
    """What a plan for `array` `(c, [z,] y, x)` is wanted for; logits come out."""
    about = {"activation": "none", "precision": "full"} | about
    return Request(
        network=network, dims=array.ndim - 1, in_channels=array.shape[0], shape=array.shape[1:],
        **about,
    )  # fmt: skip


def plan_for(network: nn.Module, array: npt.NDArray[Any], **about: Any) -> Plan:
    return make_plan(request_for(network, array, **about))


def with_strips(plan: Plan, n_bytes: int) -> Plan:
    """The same plan with layers that compute no more than `n_bytes` at once, if they can."""
    ways = [
        replace(way, strip_bytes=n_bytes) if isinstance(way, RowByRow) else way for way in plan.ways
    ]
    return replace(plan, ways=tuple(ways))


def run(
    plan: Plan, array: npt.NDArray[Any], window: tuple[tuple[int, int], ...] | None = None
) -> npt.NDArray[np.float32]:
    """The mean over the ways of a plan, `(output, *window)`; every px must come exactly once."""
    shape = array.shape[1:]
    window = tuple((0, n) for n in shape) if window is None else window
    source = Source(
        image=image_of(array), index=(), scale=unscaled(array.shape[0]),
        in_channels=array.shape[0], device=torch.device("cpu"),
    )  # fmt: skip
    return np.mean([_filled(way, source, shape, window) for way in plan.ways], axis=0)


def _filled(way: Any, source: Source, shape: Any, window: Any) -> npt.NDArray[np.float32]:
    room: npt.NDArray[np.float32] | None = None
    for part, found in way.compute(source, shape, window):
        if room is None:
            sizes = [stop - start for start, stop in window]
            room = np.full((found.shape[1], *sizes), np.nan, np.float32)
        there = [slice(a - w[0], b - w[0]) for (a, b), w in zip(part, window, strict=True)]
        assert np.isnan(room[(slice(None), *there)]).all(), "computed twice"
        room[(slice(None), *there)] = found[0].numpy()
    assert room is not None
    assert not np.isnan(room).any(), "left out"
    return room
