"""The layout of the Cell Tracking Challenge: masks of frames, of slices, and of some cells only."""

import numpy as np
import pytest
from dataset_files import mask, picture, save, sentences

from napari_unet.core.datasets import DatasetSettings, check, describe, open_dataset
from napari_unet.core.errors import ImageError

VOLUMES = DatasetSettings(planes="volume")


def test_tracking_takes_masks_by_hand(tmp_path):
    for sequence in ("01", "02"):
        for frame in range(3):
            save(tmp_path / sequence / f"t{frame:03d}.tif", picture(frame))
            save(tmp_path / f"{sequence}_ST" / "SEG" / f"man_seg{frame:03d}.tif", mask(frame + 1))
        save(tmp_path / f"{sequence}_GT" / "SEG" / "man_seg001.tif", mask())
        save(tmp_path / f"{sequence}_GT" / "TRA" / "man_track000.tif", mask())
    dataset = open_dataset(tmp_path)
    assert dataset.layout == "tracking"
    assert [(pair.key, pair.group) for pair in dataset.pairs] == [
        ("01/t001", "01"), ("02/t001", "02"),
    ]  # fmt: skip
    assert dataset.problems == ()
    both = open_dataset(tmp_path / "02", settings=DatasetSettings(silver=True))
    assert [pair.key for pair in both.pairs] == ["02/t000", "02/t001", "02/t002"]
    np.testing.assert_array_equal(both.pairs[1].labels, mask())
    np.testing.assert_array_equal(both.pairs[2].labels, mask(3))


def test_tracking_takes_single_slices_of_volumes(tmp_path):
    volume = picture(shape=(5, 12, 16), dtype=np.uint16)
    save(tmp_path / "01" / "t000.tif", volume)
    save(tmp_path / "01" / "t001.tif", volume)
    save(tmp_path / "01_GT" / "SEG" / "man_seg_000_003.tif", mask())
    save(tmp_path / "01_GT" / "SEG" / "man_seg_000_009.tif", mask())
    save(tmp_path / "01_GT" / "SEG" / "man_seg001.tif", mask(shape=(5, 12, 16)))
    save(tmp_path / "01_GT" / "SEG" / "man_seg007.tif", mask())
    dataset = open_dataset(tmp_path)
    plane, whole = dataset.pairs
    assert (plane.key, plane.image.axes) == ("01/t000 z003", "yx")
    assert (whole.key, whole.image.axes) == ("01/t001", "zyx")
    np.testing.assert_array_equal(plane.image.read((), (slice(0, 12), slice(0, 16)))[0], volume[3])
    assert "of plane 9, but t000.tif has 5 × 12 × 16 px" in sentences(dataset)
    assert "lacks the frames of man_seg007.tif" in sentences(dataset)


def save_sparse(folder):
    """Two volumes of a sequence, of which three slices are annotated, and one known as a whole."""
    volumes = [picture(frame, (7, 12, 16), np.uint16) for frame in range(3)]
    for frame, volume in enumerate(volumes):
        save(folder / "01" / f"t{frame:03d}.tif", volume)
    save(folder / "01_GT" / "SEG" / "man_seg000.tif", mask(shape=(7, 12, 16)))
    save(folder / "01_GT" / "SEG" / "man_seg_000_001.tif", mask())
    for frame, plane in ((1, 2), (1, 5), (2, 3)):
        save(folder / "01_GT" / "SEG" / f"man_seg_{frame:03d}_{plane:03d}.tif", mask(plane))
    return volumes


def test_slices_of_the_challenge_make_sparse_volumes(tmp_path):
    volumes = save_sparse(tmp_path)
    dataset = open_dataset(tmp_path, settings=VOLUMES)
    assert [(pair.key, pair.group) for pair in dataset.pairs] == [
        ("01/t000", "01"), ("01/t001", "01"), ("01/t002", "01"),
    ]  # fmt: skip
    for volume, pair in zip(volumes, dataset.pairs, strict=True):
        assert (pair.image.axes, pair.labels.shape) == ("zyx", (7, 12, 16))
        np.testing.assert_array_equal(pair.image.array, volume)
    whole, two, one = (np.asarray(pair.labels) for pair in dataset.pairs)
    np.testing.assert_array_equal(whole, mask(shape=(7, 12, 16)))
    for labels, planes in ((two, (2, 5)), (one, (3,))):
        for z in range(7):
            np.testing.assert_array_equal(labels[z], mask(z) if z in planes else -np.ones((12, 16)))
    assert "2 volumes are annotated in single slices (3 in all)" in sentences(dataset)
    said = " ".join(problem.sentence for problem in check(dataset))
    assert "below 0" not in said  # it is meant
    assert "one group" in said


def test_diameters_in_slices_are_those_of_discs(tmp_path):
    save(tmp_path / "01" / "t000.tif", picture(shape=(7, 30, 30)))
    disc = np.zeros((30, 30), np.uint16)
    disc[(np.indices((30, 30)) ** 2).sum(axis=0) < 29**2] = 1  # a quarter of one of 58 px
    save(tmp_path / "01_GT" / "SEG" / "man_seg_000_003.tif", disc)
    assert "median diameter 29 px" in describe(open_dataset(tmp_path, settings=VOLUMES))


def test_slices_that_do_not_fit_are_left_out_of_sparse_volumes(tmp_path):
    save_sparse(tmp_path)
    seg = tmp_path / "01_GT" / "SEG"
    save(seg / "man_seg_001_009.tif", mask())
    save(seg / "man_seg_002_001.tif", mask(shape=(9, 16)))
    dataset = open_dataset(tmp_path, settings=VOLUMES)
    assert "of plane 9" in sentences(dataset)
    assert "9 × 16 px" in sentences(dataset)
    known = [(np.asarray(pair.labels) >= 0).any(axis=(1, 2)).sum() for pair in dataset.pairs]
    assert known == [7, 2, 1]


def test_sparse_volumes_in_blocks_keep_the_same_planes_together(tmp_path):
    save_sparse(tmp_path)
    settings = DatasetSettings(planes="volume", block=4)
    pairs = open_dataset(tmp_path, settings=settings).pairs
    assert [pair.group for pair in pairs] == ["01, z 0-3", "01, z 4-6"] * 3
    assert len({pair.key for pair in pairs}) == 6
    assert (np.asarray(pairs[5].labels) == -1).all()


def test_frames_of_planes_are_never_stacked(tmp_path):
    for frame in (0, 2, 4):
        save(tmp_path / "01" / f"t{frame:03d}.tif", picture(frame))
        save(tmp_path / "01_GT" / "SEG" / f"man_seg{frame:03d}.tif", mask(frame))
    dataset = open_dataset(tmp_path, settings=VOLUMES)
    assert [(pair.group, pair.image.axes) for pair in dataset.pairs] == [("01", "yx")] * 3
    assert "moments, not sections of a volume" in sentences(dataset)


def test_cells_that_are_tracked_and_not_segmented_are_unknown(tmp_path):
    for frame in range(2):
        save(tmp_path / "01" / f"t{frame:03d}.tif", picture(frame))
        save(tmp_path / "01_GT" / "SEG" / f"man_seg{frame:03d}.tif", mask())
    markers = np.zeros((12, 16), np.uint16)
    markers[3:5, 3:5] = 4  # on an object
    markers[8, 1:5] = 7  # half on an object
    markers[1:3, 5:9] = 8  # touches one
    markers[9:11, 12:15] = 9
    save(tmp_path / "01_GT" / "TRA" / "man_track000.tif", markers)
    dataset = open_dataset(tmp_path)
    assert dataset.problems == ()  # nothing was read yet
    lacking, full = dataset.pairs
    expected = mask().astype(np.int32)
    expected[(markers >= 8) & (expected == 0)] = -1
    np.testing.assert_array_equal(lacking.labels, expected)
    assert expected[2, 5] == 1  # objects stay
    np.testing.assert_array_equal(full.labels, mask())
    said = [problem.sentence for problem in check(dataset)]
    assert sum("lacks 2 of 4 cells that are marked in man_track000.tif" in one for one in said) == 1
    assert sum("lacks" in one or "below 0" in one for one in said) == 1


def test_tracks_of_a_slice_and_tracks_that_do_not_fit(tmp_path):
    save_sparse(tmp_path)
    tracks = tmp_path / "01_GT" / "TRA"
    markers = np.zeros((7, 12, 16), np.uint16)
    markers[3, 0, 10:] = 60000
    save(tracks / "man_track002.tif", markers)
    save(tracks / "man_track000.tif", markers[:5])
    volumes = open_dataset(tmp_path, settings=VOLUMES)
    labels = np.asarray(volumes.pairs[2].labels)
    assert (labels[3] == -1).sum() == 6
    (plane,) = (pair for pair in open_dataset(tmp_path).pairs if pair.key == "01/t002 z003")
    np.testing.assert_array_equal(plane.labels, labels[3])
    said = " ".join(problem.sentence for problem in check(volumes))
    assert "lacks 1 of 1 cell that is marked in plane 3 of man_track002.tif" in said
    assert "is not compared with the tracks: TRA/man_track000.tif has 5 × 12 × 16 px" in said


def test_masks_by_computers_are_not_taken_unasked(tmp_path):
    save(tmp_path / "01" / "t000.tif", picture())
    save(tmp_path / "01_ST" / "SEG" / "man_seg000.tif", mask())
    with pytest.raises(ImageError, match="switch silver masks on"):
        open_dataset(tmp_path)
    assert len(open_dataset(tmp_path, settings=DatasetSettings(silver=True)).pairs) == 1
