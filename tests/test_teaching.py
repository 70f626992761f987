"""Training from masks as the work of a session's jobs, and where its networks are kept."""

import numpy as np
import pytest

from napari_unet.core.datasets import of_arrays
from napari_unet.core.errors import TrainingError
from napari_unet.core.image import make_image
from napari_unet.core.model import load_model
from napari_unet.core.progress import finish
from napari_unet.core.training.settings import TrainSettings
from napari_unet.project import Project
from napari_unet.teaching import Lesson, choices, looking_at, run_folder, teaching

SETTINGS = TrainSettings(width=2, steps=2, patch_size=32, batch_size=1)


@pytest.fixture
def project(tmp_path):
    return Project.create(tmp_path / "project")


@pytest.fixture
def lesson():
    masks = np.zeros((40, 40), np.uint16)
    masks[5:15, 5:15], masks[20:32, 18:30] = 1, 2
    image = make_image((masks > 0).astype(np.uint8) * 200, "yx")
    return Lesson(layers=((image, masks),))


def test_every_network_can_be_chosen():
    found = {choice.name: choice for choice in finish(choices())}
    assert found["unet"].dims == (2, 3)
    assert found["unet-resnet18"].takes_imagenet and not found["unet-2015"].takes_imagenet
    assert all(choice.summary and choice.paper for choice in found.values())


def test_layers_are_looked_at(lesson):
    looked = finish(looking_at(lesson))
    assert looked.is_usable and looked.lesson is lesson
    assert "40 × 40 px" in looked.text and "2" in looked.text


def test_nothing_to_look_at():
    with pytest.raises(TrainingError, match="no masks to learn from"):
        finish(looking_at(Lesson()))


def test_what_is_fatal_comes_first_and_cannot_be_used(lesson):
    image, masks = lesson.layers[0]
    looked = finish(looking_at(Lesson(layers=((image, np.zeros_like(masks)),))))
    assert not looked.is_usable and looked.problems


def test_a_network_is_kept_under_its_name_and_never_over_another(lesson, project):
    names = [
        finish(teaching(lesson, SETTINGS, project, "My cells / 2", "cpu")).path.name
        for _ in range(2)
    ]
    assert names == ["My-cells-2.safetensors", "My-cells-2-2.safetensors"]
    model = load_model(project.folder / "networks" / names[0], "cpu")
    assert model.description.name == "My cells / 2"
    Project.open(project.folder)  # its folders are its own


def test_a_project_that_lost_its_file_is_taken_up_with_its_networks(lesson, project):
    finish(teaching(lesson, SETTINGS, project, "cells", "cpu"))
    (project.folder / "project.json").unlink()
    assert Project.create(project.folder).folder == project.folder


def test_a_training_goes_on_in_its_folder(lesson, project):
    longer = TrainSettings(width=2, steps=6, patch_size=32, batch_size=1, measure_every=2)
    work = teaching(lesson, longer, project, "cells", "cpu")
    for progress in work:
        if getattr(progress, "done", 0) == 3 and getattr(progress, "total", 0) == 6:
            break
    work.close()
    folder = run_folder(project, "cells", lesson, longer)
    assert (folder / "state").exists()
    assert run_folder(project, "cells", lesson, SETTINGS) != folder
    steps = []
    finish(
        teaching(lesson, longer, project, "cells", "cpu"),
        lambda progress: steps.append(progress.done) if progress.total == 6 else None,
    )
    assert max(steps) == 6 and min(step for step in steps if step) >= 3
    assert not folder.exists() and (project.folder / "networks" / "cells.csv").exists()


def test_arrays_and_layers_are_the_same(lesson):
    ((image, masks),) = lesson.layers
    (pair,) = of_arrays([(image, masks)]).pairs
    assert np.array_equal(np.asarray(pair.labels), masks)
