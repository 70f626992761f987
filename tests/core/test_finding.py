"""Labels from kept probabilities: in bands as on the whole, of the smallest type, linked in z."""

from dataclasses import replace

import numpy as np
import pytest
import scipy.ndimage as ndi
import zarr

from napari_unet.core import finding as finding_module
from napari_unet.core.finding import classes_everywhere, finding
from napari_unet.core.image import make_image
from napari_unet.core.instances import classes_of, objects_of
from napari_unet.core.model import Description
from napari_unet.core.progress import finish
from napari_unet.core.regions import Region
from napari_unet.core.settings import ObjectSettings, SegmentSettings

THREE = Description(
    name="three", class_names=("background", "cell", "other"), outputs=("a", "b", "c"),
    output_class=(0, 1, 2), objects=ObjectSettings(min_size=3),
)  # fmt: skip
RIM = replace(THREE, class_names=("background", "cell"), output_class=(0, 1, 1), inside=1)
SPLIT = SegmentSettings(min_size=5, split=0.6)


def blobs(shape, n_outputs=3, seed=0):
    """Probabilities `(output, ..., y, x)` of things that touch each other and the borders."""
    generator = np.random.default_rng(seed)
    sigma = (0, *[0.4] * (len(shape) - 2), 2.0, 2.0)
    noise = ndi.gaussian_filter(generator.random((n_outputs, *shape)), sigma)
    noise = (noise - noise.min()) ** 8
    return (noise / noise.sum(axis=0)).astype(np.float16)


def image_of(outputs, axes=None):
    return make_image(np.zeros(outputs.shape[1:], np.uint8), axes or "tzyx"[5 - outputs.ndim :])


def found(outputs, description=THREE, settings=None, report=None, image=None, **about):
    settings = settings or SegmentSettings()
    image = image or image_of(outputs)
    work = finding(outputs, description, settings, image, about.pop("focus", None), **about)
    return finish(work, report)


def expected(outputs, description, settings, dims=2):
    """Objects plane by plane (volume by volume), numbered on."""
    labels, n_found = np.zeros(outputs.shape[1:], np.int64), 0
    chosen = settings.objects(description.objects)
    for index in np.ndindex(*outputs.shape[1:-dims]):
        at = (slice(None), *index)
        one = objects_of(outputs[at], description.output_class, chosen, description.inside)
        labels[index] = np.where(one > 0, one + n_found, 0)
        n_found = max(n_found, int(labels.max()))
    return labels


@pytest.mark.parametrize("description", [THREE, RIM], ids=lambda one: one.name + str(one.inside))
@pytest.mark.parametrize("shape", [(61, 83), (3, 40, 50), (2, 2, 30, 40)])
@pytest.mark.parametrize("band", [1, 100, 1000, 2**20])
def test_in_bands_as_on_the_whole(description, shape, band, monkeypatch):
    monkeypatch.setattr(finding_module, "BAND_SIZE", band)
    outputs = blobs(shape)
    parts = []
    labels = found(outputs, description, SPLIT, parts.append)
    np.testing.assert_array_equal(labels, expected(outputs, description, SPLIT))
    assert labels.max() > 10
    put = np.full(shape, -1)
    for part in parts:
        where = (*part.region.index, *part.region.window)
        assert (put[where] == -1).all(), "twice"
        put[where] = part.labels
        assert put[where].size <= max(band, shape[-1])
    np.testing.assert_array_equal(put, labels)
    assert parts[-1].done == parts[-1].total == outputs[0].size


def test_volumes_as_wholes():
    outputs = blobs((2, 6, 30, 40))
    description = replace(RIM, dims=3)
    labels = found(outputs, description, SPLIT)
    np.testing.assert_array_equal(labels, expected(outputs, description, SPLIT, dims=3))


@pytest.mark.parametrize("container", ["zarr", "memmap"])
def test_probabilities_may_be_on_disk(container, tmp_path):
    outputs = blobs((3, 50, 60))
    if container == "zarr":
        kept = zarr.create_array(tmp_path / "a.zarr", data=outputs, chunks=(3, 1, 17, 23))
    else:
        np.save(tmp_path / "a.npy", outputs)
        kept = np.load(tmp_path / "a.npy", mmap_mode="r")
    region = Region(index=(1,), window=(slice(7, 43), slice(11, 60)))
    for about in ({}, {"regions": [region]}):
        np.testing.assert_array_equal(found(kept, RIM, SPLIT, **about),
                                      found(outputs, RIM, SPLIT, **about))  # fmt: skip


@pytest.mark.parametrize("band", [50, 2**20])
def test_classes(band, monkeypatch):
    monkeypatch.setattr(finding_module, "BAND_SIZE", band)
    outputs, settings = blobs((2, 30, 40)), SegmentSettings(what="classes", threshold=0.6)
    labels = found(outputs, THREE, settings)
    whole = classes_of(outputs, THREE.output_class, 0.6)
    assert labels.dtype == np.uint8
    np.testing.assert_array_equal(labels, whole)
    np.testing.assert_array_equal(classes_everywhere(outputs, THREE, settings), whole)
    assert set(np.unique(whole)) == {0, 1, 2}


@pytest.mark.parametrize(
    ("n_objects", "dtype"),
    [(0, np.uint8), (255, np.uint8), (256, np.uint16), (65535, np.uint16), (65536, np.uint32)],
)
def test_the_smallest_type(n_objects, dtype):
    mask = np.zeros((600, 600), bool)
    mask[1::2, 1::2] = True
    mask.ravel()[np.flatnonzero(mask)[n_objects:]] = False
    outputs = np.stack([~mask, mask, np.zeros_like(mask)]).astype(np.float16)
    settings = SegmentSettings(min_size=0, split=0.0)
    labels = found(outputs[:, None], THREE, settings, image=image_of(outputs[:, None]))
    assert labels.dtype == dtype
    assert labels.max() == n_objects
    np.testing.assert_array_equal(labels[0] > 0, mask)


def test_what_was_found_first_keeps_its_number_when_the_type_grows():
    """The plane in focus comes first, and is numbered first."""
    mask = np.zeros((3, 60, 60), bool)
    mask[:, 1::3, 1::3] = True
    outputs = np.stack([~mask, mask, np.zeros_like(mask)]).astype(np.float16)
    settings = SegmentSettings(min_size=0, split=0.0)
    labels = found(outputs, THREE, settings, focus=(1, 0, 0))
    assert labels.dtype == np.uint16
    assert labels[1].max() == 400
    assert len(np.unique(labels)) == 1 + 3 * 400


# --- order and parts ---------------------------------------------------------------------------


def test_what_is_looked_at_comes_first():
    parts = []
    found(blobs((5, 20, 30)), THREE, SPLIT, parts.append, focus=(3, 10, 10))
    assert [part.region.index for part in parts] == [(3,), (2,), (4,), (1,), (0,)]


def test_regions_by_themselves():
    outputs = blobs((3, 50, 60))
    regions = [
        Region(index=(2,), window=(slice(5, 33), slice(10, 60))),
        Region(index=(0,), window=(slice(0, 50), slice(0, 9))),
    ]
    labels = found(outputs, RIM, SPLIT, regions=regions)
    n_found = 0
    for region in regions:
        where = (*region.index, *region.window)
        part = objects_of(outputs[(slice(None), *where)], RIM.output_class,
                          SPLIT.objects(RIM.objects), RIM.inside)  # fmt: skip
        np.testing.assert_array_equal(labels[where], np.where(part > 0, part + n_found, 0))
        n_found = labels[where].max()
        labels[where] = 0
    assert not labels.any()
    assert n_found > 5
    assert not found(outputs, RIM, SPLIT, regions=[]).any()


def test_stopped_half_way_nothing_is_wrong():
    outputs = blobs((3, 30, 40))
    work = finding(outputs, THREE, SPLIT, image_of(outputs), None)
    first = next(work)
    work.close()
    np.testing.assert_array_equal(first.labels, expected(outputs, THREE, SPLIT)[0])


# --- through a stack ---------------------------------------------------------------------------


def stack(n=4):
    """Two things `(z, y, x)` that go through all planes, one that ends, and one that begins."""
    mask = np.zeros((n, 40, 60), bool)
    mask[:, 3:12, 4:14] = mask[:, 20:30, 40:52] = True
    mask[: n // 2, 3:12, 30:40] = mask[n // 2 :, 25:36, 4:18] = True
    return mask


def outputs_of(mask):
    return np.stack([~mask, mask, np.zeros_like(mask)]).astype(np.float16)


LINKED = SegmentSettings(min_size=0, split=0.0, link=True)


def test_objects_are_linked_through_z():
    mask = stack()
    labels = found(outputs_of(mask), THREE, LINKED)
    whole, n_objects = ndi.label(mask)
    assert labels.max() == n_objects == 4
    pairs = np.unique(np.stack([labels[mask], whole[mask]]), axis=1)
    assert pairs.shape[1] == 4
    np.testing.assert_array_equal(labels > 0, mask)


def test_a_focus_does_not_change_what_is_linked():
    outputs = blobs((6, 40, 50), seed=3)
    settings = SegmentSettings(min_size=5, link=True)
    plain = found(outputs, THREE, settings)
    np.testing.assert_array_equal(found(outputs, THREE, settings, focus=(4, 10, 10)), plain)
    assert plain.max() < found(outputs, THREE, replace(settings, link=False)).max()


def test_time_points_are_not_linked():
    mask = np.stack([stack(), stack()])
    labels = found(outputs_of(mask), THREE, LINKED)
    assert labels.max() == 8
    assert not set(np.unique(labels[0])) & set(np.unique(labels[1])) - {0}
    by_time = found(outputs_of(mask[:, 0]), THREE, LINKED, image=image_of(outputs_of(mask[:, 0]),
                    "tyx"))  # fmt: skip
    assert by_time.max() == 6


def test_several_windows_of_a_stack_are_linked_each_by_itself():
    outputs = outputs_of(stack())
    windows = [(slice(0, 16), slice(0, 60)), (slice(16, 40), slice(0, 60))]
    regions = [Region(index=(z,), window=window) for z in range(4) for window in windows]
    labels = found(outputs, THREE, LINKED, regions=regions)
    assert labels.max() == 4
    np.testing.assert_array_equal(labels > 0, stack())
    for z in range(1, 4):
        both = (labels[z] > 0) & (labels[z - 1] > 0)
        np.testing.assert_array_equal(labels[z][both], labels[z - 1][both])


def test_a_3d_network_needs_no_links():
    outputs = outputs_of(stack())
    description = replace(THREE, dims=3)
    np.testing.assert_array_equal(
        found(outputs, description, LINKED), found(outputs, description, replace(LINKED, link=None))
    )
