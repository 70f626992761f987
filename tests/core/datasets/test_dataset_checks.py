"""The check names each file and what is wrong with it; the description sums up."""

import gc

import numpy as np
import pytest
import tifffile
from skimage.io import imsave

from napari_unet.core.datasets import (
    DatasetSettings,
    check,
    describe,
    of_arrays,
    open_dataset,
    survey,
    surveying,
)
from napari_unet.core.datasets import pairing as pairing_module
from napari_unet.core.datasets import seeing as seeing_module
from napari_unet.core.errors import SettingsError
from napari_unet.core.image import make_image


def picture(number=0, shape=(24, 32), dtype=np.uint8):
    return np.random.default_rng(number).integers(1, 200, shape).astype(dtype)


def objects(n=3, shape=(24, 32), dtype=np.uint16):
    labels = np.zeros(shape, dtype)
    for i in range(n):
        labels[2 + 5 * (i // 6) : 5 + 5 * (i // 6), 2 + 5 * (i % 6) : 5 + 5 * (i % 6)] = i + 1
    return labels


def dataset_of(*masks, images=None):
    images = images or [picture(i) for i in range(len(masks))]
    return of_arrays(list(zip(images, masks, strict=True)))


def found(dataset, what="objects", about=""):
    problems = [one for one in check(dataset, what) if about in one.sentence]
    assert len(problems) == 1, [one.sentence for one in check(dataset, what)]
    return problems[0]


@pytest.mark.parametrize("what", ["objects", "classes"])
def test_nothing_is_wrong_with_good_images(what):
    dataset = dataset_of(objects(3), objects(2))
    assert check(dataset, what) == []


def test_masks_number_objects_or_classes():
    with pytest.raises(SettingsError, match="what must be 'objects' or 'classes', not 'cells'"):
        check(dataset_of(objects()), "cells")


def test_an_empty_mask_is_said_and_no_hindrance():
    problem = found(dataset_of(objects(), objects(0)))
    assert "mask of image 2 is empty" in problem.sentence
    assert (problem.key, problem.is_fatal) == ("image 2", False)


def test_there_must_be_something_to_learn():
    problem = check(dataset_of(objects(0), objects(0)))[0]
    assert problem.is_fatal
    assert "All masks are empty" in problem.sentence


def test_values_that_are_no_numbers():
    broken = picture(dtype=np.float32)
    broken[3, 3], broken[4, 4] = np.nan, np.inf
    dataset = dataset_of(objects(), objects(), images=[broken, picture(1, dtype=np.float32)])
    problem = found(dataset)
    assert problem.is_fatal
    assert "image 1 holds 2 values that are no numbers" in problem.sentence
    assert [pair.key for pair in dataset.without([problem]).pairs] == ["image 2"]


def test_a_constant_image():
    dataset = dataset_of(objects(), objects(), images=[picture(), np.full((24, 32), 7)])
    assert "image 2 has the same value everywhere" in found(dataset).sentence


def test_labels_below_0_are_unknown():
    labels = objects().astype(np.int32)
    labels[0, :4] = -1
    assert "holds 4 px below 0" in found(dataset_of(labels, objects())).sentence


def test_channels_must_go_together():
    gray, colours, many = picture(), picture(1, (24, 32, 3)), picture(2, (2, 24, 32))
    two = dataset_of(objects(), objects(), images=[gray, colours])
    problem = found(two, about="channels")
    assert "1 with 1 (image 1), 1 with 3 (image 2)" in problem.sentence
    assert not problem.is_fatal
    three = dataset_of(objects(), objects(), objects(), images=[gray, colours, many])
    assert found(three, about="channels").is_fatal


def test_planes_and_stacks_do_not_go_together():
    stack = (picture(1, (3, 24, 32)), np.stack([objects()] * 3))
    dataset = of_arrays([(picture(), objects()), stack])
    sentence = found(dataset).sentence
    assert "others are stacks. A network of planes takes both" in sentence
    assert "--planes volume" in sentence
    assert [one.sentence for one in check(dataset, dims=3)] == [sentence]
    assert check(dataset, dims=2) == []  # networks of planes take stacks plane by plane


def test_one_group_cannot_be_held_out():
    image = found(dataset_of(objects())).sentence
    assert image.startswith("There is only one image to train on, so none can be held out")
    assert "there will be no score" in image
    assert "trained on." not in image
    assert "--block" not in image  # nothing to cut
    stack = (picture(1, (3, 24, 32)), np.stack([objects()] * 3))
    whole = found(of_arrays([stack])).sentence
    assert whole.startswith("There is only one stack")
    assert "--block N" in whole
    planes = of_arrays([stack], settings=DatasetSettings(planes="planes"))
    cut = found(planes).sentence
    assert cut.startswith("All 3 images to train on are one group")
    assert "--block N" in cut


def test_a_mask_in_which_nothing_is_known():
    unknown = np.full((24, 32), -1, np.int32)
    sentences = [one.sentence for one in check(dataset_of(unknown, objects()))]
    assert any("Nothing is known in the mask of image 1" in one for one in sentences)
    assert not any("is empty" in one for one in sentences)


@pytest.mark.parametrize("dtype", [bool, np.uint8])
def test_masks_that_do_not_say_which_object(dtype):
    white = ((objects() > 0) * (255 if dtype is np.uint8 else 1)).astype(dtype)
    dataset = dataset_of(white, objects(), objects(1))
    problem = found(dataset)
    assert "1 of 3 masks say what is an object, but not which (image 1)" in problem.sentence
    assert not problem.is_fatal
    assert np.asarray(dataset.pairs[0].labels).max() == 1


def test_classes_are_not_mistaken_for_objects_nor_objects_for_classes():
    classes = np.where(objects(12) > 0, 1 + objects(12) % 2, 0)
    many = dataset_of(classes, classes, images=[picture(), picture(1)])
    assert "as masks of classes do" in found(many).sentence
    few = found(dataset_of(objects(20), objects(20)), "classes")
    assert "seem to number objects" in few.sentence
    assert not few.is_fatal
    big = np.arange(24 * 32).reshape(24, 32)
    assert found(dataset_of(big, big + 1), "classes").is_fatal


def test_classes_are_numbered_without_gaps():
    labels = objects(3) * 40
    problem = found(dataset_of(labels, np.where(labels == 0, 255, labels)), "classes")
    assert "there are 40, 80, 120 (255 counts as unknown)" in problem.sentence
    assert problem.is_fatal
    assert not found(dataset_of(np.where(objects(2) == 2, 3, 1), objects(1)), "classes").is_fatal
    named = of_arrays([(picture(), labels)] * 2, settings=DatasetSettings(values=(0, 40, 80, 120)))
    assert not any(one.is_fatal for one in check(named, "classes"))
    np.testing.assert_array_equal(named.pairs[0].labels, objects(3))


def test_white_means_one_thing_only():
    white = ((objects() > 0) * 255).astype(np.uint8)
    mixed = objects(2, dtype=np.uint8)
    mixed[20:] = 255
    sentence = found(dataset_of(white, mixed), "classes", "255 is the only value").sentence
    assert "(image 1)" in sentence
    assert "(image 2)" in sentence


@pytest.mark.parametrize("what", ["objects", "classes"])
def test_blurred_masks_need_a_threshold(what):
    mask = np.zeros((24, 32), np.uint8)
    mask[4:20, 4:28] = 255
    mask[4, 4:20] = np.arange(10, 170, 10)
    problem = found(dataset_of(mask, objects(1)), what, "gray edges")
    assert problem.is_fatal
    assert "(18 values)" in problem.sentence
    cut = of_arrays([(picture(), mask)], settings=DatasetSettings(threshold=127))
    assert not any(one.is_fatal for one in check(cut, what))
    assert np.asarray(cut.pairs[0].labels).sum() == 16 * 24 - 12


def test_the_same_image_twice(tmp_path):
    for folder, end in (("images", picture), ("masks", lambda _: objects())):
        (tmp_path / folder).mkdir()
        for name, number in (("a", 0), ("b", 1), ("c", 0)):
            imsave(tmp_path / folder / f"{name}.png", end(number), check_contrast=False)
    sentence = found(open_dataset(tmp_path)).sentence
    assert "several times: a, c. It may so be trained and scored on" in sentence
    (tmp_path / "index.csv").write_text("image_id,split\na,train\nb,train\nc,test\n")
    assert "for test and train: a, c" in found(open_dataset(tmp_path)).sentence
    (tmp_path / "index.csv").write_text("image_id,split,group\na,,1\nb,,2\nc,,1\n")
    assert "Remove the copies" in found(open_dataset(tmp_path)).sentence
    (tmp_path / "index.csv").write_text("image_id,split,group\na,train,1\nb,test,1\nc,train,2\n")
    torn = found(open_dataset(tmp_path), about="trained and scored on, in")
    assert "in 1 of 2 groups (1)" in torn.sentence


def test_masks_in_colours(tmp_path):
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
    for name in "abc":
        imsave(tmp_path / "images" / f"{name}.png", picture(ord(name)), check_contrast=False)
    gray = objects(dtype=np.uint8)
    imsave(tmp_path / "masks" / "a.png", np.dstack([gray] * 3), check_contrast=False)
    imsave(tmp_path / "masks" / "b.png", np.dstack([gray, gray, 0 * gray]), check_contrast=False)
    imsave(tmp_path / "masks" / "c.png", gray, check_contrast=False)
    dataset = open_dataset(tmp_path)
    problem = found(dataset)
    assert problem.is_fatal
    assert "b.png is a coloured picture with 3 channels" in problem.sentence
    assert problem.path == tmp_path / "masks" / "b.png"
    np.testing.assert_array_equal(dataset.pairs[0].labels, gray)


def test_opacity_is_no_label_but_a_second_channel_is(tmp_path):
    gray, full = objects(dtype=np.uint8), np.full((24, 32), 255, np.uint8)
    for name, channels in (
        ("a", [gray] * 3 + [full]),
        ("b", [gray, full]),
        ("c", [gray, 2 * gray]),
    ):
        tifffile.imwrite(tmp_path / f"{name}.tif", picture(ord(name)))
        tifffile.imwrite(
            tmp_path / f"{name}_mask.tif", np.stack(channels), imagej=True, metadata={"axes": "CYX"}
        )
    dataset = open_dataset(tmp_path)
    fatal, *others = check(dataset)
    assert (fatal.key, fatal.is_fatal) == ("c", True)
    assert ["read as gray" in one.sentence for one in others] == [True, True]
    np.testing.assert_array_equal(dataset.pairs[0].labels, gray)


def test_what_was_done_to_read_a_mask_is_said():
    real = objects().astype(np.float32)
    dataset = dataset_of(real, objects())
    assert "mask of image 1 holds real numbers that are all whole" in found(dataset).sentence
    assert dataset.pairs[0].labels.dtype == np.int32
    half = dataset_of(real + 0.5, objects())
    assert "not whole, such as 0.5" in found(half).sentence
    assert found(half).is_fatal


def test_files_that_break_when_they_are_read(tmp_path):
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
        for name in "ab":
            array = picture(ord(name)) if folder == "images" else objects()
            imsave(tmp_path / folder / f"{name}.png", array, check_contrast=False)
    path = tmp_path / "images" / "b.png"
    whole = path.read_bytes()
    path.write_bytes(whole[:60] + bytes(len(whole) - 80) + whole[-20:])  # the head and end are good
    dataset = open_dataset(tmp_path)
    assert len(dataset.pairs) == 2
    problem = found(dataset)
    assert (problem.key, problem.path, problem.is_fatal) == ("b", path, True)
    assert "images/b.png cannot be read" in problem.sentence
    assert str(path) not in problem.sentence
    assert describe(dataset).startswith("images    2 (folders), 1 of which cannot be read")


@pytest.mark.parametrize("broken", ["images", "masks"])
def test_files_that_cannot_be_opened_are_left_out(tmp_path, broken):
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
        for name in "abc":
            array = picture(ord(name)) if folder == "images" else objects()
            imsave(tmp_path / folder / f"{name}.png", array, check_contrast=False)
    path = tmp_path / broken / "b.png"
    path.write_bytes(b"nothing")
    dataset = open_dataset(tmp_path)
    assert [pair.key for pair in dataset.pairs] == ["a", "c"]
    problem = found(dataset)
    assert (problem.path, problem.is_fatal) == (path, False)
    assert problem.sentence.startswith(f"{broken}/b.png ")  # the path is said once, elsewhere
    assert str(tmp_path) not in problem.sentence
    assert problem.sentence.endswith("The image b.png is left out.")


def test_very_large_images_are_a_warning(monkeypatch):
    from napari_unet.core.datasets import checking

    monkeypatch.setattr(checking, "LARGE", 500)
    assert all("very large" in one.sentence for one in check(dataset_of(objects(), objects())))


def test_large_images_are_looked_at_in_samples(monkeypatch):
    monkeypatch.setattr(seeing_module, "READ_WHOLE", 10)
    seen = survey(dataset_of(objects(), objects()))
    assert seen[0].digest != seen[1].digest
    assert not seen[0].is_constant


def test_nothing_is_read_twice(tmp_path, monkeypatch):
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
        for name in "ab":
            array = picture(ord(name)) if folder == "images" else objects()
            imsave(tmp_path / folder / f"{name}.png", array, check_contrast=False)
    read = []
    original = pairing_module.read_image
    monkeypatch.setattr(
        pairing_module, "read_image", lambda path, *rest: read.append(path) or original(path)
    )
    dataset = open_dataset(tmp_path)
    check(dataset, "objects")
    describe(dataset)
    check(dataset, "classes")
    assert len(read) == len(set(read)) == 4


def test_looking_can_be_watched_and_leaves_nothing_behind():
    dataset = dataset_of(objects(), objects())
    steps = [(step.done, step.total, step.message) for step in surveying(dataset)]
    assert steps == [(0, 2, "Looking at image 1"), (1, 2, "Looking at image 2")]
    assert list(surveying(dataset)) == []
    n_kept = len(seeing_module._SURVEYS)
    del dataset
    gc.collect()
    assert len(seeing_module._SURVEYS) < n_kept


def test_the_description():
    colours = make_image(picture(1, (24, 40, 3), np.uint16), name="cells")
    dataset = of_arrays([(picture(), objects(3)), (colours, objects(4, (24, 40)))])
    assert describe(dataset).splitlines() == [
        "images    2 (arrays)",
        "size      24 × 32 px to 24 × 40 px",
        "pixels    1 or 3 channels, uint16, uint8",
        "split     2 groups",
        "objects   7, 4 per image (3 to 4), median diameter 3 px",
        "classes   0 (96.4%), 1 (1.0%), 2 (1.0%), 3 (1.0%), 4 (0.5%)",
    ]


def test_classes_are_not_told_of_objects():
    dataset = dataset_of(objects(), objects())
    assert "classes" not in describe(dataset, "objects")
    assert describe(dataset, "classes") == describe(dataset)
    assert "classes   0 (" in describe(dataset)


def test_the_diameter_of_a_ball():
    z, y, x = np.ogrid[:24, :24, :24]
    ball = ((z - 12) ** 2 + (y - 12) ** 2 + (x - 12) ** 2 <= 81).astype(np.uint8)
    text = describe(of_arrays([(picture(0, (24, 24, 24)), ball)]))
    assert "size      24 × 24 × 24 px" in text
    assert "objects   1, 1 per image, median diameter 18 px" in text
