"""Model files that are dropped on the window of napari: they are opened as models, not as images.

What napari asks here must be answered at once, for every file with one of many endings. So only
names and first bytes are looked at, and nothing heavy is imported before a file is a model.
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

__all__ = ["model_reader"]

MODELS_ONLY = (
    ".pth", ".pt", ".ckpt", ".safetensors", ".pytorch", ".keras", ".onnx", ".pt2", ".caffemodel",
)  # fmt: skip
"""Endings of nothing but models: if there is something else in it, opening says what."""
FREIBURG = (".caffemodel.h5", ".modeldef.h5")
HDF5 = b"\x89HDF\r\n\x1a\n"
KERAS_ATTRIBUTES = frozenset({"keras_version", "layer_names", "model_config"})
KERAS_GROUPS = (frozenset({"model_weights"}), frozenset({"layers", "vars"}))
IN_PACKAGES = ("rdf.yaml", "bioimageio.yaml", "data.pkl", "plans.json", "saved_model.pb")
PICTURES = (".tif", ".tiff", ".png", ".jpg", ".jpeg", ".bmp", ".gif", ".czi", ".lif", ".nd2")
PLUGIN, DOCK = "napari-unet-live", "U-Net Live"

Layers = list[tuple[None]]


def model_reader(path: str | Sequence[str]) -> Callable[[Any], Layers] | None:
    """What opens a model file; None if the path is none, so that napari asks other readers.

    Parameters
    ----------
    path : of a file, or a list with that of one file.
    """
    paths = [path] if isinstance(path, str) else list(path)
    if len(paths) != 1 or not _is_model(Path(paths[0])):
        return None
    return _open


def _is_model(path: Path) -> bool:
    name = path.name.lower()
    try:
        if not path.is_file():
            return False
        if name.endswith(MODELS_ONLY):
            return True
        with path.open("rb") as file:
            head = file.read(8)
        if head == HDF5:
            return name.endswith(FREIBURG) or _is_keras(path)
        return head.startswith(b"PK") and _is_package(path)
    except (OSError, ValueError):
        return False


def _is_keras(path: Path) -> bool:
    """Whether an HDF5 file has the names that Keras gives; images in HDF5 do not."""
    try:
        import h5py

        with h5py.File(path, "r") as file:
            groups = set(file) if len(file) < 1000 else set()
            return bool(KERAS_ATTRIBUTES & set(file.attrs)) or any(
                wanted <= groups for wanted in KERAS_GROUPS
            )
    except (ImportError, OSError, RuntimeError, KeyError):
        return False


def _is_package(path: Path) -> bool:
    """Whether a zip file holds a model by its names; one with pictures beside it may."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = [name.lower() for name in archive.namelist()]
    except (zipfile.BadZipFile, NotImplementedError):
        return False
    if any(name.rpartition("/")[2] in IN_PACKAGES for name in names):
        return True
    has_model = any(name.endswith(MODELS_ONLY) for name in names)
    return has_model and not any(name.endswith(PICTURES) for name in names)


def _open(path: str | Sequence[str]) -> Layers:
    """Open the model in the current viewer, in a dock of ours; there is no layer to add."""
    import napari

    from napari_unet.preferences import remember_model
    from napari_unet.session import session_of

    viewer = napari.current_viewer()
    if viewer is not None:
        file = Path(path if isinstance(path, str) else path[0])
        # NOTE: before the dock is made, which else would open the model of last time first.
        if session_of(viewer).open_model(file):
            remember_model(file)
        _show_dock(viewer)
    return [(None,)]  # napari's sign for: read, and nothing to show


def _show_dock(viewer: Any) -> None:
    """Open the dock in which the model is shown, unless one is open."""
    from napari_unet.widgets.common import Step
    from napari_unet.widgets.live import LiveWidget

    docks = viewer.window.dock_widgets.values()
    if not any(isinstance(dock, LiveWidget | Step) for dock in docks):
        viewer.window.add_plugin_dock_widget(PLUGIN, DOCK)
