"""SegNet and SegNet-Basic: figures of the paper, and what the indices do."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
from encoder_checks import check_engine, check_preset, furthest, n_parameters, picture, reach_of
from originals import image_for, import_smp, randomised
from torch import nn

from napari_unet.core.errors import ImageError, SettingsError
from napari_unet.core.networks import Wanted, preset_of
from napari_unet.core.networks.segnet import SegNet, SegNetBasic, SegNetConfig
from napari_unet.core.training.settings import TrainSettings

STRIDES = {"segnet": 32, "segnet-basic": 16}


def small(name: str, width: int = 3, seed: int = 0, **wanted: Any) -> nn.Module:
    """A small one with weights that matter, in evaluation mode."""
    return randomised(preset_of(name).build(Wanted(width=width, **wanted)), seed)


@pytest.mark.parametrize("name", STRIDES)
def test_shapes_gradients_files_and_copies(name: str) -> None:
    wanted = Wanted(in_channels=3, out_channels=4, width=3)
    check_preset(preset_of(name), wanted, (64, 32), (32, 96))


def test_parameters_are_those_of_the_paper() -> None:
    widths = (64, 64, 128, 128, *[256] * 3, *[512] * 6)
    down = list(pairwise((3, *widths)))
    up = [(n_out, n_in) for n_in, n_out in down[:0:-1]]
    count = sum(9 * n_in * n_out + 3 * n_out for n_in, n_out in (*down, *up))  # norms: 2 each
    count += 64 * 11 * 9 + 11
    assert count == 29_449_355  # 29.4 million
    assert n_parameters("segnet", in_channels=3, out_channels=11) == count
    basic = 3 * 64 * 49 + 7 * 64 * 64 * 49 + 8 * 2 * 64 + 64 * 11 + 11
    assert n_parameters("segnet-basic", in_channels=3, out_channels=11) == basic == 1_416_075


def test_the_decoder_is_the_encoder_in_a_mirror() -> None:
    with torch.device("meta"):
        network = SegNet(SegNetConfig(in_channels=3, out_channels=11))

    def channels(part: nn.Module) -> list[tuple[int, int]]:
        layers = [m for m in part.modules() if isinstance(m, nn.Conv2d)]
        assert all(m.kernel_size == (3, 3) and m.padding == (1, 1) for m in layers)
        return [(m.in_channels, m.out_channels) for m in layers]

    down, up = channels(network.encoder), channels(network.decoder)
    assert len(down) == len(up) == 13
    assert up == [*((n_out, n_in) for n_in, n_out in down[:0:-1]), (64, 11)]
    norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
    assert len(norms) == 25  # after each convolution but the last


def test_the_encoder_is_vgg_16() -> None:
    import_smp()
    from torchvision import models

    with torch.device("meta"):
        found = SegNet(SegNetConfig(in_channels=3)).encoder.state_dict()
        wanted = models.vgg16_bn().features.state_dict()
    shapes = {name.removeprefix("features."): value.shape for name, value in found.items()}
    assert shapes == {name: value.shape for name, value in wanted.items()}


def test_the_decoder_of_the_small_one_has_no_relu() -> None:
    network = SegNetBasic(SegNetConfig(variant="basic", width=2))
    assert [type(m).__name__ for m in network.decoder[0]] == ["Conv2d", "BatchNorm2d"]
    assert [type(m).__name__ for m in network.encoder[0]] == ["Conv2d", "BatchNorm2d", "ReLU"]
    assert all(m.kernel_size == (7, 7) for m in network.modules() if isinstance(m, nn.Conv2d)
               and m is not network.head)  # fmt: skip


@pytest.mark.parametrize("name", STRIDES)
def test_values_go_back_to_where_they_were_the_largest(name: str) -> None:
    """What is put back at the first level lies at the largest px of each four, else there is 0."""
    network = small(name)
    seen: list[Any] = []
    pools = [m for m in network.modules() if isinstance(m, nn.MaxPool2d)]
    pools[0].register_forward_hook(lambda _, given, out: seen.append((given[0], out[0])))
    network.unpool.register_forward_hook(lambda _, given, out: seen.append((given[0], out)))
    with torch.no_grad():
        network(image_for(1, 64, 64))
    (full, _), (below, unpooled) = seen[0], seen[-1]
    assert unpooled.shape == full.shape
    largest = nn.functional.max_pool2d(full, 2).repeat_interleave(2, 2).repeat_interleave(2, 3)
    is_unique = nn.functional.avg_pool2d((full == largest).float(), 2) == 0.25
    is_unique = is_unique.repeat_interleave(2, 2).repeat_interleave(2, 3)
    wanted = below.repeat_interleave(2, 2).repeat_interleave(2, 3) * (full == largest)
    assert is_unique.float().mean() > 0.1
    assert torch.equal(unpooled[is_unique], wanted[is_unique])


@pytest.mark.parametrize("name", STRIDES)
@torch.no_grad()
def test_nothing_but_the_indices_comes_across(name: str) -> None:
    """With its indices and its deepest feature map, another image gives what the first gave."""
    network = small(name)
    (pool,) = {m for m in network.modules() if isinstance(m, nn.MaxPool2d)}
    seen: list[Any] = []
    watching = pool.register_forward_hook(lambda _, given, out: seen.append(out))
    wanted = network(image_for(1, 64, 64))
    watching.remove()
    other = image_for(1, 64, 64, seed=5)
    assert not torch.equal(network(other), wanted)
    kept = iter(seen)
    is_last = iter([*[False] * (len(seen) - 1), True])

    def replaced(_: nn.Module, given: Any, out: Any) -> Any:
        values, places = next(kept)
        return (values if next(is_last) else out[0]), places

    pool.register_forward_hook(replaced)
    assert torch.equal(network(other), wanted)


@pytest.mark.parametrize("name", STRIDES)
def test_the_engine_gives_the_same(name: str) -> None:
    plan = check_engine(small(name, out_channels=3), picture(1, 75, 101), STRIDES[name])
    assert plan.name == "in tiles"


@pytest.mark.parametrize("name", STRIDES)
@pytest.mark.parametrize("content", ["noise", "flat"])
def test_tiles_are_exact(name: str, content: str) -> None:
    """Also where all px of a window are as large, so that a hair decides which was the largest."""
    image = picture(1, 301, 70)
    if content == "flat":
        image[:] = 0
        image[:, 100:140, 30:50] = 2.5
    network = small(name)
    plan = check_engine(network, image, STRIDES[name], tile_size=64)
    assert plan.largest == (64, 64)


@pytest.mark.parametrize("name", STRIDES)
def test_the_halo_is_enough_and_not_far_too_much(name: str) -> None:
    network = small(name, width=1)
    needed = furthest(network, STRIDES[name], 19)
    assert needed <= reach_of(network) < needed + 2 * STRIDES[name]


def test_the_recipe_is_that_of_the_paper() -> None:
    for name in STRIDES:
        settings = TrainSettings(network=name).completed(preset_of(name).recipe)
        assert (settings.optimizer, settings.momentum) == ("sgd", 0.9)
        assert (settings.learning_rate, settings.loss) == (0.1, "cross-entropy")


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"dims": 3}, "dims must be 2"),
        ({"out_channels": 0}, "out_channels"),
        ({"width": 0}, "width"),
        ({"variant": "large"}, "variant"),
    ],
)
def test_what_cannot_be_built_is_said(settings: dict[str, Any], problem: str) -> None:
    with pytest.raises(SettingsError, match=problem):
        SegNetConfig(**settings)


def test_what_does_not_fit_is_said() -> None:
    with pytest.raises(ImageError, match="multiples of 32 px, but this one has 48 × 64 px"):
        small("segnet")(image_for(1, 48, 64))
    assert small("segnet-basic")(image_for(1, 48, 64)).shape == (1, 2, 48, 64)
