"""Where a model came from, so that it can go back there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

__all__ = ["Origin"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """The file that a model was opened from, and what its weights are called there.

    Attributes
    ----------
    file : its name.
    sha256 : of the whole file, hexadecimal; of the names and contents of its files for a folder.
    member : which of several models in the file; "" if it holds one.
    container : the kind of file in plain words.
    prefix : what all names in the file begin with.
    names : for each name in the network its names in the file, where they differ.
    shapes : the shape in the file, where it differs.
    """

    file: str
    sha256: str = ""
    member: str = ""
    container: str = ""
    prefix: str = ""
    names: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
