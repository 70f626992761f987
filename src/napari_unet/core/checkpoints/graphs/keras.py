"""Keras models: full `.h5` files, `.keras` files, and files of weights alone.

A model file lists its layers as JSON; nothing in it is executed, and Keras is not needed. Files of
weights alone do not: they are compared with the two U-Nets that nearly all of them belong to.
"""

from __future__ import annotations

import json
import zipfile
import zlib
from collections.abc import Mapping
from typing import Any

from napari_unet.core.checkpoints.containers.source import Source
from napari_unet.core.checkpoints.family import classes_of
from napari_unet.core.checkpoints.graphs import Graph
from napari_unet.core.checkpoints.graphs.building import orderly
from napari_unet.core.checkpoints.graphs.hdf5 import Hdf5, opened
from napari_unet.core.checkpoints.graphs.keras_config import plan_of
from napari_unet.core.checkpoints.graphs.keras_known import known_config
from napari_unet.core.checkpoints.graphs.keras_plain import PLAIN
from napari_unet.core.checkpoints.graphs.keras_translation import Translation
from napari_unet.core.checkpoints.graphs.keras_weighted import WEIGHTED
from napari_unet.core.checkpoints.graphs.keras_weights import weights_in
from napari_unet.core.checkpoints.graphs.reading import AnySource, source_of
from napari_unet.core.errors import ModelFileError
from napari_unet.core.normalization import Normalization

__all__ = ["read_keras"]

LARGEST_JSON = 1 << 26
LARGEST_WEIGHTS = 1 << 33
BROKEN = (zipfile.BadZipFile, zlib.error)


def read_keras(file: AnySource) -> Graph:
    """Read a Keras model file.

    Parameters
    ----------
    file : `.h5`, `.hdf5`, `.keras` or `.weights.h5`.

    Raises
    ------
    ModelFileError
        If it is damaged, refers to other files, holds Python code that would have to be run, has
        layers that are not known here, or holds weights without a list of layers and is none of
        the well-known networks.
    """
    source = source_of(file)
    if source.head(4) == b"PK\x03\x04":
        return _read_zip(source)
    with opened(source) as content:
        stored = content.attribute("", "model_config")
        if stored is None:
            return _read_weights(content)
        version = str(content.attribute("", "keras_version") or "2")
        return _graph(_json(str(stored), content.name), content, version)


def _json(text: str | bytes, name: str) -> Any:
    try:
        if len(text) > LARGEST_JSON:
            raise ModelFileError(f"The list of layers in {name} is too long: refused.")
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ModelFileError(
            f"The list of layers in {name} cannot be read ({str(error)[:80]}); the file is damaged."
        ) from error


def _read_zip(source: Source) -> Graph:
    name = source.name
    try:
        with source.open() as file, zipfile.ZipFile(file) as archive:
            config = _json(_member(archive, "config.json", LARGEST_JSON, name), name)
            about = _json(_member(archive, "metadata.json", LARGEST_JSON, name), name)
            weights = _member(archive, "model.weights.h5", LARGEST_WEIGHTS, name)
    except (
        zipfile.BadZipFile,
        OSError,
        EOFError,
        NotImplementedError,
        RuntimeError,
        zlib.error,
    ) as error:
        raise ModelFileError(
            f"{name} cannot be read as a Keras file: it is damaged or incomplete "
            f"({str(error)[:80]}). Download or copy it again."
        ) from error
    version = str(about.get("keras_version", "3")) if isinstance(about, Mapping) else "3"
    with opened(Source.of_bytes(weights, f"{name}/model.weights.h5")) as content:
        return _graph(config, content, version)


def _member(archive: zipfile.ZipFile, name: str, most: int, whose: str) -> bytes:
    """One file of an archive, if it is there once and not unreasonably compressed."""
    found = [entry for entry in archive.infolist() if entry.filename == name]
    if len(found) != 1:
        raise ModelFileError(f"{whose} holds {name!r} {len(found)} times; a Keras file has one.")
    (entry,) = found
    if entry.flag_bits & 1:
        raise ModelFileError(f"{whose} is protected by a password; save it without one.")
    if entry.file_size > min(most, max(20 * entry.compress_size, 1 << 24)):
        raise ModelFileError(
            f"{name} in {whose} claims to unpack to {entry.file_size / 1e6:.6g} MB: refused."
        )
    with archive.open(entry) as file:
        return file.read(entry.file_size + 1)[: entry.file_size]


def _read_weights(file: Hdf5) -> Graph:
    """A file of weights alone."""
    known = known_config(file)
    graph = _graph(known.config, file, "2", known.assumed)
    return Graph(
        config=graph.config,
        tensors=graph.tensors,
        names=graph.names,
        about=graph.about,
        assumed=graph.assumed,
        notes=(*known.notes, *graph.notes),
    )


def _graph(config: Any, file: Hdf5, version: str, assumed: tuple[str, ...] = ()) -> Graph:
    with orderly():
        return _translated(config, file, version, assumed)


def _translated(config: Any, file: Hdf5, version: str, assumed: tuple[str, ...]) -> Graph:
    plan = plan_of(config)
    major = int(version[0]) if version[:1].isdigit() else 3
    kinds = {**WEIGHTED, **PLAIN}
    translation = Translation(plan, weights_in(file, plan.order), major, kinds)
    builder = translation.builder
    output, activation = builder.without_activation(translation.run())
    about: dict[str, Any] = classes_of(builder.channels[output], activation)
    about["container"] = "Keras file"
    guessed = [*assumed, *translation.assumed, "class_names", "pixel_size"]
    if not activation:
        guessed.append("activation")
    offset, scale = builder.without_scaling(output)
    if scale:
        about["normalization"] = Normalization(kind="none", offset=offset, scale=scale, clip=None)
    else:
        # Without a word of it in the file: nearly everybody divides by 255.
        about["normalization"] = Normalization(kind="range", clip=None)
        guessed.append("normalization")
    return builder.graph(output, about, tuple(dict.fromkeys(guessed)), translation.notes)
