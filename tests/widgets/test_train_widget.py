"""The Train dock: data from layers and folders, what keeps it from starting, a run, its end."""

import numpy as np
import pytest
from skimage.io import imsave

from napari_unet.core.training.settings import TrainSettings
from napari_unet.layers import stage_of
from napari_unet.widgets.pictures import in_color, outlined
from napari_unet.widgets.recipe import Recipe
from napari_unet.widgets.train import TrainWidget


@pytest.fixture(autouse=True)
def small_steps(monkeypatch):
    """Tiny networks, patches and runs, but for what the form says."""
    settings = Recipe.settings

    def smaller(self, **chosen):
        said = settings(self, **chosen)
        return TrainSettings(
            network=said.network, what=said.what, minutes=said.minutes, held_out=said.held_out,
            width=2, steps=8, patch_size=32, batch_size=2, measure_every=4,
        )  # fmt: skip

    monkeypatch.setattr(Recipe, "settings", smaller)


@pytest.fixture
def ready(qtbot, session):
    """Waits until the data was looked at and the networks are listed."""

    def wait():
        qtbot.waitUntil(
            lambda: bool(session.trainings.choices) and not session.trainings.is_looking,
            timeout=20_000,
        )

    return wait


@pytest.fixture
def folder(tmp_path):
    """Four pictures of squares with their masks."""
    random = np.random.default_rng(0)
    for name in ("images", "masks"):
        (tmp_path / "set" / name).mkdir(parents=True)
    for i in range(4):
        masks = np.zeros((48, 48), np.uint16)
        masks[4 : 14 + i, 4:16], masks[24:36, 20 : 30 + i] = 1, 2
        image = (masks > 0) * 150 + random.integers(0, 20, masks.shape)
        imsave(tmp_path / "set" / "images" / f"{i}.png", image.astype(np.uint8))
        imsave(tmp_path / "set" / "masks" / f"{i}.png", masks, check_contrast=False)
    return tmp_path / "set"


@pytest.fixture
def widget(dock, ready):
    made = dock(TrainWidget)
    ready()
    return made


def test_all_networks_are_offered(widget):
    names = [widget.network.itemData(i).name for i in range(widget.network.count())]
    assert {"unet", "unet-2015", "segnet", "fcn-8s", "unet++"} <= set(names)
    assert widget.network.currentData().name == "unet"
    assert widget.network_words.text()


def test_without_data_it_says_what_is_needed(widget):
    assert not widget.button.isEnabled()
    assert "Open an image and a labels layer" in widget.reason.text()
    widget.data.setCurrentIndex(1)
    assert widget.reason.text() == "Choose the folder of images and masks."
    assert widget.image.isHidden() and not widget.folder_button.isHidden()


def test_layers_are_looked_at(widget, viewer, squares, ready):
    viewer.add_image(squares, name="squares")
    viewer.add_labels((squares > 0).astype(int), name="drawn")
    ready()
    assert widget.button.isEnabled(), widget.reason.text()
    assert "64 × 64 px" in widget.found.text()


def test_masks_of_another_size_are_refused(widget, viewer, squares, session, ready):
    viewer.add_image(squares, name="squares")
    viewer.add_labels(np.ones((5, 5), int), name="drawn")
    ready()
    assert not widget.button.isEnabled()
    assert session.message[0] == "error" and "5 × 5 px" in session.message[1]


def test_corrections_are_no_masks(widget, viewer, squares):
    viewer.add_image(squares, name="squares")
    stage = stage_of(viewer)
    stage.add_corrections(np.zeros(squares.shape, np.uint8), ("background", "object"))
    assert stage.drawn_masks() == []


def test_a_folder_with_nothing_in_it(widget, tmp_path, ready):
    widget.set_folder(tmp_path)
    ready()
    assert not widget.button.isEnabled()
    assert "no images with masks" in widget.problems.text()


def test_a_run_from_a_folder(widget, folder, session, idle, ready, click):
    widget.set_folder(folder)
    ready()
    assert widget.button.isEnabled(), widget.reason.text()
    widget.name.setText("Squares, small")
    widget.minutes.setValue(5)
    seen = []
    session.trainings.progressed.connect(lambda progress: seen.append(progress.done))
    click(widget.button)
    assert not widget.stop_button.isHidden() and widget.button.isHidden()
    assert not widget.network.isEnabled()
    idle(session)
    taught = session.trainings.taught
    assert taught is not None, session.message
    assert max(seen) == 8
    assert taught.path == session.project.folder / "networks" / "Squares-small.safetensors"
    assert taught.path.exists()
    assert not widget.curves.isHidden() and not widget.pictures.isHidden()
    assert "not learned from" in widget.outcome.text()
    click(widget.use_button)
    idle(session)
    assert session.model.description.name == "Squares, small"
    assert widget.use_button.isHidden()


def test_stop_and_keep(widget, viewer, folder, session, qtbot, idle, ready, click, monkeypatch):
    endless = TrainSettings(width=2, steps=100_000, patch_size=32, batch_size=2, measure_every=4)
    monkeypatch.setattr(Recipe, "settings", lambda self, **chosen: endless)
    widget.set_folder(folder)
    ready()
    click(widget.button)
    qtbot.waitUntil(lambda: len(session.trainings.curve) > 6, timeout=20_000)
    click(widget.stop_button)
    idle(session)
    assert session.trainings.taught is not None, session.message


def test_a_name_is_needed(widget, folder, ready):
    widget.set_folder(folder)
    ready()
    widget.name.setText("  ")
    assert not widget.button.isEnabled() and "name" in widget.reason.text()


def test_the_recipe_says_what_is_chosen(qtbot, monkeypatch):
    monkeypatch.undo()
    recipe = Recipe()
    qtbot.addWidget(recipe)
    recipe.offer_dims((2, 3))
    assert recipe.settings(network="unet") == TrainSettings(network="unet")
    recipe.channels.setValue(8)
    recipe.loss.setCurrentIndex(recipe.loss.findData("focal"))
    recipe.separation.setValue(10)
    recipe.dims.setCurrentIndex(1)
    chosen = recipe.settings(network="unet")
    assert (chosen.width, chosen.loss, chosen.separation, chosen.dims) == (8, "focal", 10, 3)


def test_outlines():
    labels = np.zeros((6, 6), int)
    labels[1:5, 1:5] = 1
    shown = outlined(np.zeros((6, 6, 3), np.uint8), labels, (1, 2, 3))
    assert (shown[1, 1] == (1, 2, 3)).all() and (shown[2, 2] == 0).all() and (shown[0] == 0).all()


@pytest.mark.parametrize("n_channels", [1, 2, 3, 5])
def test_colours_of_any_number_of_channels(n_channels):
    image = np.random.default_rng(0).random((n_channels, 8, 9))
    shown = in_color(image)
    assert shown.shape == (8, 9, 3) and shown.dtype == np.uint8 and shown.max() == 255


def test_constant_pictures_are_no_trouble():
    assert in_color(np.full((1, 4, 4), 7, np.uint16)).shape == (4, 4, 3)
