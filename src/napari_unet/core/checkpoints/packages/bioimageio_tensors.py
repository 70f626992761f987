"""What a bioimage.io description says of the images that go in and come out, in either format."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_unet.core.checkpoints.packages.bioimageio_processing import Step
from napari_unet.core.errors import ModelFileError

__all__ = ["TensorNote", "tensor_notes"]

LETTERS = {"batch": "b", "channel": "c", "index": "i", "time": "t"}
LARGEST, MOST = 1 << 31, 10_000
"""No image is as large, in px, and none has more channels."""
MICROMETERS = {
    "angstrom": 1e-4, "nanometer": 1e-3, "micrometer": 1.0, "millimeter": 1e3, "centimeter": 1e4,
    "meter": 1e6, "picometer": 1e-6,
}  # fmt: skip
"""How long a unit is, in µm."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorNote:
    """What is said of one image that goes in or comes out.

    Attributes
    ----------
    name : its name in the description.
    axes : a letter of `bcitzyx` for each axis, in the order of the file.
    least, step : per axis the smallest size in px and what may be added to it; 0 for nothing.
        Both are 0 where the size follows from another image.
    halo : per axis, how many px at either end are not to be trusted.
    channels : names of the channels; () if there is no such axis or nothing is said.
    n_channels : how many there are, if it is said.
    pixel_size : of y and x in µm, if it is said.
    kind : type of the values.
    bounds : smallest and largest value.
    steps : what is done to the image before, or to the result after the network.
    test : name of the file with an example.
    """

    name: str
    axes: str
    least: tuple[int, ...] = ()
    step: tuple[int, ...] = ()
    halo: tuple[int, ...] = ()
    channels: tuple[str, ...] = ()
    n_channels: int | None = None
    pixel_size: float | None = None
    kind: str = "float32"
    bounds: tuple[float | None, float | None] = (None, None)
    steps: tuple[Step, ...] = ()
    test: str | None = None

    def __post_init__(self) -> None:
        if any(not 0 <= n < LARGEST for n in (*self.least, *self.step, *self.halo)):
            raise ValueError(f"sizes of {self.least}, steps of {self.step}")
        if self.n_channels is not None and not 0 < self.n_channels <= MOST:
            raise ValueError(f"{self.n_channels} channels")

    @property
    def space(self) -> tuple[int, ...]:
        """Where the axes of space are among the axes, in the order `([z,] y, x)`."""
        return tuple(self.axes.index(axis) for axis in "zyx" if axis in self.axes)

    def canonical(self, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """An array with the axes of the file as `(b, c, [z,] y, x)`.

        Raises
        ------
        ModelFileError
            If it has other axes.
        """
        if values.ndim != len(self.axes):
            raise ModelFileError(
                f"The example {self.test!r} in the package has {values.ndim} axes, but its "
                f"description names {len(self.axes)} ({self.axes}); the package is damaged."
            )
        drop = [at for at, axis in enumerate(self.axes) if axis in "it"]
        if any(values.shape[at] != 1 for at in drop):
            raise ModelFileError(
                f"The network takes series of images at a time (axes {self.axes}). Networks here "
                f"take one image or one volume."
            )
        letters = "".join(axis for axis in self.axes if axis not in "it")
        values = np.squeeze(values, tuple(drop))
        for axis in "cb":
            if axis not in letters:
                values, letters = values[None], axis + letters
        order = [letters.index(axis) for axis in "bczyx" if axis in letters]
        return values.transpose(order)  # (b, c, [z,] y, x)


def tensor_notes(
    description: Mapping[str, Any], key: str, version: tuple[int, ...]
) -> tuple[TensorNote, ...]:
    """What is said under "inputs" or "outputs".

    Raises
    ------
    ModelFileError
        If nothing that makes sense is.
    """
    entries = description.get(key)
    if not isinstance(entries, Sequence) or isinstance(entries, str) or not entries:
        raise ModelFileError(f"The description in the package names no {key}; it is incomplete.")
    tests = description.get(f"test_{key}") or ()
    try:
        if version >= (0, 5):
            return tuple(_new_note(entry) for entry in entries)
        files = [str(name) for name in tests] + [None] * len(entries)
        return tuple(_old_note(entry, test) for entry, test in zip(entries, files, strict=False))
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError) as error:
        raise ModelFileError(
            f"What the description in the package says of its {key} cannot be understood "
            f"({type(error).__name__}: {error}). It may be damaged; download the package again."
        ) from error


# --- format 0.5 --------------------------------------------------------------------------------


def _new_note(entry: Mapping[str, Any]) -> TensorNote:
    axes = [dict(axis) for axis in entry["axes"]]
    letters = _letters_of(axes)
    sizes = [_new_size(axis.get("size")) for axis in axes]
    channels = next((axis.get("channel_names") for axis in axes if axis["type"] == "channel"), None)
    names = tuple(str(name) for name in channels or ())
    values = entry.get("data") or {}
    values = values[0] if isinstance(values, list) else values
    low, high = values.get("range") or (None, None)
    ids = {_id_of(axis): letter for axis, letter in zip(axes, letters, strict=True)}
    steps = entry.get("preprocessing") or entry.get("postprocessing") or ()
    return TensorNote(
        name=str(entry.get("id", "")),
        axes=letters,
        least=tuple(least for least, _ in sizes),
        step=tuple(step for _, step in sizes),
        halo=tuple(int(axis.get("halo") or 0) for axis in axes),
        channels=names,
        n_channels=len(names) or (1 if "c" not in letters else None),
        pixel_size=_pixel_size(axes, letters),
        kind=str(values.get("type", "float32")),
        bounds=(_end(low), _end(high)),
        steps=tuple(_new_step(step, ids) for step in steps),
        test=_file_of(entry.get("test_tensor")),
    )


def _id_of(axis: Mapping[str, Any]) -> str:
    return str(axis.get("id") or ("x" if axis["type"] == "space" else axis["type"]))


def _letters_of(axes: Sequence[Mapping[str, Any]]) -> str:
    """A letter for each axis; those of space are z, y, x, by name or else by order."""
    space = [_id_of(axis).lower() for axis in axes if axis["type"] == "space"]
    if len(space) not in (2, 3):
        raise ValueError(f"{len(space)} axes of space")
    if set(space) != set("zyx"[-len(space) :]):
        space = list("zyx"[-len(space) :])
    left = iter(space)
    return "".join(
        next(left) if axis["type"] == "space" else LETTERS[axis["type"]] for axis in axes
    )


def _new_size(size: Any) -> tuple[int, int]:
    if isinstance(size, Mapping):
        return int(size.get("min") or 0), int(size.get("step") or 0)
    return int(size or 0), 0


def _pixel_size(axes: Sequence[Mapping[str, Any]], letters: str) -> float | None:
    sizes = [
        float(axis.get("scale", 1)) * MICROMETERS[axis["unit"]]
        for axis, letter in zip(axes, letters, strict=True)
        if letter in "yx" and axis.get("unit") in MICROMETERS
    ]
    return sum(sizes) / len(sizes) if sizes else None


def _new_step(step: Mapping[str, Any], ids: Mapping[str, str]) -> Step:
    values = dict(step.get("kwargs") or {})
    axes = values.pop("axes", None) or ()
    along = values.get("axis")
    if along is not None and ids[str(along)] != "c":
        raise ValueError(f"the step {step['id']!r} differs along the axis {along!r}")
    return Step(name=str(step["id"]), values=values, axes="".join(ids[str(axis)] for axis in axes))


def _file_of(entry: Any) -> str | None:
    source = entry.get("source") if isinstance(entry, Mapping) else entry
    return None if source is None else str(source)


def _end(value: Any) -> float | None:
    number = None if value is None else float(value)
    return number if number is not None and abs(number) < float("inf") else None


# --- format 0.4 and before ---------------------------------------------------------------------


def _old_note(entry: Mapping[str, Any], test: str | None) -> TensorNote:
    axes = str(entry["axes"]).lower()
    if set(axes) - set("bcitzyx") or len(set(axes)) != len(axes) or not {"y", "x"} <= set(axes):
        raise ValueError(f"axes {axes!r}")
    least, step = _old_sizes(entry.get("shape"), len(axes))
    low, high = entry.get("data_range") or (None, None)
    halo = tuple(int(n) for n in entry.get("halo") or [0] * len(axes))
    if not len(axes) == len(least) == len(step) == len(halo):
        raise ValueError("there is not one size, step and halo for each axis")
    n_channels = least[axes.index("c")] if "c" in axes else 1
    steps = entry.get("preprocessing") or entry.get("postprocessing") or ()
    return TensorNote(
        name=str(entry["name"]),
        axes=axes,
        least=least,
        step=step,
        halo=halo,
        n_channels=n_channels or None,
        kind=str(entry.get("data_type", "float32")),
        bounds=(_end(low), _end(high)),
        steps=tuple(_old_step(one) for one in steps),
        test=test,
    )


def _old_sizes(shape: Any, n_axes: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Smallest sizes and steps; 0 where a size follows from that of another image."""
    if isinstance(shape, Mapping) and "min" in shape:
        return tuple(int(n) for n in shape["min"]), tuple(int(n) for n in shape["step"])
    if isinstance(shape, Mapping):  # output = input * scale + 2 * offset
        pairs = zip(shape["scale"], shape["offset"], strict=True)
        fixed = tuple(0 if scale else round(2 * offset) for scale, offset in pairs)
        return fixed, (0,) * n_axes
    return tuple(int(n) for n in shape), (0,) * n_axes


def _old_step(step: Mapping[str, Any]) -> Step:
    """A step as format 0.5 says it."""
    values = dict(step.get("kwargs") or {})
    name, mode = str(step["name"]), values.pop("mode", None)
    axes = str(values.pop("axes", None) or "")
    if name == "zero_mean_unit_variance" and (mode == "fixed" or "mean" in values):
        name = "fixed_zero_mean_unit_variance"
    return Step(name=name, values=values, axes=axes)
