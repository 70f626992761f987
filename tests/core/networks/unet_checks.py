"""What is asked of every U-Net: nothing of it is left out, copied wrongly, or wrong at borders."""

from __future__ import annotations

import json
from copy import deepcopy
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from originals import randomised
from torch import Tensor, nn

from napari_unet.core.architectures import architecture_of
from napari_unet.core.checkpoints.plain import from_plain, to_json
from napari_unet.core.engine import Request, Source, make_plan
from napari_unet.core.image import make_image
from napari_unet.core.networks import Preset
from napari_unet.core.normalization import IntensityScale

Array = npt.NDArray[np.float32]


def n_parameters(network: nn.Module) -> int:
    """All numbers that are learned."""
    return sum(weights.numel() for weights in network.parameters())


def on_meta(preset: Preset, wanted: Any) -> nn.Module:
    """A network of full size that takes no memory."""
    with torch.device("meta"):
        return preset.build(wanted)


def picture(*shape: int, seed: int = 0) -> Array:
    """Normally distributed values."""
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def by_engine(network: nn.Module, image: Array, **about: Any) -> Array:
    """Logits `(class, [z,] y, x)` that the engine finds for all of `image` `(c, [z,] y, x)`."""
    n_channels, *shape = image.shape
    request = Request(
        network=network, dims=len(shape), in_channels=n_channels, shape=tuple(shape),
        activation="none", precision="full", **about,
    )  # fmt: skip
    plan = make_plan(request)
    assert plan.is_exact, plan.reason
    source = Source(
        image=make_image(image, "cyx" if len(shape) == 2 else "czyx"), index=(),
        scale=IntensityScale(
            offset=(0.0,) * n_channels, scale=(1.0,) * n_channels, low=(-np.inf,), high=(np.inf,)
        ),
        in_channels=n_channels, device=torch.device("cpu"),
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
def by_hand(network: nn.Module, image: Array, stride: Any, margin: Any) -> Array:
    """The same from one run on the whole image, mirrored to a size that fits."""
    shape = image.shape[1:]
    stride, margin = np.broadcast_to(stride, len(shape)), np.broadcast_to(margin, len(shape))
    around = [(0, 0)]
    for n, step, lost in zip(shape, stride.tolist(), margin.tolist(), strict=True):
        left = -(-n // step) * step  # what is left of `step * k + margin` px
        left += (4 - left) % step if lost else 0  # unpadded: 4 px more than a multiple
        around.append((lost // 2, left - n + lost - lost // 2))
    shown = torch.from_numpy(np.pad(image, around, mode="reflect"))
    found: Array = network(shown[None])[0].numpy()
    return found[(slice(None), *(slice(0, n) for n in shape))]


def check_engine(network: nn.Module, image: Array, stride: Any, margin: Any = 0) -> None:
    """Row by row or in tiles the network gives what it gives for the whole image."""
    randomised(network)
    expected = by_hand(network, image, stride, margin)
    assert expected.std() > 1e-3
    found = by_engine(network, image)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4 * max(1, abs(expected).max()))


def check_gradients(network: nn.Module, image: Tensor) -> None:
    """The output depends on every single weight tensor, and on the image."""
    network.train()
    image = image.clone().requires_grad_()
    logits = network(image)
    random = torch.Generator().manual_seed(0)
    (logits * torch.randn(logits.shape, generator=random)).sum().backward()
    for name, weights in network.named_parameters():
        assert weights.grad is not None, name
        assert float(weights.grad.abs().max()) > 1e-6, name
    assert image.grad is not None
    assert float(image.grad.abs().max()) > 0


def check_stands_alone(kind: str, config: Any, image: Tensor) -> None:
    """Built again from what a file says of it, or copied, it is the same network."""
    again = from_plain(type(config), json.loads(to_json(config)))
    assert again == config
    architecture = architecture_of(kind)
    assert architecture.config is type(config)
    network = randomised(architecture.build(config))
    rebuilt = architecture.build(again).eval()
    rebuilt.load_state_dict(network.state_dict(), strict=True)
    copied = deepcopy(network)
    with torch.no_grad():
        expected = network(image)
        assert torch.equal(rebuilt(image), expected)
        for weights in network.parameters():
            weights.zero_()
        assert torch.equal(copied(image), expected)
