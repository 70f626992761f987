"""Objects linked through the planes of a stack."""

import numpy as np
import pytest
import scipy.ndimage as ndi

from napari_unet.core.errors import ImageError, SettingsError
from napari_unet.core.linking import Linker, linking


def row(text):
    """A plane of one row from digits."""
    return np.array([[int(digit) for digit in text]], np.int32)


def linked(*rows, **settings):
    planes = linking((row(text) for text in rows), **settings)
    return ["".join(str(value) for value in plane[0]) for plane in planes]


def test_objects_that_overlap_go_on_and_others_begin():
    assert linked("0110220", "0220110", "0330000", "0111022") == [
        "0110220", "0110220", "0110000", "0111033",
    ]  # fmt: skip


def test_the_first_plane_is_numbered_from_1_in_the_order_of_its_ids():
    assert linked("5500770222") == ["2200330111"]
    assert linked("0110220", "0220110", first=4) == ["0550660", "0550660"]


def test_an_id_never_comes_back():
    assert linked("0110", "0000", "0110", "0011") == ["0110", "0000", "0220", "0022"]


def test_the_better_of_two_overlaps_wins_on_either_side():
    assert linked("1111111111", "1111112222") == ["1111111111", "1111112222"]
    assert linked("1111222222", "1111111111") == ["1111222222", "2222222222"]
    assert linked("1111100000", "0111222222") == ["1111100000", "0111222222"]


def test_of_equal_overlaps_the_lower_id_wins():
    assert linked("1111", "2211") == ["1111", "2211"]
    assert linked("1122", "1111") == ["1122", "1111"]


def test_the_overlap_must_be_large_enough():
    assert linked("1110000", "0011110") == ["1110000", "0022220"]  # 1 of 6
    assert linked("1110000", "0111100") == ["1110000", "0111100"]  # 2 of 5
    assert linked("1110000", "0111100", least_overlap=0.4) == ["1110000", "0111100"]
    assert linked("1110000", "0111100", least_overlap=0.41) == ["1110000", "0222200"]
    assert linked("1110000", "1110000", least_overlap=1) == ["1110000", "1110000"]


def test_a_ball_is_one_object_and_ids_are_gapless():
    grid = np.indices((30, 40, 40)) - np.reshape((15, 20, 20), (3, 1, 1, 1))
    ball = (grid**2).sum(axis=0) < 13**2
    ball[:, :4, :4] = np.arange(30)[:, None, None] % 2  # comes and goes
    planes = [ndi.label(plane)[0] for plane in ball]
    linker = Linker()
    stack = np.stack([linker.link(plane) for plane in planes])
    assert len(np.unique(stack[:, 4:, 4:][ball[:, 4:, 4:]])) == 1
    np.testing.assert_array_equal(np.unique(stack), np.arange(linker.n_found + 1))
    assert linker.n_found == 16
    np.testing.assert_array_equal(stack > 0, ball)


def brute_force(planes, least_overlap):
    """The definition, object by object."""
    before, n_found, result = np.zeros_like(planes[0]), 0, []
    for plane in planes:
        ids, old_ids = np.unique(plane[plane > 0]), np.unique(before[before > 0])
        overlap = {
            (old, new): ((before == old) & (plane == new)).sum()
            / ((before == old) | (plane == new)).sum()
            for old in old_ids
            for new in ids
        }
        now = np.zeros_like(plane)
        for new in ids:
            best = max(old_ids, key=lambda old: (overlap[old, new], -old), default=None)
            if best is not None and overlap[best, new] >= least_overlap:
                rival = max(ids, key=lambda other: (overlap[best, other], -other))
                if rival == new:
                    now[plane == new] = best
            if not now[plane == new].any():
                n_found += 1
                now[plane == new] = n_found
        result.append(now)
        before = now
    return np.stack(result)


@pytest.mark.parametrize("seed", range(5))
def test_it_is_what_the_definition_says(seed):
    generator = np.random.default_rng(seed)
    noise = ndi.gaussian_filter(generator.random((6, 30, 33)), (0.7, 1.5, 1.5))
    planes = [ndi.label(plane > 0.52)[0] for plane in noise]
    expected = brute_force(planes, 0.25)
    np.testing.assert_array_equal(np.stack(list(linking(planes))), expected)
    assert expected.max() > 10


def test_windows_give_what_whole_planes_give():
    generator = np.random.default_rng(0)
    noise = ndi.gaussian_filter(generator.random((5, 40, 33)), (0.7, 1.5, 1.5))
    planes = [ndi.label(plane > 0.52)[0] for plane in noise]
    linker, before = Linker(), None
    for plane, expected in zip(planes, linking(planes), strict=True):
        for start in range(0, 40, 7):
            rows = slice(start, start + 7)
            linker.add(plane[rows], None if before is None else before[rows])
        before = linker.finish()[plane]
        np.testing.assert_array_equal(before, expected)


def test_a_stack_can_be_gone_on_with():
    first = row("0550660")
    linker = Linker(first=9, before=first)
    assert linker.link(row("1011020")).tolist() == row("5055060").tolist()
    assert linker.link(row("1000020")).tolist() == row("5000060").tolist()
    assert Linker(first=9).link(row("1000020")).max() == 11


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int64])
def test_ids_of_any_size_and_dtype(dtype):
    plane = np.zeros((6, 6), dtype)
    plane[:2], plane[3:] = np.iinfo(dtype).max // 2, 3
    first, second = linking([plane, plane])
    assert first.dtype == np.int32
    np.testing.assert_array_equal(first[:, 0], [2, 2, 0, 1, 1, 1])
    np.testing.assert_array_equal(first, second)


def test_nothing_to_link():
    assert list(linking([])) == []
    assert not any(plane.any() for plane in linking([np.zeros((3, 4), int)] * 3))
    assert [plane.shape for plane in linking([np.zeros((0, 4), int)] * 2)] == [(0, 4)] * 2


def test_planes_of_two_sizes_are_refused():
    linker = Linker()
    linker.link(np.ones((4, 5), int))
    with pytest.raises(ImageError, match=r"\(4, 6\).*\(4, 5\)"):
        linker.link(np.ones((4, 6), int))


@pytest.mark.parametrize("least_overlap", [0, -0.1, 1.1])
def test_a_wrong_overlap_is_named(least_overlap):
    with pytest.raises(SettingsError, match="least_overlap"):
        Linker(least_overlap)
