"""Files of `torch.export`: a zip with numbers, their names in JSON, and a graph that is not run."""

from __future__ import annotations

from typing import Any

from napari_unet.core.checkpoints.containers.archive import Archive
from napari_unet.core.checkpoints.containers.inert import StorageNote, TensorNote
from napari_unet.core.checkpoints.containers.source import Source, shown
from napari_unet.core.checkpoints.containers.tensors import converted_note, storages_in
from napari_unet.core.checkpoints.evidence import Contents
from napari_unet.core.errors import ModelFileError

__all__ = ["read_pt2"]

_CONFIG = "data/weights/model_weights_config.json"
_TYPES = ("", "uint8", "int8", "int16", "int32", "int64", "float16", "float32", "float64")
_MORE_TYPES = {9: "complex32", 10: "complex64", 11: "complex128", 12: "bool", 13: "bfloat16"}


def read_pt2(source: Source) -> Contents:
    """Read the weights by their names; raises `ModelFileError`."""
    archive = Archive.of_source(source)
    configs = [name for name in archive.names() if name.endswith(_CONFIG)]
    if len(configs) != 1:
        raise ModelFileError(
            "It is a file of torch.export without weights that can be read. Save it with a newer "
            "PyTorch, or save the state dict."
        )
    folder = configs[0].removesuffix("model_weights_config.json")
    storages = storages_in(archive, folder)
    try:
        listed = archive.json(configs[0])["config"]
        notes = {str(name): _note(entry) for name, entry in listed.items()}
    except (KeyError, TypeError, AttributeError, IndexError, ValueError) as error:
        raise ModelFileError(
            "Its list of weights is not as torch.export writes it. The file is damaged."
        ) from error
    left_out = [name for name, note in notes.items() if note is None]
    usable = {name: note for name, note in notes.items() if note is not None}
    tree = {name: storages.tensor(usable[name], name) for name in _by_layer(list(usable))}
    return Contents(
        container="PyTorch export (.pt2)",
        tree=tree,
        notes=(
            "This is an exported program. Only its weights were taken; it was not run.",
            *((f"Left alone: {shown(', '.join(left_out))}.",) if left_out else ()),
            *converted_note(storages.converted),
        ),
    )


def _by_layer(names: list[str]) -> list[str]:
    """The order of a state dict: the exporter puts all buffers behind all parameters."""
    layers = list(dict.fromkeys(name.rpartition(".")[0] for name in names))
    places = {layer: i for i, layer in enumerate(layers)}
    return sorted(names, key=lambda name: places[name.rpartition(".")[0]])


def _note(entry: Any) -> TensorNote | None:
    """One tensor; `None` for one that is stored as a pickle."""
    if entry.get("use_pickle"):
        return None
    meta = entry["tensor_meta"]
    code = meta["dtype"]
    dtype = _TYPES[code] if code < len(_TYPES) else _MORE_TYPES.get(code, f"type {code}")
    return TensorNote(
        StorageNote(str(entry["path_name"]), dtype, 0),
        offset=_whole(meta["storage_offset"]),
        size=tuple(_whole(n) for n in meta["sizes"]),
        stride=tuple(_whole(n) for n in meta["strides"]),
    )


def _whole(value: Any) -> int:
    n = value["as_int"]
    if type(n) is not int:
        raise TypeError("no whole number")
    return n
