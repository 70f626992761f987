"""The U-Net of the tutorials, against Keras itself, in which its original is written."""

from __future__ import annotations

import math
import os
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from originals import image_for, randomised
from torch import Tensor, nn
from unet_checks import (
    check_engine,
    check_gradients,
    check_stands_alone,
    n_parameters,
    on_meta,
    picture,
)

from napari_unet.core.errors import SettingsError
from napari_unet.core.losses import class_log_probabilities, masked_cross_entropy
from napari_unet.core.networks import Wanted, preset_of
from napari_unet.core.networks.unet_tutorial import TutorialUNet, TutorialUNetConfig
from napari_unet.core.training.settings import TrainSettings

SMALL = TutorialUNetConfig(
    in_channels=2, out_channels=2, widths=(3, 4, 5), dropouts=(0.1, 0.2, 0.3)
)


def test_it_has_1941105_parameters() -> None:
    wanted = Wanted(in_channels=3, out_channels=1)
    assert preset_of("unet-tutorial").config_for(wanted) == TutorialUNetConfig()
    assert n_parameters(on_meta(preset_of("unet-tutorial"), wanted)) == 1_941_105


def test_it_has_the_layers_of_the_original() -> None:
    network = on_meta(preset_of("unet-tutorial"), Wanted(in_channels=3, out_channels=1))
    dropouts = [m.p for m in network.modules() if isinstance(m, nn.Dropout)]
    assert dropouts == [0.1, 0.1, 0.2, 0.2, 0.3, 0.2, 0.2, 0.1, 0.1]
    widths = [block[0].out_channels for block in (*network.encoder, *network.decoder)]
    assert widths == [16, 32, 64, 128, 256, 128, 64, 32, 16]
    assert [type(m).__name__ for m in network.encoder[0]] == [
        "Conv2d", "ELU", "Dropout", "Conv2d", "ELU",
    ]  # fmt: skip
    assert not any("Norm" in type(m).__name__ for m in network.modules())


@pytest.fixture(scope="module")
def keras() -> ModuleType:
    os.environ["KERAS_BACKEND"] = "torch"  # before the import, which chooses by it
    return pytest.importorskip("keras")


def in_keras(keras: ModuleType, activation: str) -> Any:
    """Written with Keras's layers, as the tutorials do."""
    layers = keras.layers
    conv = {"activation": activation, "kernel_initializer": "he_normal", "padding": "same"}

    def block(features: Any, width: int, share: float) -> Any:
        features = layers.Conv2D(width, (3, 3), **conv)(features)
        features = layers.Dropout(share)(features)
        return layers.Conv2D(width, (3, 3), **conv)(features)

    widths, shares = (16, 32, 64, 128, 256), (0.1, 0.1, 0.2, 0.2, 0.3)
    features = image = keras.Input((None, None, 3))
    skips = []
    for width, share in zip(widths[:-1], shares[:-1], strict=True):
        skips.append(block(features, width, share))
        features = layers.MaxPooling2D((2, 2))(skips[-1])
    features = block(features, widths[-1], shares[-1])
    for width, share in zip(widths[-2::-1], shares[-2::-1], strict=True):
        up = layers.Conv2DTranspose(width, (2, 2), strides=(2, 2), padding="same")(features)
        features = block(layers.concatenate([up, skips.pop()]), width, share)
    return keras.Model(image, layers.Conv2D(1, (1, 1), activation="sigmoid")(features))


def taken_over(model: Any, network: TutorialUNet) -> None:
    """Weights of Keras's layers, in their order, put into the network."""
    layers = [layer for layer in model.layers if layer.weights]
    ours: list[nn.Module] = [block[i] for block in network.encoder for i in (0, 3)]
    for up, block in zip(network.up, network.decoder, strict=True):
        ours += [up, block[0], block[3]]
    ours.append(network.head)
    assert len(layers) == len(ours) == 23
    with torch.no_grad():
        for layer, module in zip(layers, ours, strict=True):
            kernel, bias = (torch.from_numpy(np.array(w)) for w in layer.get_weights())
            module.weight.copy_(kernel.permute(3, 2, 0, 1))  # (y, x, in, out) to (out, in, y, x)
            module.bias.copy_(bias)


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
@pytest.mark.parametrize("activation", ["elu", "relu"])
def test_keras_gives_the_same(keras: ModuleType, activation: Any) -> None:
    model = in_keras(keras, activation)
    assert model.count_params() == 1_941_105
    random = np.random.default_rng(0)
    for variable in model.trainable_variables:
        fan_in = max(1.0, float(np.prod(variable.shape[:-1])))
        variable.assign(random.normal(0, (1.6 / fan_in) ** 0.5, variable.shape).astype(np.float32))
    network = TutorialUNet(TutorialUNetConfig(activation=activation)).eval()
    taken_over(model, network)
    image = random.normal(0, 1, (2, 3, 32, 48)).astype(np.float32)
    shown = torch.from_numpy(image.transpose(0, 2, 3, 1).copy())  # (b, y, x, c)
    with torch.no_grad():
        expected = model(shown, training=False)[..., 0]
        found = network(torch.from_numpy(image))[:, 0].sigmoid()
    assert float(expected.std()) > 0.01
    torch.testing.assert_close(found, expected.cpu(), atol=1e-5, rtol=0)


def test_weights_are_drawn_as_keras_draws_them() -> None:
    torch.manual_seed(0)
    network = TutorialUNet(TutorialUNetConfig(widths=(16, 32, 64), dropouts=(0,) * 3))
    for name, module in network.named_modules():
        if not isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            continue
        weight, bias = module.weight.detach(), module.bias
        n_px = math.prod(module.kernel_size)
        if module.kernel_size == (3, 3):
            std = math.sqrt(2 / (module.in_channels * n_px))
            assert float(weight.abs().max()) <= 2 * std / 0.8796256 * 1.0001
        else:
            std = math.sqrt(2 / ((module.in_channels + module.out_channels) * n_px))
            assert float(weight.abs().max()) <= math.sqrt(3) * std * 1.0001
        expected = pytest.approx(std, rel=5 / math.sqrt(2 * weight.numel()))
        assert float(weight.std()) == expected, name
        assert bias is not None
        assert not bias.any()


def test_dropout_acts_in_training_only() -> None:
    torch.manual_seed(0)
    network, image = TutorialUNet(SMALL), image_for(2, 16, 16)
    with torch.no_grad():
        assert not torch.equal(network.train()(image), network(image))
        assert torch.equal(network.eval()(image), network(image))


def test_dropout_takes_single_values() -> None:
    """As that of Keras does, and not whole channels."""
    network = TutorialUNet(SMALL).train()
    zeros: list[Tensor] = []
    network.encoder[2][2].register_forward_hook(lambda _m, _i, out: zeros.append(out == 0))
    network(image_for(2, 64, 64))
    shares = zeros[0].float().mean(dim=(0, 2, 3))  # (c,)
    assert ((shares > 0.15) & (shares < 0.45)).all()


@pytest.mark.parametrize("shape", [(61, 53), (5, 18)])
def test_the_result_is_that_of_the_whole_image(shape: tuple[int, int]) -> None:
    check_engine(TutorialUNet(SMALL), picture(2, *shape), stride=SMALL.stride)


def test_gradients_reach_every_weight() -> None:
    torch.manual_seed(0)
    check_gradients(TutorialUNet(SMALL), image_for(2, 16, 24))


def test_it_stands_alone() -> None:
    check_stands_alone("unet_tutorial", SMALL, image_for(2, 8, 12))


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"dims": 3}, "dims must be 2"),
        ({"out_channels": 0}, "out_channels"),
        ({"widths": (), "dropouts": ()}, "widths"),
        ({"widths": (4,) * 17, "dropouts": (0.0,) * 17}, "17 levels"),
        ({"widths": (4, 4)}, "one number for each of 2 levels, not 5"),
        ({"dropouts": (0, 0, 0, 0, 1.0)}, r"in \[0, 1\)"),
        ({"activation": "tanh"}, "activation"),
    ],
)
def test_refuses_a_network_that_cannot_be(settings: dict[str, Any], problem: str) -> None:
    with pytest.raises(SettingsError, match=problem):
        TutorialUNetConfig(**settings)


def test_its_recipe_is_that_of_the_original() -> None:
    settings = TrainSettings(network="unet-tutorial").completed(preset_of("unet-tutorial").recipe)
    assert (settings.optimizer, settings.learning_rate, settings.schedule) == (
        "adam", 1e-3, "constant",
    )  # fmt: skip
    assert (settings.outputs, settings.loss) == ("sigmoid", "cross-entropy")
    assert (settings.batch_size, settings.patch_size) == (16, 128)
    assert (settings.weight_decay, settings.clip, settings.average) == (0, 0, 0)


def test_its_loss_is_the_binary_cross_entropy() -> None:
    logits = randomised(TutorialUNet(TutorialUNetConfig(widths=(4,), dropouts=(0.0,))))(
        image_for(3, 9, 9)
    )
    target = torch.randint(0, 2, (1, 9, 9), generator=torch.Generator().manual_seed(0))
    found = masked_cross_entropy(
        class_log_probabilities(logits, (1,), "sigmoid"), target.to(torch.uint8)
    )
    expected = nn.functional.binary_cross_entropy_with_logits(logits[:, 0], target.float())
    torch.testing.assert_close(found, expected)
