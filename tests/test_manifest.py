"""The manifest does what it says, in a real napari: wrong menu ids vanish without a word."""

import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
from npe2 import PluginManager, PluginManifest

NAME = "napari-unet-live"
ROOT = Path(__file__).resolve().parents[1]
MANIFEST = ROOT / "src" / "napari_unet" / "napari.yaml"
MENUS = {
    "napari/layers/segment": {
        f"{NAME}.live": "U-Net Live (U-Net Live)",
        f"{NAME}.segment": "Segment (U-Net Live)",
    },
    "napari/layers/annotate": {
        f"{NAME}.correct": "Correct (U-Net Live)",
        f"{NAME}.finetune": "Fine-tune (U-Net Live)",
    },
}
WIDGETS = ["U-Net Live", "Model", "Segment", "Correct", "Fine-tune", "Train"]
SAMPLES = ["stained_tissue", "simulated_nuclei", "nuclei", "cells_3d"]


@pytest.fixture(scope="module")
def manifest():
    return PluginManifest.from_file(MANIFEST)


def test_the_installed_package_brings_this_manifest(manifest):
    installed = PluginManifest.from_distribution(NAME)
    assert installed.contributions == manifest.contributions


@pytest.mark.skipif(sys.platform == "win32", reason="git may check the link out as a file")
def test_the_link_at_the_root_leads_to_the_manifest():
    assert (ROOT / "napari.yaml").is_symlink()
    assert (ROOT / "napari.yaml").resolve() == MANIFEST


def test_widgets_and_samples(manifest):
    assert [widget.display_name for widget in manifest.contributions.widgets] == WIDGETS
    assert [sample.key for sample in manifest.contributions.sample_data] == SAMPLES


def test_every_command_is_used_once_and_every_used_command_is_there(manifest):
    contributions = manifest.contributions
    parts = [*contributions.widgets, *contributions.sample_data, *contributions.readers]
    used = [one.command for one in parts]
    assert sorted(used) == sorted(command.id for command in contributions.commands)


def test_the_reader_is_for_models_and_for_nothing_else(manifest):
    (reader,) = manifest.contributions.readers
    assert not reader.accepts_directories
    endings = {pattern.removeprefix("*") for pattern in reader.filename_patterns}
    assert {".pth", ".safetensors", ".onnx", ".zip", ".h5"} <= endings
    assert not endings & {"", ".tif", ".tiff", ".png", ".jpg", ".zarr", ".npy", ".bin", ".tar"}


def test_every_menu_item_is_a_command(manifest):
    items = {
        menu: {item.command for item in items}
        for menu, items in manifest.contributions.menus.items()
    }
    assert items == {menu: set(titles) for menu, titles in MENUS.items()}


def commands():
    return PluginManifest.from_file(MANIFEST).contributions.commands


@pytest.mark.parametrize("command", commands(), ids=lambda command: command.id)
def test_every_command_can_be_imported(command):
    module, name = command.python_name.split(":")
    assert callable(getattr(import_module(module), name))


def test_nothing_that_older_npe2_rejects():
    # npe2 0.9.0 refuses a whole manifest for these two.
    text = MANIFEST.read_text()
    assert "default_dock_area" not in text
    assert "tabify" not in text


def test_preferences(manifest):
    properties = manifest.contributions.configurations["general"].properties
    defaults = {name: one.default for name, one in properties.items()}
    expected = {"project_folder": "", "device": "auto", "training_steps": 200, "tile_size": 0}
    assert defaults == expected | {"precision": "auto"}
    assert properties["device"].enum == ["auto", "cpu", "cuda", "mps"]
    assert properties["precision"].enum == ["auto", "full"]


def test_the_default_training_steps_are_those_of_the_settings(manifest):
    from napari_unet.core.settings import FineTuneSettings

    properties = manifest.contributions.configurations["general"].properties
    assert properties["training_steps"].default == FineTuneSettings().steps


@pytest.fixture
def with_plugin(npe2pm, manifest):
    """npe2's plugin manager with this plugin and no other."""
    npe2pm.register(manifest)
    return npe2pm


def titles_of(menu):
    from napari._app_model import get_app_model

    items = get_app_model().menus.get_menu(menu)
    return {item.command.id: item.command.title for item in items if hasattr(item, "command")}


@pytest.mark.parametrize("menu", MENUS)
def test_napari_shows_the_menu_items(with_plugin, make_napari_viewer, menu):
    make_napari_viewer()
    assert MENUS[menu].items() <= titles_of(menu).items()


def test_napari_lists_widgets_and_samples(with_plugin, make_napari_viewer):
    make_napari_viewer()
    assert len(titles_of(f"napari/plugins/{NAME}")) == len(WIDGETS)
    assert len(titles_of(f"napari/file/samples/{NAME}")) == len(SAMPLES)


def test_napari_offers_the_preferences(plugin_settings, with_plugin):
    from napari.settings import get_plugin_settings

    general = get_plugin_settings(NAME).general
    assert general.device == "auto"
    general.tile_size = 512
    with pytest.raises(ValueError, match="device"):
        general.device = "abacus"


QUESTION = """
import sys
import napari
from npe2 import PluginManager
viewer = napari.Viewer(show=False)
assert "napari-unet-live" in PluginManager.instance(), "the plugin was not found"
assert "napari_unet.core.model" not in sys.modules
assert "torch" not in sys.modules, "opening napari imports torch"
viewer.close()
"""


def test_opening_napari_does_not_import_torch(qapp):
    subprocess.run([sys.executable, "-c", QUESTION], check=True, timeout=120)


def test_npe2_finds_the_plugin():
    manager = PluginManager()
    manager.discover()
    assert NAME in manager
