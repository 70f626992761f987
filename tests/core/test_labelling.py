"""Objects band by band: exactly those of the whole."""

import tracemalloc

import numpy as np
import pytest
import scipy.ndimage as ndi
import zarr

from napari_unet.core import labelling as labelling_module
from napari_unet.core import parts as parts_module
from napari_unet.core.instances import ObjectSettings, objects_of
from napari_unet.core.labelling import labelling
from napari_unet.core.simulation import SimulationSettings, simulate

PLAIN = (0, 1)
MODELS = {
    "one class": ((0, 1, 1), None),
    "inside and border": ((0, 1, 1), 1),
    "border counts as background": ((0, 1, 0), 1),
    "two classes": ((0, 1, 2), None),
    "two classes, one with an inside": ((0, 1, 2), 1),
    "sigmoid": ((1,), None),
    "sigmoid that is its own inside": ((1,), 0),
}
SHAPES = [(61, 83), (1, 50), (50, 1), (17, 23, 29)]


def random_outputs(shape, n_outputs, seed):
    """Blobs of all sizes that touch each other and the borders, with holes."""
    generator = np.random.default_rng(seed)
    noise = ndi.gaussian_filter(
        generator.random((n_outputs, *shape)),
        (0, *[generator.choice([1.0, 1.5, 3.0])] * len(shape)),
    )
    if n_outputs == 1:
        return (np.argsort(np.argsort(noise.ravel())) / noise.size).reshape(noise.shape)
    noise = (noise - noise.min()) ** 8
    return (noise / noise.sum(axis=0)).astype(np.float16)


def random_settings(seed):
    generator = np.random.default_rng(seed)
    return ObjectSettings(
        min_size=int(generator.choice([0, 5, 25])),
        split=float(generator.choice([0, 0.3, 0.5, 1])),
        smoothing=float(generator.choice([0, 0, 1.2])),
        fill_holes=bool(generator.random() < 0.7),
    )


def plain(mask):
    return np.stack([~mask, mask]).astype(np.float16)


def rows_of(outputs, n_rows):
    """`band_pixels` for bands of so many rows."""
    return n_rows * int(np.prod(outputs.shape[2:]))


def put_together(bands, shape):
    """The labels of all bands; they must fill the image once, in order."""
    labels, row = np.full(shape, -1, np.int32), 0
    for window, band in bands:
        assert window[0].start == row < window[0].stop
        assert window[1:] == tuple(slice(0, length) for length in shape[1:])
        assert band.dtype == np.int32
        labels[window], row = band, window[0].stop
    assert row == shape[0]
    return labels


def check(outputs, output_class, settings, inside=None, n_rows=(1, 7, 64, 10_000)):
    """Compare with the whole at several heights of bands; returns the labels."""
    whole = objects_of(outputs, output_class, settings, inside)
    for n in n_rows:
        found = labelling(outputs, output_class, settings, inside, band_pixels=rows_of(outputs, n))
        np.testing.assert_array_equal(put_together(found, whole.shape), whole)
    return whole


# The same as the whole


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("seed", range(4))
def test_bands_of_any_height_give_what_the_whole_gives(model, shape, seed):
    output_class, inside = MODELS[model]
    outputs = random_outputs(shape, len(output_class), seed)
    check(outputs, output_class, random_settings([seed, len(model), *shape]), inside)


@pytest.mark.parametrize("inside", [None, 1])
@pytest.mark.parametrize(
    "settings",
    [
        {"split": 0},
        {"split": 1.0, "min_size": 0},
        {"fill_holes": False},
        {"smoothing": 2.5},
        {"smoothing": 0.1},
        {"threshold": 0.2, "min_size": 60},
        {"threshold": 0.8},
    ],
    ids=str,
)
def test_every_setting_alone(inside, settings):
    outputs = random_outputs((90, 71), 3, 5)
    assert check(outputs, (0, 1, 1), ObjectSettings(**settings), inside).any()


@pytest.mark.parametrize("inside", [None, 1])
def test_nuclei(inside):
    labels = simulate(SimulationSettings(size=200, n_nuclei=40, touching=0.8)).labels
    rim = ndi.maximum_filter(labels, 3) != ndi.minimum_filter(labels, 3)
    sure = np.stack([labels == 0, (labels > 0) & ~rim, (labels > 0) & rim]).astype(np.float32)
    outputs = ndi.gaussian_filter(sure, (0, 1, 1)).astype(np.float16)
    assert check(outputs, (0, 1, 1), ObjectSettings(), inside, (3, 50, 200)).max() > 20


@pytest.mark.parametrize("block_pixels", [1, 300, 2**18])
@pytest.mark.parametrize("window_cost", [0, 10**9])
def test_how_parts_are_grouped_changes_nothing(monkeypatch, block_pixels, window_cost):
    monkeypatch.setattr(labelling_module, "WINDOW_COST", window_cost)
    monkeypatch.setattr(labelling_module, "BLOCK_PIXELS", block_pixels)
    monkeypatch.setattr(parts_module, "BLOCK_PIXELS", block_pixels)
    outputs = random_outputs((60, 70), 3, 3)
    for inside in (None, 1):
        check(outputs, (0, 1, 2), ObjectSettings(min_size=5, smoothing=0.5), inside, (9, 60))


@pytest.mark.parametrize("shape", [(30, 31), (7, 9, 8)])
@pytest.mark.parametrize("inside", [None, 1])
@pytest.mark.parametrize("split", [0.0, 0.5])
def test_nothing_and_everything(shape, inside, split):
    settings = ObjectSettings(split=split)
    nothing, everything = np.zeros((2, 2, *shape), np.float32)
    nothing[0] = everything[1] = 1
    assert not check(nothing, PLAIN, settings, inside).any()
    assert (check(everything, PLAIN, settings, inside) == 1).all()


@pytest.mark.parametrize("shape", [(0, 5), (5, 0), (1, 1)])
@pytest.mark.parametrize("inside", [None, 1])
def test_images_without_pixels_or_with_one(shape, inside):
    outputs = np.zeros((2, *shape), np.float32)
    assert objects_of(outputs, PLAIN, ObjectSettings(), inside).shape == shape
    found = labelling(outputs, PLAIN, ObjectSettings(), inside, band_pixels=1)
    assert put_together(found, shape).shape == shape


# Cases that cross bands


def test_parts_that_join_late_are_one():
    mask = np.zeros((40, 60), bool)
    mask[2:38, 2:58:8] = True  # a comb
    mask[36:38, 2:58] = True
    for settings in (ObjectSettings(split=0), ObjectSettings()):
        check(plain(mask), PLAIN, settings)
    assert check(plain(mask), PLAIN, ObjectSettings(split=0)).max() == 1
    assert check(plain(mask[::-1]), PLAIN, ObjectSettings(split=0)).max() == 1


def test_touching_at_corners_only_is_not_touching():
    y, x = np.indices((24, 24))
    mask = (y // 4 + x // 4) % 2 == 0
    assert check(plain(mask), PLAIN, ObjectSettings(min_size=0, split=0)).max() == 18


def test_classes_that_touch_across_bands_stay_apart():
    classes = np.zeros((20, 12), np.uint8)
    classes[2:9, 2:10], classes[9:18, 2:10] = 1, 2
    outputs = np.stack([classes == which for which in range(3)]).astype(np.float32)
    found = check(outputs, (0, 1, 2), ObjectSettings(min_size=0))
    np.testing.assert_array_equal(found, classes)


def nested_rings():
    y, x = np.indices((70, 70)) - 35
    radius = np.hypot(y, x)
    mask = ((radius > 25) & (radius < 31)) | ((radius > 10) & (radius < 14)) | (radius < 2)
    return mask, radius


def test_holes_with_kept_objects_stay_and_those_with_dropped_ones_are_filled():
    mask, radius = nested_rings()
    kept = check(plain(mask), PLAIN, ObjectSettings(split=0, min_size=0))
    np.testing.assert_array_equal(kept > 0, mask)
    speck_dropped = check(plain(mask), PLAIN, ObjectSettings(split=0, min_size=50))
    np.testing.assert_array_equal(speck_dropped > 0, mask | (radius < 14))
    assert speck_dropped.max() == 2
    ring_dropped = check(plain(mask), PLAIN, ObjectSettings(split=0, min_size=600))
    np.testing.assert_array_equal(ring_dropped, radius < 31)
    open_holes = check(plain(mask), PLAIN, ObjectSettings(split=0, min_size=50, fill_holes=False))
    np.testing.assert_array_equal(open_holes > 0, mask & (radius > 2))


def test_a_hole_is_not_filled_while_something_in_it_may_go_on():
    mask = np.zeros((30, 30), bool)
    mask[2:20, 2:28] = True
    mask[4:20, 4:26] = False  # an arch, open below
    mask[6:28, 10:12] = True  # a bar that begins in it and ends later
    found = check(plain(mask), PLAIN, ObjectSettings(split=0, min_size=0))
    np.testing.assert_array_equal(found > 0, mask)


def test_objects_are_numbered_by_the_end_of_their_part():
    mask = np.zeros((20, 30), bool)
    mask[1:19, 2:5] = True  # begins first and ends last
    mask[2:6, 8:12] = mask[2:6, 16:20] = mask[9:12, 8:12] = True
    found = check(plain(mask), PLAIN, ObjectSettings(split=0, min_size=0))
    assert [found[2, 3], found[3, 9], found[3, 17], found[10, 9]] == [4, 1, 2, 3]


# Reading, letting go, handing out


class Recording:
    """Outputs that note which rows are read."""

    def __init__(self, outputs):
        self.outputs, self.shape, self.dtype, self.rows = outputs, outputs.shape, outputs.dtype, []

    def __getitem__(self, where):
        self.rows.extend(range(*where[1].indices(self.shape[1])))
        return self.outputs[where]


@pytest.mark.parametrize("smoothing", [0.0, 1.3])
def test_each_row_is_read_once_and_in_order(smoothing):
    recording = Recording(random_outputs((50, 40), 3, 0))
    settings = ObjectSettings(smoothing=smoothing)
    put_together(labelling(recording, (0, 1, 1), settings, 1, band_pixels=9 * 40), (50, 40))
    assert recording.rows == list(range(50))


def test_rows_go_as_soon_as_their_parts_have_ended():
    mask = np.zeros((200, 40), bool)
    for top in range(0, 200, 10):
        mask[top + 1 : top + 8, 3:30] = True
    recording = Recording(plain(mask))
    for window, _ in labelling(recording, PLAIN, ObjectSettings(), band_pixels=5 * 40):
        assert len(recording.rows) - window[0].stop < 15 or window[0].stop == 200
    mask[:, 35] = True  # from top to bottom
    recording = Recording(plain(mask))
    first, _ = next(iter(labelling(recording, PLAIN, ObjectSettings(), band_pixels=5 * 40)))
    assert first[0].start == 0
    assert len(recording.rows) == 200


def test_maps_zarr_and_places_within_a_stack(tmp_path):
    plane = random_outputs((60, 50), 3, 1)
    settings = ObjectSettings(min_size=3)
    whole = objects_of(plane, (0, 1, 1), settings, 1)
    stack = np.zeros((3, 2, 4, 60, 50), np.float16)
    stack[:, 1, 2] = plane
    mapped = np.memmap(tmp_path / "outputs", np.float16, "w+", shape=stack.shape)
    mapped[:] = stack
    stored = zarr.create_array(
        tmp_path / "outputs.zarr", shape=stack.shape, chunks=(3, 1, 1, 16, 50), dtype="float16"
    )
    stored[:] = stack
    for outputs in (stack, mapped, stored):
        found = labelling(
            outputs, (0, 1, 1), settings, 1, index=(1, 2), band_pixels=40 * 50, first=7
        )
        labels = put_together(found, whole.shape)
        np.testing.assert_array_equal(labels, np.where(whole, whole + 7, 0))


def test_zarr_is_read_by_whole_chunks():
    class Chunked(Recording):
        chunks = (2, 16, 50)

        def __getitem__(self, where):
            starts.append(where[1].start)
            return super().__getitem__(where)

    starts = []
    outputs = Chunked(random_outputs((70, 50), 2, 1))
    put_together(labelling(outputs, PLAIN, ObjectSettings(), band_pixels=40 * 50), (70, 50))
    assert starts == [0, 32, 64]


def test_the_last_number_is_returned():
    def last_of(outputs, first):
        bands = labelling(outputs, PLAIN, ObjectSettings(min_size=0), first=first)
        while True:
            try:
                next(bands)
            except StopIteration as stop:
                return stop.value

    mask = np.zeros((20, 20), bool)
    assert last_of(plain(mask), 5) == 5
    mask[2:6, 2:6] = mask[10:15, 10:15] = True
    assert last_of(plain(mask), 5) == 7


@pytest.mark.parametrize("inside", [None, 1])
def test_memory_goes_with_the_band_not_the_image(inside):
    y, x = np.indices((256, 512)) % 32 - 16
    foreground = np.clip(1.3 - np.hypot(y, x) / 14, 0, 1)
    tile = np.stack([1 - foreground, foreground, 0 * foreground]).astype(np.float16)
    peaks = []
    for n_tiles in (3, 8):
        outputs = np.concatenate([tile] * n_tiles, axis=1)
        tracemalloc.start()
        for _ in labelling(outputs, (0, 1, 1), ObjectSettings(), inside, band_pixels=2**17):
            pass
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.1 * peaks[0]
    assert peaks[1] < 60 * 2**17


def test_of_planes_that_wait_only_the_foreground_is_held():
    class Columns:
        """A volume with columns from its top to its bottom."""

        shape, dtype = (2, 64, 256, 256), np.dtype(np.float16)

        def __getitem__(self, where):
            plane = np.zeros(self.shape[2:], bool)
            plane[20:240:40, 20:240:40] = plane[21:240:40, 20:240:40] = True
            return plain(np.broadcast_to(plane, self.shape[1:])[where[1:]])

    tracemalloc.start()
    bands = labelling(Columns(), PLAIN, ObjectSettings(), band_pixels=256**2)
    assert [labels.max() for _, labels in bands] == [6**2] * 64
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < np.prod(Columns.shape[1:]) / 2  # 9 bytes a px if all were held
