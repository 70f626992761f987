"""What kind of file it is, by its first bytes; its name is never asked."""

from __future__ import annotations

import json
import re
import struct

from napari_unet.core.checkpoints.containers.archive import Archive
from napari_unet.core.checkpoints.containers.legacy import MAGIC
from napari_unet.core.checkpoints.containers.protobuf import protobuf_kind
from napari_unet.core.checkpoints.containers.source import Source, named, shown, size_text
from napari_unet.core.checkpoints.containers.torch_zip import root_of
from napari_unet.core.errors import ModelFileError

__all__ = ["sniff"]

MAX_SIZE = 8 << 30  # bytes
_HEAD = 4096  # bytes that are looked at
_MAX_SAFETENSORS_HEADER = 100_000_000

_FOREIGN = {
    b"\x1f\x8b": "It is packed with gzip. Unpack it, and open what is in it.",
    b"BZh": "It is packed with bzip2. Unpack it, and open what is in it.",
    b"\xfd7zXZ": "It is packed with xz. Unpack it, and open what is in it.",
    b"\x28\xb5\x2f\xfd": "It is packed with zstd. Unpack it, and open what is in it.",
    b"7z\xbc\xaf": "It is a 7-Zip archive. Unpack it, and open the model file that is in it.",
    b"Rar!": "It is a RAR archive. Unpack it, and open the model file that is in it.",
    b"\xd0\xcf\x11\xe0": "It is a document of an old Office program, not a model.",
    b"%PDF": "It is a PDF document, not a model.",
    b"\x89PNG": "It is an image (PNG), not a model. Open it as an image.",
    b"\xff\xd8\xff": "It is an image (JPEG), not a model. Open it as an image.",
    b"GIF8": "It is an image (GIF), not a model. Open it as an image.",
    b"II*\x00": "It is an image (TIFF), not a model. Open it as an image.",
    b"MM\x00*": "It is an image (TIFF), not a model. Open it as an image.",
    b"II+\x00": "It is an image (TIFF), not a model. Open it as an image.",
    b"\x93NUMPY": "It is an array of NumPy, not a model.",
    b"MZ": "It is a program for Windows, not a model. Do not start it.",
    b"\x7fELF": "It is a program, not a model. Do not start it.",
    b"#!": "It is a script, not a model. It was not run.",
    b"SQLite format 3": "It is a database, not a model.",
}


def sniff(source: Source) -> str:
    """The kind of a file that a model can be in.

    Returns
    -------
    "torch", "torchscript", "torch-legacy", "torch-tar", "pickle", "pt2" or "safetensors", which
    `read_contents` reads; "hdf5", "onnx", "caffemodel", "keras-zip" or "zip" (a package, or a
    folder of files), which others read.

    Raises
    ------
    ModelFileError
        If it is anything else, damaged or incomplete, with a sentence on what it is.
    """
    with named(source.name):
        if source.size == 0:
            raise ModelFileError(
                "This file is empty (0 bytes). The download or copy probably failed; fetch it "
                "again."
            )
        if source.size > MAX_SIZE:
            raise ModelFileError(
                f"This file is {size_text(source.size)} large, which no U-Net is. It was not read."
            )
        return _kind(source, source.head(_HEAD))


def _kind(source: Source, head: bytes) -> str:
    if _is_safetensors(head):
        return "safetensors"
    if head[:4] in (b"PK\x03\x04", b"PK\x05\x06"):
        return _kind_of_zip(Archive.of_source(source))
    if head[:1] == b"\x80" and head[1:2] <= b"\x05":
        return "torch-legacy" if head[2:14] == MAGIC or MAGIC in head[:32] else "pickle"
    if head[:8] == b"\x89HDF\r\n\x1a\n":
        return "hdf5"
    if head[257:262] == b"ustar":
        return "torch-tar"
    for magic, sentence in _FOREIGN.items():
        if head.startswith(magic):
            raise ModelFileError(sentence)
    if not any(head):
        raise ModelFileError(
            f"The first {len(head)} bytes of this file are all zero: it was never written "
            f"completely. Download or copy it again."
        )
    _refuse_text(source, head)
    if kind := protobuf_kind(source):
        return kind
    if _is_old_pickle(source, head):
        return "pickle"
    raise ModelFileError(
        f"This is not a kind of file that models come in (it begins with "
        f"{head[:8].hex(' ')}, {size_text(source.size)}). Ask for the file as saved by PyTorch, "
        f"Keras, or for a safetensors, ONNX or bioimage.io file."
    )


def _is_safetensors(head: bytes) -> bool:
    if head[8:9] != b"{" or len(head) < 9:
        return False
    n_header: int = struct.unpack("<Q", head[:8])[0]
    return 2 <= n_header <= _MAX_SAFETENSORS_HEADER


def _kind_of_zip(archive: Archive) -> str:
    names = archive.names()
    given = set(names)
    if not names:
        raise ModelFileError("The archive is empty. Download or copy it again.")
    if {"config.json", "model.weights.h5"} <= given:
        return "keras-zip"
    if any(name.startswith(("word/", "xl/", "ppt/")) for name in names):
        raise ModelFileError("This is an Office document, not a model.")
    if (root := root_of(names)) is not None and _is_torch(root, given):
        scripted = any(name.startswith(f"{root}code/") for name in names)
        return "torchscript" if scripted else "torch"
    if any(name.endswith("archive_format") and _is_pt2(archive, name) for name in names):
        return "pt2"
    if any(name.endswith("data/weights/model_weights_config.json") for name in names):
        return "pt2"
    if any(name.endswith("saved_model.pb") for name in names):
        raise ModelFileError(
            "It is a TensorFlow SavedModel, which is a program and cannot be opened here. "
            "Export it as .keras, .h5 or ONNX and open that."
        )
    return "zip"


def _is_torch(root: str, names: set[str]) -> bool:
    """Whether the pickle is the whole file, not one file in a package."""
    return all(name.startswith(root) for name in names)


def _is_pt2(archive: Archive, name: str) -> bool:
    return archive.size(name) < 100 and b"pt2" in archive.read(name, 100)


def _refuse_text(source: Source, head: bytes) -> None:
    """Raise a `ModelFileError` that says what kind of text it is, if it is a text."""
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    lower = text[:100].lower()
    if text.startswith(b"version https://git-lfs"):
        found = re.search(rb"size (\d{1,15})\b", text)
        real = f"; the real file is {size_text(int(found[1]))}" if found else ""
        raise ModelFileError(
            f"This is a Git-LFS placeholder ({size_text(source.size)}), not the model{real}. Run "
            f"`git lfs pull`, or download the file from the web page of its repository."
        )
    if lower.startswith((b"<!doctype", b"<html", b"<head", b"<!--")) or b"<html" in lower:
        found = re.search(rb"<title[^>]*>([^<]{1,300})", source.head(100_000), re.IGNORECASE)
        title = f" titled {_words(found[1])!r}" if found else ""
        raise ModelFileError(
            f"This is a web page{title}, not a model. Open it in a browser, and use the download "
            f"button on that page."
        )
    if text.startswith((b"{", b"[", b"<?xml", b"<")) and _is_readable(head):
        raise ModelFileError(
            f"This is a text file, not a model: {_words(text)}. The server probably answered with "
            f"an error, or it is a description whose model is another file. {_hint(text)}".strip()
        )
    if _is_readable(head) and not _is_old_pickle(source, head):
        words = _words(text)
        raise ModelFileError(f"This is a text file, not a model: {words or 'of blanks alone'}.")


def _hint(text: bytes) -> str:
    try:
        keys = set(json.loads(text)) if text.startswith(b"{") else set()
    except (ValueError, RecursionError):
        keys = set()
    return "Choose the weights beside it." if keys & {"layers", "plans_name", "labels"} else ""


def _words(text: bytes) -> str:
    return shown(" ".join(text[:300].decode("utf-8", "replace").split()))


def _is_readable(head: bytes) -> bool:
    """Whether it is a text, of a file or of the beginning of one."""
    if b"\x00" in head:
        return False
    try:
        text = head.decode("utf-8")
    except UnicodeDecodeError as error:
        if error.start < len(head) - 4 or len(head) < 5:
            return False
        text = head[: error.start].decode("utf-8")
    odd = sum(not (letter.isprintable() or letter.isspace()) for letter in text)
    return odd * 50 <= len(text)


def _is_old_pickle(source: Source, head: bytes) -> bool:
    """Whether it begins and ends as pickles of protocol 0 and 1 do."""
    if head[:1] not in (b"(", b"]", b"}", b"c", b"i") or source.size < 4:
        return False
    if head[:1] in (b"c", b"i") and not re.match(rb"[ci][\w.]+\n[\w.]+\n", head):
        return False
    if head[:1] == b"(" and not re.match(rb"\([\]}dlticSIKNVUXFGLJM(]", head):
        return False
    with source.open() as file:
        file.seek(source.size - 1)
        return file.read(1) == b"."
