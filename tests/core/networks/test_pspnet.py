"""PSPNet: a ResNet-50 at 1/8 of the resolution under pyramid pooling.

Its decoder against another library: tests/core/checkpoints/families/test_family_smp.py.
"""

from __future__ import annotations

import torch
from encoder_checks import check_engine, check_preset, n_parameters, picture
from originals import image_for, randomised
from torch import nn

from napari_unet.core.engine.facts import general_facts
from napari_unet.core.networks import Wanted, preset_of
from napari_unet.core.training.settings import TrainSettings

WANTED = Wanted(in_channels=1, out_channels=2)


def test_shapes_gradients_files_and_copies() -> None:
    check_preset(preset_of("pspnet"), WANTED, (40, 56))


def test_it_is_the_one_on_resnet_50() -> None:
    assert preset_of("pspnet").config_for(WANTED) == preset_of("pspnet-resnet50").config_for(WANTED)


def test_parameters() -> None:
    encoder = 25_557_032 - (2048 * 1000 + 1000)  # ResNet-50 without its classifier
    pooled = 4 * 2048 * 512 + 3 * 2 * 512 + 512  # 1x1 in four pyramids; one has no batch norm
    mixed = 4096 * 512 + 2 * 512
    last = 512 * 21 * 9 + 21
    found = n_parameters("pspnet", in_channels=3, out_channels=21)
    assert found == encoder + pooled + mixed + last


def test_it_looks_at_an_eighth_of_the_resolution_in_1_2_3_and_6_fields() -> None:
    network = preset_of("pspnet").build(WANTED).eval()
    seen = {}
    for name, part in network.named_modules():
        if isinstance(part, nn.AdaptiveAvgPool2d):
            part.register_forward_hook(
                lambda _, given, out, name=name: seen.update({name: (given[0].shape, out.shape)})
            )
    with torch.no_grad():
        network(image_for(1, 64, 96))
    assert len(seen) == 4
    for (before, after), fields in zip(seen.values(), (1, 2, 3, 6), strict=True):
        assert before == (1, 2048, 8, 12)
        assert after == (1, 2048, fields, fields)


def test_every_pixel_knows_of_the_whole_image() -> None:
    network = randomised(preset_of("pspnet").build(WANTED))
    facts = general_facts(network, 1, 2)
    assert facts.reach is None
    assert "uses statistics of the whole image" in facts.reason
    assert facts.fit.stride == (8, 8)
    plan = check_engine(network, picture(1, 43, 70), 8)
    assert plan.name == "in blended tiles"


def test_the_recipe_is_that_of_the_paper() -> None:
    settings = TrainSettings(network="pspnet").completed(preset_of("pspnet").recipe)
    assert (settings.optimizer, settings.learning_rate, settings.schedule) == ("sgd", 0.01, "poly")
    assert (settings.momentum, settings.weight_decay, settings.batch_size) == (0.9, 1e-4, 16)
