"""Weights of ImageNet from files as other libraries write them (here with random weights)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from originals import image_for, import_smp, randomised
from torch import Tensor, nn

from napari_unet.core.errors import ModelFileError, SettingsError
from napari_unet.core.networks import Wanted, preset_of
from napari_unet.core.networks.fcn import FCN, FCNConfig
from napari_unet.core.networks.imagenet import for_channels, load_encoder_weights

ENCODERS = ("vgg16", "vgg16_bn", "resnet18", "resnet34", "resnet50", "mobilenet_v2")


def classifier_of(name: str) -> nn.Module:
    """A network of torchvision; the two largest layers of a VGG are small, for the disk's sake."""
    import_smp()
    from torchvision import models

    with torch.device("meta"):
        network = getattr(models, name)(weights=None)
    if name.startswith("vgg"):
        network.classifier = nn.Linear(512, 3)
    return randomised(network.to_empty(device="cpu"))


def narrow_vgg(width: int, norm: bool) -> nn.Module:
    """torchvision's VGG-16 with fewer channels, and a classifier for 7 x 7 px."""
    import_smp()
    from torchvision.models.vgg import VGG, make_layers

    widths = [width, width, "M", 2 * width, 2 * width, "M", *[4 * width] * 3, "M"]
    widths += [*[8 * width] * 3, "M"] * 2
    with torch.device("meta"):
        network = VGG(make_layers(widths, batch_norm=norm))
    network.features[0] = nn.Conv2d(3, width, 3, padding=1)
    network.classifier = nn.Sequential(
        nn.Linear(8 * width * 49, 64 * width), nn.ReLU(), nn.Dropout(),
        nn.Linear(64 * width, 64 * width), nn.ReLU(), nn.Dropout(), nn.Linear(64 * width, 10),
    )  # fmt: skip
    return randomised(network.to_empty(device="cpu"))


def features_of(network: nn.Module) -> Callable[[Tensor], Tensor]:
    """What a network of torchvision comes to before it classifies."""
    if hasattr(network, "features"):
        return network.features
    names = ("conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3", "layer4")
    return nn.Sequential(*(network.get_submodule(name) for name in names))


@pytest.fixture
def saved(tmp_path: Path) -> Callable[..., Path]:
    """Writes what a file holds, and gives its path."""

    def save(content: Any, name: str = "weights.pth") -> Path:
        path = tmp_path / name
        torch.save(content, path)
        return path

    return save


@torch.no_grad()
def check_features(found: Callable[[Tensor], Any], wanted: Callable[[Tensor], Any]) -> None:
    """For a colour image, the last feature map is the same."""
    image = image_for(3, 64, 64)
    own, theirs = found(image), wanted(image)
    assert own.shape == theirs.shape
    assert theirs.std() > 0
    assert (own - theirs).abs().max() <= 1e-5 * max(1.0, float(theirs.abs().max()))


@pytest.mark.parametrize("name", ENCODERS)
def test_features_are_those_of_torchvision(name: str, saved: Callable[..., Path]) -> None:
    original = classifier_of(name)
    network = preset_of(f"fpn-{name}").build(Wanted(in_channels=3)).eval()
    before = network.decoder.p5.weight.clone()
    said = load_encoder_weights(network, saved(original.state_dict()))
    assert said == (f"The encoder {name} was filled from weights.pth.",)
    check_features(lambda image: network.encoder(image)[-1], features_of(original))
    assert torch.equal(network.decoder.p5.weight, before)


def test_an_encoder_at_an_eighth_of_the_resolution(saved: Callable[..., Path]) -> None:
    """A PSPNet's encoder has the same weights, whatever it does with them."""
    original = classifier_of("resnet18")
    network = preset_of("pspnet-resnet18").build(Wanted(in_channels=3)).eval()
    load_encoder_weights(network, saved(original.state_dict()))
    state = network.encoder.state_dict()
    assert all(torch.equal(state[n], v) for n, v in original.state_dict().items() if n in state)


def test_safetensors(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    original = classifier_of("mobilenet_v2")
    save_file(original.state_dict(), tmp_path / "model.safetensors")
    network = preset_of("unet-mobilenet_v2").build(Wanted(in_channels=3)).eval()
    load_encoder_weights(network, str(tmp_path / "model.safetensors"))
    check_features(lambda image: network.encoder(image)[-1], original.features)


@pytest.mark.parametrize("name", ["mobilenetv2_100", "resnet18"])
def test_timm(name: str, saved: Callable[..., Path]) -> None:
    import_smp()
    import timm

    original = randomised(timm.create_model(name, pretrained=False))
    own = "unet-mobilenet_v2" if "mobile" in name else "unet-resnet18"
    network = preset_of(own).build(Wanted(in_channels=3)).eval()
    load_encoder_weights(network, saved(original.state_dict()))
    check_features(lambda image: network.encoder(image)[-1], original.forward_features)


def test_the_encoder_of_a_whole_network(saved: Callable[..., Path]) -> None:
    original = randomised(import_smp().Unet("resnet18", encoder_weights=None))
    network = preset_of("fpn-resnet18").build(Wanted(in_channels=3)).eval()
    content = {"state_dict": {f"module.{n}": v for n, v in original.state_dict().items()}}
    load_encoder_weights(network, saved({**content, "epoch": 3}))
    check_features(
        lambda image: network.encoder(image)[-1], lambda image: original.encoder(image)[-1]
    )


# ---- FCN and SegNet


@pytest.mark.parametrize("norm", ["none", "batch"])
def test_the_trunk_of_an_fcn(norm: Any, saved: Callable[..., Path]) -> None:
    original = narrow_vgg(4, norm == "batch")
    network = FCN(FCNConfig(in_channels=3, width=4, norm=norm)).eval()
    said = load_encoder_weights(network, saved(original.state_dict()))
    check_features(network.encoder.features, original.features)
    is_told = any("fc6 and fc7 are the fully connected" in one for one in said)
    assert is_told == (norm == "none")


def test_fully_connected_layers_become_convolutions(saved: Callable[..., Path]) -> None:
    """In the middle of 7 x 7 px they see all that the classifier sees."""
    original = narrow_vgg(4, norm=False)
    network = FCN(FCNConfig(in_channels=3, width=4)).eval()
    load_encoder_weights(network, saved(original.state_dict()))
    pooled = image_for(32, 7, 7)
    with torch.no_grad():
        found = network.fc7(network.fc6(pooled))[..., 3, 3]
        wanted = original.classifier[:6](pooled.flatten(1))
    assert wanted.std() > 0
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)


def test_without_fully_connected_layers_it_is_said(saved: Callable[..., Path]) -> None:
    original = narrow_vgg(4, norm=False)
    network = FCN(FCNConfig(in_channels=3, width=4))
    before = network.fc6[0].weight.clone()
    said = load_encoder_weights(network, saved(original.features.state_dict(prefix="features.")))
    assert "fc6 and fc7 are not in the file" in said[-1]
    assert torch.equal(network.fc6[0].weight, before)


def test_the_encoder_of_a_segnet(saved: Callable[..., Path]) -> None:
    original = narrow_vgg(4, norm=True)
    network = preset_of("segnet").build(Wanted(in_channels=3, width=4)).eval()
    load_encoder_weights(network, saved(original.state_dict()))
    *stages, (convolutions, pool) = network.encoder.stages()

    def features(image: Tensor) -> Tensor:
        for before, pooling in stages:
            image = pooling(before(image))[0]
        return pool(convolutions(image))[0]

    check_features(features, original.features)


# ---- channels


def test_a_grey_image_gives_what_it_gives_in_colour(saved: Callable[..., Path]) -> None:
    original = classifier_of("resnet18")
    network = preset_of("unet-resnet18").build(Wanted(in_channels=1)).eval()
    said = load_encoder_weights(network, saved(original.state_dict()))
    assert "sum of its weights for red, green and blue" in said[1]
    image = image_for(1, 64, 64)
    with torch.no_grad():
        found = network.encoder(image)[-1]
        wanted = features_of(original)(image.repeat(1, 3, 1, 1))
    assert (found - wanted).abs().max() <= 1e-5 * max(1.0, float(wanted.abs().max()))


@pytest.mark.parametrize("n_channels", [1, 2, 3, 4, 7])
def test_channels_are_adapted_as_usual(n_channels: int) -> None:
    import_smp()
    from segmentation_models_pytorch.encoders._utils import patch_first_conv

    original = nn.Sequential(nn.Conv2d(3, 5, 3))
    weight = original[0].weight.detach().clone()
    if n_channels != 3:
        patch_first_conv(original, n_channels, pretrained=True)
    torch.testing.assert_close(for_channels(weight, n_channels), original[0].weight.detach())


def test_several_channels(saved: Callable[..., Path]) -> None:
    original = classifier_of("mobilenet_v2")
    network = preset_of("unet-mobilenet_v2").build(Wanted(in_channels=5))
    said = load_encoder_weights(network, saved(original.state_dict()))
    assert "in turn for the 5 channels, times 3/5" in said[1]
    weight = original.features[0][0].weight
    found = network.encoder.features[0][0].weight
    torch.testing.assert_close(found[:, 3], weight[:, 0] * 0.6)
    torch.testing.assert_close(found[:, 2], weight[:, 2] * 0.6)


# ---- what cannot be


@pytest.fixture(scope="module")
def mobilenet() -> dict[str, Tensor]:
    """Tensors to be changed in copies."""
    return classifier_of("mobilenet_v2").state_dict()


def refused(content: Any, saved: Callable[..., Path], name: str = "unet-mobilenet_v2") -> str:
    """The sentence with which a file is refused; the network stays as it was."""
    network = preset_of(name).build(Wanted())
    before = {name: value.clone() for name, value in network.state_dict().items()}
    with pytest.raises(ModelFileError) as caught:
        load_encoder_weights(network, saved(content))
    assert all(torch.equal(value, before[n]) for n, value in network.state_dict().items())
    return str(caught.value)


def test_another_encoder_is_named(mobilenet: dict[str, Tensor], saved: Callable[..., Path]) -> None:
    words = refused(mobilenet, saved, "unet-resnet18")
    assert "holds the encoder 'mobilenet_v2', but the network has 'resnet18'" in words
    assert "weights.pth" in words


def test_what_is_missing_or_too_much_is_named(
    mobilenet: dict[str, Tensor], saved: Callable[..., Path]
) -> None:
    name = "features.4.conv.2.weight"
    without = {key: value for key, value in mobilenet.items() if key != name}
    assert f"of its tensors, 1 missing ({name})" in refused(without, saved)
    more = {**mobilenet, "features.19.0.weight": torch.ones(3)}
    assert "of its tensors, 1 too many (features.19.0.weight)" in refused(more, saved)


def test_counters_may_be_missing(mobilenet: dict[str, Tensor], saved: Callable[..., Path]) -> None:
    old = {key: value for key, value in mobilenet.items() if "num_batches" not in key}
    load_encoder_weights(preset_of("unet-mobilenet_v2").build(Wanted()), saved(old))


def test_wrong_shapes_and_values_are_named(
    mobilenet: dict[str, Tensor], saved: Callable[..., Path]
) -> None:
    name = "features.18.0.weight"
    assert "has the shape (7, 320, 1, 1), but the network needs (1280, 320, 1, 1)" in refused(
        {**mobilenet, name: torch.ones(7, 320, 1, 1)}, saved
    )
    first = "features.0.0.weight"
    assert "has the shape (3,)" in refused({**mobilenet, first: torch.ones(3)}, saved)
    damaged = {**mobilenet, name: torch.full((1280, 320, 1, 1), torch.nan)}
    assert "no numbers" in refused(damaged, saved)


def test_a_narrow_network_is_told_from_the_full_one(saved: Callable[..., Path]) -> None:
    network = FCN(FCNConfig(in_channels=3, width=2))
    with pytest.raises(ModelFileError, match="network of full width"):
        load_encoder_weights(network, saved(narrow_vgg(4, norm=False).state_dict()))


def test_files_that_hold_no_weights(tmp_path: Path, saved: Callable[..., Path]) -> None:
    network = preset_of("unet-mobilenet_v2").build(Wanted())
    with pytest.raises(ModelFileError, match="There is no model file"):
        load_encoder_weights(network, tmp_path / "nothing.pth")
    (tmp_path / "page.pth").write_text("<html><title>Sign in</title></html>")
    with pytest.raises(ModelFileError, match="web page titled 'Sign in'"):
        load_encoder_weights(network, tmp_path / "page.pth")
    with pytest.raises(ModelFileError, match="No network was found"):
        load_encoder_weights(network, saved({"epoch": 3}))


class _Runs:
    """Unpickled, it would make a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def test_nothing_in_a_file_is_executed(
    mobilenet: dict[str, Tensor], tmp_path: Path, saved: Callable[..., Path]
) -> None:
    network = preset_of("unet-mobilenet_v2").build(Wanted(in_channels=3))
    path = saved({"state_dict": mobilenet, "more": _Runs(tmp_path / "it ran")})
    load_encoder_weights(network, path)
    assert not (tmp_path / "it ran").exists()
    torch.load(path, weights_only=False)
    assert (tmp_path / "it ran").exists()


@pytest.mark.parametrize("name", ["unet", "segnet-basic"])
def test_networks_without_such_an_encoder(name: str, saved: Callable[..., Path]) -> None:
    network = preset_of(name).build(Wanted(width=2))
    with pytest.raises(SettingsError, match="has no encoder that weights of ImageNet fit"):
        load_encoder_weights(network, saved({}))
