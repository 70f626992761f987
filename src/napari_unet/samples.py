"""The images in File > Open Sample > U-Net Live.

Each function returns napari layer tuples. `stained_tissue` and `simulated_nuclei` work
offline; scikit-image fetches the others from the internet once, and keeps them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from napari_unet.core.errors import ImageError
from napari_unet.core.simulation import SimulationSettings, simulate

__all__ = ["LayerData", "cells_3d", "nuclei", "simulated_nuclei", "stained_tissue"]

LayerData: TypeAlias = tuple[npt.NDArray[Any], dict[str, Any], str]
"""Pixels, keyword arguments of the layer, and the kind of layer."""


def stained_tissue() -> list[LayerData]:
    """Colon tissue, brown stain on blue nuclei: `(y, x, rgb)`, uint8, real, works offline."""
    from skimage.data import immunohistochemistry

    about = {
        "source": (
            "scikit-image, skimage.data.immunohistochemistry: colonic glands, FHL2 stained with "
            "DAB, nuclei with hematoxylin; Center for Microscopy and Molecular Imaging (CMMI)"
        ),
        "licence": "no known copyright restrictions",
    }
    return [_image(immunohistochemistry(), "stained tissue", ("y", "x"), about, rgb=True)]


def simulated_nuclei() -> list[LayerData]:
    """A simulated fluorescence field `(y, x)`, uint16, and its exact truth, a hidden layer."""
    simulated = simulate(SimulationSettings(), seed=1)
    about = {"source": "simulated by napari-unet-live", "licence": "CC0-1.0"}
    truth = {
        "name": "simulated nuclei: exact truth",
        "axis_labels": ("y", "x"),
        "visible": False,
        "metadata": about,
    }
    return [
        _image(simulated.image, "simulated nuclei", ("y", "x"), about),
        (simulated.labels, truth, "labels"),
    ]


def nuclei() -> list[LayerData]:
    """Human cell nuclei in fluorescence `(y, x)`, uint8, some dividing; fetched once."""
    from skimage import data

    about = {
        "source": (
            "scikit-image, skimage.data.human_mitosis: Moffat et al., Cell 124 (2006) 1283, "
            "doi:10.1016/j.cell.2006.01.040, by way of the CellProfiler examples"
        ),
        "licence": "CC0-1.0",
    }
    return [_image(_fetch(data.human_mitosis, "nuclei"), "nuclei", ("y", "x"), about)]


def cells_3d() -> list[LayerData]:
    """Cells in 3D: membranes and nuclei, each `(z, y, x)`, uint16, 0.29 x 0.26 x 0.26 µm."""
    from skimage import data

    about = {
        "source": "scikit-image, skimage.data.cells3d: Allen Institute for Cell Science",
        "licence": "terms of use of the Allen Institute for Cell Science",
    }
    cells = _fetch(data.cells3d, "cells in 3D")  # (z, c, y, x)
    where = {"scale": (0.29, 0.26, 0.26), "units": ("µm",) * 3, "blending": "additive"}
    axes = ("z", "y", "x")
    return [
        _image(cells[:, 0], "cells in 3D: membranes", axes, about, colormap="magenta", **where),
        _image(cells[:, 1], "cells in 3D: nuclei", axes, about, colormap="green", **where),
    ]


def _image(
    image: npt.NDArray[Any], name: str, axes: tuple[str, ...], about: dict[str, str], **more: Any
) -> LayerData:
    return image, {"name": name, "axis_labels": axes, "metadata": about, **more}, "image"


def _fetch(read: Callable[[], npt.NDArray[Any]], name: str) -> npt.NDArray[Any]:
    """Read an image that scikit-image keeps on the internet, or say what works without."""
    try:
        return np.asarray(read())
    except (OSError, ValueError, ImportError) as error:
        # OSError: no connection. ValueError: something else came than was asked for.
        raise ImageError(
            f"The sample {name!r} could not be fetched from the internet by scikit-image "
            f"({type(error).__name__}). Check the connection and try again, or open "
            "'Stained tissue' or 'Simulated nuclei': both work offline."
        ) from error
