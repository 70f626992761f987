"""HDF5 files that mean harm, or are broken."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from napari_unet.core.checkpoints.graphs.hdf5 import opened
from napari_unet.core.errors import ModelFileError

h5py = pytest.importorskip("h5py")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "file.h5"


def test_numbers_texts_and_attributes(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file["a/b"] = np.arange(6, dtype=np.float64).reshape(2, 3)
        file["a/c/d"] = np.float16([1.5])
        file.create_dataset("packed", data=np.ones((64, 64)), compression="gzip", shuffle=True)
        file["text"], file["texts"], file["number"] = "über", ["a", "b"], 4
        file["fixed"] = np.bytes_("fixed")
        file["a"].attrs["names"] = [b"x", b"y"]
        file["a"].attrs["new"] = ["x", "y"]
        file["a"].attrs["none"] = h5py.Empty("f")
        file["a"].attrs["nothing"] = np.zeros(0)
        file["a"].attrs["one"] = 2.5
    with opened(path) as found:
        assert found.tensor("a/b").equal(torch.arange(6.0).reshape(2, 3))
        assert found.tensor("/a/c/d").dtype == torch.float32
        assert found.tensor("packed").sum() == 4096
        assert (found.value("text"), found.value("texts")) == ("über", ("a", "b"))
        assert (found.value("number"), found.value("fixed")) == (4, "fixed")
        assert found.value("none") is None
        assert found.attribute("a", "names") == ("x", "y") == found.attribute("a", "new")
        assert found.attribute("a", "none") is None
        assert found.attribute("a", "other") is None
        assert found.attribute("a", "nothing") == ()
        assert found.attribute("a", "one") == 2.5
        assert found.tensors("a") == {"b": "a/b", "c/d": "a/c/d"}
        assert found.children("a") == ("b", "c")
        assert found.children("a/b") == found.children("other") == ()
        assert found.has("a/c") and not found.has("a/b/c") and not found.has("a/..")


def test_an_open_file_will_do(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file["a"] = np.ones(3, np.float32)
    with opened(io.BytesIO(path.read_bytes())) as found:
        assert found.tensor("a").equal(torch.ones(3))


def to_another_file(file: Any, folder: Path) -> None:
    with h5py.File(folder / "other.h5", "w") as other:
        other["a"] = np.ones(4)
    file["bad"] = h5py.ExternalLink("other.h5", "/a")


def to_another_place(file: Any, _folder: Path) -> None:
    file["there"] = np.ones(4)
    file["bad"] = h5py.SoftLink("/there")


def external(file: Any, folder: Path) -> None:
    (folder / "secret").write_bytes(bytes(64))
    size = [(str(folder / "secret"), 0, 64)]
    file.create_dataset("bad", (8,), "f8", external=size)


def virtual(file: Any, folder: Path) -> None:
    with h5py.File(folder / "other.h5", "w") as other:
        other["a"] = np.ones(4)
    layout = h5py.VirtualLayout(shape=(4,), dtype="f8")
    layout[:] = h5py.VirtualSource(str(folder / "other.h5"), "a", shape=(4,))
    file.create_virtual_dataset("bad", layout)


def huge(file: Any, _folder: Path) -> None:
    file.create_dataset("bad", (100_000, 100_000), "f4")


def huge_in_pieces(file: Any, _folder: Path) -> None:
    file.create_dataset("bad", (100_000, 100_000), "f4", chunks=(100, 100), compression="gzip")


def never_written(file: Any, _folder: Path) -> None:
    file["more"] = np.ones(4000)
    file.create_dataset("bad", (100,), "f4")


def complex_numbers(file: Any, _folder: Path) -> None:
    file["bad"] = np.ones(4, np.complex64)


def references(file: Any, _folder: Path) -> None:
    file["bad"] = np.array([file.ref], dtype=h5py.ref_dtype)


def a_group(file: Any, _folder: Path) -> None:
    file.create_group("bad")


def texts(file: Any, _folder: Path) -> None:
    file["bad"] = "text"


def empty(file: Any, _folder: Path) -> None:
    file["bad"] = h5py.Empty("f4")


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (to_another_file, "other places or files"),
        (to_another_place, "other places or files"),
        (external, "from other files"),
        (virtual, "from other files"),
        (huge, "says it holds 40000 MB"),
        (huge_in_pieces, "says it holds 40000 MB"),
        (never_written, "are missing"),
        (complex_numbers, "complex64"),
        (references, "not read here"),
        (a_group, "no data"),
        (texts, "not ordinary numbers"),
        (empty, "is empty"),
    ],
)
def test_harmful_files(path: Path, damage: Any, words: str) -> None:
    with h5py.File(path, "w") as file:
        damage(file, path.parent)
    with opened(path) as found, pytest.raises(ModelFileError, match=words):
        found.tensor("bad")


def test_one_tensor_under_many_names(path: Path) -> None:
    """Each name costs next to nothing in the file, and its own memory when read."""
    with h5py.File(path, "w") as file:
        file["a"] = np.ones(10_000)
        for n in range(20):
            file[f"b{n}"] = file["a"]
    with opened(path) as found, pytest.raises(ModelFileError, match="do harm"):
        for n in range(20):
            found.tensor(f"b{n}")


def test_groups_that_hold_themselves(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file["a/b"] = np.ones(3)
        file["a/again"] = file["a"]
    with opened(path) as found, pytest.raises(ModelFileError, match="nested too deeply"):
        found.tensors("a")


@pytest.mark.parametrize("end", [0, 8, 100, 2000, -1])
def test_cut_files(path: Path, end: int) -> None:
    with h5py.File(path, "w") as file:
        file["a"] = np.ones(1000)
    path.write_bytes(path.read_bytes()[:end])
    with pytest.raises(ModelFileError, match="damaged or incomplete"), opened(path) as found:
        found.tensor("a")


def test_nothing_there(path: Path) -> None:
    with pytest.raises(ModelFileError, match="There is no model file"), opened(path):
        pass
