"""From napari's layers to images, and where a result lies."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from napari.components import ViewerModel
from napari.layers import Image as ImageLayer
from napari.layers import Labels

from napari_unet.core.image import Image, make_image

__all__ = ["axes_of", "focus_of", "image_layers", "image_of", "label_layers", "placement"]

NAMED = {"t": "t", "time": "t", "z": "z", "c": "c", "channel": "c", "channels": "c"}


def image_layers(viewer: ViewerModel) -> list[ImageLayer]:
    """The image layers of a viewer, in their order."""
    return [layer for layer in viewer.layers if isinstance(layer, ImageLayer)]


def label_layers(viewer: ViewerModel) -> list[Labels]:
    """The labels layers of a viewer, in their order."""
    return [layer for layer in viewer.layers if isinstance(layer, Labels)]


def full_data(layer: Any) -> Any:
    """The array of a layer at full resolution; nothing is copied."""
    return layer.data[0] if layer.multiscale else layer.data


def axes_of(layer: ImageLayer, leading: str = "") -> str:
    """A letter for each dimension of the layer's array.

    Parameters
    ----------
    layer : an image layer.
    leading : what the axes before `(y, x)` are, as chosen by the user, such as "c" or "tz";
        empty to take them from the layer's axis labels, else "z" for one and "tz" for two.
    """
    n_leading = layer.ndim - 2
    if len(leading) != n_leading:
        leading = _named(layer, n_leading) or ("", "z", "tz", "tcz")[min(n_leading, 3)]
        leading = "uvw"[: n_leading - len(leading)] + leading
    return leading + ("yxc" if layer.rgb else "yx")


def _named(layer: ImageLayer, n_leading: int) -> str:
    """Letters from the layer's axis labels, or nothing unless all of them are known."""
    labels = [str(label).strip().lower() for label in layer.axis_labels[:n_leading]]
    letters = [NAMED.get(label, "") for label in labels]
    return "".join(letters) if all(letters) and len(set(letters)) == len(letters) else ""


def image_of(layer: ImageLayer, leading: str = "") -> Image:
    """The layer's array with its axes; raises `ImageError` if it cannot be used."""
    return make_image(full_data(layer), axes_of(layer, leading), name=layer.name)


def placement(layer: ImageLayer, image: Image) -> dict[str, Any]:
    """Scale, translation, rotation, shear, affine, units and axis labels for a result.

    An axis of channels is taken out; what is left lies exactly on the layer.
    """
    names = ("scale", "translate", "rotate", "shear", "affine", "units", "axis_labels")
    copied = {name: getattr(layer, name) for name in names}
    if layer.rgb or "c" not in image.axes:
        return copied
    axis = image.axes.index("c")
    kept = [i for i in range(layer.ndim) if i != axis]
    matrix = np.asarray(layer.affine.affine_matrix)
    kept_affine = [*kept, layer.ndim]
    copied.update(
        scale=np.asarray(layer.scale)[kept],
        translate=np.asarray(layer.translate)[kept],
        rotate=np.asarray(layer.rotate)[np.ix_(kept, kept)],
        affine=matrix[np.ix_(kept_affine, kept_affine)],
        units=tuple(layer.units[i] for i in kept),
        axis_labels=tuple(layer.axis_labels[i] for i in kept),
    )
    copied["shear"] = _shear_matrix(layer)[np.ix_(kept, kept)]
    return copied


def _shear_matrix(layer: ImageLayer) -> npt.NDArray[np.float64]:
    """The shear of a layer as a matrix; napari gives its upper triangle if there is no lower."""
    shear = np.asarray(layer.shear, dtype=float)
    if shear.ndim == 2:
        return shear
    matrix = np.eye(layer.ndim)
    matrix[np.triu_indices(layer.ndim, 1)] = shear
    return matrix


def focus_of(viewer: ViewerModel, layer: ImageLayer, image: Image) -> tuple[float, ...]:
    """Where in the label axes of `image` the user looks, in px: the middle of the canvas."""
    world = np.array(viewer.dims.point, dtype=float)
    shown = list(viewer.dims.displayed)
    world[shown] = np.asarray(_camera(viewer).center)[-len(shown) :]
    position = np.asarray(layer.world_to_data(world[-layer.ndim :]))
    axes = image.axes.replace("c", "") if layer.rgb else image.axes
    return tuple(float(p) for p, axis in zip(position, axes, strict=True) if axis != "c")


def _camera(viewer: ViewerModel) -> Any:
    """The camera, which has moved in napari 0.9."""
    return getattr(viewer, "scene", viewer).camera
