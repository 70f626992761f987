"""Plain weights go back to where they came from."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from originals import randomised

from napari_unet.core.checkpoints.opening import open_checkpoint
from napari_unet.core.checkpoints.origin import Origin
from napari_unet.core.checkpoints.saving import write_plain
from napari_unet.core.device import choose_device
from napari_unet.core.errors import ModelFileError
from napari_unet.core.model import Description, Model, weights_id
from napari_unet.core.networks import UNet, UNetConfig, Wanted, preset_of
from napari_unet.core.normalization import Normalization
from napari_unet.core.segmentation import segment
from napari_unet.core.settings import ObjectSettings

FIXTURES = Path(__file__).parents[3] / "fixtures" / "checkpoints"


@pytest.fixture
def model() -> Model:
    config = UNetConfig(widths=(2, 4))
    network = randomised(UNet(config)).requires_grad_(False)
    return Model(
        network=network, architecture="unet", config=config, description=Description(name="own"),
        device=choose_device("cpu"), id=weights_id(network),
    )  # fmt: skip


def test_own_model_under_its_own_names(model: Model, tmp_path: Path) -> None:
    write_plain(model, tmp_path / "saved")
    weights = torch.load(tmp_path / "saved.pt", weights_only=True)
    colleague = UNet(model.config)
    colleague.load_state_dict(weights, strict=True)
    assert list(weights) == list(model.network.state_dict())
    assert weights_id(colleague) == model.id
    assert open_checkpoint(tmp_path / "saved.pt", "cpu").id == model.id


@pytest.mark.parametrize("name", ["segnet-basic", "fcn-8s", "unet-2015", "unet-dense", "unet++"])
def test_networks_that_no_other_library_has_say_what_they_are(name: str, tmp_path: Path) -> None:
    preset = preset_of(name)
    config = preset.config_for(Wanted(width=2))
    network = randomised(preset.kind.network(config)).requires_grad_(False)
    model = Model(
        network=network, architecture=preset.kind.name, config=config,
        description=Description(name="own"), device=choose_device("cpu"), id=weights_id(network),
    )  # fmt: skip
    write_plain(model, tmp_path / "saved.pth")
    saved = torch.load(tmp_path / "saved.pth", weights_only=True)
    preset.kind.network(config).load_state_dict(saved["state_dict"], strict=True)
    again = open_checkpoint(tmp_path / "saved.pth", "cpu")
    assert (again.id, again.architecture, again.config) == (model.id, preset.kind.name, config)
    assert "normalization" not in again.description.assumed
    assert "channels" in again.description.assumed


def stated_model() -> Model:
    """One that was trained here: z-scored input, an output for rims, objects of its own."""
    preset = preset_of("unet-2015")
    config = preset.config_for(Wanted(width=2, out_channels=3))
    network = randomised(preset.kind.network(config)).requires_grad_(False)
    return Model(
        network=network, architecture=preset.kind.name, config=config,
        description=Description(
            name="own", class_names=("background", "cell"), output_class=(0, 1, 1), inside=2,
            outputs=("background", "rim", "inside"), pixel_size=0.5,
            normalization=Normalization(kind="zscore", clip=None),
            objects=ObjectSettings(threshold=0.25, min_size=3, split=0.0),
        ),
        device=choose_device("cpu"), id=weights_id(network),
    )  # fmt: skip


def test_what_is_stated_lets_the_network_find_the_same(tmp_path: Path) -> None:
    model = stated_model()
    write_plain(model, tmp_path / "saved.pth")
    again = open_checkpoint(tmp_path / "saved.pth", "cpu")
    for name in ("normalization", "activation", "class_names", "outputs", "output_class",
                 "inside", "border", "inverted", "objects", "pixel_size"):  # fmt: skip
        assert getattr(again.description, name) == getattr(model.description, name), name
    assert again.description.assumed == ("channels",)
    image = np.random.default_rng(0).integers(100, 4000, (64, 64)).astype(np.uint16)
    expected = segment(image, model).labels
    assert expected.any()
    np.testing.assert_array_equal(segment(image, again).labels, expected)


@pytest.mark.parametrize(
    ("changes", "assumed"),
    [({"normalization": {"kind": "other"}}, {"normalization"}),
     ({"normalization": {"offset": [float("nan")]}}, {"normalization"}),
     ({"class_names": ["a"]}, {"class_names", "activation"}),
     ({"inside": "2"}, {"class_names", "activation"}),
     ({"outputs": ["a", "b"], "output_class": [0, 1], "inside": None},
      {"class_names", "activation"}),
     ({"pixel_size": -1.0}, {"pixel_size"}), ({"objects": 3}, set())],
)  # fmt: skip
def test_what_is_stated_wrongly_stays_assumed(
    changes: dict[str, object], assumed: set[str], tmp_path: Path
) -> None:
    write_plain(stated_model(), tmp_path / "saved.pth")
    saved = torch.load(tmp_path / "saved.pth", weights_only=True)
    saved["napari_unet"]["description"].update(changes)
    torch.save(saved, tmp_path / "saved.pth")
    about = open_checkpoint(tmp_path / "saved.pth", "cpu").description
    assert set(about.assumed) == {"channels", *assumed}
    assert len(about.outputs) == 3


@pytest.mark.parametrize(
    "statement",
    [7, {}, {"architecture": "segnet"}, {"architecture": "other", "config": {}},
     {"architecture": "segnet", "config": {"widths": "none"}}],
)  # fmt: skip
def test_statements_that_say_nothing_are_passed_over(
    statement: object, model: Model, tmp_path: Path
) -> None:
    state = model.network.state_dict()
    torch.save({"state_dict": state, "napari_unet": statement}, tmp_path / "saved.pth")
    assert open_checkpoint(tmp_path / "saved.pth", "cpu").id == model.id


def test_names_and_shapes_of_the_original(model: Model, tmp_path: Path) -> None:
    state = model.network.state_dict()
    first, last = "encoder.0.0.weight", "head.bias"
    origin = Origin(
        file="original.ckpt",
        prefix="module.net.",
        names={first: ("stem.weight",), last: ("head.bias", "copy.bias")},
        shapes={first: (2, 1, 1, 3, 3)},
    )
    write_plain(replace(model, origin=origin), tmp_path / "saved.pth")
    weights = torch.load(tmp_path / "saved.pth", weights_only=True)
    assert all(name.startswith("module.net.") for name in weights)
    assert len(weights) == len(state) + 1
    assert f"module.net.{first}" not in weights
    assert weights["module.net.stem.weight"].shape == (2, 1, 1, 3, 3)
    assert torch.equal(weights["module.net.stem.weight"].flatten(), state[first].flatten())
    assert torch.equal(weights["module.net.copy.bias"], state[last])
    assert torch.equal(weights["module.net.head.bias"], state[last])


@pytest.mark.parametrize("file", sorted(FIXTURES.glob("milesial/[ad]_*.pt")), ids=lambda p: p.stem)
def test_a_foreign_file_is_written_as_it_was(file: Path, tmp_path: Path) -> None:
    before = torch.load(file, weights_only=True)
    write_plain(open_checkpoint(file, "cpu"), tmp_path / "again.pt")
    after = torch.load(tmp_path / "again.pt", weights_only=True)
    tensors = {name: value for name, value in before.items() if isinstance(value, torch.Tensor)}
    assert set(after) == set(tensors)
    assert all(torch.equal(after[name], value) for name, value in tensors.items())


def test_a_view_of_large_memory_is_written_alone(model: Model, tmp_path: Path) -> None:
    large = torch.zeros(1_000_000)
    model.network.get_submodule("head").bias = torch.nn.Parameter(large[:2], requires_grad=False)
    write_plain(model, tmp_path / "saved.pt")
    assert (tmp_path / "saved.pt").stat().st_size < 100_000


def test_nothing_is_left_where_nothing_can_be_written(model: Model, tmp_path: Path) -> None:
    (tmp_path / "taken.pt").mkdir()
    with pytest.raises(ModelFileError, match="could not be written"):
        write_plain(model, tmp_path / "taken.pt")
    assert [path.name for path in tmp_path.iterdir()] == ["taken.pt"]
