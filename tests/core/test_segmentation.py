"""An image of any axes and container becomes objects, classes and probabilities."""

from dataclasses import replace

import dask.array as da
import numpy as np
import pytest
import scipy.ndimage as ndi
import torch
import zarr

from napari_unet.core import segmentation
from napari_unet.core.device import choose_device
from napari_unet.core.engine import streaming
from napari_unet.core.errors import ImageError, ModelFileError, SettingsError
from napari_unet.core.image import make_image
from napari_unet.core.model import Description, Model, save_model, weights_id
from napari_unet.core.networks import UNet, UNetConfig
from napari_unet.core.normalization import normalise
from napari_unet.core.progress import finish
from napari_unet.core.regions import Region
from napari_unet.core.segmentation import (
    allocate_outputs,
    finding_objects,
    intensity_scale,
    plan_for,
    segment,
    segmenting,
)
from napari_unet.core.settings import SegmentSettings

SIZES = {"t": 2, "z": 3, "c": 2, "y": 40, "x": 50}
AXES = ["yx", "cyx", "yxc", "zyx", "tyx", "tzcyx", "tczyx", "cztyx", "tzyxc", "xy", "cxyz", "ytx"]


def bright_boxes(axes, seed=0):
    """Truth `(label axes)` bool and an image: boxes of 1000 on 100; other channels are noise."""
    generator = np.random.default_rng(seed)
    label_axes = make_image(np.zeros([SIZES[axis] for axis in axes]), axes).label_axes
    mask = np.zeros([SIZES[axis] for axis in label_axes], bool)
    for plane in mask.reshape(-1, SIZES["y"], SIZES["x"]):
        for _ in range(6):
            y, x = generator.integers(0, 33), generator.integers(0, 43)
            plane[y : y + 5, x : x + 6] = True
    image = np.where(mask, 1000, 100).astype(np.uint16)
    if "c" in axes:
        noise = generator.integers(0, 1000, image.shape).astype(np.uint16)
        image, label_axes = np.stack([image, noise]), f"c{label_axes}"
    return mask, image.transpose([label_axes.index(axis) for axis in axes])


def random_model(config):
    """A network that says all kinds of things."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        network = UNet(config).eval().requires_grad_(False)
    n_outputs = config.out_channels
    names = ("background", *(f"class {i}" for i in range(1, n_outputs)))
    description = Description(
        name="random", dims=config.dims, in_channels=config.in_channels, class_names=names,
        outputs=names, output_class=tuple(range(n_outputs)),
    )  # fmt: skip
    return Model(
        network=network, architecture="unet", config=config, description=description,
        device=choose_device("cpu"), id=weights_id(network),
    )  # fmt: skip


@pytest.fixture
def bright(make_tiny_model):
    """A model of as many channels as an image has: the first one's bright pixels are objects."""
    return lambda axes: make_tiny_model(in_channels=2 if "c" in axes else 1)


# --- exact results -----------------------------------------------------------------------------


@pytest.mark.parametrize("axes", AXES)
def test_exact_objects_and_classes_in_any_axes(axes, bright):
    mask, image = bright_boxes(axes)
    result = segment(image, bright(axes), axes=axes)
    assert sorted(result.axes) == sorted(axes.replace("c", ""))
    assert result.axes.endswith("yx")
    assert (result.labels.dtype, result.classes.dtype) == (np.uint8, np.uint8)
    assert result.labels.shape == result.classes.shape == mask.shape
    np.testing.assert_array_equal(result.classes, mask)
    np.testing.assert_array_equal(result.labels > 0, mask)


@pytest.mark.parametrize("axes", ["yx", "tyx", "tzcyx"])
def test_objects_have_unique_numbers_over_all_planes(axes, bright):
    mask, image = bright_boxes(axes)
    labels = segment(image, bright(axes), axes=axes).labels
    planes = mask.reshape(-1, *mask.shape[-2:])
    n_found = 0
    for plane, found in zip(planes, labels.reshape(planes.shape), strict=True):
        expected, n_objects = ndi.label(plane)
        numbers = np.unique(found[plane])
        np.testing.assert_array_equal(numbers, np.arange(n_found + 1, n_found + n_objects + 1))
        pairs = np.unique(np.stack([expected[plane], found[plane]]), axis=1)
        assert pairs.shape[1] == n_objects
        n_found += n_objects
    assert labels.max() == n_found > 0


@pytest.mark.parametrize("axes", AXES)
def test_probabilities_sum_to_one(axes, bright):
    _, image = bright_boxes(axes)
    result = segment(image, bright(axes), axes=axes)
    assert result.probabilities.shape == (2, *result.labels.shape)
    assert result.outputs.dtype == np.float16
    np.testing.assert_allclose(result.probabilities.sum(axis=0), 1, atol=2e-3)
    assert result.probabilities.min() >= 0


@pytest.mark.parametrize("axes", ["yx", "tzcyx", "yxc"])
@pytest.mark.parametrize("container", ["dask", "zarr", "memmap", "list order"])
def test_any_container_gives_the_same(axes, container, bright, tmp_path):
    _, image = bright_boxes(axes)
    expected = segment(image, bright(axes), axes=axes)
    if container == "dask":
        array = da.from_array(image, chunks=17)
    elif container == "zarr":
        array = zarr.create_array(tmp_path / "a.zarr", data=image, chunks=(16,) * image.ndim)
    elif container == "memmap":
        np.save(tmp_path / "a.npy", image)
        array = np.load(tmp_path / "a.npy", mmap_mode="r")
    else:
        array = np.asfortranarray(image).astype(">u2")
    result = segment(array, bright(axes), axes=axes)
    np.testing.assert_array_equal(result.labels, expected.labels)
    np.testing.assert_array_equal(result.outputs, expected.outputs)


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float32, np.float64, bool])
def test_any_number_type_gives_the_same(dtype, tiny_model):
    mask, _ = bright_boxes("yx")
    np.testing.assert_array_equal(segment(mask.astype(dtype), tiny_model).classes, mask)


def test_axes_are_guessed(make_tiny_model):
    mask, image = bright_boxes("zyx")
    np.testing.assert_array_equal(segment(image, make_tiny_model()).classes, mask)
    mask, image = bright_boxes("yx")
    colours = np.stack([image] * 3, axis=-1)
    np.testing.assert_array_equal(segment(colours, make_tiny_model(in_channels=3)).classes, mask)


def test_one_channel_is_shown_to_a_model_of_three(make_tiny_model):
    mask, image = bright_boxes("tyx")
    np.testing.assert_array_equal(segment(image, make_tiny_model(in_channels=3)).classes, mask)


@pytest.mark.parametrize("tile_size", [16, 33, None])
def test_tiles_do_not_show(tile_size):
    model = random_model(UNetConfig(widths=(4, 8), out_channels=3))
    _, image = bright_boxes("tyx")
    whole = segment(image, model, SegmentSettings(tile_size=1000))
    tiled = segment(image, model, SegmentSettings(tile_size=tile_size))
    np.testing.assert_allclose(tiled.outputs, whole.outputs, atol=2e-3)
    assert len(np.unique(whole.classes)) > 1


@pytest.mark.parametrize("shape", [(1, 1), (1, 50), (300, 2)])
def test_tiny_and_narrow_images(shape, tiny_model):
    image = np.zeros(shape, np.uint8)
    image[0, -1] = 200
    result = segment(image, tiny_model)
    assert result.labels.shape == shape


@pytest.mark.parametrize("value", [0, 255])
def test_an_image_of_one_value_has_no_objects(value, tiny_model):
    result = segment(np.full((20, 30), value, np.uint8), tiny_model)
    assert result.labels.max() == 0


def test_not_a_number_is_background(tiny_model):
    mask, image = bright_boxes("yx")
    image = image.astype(np.float32)
    image[:7], image[7, 0], image[7, 1] = np.nan, np.inf, -np.inf
    result = segment(image, tiny_model)
    assert np.isfinite(result.outputs).all()
    assert not result.classes[:7].any()
    np.testing.assert_array_equal(result.classes[8:], mask[8:])


# --- volumes -----------------------------------------------------------------------------------


def test_a_3d_network_sees_the_volume_as_a_whole():
    model = random_model(UNetConfig(dims=3, widths=(3, 4), out_channels=2))
    image = np.random.default_rng(0).normal(100, 20, (2, 6, 12, 18)).astype(np.float32)
    result = segment(image, model, axes="tzyx")
    scale = intensity_scale(make_image(image, "tzyx"), model)
    for t in range(2):
        shown = (image[t] - scale.offset[0]) / scale.scale[0]
        with torch.no_grad():
            shown = torch.from_numpy(np.clip(shown, -1, 4))[None, None]
            expected = model.network(shown)[0].softmax(dim=0).numpy()
        np.testing.assert_allclose(result.outputs[:, t], expected, atol=2e-3)
    assert result.labels.shape == result.classes.shape == image.shape


def test_objects_of_a_volume_go_through_its_planes():
    model = random_model(UNetConfig(dims=3, widths=(3,), out_channels=2, norm="none"))
    image = make_image(np.zeros((2, 4, 10, 10), np.uint8), "tzyx")
    outputs = np.zeros((2, 2, 4, 10, 10), np.float16)
    outputs[0] = 1
    outputs[:, :, 1:3, 2:8, 2:8] = np.array([0, 1])[:, None, None, None, None]
    settings = SegmentSettings(min_size=0, split=0.0)
    labels = finish(finding_objects(outputs, model.description, settings, image))
    expected = np.zeros((2, 4, 10, 10))
    expected[0, 1:3, 2:8, 2:8], expected[1, 1:3, 2:8, 2:8] = 1, 2
    np.testing.assert_array_equal(labels, expected)


def test_a_3d_network_needs_a_z_axis():
    model = random_model(UNetConfig(dims=3, widths=(3,)))
    for axes in ("yx", "tyx"):
        with pytest.raises(ImageError, match=r"works on volumes, but .* has no z axis"):
            segment(bright_boxes(axes)[1], model, axes=axes)
    assert segment(np.zeros((3, 2, 9, 9)), model, axes="ztyx").axes == "tzyx"


def test_labels_are_of_the_smallest_type_that_holds_them(tiny_model):
    image = np.zeros((400, 400), np.uint16)
    image[::8, ::8] = 900
    settings = SegmentSettings(min_size=0)
    few, many = (segment(part, tiny_model, settings) for part in (image[:100, :100], image))
    assert (few.labels.dtype, int(few.labels.max())) == (np.uint8, 13 * 13)
    assert (many.labels.dtype, int(many.labels.max())) == (np.uint16, 50 * 50)


# --- settings ----------------------------------------------------------------------------------


def test_settings_of_the_user_win_over_those_of_the_model(tiny_model):
    mask = np.zeros((40, 50), bool)
    mask[3:7, 3:8] = mask[20:26, 20:26] = True  # 20 and 36 px
    for min_size, n_objects in ((20, 2), (21, 1), (36, 1), (37, 0)):
        result = segment(mask, tiny_model, SegmentSettings(min_size=min_size))
        assert result.labels.max() == n_objects
        assert result.settings.min_size == min_size
        np.testing.assert_array_equal(result.classes, mask)  # they are what they are


def test_the_threshold_counts_for_classes_too(tiny_model):
    half = np.full((20, 20), 0.5, np.float32)
    half[0, 0], half[0, 1] = 0, 1
    image = make_image(half, "yx")
    tiny_model = tiny_model.described(
        normalization=replace(tiny_model.description.normalization, kind="none")
    )
    for threshold, expected in ((0.4, True), (0.6, False)):
        result = segment(image, tiny_model, SegmentSettings(threshold=threshold))
        assert (result.classes[5:, 5:] == expected).all()
        assert ((result.labels[5:, 5:] > 0) == expected).all()


def test_classes_instead_of_objects():
    model = random_model(UNetConfig(widths=(4, 8), out_channels=4))
    result = segment(bright_boxes("tyx")[1], model, SegmentSettings(what="classes"))
    np.testing.assert_array_equal(result.labels, result.classes)
    assert result.labels.dtype == np.uint8
    assert len(np.unique(result.classes)) > 2


# --- what does not fit -------------------------------------------------------------------------


def test_another_number_of_channels(tiny_model, make_tiny_model):
    with pytest.raises(ImageError, match=r"has 2 channels, but the model 'tiny' takes 1"):
        segment(bright_boxes("cyx")[1], tiny_model, axes="cyx")
    with pytest.raises(ImageError, match=r"has 4 channels.*takes 3.*made for 4"):
        segment(np.zeros((30, 30, 4), np.uint8), make_tiny_model(in_channels=3))


def test_what_is_no_image(tiny_model):
    for image in ([[1, 2], [3, 4]], np.zeros(5), np.zeros((0, 5)), np.zeros((5, 5), complex)):
        with pytest.raises(ImageError):
            segment(image, tiny_model)
    with pytest.raises(ImageError, match="name 3"):
        segment(np.zeros((5, 5)), tiny_model, axes="zyx")


def test_what_is_no_model():
    with pytest.raises(ModelFileError, match="no model file"):
        segment(np.zeros((5, 5)), "no such model")


def test_a_model_by_its_path(tiny_model, tmp_path):
    save_model(tiny_model, tmp_path / "tiny.safetensors")
    mask, image = bright_boxes("yx")
    np.testing.assert_array_equal(segment(image, tmp_path / "tiny.safetensors").classes, mask)
    result = segment(image, str(tmp_path / "tiny.safetensors"))
    assert result.model.id == tiny_model.id


# --- as work -----------------------------------------------------------------------------------


def test_every_region_is_shown_and_counted(tiny_model):
    mask, image = bright_boxes("tyx")
    shown = np.zeros(mask.shape, bool)
    times = np.zeros(mask.shape, int)
    seen = []

    def report(progress):
        if progress.message == "Segmenting":
            where = (*progress.region.index, *progress.region.window)
            shown[where] = progress.labels > 0
            times[where] += 1
        seen.append(progress)

    settings = SegmentSettings(tile_size=16)
    finish(segmenting(make_image(image, "tyx"), tiny_model, settings), report)
    np.testing.assert_array_equal(shown, mask)
    np.testing.assert_array_equal(times, 1)
    tiles = [progress for progress in seen if progress.message == "Segmenting"]
    assert len(tiles) == 2 * 3 * 4
    assert [p.done for p in tiles] == np.cumsum([p.labels.size for p in tiles]).tolist()
    assert {p.total for p in tiles} == {mask.size}
    assert all(p.plan is tiles[0].plan for p in tiles)
    planes = [progress for progress in seen if progress.message == "Finding objects"]
    assert [(p.done, p.total) for p in planes] == [(2000, 4000), (4000, 4000)]


def test_numbers_in_tiles_do_not_meet(tiny_model):
    image = make_image(bright_boxes("tyx")[1], "tyx")
    used = set()
    settings = SegmentSettings(tile_size=16)
    for progress in segmenting(image, tiny_model, settings, focus=(0, 0, 0)):
        if progress.message == "Segmenting":
            numbers = set(np.unique(progress.labels)) - {0}
            assert not numbers & used
            used |= numbers
    assert len(used) > 10


def test_what_the_user_looks_at_comes_first(tiny_model):
    image = make_image(bright_boxes("tzyx")[1], "tzyx")
    work = segmenting(image, tiny_model, SegmentSettings(tile_size=16), focus=(1, 2, 39, 20))
    seen = list(work)
    first = seen[0].region
    assert first.index == (1, 2)
    assert first.window == (slice(32, 40), slice(16, 32))
    tiles = [progress.region.index for progress in seen if progress.message == "Segmenting"]
    assert tiles[:12] == [(1, 2)] * 12
    assert tiles[-1] == (0, 0)
    planes = [progress.region.index for progress in seen if progress.message == "Finding objects"]
    assert (planes[0], planes[-1]) == ((1, 2), (0, 0))
    assert len(set(planes)) == 6


@pytest.mark.parametrize("pixel_size", [None, 0.5])
def test_places_that_are_not_in_the_image(tiny_model, pixel_size):
    model = tiny_model.described(pixel_size=pixel_size)
    image = make_image(bright_boxes("yx")[1], "yx", pixel_size={"y": 1.0, "x": 1.0})
    outside = Region(index=(), window=(slice(0, 41), slice(0, 5)))
    outputs = np.zeros((2, 40, 50), np.float16)
    for about, message in (
        ({"focus": (1, 2, 3)}, "focus must have a number for each"),
        ({"regions": [outside]}, "must lie within the image, whose axes 'yx' have"),
    ):
        with pytest.raises(SettingsError, match=message):
            finish(segmenting(image, model, **about))
        with pytest.raises(SettingsError, match=message):
            work = finding_objects(outputs, model.description, SegmentSettings(), image, **about)
            finish(work)


def test_stopped_half_way_it_keeps_what_is_done(tiny_model):
    mask, pixels = bright_boxes("yx")
    image = make_image(pixels, "yx")
    outputs = allocate_outputs(image, tiny_model)
    work = segmenting(
        image, tiny_model, SegmentSettings(tile_size=16), outputs=outputs, focus=(0, 0)
    )
    done = np.zeros(mask.shape, bool)
    for _ in range(5):
        done[next(work).region.window] = True
    work.close()
    assert 0 < done.sum() < done.size
    np.testing.assert_array_equal(outputs.astype(np.float32).sum(axis=0) > 0.99, done)
    settings = SegmentSettings(min_size=0, split=0.0)
    written = outputs[:, done]
    np.testing.assert_array_equal(written[1] > 0.5, mask[done])
    labels = finish(finding_objects(outputs, tiny_model.description, settings, image))
    np.testing.assert_array_equal(labels[done] > 0, mask[done])


def test_kept_probabilities_give_the_same_objects_again(tiny_model):
    _, pixels = bright_boxes("tyx")
    image = make_image(pixels, "tyx")
    result = segment(image, tiny_model)
    calls = []
    tiny_model.network.register_forward_hook(lambda *args: calls.append(1))
    again = finish(finding_objects(result.outputs, tiny_model.description, result.settings, image))
    np.testing.assert_array_equal(again, result.labels)
    assert calls == [], "the network must not run again"


def test_large_probabilities_are_kept_on_disk(tiny_model, monkeypatch):
    _, pixels = bright_boxes("tyx")
    expected = segment(pixels, tiny_model)
    monkeypatch.setattr(segmentation, "IN_MEMORY_LIMIT", expected.outputs.nbytes)
    assert not isinstance(segment(pixels, tiny_model).outputs, np.memmap)
    monkeypatch.setattr(segmentation, "IN_MEMORY_LIMIT", expected.outputs.nbytes - 1)
    result = segment(pixels, tiny_model)
    assert isinstance(result.outputs, np.memmap)
    np.testing.assert_array_equal(result.outputs, expected.outputs)
    np.testing.assert_array_equal(result.labels, expected.labels)
    np.testing.assert_allclose(result.probabilities, expected.probabilities)


def test_segmenting_changes_neither_image_nor_model(tiny_model):
    _, image = bright_boxes("yx")
    before = image.copy()
    segment(image, tiny_model)
    np.testing.assert_array_equal(image, before)
    assert weights_id(tiny_model.network) == tiny_model.id
    assert not torch.is_inference_mode_enabled()


# --- how the network is run --------------------------------------------------------------------


def shown_to(model, image, axes="yx"):
    """The plane or volume as the network sees it, `(1, c, [z,] y, x)`."""
    opened = make_image(image, axes)
    raw = opened.read((), tuple(slice(0, n) for n in opened.label_shape))
    return torch.from_numpy(normalise(raw, intensity_scale(opened, model)))[None]


def probabilities_of(model, shown):
    with torch.no_grad():
        return model.network(shown)[0].softmax(dim=0)


@pytest.mark.parametrize("kind", ["flips", "rotations"])
@pytest.mark.parametrize("tile_size", [16, None])
def test_augmentation_is_the_mean_over_all_views(kind, tile_size):
    model = random_model(UNetConfig(widths=(4, 8), out_channels=3))
    _, image = bright_boxes("yx")
    settings = SegmentSettings(augmentation=kind, tile_size=tile_size)
    result = segment(image, model, settings)
    shown, expected = shown_to(model, image), []
    for n_turns in range(4) if kind == "rotations" else (0, 2):
        for is_flipped in (False, True):
            seen = torch.rot90(shown, n_turns, (2, 3))
            seen = seen.flip(2) if is_flipped else seen
            found = probabilities_of(model, seen)
            found = found.flip(1) if is_flipped else found
            expected.append(torch.rot90(found, -n_turns, (1, 2)))
    expected = torch.stack(expected).mean(dim=0).numpy()
    np.testing.assert_allclose(result.outputs, expected, atol=1e-3)
    assert f"average of {8 if kind == 'rotations' else 4} views" in result.plan.summary
    assert result.plan.is_exact


def test_augmentation_in_3d():
    model = random_model(UNetConfig(dims=3, widths=(3, 4), out_channels=2))
    image = np.random.default_rng(0).normal(100, 20, (6, 12, 18)).astype(np.float32)
    result = segment(image, model, SegmentSettings(augmentation="flips"), axes="zyx")
    shown, expected = shown_to(model, image, "zyx"), []
    for axes in ((), (1,), (2,), (3,), (1, 2), (1, 3), (2, 3), (1, 2, 3)):
        seen = shown.flip([axis + 1 for axis in axes])
        expected.append(probabilities_of(model, seen).flip(list(axes)))
    np.testing.assert_allclose(result.outputs, torch.stack(expected).mean(dim=0), atol=1e-3)


def test_an_ensemble_is_the_mean_of_its_members():
    configs = [UNetConfig(widths=(4, 8), out_channels=3), UNetConfig(widths=(3,), out_channels=3)]
    models = [random_model(config) for config in configs]
    _, image = bright_boxes("tyx")
    result = segment(image, models)
    each = [segment(image, model).outputs.astype(np.float32) for model in models]
    np.testing.assert_allclose(result.outputs, np.mean(each, axis=0), atol=1e-3)
    assert result.model is models[0]
    assert np.abs(each[0] - each[1]).max() > 0.01


def test_members_that_cannot_be_averaged(make_tiny_model):
    one, other = make_tiny_model(), make_tiny_model("three", n_classes=3)
    _, image = bright_boxes("yx")
    with pytest.raises(
        SettingsError, match=r"'tiny' and 'three' cannot be averaged: their output_"
    ):
        segment(image, [one, other])
    with pytest.raises(SettingsError, match="their pixel_size differ"):
        segment(image, [one, one.described(pixel_size=0.5)])
    with pytest.raises(SettingsError, match="their inside differ"):
        segment(image, [one, one.described(inside=1)])
    with pytest.raises(SettingsError, match="There is no model"):
        segment(image, [])
    two_and_three = [make_tiny_model(in_channels=2), make_tiny_model(in_channels=3)]
    with pytest.raises(ImageError, match="takes 3"):
        segment(bright_boxes("cyx")[1], two_and_three, axes="cyx")


def test_the_plan_beforehand_is_that_of_the_result(tiny_model):
    _, image = bright_boxes("yx")
    for settings in (SegmentSettings(), SegmentSettings(augmentation="flips", precision="full")):
        planned = plan_for(image, tiny_model, settings)
        assert str(planned) == str(segment(image, tiny_model, settings).plan)
    assert planned.precision.reason == "full precision was chosen"


def test_memory_that_runs_out_is_told(tiny_model, monkeypatch):
    mask, image = bright_boxes("yx")
    segment(image, tiny_model)  # what there is to know of the network is known
    real, calls = streaming.Stream.push, []

    def push(stream, rows):
        calls.append(1)
        if len(calls) == 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(stream, rows)

    monkeypatch.setattr(streaming.Stream, "push", push)
    seen = []
    result = finish(segmenting(make_image(image, "yx"), tiny_model), seen.append)
    assert seen[0].message == "Segmenting in smaller pieces, as the memory had run out"
    np.testing.assert_array_equal(result.classes, mask)


def test_inside_of_inference_mode(tiny_model):
    mask, image = bright_boxes("yx")
    with torch.inference_mode():
        result = segment(image, tiny_model)
    np.testing.assert_array_equal(result.classes, mask)
    assert result.plan.name == "row by row"


# --- parts of an image -------------------------------------------------------------------------


def test_only_the_regions_asked_for(tiny_model):
    mask, pixels = bright_boxes("tyx")
    regions = [
        Region(index=(1,), window=(slice(5, 30), slice(0, 50))),
        Region(index=(0,), window=(slice(0, 40), slice(20, 21))),
    ]
    image, seen = make_image(pixels, "tyx"), []
    result = finish(segmenting(image, tiny_model, regions=regions), seen.append)
    inside = np.zeros(mask.shape, bool)
    inside[1, 5:30], inside[0, :, 20] = True, True
    np.testing.assert_array_equal(result.labels > 0, mask & inside)
    assert not result.outputs[:, ~inside].any()
    assert seen[-1].done == seen[-1].total == inside.sum()
    assert finish(segmenting(image, tiny_model, regions=[])).labels.max() == 0


# --- a model of another pixel size -------------------------------------------------------------


def coarse_boxes():
    """Boxes `(y, x)` of whole 4 px, and the same at a fourth of the size."""
    small = np.zeros((20, 26), bool)
    small[2:7, 3:9] = small[11:17, 14:22] = small[4:9, 18:24] = True
    return small.repeat(4, 0).repeat(4, 1), small


def fine_image(mask):
    pixels = np.where(mask, 900, 100).astype(np.uint16)
    return make_image(pixels, "yx", pixel_size={"y": 0.25, "x": 0.25})


@pytest.mark.parametrize("focus", [None, (20.0, 90.0)])
def test_an_image_is_shown_at_the_pixel_size_of_the_model(tiny_model, focus):
    mask, small = coarse_boxes()
    model, image = tiny_model.described(pixel_size=1.0), fine_image(mask)
    outputs = allocate_outputs(image, model)
    assert outputs.shape == (2, *small.shape)
    shown = np.zeros(mask.shape, bool)

    def report(progress):
        if progress.message == "Segmenting":
            shown[progress.region.window] = progress.labels > 0

    result = finish(segmenting(image, model, outputs=outputs, focus=focus), report)
    assert result.labels.shape == result.classes.shape == mask.shape
    assert result.probabilities.shape == (2, *mask.shape)
    assert result.labels.max() == 3
    outer, inner = ndi.binary_dilation(mask, iterations=3), ndi.binary_erosion(mask, iterations=3)
    for found in (result.labels > 0, shown):
        assert found[inner].all()
        assert not found[~outer].any()
    np.testing.assert_array_equal(outputs[1] > 0.5, small)
    again = finish(finding_objects(outputs, model.description, result.settings, image))
    np.testing.assert_array_equal(again, result.labels)


def test_regions_of_a_resampled_image(tiny_model):
    mask, _ = coarse_boxes()
    model, image = tiny_model.described(pixel_size=1.0), fine_image(mask)
    region = Region(index=(), window=(slice(5, 33), slice(9, 50)))
    part = finish(segmenting(image, model, regions=[region])).labels
    whole = segment(image, model).labels
    np.testing.assert_array_equal(part[region.window] > 0, whole[region.window] > 0)
    part[region.window] = 0
    assert part.max() == 0


def test_a_pixel_size_that_is_near_changes_nothing(tiny_model):
    mask, pixels = bright_boxes("tyx")
    model, near = tiny_model.described(pixel_size=0.5), {"y": 0.5, "x": 0.52}
    result = segment(pixels, model, axes="tyx", pixel_size=near)
    np.testing.assert_array_equal(result.classes, mask)
    assert isinstance(result.outputs, np.ndarray)
