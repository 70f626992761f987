"""From images and masks to what is learned."""

import numpy as np
import pytest
import torch

from napari_unet.core.corrections import IGNORE
from napari_unet.core.datasets import Pair, of_arrays
from napari_unet.core.errors import SettingsError, TrainingError
from napari_unet.core.image import make_image
from napari_unet.core.losses import class_log_probabilities
from napari_unet.core.model import Description
from napari_unet.core.normalization import Normalization, scale_of, summary_of
from napari_unet.core.separation import separation_map
from napari_unet.core.training.cutting import object_settings_for
from napari_unet.core.training.outputs import outputs_for, outputs_of
from napari_unet.core.training.pictures import (
    channels_of,
    classes_in,
    pictures_of,
    pixel_size_of,
    target_of,
)
from napari_unet.core.training.settings import TrainSettings

LABELS = np.array(
    [
        [0, 1, 1, 2, 2],
        [0, 1, 1, 2, 2],
        [0, 0, 0, 0, 0],
        [3, 3, 3, -1, -1],
        [3, 3, 3, 0, 0],
    ],
    np.int16,
)


def settings(**changes):
    return TrainSettings(**changes).completed({})


def target(labels, **changes):
    chosen = settings(**changes)
    n_classes = int(labels.max()) + 1 if chosen.what == "classes" else 2
    return target_of(labels, outputs_for(chosen, n_classes))


def picture(image, labels, chosen, n_classes=2):
    pair = Pair(key="a", group="g", image=make_image(image), labels=labels)
    outputs = outputs_for(chosen, n_classes)
    return list(pictures_of([pair], chosen, outputs, Normalization(), 1))


# Targets


def test_between_touching_objects_there_is_a_gap():
    np.testing.assert_array_equal(
        target(LABELS, split="gap"),
        [
            [0, 1, 0, 0, 1],
            [0, 1, 0, 0, 1],
            [0, 0, 0, 0, 0],
            [1, 1, 1, 255, 255],
            [1, 1, 1, 0, 0],
        ],
    )


def test_without_a_split_all_of_an_object_counts():
    found = target(LABELS, split="none")
    np.testing.assert_array_equal(found == 1, LABELS > 0)
    np.testing.assert_array_equal(found == IGNORE, LABELS < 0)


def test_rims_and_cores():
    labels = np.zeros((12, 12), np.int16)
    labels[1:8, 1:8] = 1
    labels[8:11, 1:8] = 2
    found = target(labels, split="rim")
    expected = np.zeros((12, 12), np.uint8)
    expected[1:8, 1:8] = expected[8:11, 1:8] = 1
    expected[3:6, 3:6] = 2  # 2 px from all that is another
    np.testing.assert_array_equal(found, expected)


def test_the_border_of_the_image_is_no_rim():
    found = target(np.ones((8, 8), np.int16), split="rim")
    assert (found == 2).all()


def test_classes_are_what_the_masks_say():
    labels = np.array([[0, 1, 2, 255, -1]], np.int16)
    found = target_of(labels, outputs_for(settings(what="classes"), 3))
    np.testing.assert_array_equal(found, [[0, 1, 2, 255, 255]])


# Outputs


@pytest.mark.parametrize("outputs", ["softmax", "sigmoid"])
@pytest.mark.parametrize("what", [{"split": "gap"}, {"split": "rim"}, {"what": "classes"}])
def test_outputs_go_with_targets_and_with_the_description(what, outputs):
    chosen = settings(outputs=outputs, **what)
    found = outputs_for(chosen, 4 if chosen.what == "classes" else 2)
    Description(
        name="a", class_names=found.class_names, outputs=found.names,
        output_class=found.output_class, inside=found.inside, activation=found.activation,
    )  # fmt: skip
    logits = torch.randn(2, len(found.names), 4, 4)
    logs = class_log_probabilities(logits, found.counted, found.activation)
    assert logs.shape == (2, found.n_values, 4, 4)
    if outputs == "softmax":
        torch.testing.assert_close(logs.exp().sum(dim=1), torch.ones(2, 4, 4))


@pytest.mark.parametrize("outputs", ["softmax", "sigmoid"])
def test_a_network_with_rims_is_recognised_again(outputs):
    found = outputs_for(settings(split="rim", outputs=outputs), 2)
    about = Description(
        name="a", class_names=found.class_names, outputs=found.names,
        output_class=found.output_class, inside=found.inside, activation=found.activation,
    )  # fmt: skip
    again = outputs_of(about, settings(split="gap"))
    assert (again.split, again.counted, again.values) == ("rim", found.counted, found.values)
    np.testing.assert_array_equal(target_of(LABELS, again), target_of(LABELS, found))


def test_rims_in_another_order():
    about = Description(
        name="a", outputs=("core", "background", "rim"), output_class=(1, 0, 1), inside=0
    )
    labels = np.zeros((9, 9), np.int16)
    labels[1:8, 1:8] = 1
    found = target_of(labels, outputs_of(about, settings()))
    assert found[4, 4] == 0 and found[0, 0] == 1 and found[1, 4] == 2


def test_names_of_classes():
    chosen = settings(what="classes")
    assert outputs_for(chosen, 3, ["a", "b"]).class_names == ("background", "a", "b")
    assert outputs_for(chosen, 3, ["none", "a", "b"]).class_names == ("none", "a", "b")
    with pytest.raises(SettingsError, match="class_names has 1 names"):
        outputs_for(chosen, 3, ["a"])


# Pictures


def test_images_stay_in_their_type_and_are_scaled_as_a_whole():
    image = np.arange(2 * 40 * 40, dtype=np.uint16).reshape(2, 40, 40)
    labels = np.zeros((2, 40, 40), np.uint8)
    labels[:, 5:20, 5:20] = 1
    labels[:, 25:30, 5:20] = 2
    found = picture(image, labels, settings())
    assert len(found) == 2  # planes of one stack, of one group and scale
    assert {one.group for one in found} == {"g"} and len({one.key for one in found}) == 2
    for one, plane in zip(found, image, strict=True):
        assert one.image.dtype == np.uint16 and one.image.shape == (1, 40, 40)
        np.testing.assert_array_equal(one.image[0], plane)
        assert one.scale == scale_of(summary_of(image.reshape(1, -1)), Normalization(), 1)


def test_planes_of_which_nothing_is_known_are_left_out():
    labels = np.stack([LABELS, np.full_like(LABELS, -1)])
    assert len(picture(np.zeros(labels.shape, np.uint8), labels, settings())) == 1


def test_places_say_where_each_value_is():
    (one,) = picture(np.zeros((5, 5), np.uint8), LABELS, settings(split="none"))
    assert set(one.places) == {0, 1}
    for value, places in one.places.items():
        assert (one.target.ravel()[places] == value).all()
        assert len(places) == (one.target == value).sum()


def test_weights_are_one_and_the_separation_map():
    labels = np.zeros((32, 32), np.int16)
    labels[4:14, 4:14], labels[4:14, 16:28] = 1, 2
    (one,) = picture(np.zeros((32, 32), np.uint8), labels, settings(separation=10.0))
    expected = 1 + separation_map(labels, 10.0, 5.0)
    np.testing.assert_allclose(one.weights, expected, rtol=1e-3)
    assert one.weights[8, 15] > 8
    (none,) = picture(np.zeros((32, 32), np.uint8), labels, settings(separation=0.0))
    assert none.weights is None


def test_distances_for_weights_are_those_of_the_volume():
    labels = np.zeros((6, 24, 24), np.int16)
    labels[:2, 4:12, 4:12], labels[4:, 4:12, 4:12] = 1, 2  # 3 slices from another
    image = np.zeros(labels.shape, np.uint8)
    chosen = settings(separation=10.0, dims=3)
    for size, spacing in (({"z": 2.0, "y": 0.5, "x": 0.5}, (4, 1, 1)), ({"x": 0.5}, None)):
        pair = Pair(key="a", group="", image=make_image(image, "zyx", pixel_size=size),
                    labels=labels)  # fmt: skip
        (one,) = pictures_of([pair], chosen, outputs_for(chosen, 2), Normalization(), 1)
        expected = 1 + separation_map(labels, 10.0, 5.0, spacing)
        np.testing.assert_allclose(one.weights, expected, rtol=1e-3)
        assert one.weights.max() > 1.1


def test_of_classes_only_the_background_between_them_weighs_more():
    labels = np.zeros((32, 32), np.int16)
    labels[4:14, 2:10], labels[4:14, 10:18], labels[4:14, 20:28] = 1, 2, 2
    chosen = settings(separation=10.0, what="classes")
    image = np.zeros((32, 32), np.uint8)
    (one,) = picture(image, labels, chosen, n_classes=3)
    assert (one.weights[labels > 0] == 1).all()  # where classes touch
    assert one.weights[8, 18] > 8  # a gap of 2 px
    unknown = labels.copy()
    unknown[16:18] = IGNORE
    (other,) = picture(image, unknown, chosen, n_classes=3)
    assert (other.weights[16:18] == 1).all()
    np.testing.assert_array_equal(other.weights[:16], one.weights[:16])  # it is no object
    np.testing.assert_array_equal(other.weights[18:], one.weights[18:])


def test_without_a_gap_touching_objects_weigh_no_more():
    labels = np.zeros((32, 32), np.int16)
    labels[4:14, 2:10], labels[4:14, 10:18] = 1, 2
    for split, is_more in (("none", False), ("gap", True)):
        chosen = settings(separation=10.0, split=split)
        (one,) = picture(np.zeros((32, 32), np.uint8), labels, chosen)
        assert (one.weights[8, 10] > 10) == is_more
        assert one.weights[15, 10] > 2  # background close to both


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_pixels_that_are_no_numbers(wrong):
    image = np.random.default_rng(0).random((2, 24, 24)).astype(np.float32)
    image[1, 3, 4] = wrong
    labels = np.zeros((2, 24, 24), np.int16)
    labels[:, 4:9, 4:9], labels[:, 12:17, 4:9] = 1, 2
    with pytest.raises(TrainingError, match="image of 'a' holds 1 pixels that are no finite"):
        picture(image, labels, settings())
    labels[1] = -1  # nothing is known of that plane, so that it is not shown
    assert len(picture(image, labels, settings())) == 1


def test_a_mask_of_one_value_has_as_many_objects_as_parts():
    mask = np.zeros((20, 20), np.uint8)
    mask[2:8, 2:8] = mask[12:18, 12:18] = 255
    (one,) = picture(mask, mask, settings())
    assert sorted(np.unique(one.labels)) == [0, 1, 2]


@pytest.mark.parametrize("dtype", [np.uint64, np.int64])
def test_huge_numbers_of_objects_are_made_small(dtype):
    labels = np.zeros((12, 12), dtype)
    labels[1:4, 1:4], labels[6:9, 1:4] = 2**40, 7
    if dtype == np.int64:
        labels[11] = -5
    (one,) = picture(np.zeros((12, 12), np.uint8), labels, settings())
    assert one.labels[2, 2] == 2 and one.labels[7, 2] == 1
    np.testing.assert_array_equal(one.labels > 0, labels > 0)
    np.testing.assert_array_equal(one.labels < 0, labels.astype(np.int64) < 0)


def test_channels_must_go_together():
    def pair(n):
        image = make_image(np.zeros((n, 8, 8), np.uint8), "cyx")
        return Pair(key=f"{n}", group="", image=image, labels=np.zeros((8, 8), int))

    assert channels_of([pair(1), pair(3)]) == 3
    with pytest.raises(TrainingError, match="'2' has 2 channels, but '3' has 3"):
        channels_of([pair(2), pair(3)])


def test_classes_are_counted():
    def pairs(*values):
        labels = np.array([values])
        return [Pair(key="a", group="", image=make_image(labels), labels=labels)]

    assert classes_in(pairs(0, 1, 3)) == 4
    assert classes_in(pairs(0, 1, 255)) == 2  # 255: not known
    for values, words in (((0, 70), "number objects"), ((0, 0), "nothing but background"),
                          ((0, 255), "and 255, which means")):  # fmt: skip
        with pytest.raises(TrainingError, match=words):
            classes_in(pairs(*values))


def test_the_pixel_size_is_that_of_all_images():
    def pair(size):
        image = make_image(np.zeros((8, 8)), pixel_size=size)
        return Pair(key="a", group="", image=image, labels=None)

    assert pixel_size_of([pair({"x": 0.5, "y": 0.5}), pair({"x": 0.5})]) == 0.5
    assert pixel_size_of([pair({"x": 0.5}), pair({})]) is None


def test_masks_that_do_not_fit():
    def pair(labels):
        image = make_image(np.zeros((8, 8)))
        return [Pair(key="cell", group="", image=image, labels=labels)]

    for labels, words in ((np.zeros((8, 9), int), "have the shape"),
                          (np.zeros((8, 8)), "whole numbers are needed")):  # fmt: skip
        with pytest.raises(TrainingError, match=f"'cell'.*{words}"):
            list(pictures_of(pair(labels), settings(), None, Normalization(), 1))


# How objects are cut


def test_objects_with_a_waist_are_not_cut():
    y, x = np.mgrid[:48, :64]
    waisted = ((y - 24) ** 2 + (x - 20) ** 2 < 100) | ((y - 24) ** 2 + (x - 36) ** 2 < 100)
    round_ones = of_arrays([(waisted.astype(np.uint8), waisted.astype(np.uint8))]).pairs
    chosen = settings(split="gap")
    outputs = outputs_for(chosen, 2)
    pictures = list(pictures_of(round_ones, chosen, outputs, Normalization(), 1))
    assert object_settings_for(pictures, outputs, "gap").split == 0


def test_small_objects_are_not_dropped():
    labels = np.zeros((64, 64), np.int16)
    for i in range(6):
        labels[10 * i : 10 * i + 3, 5:8] = i + 1
    (one,) = picture(np.zeros((64, 64), np.uint8), labels, settings())
    found = object_settings_for([one], outputs_for(settings(), 2), "gap")
    assert found.min_size <= 2
    assert found.split == 0.5  # nothing speaks against it
