"""Which sizes fit, found out from nothing but sizes."""

from __future__ import annotations

import pytest

from napari_unet.core.engine.fitting import SIZES, Fit, fit_of, sizes_to_try
from napari_unet.core.engine.graph import Shape, UnsupportedError


def taking(stride: Shape, margin: int = 0, least: int = 1, rest: int = 0):  # type: ignore[no-untyped-def]
    """A network that takes multiples of a stride (plus a rest), and keeps all but a margin."""

    def out_size(shape: Shape) -> Shape:
        if any(n % step != rest % step for n, step in zip(shape, stride, strict=True)):
            raise UnsupportedError("sizes differ")
        if min(shape) < max(least, margin + 1):
            raise UnsupportedError("too small")
        return tuple(n - margin for n in shape)

    return out_size


@pytest.mark.parametrize("stride", [(1, 1), (16, 16), (2, 32), (1, 4, 4)])
@pytest.mark.parametrize("least", [1, 17, 33])
def test_strides_and_least_sizes(stride: Shape, least: int) -> None:
    fit = fit_of((64,) * len(stride), taking(stride, least=least))
    assert fit == Fit(
        base=(64,) * len(stride), stride=stride, margin=(0,) * len(stride), grid=stride,
        least=tuple(-(-least // step) * step for step in stride),
    )  # fmt: skip
    for n in (1, 5, 17, 63, 64, 65, 1000):
        for size, step in zip(fit.size_for((n,) * len(stride)), stride, strict=True):
            assert size == max(-(-n // step) * step, -(-least // step) * step)


def test_without_padding() -> None:
    fit = fit_of((188, 188), taking((16, 16), margin=184, rest=12))
    assert (fit.stride, fit.margin, fit.before) == ((16, 16), (184, 184), (92, 92))
    assert fit.least == (188, 188)
    assert fit.size_for((1, 4)) == (188, 188)
    assert fit.size_for((5, 388)) == (204, 572)


def test_a_size_of_which_nothing_gets_lost_is_better() -> None:
    """Poolings by 3 leave out 1 px of 64, but none of 96."""

    def out_size(shape: Shape) -> Shape:
        return tuple(n // 3 * 3 for n in shape)

    fit = fit_of((64, 64), out_size, ((n, n) for n in SIZES[2]))
    assert (fit.base, fit.stride, fit.margin) == ((96, 96), (3, 3), (0, 0))
    assert fit_of((64, 64), out_size).margin == (1, 1)


def test_a_network_that_takes_single_px_but_not_along_all_axes() -> None:
    def out_size(shape: Shape) -> Shape:
        if shape == (1, 1):
            raise UnsupportedError("a norm of one value")
        return shape

    assert fit_of((64, 64), out_size).least == (2, 2)


@pytest.mark.parametrize(
    ("out_size", "message"),
    [
        (lambda shape: tuple(2 * n for n in shape), r"gives \(128, 128\) px for an image of"),
        (lambda shape: tuple(n // 2 for n in shape), "another resolution"),
        (lambda shape: (5, 5), "another resolution"),
    ],
)
def test_what_gives_no_picture_of_the_size_of_its_own(out_size, message: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(UnsupportedError, match=message):
        fit_of((64, 64), out_size)


def test_turned() -> None:
    fit = Fit(base=(1, 2, 3), stride=(4, 5, 6), margin=(0, 1, 2), least=(1, 2, 3), grid=(4, 5, 12))
    assert fit.turned() == Fit(
        base=(1, 3, 2), stride=(4, 6, 5), margin=(0, 2, 1), least=(1, 3, 2), grid=(4, 12, 5)
    )
    assert fit.turned().turned() == fit
    assert fit.spans((slice(1, 2), slice(0, 4))) == ((1, 2), (0, 4))


@pytest.mark.parametrize("dims", [2, 3])
def test_sizes_to_try(dims: int) -> None:
    sizes = list(sizes_to_try(dims))
    assert sizes[0] == (SIZES[dims][0],) * dims
    assert all(len(set(size)) == 1 for size in sizes)
    for stride in (1, 2, 8, 16, 32):
        assert any(size[0] % stride == 0 for size in sizes[:3])
