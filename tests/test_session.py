"""One session per viewer: one job at a time, nothing is lost when a job ends early."""

import time

import numpy as np
import pytest
import torch
from napari.components import ViewerModel

from napari_unet import session as session_module
from napari_unet.core.image import make_image
from napari_unet.core.model import load_model
from napari_unet.core.settings import FineTuneSettings, SegmentSettings
from napari_unet.project import Project
from napari_unet.session import Session, session_of
from napari_unet.works import Request

QUICK = FineTuneSettings(steps=12, patch_size=32, batch_size=2, memory=0.0)


class Canvas:
    """A target that keeps what it is shown."""

    def __init__(self, image):
        self.labels = np.zeros(image.label_shape, np.int32)
        self.n_written = self.n_drawn = self.n_finished = 0

    def begin(self, what, areas=()):
        self.begun = (what, tuple(areas))

    def write(self, progress):
        self.n_written += 1
        self.labels[progress.region.index][progress.region.window] = progress.labels

    def redraw(self):
        self.n_drawn += 1

    def finished(self):
        self.n_finished += 1


class Paper:
    """A layer that somebody has painted on."""

    def __init__(self, painted):
        self.painted = painted

    def array(self):
        return self.painted

    def fill_in(self, values):
        self.painted[self.painted == 0] = values[self.painted == 0]


def squares(size=64, n=4):
    """Bright squares of 8 px on a dark ground, `(y, x)`, and how many there are."""
    pixels = np.zeros((size, size), np.uint8)
    for y in range(n):
        for x in range(n):
            step = size // n
            pixels[y * step + 4 : y * step + 12, x * step + 4 : x * step + 12] = 200
    return pixels


@pytest.fixture
def image():
    return make_image(squares(), "yx", name="squares")


@pytest.fixture
def session(qtbot, tiny_model, tmp_path):
    session = Session(Project.create(tmp_path / "project"))
    session.model = tiny_model
    yield session
    session.cancel()
    qtbot.waitUntil(lambda: not session.is_busy and not session.predictions.is_at_work)
    qtbot.waitUntil(lambda: not session.journal.is_pending)


def paint(session, image):
    """Corrections of an image that was painted on before."""
    painted = np.zeros(image.label_shape, np.uint8)
    session.journal.watch(image, image.fingerprint(), Paper(painted), ("background", "object"))
    painted[:, :24] = 1
    painted[4:12, 4:12] = 2
    session.journal.touch(image.fingerprint())
    session.journal.flush()
    return painted


def request(image, target, settings=None, **more):
    return Request(image=image, target=target, settings=settings or SegmentSettings(), **more)


def done(qtbot, session, timeout=20_000):
    predictions = session.predictions
    qtbot.waitUntil(lambda: not session.is_busy and not predictions.is_at_work, timeout=timeout)


def segment(qtbot, session, image, **settings):
    canvas = Canvas(image)
    assert session.predictions.segment(request(image, canvas, SegmentSettings(**settings)))
    done(qtbot, session)
    return canvas


def weights(model):
    return {name: value.clone() for name, value in model.network.state_dict().items()}


def same(one, other):
    return all(torch.equal(one[name], other[name]) for name in one)


class Slowly:
    """An array that takes its time to be read, and counts how often it is."""

    def __init__(self, array, seconds=0.0):
        self._array, self.shape, self.dtype = array, array.shape, array.dtype
        self.n_reads, self.seconds = 0, seconds

    def __getitem__(self, selection):
        self.n_reads += 1
        time.sleep(self.seconds)
        return self._array[selection]


# Models


def test_a_model_is_opened_in_the_background(qtbot, session, tiny_file):
    session.model = None
    with qtbot.waitSignal(session.model_changed):
        assert session.open_model(tiny_file)
        assert session.is_busy
        assert session.model is None
    done(qtbot, session)
    assert session.model.description.name == "tiny"
    assert session.message[0] == "done"
    assert "'tiny' is ready" in session.message[1]


@pytest.mark.parametrize("content", [None, b"", b"not a model", b"\x80\x05K\x01."])
def test_a_file_that_is_no_model_leaves_a_sentence_and_the_old_model(
    qtbot, session, tmp_path, content
):
    path, model = tmp_path / "bad.safetensors", session.model
    if content is not None:
        path.write_bytes(content)
    session.open_model(path)
    done(qtbot, session)
    assert session.model is model
    assert session.message[0] == "error"
    assert "bad.safetensors" in session.message[1]
    assert "unforeseen" not in session.message[1]


def test_the_first_model_is_the_built_in_one_or_the_one_used_last(qtbot, session, tiny_file):
    opened = []
    session.open_model = opened.append
    session.open_first_model()
    session.project.write_state({"model": str(tiny_file)})
    session.open_first_model()
    tiny_file.unlink()
    session.open_first_model()
    assert opened == ["nuclei", str(tiny_file), "nuclei"]


def test_a_device_that_is_not_there_leaves_a_sentence_and_the_model(qtbot, session):
    model = session.model
    session.choose_device("cuda:99")
    done(qtbot, session)
    assert session.model is model
    assert session.message[0] == "error"
    session.choose_device("cpu")
    done(qtbot, session)
    assert session.model.device.name == "cpu"


# One job at a time


def test_a_second_job_is_refused_while_one_runs(qtbot, session, image, tiny_file):
    assert session.predictions.segment(request(image, Canvas(image)))
    assert not session.predictions.segment(request(image, Canvas(image)))
    assert not session.open_model(tiny_file)
    assert "still running" in session.message[1]
    done(qtbot, session)


def test_without_a_model_there_is_a_sentence(session, image):
    session.model = None
    assert not session.predictions.segment(request(image, Canvas(image)))
    assert not session.fine_tune(QUICK)
    assert session.message == ("error", "There is no model yet. Open one in the Model step.")


# Fine-tune


def test_training_makes_a_trial_and_leaves_the_model_alone(qtbot, session, image):
    paint(session, image)
    before = weights(session.model)
    assert session.n_corrected == 64 * 24
    assert session.fine_tune(QUICK)
    done(qtbot, session)
    trial = session.trial
    assert trial is not None, session.message
    assert trial.before is session.model
    assert same(before, weights(session.model))
    assert trial.after.history[-1].parent == session.model.id
    assert trial.path == session.project.round_paths()[-1]
    assert load_model(trial.path).id == trial.after.id
    assert [kept.round.id for kept in session.rounds] == [trial.after.id]
    steps = [progress.done for progress in session.training_curve if progress.done]
    assert steps == list(range(1, 13))


@pytest.fixture
def trial(qtbot, session, image):
    paint(session, image)
    session.fine_tune(QUICK)
    done(qtbot, session)
    return session.trial


def test_keep_goes_on_with_the_new_model(qtbot, session, trial):
    settled = []
    session.trial_settled.connect(settled.append)
    session.keep()
    assert session.model is trial.after
    assert session.trial is None
    assert settled == [True]
    assert session.project.read_state()["model"] == str(trial.path)
    session.keep()
    session.go_back()  # nothing is on trial any more
    assert settled == [True]
    assert session.model is trial.after


def test_go_back_stays_with_the_old_model_and_keeps_the_round(qtbot, session, trial):
    settled = []
    session.trial_settled.connect(settled.append)
    session.go_back()
    assert session.model is trial.before
    assert session.trial is None
    assert settled == [False]
    assert len(session.rounds) == 1
    assert "model" not in session.project.read_state()


def test_one_click_returns_to_any_round(qtbot, session, trial):
    session.keep()
    session.fine_tune(QUICK)
    done(qtbot, session)
    session.keep()
    first, second = session.rounds
    assert second.round.parent == first.round.id == trial.after.id
    assert session.model.id == second.round.id
    assert session.return_to(first)
    done(qtbot, session)
    assert session.model.id == first.round.id
    assert session.project.read_state()["model"] == str(first.path)


def test_the_model_on_trial_is_the_one_that_segments(qtbot, session, image, trial):
    old = session.predictions.current
    segment(qtbot, session, image)
    assert session.predictions.on_trial.model is trial.after
    assert session.predictions.current is old
    session.go_back()
    assert session.predictions.on_trial is None
    assert session.predictions.current is old


def test_training_without_corrections_leaves_a_sentence(qtbot, session):
    session.fine_tune(QUICK)
    done(qtbot, session)
    assert session.trial is None
    assert session.message[0] == "error"
    assert "unforeseen" not in session.message[1]
    assert "Nothing is painted yet" in session.message[1]


def test_cancelled_training_changes_nothing(qtbot, session, image):
    paint(session, image)
    model, before = session.model, weights(session.model)
    session.fine_tune(FineTuneSettings(steps=10_000, patch_size=32, batch_size=2))
    qtbot.waitUntil(lambda: len(session.training_curve) > 2, timeout=20_000)
    start = time.monotonic()
    session.cancel()
    done(qtbot, session)
    assert time.monotonic() - start < 1
    assert session.trial is None
    assert session.model is model
    assert same(before, weights(model))
    assert session.project.round_paths() == []
    assert session.message[0] == "info"


def test_stopped_training_keeps_the_best_so_far(qtbot, session, image):
    paint(session, image)
    session.fine_tune(FineTuneSettings(steps=10_000, patch_size=32, batch_size=2))
    qtbot.waitUntil(lambda: len(session.training_curve) > 2, timeout=20_000)
    session.finish_early()
    done(qtbot, session)
    assert session.trial is not None
    assert len(session.training_curve) < 9_000


def test_training_stopped_before_its_first_step_is_no_accident(qtbot, session, image):
    paint(session, image)
    session.fine_tune(QUICK)
    session.finish_early()
    done(qtbot, session)
    assert "unforeseen" not in session.message[1]
    assert session.model is not None


def test_training_that_fails_leaves_a_sentence_and_the_model(qtbot, session, image, monkeypatch):
    paint(session, image)
    before = weights(session.model)

    def fail(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr("napari_unet.core.finetuning.masked_cross_entropy", fail)
    session.fine_tune(QUICK)
    done(qtbot, session)
    assert session.trial is None
    assert session.message[0] == "error"
    assert "model is unchanged" in session.message[1]
    assert same(before, weights(session.model))
    assert session.project.round_paths() == []


def test_a_round_that_cannot_be_written_leaves_a_sentence(qtbot, session, image, monkeypatch):
    paint(session, image)

    def fail(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("napari_unet.core.checkpoints.native.write_whole", fail)
    session.fine_tune(QUICK)
    done(qtbot, session)
    assert session.trial is None
    assert session.message[0] == "error"
    assert "could not be kept" in session.message[1]


# Projects


def test_another_project_brings_its_own_corrections_and_rounds(
    qtbot, session, image, tmp_path, tiny_model
):
    paint(session, image)
    session.open_project(tmp_path / "other")
    assert session.project.folder == tmp_path / "other"
    assert (tmp_path / "other" / "project.json").is_file()
    assert session.n_corrected == 64 * 24  # the open ones come along
    assert session.rounds == ()
    session.journal.keep_only(set())
    elsewhere = Project.create(tmp_path / "third")
    elsewhere.save_round(tiny_model)
    session.open_project(tmp_path / "third")
    assert session.n_corrected == 0
    assert session.message == ("done", f"The project is now {tmp_path / 'third'}.")


def test_a_folder_that_is_no_project_leaves_a_sentence_and_the_old_project(session, tmp_path):
    project = session.project
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").touch()
    session.open_project(tmp_path / "photos")
    assert session.project is project
    assert session.message[0] == "error"
    assert "cat.jpg" in session.message[1]


def test_a_preferred_folder_that_is_away_does_not_keep_the_docks_from_opening(
    qtbot, tmp_path, monkeypatch, projects_folder
):
    """A project on a network drive; the drive is not there today."""
    (tmp_path / "file").touch()
    folder = str(tmp_path / "file" / "project")
    monkeypatch.setattr(
        session_module,
        "preference",
        lambda group, name, default: folder if name == "project_folder" else default,
    )
    session = Session()
    assert session.message[0] == "error"
    assert folder in session.message[1]
    assert session.project.folder.parent == projects_folder


def test_the_session_of_a_viewer_is_one(qtbot):
    from napari.utils._proxies import PublicOnlyProxy

    first, second = ViewerModel(), ViewerModel()
    assert session_of(first) is session_of(first) is session_of(PublicOnlyProxy(first))
    assert session_of(second) is not session_of(first)


def test_no_torch_until_a_model_is_opened():
    import subprocess
    import sys

    code = (
        "import sys, napari_unet.session, napari_unet.widgets.live; print('torch' in sys.modules)"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "False"


def test_a_session_that_dies_in_the_middle_of_a_job_stops_it(qtbot, tiny_model, tmp_path):
    import gc

    session = Session(Project.create(tmp_path / "project"))
    session.model = tiny_model
    slow = Slowly(np.tile(squares(), (8, 8)), seconds=0.02)
    image = make_image(slow, "yx")
    session.predictions.segment(request(image, Canvas(image), SegmentSettings(tile_size=16)))
    qtbot.waitUntil(lambda: slow.n_reads > 4)
    session.deleteLater()
    del session
    gc.collect()
    qtbot.wait(100)
    n_reads = slow.n_reads
    qtbot.wait(200)
    assert slow.n_reads <= n_reads + 1
