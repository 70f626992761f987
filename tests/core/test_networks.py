"""The U-Net: shapes, and how far its output really looks."""

from __future__ import annotations

from typing import Any, Literal

import pytest
import torch
from originals import image_for, largest_difference, randomised
from torch import nn

from napari_unet.core.architectures import architecture_of
from napari_unet.core.errors import ModelFileError, SettingsError
from napari_unet.core.networks import UNet, UNetConfig, Wanted, preset_of

Upsampling = Literal["transposed", "linear"]


@pytest.mark.parametrize("upsampling", ["transposed", "linear"])
@pytest.mark.parametrize("norm", ["batch", "none"])
@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("widths", [(4,), (4, 6), (4, 6, 8)])
def test_the_output_is_as_large_as_the_input(
    dims: Literal[2, 3], norm: Literal["batch", "none"], upsampling: Upsampling,
    widths: tuple[int, ...],
) -> None:  # fmt: skip
    config = UNetConfig(
        dims=dims, in_channels=2, out_channels=5, widths=widths, norm=norm, upsampling=upsampling
    )
    network = UNet(config).eval()
    sizes = (config.stride, 2 * config.stride, 3 * config.stride)[-dims:]
    with torch.no_grad():
        assert network(torch.rand(2, 2, *sizes)).shape == (2, 5, *sizes)
    n_norms = sum(isinstance(m, nn.BatchNorm2d | nn.BatchNorm3d) for m in network.modules())
    assert n_norms == (0 if norm == "none" else 2 * (2 * len(widths) - 1))


@pytest.mark.parametrize(
    ("n_levels", "upsampling", "halo"),
    [
        (1, "transposed", 2),
        (2, "transposed", 8),
        (3, "transposed", 24),
        (3, "linear", 28),
        (5, "transposed", 96),
    ],
)
def test_the_halo_is_that_computed_by_hand(
    n_levels: int, upsampling: Upsampling, halo: int
) -> None:
    assert UNetConfig(widths=(4,) * n_levels, upsampling=upsampling).halo == halo


@pytest.mark.parametrize("upsampling", ["transposed", "linear"])
@pytest.mark.parametrize(
    ("dims", "widths"),
    [(2, (2, 2)), (2, (3, 3, 3)), (2, (2, 2, 2, 2)), (3, (2, 2)), (3, (1, 1, 1))],
)
def test_the_halo_is_enough_and_not_far_too_much(
    dims: Literal[2, 3], widths: tuple[int, ...], upsampling: Upsampling
) -> None:
    torch.manual_seed(0)
    config = UNetConfig(dims=dims, widths=widths, upsampling=upsampling)
    network = UNet(config).eval()
    for weight in network.parameters():
        weight.data.abs_()  # nothing cancels, no ReLU is ever closed
    reach = max(reach_of(network, config, offset) for offset in {0, 1, config.stride - 1})
    assert reach <= config.halo
    assert reach > config.halo - 2 * config.stride


def reach_of(network: nn.Module, config: UNetConfig, offset: int) -> int:
    """How far beyond its block of `stride` px the output pixel `offset` in it looks, in px.

    Tiles begin and end on multiples of `stride`; so this is what they must read around.
    """
    first = config.halo + config.stride
    last = first + config.stride - 1
    image = torch.rand((1, 1, *[first + last + 1] * config.dims), requires_grad=True)
    network(image)[(0, 0, *[first + offset] * config.dims)].backward()
    assert image.grad is not None
    touched = image.grad[0, 0].nonzero()
    return int(max(first - touched.min(), touched.max() - last))


def test_dropout_acts_in_training_only() -> None:
    torch.manual_seed(0)
    network = UNet(UNetConfig(widths=(4, 8), dropout=0.5))
    image = torch.rand(1, 1, 16, 16)
    with torch.no_grad():
        network.eval()
        assert torch.equal(network(image), network(image))
        network.train()
        assert not torch.equal(network(image), network(image))


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"dims": 4}, "dims must be 2 or 3"),
        ({"in_channels": 0}, "in_channels"),
        ({"out_channels": 0}, "out_channels"),
        ({"widths": ()}, "widths"),
        ({"widths": (4, 0)}, "widths"),
        ({"dropout": 1.0}, "dropout"),
    ],
)
def test_refuses_a_network_that_cannot_be(settings: dict[str, Any], problem: str) -> None:
    with pytest.raises(SettingsError, match=problem):
        UNetConfig(**settings)


def test_builds_networks_by_name() -> None:
    assert isinstance(architecture_of("unet").build(UNetConfig(widths=(2, 2))), UNet)
    with pytest.raises(ModelFileError, match="'resnet' is not known here"):
        architecture_of("resnet")


def test_monai_gives_the_same() -> None:
    """Its `BasicUNet`, whose last up-convolution keeps the number of channels."""
    monai = pytest.importorskip("monai.networks.nets")
    widths = (4, 4, 8, 16, 32)
    ours = UNet(UNetConfig(in_channels=2, out_channels=3, widths=widths))
    randomised(ours)
    original = monai.BasicUNet(
        spatial_dims=2, in_channels=2, out_channels=3, features=(*widths, 4), act="relu",
        norm="batch", bias=False, upsample="deconv",
    ).eval()  # fmt: skip
    blocks = [*ours.encoder]
    for up, decoder in zip(ours.up, ours.decoder, strict=True):
        blocks += [up, decoder]
    with torch.no_grad():
        for theirs, mine in zip(
            _with_weights(original), _with_weights(nn.ModuleList([*blocks, ours.head])), strict=True
        ):
            assert type(theirs) is type(mine)
            theirs.load_state_dict(mine.state_dict(), strict=True)
    assert largest_difference(ours, original, image_for(2, 32, 48)) < 1e-5


def _with_weights(network: nn.Module) -> list[nn.Module]:
    """The layers that have weights, in the order in which they are evaluated."""
    return [module for module in network.modules() if [*module.parameters(recurse=False)]]


@pytest.mark.parametrize(
    ("name", "norm", "upsampling"),
    [("unet", "batch", "transposed"), ("unet-linear", "batch", "linear"),
     ("unet-plain", "none", "transposed")],
)  # fmt: skip
def test_its_variants_can_be_asked_for_by_name(name: str, norm: str, upsampling: str) -> None:
    for dims, n_levels in ((2, 5), (3, 4)):
        wanted = Wanted(dims=dims, in_channels=3, out_channels=1, width=2)
        config = preset_of(name).config_for(wanted)
        assert (config.norm, config.upsampling) == (norm, upsampling)
        assert config.widths == tuple(2 * 2**i for i in range(n_levels))
        assert (config.dims, config.in_channels, config.out_channels) == (dims, 3, 1)


def test_every_weight_gets_a_gradient() -> None:
    torch.manual_seed(0)
    for norm, upsampling in (("batch", "transposed"), ("none", "linear")):
        network = UNet(UNetConfig(widths=(3, 4, 5), norm=norm, upsampling=upsampling))
        network(image_for(1, 16, 16)).square().sum().backward()
        for name, weights in network.named_parameters():
            assert weights.grad is not None, name
            assert float(weights.grad.abs().max()) > 1e-7, name


def test_files_of_earlier_versions_keep_their_names() -> None:
    """Models that are shipped have been saved under these."""
    names = set(UNet(UNetConfig(widths=(2, 3))).state_dict())
    assert {
        "encoder.0.0.weight", "encoder.1.4.running_mean", "up.0.weight", "up.0.bias",
        "decoder.0.3.weight", "head.weight", "head.bias",
    } <= names  # fmt: skip
    assert len(names) == 3 * 2 * (1 + 5) + 2 + 2
    fields = ("dims", "in_channels", "out_channels", "widths", "norm", "upsampling", "dropout")
    assert UNetConfig.__slots__ == fields
