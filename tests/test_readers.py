"""Files dropped on napari's window: models are opened, all others are left to other readers."""

import pickle
import subprocess
import sys
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest
import tifffile
from npe2 import PluginManifest

from napari_unet.core.model import save_model
from napari_unet.readers import model_reader
from napari_unet.session import session_of
from napari_unet.widgets.live import LiveWidget
from napari_unet.widgets.model import ModelWidget

ROOT = Path(__file__).resolve().parents[1]
FIXTURES = ROOT / "tests" / "fixtures" / "checkpoints"
MODELS = [
    FIXTURES / "milesial" / "d_transposed.pt",
    FIXTURES / "bioimageio" / "example.zip",
    FIXTURES / "freiburg" / "small.caffemodel.h5",
    FIXTURES / "freiburg" / "small.modeldef.h5",
    FIXTURES / "freiburg" / "small.caffemodel",
]


@pytest.mark.parametrize("path", MODELS, ids=lambda path: path.name)
def test_models_are_taken(path):
    assert model_reader(str(path)) is not None
    assert model_reader([str(path)]) is not None


def keras(path):
    with h5py.File(path, "w") as file:
        file.attrs["keras_version"] = "2.3"
        file.create_group("model_weights")


def keras_weights(path):
    with h5py.File(path, "w") as file:
        file.create_group("layers")
        file.create_group("vars")


def folds(path):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("fold_0/Checkpoint_final.PTH", b"")


@pytest.mark.parametrize(
    ("name", "write"), [("a.h5", keras), ("a.weights.h5", keras_weights), ("a.zip", folds)]
)
def test_models_in_common_containers_are_taken(tmp_path, name, write):
    write(tmp_path / name)
    assert model_reader(str(tmp_path / name)) is not None


def image_in_hdf5(path):
    with h5py.File(path, "w") as file:
        file["raw"] = np.zeros((4, 4))


def pictures(path):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.tif", b"")
        archive.writestr("model.pth", b"")


def no_zip(path):
    path.write_bytes(b"PK\x03\x04 and no more")


def no_hdf5(path):
    path.write_bytes(b"\x89HDF\r\n\x1a\n and no more")


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("a.h5", image_in_hdf5), ("a.hdf5", no_hdf5), ("a.zip", pictures), ("a.zip", no_zip),
        ("a.zip", Path.touch), ("a.h5", Path.touch), ("a.pth", Path.mkdir),
        ("a.tif", lambda path: tifffile.imwrite(path, np.zeros((3, 3)))),
    ],
)  # fmt: skip
def test_all_others_are_left_alone(tmp_path, name, write):
    write(tmp_path / name)
    assert model_reader(str(tmp_path / name)) is None


def test_what_is_not_there_and_several_files_are_left_alone(tmp_path):
    assert model_reader(str(tmp_path / "no.pth")) is None
    assert model_reader(str(tmp_path / "\x00.pth")) is None
    assert model_reader([str(path) for path in MODELS[:2]]) is None
    assert model_reader([]) is None


def test_looking_loads_nothing_heavy_and_runs_nothing(tmp_path):
    """A pickle that would write a file, were it loaded."""
    trace = tmp_path / "trace"

    class Evil:
        def __reduce__(self):
            return Path.touch, (trace,)

    (tmp_path / "evil.pt").write_bytes(pickle.dumps(Evil()))
    code = (
        "import sys\nfrom napari_unet.readers import model_reader\n"
        "assert model_reader(sys.argv[1])\n"
        "assert not {'torch', 'napari', 'qtpy', 'h5py'} & set(sys.modules), sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "evil.pt")], check=True, timeout=60)
    assert not trace.exists()


# ---- in a real napari


@pytest.fixture
def napari_with_plugin(npe2pm, make_napari_viewer):
    npe2pm.register(PluginManifest.from_file(ROOT / "src" / "napari_unet" / "napari.yaml"))
    return make_napari_viewer()


def wait_for(qtbot, session):
    qtbot.waitUntil(lambda: session.model is not None and not session.is_busy, timeout=20_000)


@pytest.mark.parametrize("plugin", ["napari-unet-live", None])
def test_a_model_is_opened_in_a_dock_of_its_own(napari_with_plugin, qtbot, tiny_file, plugin):
    viewer = napari_with_plugin
    assert viewer.open(str(tiny_file), plugin=plugin) == []
    session = session_of(viewer)
    wait_for(qtbot, session)
    assert session.message[0] == "done", session.message
    assert session.model.description.name == "tiny"
    assert session.source == str(tiny_file)
    assert len(viewer.layers) == 0
    docks = list(viewer.window.dock_widgets.values())
    assert [type(dock) for dock in docks] == [LiveWidget]
    viewer.open(str(MODELS[0]), plugin=plugin)
    wait_for(qtbot, session)
    assert session.model.description.name == "d_transposed"
    assert len(viewer.window.dock_widgets) == 1


def test_the_dock_that_is_open_is_used(napari_with_plugin, qtbot, make_tiny_model, tmp_path):
    viewer = napari_with_plugin
    save_model(make_tiny_model(name="other"), tmp_path / "other.safetensors")
    viewer.window.add_dock_widget(ModelWidget(viewer), name="Model")
    session = session_of(viewer)
    wait_for(qtbot, session)
    viewer.open(str(tmp_path / "other.safetensors"), plugin="napari-unet-live")
    wait_for(qtbot, session)
    assert session.model.description.name == "other"
    assert list(viewer.window.dock_widgets) == ["Model"]


def test_a_damaged_model_leaves_a_sentence(napari_with_plugin, qtbot, tmp_path):
    viewer = napari_with_plugin
    (tmp_path / "bad.pth").write_text("version https://git-lfs.github.com/spec/v1\n")
    assert viewer.open(str(tmp_path / "bad.pth"), plugin="napari-unet-live") == []
    session = session_of(viewer)
    qtbot.waitUntil(lambda: not session.is_busy, timeout=20_000)
    assert session.message[0] == "error"
    assert "bad.pth" in session.message[1]


def test_a_picture_in_hdf5_is_not_taken(napari_with_plugin, tmp_path):
    image_in_hdf5(tmp_path / "a.h5")
    with pytest.raises(Exception, match=r"a\.h5|reader|read"):
        napari_with_plugin.open(str(tmp_path / "a.h5"), plugin="napari-unet-live")
