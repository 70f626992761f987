"""Preferences come from napari, recent models from a small file of our own."""

import json
from pathlib import Path

import pytest
from npe2 import PluginManifest

import napari_unet
from napari_unet import preferences
from napari_unet.preferences import preference, recent_models, remember_model


@pytest.fixture
def with_plugin(plugin_settings, npe2pm):
    npe2pm.register(PluginManifest.from_file(Path(napari_unet.__file__).parent / "napari.yaml"))


def test_a_preference_is_what_the_user_set(with_plugin):
    from napari.settings import get_plugin_settings

    assert preference("general", "training_steps", 7) == 200
    get_plugin_settings("napari-unet-live").general.training_steps = 50
    assert preference("general", "training_steps", 7) == 50


def test_without_the_plugin_or_the_name_there_is_the_default(with_plugin):
    assert preference("general", "no such thing", 7) == 7
    assert preference("no such group", "training_steps", 7) == 7


def test_an_older_napari_has_no_preferences(monkeypatch):
    import napari.settings

    monkeypatch.delattr(napari.settings, "get_plugin_settings")
    assert preference("general", "training_steps", 7) == 7


def test_recent_models_have_the_latest_first_and_each_once(tmp_path):
    assert recent_models() == []
    paths = [tmp_path / f"{i}.safetensors" for i in range(10)]
    for path in paths:
        path.touch()
        remember_model(path)
    assert recent_models() == paths[:1:-1]
    remember_model(paths[5])
    assert recent_models()[0] == paths[5]
    assert len(recent_models()) == len(set(recent_models())) == preferences.N_RECENT


def test_models_that_are_gone_are_not_offered(tmp_path):
    path = tmp_path / "gone.safetensors"
    path.touch()
    remember_model(path)
    path.unlink()
    assert recent_models() == []


def test_a_folder_that_cannot_be_written_is_no_harm(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("NAPARI_UNET_PROJECTS", str(tmp_path / "file" / "projects"))
    remember_model(tmp_path / "model.safetensors")
    assert recent_models() == []


@pytest.mark.parametrize("content", ["", "no json", '{"a": 1}', "[1]", "[null]", '"text"'])
def test_a_damaged_file_is_no_harm(projects_folder, content, tmp_path):
    projects_folder.mkdir()
    (projects_folder / "recent-models.json").write_text(content)
    assert recent_models() == []
    model = tmp_path / "new.safetensors"
    model.touch()
    remember_model(model)
    assert json.loads((projects_folder / "recent-models.json").read_text()) == [str(model)]
