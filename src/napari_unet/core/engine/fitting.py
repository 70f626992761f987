"""Which image sizes a network takes, and where its output lies in its input."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import chain

from napari_unet.core.engine.geometry import Span
from napari_unet.core.engine.graph import Shape, UnsupportedError

__all__ = ["SIZES", "Fit", "fit_of", "sizes_to_try"]

LARGEST_STRIDE = 256
SIZES = {2: (64, 96, 128, 160, 192, 256), 3: (32, 48, 64, 96)}
"""Sizes to try first, by number of dimensions, in px."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """Sizes that fit are `base + k * stride`, and an output is `margin` px smaller than its input.

    All per axis `([z,] y, x)`, in px. With padded convolutions the margin is 0; without padding
    the image is continued by mirroring, half of the margin on either side.

    Attributes
    ----------
    least : no smaller size is used.
    grid : pieces of an image may begin on multiples of this; the stride, but for networks that
        take images of any size whatever happens inside.
    """

    base: Shape
    stride: Shape
    margin: Shape
    least: Shape = ()
    grid: Shape = ()

    def __post_init__(self) -> None:
        if not self.least:
            object.__setattr__(self, "least", tuple(n + 1 for n in self.margin))
        if not self.grid:
            object.__setattr__(self, "grid", self.stride)

    @property
    def before(self) -> Shape:
        """How far before the image its input begins."""
        return tuple(n // 2 for n in self.margin)

    def size_for(self, wanted: Shape) -> Shape:
        """The smallest input whose output is not smaller than `wanted`."""
        return tuple(
            base - (base - max(n + margin, least)) // step * step
            for n, base, step, margin, least in zip(
                wanted, self.base, self.stride, self.margin, self.least, strict=True
            )
        )

    def turned(self) -> Fit:
        """The same for images whose y and x are exchanged."""
        names = ("base", "stride", "margin", "least", "grid")
        values = {name: getattr(self, name) for name in names}
        return Fit(**{k: (*v[:-2], v[-1], v[-2]) for k, v in values.items()})

    def spans(self, window: tuple[slice, ...]) -> tuple[Span, ...]:
        """A window of slices as spans."""
        return tuple((part.start, part.stop) for part in window)


def sizes_to_try(dims: int) -> Iterator[Shape]:
    """Sizes one of which fits nearly every network."""
    for n in SIZES[dims]:
        yield (n,) * dims
    for n in range(92, 260 if dims == 2 else 140, 4):  # unpadded convolutions
        yield (n,) * dims


def fit_of(base: Shape, out_size: Callable[[Shape], Shape], others: Iterable[Shape] = ()) -> Fit:
    """Find out which sizes fit.

    Parameters
    ----------
    base : a size that fits.
    out_size : the size of the output for an input; raises `UnsupportedError` where none fits.
    others : sizes of which less may get lost at the borders than of `base`.

    Raises
    ------
    UnsupportedError
        If the output is larger than the input, or of another resolution.
    """
    base, margin = _least_margin(base, out_size, others)
    stride = tuple(_stride(base, axis, margin, out_size) for axis in range(len(base)))
    fit = Fit(base=base, stride=stride, margin=margin)
    least = tuple(_least(fit, axis, out_size) for axis in range(len(base)))
    return _taken(replace(fit, least=least), out_size)


def _least_margin(
    base: Shape, out_size: Callable[[Shape], Shape], others: Iterable[Shape]
) -> tuple[Shape, Shape]:
    """The size of which least gets lost, and how much.

    Something gets lost without padding, but perhaps just because a pooling leaves px out; a layer
    that enlarges what is left of them may even give more than went in.
    """
    found: tuple[Shape, Shape] | None = None
    problem: UnsupportedError | None = None
    for size in chain([base], others):
        try:
            lost = _margin(size, out_size(size))
        except UnsupportedError as error:
            problem = problem or error
            continue
        if found is None or sum(lost) < sum(found[1]):
            found = size, lost
        if not any(lost):
            break
    if found is None:
        raise problem or UnsupportedError("it takes no image")
    return found


def _margin(size: Shape, out: Shape) -> Shape:
    margin = tuple(n - m for n, m in zip(size, out, strict=True))
    if min(margin) < 0:
        raise UnsupportedError(f"it gives {out} px for an image of {size} px")
    return margin


def _stride(base: Shape, axis: int, margin: Shape, out_size: Callable[[Shape], Shape]) -> int:
    """The smallest step from one size that fits to the next along an axis."""
    for step in range(1, LARGEST_STRIDE + 1):
        larger = tuple(n + (step if at == axis else 0) for at, n in enumerate(base))
        try:
            if _margin(larger, out_size(larger)) == margin:
                return step
        except UnsupportedError:
            continue
    raise UnsupportedError(f"its output for an image of {base} px is of another resolution")


def _fits(fit: Fit, size: Shape, out_size: Callable[[Shape], Shape]) -> bool:
    try:
        return _margin(size, out_size(size)) == fit.margin
    except UnsupportedError:
        return False


def _least(fit: Fit, axis: int, out_size: Callable[[Shape], Shape]) -> int:
    """The smallest size that fits along an axis; what fits is taken to go on fitting."""
    base, step = fit.base[axis], fit.stride[axis]
    low, high = -((base - fit.margin[axis] - 1) // step), 0
    while low < high:
        middle = (low + high) // 2
        size = tuple(n + (middle * step if at == axis else 0) for at, n in enumerate(fit.base))
        low, high = (low, middle) if _fits(fit, size, out_size) else (middle + 1, high)
    return base + low * step


def _taken(fit: Fit, out_size: Callable[[Shape], Shape]) -> Fit:
    """The same with larger smallest sizes, if a network does not take them along all axes."""
    while fit.least != fit.base and not _fits(fit, fit.least, out_size):
        least = zip(fit.least, fit.stride, fit.base, strict=True)
        fit = replace(fit, least=tuple(min(n + step, base) for n, step, base in least))
    return fit
