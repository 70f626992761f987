"""The U-Net of 2015, against the figures of the paper and another implementation."""

from __future__ import annotations

import math
from itertools import pairwise, product
from typing import Any

import numpy as np
import pytest
import torch
from originals import image_for, largest_difference, randomised
from torch import Tensor, nn
from unet_checks import (
    by_engine,
    check_engine,
    check_gradients,
    check_stands_alone,
    n_parameters,
    on_meta,
    picture,
)

from napari_unet.core.checkpoints.families.jvanvugt import JvanvugtConfig, JvanvugtUNet
from napari_unet.core.engine.facts import general_facts
from napari_unet.core.errors import SettingsError
from napari_unet.core.losses import class_log_probabilities, masked_cross_entropy
from napari_unet.core.networks import Wanted, preset_of
from napari_unet.core.networks.unet_2015 import UNet2015, UNet2015Config
from napari_unet.core.training.settings import TrainSettings

SMALL = UNet2015Config(widths=(3, 4, 5), out_channels=3)
DEEP = UNet2015Config(widths=(2, 2, 3, 3, 4))


def test_it_has_the_layers_of_the_paper() -> None:
    network = on_meta(preset_of("unet-2015"), Wanted())
    convs = [m for m in network.modules() if isinstance(m, nn.Conv2d)]
    ups = [m for m in network.modules() if isinstance(m, nn.ConvTranspose2d)]
    assert len(convs) + len(ups) == 23
    assert [m.kernel_size for m in convs] == [(3, 3)] * 18 + [(1, 1)]
    assert all(m.padding == (0, 0) for m in convs)
    down = [(1, 64), (64, 64), (64, 128), (128, 128), (128, 256), (256, 256), (256, 512)]
    down += [(512, 512), (512, 1024), (1024, 1024)]
    up = [(1024, 512), (512, 512), (512, 256), (256, 256), (256, 128), (128, 128), (128, 64)]
    assert [(m.in_channels, m.out_channels) for m in convs] == [*down, *up, (64, 64), (64, 2)]
    assert [(m.in_channels, m.out_channels) for m in ups] == [
        (1024, 512), (512, 256), (256, 128), (128, 64),
    ]  # fmt: skip
    assert not any("Norm" in type(m).__name__ for m in network.modules())


def test_it_has_31_million_parameters() -> None:
    widths = (64, 128, 256, 512, 1024)
    count = 64 * 2 + 2  # 1x1 at the end
    for n_in, n in pairwise((1, *widths)):
        count += n_in * n * 9 + n + n * n * 9 + n  # two convolutions on the way down
    for n, n_below in pairwise(widths):
        count += n_below * n * 4 + n  # up-convolution
        count += 2 * n * n * 9 + n + n * n * 9 + n  # two convolutions on the way up
    assert count == 31_030_658
    assert n_parameters(on_meta(preset_of("unet-2015"), Wanted())) == count


def walked(n: int, n_poolings: int) -> int | None:
    """The size in the end, layer by layer, as in figure 1 of the paper; None if it fails."""
    for _ in range(n_poolings):
        n -= 4
        if n < 2 or n % 2:
            return None
        n //= 2
    n -= 4
    for _ in range(n_poolings):
        n = 2 * n - 4
    return n if n > 0 else None


def test_572_px_give_388_px_with_the_sizes_of_the_figure() -> None:
    network = on_meta(preset_of("unet-2015"), Wanted())
    sizes = []
    for block in [*network.encoder, *network.decoder]:
        block.register_forward_hook(lambda _m, _i, out: sizes.append(tuple(out.shape)))
    logits = network(torch.empty(1, 1, 572, 572, device="meta"))
    assert logits.shape == (1, 2, 388, 388)
    assert sizes == [
        (1, 64, 568, 568), (1, 128, 280, 280), (1, 256, 136, 136), (1, 512, 64, 64),
        (1, 1024, 28, 28), (1, 512, 52, 52), (1, 256, 100, 100), (1, 128, 196, 196),
        (1, 64, 388, 388),
    ]  # fmt: skip


@pytest.mark.parametrize("n_poolings", [0, 1, 2, 3, 4, 5])
def test_which_sizes_fit(n_poolings: int) -> None:
    config = UNet2015Config(widths=(1,) * (n_poolings + 1))
    fitting = []
    for n in range(1, 700):
        expected = walked(n, n_poolings)
        if expected is None:
            with pytest.raises(SettingsError, match=f"{n} px along an axis does not fit"):
                config.output_size(n)
        else:
            assert config.output_size(n) == expected
            fitting.append(n)
    assert fitting == list(range(config.least, 700, config.stride))


def test_the_sizes_of_the_paper_fit() -> None:
    config = UNet2015Config()
    assert (config.least, config.stride, config.margin) == (188, 16, 184)
    sizes = {188: 4, 204: 20, 236: 52, 284: 100, 300: 116, 540: 356, 572: 388, 700: 516}
    assert {n: config.output_size(n) for n in sizes} == sizes


@pytest.mark.parametrize("size", [(188, 188), (188, 220), (236, 204)])
def test_the_output_has_that_size(size: tuple[int, int]) -> None:
    with torch.no_grad():
        logits = UNet2015(DEEP).eval()(torch.zeros(2, 1, *size))
    assert logits.shape == (2, 2, size[0] - 184, size[1] - 184)


def test_it_says_which_sizes_fit() -> None:
    network = UNet2015(DEEP)
    sentence = (
        r"An image of 512 px along an axis does not fit .* takes 188, 204, 220, ... px \(steps of "
        r"16 px\) and gives 184 px less.*to 524 px say"
    )
    with pytest.raises(SettingsError, match=sentence):
        network(torch.zeros(1, 1, 572, 512))
    with pytest.raises(SettingsError, match="to 188 px say"):
        network(torch.zeros(1, 1, 64, 572))


def test_the_engine_finds_out_the_same_sizes() -> None:
    fit = general_facts(UNet2015(DEEP).eval(), 1, 2).fit
    assert (fit.stride, fit.margin, fit.least) == ((16, 16), (184, 184), (188, 188))


def as_jvanvugt(network: UNet2015) -> JvanvugtUNet:
    """The same weights in another implementation, by its names."""
    config = network.config
    other = JvanvugtUNet(
        JvanvugtConfig(
            in_channels=config.in_channels, out_channels=config.out_channels, widths=config.widths
        )
    )
    names = {"encoder": "down_path", "head": "last"}
    renamed: dict[str, Tensor] = {}
    for name, value in network.state_dict().items():
        part, _, rest = name.partition(".")
        level, _, inside = rest.partition(".")
        if part == "up":
            renamed[f"up_path.{level}.up.{inside}"] = value
        elif part == "decoder":
            renamed[f"up_path.{level}.conv_block.block.{inside}"] = value
        elif part == "encoder":
            renamed[f"down_path.{level}.block.{inside}"] = value
        else:
            renamed[f"{names[part]}.{rest}"] = value
    other.load_state_dict(renamed, strict=True)
    return other.eval()


@pytest.mark.parametrize(
    ("config", "size"),
    [(SMALL, (44, 56)), (DEEP, (188, 204)), (UNet2015Config(widths=(3,)), (9, 7))],
)
def test_another_implementation_gives_the_same(config: UNet2015Config, size: Any) -> None:
    network = UNet2015(config)
    randomised(network)
    difference = largest_difference(network, as_jvanvugt(network), image_for(1, *size))
    assert difference < 1e-5


@pytest.mark.parametrize("shape", [(61, 53), (1, 7), (40, 44)])
def test_the_result_is_that_of_the_mirrored_image(shape: tuple[int, int]) -> None:
    check_engine(UNet2015(SMALL), picture(1, *shape), stride=4, margin=40)


def test_overlapping_tiles_of_the_mirrored_image_make_up_the_segmentation() -> None:
    """Figure 2 of the paper: what is missing around the image is continued by mirroring.

    Tiles of 36 px follow each other by 32 px, since poolings see multiples of 16 px alike.
    """
    network = randomised(UNet2015(DEEP))
    image = picture(1, 45, 70)
    tile, step, half = 36, 32, DEEP.margin // 2  # of the output; the input has 220 px
    shown = np.pad(image, [(0, 0), (half, half + tile), (half, half + tile)], mode="reflect")
    whole = np.empty((2, 2 * step + 4, 3 * step + 4), np.float32)
    for y, x in product(range(0, 2 * step, step), range(0, 3 * step, step)):
        window = torch.from_numpy(shown[None, :, y : y + 220, x : x + 220].copy())
        with torch.no_grad():
            whole[:, y : y + tile, x : x + tile] = network(window)[0].numpy()
    expected = whole[:, :45, :70]
    for about in ({}, {"tile_size": 32}):
        found = by_engine(network, image, **about)
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)
        clear = abs(expected[0] - expected[1]) > 1e-3
        assert clear.mean() > 0.9
        assert np.array_equal(found.argmax(0)[clear], expected.argmax(0)[clear])


def test_weights_are_drawn_as_in_the_paper() -> None:
    torch.manual_seed(0)
    network = UNet2015(UNet2015Config(widths=(16, 32, 64)))
    for name, module in network.named_modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            weight, bias = module.weight.detach(), module.bias
            n_px = 1 if isinstance(module, nn.ConvTranspose2d) else math.prod(module.kernel_size)
            std, n = math.sqrt(2 / (module.in_channels * n_px)), weight.numel()
            # Within five standard errors.
            assert float(weight.std()) == pytest.approx(std, rel=5 / math.sqrt(2 * n)), name
            assert float(weight.mean()) == pytest.approx(0, abs=5 * std / math.sqrt(n)), name
            assert bias is not None
            assert not bias.any()


def test_dropout_acts_after_the_two_lowest_levels_of_the_way_down() -> None:
    network = UNet2015(DEEP)
    places: list[tuple[int, ...]] = []
    network.dropout.register_forward_hook(lambda _m, given, _o: places.append(given[0].shape))
    image = torch.rand(1, 1, 188, 188, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        network.train()
        one, other = network(image), network(image)
        assert not torch.equal(one, other)
        assert [shape[1:] for shape in places[:2]] == [(3, 16, 16), (4, 4, 4)]
        network.eval()
        assert torch.equal(network(image), network(image))
    assert network.dropout.p == 0.5


def test_what_dropout_takes_is_missing_on_both_ways() -> None:
    """The features that go across are those that go down."""
    network = UNet2015(UNet2015Config(widths=(2, 2), dropout=0.5)).train()
    kept: list[Tensor] = []
    network.dropout.register_forward_hook(lambda _m, _i, out: kept.append(out.detach().clone()))
    seen: list[Tensor] = []
    network.decoder[0].register_forward_pre_hook(lambda _m, given: seen.append(given[0].detach()))
    network(torch.rand(1, 1, 24, 24))
    assert torch.equal(seen[0][:, 2:], kept[0][:, :, 4:-4, 4:-4])


def test_gradients_reach_every_weight() -> None:
    torch.manual_seed(1)
    check_gradients(UNet2015(UNet2015Config(widths=(4, 6, 8), in_channels=2)), image_for(2, 52, 52))


def test_it_stands_alone() -> None:
    check_stands_alone("unet_2015", SMALL, image_for(1, 48, 44))


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"dims": 3}, "dims must be 2"),
        ({"in_channels": 0}, "in_channels"),
        ({"widths": ()}, "widths"),
        ({"widths": (4, 0)}, "widths"),
        ({"widths": (1,) * 9}, "9 levels"),
        ({"dropout": 1.0}, "dropout"),
    ],
)
def test_refuses_a_network_that_cannot_be(settings: dict[str, Any], problem: str) -> None:
    with pytest.raises(SettingsError, match=problem):
        UNet2015Config(**settings)


def test_its_recipe_is_that_of_the_paper() -> None:
    settings = TrainSettings(network="unet-2015").completed(preset_of("unet-2015").recipe)
    assert (settings.optimizer, settings.momentum, settings.batch_size) == ("sgd", 0.99, 1)
    assert (settings.loss, settings.separation, settings.outputs) == (
        "cross-entropy", 10.0, "softmax",
    )  # fmt: skip
    assert UNet2015Config().output_size(572) == settings.patch_size
    assert (settings.weight_decay, settings.clip, settings.average) == (0, 0, 0)


def test_it_learns_with_the_momentum_of_the_paper() -> None:
    """Bright discs on noise, with the preset's learning rate."""
    recipe = preset_of("unet-2015").recipe
    torch.manual_seed(0)
    network = UNet2015(UNet2015Config(widths=(16, 32, 64)))
    optimizer = torch.optim.SGD(
        network.parameters(), lr=recipe["learning_rate"], momentum=recipe["momentum"]
    )
    generator = np.random.default_rng(0)
    yy, xx = np.mgrid[:76, :76]
    losses = []
    for _ in range(100):
        y, x = generator.integers(20, 56, 2)
        disc = (yy - y) ** 2 + (xx - x) ** 2 < 10**2
        image = (disc + generator.normal(0, 0.5, disc.shape)).astype(np.float32)
        logits = network(torch.from_numpy(image)[None, None])
        target = torch.from_numpy(disc[20:-20, 20:-20].astype(np.uint8))[None]
        loss = masked_cross_entropy(class_log_probabilities(logits, (0, 1)), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert np.mean(losses[-10:]) < 0.15
