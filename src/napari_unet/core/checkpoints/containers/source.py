"""Where bytes come from: a file, a stretch of one, or memory. Read only."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Self, cast

from napari_unet.core.errors import ModelFileError

__all__ = ["Source", "named", "shown", "size_text"]


def shown(text: object, length: int = 80) -> str:
    """Text from a file as it may stand in a message: no control characters, not too long."""
    short = str(text)[: length + 1] if isinstance(text, str) else repr(text)[: length + 1]
    clean = "".join(letter if letter.isprintable() else " " for letter in short)
    return clean if len(clean) <= length else clean[: length - 1] + "…"


def size_text(n_bytes: int) -> str:
    """A number of bytes for people: "134 bytes", "31.2 MB"."""
    if n_bytes < 1000:
        return f"{n_bytes} bytes"
    for unit, factor in (("kB", 1e3), ("MB", 1e6), ("GB", 1e9)):
        if n_bytes < 1000 * factor:
            return f"{n_bytes / factor:.1f} {unit}"
    return f"{n_bytes / 1e12:.1f} TB"


@contextmanager
def named(name: str) -> Iterator[None]:
    """Begin the sentences of all `ModelFileError`s with the name of the file.

    Whatever a damaged file makes Python's own readers stumble over becomes such a sentence too.
    """
    prefix = f"{shown(name)}: "
    try:
        yield
    except ModelFileError as error:
        sentence = str(error)
        if sentence.startswith(prefix) or type(error) is not ModelFileError:
            raise  # NOTE: those of a more special kind carry more than a sentence
        raise ModelFileError(prefix + sentence) from error
    except OSError as error:
        raise ModelFileError(
            f"{prefix}The file cannot be read ({error.strerror or error}). Check that you may "
            f"read it, and that its drive is still there."
        ) from error
    except (MemoryError, RecursionError) as error:
        raise ModelFileError(
            f"{prefix}The file is malformed: it asks for more memory, or is nested more deeply, "
            f"than any model. Nothing of it was used."
        ) from error


class _Stretch(io.RawIOBase):
    """The bytes from `start` to `start + size` of a file, as a file of their own."""

    def __init__(self, file: BinaryIO, start: int, size: int) -> None:
        super().__init__()
        self._file, self._start, self._size, self._at = file, start, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        origin = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        self._at = max(0, origin + offset)
        return self._at

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        n_wanted = max(0, min(len(buffer), self._size - self._at))
        self._file.seek(self._start + self._at)
        n_read: int = self._file.readinto(memoryview(buffer)[:n_wanted])  # type: ignore[attr-defined]
        self._at += n_read
        return n_read

    def close(self) -> None:
        if not self.closed:
            self._file.close()
        super().close()


@dataclass(frozen=True, slots=True)
class Source:
    """Bytes that can be opened again and again.

    Attributes
    ----------
    name : file name, for people.
    size : in bytes, when it was first looked at.
    path : the file on the disk, unless the bytes are a part of one or in memory.
    neighbour : gives the file of another name in the same folder, or raises `ModelFileError`.
    """

    name: str
    size: int
    opener: Callable[[], BinaryIO] = field(repr=False, compare=False)
    path: Path | None = None
    neighbour: Callable[[str], Source] | None = field(default=None, repr=False, compare=False)

    def beside(self, name: str) -> Source:
        """The file called `name` in the same folder: its own name alone, and no link.

        Raises
        ------
        ModelFileError
            If there is none, or if the name leads elsewhere.
        """
        is_bare = name not in ("", ".", "..") and not set(name) & set("/\\:\0")
        if not is_bare:
            raise ModelFileError(
                f"It refers to another place on your disk ({shown(name)}). Refused."
            )
        if self.path is not None:
            path = self.path.with_name(name)
            if path.is_symlink():
                raise ModelFileError(f"It refers to a link ({shown(name)}). Refused.")
            return type(self).of_path(path)
        if self.neighbour is None:
            raise ModelFileError(f"A part of it is missing: the file {shown(name)}.")
        return self.neighbour(name)

    def open(self) -> BinaryIO:
        """The bytes as a seekable file; close it after use."""
        return self.opener()

    def head(self, n_bytes: int) -> bytes:
        """The first bytes, fewer if there are fewer."""
        with self.open() as file:
            return file.read(n_bytes)

    def sha256(self) -> str:
        """Of all bytes, hexadecimal."""
        digest = hashlib.sha256()
        with self.open() as file:
            while block := file.read(1 << 22):
                digest.update(block)
        return digest.hexdigest()

    def part(self, name: str, start: int, size: int) -> Source:
        """A stretch of these bytes as a source of its own."""

        def opener() -> BinaryIO:
            return cast(BinaryIO, io.BufferedReader(_Stretch(self.open(), start, size)))

        return Source(name, size, opener)

    @classmethod
    def of_bytes(cls, content: bytes, name: str) -> Self:
        """A source in memory."""
        return cls(name, len(content), lambda: io.BytesIO(content))

    @classmethod
    def of_path(cls, path: Path, advice: str = "Check the path.") -> Self:
        """A file on the disk; `advice` is given where there is none.

        Raises
        ------
        ModelFileError
            If there is none, if it is a folder or a device, or if it may not be read.
        """
        try:
            if path.is_dir():
                raise ModelFileError(_folder_sentence(path))
            if path.exists() and not path.is_file():
                raise ModelFileError(f"{shown(path.name)} is not a file but a device.")
            with path.open("rb") as file:
                size = file.seek(0, io.SEEK_END)
        except FileNotFoundError as error:
            raise ModelFileError(
                f"There is no model file {shown(str(path), 300)}. {advice}"
            ) from error
        except (OSError, ValueError, RuntimeError) as error:  # NUL in the path, loop of links
            reason = getattr(error, "strerror", None) or error
            raise ModelFileError(
                f"The model file {shown(str(path), 300)} cannot be read ({reason}). "
                f"Check the path, and that you may read the file."
            ) from error
        return cls(path.name, size, lambda: cast(BinaryIO, path.open("rb")), path)


def _folder_sentence(path: Path) -> str:
    if (path / "saved_model.pb").is_file():
        return (
            f"{shown(path.name)} is a TensorFlow SavedModel, which is a program and cannot be "
            f"opened here. Export it as .keras, .h5 or ONNX and open that."
        )
    return f"{shown(path.name)} is a folder; a model is a file. Choose the file in it."
