"""The wheel holds all that users need, and the napari hub can read the manifest out of it."""

import shutil
import subprocess
import sys
import zipfile
from email import message_from_bytes
from pathlib import Path

import pytest
from npe2 import PluginManifest

ROOT = Path(__file__).resolve().parents[1]
SOURCES = ["pyproject.toml", "README.md", "LICENSE"]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel, built in a copy of the sources: leftovers of other builds get in otherwise."""
    folder = tmp_path_factory.mktemp("wheel")
    for name in SOURCES:
        shutil.copy(ROOT / name, folder / name)
    leftovers = shutil.ignore_patterns("__pycache__", "*.egg-info", ".*")
    shutil.copytree(ROOT / "src", folder / "src", ignore=leftovers)
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", "dist"]
    build = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert build.returncode == 0, build.stdout + build.stderr
    (path,) = (folder / "dist").glob("*.whl")
    return path


@pytest.fixture(scope="module")
def content(wheel):
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def metadata_of(content):
    (name,) = (name for name in content if name.endswith(".dist-info/METADATA"))
    return message_from_bytes(content[name])


def test_the_hub_can_read_the_manifest(wheel):
    from npe2._inspection._fetch import get_manifest_from_wheel

    manifest = get_manifest_from_wheel(str(wheel))
    assert manifest.name == "napari-unet-live"
    assert manifest.display_name == "U-Net Live"
    assert len(manifest.contributions.widgets) == 6
    expected = PluginManifest.from_file(ROOT / "src" / "napari_unet" / "napari.yaml")
    assert manifest.contributions == expected.contributions


def test_the_wheel_holds_every_source_file(content):
    package = ROOT / "src" / "napari_unet"
    sources = {
        f"napari_unet/{path.relative_to(package).as_posix()}" for path in package.rglob("*.py")
    }
    assert sources <= content.keys()
    assert "napari_unet/py.typed" in content


def test_the_wheel_holds_the_built_in_model_and_its_card(content):
    models = [name for name in content if name.startswith("napari_unet/models/")]
    assert {Path(name).suffix for name in models} >= {".safetensors", ".md"}
    assert "napari_unet/models/nuclei.safetensors" in models
    assert all(content[name] for name in models)


def test_the_wheel_is_small_and_holds_nothing_else(wheel, content):
    assert wheel.stat().st_size < 20e6
    tops = {name.split("/")[0] for name in content}
    assert tops == {"napari_unet", "napari_unet_live-0.1.0.dist-info"}


def test_the_metadata_are_what_the_hub_needs(content):
    metadata = metadata_of(content)
    assert metadata["Name"] == "napari-unet-live"
    assert metadata["License-Expression"] == "BSD-3-Clause"
    assert metadata["Requires-Python"] == ">=3.11"
    assert "Framework :: napari" in metadata.get_all("Classifier")


def test_no_qt_binding_is_required(content):
    required = [
        one.split(";")[0].lower()
        for one in metadata_of(content).get_all("Requires-Dist")
        if "extra ==" not in one
    ]
    assert any(one.startswith("napari>=") for one in required)
    assert not [one for one in required if one.startswith(("pyqt5", "pyqt6", "pyside"))]
    assert not [one for one in required if "napari[" in one]


def test_the_version_is_the_same_everywhere(content):
    import napari_unet

    assert metadata_of(content)["Version"] == napari_unet.__version__
