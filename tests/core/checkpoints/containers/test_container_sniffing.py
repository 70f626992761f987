import io
import struct
import zipfile
from pathlib import Path

import pytest

from napari_unet.core.checkpoints.containers import Source, read_contents, sniff
from napari_unet.core.errors import ModelFileError


def sniffed(content: bytes) -> str:
    return sniff(Source.of_bytes(content, "net.pth"))


def zip_of(*names: str) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name in names:
            archive.writestr(name, b"pt2" if name.endswith("archive_format") else b"")
    return file.getvalue()


def varint(n: int) -> bytes:
    return bytes([n]) if n < 128 else bytes([n & 127 | 128]) + varint(n >> 7)


def message(number: int, content: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(content)) + content


ONNX = b"\x08\x08" + message(2, b"pytorch") + message(7, bytes(500)) + message(8, b"\x10\x11")
CAFFE = message(1, b"u-net") + b"".join(message(100, bytes(300)) for _ in range(3))


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (zip_of("archive/data.pkl", "archive/data/0", "archive/version"), "torch"),
        (zip_of("data.pkl", "data/0"), "torch"),
        (zip_of("m/data.pkl", "m/code/__torch__.py", "m/constants.pkl"), "torchscript"),
        (zip_of("m/archive_format", "m/models/model.json"), "pt2"),
        (zip_of("metadata.json", "config.json", "model.weights.h5"), "keras-zip"),
        (zip_of("rdf.yaml", "weights.pt"), "zip"),
        (zip_of("fold_0/checkpoint.pth", "fold_1/checkpoint.pth"), "zip"),
        (zip_of("rdf.yaml", "inner/data.pkl"), "zip"),
        (b"\x89HDF\r\n\x1a\n" + bytes(100), "hdf5"),
        (struct.pack("<Q", 2) + b"{}", "safetensors"),
        (ONNX, "onnx"),
        (ONNX[:300], "onnx"),
        (CAFFE, "caffemodel"),
        (b"\x80\x04N.", "pickle"),
        (b"(dp0\n.", "pickle"),
        (b"ccollections\nOrderedDict\n(tR.", "pickle"),
        (b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.", "torch-legacy"),
        (b"\x80\x04\x95\x0b\0\0\0\0\0\0\0\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.", "torch-legacy"),
        (bytes(257) + b"ustar" + bytes(300), "torch-tar"),
    ],
)
def test_files_are_told_apart_by_their_bytes(content: bytes, kind: str) -> None:
    assert sniffed(content) == kind


LFS = (
    b"version https://git-lfs.github.com/spec/v1\n"
    b"oid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393\n"
    b"size 118000000\n"
)
DRIVE = b"<!DOCTYPE html><html><head><title>Google Drive - Virus scan warning</title></head></html>"


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", r"This file is empty \(0 bytes\)"),
        (LFS, r"Git-LFS placeholder \(134 bytes\).*the real file is 118\.0 MB.*git lfs pull"),
        (DRIVE, "web page titled 'Google Drive - Virus scan warning', not a model"),
        (b"\n  <HTML><body>404</body></HTML>", "This is a web page, not a model"),
        (
            b'{"message":"Not Found"}',
            r'This is a text file, not a model: \{"message":"Not Found"\}',
        ),
        (b"<?xml version='1.0'?><Error/>", "This is a text file, not a model"),
        (b"Please log in to download.", "This is a text file, not a model: Please log in"),
        (b"epoch,loss\n1,0.5\n", "This is a text file"),
        (b"\x1f\x8b\x08\x00abc", "gzip. Unpack it"),
        (b"7z\xbc\xaf\x27\x1c", "7-Zip archive"),
        (b"Rar!\x1a\x07", "RAR archive"),
        (zip_of("word/document.xml", "[Content_Types].xml"), "Office document"),
        (zip_of("saved_model.pb", "variables/variables.index"), "SavedModel.*Export it as"),
        (zip_of(), "archive is empty"),
        (zip_of("archive/data.pkl")[:-1], r"incomplete or damaged.*got \d+ bytes"),
        (zip_of("archive/data.pkl")[:40], "incomplete or damaged"),
        (bytes(1000), "all zero"),
        (b"\x89PNG\r\n\x1a\n", "image"),
        (b"MZ\x90\x00", "program"),
        (
            bytes(range(1, 256)) * 3,
            r"not a kind of file that models come in \(it begins with 01 02",
        ),
    ],
)
def test_what_is_no_model_is_said_in_words(content: bytes, sentence: str) -> None:
    with pytest.raises(ModelFileError, match=rf"(?s)^net\.pth: .*{sentence}"):
        sniffed(content)


def test_what_others_read_is_not_read_here() -> None:
    with pytest.raises(ModelFileError, match="'onnx' holds no weights by itself"):
        read_contents(Source.of_bytes(ONNX, "net.onnx"))


def test_a_file_larger_than_any_model_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "huge.pth"
    with path.open("wb") as file:
        file.truncate(20 << 30)
    with pytest.raises(ModelFileError, match=r"21\.5 GB large"):
        sniff(Source.of_path(path))


def test_odd_letters_do_not_reach_messages() -> None:
    with pytest.raises(ModelFileError) as caught:
        sniff(Source.of_bytes(b"<html><title>\x1b[31mred\n\xe2\x80\xae</title>", "a\nb\x07.pth"))
    assert str(caught.value).isprintable()
