"""Every layout is recognised by itself, and nothing but heads of files is read to open it."""

import h5py
import numpy as np
import pytest
import zarr
from dataset_files import mask, picture, save, sentences

from napari_unet.core.datasets import DatasetSettings, open_dataset
from napari_unet.core.datasets import pairing as pairing_module
from napari_unet.core.errors import ImageError, SettingsError

VOLUMES = DatasetSettings(planes="volume")


def save_pairs(folder, names, images="images", masks="masks", end="", suffix=".png"):
    for number, name in enumerate(names):
        save(folder / images / f"{name}{suffix}", picture(number))
        save(folder / masks / f"{name}{end}{suffix}", mask(number))


# Two folders


@pytest.mark.parametrize("images", ["images", "Images", "raw", "img"])
@pytest.mark.parametrize(("masks", "end"), [("masks", ""), ("labels", "_mask"), ("gt", "-seg")])
def test_two_folders(tmp_path, images, masks, end):
    save_pairs(tmp_path, ["cell10", "cell9"], images, masks, end)
    dataset = open_dataset(tmp_path)
    assert dataset.layout == "folders"
    assert dataset.problems == ()
    nine, ten = dataset.pairs  # 9 before 10
    assert (nine.key, ten.key) == ("cell9", "cell10")
    assert (nine.group, nine.split, nine.image.axes) == ("cell9", "", "yx")
    assert nine.path == tmp_path / images / "cell9.png"
    assert nine.labels_path == tmp_path / masks / f"cell9{end}.png"
    np.testing.assert_array_equal(nine.image.take((slice(None), slice(None)))[0], picture(1))
    np.testing.assert_array_equal(nine.labels, mask(1))
    assert nine.labels.shape == (12, 16)
    assert nine.labels.dtype == np.uint16


@pytest.mark.parametrize("outside", [True, False])
def test_folders_for_training_and_testing(tmp_path, outside):
    for part in ("train", "val", "test"):
        if outside:
            save_pairs(tmp_path / part, ["a", "b"])
        else:
            save_pairs(tmp_path, ["a", "b"], f"images/{part}", f"masks/{part}")
    dataset = open_dataset(tmp_path)
    assert {pair.key: pair.split for pair in dataset.pairs} == {
        "train/a": "train", "train/b": "train", "validation/a": "validation",
        "validation/b": "validation", "test/a": "test", "test/b": "test",
    }  # fmt: skip


def test_the_table_says_groups_and_splits(tmp_path):
    save_pairs(tmp_path, ["a", "b", "c", "d"])
    (tmp_path / "index.csv").write_text(
        "image_id,group,split\na.png,dish 1,train\nb,dish 1,Test\nc,train,train\n"
    )
    dataset = open_dataset(tmp_path)
    assert [(pair.group, pair.split) for pair in dataset.pairs] == [
        ("dish 1", "train"), ("dish 1", "test"), ("c", "train"), ("d", ""),
    ]  # fmt: skip
    assert "says nothing about d" in sentences(dataset)


def test_a_table_without_names_is_not_used(tmp_path):
    save_pairs(tmp_path, ["a"])
    (tmp_path / "index.csv").write_text("file,group\na,dish 1\n")
    dataset = open_dataset(tmp_path)
    assert dataset.pairs[0].group == "a"
    assert "no column 'image_id'" in sentences(dataset)


def test_a_split_nobody_knows_is_said(tmp_path):
    save_pairs(tmp_path, ["a"])
    (tmp_path / "index.csv").write_text("image_id,split\na,spare\n")
    assert "the split 'spare'" in sentences(open_dataset(tmp_path))


def test_numbers_match_where_names_do_not(tmp_path):
    for number in range(3):
        save(tmp_path / "raw" / f"{number:02d}.tif", picture(number))
        save(tmp_path / "labels" / f"labels{number:08d}.png", mask(number))
    dataset = open_dataset(tmp_path)
    assert [pair.key for pair in dataset.pairs] == ["00", "01", "02"]
    np.testing.assert_array_equal(dataset.pairs[2].labels, mask(2))
    assert "matched by their numbers" in sentences(dataset)


def test_one_of_several_folders_of_masks(tmp_path):
    save_pairs(tmp_path, ["a"])
    save_pairs(tmp_path, ["a"], masks="labels")
    save_pairs(tmp_path, ["a"], masks="mitochondria")
    first = open_dataset(tmp_path)
    assert first.pairs[0].labels_path.parent.name == "masks"
    assert "there is also labels" in sentences(first)
    named = open_dataset(tmp_path, settings=DatasetSettings(masks="mitochondria"))
    assert named.pairs[0].labels_path.parent.name == "mitochondria"
    assert named.problems == ()


def test_what_has_no_partner_or_several_is_left_out(tmp_path):
    save_pairs(tmp_path, ["a", "b", "c"])
    (tmp_path / "masks" / "b.png").unlink()
    (tmp_path / "images" / "c.png").unlink()
    save(tmp_path / "images" / "d.png", picture())
    save(tmp_path / "images" / "d.tif", picture())
    save(tmp_path / "masks" / "d.png", mask())
    dataset = open_dataset(tmp_path)
    assert [pair.key for pair in dataset.pairs] == ["a"]
    assert "The image b.png has no mask" in sentences(dataset)
    assert "The mask c.png has no image" in sentences(dataset)
    assert "2 images of the same name: d.png, d.tif" in sentences(dataset)
    assert {problem.path.name for problem in dataset.problems} == {"b.png", "c.png", "d.png"}
    assert not any(problem.is_fatal for problem in dataset.problems)


@pytest.mark.parametrize(
    ("shape", "advice"),
    [
        ((12, 15), "a pixel or two"),
        ((16, 12), "lies on its side"),
        ((6, 8), "belongs to this image"),
        ((3, 12, 16), "stack of planes"),
    ],
)
def test_sizes_must_be_the_same(tmp_path, shape, advice):
    save_pairs(tmp_path, ["a"], suffix=".tif")
    save(tmp_path / "images" / "b.tif", picture())
    save(tmp_path / "masks" / "b.tif", mask(shape=shape))
    dataset = open_dataset(tmp_path)
    assert [pair.key for pair in dataset.pairs] == ["a"]
    assert "The image b.tif has 12 × 16 px" in sentences(dataset)
    assert advice in sentences(dataset)
    assert dataset.problems[0].key == "b"


def test_damaged_files_and_jpeg_masks_are_left_out(tmp_path):
    save_pairs(tmp_path, ["a", "b", "c"])
    (tmp_path / "images" / "b.png").write_bytes(b"no picture")
    (tmp_path / "masks" / "c.png").unlink()
    save(tmp_path / "masks" / "c.jpg", mask(dtype=np.uint8))
    dataset = open_dataset(tmp_path)
    assert [pair.key for pair in dataset.pairs] == ["a"]
    assert "b.png cannot be read" in sentences(dataset)
    assert "JPEG" in sentences(dataset)


def test_nothing_to_learn_from_is_an_error_that_says_why(tmp_path):
    save_pairs(tmp_path, ["a"])
    (tmp_path / "masks" / "a.png").unlink()
    save(tmp_path / "masks" / "zz.png", mask())
    with pytest.raises(ImageError, match=r"can be learned from.*a\.png has no mask"):
        open_dataset(tmp_path)


def test_only_heads_are_read_until_the_pixels_are_used(tmp_path, monkeypatch):
    save_pairs(tmp_path, ["a", "b"])
    read = []
    original = pairing_module.read_image
    monkeypatch.setattr(
        pairing_module, "read_image", lambda path, *rest: read.append(path.name) or original(path)
    )
    first = open_dataset(tmp_path).pairs[0]
    assert read == []
    for _ in range(3):
        first.image.read((), (slice(0, 4), slice(0, 4)))
        assert np.asarray(first.labels).max() == 2
    assert read == ["a.png", "a.png"]  # the image and the mask, each once


# Side by side


@pytest.mark.parametrize("name", ["{}_mask.png", "{}-labels.png", "mask_{}.png", "{}_seg.tif"])
def test_side_by_side(tmp_path, name):
    for number, stem in enumerate(("a2", "a10")):
        save(tmp_path / f"{stem}.png", picture(number))
        save(tmp_path / name.format(stem), mask(number))
    dataset = open_dataset(tmp_path)
    assert dataset.layout == "side-by-side"
    assert [pair.key for pair in dataset.pairs] == ["a2", "a10"]
    np.testing.assert_array_equal(dataset.pairs[1].labels, mask(1))


def test_a_file_finds_its_mask(tmp_path):
    save(tmp_path / "train-volume.tif", picture(shape=(4, 12, 16)))
    save(tmp_path / "train-labels.tif", mask(shape=(4, 12, 16)))
    save(tmp_path / "test-volume.tif", picture(1, shape=(4, 12, 16)))
    (pair,) = open_dataset(tmp_path / "train-volume.tif").pairs
    assert pair.image.axes == "zyx"
    (same,) = (folder := open_dataset(tmp_path)).pairs
    assert same.key == pair.key == "train-volume"
    assert "test-volume.tif has no mask" in sentences(folder)


def test_side_by_side_for_training_and_testing(tmp_path):
    for part in ("train", "test"):
        save(tmp_path / part / "000_img.png", picture())
        save(tmp_path / part / "000_masks.png", mask())
    dataset = open_dataset(tmp_path)
    assert dataset.layout == "side-by-side"
    assert {pair.key: pair.split for pair in dataset.pairs} == {
        "train/000_img": "train", "test/000_img": "test",
    }  # fmt: skip


# The Data Science Bowl


def save_bowl(folder, name, masks, image=None):
    image = picture() if image is None else image
    save(folder / name / "images" / f"{name}.png", image)
    for number, one in enumerate(masks):
        save(folder / name / "masks" / f"{number}.png", one)


def test_the_bowl_merges_masks_and_counts_what_overlaps(tmp_path):
    one, two = np.zeros((2, 12, 16), np.uint8)
    one[2:6, 2:6] = two[5:9, 5:9] = 255
    rgba = np.dstack([picture()] * 3 + [np.full((12, 16), 255, np.uint8)])
    save_bowl(tmp_path / "stage1_train", "b5", [one, two], rgba)
    save_bowl(tmp_path / "stage1_train", "a7", [two])
    (tmp_path / "stage1_train" / "c" / "images").mkdir(parents=True)
    dataset = open_dataset(tmp_path)
    assert dataset.layout == "bowl"
    assert "c has 0 images and 0 masks" in sentences(dataset)
    second = dataset.pairs[1]
    assert (second.key, second.image.axes) == ("b5", "yx")  # gray, saved as colours
    labels = np.asarray(second.labels)
    assert labels[5, 5] == 1  # the first stays
    assert (labels == 1).sum() == 16
    assert (labels == 2).sum() == 15
    assert "1 px that belong to two objects" in second.labels.remarks[0]
    assert open_dataset(tmp_path / "stage1_train").pairs[1].key == "b5"


def test_a_mask_of_another_size_in_the_bowl(tmp_path):
    save_bowl(tmp_path, "a", [np.ones((12, 16), np.uint8), np.ones((9, 16), np.uint8)])
    (pair,) = open_dataset(tmp_path).pairs
    with pytest.raises(ImageError, match="9 × 16 px"):
        np.asarray(pair.labels)


# Sections


def test_sections_of_a_shared_group_become_a_volume_of_it(tmp_path):
    save_pairs(tmp_path, [f"s{i}" for i in range(5)])
    rows = "".join(f"s{i},{'mouse 1' if i < 3 else 'mouse 2'}\n" for i in range(5))
    (tmp_path / "index.csv").write_text("image_id,group\n" + rows)
    pairs = open_dataset(tmp_path, settings=VOLUMES).pairs
    assert [(pair.key, pair.group, pair.labels.shape[0]) for pair in pairs] == [
        ("s0 to s2", "mouse 1", 3), ("s3 to s4", "mouse 2", 2),
    ]  # fmt: skip
    (tmp_path / "index.csv").unlink()
    (pair,) = open_dataset(tmp_path, settings=VOLUMES).pairs
    assert (pair.key, pair.group) == ("s0 to s4", "s0 to s4")


# OME-Zarr and HDF5


def save_zarr(path, shape=(1, 12, 16), labels=("cells",), size=None):
    group = zarr.open_group(path, mode="w", zarr_format=2)
    axes = [{"name": a, "type": "channel" if a == "c" else "space"} for a in "czyx"[-len(shape) :]]
    axes = [{"name": "c", "type": "channel"}, *axes[-2:]] if len(shape) == 3 else axes
    about = [{"axes": axes, "datasets": [{"path": "0"}]}]
    group.attrs["multiscales"] = about
    group["0"] = picture(shape=shape)
    inside = group.create_group("labels")
    inside.attrs["labels"] = list(labels)
    for number, name in enumerate(labels):
        one = inside.create_group(name)
        one.attrs["multiscales"] = [{"axes": axes[1:], "datasets": [{"path": "0"}]}]
        one["0"] = mask(number, size or shape[1:])


def test_ome_zarr_with_labels(tmp_path):
    save_zarr(tmp_path / "one.ome.zarr", (2, 12, 16), ("cells", "nuclei"))
    dataset = open_dataset(tmp_path / "one.ome.zarr")
    assert dataset.layout == "ome-zarr"
    (pair,) = dataset.pairs
    assert (pair.key, pair.image.axes, pair.labels.shape) == ("one", "cyx", (12, 16))
    np.testing.assert_array_equal(pair.labels, mask(0))
    assert "several labels, cells, nuclei; 'cells' is taken" in sentences(dataset)
    chosen = open_dataset(tmp_path / "one.ome.zarr", settings=DatasetSettings(masks="nuclei"))
    np.testing.assert_array_equal(chosen.pairs[0].labels, mask(1))


def test_a_folder_of_ome_zarr(tmp_path):
    save_zarr(tmp_path / "one.zarr", (1, 3, 12, 16))
    save_zarr(tmp_path / "two.zarr", size=(6, 8))
    save_zarr(tmp_path / "three.zarr", labels=("other",))
    dataset = open_dataset(tmp_path, settings=DatasetSettings(masks="cells"))
    assert [(pair.key, pair.image.label_axes) for pair in dataset.pairs] == [("one", "zyx")]
    assert "no labels named 'cells'. It has other" in sentences(dataset)
    assert "6 × 8 px" in sentences(dataset)


def test_fields_of_a_well_are_one_group(tmp_path):
    plate = tmp_path / "plate.zarr"
    group = zarr.open_group(plate, mode="w", zarr_format=2)
    group.attrs["plate"] = {"wells": [{"path": "A/1"}, {"path": "B/1"}]}
    for well in ("A/1", "B/1"):
        about = {"images": [{"path": "0"}, {"path": "1"}]}
        group.create_group(well).attrs["well"] = about
        for field in "01":
            save_zarr(plate / well / field)
    dataset = open_dataset(plate)
    assert [(pair.key, pair.group) for pair in dataset.pairs] == [
        ("A/1/0", "A/1"), ("A/1/1", "A/1"), ("B/1/0", "B/1"), ("B/1/1", "B/1"),
    ]  # fmt: skip


def save_h5(path, **arrays):
    with h5py.File(path, "w") as file:
        for name, array in arrays.items():
            file[name.replace("__", "/")] = array
            file[name.replace("__", "/")].attrs["element_size_um"] = [0.5, 0.25, 0.25]


def test_hdf5_with_raw_and_labels(tmp_path):
    save_h5(tmp_path / "a.h5", raw=picture(shape=(5, 12, 16)), label=mask(shape=(5, 12, 16)))
    save_h5(
        tmp_path / "b.h5", volumes__raw=picture(shape=(2, 5, 12, 16)),
        volumes__labels__cells=mask(shape=(5, 12, 16)),
    )  # fmt: skip
    dataset = open_dataset(tmp_path)
    assert dataset.layout == "hdf5"
    a, b = dataset.pairs
    assert (a.image.axes, b.image.axes) == ("zyx", "czyx")
    assert a.image.pixel_size == {"z": 0.5, "y": 0.25, "x": 0.25}
    np.testing.assert_array_equal(b.labels, mask(shape=(5, 12, 16)))
    window = (slice(1, 3), slice(0, 4), slice(2, 5))
    expected = picture(shape=(2, 5, 12, 16))[:, 1:3, 0:4, 2:5]
    np.testing.assert_array_equal(b.image.read((), window), expected)


def test_hdf5_with_sizes_in_nm(tmp_path):
    save_h5(tmp_path / "a.h5", raw=picture(shape=(5, 12, 16)), label=mask(shape=(5, 12, 16)))
    with h5py.File(tmp_path / "a.h5", "a") as file:
        del file["raw"].attrs["element_size_um"]
        file["raw"].attrs["resolution"] = [40.0, 4.0, 4.0]
    (pair,) = open_dataset(tmp_path).pairs
    assert pair.image.pixel_size == pytest.approx({"z": 0.04, "y": 0.004, "x": 0.004})


def test_large_hdf5_is_read_window_by_window(tmp_path, monkeypatch):
    from napari_unet.core.datasets import containers

    monkeypatch.setattr(containers, "IN_MEMORY_LIMIT", 10)
    save_h5(tmp_path / "a.h5", raw=picture(shape=(5, 12, 16)), label=mask(shape=(5, 12, 16)) > 0)
    (pair,) = open_dataset(tmp_path / "a.h5").pairs
    window = (slice(1, 3), slice(0, 4), slice(2, 5))
    np.testing.assert_array_equal(
        pair.image.read((), window)[0], picture(shape=(5, 12, 16))[window]
    )
    np.testing.assert_array_equal(pair.labels, mask(shape=(5, 12, 16)) > 0)
    (tmp_path / "a.h5").write_bytes(b"nothing")
    with pytest.raises(ImageError, match=r"a\.h5 cannot be read"):
        pair.image.read((), window)


def test_hdf5_that_must_be_asked_about(tmp_path):
    save_h5(tmp_path / "a.h5", one=picture(shape=(12, 16)), two=mask())
    with pytest.raises(ImageError, match="holds the image cannot be told: none that is named so"):
        open_dataset(tmp_path / "a.h5")
    chosen = DatasetSettings(images="one", masks="two")
    (pair,) = open_dataset(tmp_path / "a.h5", settings=chosen).pairs
    np.testing.assert_array_equal(pair.labels, mask())


# The layout itself


def test_a_layout_can_be_named(tmp_path):
    save_pairs(tmp_path, ["a"])
    assert open_dataset(tmp_path, "folders").layout == "folders"
    assert open_dataset(str(tmp_path), "auto").layout == "folders"
    with pytest.raises(SettingsError, match=r"layout must be auto, .*folders.*'pairs'"):
        open_dataset(tmp_path, "pairs")
    with pytest.raises(ImageError, match="No image in"):
        open_dataset(tmp_path, "side-by-side")
    with pytest.raises(ImageError, match="no folders of images and of masks"):
        open_dataset(tmp_path / "images", "folders")


def test_an_unknown_layout_says_what_is_known(tmp_path):
    (tmp_path / "notes.txt").write_text("nothing")
    with pytest.raises(ImageError, match=r"Known are: .*01_GT/SEG.*ID/images.*HDF5"):
        open_dataset(tmp_path)
    with pytest.raises(ImageError, match="no folder or file"):
        open_dataset(tmp_path / "nowhere")


def test_a_folder_of_datasets_says_so(tmp_path):
    for day in ("day1", "day2"):
        save_pairs(tmp_path / day, ["a", "b"])
    with pytest.raises(ImageError, match=r"several datasets .* it: day1, day2\."):
        open_dataset(tmp_path)


def test_the_only_dataset_in_a_folder_is_opened(tmp_path):
    save_pairs(tmp_path / "data" / "day1", ["a", "b"])
    (tmp_path / "data" / "notes").mkdir()
    (tmp_path / "data" / "notes" / "notes.txt").write_text("nothing")
    dataset = open_dataset(tmp_path / "data")
    assert (dataset.layout, [pair.key for pair in dataset.pairs]) == ("folders", ["a", "b"])
    assert dataset.problems == ()


def test_channels_are_told_by_the_mask(tmp_path):
    save(tmp_path / "a.tif", picture(shape=(2, 12, 16)))
    save(tmp_path / "a_mask.tif", mask())
    save(tmp_path / "b.tif", picture(shape=(12, 16, 2)))
    save(tmp_path / "b_mask.tif", mask())
    first, last = open_dataset(tmp_path).pairs
    assert (first.image.axes, first.image.n_channels) == ("cyx", 2)
    assert (last.image.axes, last.image.n_channels) == ("yxc", 2)
    save(tmp_path / "c.tif", picture(shape=(9, 12, 16)))  # a stack, of which one mask was made
    save(tmp_path / "c_mask.tif", mask())
    assert "c.tif has 9 × 12 × 16 px" in sentences(open_dataset(tmp_path))
