"""Convolutions and normalizations in the order of a file, and which of them belong together."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from napari_unet.core.checkpoints.containers.source import shown
from napari_unet.core.checkpoints.evidence import COUNTER, Evidence
from napari_unet.core.errors import ModelFileError

__all__ = ["Item", "Items", "table", "tokens"]

STATISTICS = ("running_mean", "running_var", COUNTER)


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One convolution of a file.

    Attributes
    ----------
    path : its name without "weight".
    shape : of its weights.
    bias : whether it has biases.
    norm, n_norm : path and channels of the normalization that belongs to it, if any.
    kind : class of the layer if that was stored, else "".
    """

    path: str
    shape: tuple[int, ...]
    bias: bool
    norm: str = ""
    n_norm: int = 0
    kind: str = ""

    @property
    def kernel(self) -> tuple[int, ...]:
        """Its size along the axes of the image."""
        return self.shape[2:]

    @property
    def may_be_transposed(self) -> bool:
        """Whether it can be a transposed convolution."""
        return "Transpose" in self.kind or (not self.kind and max(self.kernel) > 1)

    @property
    def may_be_plain(self) -> bool:
        """Whether it can be an ordinary convolution."""
        return "Transpose" not in self.kind


@dataclass(frozen=True, slots=True, kw_only=True)
class Items:
    """All convolutions of a file, in its order.

    Attributes
    ----------
    convs : the convolutions.
    norm : what normalizes: with stored statistics ("batch"), without ("group"), or nothing.
    norm_first : whether the normalization comes before its convolution.
    """

    convs: tuple[Item, ...]
    norm: Literal["none", "batch", "group"]
    norm_first: bool

    @classmethod
    def of(cls, evidence: Evidence) -> Items:
        """Sort the tensors of a file.

        Raises
        ------
        ModelFileError
            If there are tensors that belong to no convolution and no normalization.
        """
        entries = _entries(evidence)
        norms = [entry for entry in entries if isinstance(entry, _Norm)]
        kind: Literal["none", "batch", "group"] = "none"
        if norms:
            is_batch = evidence.has(f"{norms[0].path}.running_mean")
            kind = "batch" if is_batch else "group"
        for norm_first in (False, True) if isinstance(entries[0], Item) else (True, False):
            convs = _paired(entries, norm_first)
            if convs:
                return cls(convs=tuple(convs), norm=kind, norm_first=norm_first)
        raise ModelFileError(
            f"{evidence.name} is a network of a kind that is not known, and it could not be told "
            "which normalization belongs to which convolution.\n"
            + table([entry for entry in entries if isinstance(entry, Item)])
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Norm:
    path: str
    n_channels: int


def _entries(evidence: Evidence) -> list[Item | _Norm]:
    """Convolutions and normalizations in the order of the file."""
    found: list[Item | _Norm] = []
    strange = []
    for name, tensor in evidence.tensors.items():
        path, _, part = name.rpartition(".")
        shape = tuple(tensor.shape)
        if part == "weight" and tensor.ndim in (4, 5):
            note = evidence.layers.get(path)
            bias, kind = evidence.has(f"{path}.bias"), note.kind if note else ""
            found.append(Item(path=path, shape=shape, bias=bias, kind=kind))
        elif part == "weight" and tensor.ndim == 1 and evidence.has(f"{path}.bias"):
            found.append(_Norm(path=path, n_channels=shape[0]))
        elif part not in ("bias", *STATISTICS):
            strange.append(f"{shown(name)}: {shape}")
    if strange or not found:
        raise ModelFileError(
            f"{evidence.name} is a network of a kind that is not known, and it holds more than the "
            f"convolutions and normalizations of a plain U-Net, such as {'; '.join(strange[:3])}. "
            "If you can, open it in the program it was made with and export it as ONNX or "
            "TorchScript, or ask its author for the name of the network."
        )
    return found


def _paired(entries: Sequence[Item | _Norm], norm_first: bool) -> list[Item]:
    """The convolutions, each with its normalization; none if that does not work out.

    So many normalizations after a row of convolutions belong to the last ones of it, one each; or
    the other way round, where normalizations come first.
    """
    convs: list[Item] = []
    for row, norms in _rows(entries, norm_first):
        n_others = len(row) - len(norms)
        fitting = row[: len(norms)] if norm_first else row[max(0, n_others) :]
        pairs = list(zip(fitting, norms, strict=False))
        if n_others < 0 or any(norm.n_channels not in conv.shape[:2] for conv, norm in pairs):
            return []
        named = {conv.path: norm for conv, norm in pairs}
        for conv in row:
            norm = named.get(conv.path)
            known = replace(conv, norm=norm.path, n_norm=norm.n_channels) if norm else conv
            convs.append(known)
    return convs


def _rows(
    entries: Sequence[Item | _Norm], norm_first: bool
) -> list[tuple[list[Item], list[_Norm]]]:
    """Rows of convolutions with the row of normalizations after them, or before them."""
    rows: list[tuple[list[Item], list[_Norm]]] = [([], [])]
    for entry in entries:
        convs, norms = rows[-1]
        begins = bool(convs) if norm_first else bool(norms)
        if isinstance(entry, _Norm):
            if norm_first and begins:
                rows.append(([], []))
            rows[-1][1].append(entry)
        else:
            if not norm_first and begins:
                rows.append(([], []))
            rows[-1][0].append(entry)
    return rows


def tokens(path: str) -> tuple[str, ...]:
    """The words and numbers of a name."""
    return tuple(re.findall(r"[^\W\d_]+|\d+", path))


def table(convs: Sequence[Item], most: int = 40) -> str:
    """A line for each convolution: name and shape."""
    lines = [f"  {shown(conv.path)}: {'x'.join(map(str, conv.shape))}" for conv in convs[:most]]
    more = [f"  ... and {len(convs) - most} more"] if len(convs) > most else []
    return "\n".join(["Convolutions in the file:", *lines, *more])
