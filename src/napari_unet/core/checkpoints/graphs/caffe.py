"""The original U-Nets of Freiburg: the release of 2015, and the models of the Fiji plugin.

Ronneberger, Fischer, Brox: "U-Net: Convolutional Networks for Biomedical Image Segmentation",
MICCAI 2015; Falk et al.: "U-Net: deep learning for cell counting, detection, and morphometry",
Nature Methods 2019. A model is two files: the network and how to use it (`.modeldef.h5`, or a
`.prototxt`), and the weights (`.caffemodel.h5`, or `.caffemodel`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from napari_unet.core.checkpoints.containers.source import Source
from napari_unet.core.checkpoints.family import classes_of
from napari_unet.core.checkpoints.graphs import Graph
from napari_unet.core.checkpoints.graphs.building import orderly
from napari_unet.core.checkpoints.graphs.caffe_blobs import Blobs, binary_blobs, hdf5_blobs
from napari_unet.core.checkpoints.graphs.caffe_known import known_definition
from napari_unet.core.checkpoints.graphs.caffe_layers import CaffeTranslation
from napari_unet.core.checkpoints.graphs.caffe_text import parsed
from napari_unet.core.checkpoints.graphs.hdf5 import Hdf5, opened
from napari_unet.core.checkpoints.graphs.reading import AnySource, source_of
from napari_unet.core.errors import ModelFileError
from napari_unet.core.normalization import Normalization

__all__ = ["is_freiburg", "partner_names", "read_freiburg"]

Kind = Literal["definition", "weights", "text", "binary"]
LONGEST_CARD = 10_000
LONGEST_TEXT = 1 << 24


@dataclass(frozen=True, slots=True, kw_only=True)
class _Definition:
    """What a definition says.

    Attributes
    ----------
    text : the network, as prototxt.
    settings : of the plugin, by their names there; none beside a plain prototxt.
    """

    text: str
    settings: Mapping[str, Any] = field(default_factory=dict)


def is_freiburg(file: AnySource) -> bool:
    """Whether an HDF5 file is one of Caffe's or of the U-Net plugin, whichever of them.

    Raises
    ------
    ModelFileError
        If it is not an HDF5 file, or is damaged.
    """
    with opened(file) as content:
        if any(content.has(name) for name in (".unet-ident", "unet_param", "model_prototxt")):
            return True
        if content.has("iter") and content.has("history"):  # the state of a training
            return True
        return any(content.is_tensor(f"data/{layer}/0") for layer in content.children("data"))


HEAD = 4096
"""So many bytes tell text from a binary file."""


def partner_names(name: str) -> tuple[str, ...]:
    """File names under which the other file of a pair usually lies beside one, likeliest first."""
    base = re.sub(r"(\.modeldef|\.caffemodel)?\.h5$|\.caffemodel$|\.prototxt$", "", name)
    if name.endswith((".modeldef.h5", ".prototxt")):
        return f"{base}.caffemodel.h5", f"{base}.caffemodel"
    if name.endswith(".caffemodel"):
        return f"{base}.prototxt", f"{base}-test.prototxt", f"{base}-train.prototxt"
    return f"{base}.modeldef.h5", f"{base}.prototxt", f"{base}-train.prototxt"


def read_freiburg(file: AnySource, partner: AnySource | None = None) -> Graph:
    """Read one of Freiburg's networks.

    Parameters
    ----------
    file, partner : the two files of a model, in any order. Weights without a definition are
        read if their layers are called as in Freiburg's own networks.

    Raises
    ------
    ModelFileError
        If one of both is missing, damaged, or does not fit the other.
    """
    source = source_of(file)
    both = [source, *([] if partner is None else [source_of(partner)])]
    files = {_kind_of(one): one for one in both}
    weights = files.get("weights", files.get("binary"))
    described = files.get("definition", files.get("text"))
    if weights is None:
        raise _missing(source.name, "describes a network, but its weights are in another file")
    blobs = binary_blobs(weights) if "weights" not in files else _hdf5_blobs(weights)
    if described is not None:
        return _graph(_definition(described), blobs)
    is_plugin = "weights" in files
    text = known_definition(blobs, *((0.1, -0.5) if is_plugin else (0.0, 0.0)))
    if text is None:
        raise _missing(
            weights.name, "holds weights, but the layers they belong to are in another file"
        )
    return _assumed(_graph(_Definition(text=text), blobs), weights.name, is_plugin)


def _missing(name: str, what: str) -> ModelFileError:
    likely = " or ".join(repr(one) for one in partner_names(name))
    return ModelFileError(
        f"{name} {what}. Put that file beside it, with the same name: {likely}. Models of "
        f"Freiburg's U-Net always consist of two files."
    )


def _kind_of(source: Source) -> Kind:
    head = source.head(HEAD)
    if head.startswith(b"\x89HDF\r\n\x1a\n"):
        with opened(source) as file:
            if file.has(".unet-ident") or file.has("model_prototxt"):
                return "definition"
            return "weights"
    is_text = not set(head) & set(range(9)) and b"\xff" not in head
    return "text" if is_text else "binary"


def _hdf5_blobs(source: Source) -> Blobs:
    with opened(source) as file:
        return hdf5_blobs(file)


def _definition(source: Source) -> _Definition:
    if _kind_of(source) == "text":
        return _Definition(text=source.head(LONGEST_TEXT).decode("utf-8", "replace"))
    with opened(source) as file:
        text = _single(file.value("model_prototxt"))
        if not isinstance(text, str):
            raise ModelFileError(
                f"{file.name} describes a model of the U-Net plugin, but the list of layers "
                f"('model_prototxt') is missing in it; the file is damaged."
            )
        return _Definition(text=text, settings=_settings(file))


def _settings(file: Hdf5) -> dict[str, Any]:
    """Whatever stands in `unet_param`, by name."""
    found = {}
    for name in file.children("unet_param"):
        value = _single(file.value(f"unet_param/{name}"))
        if value is not None:
            found[name] = value
    return found


def _single(value: Any) -> Any:
    """A value, also where it was written as a list of one."""
    return value[0] if isinstance(value, tuple) and len(value) == 1 else value


def _graph(definition: _Definition, blobs: Blobs) -> Graph:
    with orderly():
        return _translated(definition, blobs)


def _translated(definition: _Definition, blobs: Blobs) -> Graph:
    settings = definition.settings
    input_blob = str(settings.get("input_blob_name", ""))
    translation = CaffeTranslation(parsed(definition.text), blobs, input_blob)
    builder = translation.builder
    output, activation = builder.without_activation(translation.run())
    n_outputs = builder.channels[output]
    activation = activation or ("sigmoid" if n_outputs == 1 else "softmax")
    about = classes_of(n_outputs, activation)
    about["container"] = "Freiburg's U-Net (Caffe)"
    about["normalization"] = Normalization(kind="minmax", joint=True, clip=None)
    assumed = {"normalization", "class_names", "pixel_size"}
    notes: list[str] = []
    _describe(settings, about, assumed, notes)
    return builder.graph(output, about, sorted(assumed), notes)


def _describe(
    settings: Mapping[str, Any], about: dict[str, Any], assumed: set[str], notes: list[str]
) -> None:
    """What the plugin's settings say of a model."""
    for ours, theirs in (("name", "name"), ("card", "description")):
        text = str(settings.get(theirs, "")).strip()
        if text:
            about[ours] = text[:LONGEST_CARD]
    if "normalization_type" in settings:
        about["normalization"] = _normalization(settings["normalization_type"], assumed, notes)
    sizes = settings.get("element_size_um")
    sizes = sizes if isinstance(sizes, tuple) else (sizes,)
    if isinstance(sizes[-1], int | float) and sizes[-1] > 0:
        about["pixel_size"] = round(float(sizes[-1]), 6)  # stored as float32
        assumed.discard("pixel_size")
    stored = settings.get("classNames", ())
    names = tuple(map(str, stored)) if isinstance(stored, tuple) else (str(stored),)
    n_outputs = len(about["outputs"])
    if len(names) == n_outputs - 1:
        names = ("background", *names)
    if len(names) == n_outputs > 1 and about["activation"] == "softmax":
        about["class_names"] = about["outputs"] = names
        assumed.discard("class_names")
    if settings.get("padding") == "zero":
        notes.append("The plugin surrounds images with zeros for this model, not with a mirror.")


def _normalization(kind: Any, assumed: set[str], notes: list[str]) -> Normalization:
    """Types 0 to 3 of the plugin, all measured over all channels together."""
    assumed.discard("normalization")
    if kind == 0:
        return Normalization(kind="none", clip=None)
    if kind == 2:
        return Normalization(kind="zscore", joint=True, clip=None)
    if kind == 1:
        return Normalization(kind="minmax", joint=True, clip=None)
    assumed.add("normalization")
    notes.append(
        f"The model wants intensities normalised in the plugin's way number {kind}, which is not "
        f"known here; they are scaled between the darkest and the brightest pixel instead."
    )
    return Normalization(kind="minmax", joint=True, clip=None)


def _assumed(graph: Graph, name: str, is_plugin: bool) -> Graph:
    """The same, marked as what it is."""
    kind = "the Fiji plugin (leaky ReLU, image shifted by -0.5)" if is_plugin else "2015 (ReLU)"
    return Graph(
        config=graph.config,
        tensors=graph.tensors,
        names=graph.names,
        about=graph.about,
        assumed=tuple(sorted({*graph.assumed, "layers"})),
        notes=(
            f"{name} holds weights without a list of layers. Their names are those of Freiburg's "
            f"U-Nets, so its layers were taken to be those of {kind}. To be sure, put "
            f"{partner_names(name)[0]!r} beside it.",
            *graph.notes,
        ),
    )
