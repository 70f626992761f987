"""A project folder keeps every stroke, whatever happens while it is written."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from napari_unet import project as project_module
from napari_unet.core.corrections import BLOCK_SIZE, CorrectedBlock, corrected_blocks
from napari_unet.core.errors import ProjectError
from napari_unet.core.image import make_image
from napari_unet.core.normalization import summary_of
from napari_unet.core.progress import finish
from napari_unet.project import Project, default_project, default_projects_folder

CLASS_NAMES = ("background", "nucleus")


@pytest.fixture
def project(tmp_path):
    return Project.create(tmp_path / "project", "Cells")


@pytest.fixture
def image():
    pixels = np.random.default_rng(0).integers(0, 4000, (300, 520)).astype(np.uint16)
    return make_image(pixels, "yx", name="field 1")


@pytest.fixture
def painted(image):
    """Strokes over a block border and at the image border, in three blocks."""
    corrections = np.zeros(image.label_shape, np.uint8)
    corrections[100:110, 250:262] = 2
    corrections[295:300, 515:520] = 1
    return corrections


def save(project, image, corrections):
    blocks = list(corrected_blocks(image, corrections))
    return finish(project.save_blocks(image, blocks, class_names=CLASS_NAMES))


def block_files(project, key):
    return sorted((project.folder / "images" / key / "blocks").glob("*.corrections.npz"))


# Round trips


@pytest.mark.parametrize(
    ("axes", "shape"),
    [
        ("yx", (300, 520)),
        ("yxc", (300, 280, 3)),
        ("zyx", (3, 300, 40)),
        ("cyx", (2, 20, 270)),
        ("tczyx", (2, 2, 2, 30, 300)),
        ("yx", (5, 7)),
    ],
)
def test_blocks_come_back_as_they_were_saved(project, axes, shape):
    generator = np.random.default_rng(1)
    image = make_image(generator.integers(0, 255, shape).astype(np.uint8), axes)
    corrections = (generator.integers(0, 4, image.label_shape)).astype(np.uint8)
    expected = list(corrected_blocks(image, corrections))
    assert save(project, image, corrections) == len(expected)

    reopened = Project.open(project.folder)
    key = image.fingerprint()
    loaded = reopened.load_corrections(key)
    assert len(loaded) == len(expected) > 0
    for block, other in zip(loaded, expected, strict=True):
        assert (block.index, block.origin) == (other.index, other.origin)
        assert block.image_origin == other.image_origin
        assert block.image.dtype == other.image.dtype
        np.testing.assert_array_equal(block.corrections, other.corrections)
        np.testing.assert_array_equal(block.image, other.image)
    np.testing.assert_array_equal(reopened.restore(key, image.label_shape), corrections)
    assert reopened.damaged == []


def test_images_are_summarised(project, image, painted):
    finish(
        project.save_blocks(
            image,
            corrected_blocks(image, painted),
            class_names=CLASS_NAMES,
            source="plate/field_1.tif",
        )
    )
    (about,) = Project.open(project.folder).images()
    assert about.key == image.fingerprint()
    assert (about.name, about.source) == ("field 1", "plate/field_1.tif")
    assert (about.shape, about.dtype, about.axes) == ((300, 520), "uint16", "yx")
    assert about.class_names == CLASS_NAMES
    assert about.n_corrected == {1: 25, 2: 120}
    assert about.n_blocks == 3
    assert about.changed.endswith("+00:00")


def test_each_block_saved_is_one_step_of_progress(project, image, painted):
    blocks = list(corrected_blocks(image, painted))
    seen = []
    assert finish(project.save_blocks(image, blocks), seen.append) == 3
    assert [(p.done, p.total) for p in seen] == [(1, 3), (2, 3), (3, 3)]


def test_an_erased_block_leaves_the_disk_and_can_be_painted_again(project, image, painted):
    key = image.fingerprint()
    save(project, image, painted)
    first, *_ = corrected_blocks(image, painted)
    erased = CorrectedBlock(
        index=first.index,
        origin=first.origin,
        corrections=np.zeros_like(first.corrections),
        image=first.image,
        image_origin=first.image_origin,
    )
    assert len(block_files(project, key)) == 3
    assert finish(project.save_blocks(image, [erased])) == 1
    assert len(block_files(project, key)) == 2
    assert finish(project.save_blocks(image, [erased])) == 1  # nothing is there to erase
    remaining = painted.copy()
    remaining[:BLOCK_SIZE, :BLOCK_SIZE] = 0
    np.testing.assert_array_equal(project.restore(key, image.label_shape), remaining)
    finish(project.save_blocks(image, [first]))
    np.testing.assert_array_equal(project.restore(key, image.label_shape), painted)
    assert len(project.load_corrections(key)) == 3


def test_the_raw_image_of_a_block_is_written_once(project, image, painted):
    save(project, image, painted)
    windows = sorted(project.folder.rglob("*.image.npz"))
    before = [path.stat().st_mtime_ns for path in windows]
    painted[painted == 2] = 3
    save(project, image, painted)
    assert [path.stat().st_mtime_ns for path in windows] == before
    np.testing.assert_array_equal(project.restore(image.fingerprint(), image.label_shape), painted)


def test_saving_half_way_keeps_what_was_acknowledged(project, image, painted):
    work = project.save_blocks(image, corrected_blocks(image, painted))
    next(work)
    work.close()
    assert len(project.load_corrections(image.fingerprint())) == 1


def test_training_images_bring_the_blocks_of_all_images(project, image, painted):
    other = make_image(np.arange(1200, dtype=np.float32).reshape(30, 40), "yx", name="other")
    strokes = np.zeros((30, 40), np.uint8)
    strokes[3, 4] = 1
    save(project, image, painted)
    save(project, other, strokes)
    trained = {entry.key: entry for entry in project.training_images()}
    assert {key: len(entry.blocks) for key, entry in trained.items()} == {
        image.fingerprint(): 3,
        other.fingerprint(): 1,
    }
    np.testing.assert_array_equal(trained[image.fingerprint()].summary, summary_of(image.samples()))
    assert {key: len(blocks) for key, blocks in project.all_blocks().items()} == {
        key: len(entry.blocks) for key, entry in trained.items()
    }


def test_a_lost_summary_is_made_from_the_saved_windows(project, image, painted):
    save(project, image, painted)
    (project.folder / "images" / image.fingerprint() / "summary.npz").unlink()
    (trained,) = project.training_images()
    assert trained.summary.shape == (1, 1001)
    assert trained.summary.dtype == np.uint16


def test_an_image_without_corrections_is_listed_but_not_trained_on(project, image):
    assert save(project, image, np.zeros(image.label_shape, np.uint8)) == 0
    (about,) = project.images()
    assert (about.n_corrected, about.n_blocks, about.changed) == ({}, 0, "")
    assert project.training_images() == []


def test_an_unknown_image_has_no_corrections(project):
    assert project.load_corrections("0123") == []
    assert not project.restore("0123", (3, 4)).any()
    assert project.images() == []
    with pytest.raises(ProjectError, match="not the fingerprint"):
        project.forget("..")


def test_forgetting_moves_an_image_and_deletes_nothing(project, image, painted):
    key = image.fingerprint()
    save(project, image, painted)
    n_files = len(list(project.folder.rglob("*.npz")))
    first = project.forget(key)
    assert project.images() == [] and not project.restore(key, image.label_shape).any()
    save(project, image, painted)
    second = project.forget(key)
    assert first.parent == second.parent == project.folder / "removed" and first != second
    assert len(list(project.folder.rglob("*.npz"))) == 2 * n_files
    with pytest.raises(ProjectError, match="could not move"):
        project.forget(key)


# Crashes

WRITER = """
import sys
import numpy as np
from napari_unet.core.corrections import block_at
from napari_unet.core.image import make_image
from napari_unet.project import Project

folder, start = sys.argv[1], int(sys.argv[2])
image = make_image(np.arange(600 * 520, dtype=np.uint16).reshape(600, 520), "yx")
project = Project.open(folder)
origins = [(y, x) for y in (0, 256, 512) for x in (0, 256, 512)]

def blocks():
    for version in range(start, start + 10_000):
        y, x = origins[version % 9]
        painted = np.full((min(256, 600 - y), min(256, 520 - x)), version % 7, np.uint8)
        if version % 7:
            painted[0, :4] = np.frombuffer(np.uint32(version).tobytes(), np.uint8)
        yield block_at(image, painted, (), y, x)

for progress in project.save_blocks(image, blocks()):
    print(start + progress.done - 1, flush=True)
"""


def check_blocks(folder, acknowledged, key):
    """Each block is the whole acknowledged version or the whole one after it, nothing else."""
    project = Project.open(folder)
    found = {block.origin: block.corrections for block in project.load_corrections(key)}
    assert project.damaged == []
    for slot in range(9):
        before = max((v for v in acknowledged if v % 9 == slot), default=None)
        allowed = {before, slot if before is None else before + 9}
        painted = found.get((slot // 3 * 256, slot % 3 * 256))
        if painted is None:
            assert any(v is None or v % 7 == 0 for v in allowed)
            continue
        version = int(np.frombuffer(painted[0, :4].tobytes(), np.uint32)[0])
        assert version in allowed
        assert (painted.ravel()[4:] == version % 7).all()


@pytest.mark.skipif(os.name == "nt", reason="there is no SIGKILL on Windows")
def test_a_killed_program_loses_nothing_that_was_saved(tmp_path):
    folder = Project.create(tmp_path / "project").folder
    key = make_image(np.arange(600 * 520, dtype=np.uint16).reshape(600, 520), "yx").fingerprint()
    chance = random.Random(0)
    acknowledged = []
    for _ in range(10):
        start = len(acknowledged)
        writer = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(folder), str(start)],
            stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        first = writer.stdout.readline()
        time.sleep(chance.uniform(0, 0.1))
        writer.send_signal(signal.SIGKILL)
        lines = [first, *writer.stdout.read().splitlines()]
        writer.stdout.close()
        assert writer.wait() == -signal.SIGKILL
        acknowledged += [int(line) for line in lines]
        assert acknowledged == list(range(len(acknowledged)))
        check_blocks(folder, acknowledged, key)
        # What was under way when it died may be on the disk: the next writer repeats it.
    assert len(acknowledged) > 20


def test_a_write_that_fails_half_way_leaves_the_old_version(project, image, painted, monkeypatch):
    save(project, image, painted)
    monkeypatch.setattr(os, "fsync", lambda handle: (_ for _ in ()).throw(OSError(28, "full")))
    with pytest.raises(ProjectError, match=r"could not write .*npz \(full\)\. Check that the disk"):
        save(project, image, np.where(painted, 3, 0).astype(np.uint8))
    monkeypatch.undo()
    np.testing.assert_array_equal(project.restore(image.fingerprint(), painted.shape), painted)
    assert list(project.folder.rglob("*.part")) == []


def test_leftovers_of_the_dead_go_and_those_of_the_living_stay(project, image, painted):
    save(project, image, painted)
    blocks = project.folder / "images" / image.fingerprint() / "blocks"
    old, new = blocks / ".plane_0_0.corrections.npz.12.part", blocks / ".other.34.part"
    for path in (old, new):
        path.write_bytes(b"half of")
    os.utime(old, (0, 0))
    reopened = Project.open(project.folder)
    assert not old.exists() and new.exists()
    np.testing.assert_array_equal(reopened.restore(image.fingerprint(), image.label_shape), painted)
    assert reopened.damaged == []


# Damage


@pytest.mark.parametrize("harm", ["truncated", "zeros", "empty", "one bit", "another file"])
def test_a_damaged_block_is_reported_and_moved_aside(project, image, painted, harm):
    key = image.fingerprint()
    save(project, image, painted)
    path = block_files(project, key)[0]
    content = path.read_bytes()
    middle = len(content) // 2
    path.write_bytes(
        {
            "truncated": content[:middle],
            "zeros": bytes(len(content)),
            "empty": b"",
            "one bit": content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :],
            "another file": block_files(project, key)[0]
            .with_name("plane_0_0.image.npz")
            .read_bytes(),
        }[harm]
    )
    assert len(project.load_corrections(key)) == 2
    (sentence,) = project.damaged
    assert str(path) in sentence and "damaged" in sentence
    assert not path.exists()
    assert len(list((path.parent.parent / "damaged").iterdir())) == 1
    remaining = painted.copy()
    remaining[:BLOCK_SIZE, :BLOCK_SIZE] = 0
    np.testing.assert_array_equal(project.restore(key, image.label_shape), remaining)
    save(project, image, painted)
    np.testing.assert_array_equal(project.restore(key, image.label_shape), painted)


def test_a_damaged_window_costs_no_stroke_and_is_written_again(project, image, painted):
    key = image.fingerprint()
    save(project, image, painted)
    window = next(project.folder.rglob("*.image.npz"))
    window.write_bytes(window.read_bytes()[:100])
    assert len(project.load_corrections(key)) == 2
    assert len(project.load_corrections(key)) == 2
    assert len(project.damaged) == 2 and "is missing" in project.damaged[1]
    np.testing.assert_array_equal(project.restore(key, image.label_shape), painted)
    save(project, image, painted)
    assert len(project.load_corrections(key)) == 3


def test_corrections_that_do_not_fit_the_image_are_reported(project, image, painted):
    save(project, image, painted)
    key = image.fingerprint()
    assert not project.restore(key, (2, 300, 520)).any()
    assert len(project.damaged) == 3
    smaller = project.restore(key, (256, 520))
    np.testing.assert_array_equal(smaller, painted[:256])


def test_a_damaged_project_file_is_replaced(project, image, painted):
    save(project, image, painted)
    (project.folder / "project.json").write_bytes(b'{"format": "napa')
    (project.folder / "images" / image.fingerprint() / "image.json").write_bytes(b"\0\0\0")
    reopened = Project.open(project.folder)
    assert reopened.name == "project"
    (about,) = reopened.images()
    assert about.n_blocks == 3 and about.name.startswith("image ") and about.shape == ()
    assert len(reopened.damaged) == 2
    again = Project.open(project.folder)
    assert again.damaged == []


def test_state_is_remembered_and_survives_damage(project):
    assert project.read_state() == {}
    project.write_state({"model": "models/ß.safetensors", "n": 3})
    assert Project.open(project.folder).read_state() == {"model": "models/ß.safetensors", "n": 3}
    (project.folder / "state.json").write_text("[1]")
    assert project.read_state() == {}
    assert len(project.damaged) == 1


# Opening and creating


def test_opening_what_is_no_project_says_so(tmp_path):
    with pytest.raises(ProjectError, match="There is no project in"):
        Project.open(tmp_path)
    (tmp_path / "project.json").write_text(json.dumps({"format": "another"}))
    with pytest.raises(ProjectError, match="another program"):
        Project.open(tmp_path)
    newer = {"format": project_module.FORMAT, "version": project_module.VERSION + 1}
    (tmp_path / "project.json").write_text(json.dumps(newer))
    with pytest.raises(ProjectError, match="newer version"):
        Project.open(tmp_path)


def test_creating_never_litters_a_folder_in_use(tmp_path, project):
    (tmp_path / "holiday.jpg").touch()
    with pytest.raises(ProjectError, match=r"not empty \(it holds 'holiday.jpg'\)"):
        Project.create(tmp_path)
    with pytest.raises(ProjectError, match="open it if it is a project"):
        Project.create(project.folder)
    assert Project.open(project.folder).name == "Cells"


def test_a_project_that_died_while_it_was_made_is_taken_up_again(project, image, painted):
    save(project, image, painted)
    (project.folder / "project.json").unlink()
    (project.folder / ".project.json.12.part").touch()
    again = Project.create(project.folder, "Cells")
    assert len(again.load_corrections(image.fingerprint())) == 3


def test_a_file_in_place_of_the_folder_gives_a_sentence(tmp_path):
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", tmp_path / "file" / "project"):
        with pytest.raises(ProjectError, match="could not be created in"):
            Project.create(folder)


def test_a_folder_that_cannot_be_written_to_gives_a_sentence(project, image, painted, tiny_model):
    (project.folder / "images").touch()
    (project.folder / "models").touch()
    with pytest.raises(ProjectError, match=r"could not write .*Check that the disk is not full"):
        save(project, image, painted)
    with pytest.raises(ProjectError, match="could not be kept in"):
        project.save_round(tiny_model)
    (project.folder / "state.json").mkdir()
    with pytest.raises(ProjectError, match=r"could not write .*state\.json"):
        project.write_state({})


def test_the_default_project_is_made_once(tmp_path, monkeypatch):
    monkeypatch.setenv("NAPARI_UNET_PROJECTS", str(tmp_path / "projects"))
    first = default_project()
    assert first.folder == tmp_path / "projects" / "My project"
    created = (first.folder / "project.json").read_text()
    assert default_project() == first
    assert (first.folder / "project.json").read_text() == created
    monkeypatch.delenv("NAPARI_UNET_PROJECTS")
    assert default_projects_folder().parts[-2:] == ("napari-unet-live", "projects")


# Models


@pytest.fixture
def tiny_model():
    import torch

    from napari_unet.core.device import choose_device
    from napari_unet.core.model import Description, Model, weights_id
    from napari_unet.core.networks import UNet, UNetConfig

    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = UNet(UNetConfig(widths=(2, 4))).eval()
    return Model(
        network=network, architecture="unet", config=network.config,
        description=Description(name="tiny"), device=choose_device("cpu"),
        id=weights_id(network),
    )  # fmt: skip


def test_rounds_get_the_next_free_number(project, tiny_model):
    from napari_unet.core.model import load_model

    assert project.round_paths() == []
    paths = [project.save_round(tiny_model) for _ in range(2)]
    assert [path.name for path in paths] == ["round-0001.safetensors", "round-0002.safetensors"]
    (project.folder / "models" / "round-0010.safetensors").touch()
    (project.folder / "models" / "notes.txt").touch()
    assert project.save_round(tiny_model).name == "round-0011.safetensors"
    assert [path.stem[-2:] for path in project.round_paths()] == ["01", "02", "10", "11"]
    assert load_model(paths[1], device="cpu").id == tiny_model.id
    assert not list((project.folder / "models").glob(".*"))


def test_a_number_taken_meanwhile_is_never_overwritten(project, tiny_model, monkeypatch):
    folder = project.folder / "models"
    folder.mkdir()
    (folder / "round-0001.safetensors").write_bytes(b"of another program")
    monkeypatch.setattr(project_module, "_rounds_in", lambda folder: {})
    assert project.save_round(tiny_model).name == "round-0002.safetensors"

    def no_links(source, target):
        raise OSError(95, "not supported")

    monkeypatch.setattr(os, "link", no_links)
    assert project.save_round(tiny_model).name == "round-0003.safetensors"
    assert (folder / "round-0001.safetensors").read_bytes() == b"of another program"
    assert not list(folder.glob(".*"))


def test_the_module_needs_neither_torch_nor_qt():
    code = (
        "import sys, napari_unet.project\n"
        "assert not {'torch', 'qtpy', 'napari', 'skimage'} & set(sys.modules)"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(project_module.__file__).parents[1])}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)
