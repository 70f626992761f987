"""The figures of networks, re-derived by hand or from the papers."""

import pytest
import torch
from torch import nn

from napari_unet.core.errors import SettingsError
from napari_unet.core.network_facts import facts_of, multiply_adds
from napari_unet.core.networks import Wanted, preset_of, presets


def test_one_convolution_by_hand():
    layer = nn.Conv2d(3, 5, kernel_size=3, padding=1, device="meta")
    assert multiply_adds(layer, (1, 3, 64, 64)) == 3 * 5 * 9


def test_a_strided_and_a_transposed_convolution_by_hand():
    layers = nn.Sequential(
        nn.Conv2d(2, 4, kernel_size=2, stride=2, device="meta"),  # at a quarter of the pixels
        nn.ConvTranspose2d(4, 6, kernel_size=2, stride=2, device="meta"),
    )
    assert multiply_adds(layers, (1, 2, 32, 32)) == 2 * 4 * 4 / 4 + 4 * 6 * 4 / 4


def test_groups_cost_less():
    layer = nn.Conv2d(8, 8, kernel_size=3, padding=1, groups=8, device="meta")
    assert multiply_adds(layer, (1, 8, 16, 16)) == 8 * 9


def test_layers_that_are_called_again_count_again():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Conv2d(2, 2, kernel_size=1, device="meta")

        def forward(self, image):
            return self.layer(self.layer(image))

    assert multiply_adds(Twice(), (1, 2, 8, 8)) == 2 * 2 * 2


def test_the_unet_of_2015():
    facts = facts_of("unet-2015")
    assert facts.n_parameters == 31_030_658  # 23 convolutions with biases, added up by hand
    assert facts.margin == (184, 184)  # 572 -> 388
    assert facts.stride == (16, 16)


def test_the_receptive_field_of_the_padded_unet():
    """Five levels of two 3x3 convolutions, added up by hand.

    Down to the bottom: 2 px a side and level, at 1, 2, 4, 8 and 16 px each, and pooled pixels
    that are whole: from a bottom pixel of 16 px, 2 * (2 * 1 + 2 * 2 + 2 * 4 + 2 * 8 + 2 * 16)
    more, which is 140. On the way up, an output pixel at the side of its block reaches 2 px,
    then 2 px of 2, 4 and 8: the bottom pixels under these are 5, whatever its place: 4 * 16 more.
    """
    assert facts_of("unet").receptive_field == (140 + 4 * 16,) * 2


def test_what_has_statistics_of_the_whole_image_says_so():
    facts = facts_of("pspnet")
    assert facts.receptive_field is None and facts.halo is None


def test_the_width_changes_the_cost_and_not_what_it_sees():
    narrow, wide = (facts_of("unet", Wanted(width=width)) for width in (8, 16))
    assert wide.receptive_field == narrow.receptive_field and wide.halo == narrow.halo
    assert 3.9 < wide.n_parameters / narrow.n_parameters < 4.1
    assert 3.8 < wide.multiply_adds / narrow.multiply_adds < 4.1


def test_volumes():
    facts = facts_of("unet", Wanted(dims=3, width=4))
    assert facts.dims == 3 and facts.stride == (8, 8, 8)


def test_the_global_generator_is_left_alone():
    facts_of.cache_clear()
    torch.manual_seed(1)
    expected = torch.rand(1)
    torch.manual_seed(1)
    facts_of("unet-tutorial")
    assert torch.equal(torch.rand(1), expected)


@pytest.mark.parametrize("name", presets())
def test_parameters_are_those_of_the_real_network(name):
    preset = preset_of(name)
    with torch.device("meta"):
        network = preset.build(Wanted(dims=preset.dims[0], in_channels=3, out_channels=4))
    n = sum(weights.numel() for weights in network.parameters())
    assert n > 0
    heads = [w for w in network.parameters() if w.shape[0] == 4]
    assert heads, "no layer has as many outputs as were wanted"


def test_unknown_names():
    with pytest.raises(SettingsError, match="no network 'unet-2016'"):
        facts_of("unet-2016")
