"""Every stroke on a real labels layer is on the disk within two seconds."""

import threading
import time

import numpy as np
import pytest
from napari.components import ViewerModel
from qtpy.QtCore import QThreadPool

from napari_unet import disk
from napari_unet import journal as journal_module
from napari_unet.core.corrections import corrected_blocks
from napari_unet.core.errors import ProjectError
from napari_unet.core.image import make_image
from napari_unet.core.progress import finish
from napari_unet.image_folder import ImageFolder
from napari_unet.journal import Journal
from napari_unet.layers import CorrectionsLayer, image_of
from napari_unet.project import Project

CLASS_NAMES = ("background", "nucleus")
LIMIT = 2000
"""From a stroke to the disk, in ms."""


@pytest.fixture(autouse=True)
def quick_retries(monkeypatch):
    monkeypatch.setattr(journal_module, "RETRY_MS", 100)


@pytest.fixture
def project(tmp_path):
    return Project.create(tmp_path / "project")


@pytest.fixture
def journal(project, qapp):
    journal = Journal(project)
    yield journal
    journal.flush()


class Painted:
    """An image, a labels layer to paint on, and the journal that watches it."""

    def __init__(self, journal, shape=(300, 520), seed=0):
        self.journal = journal
        self.viewer = ViewerModel()
        pixels = np.random.default_rng(seed).integers(0, 4000, shape).astype(np.uint16)
        self.source = self.viewer.add_image(pixels, name="field")
        self.image = image_of(self.source)
        self.key = self.image.fingerprint()
        self.corrections = CorrectionsLayer(
            self.viewer, self.source, self.image, np.zeros(shape, np.uint8), CLASS_NAMES
        )
        self.layer = self.corrections.layer
        journal.watch(self.image, self.key, self.corrections, CLASS_NAMES)
        self.corrections.on_changed = lambda boxes: journal.touch(self.key, boxes)

    def dab(self, *position, value=2):
        self.layer.paint(position, value)

    def on_disk(self, project=None):
        folder = (project or self.journal.project).folder
        return Project.open(folder).restore(self.key, self.image.label_shape)

    def is_on_disk(self):
        return np.array_equal(self.on_disk(), self.layer.data)


@pytest.fixture
def painted(journal):
    return Painted(journal)


@pytest.fixture
def stack(journal):
    return Painted(journal, shape=(4, 300, 280))


def test_a_stroke_is_on_the_disk_within_two_seconds(qtbot, painted):
    painted.dab(20, 30)
    n_painted = np.count_nonzero(painted.layer.data)
    assert n_painted > 20
    qtbot.waitUntil(painted.is_on_disk, timeout=LIMIT)
    assert np.count_nonzero(painted.on_disk()) == n_painted
    qtbot.waitUntil(lambda: not painted.journal.is_pending)


def in_a_plane(layer):
    layer.paint((2, 40, 50), 2)


def through_all_planes(layer):
    layer.n_edit_dimensions = 3
    layer.brush_size = 5
    layer.paint((2, 254, 254), 2)


def with_the_bucket(layer):
    layer.paint((1, 100, 100), 2)
    layer.fill((1, 100, 100), 1)


def over_a_whole_plane(layer):
    layer.fill((3, 0, 0), 1)


def with_the_polygon(layer):
    layer.paint_polygon(np.array([[1, 10, 10], [1, 10, 270], [1, 280, 100]]), 2)


def by_index(layer):
    layer.data_setitem((np.array([0, 3]), np.array([5, 299]), np.array([7, 279])), 2)


def with_the_eraser(layer):
    layer.paint((2, 40, 50), 2)
    layer.paint((2, 42, 52), 0)


def in_one_block_of_strokes(layer):
    with layer.block_history():
        for x in range(240, 270, 3):
            layer.paint((0, 128, x), 1)


def from_elsewhere(layer):
    layer.data[1, 5, 5] = 2
    layer.refresh()


def with_other_data(layer):
    other = layer.data.copy()
    other[3, 7, 7] = 1
    layer.data = other


@pytest.mark.parametrize(
    "paint",
    [
        in_a_plane, through_all_planes, with_the_bucket, over_a_whole_plane, with_the_polygon,
        by_index, with_the_eraser, in_one_block_of_strokes, from_elsewhere, with_other_data,
    ],
)  # fmt: skip
def test_every_way_to_paint_reaches_the_disk(qtbot, stack, paint):
    paint(stack.layer)
    assert stack.layer.data.any()
    qtbot.waitUntil(stack.is_on_disk, timeout=LIMIT)


def test_painting_on_another_slice_reaches_its_plane(qtbot, stack):
    for z in (3, 1):
        stack.viewer.dims.set_point(0, z)
        stack.layer.paint((z, 60, 60), 2)
    qtbot.waitUntil(stack.is_on_disk, timeout=LIMIT)
    assert stack.on_disk().any(axis=(1, 2)).tolist() == [False, True, False, True]


def test_stroke_upon_stroke_does_not_put_the_saving_off(qtbot, painted):
    """Someone who dabs five times a second must not wait for the end of it."""
    start = time.monotonic()
    n_painted = 0
    while time.monotonic() - start < 1.6:
        painted.dab(10 + n_painted, 20)
        n_painted += 1
        qtbot.wait(100)
    assert painted.on_disk().any()


def test_undo_and_redo_reach_the_disk(qtbot, painted):
    painted.dab(20, 30)
    qtbot.waitUntil(painted.is_on_disk, timeout=LIMIT)
    painted.dab(20, 400)
    qtbot.waitUntil(painted.is_on_disk, timeout=LIMIT)
    painted.layer.undo()
    assert not painted.layer.data[:, 256:].any()
    qtbot.waitUntil(painted.is_on_disk, timeout=LIMIT)
    painted.layer.undo()
    assert not painted.layer.data.any()
    qtbot.waitUntil(painted.is_on_disk, timeout=LIMIT)
    painted.layer.redo()
    painted.layer.redo()
    assert np.count_nonzero(painted.layer.data[:, 256:])
    qtbot.waitUntil(painted.is_on_disk, timeout=LIMIT)


def test_undo_in_an_image_too_big_to_scan_reaches_the_disk(qtbot, painted, monkeypatch):
    monkeypatch.setattr(journal_module, "FULL_SCAN_LIMIT", 100)
    painted.dab(20, 30)
    qtbot.waitUntil(painted.is_on_disk, timeout=LIMIT)
    painted.layer.undo()
    qtbot.waitUntil(painted.is_on_disk, timeout=LIMIT)
    painted.layer.redo()
    qtbot.waitUntil(painted.is_on_disk, timeout=LIMIT)
    assert painted.on_disk().any()


class Gate:
    """Holds every write of a block by a worker thread until it is opened."""

    def __init__(self, monkeypatch):
        self.reached, self.opened = threading.Event(), threading.Event()
        save_block = ImageFolder.save_block

        def wait_and_save(folder, block):
            if threading.current_thread() is not threading.main_thread():
                self.reached.set()
                assert self.opened.wait(10)
            save_block(folder, block)

        monkeypatch.setattr(ImageFolder, "save_block", wait_and_save)


def test_a_stroke_during_a_save_is_saved_too(qtbot, painted, monkeypatch):
    gate = Gate(monkeypatch)
    painted.dab(20, 30)
    qtbot.waitUntil(gate.reached.is_set)
    painted.dab(25, 35, value=1)  # in the block that is being written
    painted.dab(20, 400)  # and in another one
    gate.opened.set()
    qtbot.waitUntil(painted.is_on_disk, timeout=LIMIT)
    qtbot.waitUntil(lambda: not painted.journal.is_pending)
    assert painted.journal.counts(painted.key)[1][0] == np.count_nonzero(painted.layer.data == 1)


def test_a_stroke_undone_while_it_is_being_saved_leaves_the_disk(qtbot, painted, monkeypatch):
    gate = Gate(monkeypatch)
    painted.dab(20, 30)
    qtbot.waitUntil(gate.reached.is_set)
    painted.layer.undo()
    gate.opened.set()
    qtbot.waitUntil(lambda: not painted.journal.is_pending)
    assert not painted.layer.data.any()
    assert painted.is_on_disk()


def test_a_flush_during_a_save_leaves_the_newest_on_the_disk(qtbot, painted, monkeypatch):
    """The save under way holds older pixels of the same block; it must not come last."""
    gate = Gate(monkeypatch)
    painted.dab(20, 30)
    qtbot.waitUntil(gate.reached.is_set)
    painted.dab(25, 35, value=1)
    threading.Timer(0.1, gate.opened.set).start()
    painted.journal.flush()
    assert painted.is_on_disk()
    qtbot.waitUntil(lambda: not painted.journal.is_pending)
    assert painted.is_on_disk()


def test_a_flush_before_a_waiting_save_leaves_the_newest_on_the_disk(qtbot, painted):
    """The save waits for its thread; when it gets it, there is nothing left to do."""
    painted.dab(20, 30)
    painted.journal._on_timer_timeout()
    assert painted.journal._job is not None
    painted.dab(25, 35, value=1)
    painted.journal.flush()
    assert painted.is_on_disk()
    qtbot.waitUntil(lambda: not painted.journal.is_pending)
    assert painted.is_on_disk()


def test_strokes_are_saved_while_all_threads_are_busy(qtbot, painted):
    from napari_unet.jobs import Job

    def work():
        while True:
            time.sleep(0.005)
            yield

    pool = QThreadPool.globalInstance()
    jobs = [Job(work) for _ in range(pool.maxThreadCount())]
    for job in jobs:
        job.start()
    try:
        painted.dab(20, 30)
        qtbot.waitUntil(painted.is_on_disk, timeout=LIMIT)
    finally:
        for job in jobs:
            job.stop()
        qtbot.waitUntil(lambda: not any(job.is_running for job in jobs))


class BrokenDisk:
    """Writing fails until it is mended."""

    def __init__(self, monkeypatch):
        self.is_broken = True
        self._write_whole = disk._write_whole
        monkeypatch.setattr(disk, "_write_whole", self.write_whole)

    def write_whole(self, path, content):
        if self.is_broken:
            raise OSError(28, "No space left on device")
        self._write_whole(path, content)


def test_a_full_disk_is_said_and_tried_again(qtbot, painted, monkeypatch):
    disk, said, saved = BrokenDisk(monkeypatch), [], []
    painted.journal.failed.connect(said.append)
    painted.journal.saved.connect(saved.append)
    painted.dab(20, 30)
    qtbot.waitUntil(lambda: len(said) == 1)
    assert "No space left on device" in said[0]
    assert "disk is not full" in said[0]
    assert saved == []
    assert painted.journal.is_pending
    disk.is_broken = False
    qtbot.waitUntil(painted.is_on_disk)
    assert painted.on_disk().any()
    qtbot.waitUntil(lambda: saved == [painted.key])
    qtbot.waitUntil(lambda: not painted.journal.is_pending)


def test_a_flush_that_fails_is_tried_again(qtbot, painted, monkeypatch):
    disk, said = BrokenDisk(monkeypatch), []
    painted.journal.failed.connect(said.append)
    painted.dab(20, 30)
    painted.journal.flush()
    assert len(said) == 1
    assert painted.journal.is_pending
    disk.is_broken = False
    qtbot.waitUntil(painted.is_on_disk)


def test_an_image_that_cannot_be_read_any_more_does_not_stop_the_others(
    qtbot, journal, monkeypatch
):
    class Gone:
        shape, dtype = (64, 64), np.dtype(np.uint8)
        is_gone = False

        def __getitem__(self, key):
            if self.is_gone:
                raise OSError("the network drive is away")
            return np.zeros(self.shape, self.dtype)[key]

    array = Gone()
    first, second = Painted(journal, shape=(64, 64)), Painted(journal, shape=(64, 65), seed=1)
    lazy = make_image(array, "yx", name="lazy")
    journal.watch(lazy, first.key, first.corrections, CLASS_NAMES)
    said = []
    journal.failed.connect(said.append)
    array.is_gone = True
    first.dab(20, 30)
    second.dab(20, 30)
    journal.flush()
    assert second.is_on_disk()
    assert len(said) == 1
    assert "the network drive is away" in said[0]
    array.is_gone = False
    qtbot.waitUntil(first.is_on_disk)


def test_a_layer_removed_right_after_a_stroke_is_saved(qtbot, painted):
    painted.dab(20, 30)
    painted.viewer.layers.remove(painted.layer)
    qtbot.waitUntil(painted.is_on_disk, timeout=LIMIT)
    assert painted.on_disk().any()


def test_letting_go_of_an_image_saves_it_first(qtbot, journal):
    first, second = Painted(journal), Painted(journal, seed=1)
    assert first.key != second.key
    first.dab(20, 30)
    second.dab(40, 40)
    journal.keep_only({second.key})
    assert first.is_on_disk()
    assert journal.counts(first.key) == {}
    first.dab(200, 200)  # it is watched no more
    second.dab(100, 100)
    qtbot.waitUntil(second.is_on_disk, timeout=LIMIT)
    assert not journal.is_pending or first.on_disk()[200, 200] == 0


def test_what_could_not_be_saved_is_not_let_go_of(qtbot, journal, monkeypatch):
    painted = Painted(journal)
    disk = BrokenDisk(monkeypatch)
    painted.dab(20, 30)
    journal.keep_only(set())
    disk.is_broken = False
    qtbot.waitUntil(painted.is_on_disk)
    assert painted.on_disk().any()


def test_moving_to_another_project_takes_open_corrections_along(qtbot, painted, project, tmp_path):
    painted.dab(20, 30)
    qtbot.waitUntil(painted.is_on_disk, timeout=LIMIT)
    painted.dab(100, 30, value=1)  # not saved yet
    before = painted.layer.data.copy()
    other = Project.create(tmp_path / "other")
    painted.journal.move_to(other)
    assert np.array_equal(painted.on_disk(project), before)
    assert np.array_equal(painted.on_disk(other), before)
    painted.dab(20, 400)
    qtbot.waitUntil(painted.is_on_disk, timeout=LIMIT)
    assert np.array_equal(painted.on_disk(project), before)
    painted.layer.undo()
    qtbot.waitUntil(painted.is_on_disk, timeout=LIMIT)


def test_moving_to_another_project_loses_none_of_its_strokes(qtbot, painted, project, tmp_path):
    """The same image was painted on in both, in the same block."""
    painted.layer.brush_size = 3
    painted.dab(20, 30)
    painted.dab(50, 50)
    qtbot.waitUntil(painted.is_on_disk, timeout=LIMIT)
    other = Project.create(tmp_path / "other")
    painted.journal.move_to(other)
    painted.dab(20, 30, value=1)
    painted.dab(100, 100, value=1)
    qtbot.waitUntil(painted.is_on_disk, timeout=LIMIT)
    painted.journal.move_to(project)
    found = {at: painted.layer.data[at] for at in ((20, 30), (50, 50), (100, 100))}
    assert found == {(20, 30): 1, (50, 50): 2, (100, 100): 1}
    assert painted.is_on_disk()


def test_strokes_that_are_only_in_the_other_project_come_into_view(
    qtbot, painted, project, tmp_path
):
    other = Project.create(tmp_path / "other")
    elsewhere = np.zeros((300, 520), np.uint8)
    elsewhere[100:110, 40:50] = elsewhere[290:295, 500:510] = 2
    blocks = list(corrected_blocks(painted.image, elsewhere))
    finish(other.save_blocks(painted.image, blocks, key=painted.key))
    painted.dab(20, 30, value=1)
    painted.journal.move_to(other)
    assert (painted.layer.data[elsewhere > 0] == 2).all()
    assert painted.layer.data[20, 30] == 1
    assert painted.is_on_disk()
    assert painted.journal.counts(painted.key)[2][0] == 150


def test_moving_to_a_project_that_cannot_be_written_keeps_trying(
    qtbot, painted, tmp_path, monkeypatch
):
    painted.dab(20, 30)
    qtbot.waitUntil(painted.is_on_disk, timeout=LIMIT)
    other = Project.create(tmp_path / "other")
    disk = BrokenDisk(monkeypatch)
    painted.journal.move_to(other)
    assert not painted.on_disk(other).any()
    assert painted.journal.is_pending
    disk.is_broken = False
    qtbot.waitUntil(painted.is_on_disk)


def test_counts_follow_the_strokes(qtbot, painted):
    assert painted.journal.counts(painted.key) == {}
    painted.layer.brush_size = 1
    for position in ((5, 5), (5, 6), (50, 50)):
        painted.dab(*position)
    painted.dab(100, 100, value=1)
    qtbot.waitUntil(painted.is_on_disk, timeout=LIMIT)
    qtbot.waitUntil(lambda: painted.journal.counts(painted.key) == {2: (3, 2), 1: (1, 1)})
    painted.layer.undo()
    qtbot.waitUntil(lambda: painted.journal.counts(painted.key) == {2: (3, 2)})


def test_what_was_there_when_watching_began_counts_but_is_not_written_again(
    qtbot, journal, project
):
    painted = Painted(journal)
    painted.layer.data[10:12, 10:12] = 2
    journal.watch(painted.image, painted.key, painted.corrections, CLASS_NAMES)
    assert journal.counts(painted.key) == {2: (4, 1)}
    journal.touch(painted.key)
    journal.flush()
    assert not painted.on_disk().any()


def test_an_unknown_image_is_no_harm(journal):
    journal.touch("nobody", [((), (0, 5), (0, 5))])
    assert journal.counts("nobody") == {}
    assert not journal.is_pending


def test_errors_of_the_project_are_sentences(painted, monkeypatch):
    def fail(*_, **__):
        raise ProjectError("The folder is on fire. Choose another one.")
        yield

    said = []
    painted.journal.failed.connect(said.append)
    with monkeypatch.context() as patch:
        patch.setattr(Project, "save_blocks", fail)
        painted.dab(20, 30)
        painted.journal.flush()
    assert said == ["The folder is on fire. Choose another one."]
