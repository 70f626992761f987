"""From napari's layers to images, and where a result lies."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from napari.components import ViewerModel
from napari.layers import Image as ImageLayer
from napari.layers import Labels

from napari_unet.core.errors import ImageError
from napari_unet.core.image import Image, make_image
from napari_unet.core.resampling import TOLERANCE, wanted_sizes

__all__ = [
    "axes_of",
    "focus_of",
    "image_layers",
    "image_of",
    "label_layers",
    "level_for",
    "pixel_size_of",
    "placement",
]

NAMES = {
    "t": ("t", "time", "times", "frame", "frames", "timepoint", "timepoints"),
    "c": ("c", "ch", "channel", "channels"),
    "z": ("z", "depth", "slice", "slices", "plane", "planes"),
    "y": ("y", "row", "rows"),
    "x": ("x", "col", "cols", "column", "columns"),
}
LETTER_OF = {name: letter for letter, names in NAMES.items() for name in names}
HABIT = "ztcuvwabdefghijklmnopqrs"
"""What axes that nobody names are, the likeliest first."""
HABITUAL_ORDER = "uvwabdefghijklmnopqrstcz"


def image_layers(viewer: ViewerModel) -> list[ImageLayer]:
    """The image layers of a viewer, in their order."""
    return [layer for layer in viewer.layers if isinstance(layer, ImageLayer)]


def label_layers(viewer: ViewerModel) -> list[Labels]:
    """The labels layers of a viewer, in their order."""
    return [layer for layer in viewer.layers if isinstance(layer, Labels)]


# ---- axes


def axes_of(layer: ImageLayer, axes: str = "") -> str:
    """A letter for each dimension of the layer's array.

    What says what an axis is, the first that knows counting:

    1. the user, in `axes`;
    2. `rgb`: the last dimension of the array, which is none of the layer's, is "c";
    3. the layer's axis labels, where they are known names of t, c, z, y or x;
    4. its units: what is measured in time is "t";
    5. the last two axes that are left are "y" and "x", or the last is what is missing of them
       (if no axes are left, the last two of all: a slice along z and x is a picture too);
    6. its units again: of the rest, the last that is measured in lengths is "z";
    7. habit: the rest is "z" if it is one axis, "tz", "tcz", "utcz", ... if more.

    Parameters
    ----------
    layer : an image layer.
    axes : what the user says: a letter for each dimension, such as "xyz" (the "c" of an rgb
        layer may be left out), or only for those before `(y, x)`, such as "c" or "tz". Empty,
        or letters for another number of axes: the layer is asked.
    """
    said, colours = axes.strip().lower(), "c" if layer.rgb else ""
    if {"y", "x"} <= set(said):
        return said + colours if len(said) == layer.ndim else said
    if said and len(said) == layer.ndim - 2:
        return f"{said}yx{colours}"
    found = _from_labels(layer)
    _fill(found, _with_unit(layer, "second")[:1], "t")
    unknown = _fill_in_plane(found)
    _fill(found, [axis for axis in _with_unit(layer, "meter") if axis in unknown][-1:], "z")
    return _by_habit(found, colours) + colours


def _from_labels(layer: ImageLayer) -> list[str]:
    """The letter of each axis of the layer, "" where its label says nothing, or nothing new."""
    found = [LETTER_OF.get(str(label).strip().lower(), "") for label in layer.axis_labels]
    return [letter if found.count(letter) == 1 else "" for letter in found]


def _with_unit(layer: ImageLayer, unit: str) -> list[int]:
    """The axes of a layer that are measured in what can be converted to a unit."""
    return [axis for axis, own in enumerate(layer.units) if own.is_compatible_with(unit)]


def _fill(found: list[str], places: list[int], letter: str) -> None:
    """Put a letter that is not there yet at a place that has none."""
    for place in places:
        if not found[place] and letter not in found:
            found[place] = letter


def _fill_in_plane(found: list[str]) -> list[int]:
    """Say which axes are y and x; gives those of which nothing is known yet."""
    missing = [letter for letter in ("x", "y") if letter not in found]
    if len(missing) > found.count(""):  # a slice along z and x, or t and x: still a picture
        found[:] = [*("" if letter in ("y", "x") else letter for letter in found[:-2]), "y", "x"]
        missing = []
    unknown = [axis for axis, letter in enumerate(found) if not letter]
    for letter in missing:
        found[unknown.pop()] = letter
    return unknown


def _by_habit(found: list[str], colours: str) -> str:
    n_unknown = found.count("")
    free = [letter for letter in HABIT if letter not in found and letter != colours]
    chosen = iter(sorted(free[:n_unknown], key=HABITUAL_ORDER.index))
    return "".join(letter or next(chosen) for letter in found)


# ---- images


def image_of(layer: ImageLayer, axes: str = "", level: int = 0) -> Image:
    """The layer's array with its axes and its pixel size; nothing is read or copied.

    Parameters
    ----------
    layer : an image layer.
    axes : what the user says of them; see `axes_of`.
    level : which level of a multiscale layer, 0 the finest; see `level_for`.

    Raises
    ------
    ImageError
        If the layer cannot be used, or the axes do not fit it.
    """
    letters = axes_of(layer, axes)
    if layer.rgb and not letters.endswith("c"):
        raise ImageError(
            f"{layer.name!r} is shown in colours, so the last of its axes is c, but the axes given "
            f"are {letters!r}. Give others, or turn the layer into one that is not rgb."
        )
    array = layer.data[level] if layer.multiscale else layer.data
    sizes = pixel_size_of(layer, letters, level)
    return make_image(array, letters, name=layer.name, pixel_size=sizes)


def pixel_size_of(layer: ImageLayer, axes: str, level: int = 0) -> dict[str, float]:
    """The size of a px along each axis that is measured in lengths, in µm.

    All of the layer's transform counts, its affine too; "pixel" is no length.
    """
    units = [
        float((1 * unit).to("micrometer").magnitude) if axis in _with_unit(layer, "meter") else 0.0
        for axis, unit in enumerate(layer.units)
    ]
    origin = np.asarray(layer.data_to_world([0.0] * layer.ndim))
    factors = _factors(layer, level)
    sizes = {}
    for axis, letter in enumerate(axes[: layer.ndim]):
        step = np.asarray(layer.data_to_world(np.eye(layer.ndim)[axis])) - origin
        if units[axis]:
            sizes[letter] = math.hypot(*(step * units)) * float(factors[axis])
    return sizes


def level_for(
    layer: ImageLayer,
    pixel_size: float | Sequence[float] | None,
    axes: str = "",
    dims: int = 2,
) -> int:
    """The level of a multiscale layer for a model: the coarsest that is not too coarse for it.

    Parameters
    ----------
    layer, axes : an image layer, and what the user says of its axes; see `axes_of`.
    pixel_size : of the images the model was trained on, in µm: one number, or `([z,] y, x)`.
    dims : of the model; the z of a level counts for a 3D one.

    Returns
    -------
    int
        0, the finest, if either pixel size is unknown. A level counts as fine enough up to
        10 % above the model's pixel size.
    """
    wanted = wanted_sizes(pixel_size, dims)
    if not layer.multiscale or not wanted:
        return 0
    letters, best = axes_of(layer, axes), 0
    for level in range(len(layer.data)):
        sizes = pixel_size_of(layer, letters, level)
        if not {"y", "x"} <= set(sizes):
            return 0
        if all(sizes.get(axis, 0) <= size * TOLERANCE for axis, size in wanted.items()):
            best = level
    return best


def _factors(layer: ImageLayer, level: int) -> npt.NDArray[np.float64]:
    """How many px of the finest level one of a level is long, for each axis of the layer."""
    if not layer.multiscale:
        return np.ones(layer.ndim)
    finest, chosen = (np.asarray(layer.data[i].shape[: layer.ndim]) for i in (0, level))
    return np.asarray(finest / chosen)


def _level_of(layer: ImageLayer, image: Image) -> int:
    """Which level of a layer an image is of; 0 if none has its shape."""
    if not layer.multiscale:
        return 0
    shapes = [tuple(data.shape) for data in layer.data]
    shape = tuple(image.array.shape)
    return shapes.index(shape) if shape in shapes else 0


# ---- places


def placement(layer: ImageLayer, image: Image, level: int | None = None) -> dict[str, Any]:
    """Scale, translation, rotation, shear, affine, units and axis labels for a result.

    An axis of channels is taken out; what is left lies exactly on the layer, if its axes have
    the order of the layer (`Image.to_layer_order`). The px of a coarse level span those of the
    finest, as napari draws them.

    Parameters
    ----------
    layer, image : what the result is of.
    level : of a multiscale layer; None for that which has the shape of `image`.
    """
    names = ("scale", "translate", "rotate", "shear", "affine", "units", "axis_labels")
    copied = {name: getattr(layer, name) for name in names}
    factors = _factors(layer, _level_of(layer, image) if level is None else level)
    if (factors != 1).any():
        # Px 0 of a level has its middle at (factor - 1) / 2 px of the finest.
        linear = np.asarray(layer.rotate) @ _shear_matrix(layer) @ np.diag(layer.scale)
        copied["translate"] = np.asarray(layer.translate) + linear @ ((factors - 1) / 2)
        copied["scale"] = np.asarray(layer.scale) * factors
    if layer.rgb or "c" not in image.axes:
        return copied
    return _without(copied, image.axes.index("c"), layer)


def _without(place: dict[str, Any], axis: int, layer: ImageLayer) -> dict[str, Any]:
    """A placement without one of the axes of its layer."""
    kept = [i for i in range(layer.ndim) if i != axis]
    kept_affine = [*kept, layer.ndim]
    matrix = np.asarray(layer.affine.affine_matrix)
    return {
        "scale": np.asarray(place["scale"])[kept],
        "translate": np.asarray(place["translate"])[kept],
        "rotate": np.asarray(layer.rotate)[np.ix_(kept, kept)],
        "shear": _shear_matrix(layer)[np.ix_(kept, kept)],
        "affine": matrix[np.ix_(kept_affine, kept_affine)],
        "units": tuple(layer.units[i] for i in kept),
        "axis_labels": tuple(layer.axis_labels[i] for i in kept),
    }


def _shear_matrix(layer: ImageLayer) -> npt.NDArray[np.float64]:
    """The shear of a layer as a matrix; napari gives its upper triangle if there is no lower."""
    shear = np.asarray(layer.shear, dtype=float)
    if shear.ndim == 2:
        return shear
    matrix = np.eye(layer.ndim)
    matrix[np.triu_indices(layer.ndim, 1)] = shear
    return matrix


def focus_of(
    viewer: ViewerModel, layer: ImageLayer, image: Image, level: int | None = None
) -> tuple[float, ...]:
    """Where in the label axes of `image` the user looks, in px: the middle of the canvas.

    Parameters
    ----------
    viewer, layer, image : the layer that the image is of, and where it is shown.
    level : of a multiscale layer; None for that which has the shape of `image`.
    """
    world = np.array(viewer.dims.point, dtype=float)
    shown = list(viewer.dims.displayed)
    world[shown] = np.asarray(_camera(viewer).center)[-len(shown) :]
    position = np.asarray(layer.world_to_data(world[-layer.ndim :]))
    factors = _factors(layer, _level_of(layer, image) if level is None else level)
    position = np.where(factors == 1, position, (position + 0.5) / factors - 0.5)
    by_axis = dict(zip(image.axes, position, strict=False))  # the c of rgb has no position
    return tuple(float(by_axis[axis]) for axis in image.label_axes)


def _camera(viewer: ViewerModel) -> Any:
    """The camera, which has moved in napari 0.9."""
    return getattr(viewer, "scene", viewer).camera
