"""What is asked of networks on encoders: shapes, gradients, files, and the engine."""

from __future__ import annotations

import json
from copy import deepcopy
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from originals import image_for, randomised
from torch import Tensor, nn

from napari_unet.core.checkpoints.plain import from_plain, to_json
from napari_unet.core.engine import Plan, Request, Source, make_plan
from napari_unet.core.engine.facts import general_facts
from napari_unet.core.image import make_image
from napari_unet.core.networks import Preset, Wanted, preset_of
from napari_unet.core.normalization import IntensityScale

Array = npt.NDArray[np.float32]


def n_parameters(name: str, **wanted: Any) -> int:
    """How many numbers a network learns; it takes no memory."""
    with torch.device("meta"):
        network = preset_of(name).build(Wanted(**wanted))
    return sum(weights.numel() for weights in network.parameters())


def check_preset(preset: Preset, wanted: Wanted, *sizes: tuple[int, int]) -> None:
    """Logits of the size of the image in training and in use; what is in a file is all of it."""
    torch.manual_seed(0)
    network = preset.build(wanted)
    for size in sizes:
        image = image_for(wanted.in_channels, *size).repeat(2, 1, 1, 1)
        kept = image.clone()
        with torch.no_grad():
            assert network.train()(image).shape == (2, wanted.out_channels, *size)
            assert network.eval()(image[:1]).shape == (1, wanted.out_channels, *size)
        assert torch.equal(image, kept)
    check_gradients(network, image[:1])
    check_stands_alone(network, preset, preset.config_for(wanted), image[:1])


def check_gradients(network: nn.Module, image: Tensor) -> None:
    """From the first step on, the output depends on every single tensor of weights.

    In evaluation mode, as a bias before a batch norm does nothing while training.
    """
    logits = network.eval()(image)
    factors = torch.randn(logits.shape, generator=torch.Generator().manual_seed(0))
    (logits * factors).sum().backward()
    for name, weights in network.named_parameters():
        assert weights.grad is not None, name
        assert float(weights.grad.abs().max()) > 1e-9, name
    network.zero_grad()


def check_stands_alone(network: nn.Module, preset: Preset, config: Any, image: Tensor) -> None:
    """Built again from what a file says of it, or copied, it is the same network."""
    again = from_plain(type(config), json.loads(to_json(config)))
    assert again == config
    assert preset.kind.config is type(config)
    randomised(network)
    with torch.device("meta"):
        rebuilt = preset.kind.network(again).eval()
    rebuilt.load_state_dict(network.state_dict(), strict=True, assign=True)
    copied = deepcopy(network)
    with torch.no_grad():
        expected = network(image)
        assert expected.std() > 0
        assert torch.equal(rebuilt(image), expected)
        for weights in network.parameters():
            weights.zero_()
        assert torch.equal(copied(image), expected)


def picture(*shape: int, seed: int = 0) -> Array:
    """Normally distributed values."""
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def planned(network: nn.Module, image: Array, **about: Any) -> Plan:
    """How the engine goes about the logits of `image` `(c, y, x)`."""
    request = Request(
        network=network, dims=2, in_channels=image.shape[0], shape=image.shape[1:],
        activation="none", precision="full", **about,
    )  # fmt: skip
    return make_plan(request)


def by_engine(plan: Plan, image: Array) -> Array:
    """Logits `(class, y, x)` that the engine finds for all of `image` `(c, y, x)`."""
    n, *shape = image.shape
    scale = IntensityScale(
        offset=(0.0,) * n, scale=(1.0,) * n, low=(-np.inf,), high=(np.inf,)
    )  # fmt: skip
    source = Source(
        image=make_image(image, "cyx"), index=(), scale=scale, in_channels=n,
        device=torch.device("cpu"),
    )  # fmt: skip
    (way,) = plan.ways
    room: Array | None = None
    for part, found in way.compute(source, tuple(shape), tuple((0, n) for n in shape)):
        if room is None:
            room = np.full((found.shape[1], *shape), np.nan, np.float32)
        room[(slice(None), *(slice(*span) for span in part))] = found[0].numpy()
    assert room is not None
    return room


@torch.no_grad()
def by_hand(network: nn.Module, image: Array, stride: int) -> Array:
    """The same from one run on the whole image, mirrored to a size that fits."""
    shape = image.shape[1:]
    around = [(0, 0), *((0, -n % stride) for n in shape)]
    found: Array = network(torch.from_numpy(np.pad(image, around, mode="reflect"))[None])[0].numpy()
    return found[:, : shape[0], : shape[1]]


def check_engine(network: nn.Module, image: Array, stride: int, **about: Any) -> Plan:
    """The engine gives what the network gives for the whole image."""
    expected = by_hand(network, image, stride)
    assert expected.std() > 1e-3
    plan = planned(network, image, **about)
    assert plan.is_exact, plan.reason
    found = by_engine(plan, image)
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-5 * max(1, abs(expected).max()))
    return plan


@torch.no_grad()
def furthest(network: nn.Module, stride: int, n_blocks: int, offsets: range | None = None) -> int:
    """How far around its block of `stride` px an output px looks at most, along x, in px.

    What is not a number spreads as far as anything matters, whatever the weights are. It is put
    at all places of a block, or at `offsets` in it.
    """
    middle, most = n_blocks // 2 * stride, 0
    for offset in range(stride) if offsets is None else offsets:
        image = image_for(1, stride, n_blocks * stride)
        image[..., middle + offset] = torch.nan
        touched = network(image)[0].isnan().any(dim=0).any(dim=0).nonzero()
        first, last = int(touched.min()), int(touched.max())
        assert 0 < first <= last < n_blocks * stride - 1, "it looks further than the image"
        first, last = first // stride * stride, last // stride * stride  # blocks that look there
        most = max(most, middle + offset - (first + stride - 1), last - middle - offset)
    return most


def reach_of(network: nn.Module) -> int:
    """What the engine says of that."""
    reach = general_facts(network, 1, 2).reach
    assert reach is not None
    return int(reach[1])
