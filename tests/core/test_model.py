"""A model is a consistent value: description, network, history, and an id of its weights."""

from dataclasses import replace

import pytest
import torch

from napari_unet.core.checkpoints import opening
from napari_unet.core.device import Device, choose_device
from napari_unet.core.errors import ModelFileError
from napari_unet.core.model import (
    BUILT_IN,
    Description,
    Model,
    Round,
    load_model,
    save_model,
    weights_id,
)
from napari_unet.core.networks import UNet, UNetConfig


def model_of(config, **description):
    """A model with random weights; the description says what the config says."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = UNet(config).eval().requires_grad_(False)
    names = ("background", *(f"class {i}" for i in range(1, max(2, config.out_channels))))
    said = {
        "name": "random", "dims": config.dims, "in_channels": config.in_channels,
        "class_names": names, "outputs": names, "output_class": tuple(range(len(names))),
    } | description  # fmt: skip
    return Model(
        network=network, architecture="unet", config=config, description=Description(**said),
        device=choose_device("cpu"), id=weights_id(network),
    )  # fmt: skip


def entry(**changes):
    values = {
        "id": "b", "parent": "a", "name": "round 1", "created": "2024-01-02T03:04:05+00:00",
        "settings": {}, "scores_before": {}, "scores_after": {}, "n_corrected": 1, "seconds": 0.5,
    } | changes  # fmt: skip
    return Round(**values)


# --- descriptions ------------------------------------------------------------------------------


def test_the_simplest_description_is_consistent():
    description = Description(name="simple")
    assert description.class_names == ("background", "object")
    assert description.activation == "softmax"


def test_a_single_output_makes_two_classes():
    description = Description(
        name="one", outputs=("object",), output_class=(1,), activation="sigmoid"
    )
    assert len(description.class_names) == 2


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"outputs": ("a",)}, "names 1 outputs but says for 2"),
        ({"class_names": ("background",)}, "names 1 classes, but its outputs make 2"),
        ({"class_names": ("a", "b", "c")}, "names 3 classes, but its outputs make 2"),
        ({"output_class": (1, 1)}, "none of them is the background"),
        ({"output_class": (-1, 1)}, "none of them is the background"),
        ({"output_class": (-1, 0)}, r"the classes \(-1, 0\), but each of 1 to 1 needs one"),
        ({"outputs": ("a",), "output_class": (0,), "activation": "sigmoid"}, "1 to 1 needs one"),
        ({"activation": "relu"}, "says 'relu'"),
        ({"outputs": ("a",), "output_class": (1,)}, "none of them is the background"),
        ({"inverted": True}, "can be inverted"),
        ({"border": 2}, "output 2, but the model has 2"),
        ({"inside": 2}, "said to be output 2, but the model has 2"),
        ({"inside": -1}, "said to be output -1"),
    ],
)
def test_an_inconsistent_description_is_refused(changes, sentence):
    with pytest.raises(ModelFileError, match=sentence):
        Description(**{"name": "odd"} | changes)


@pytest.mark.parametrize("changes", [{"dims": 3}, {"in_channels": 2}])
def test_a_description_of_another_network_is_refused(changes):
    with pytest.raises(ModelFileError, match="but the network has"):
        model_of(UNetConfig(widths=(4,)), **changes)


def test_a_description_with_other_outputs_is_refused():
    with pytest.raises(ModelFileError, match=r"are \(2, 1, 2\), but the network has \(2, 1, 3\)"):
        Model(
            network=UNet(UNetConfig(widths=(4,), out_channels=3)), architecture="unet",
            config=UNetConfig(widths=(4,), out_channels=3), description=Description(name="two"),
            device=choose_device("cpu"), id="0",
        )  # fmt: skip


# --- values ------------------------------------------------------------------------------------


def test_described_changes_words_and_nothing_else(tiny_model):
    changed = tiny_model.described(name="other")
    assert (changed.description.name, tiny_model.description.name) == ("other", "tiny")
    assert changed.network is tiny_model.network
    assert changed.id == tiny_model.id


def test_the_title_names_the_last_round(tiny_model):
    assert tiny_model.title == "tiny"
    tuned = replace(tiny_model, history=(entry(), entry(name="round 2")))
    assert tuned.title == "tiny, round 2"


def test_equal_weights_have_equal_ids():
    config = UNetConfig(widths=(4, 8))
    first, second = model_of(config), model_of(config)
    assert first.id == second.id == weights_id(first.network)
    assert len(first.id) == 12
    assert int(first.id, 16) >= 0


@pytest.mark.parametrize("name", ["head.bias", "encoder.0.1.running_var", "up.0.weight"])
def test_every_single_number_counts_for_the_id(name):
    changed = model_of(UNetConfig(widths=(4, 8)))
    before = weights_id(changed.network)
    changed.network.state_dict()[name].view(-1)[-1] += 1e-3
    assert weights_id(changed.network) != before


def test_memory_order_does_not_count_for_the_id():
    network = model_of(UNetConfig(widths=(4, 8))).network
    before = weights_id(network)
    assert weights_id(network.to(memory_format=torch.channels_last)) == before


# --- opening -----------------------------------------------------------------------------------


def test_the_built_in_models_open_and_say_what_they_are():
    for name, path in BUILT_IN.items():
        assert path.is_file(), f"{name} is not in the package"
        model = load_model(name, "cpu")
        assert model.description.name == name
        assert model.description.card
        assert not model.network.training


def test_a_name_goes_before_a_file(tiny_model, tmp_path, monkeypatch):
    save_model(tiny_model, tmp_path / "there.safetensors")
    monkeypatch.setitem(BUILT_IN, "nuclei", tmp_path / "there.safetensors")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "nuclei").write_text("not a model")
    assert load_model("nuclei", "cpu").id == tiny_model.id


def test_a_model_can_be_opened_again(tiny_model):
    again = load_model(tiny_model, "cpu")
    assert again.network is tiny_model.network
    assert again.description is tiny_model.description


def test_another_device_gets_a_copy(tiny_model, monkeypatch):
    other = Device(name="meta", label="nowhere", reason="a test")
    monkeypatch.setattr(opening, "choose_device", lambda wanted: other)
    moved = load_model(tiny_model, "cuda")
    assert moved.device == other
    assert {str(p.device) for p in moved.network.parameters()} == {"meta"}
    assert {str(p.device) for p in tiny_model.network.parameters()} == {"cpu"}
