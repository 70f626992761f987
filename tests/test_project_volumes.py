"""A project keeps what networks of volumes need, and is trained on without its images."""

import numpy as np
import pytest

from napari_unet.core.corrections import corrected_blocks
from napari_unet.core.errors import CorrectionsError
from napari_unet.core.image import make_image
from napari_unet.core.progress import finish
from napari_unet.core.volumes import DEPTH, corrected_volumes, slices_of
from napari_unet.project import Project


def painted_stack(axes="zyx"):
    """A stack of 50 slices, with strokes on two that lie near each other and a far one."""
    shape = {"t": 2, "c": 2, "z": 50, "y": 40, "x": 30}
    values = np.random.default_rng(0).integers(0, 999, [shape[axis] for axis in axes])
    image = make_image(values.astype(np.uint16), axes)
    corrections = np.zeros(image.label_shape, np.uint8)
    corrections[..., 3, 5:9, 4:20], corrections[..., 7, 20:22, 4:20] = 1, 2
    corrections[..., 45, 30:32, 4:20] = 2
    return image, corrections


def volumes_of(project):
    (found,) = project.training_images()
    return list(corrected_volumes(found.blocks, found.slices))


def assert_same(found, expected):
    assert len(found) == len(expected) > 0
    for block, other in zip(found, expected, strict=True):
        assert (block.index, block.origin) == (other.index, other.origin)
        assert block.image_origin == other.image_origin
        np.testing.assert_array_equal(block.image, other.image)
        np.testing.assert_array_equal(block.corrections, other.corrections)


@pytest.mark.parametrize("axes", ["zyx", "tczyx", "xyzc"])
def test_volumes_are_the_same_without_the_image(tmp_path, axes):
    image, corrections = painted_stack(axes)
    blocks = list(corrected_blocks(image, corrections))
    project = Project.create(tmp_path / "project")
    finish(project.save_blocks(image, blocks, depth=DEPTH))
    assert_same(
        volumes_of(Project.open(tmp_path / "project")),
        list(corrected_volumes(blocks, slices_of(image))),
    )


def test_what_was_kept_for_a_2d_model_is_made_up_for(tmp_path):
    image, corrections = painted_stack()
    blocks = list(corrected_blocks(image, corrections))
    project = Project.create(tmp_path / "project")
    key = image.fingerprint()
    finish(project.save_blocks(image, blocks))
    with pytest.raises(CorrectionsError, match="Open that image again"):
        volumes_of(project)
    finish(project.keep_slices(image, key))
    assert_same(volumes_of(project), list(corrected_volumes(blocks, slices_of(image))))
    (about,) = project.images()
    assert about.n_blocks == 3
    np.testing.assert_array_equal(project.restore(key, image.label_shape), corrections)


def test_slices_are_written_once_and_only_those_around(tmp_path):
    image, corrections = painted_stack()
    project = Project.create(tmp_path / "project")
    blocks = list(corrected_blocks(image, corrections))
    finish(project.save_blocks(image, blocks, depth=2))
    files = sorted((tmp_path / "project").rglob("*.image.npz"))
    assert {int(path.name.partition("_")[0]) for path in files} == {*range(1, 10), *range(43, 48)}
    before = [path.stat().st_mtime_ns for path in files]
    finish(project.save_blocks(image, blocks, depth=2))
    finish(project.keep_slices(image, image.fingerprint(), depth=2))
    assert [path.stat().st_mtime_ns for path in files] == before


def test_an_image_without_z_keeps_nothing_around(tmp_path):
    image = make_image(np.zeros((4, 20, 20), np.uint8), "tyx")
    corrections = np.ones((4, 20, 20), np.uint8)
    corrections[2:] = 0
    project = Project.create(tmp_path / "project")
    finish(project.save_blocks(image, list(corrected_blocks(image, corrections)), depth=DEPTH))
    finish(project.keep_slices(image, image.fingerprint()))
    assert len(list((tmp_path / "project").rglob("*.image.npz"))) == 2
    with pytest.raises(CorrectionsError, match="no stack"):
        volumes_of(project)


def test_a_damaged_slice_is_told_and_left_out(tmp_path):
    image, corrections = painted_stack()
    project = Project.create(tmp_path / "project")
    finish(project.save_blocks(image, list(corrected_blocks(image, corrections)), depth=DEPTH))
    (path,) = (tmp_path / "project").rglob("40_0_0.image.npz")
    path.write_bytes(b"nonsense")
    found = volumes_of(project)
    assert any("40_0_0.image.npz is damaged" in sentence for sentence in project.damaged)
    assert [(b.image_origin[0], b.image.shape[1]) for b in found] == [(0, 24), (41, 9)]
