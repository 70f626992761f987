"""Segmentations, found again when a knob is turned, drawn a few times a second at the most."""

import time
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from napari_unet.core.image import make_image
from napari_unet.core.model import save_model
from napari_unet.core.settings import SegmentSettings
from napari_unet.predictions import REDRAW_MS
from napari_unet.project import Project
from napari_unet.session import Session
from napari_unet.works import Adjustment, Request


class Canvas:
    """A target that keeps what it is shown."""

    def __init__(self, image):
        self.labels = np.zeros(image.label_shape, np.int32)
        self.n_written = self.n_drawn = self.n_finished = 0

    def begin(self, what, areas=()):
        self.begun = (what, tuple(areas))

    def show_levels(self, levels):
        self.levels = levels

    def write(self, progress):
        self.n_written += 1
        if progress.region is not None:
            self.labels[progress.region.index][progress.region.window] = progress.labels

    def redraw(self):
        self.n_drawn += 1

    def finished(self):
        self.n_finished += 1


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


def adjust(session, focus=None, seen=None, **settings):
    asked = Adjustment(settings=SegmentSettings(**settings), focus=focus, seen=seen)
    session.predictions.adjust(asked)


def map_of(qtbot, session):
    with qtbot.waitSignal(session.predictions.mapped) as made:
        session.predictions.make_map()
    return made.args[1]


class Slowly:
    """An array that takes its time to be read, and counts how often it is."""

    def __init__(self, array, seconds=0.0):
        self._array, self.shape, self.dtype = array, array.shape, array.dtype
        self.n_reads, self.seconds = 0, seconds

    def __getitem__(self, selection):
        self.n_reads += 1
        time.sleep(self.seconds)
        return self._array[selection]


def test_the_objects_reach_the_target(qtbot, session, image):
    segmented = []
    session.predictions.segmented.connect(lambda: segmented.append(True))
    canvas = segment(qtbot, session, image)
    np.testing.assert_array_equal(canvas.labels > 0, image.array > 0)
    assert len(np.unique(canvas.labels)) == 17
    assert canvas.n_finished == 1
    assert segmented == [True]
    assert "Found 16 objects in 'squares'" in session.message[1]
    foreground = map_of(qtbot, session)
    np.testing.assert_allclose(foreground, image.array > 0, atol=0.01)


def test_the_map_of_a_stack_is_made_plane_by_plane(qtbot, session):
    image = make_image(np.stack([squares(), squares()[::-1], 0 * squares()]), "zyx")
    canvas = segment(qtbot, session, image)
    np.testing.assert_array_equal(canvas.labels > 0, image.array > 0)
    foreground = map_of(qtbot, session)
    assert foreground.chunks[0] == (1, 1, 1)
    np.testing.assert_allclose(np.asarray(foreground), image.array > 0, atol=0.01)


def test_cancel_answers_within_a_second_and_keeps_what_is_done(qtbot, session):
    slow = Slowly(np.tile(squares(), (4, 4)))
    image = make_image(slow, "yx")
    canvas = Canvas(image)
    slow.seconds = 0.02
    asked = request(image, canvas, SegmentSettings(tile_size=16), focus=(0.0, 0.0))
    session.predictions.segment(asked)
    qtbot.waitUntil(lambda: canvas.n_written > 2, timeout=20_000)
    start = time.monotonic()
    session.cancel()
    assert session.is_stopping
    assert "cancelled" in session.message[1]
    n_written = canvas.n_written
    done(qtbot, session)
    assert time.monotonic() - start < 1
    assert canvas.n_written == n_written
    assert 0 < np.count_nonzero(canvas.labels) < np.count_nonzero(slow._array)
    assert canvas.n_finished == 0
    n_reads = slow.n_reads
    qtbot.wait(100)
    assert slow.n_reads == n_reads
    session.cancel()  # nothing runs any more
    adjust(session, min_size=1)  # what is done can be worked with
    done(qtbot, session)
    assert np.count_nonzero(canvas.labels)


def test_an_image_with_too_many_channels_leaves_a_sentence(qtbot, session):
    image = make_image(np.zeros((5, 32, 32), np.uint8), "cyx", name="five")
    segment(qtbot, session, image)
    assert session.message[0] == "error"
    assert "'five' has 5 channels" in session.message[1]


@pytest.mark.parametrize(
    "error", [RuntimeError("mat1 and mat2 shapes"), torch.OutOfMemoryError("out of memory")]
)
def test_an_error_in_the_network_leaves_a_sentence_that_stays(qtbot, session, image, error):
    def fail(*_):
        raise error

    hook = session.model.network.register_forward_pre_hook(fail)
    canvas = segment(qtbot, session, image)
    qtbot.wait(50)
    assert session.message[0] == "error"
    assert len(session.message[1]) > 40
    assert canvas.n_finished == 0
    hook.remove()
    assert segment(qtbot, session, image).n_finished == 1  # nothing is stuck


def test_sliders_act_without_running_the_network(qtbot, session, image):
    image = make_image(Slowly(image.array), "yx", name="squares")
    canvas = segment(qtbot, session, image)
    n_reads = image.array.n_reads
    assert n_reads > 0
    adjust(session, min_size=65)
    done(qtbot, session)
    assert not canvas.labels.any()
    assert session.message[1] == "0 objects with these settings."
    adjust(session, min_size=64)
    done(qtbot, session)
    assert canvas.labels.max() == 16
    adjust(session, what="classes")
    done(qtbot, session)
    assert set(np.unique(canvas.labels)) == {0, 1}
    assert image.array.n_reads == n_reads
    assert canvas.n_finished == 4


def test_of_many_moves_of_a_slider_the_last_one_counts(qtbot, session, image):
    canvas = segment(qtbot, session, image)
    for min_size in range(66):
        adjust(session, min_size=min_size)
    done(qtbot, session)
    assert not canvas.labels.any()
    assert session.predictions.current.settings.min_size == 65


def test_a_slider_moved_while_segmenting_acts_afterwards(qtbot, session, image):
    canvas = Canvas(image)
    session.predictions.segment(request(image, canvas))
    adjust(session, min_size=65)
    done(qtbot, session)
    qtbot.waitUntil(lambda: not canvas.labels.any())
    done(qtbot, session)
    assert session.predictions.current.settings.min_size == 65


def test_sliders_before_anything_was_segmented_do_nothing(qtbot, session):
    adjust(session, min_size=65)
    qtbot.wait(20)
    assert not session.predictions.is_at_work


# Parts of an image


@dataclass(frozen=True)
class Box:
    box: tuple


LEFT = Box((slice(0, 64), slice(0, 32)))
TOP = Box((slice(0, 32), slice(0, 64)))


def test_only_a_part_is_segmented_and_the_rest_is_not_touched(qtbot, session, image):
    canvas = Canvas(image)
    canvas.labels[:] = -1
    session.predictions.segment(request(image, canvas, areas=(LEFT,)))
    done(qtbot, session)
    assert canvas.begun == ("objects", (LEFT,))
    np.testing.assert_array_equal(canvas.labels[:, :32] > 0, image.array[:, :32] > 0)
    assert (canvas.labels[:, 32:] == -1).all()
    assert session.message[1].startswith("Found 8 objects in parts of 'squares'")


def test_knobs_act_on_all_parts_that_were_segmented(qtbot, session, image):
    canvas = Canvas(image)
    for part in (LEFT, TOP, TOP):
        session.predictions.segment(request(image, canvas, areas=(part,)))
        done(qtbot, session)
    assert session.predictions.current.areas == (LEFT, TOP)
    canvas.labels[:] = -1
    adjust(session, what="classes")
    done(qtbot, session)
    expected = np.where(image.array > 0, 1, 0)
    expected[32:, 32:] = -1
    np.testing.assert_array_equal(canvas.labels, expected)


def test_a_part_of_what_is_segmented_already_leaves_the_knobs_everything(qtbot, session, image):
    canvas = segment(qtbot, session, image)
    session.predictions.segment(request(image, canvas, areas=(LEFT,)))
    done(qtbot, session)
    canvas.labels[:] = -1
    adjust(session, min_size=1)
    done(qtbot, session)
    np.testing.assert_array_equal(canvas.labels > 0, image.array > 0)


@pytest.mark.parametrize("other", [{"augmentation": "flips"}, {"precision": "full"}])
def test_parts_that_another_network_has_seen_are_not_joined(qtbot, session, image, other):
    canvas = Canvas(image)
    for part, settings in ((LEFT, {}), (TOP, other)):
        asked = request(image, canvas, SegmentSettings(**settings), areas=(part,))
        session.predictions.segment(asked)
        done(qtbot, session)
    assert session.predictions.current.areas == (TOP,)


def test_what_is_seen_comes_first_and_then_everything(qtbot, session, image):
    canvas = segment(qtbot, session, image)
    regions = []
    canvas.write = lambda progress: regions.append(progress.region)
    seen = Box((slice(10, 30), slice(20, 40)))
    adjust(session, seen=seen, min_size=1)
    done(qtbot, session)
    assert regions[0].window == seen.box
    whole = np.zeros((64, 64), bool)
    for region in regions[1:]:
        whole[region.window] = True
    assert whole.all()
    assert session.message[1] == "16 objects with these settings."


def test_a_slice_of_a_stack_that_is_seen_comes_first(qtbot, session):
    image = make_image(np.stack([squares()] * 3), "zyx")
    canvas = segment(qtbot, session, image)
    regions = []
    canvas.write = lambda progress: regions.append(progress.region)
    adjust(session, focus=(2.0, 5.0, 5.0), min_size=1)
    done(qtbot, session)
    assert [region.index for region in regions] == [(2,), (1,), (0,)]


# Drawing


def test_many_regions_are_drawn_together(qtbot, session, image):
    """The first one at once; the others when some time has passed."""
    canvas = Canvas(image)
    for _ in range(50):
        session.predictions._show(canvas, FakeProgress)
    assert (canvas.n_written, canvas.n_drawn) == (50, 1)
    qtbot.waitUntil(lambda: canvas.n_drawn == 2)
    qtbot.wait(2 * REDRAW_MS)
    assert canvas.n_drawn == 2  # nothing new, nothing to draw


class FakeProgress:
    region = None


def test_after_the_end_nothing_more_is_drawn(qtbot, session, image):
    canvas = segment(qtbot, session, image)
    n_drawn = canvas.n_drawn
    qtbot.wait(2 * REDRAW_MS)
    assert (canvas.n_drawn, canvas.n_finished) == (n_drawn, 1)


def test_a_new_segmentation_waits_until_the_knob_has_been_given_up(qtbot, session):
    image = make_image(np.stack([squares()] * 40), "zyx")
    canvas = segment(qtbot, session, image)
    adjust(session, min_size=65)
    assert session.predictions.is_at_work
    assert session.predictions.segment(request(image, canvas))
    qtbot.waitUntil(lambda: session.is_busy)
    assert not session.predictions.is_at_work
    done(qtbot, session)
    np.testing.assert_array_equal(canvas.labels > 0, image.array > 0)


# How it is done


def test_the_plan_is_told_while_it_runs_and_afterwards(qtbot, session, image):
    with qtbot.waitSignal(session.predictions.how_changed):
        segment(qtbot, session, image)
    sentence, plan = session.predictions.how
    assert sentence.startswith("Exact, ")
    assert plan.startswith(sentence)
    assert "Why: " in plan


def test_what_was_done_about_the_memory_is_said_once(session):
    said = []
    session.said.connect(lambda kind, sentence: said.append((kind, sentence)))
    news = "Segmenting in smaller pieces, as the memory had run out"
    session.predictions._heard = {"Segmenting"}
    for message in ("Segmenting", news, news):
        session.predictions._listen(SimpleNamespace(message=message, plan=None), 1)
    assert said == [("info", f"{news}.")]


# Several models


def test_the_mean_of_several_models(qtbot, session, image, make_tiny_model, tmp_path):
    """Two models that see no object outvote the one that does."""
    blind = make_tiny_model("blind")
    with torch.no_grad():
        blind.network.head.bias[:2] = torch.tensor([0.0, -30.0])
    for name in ("one", "two"):
        save_model(blind, tmp_path / f"{name}.safetensors")
    others = tuple(str(tmp_path / f"{name}.safetensors") for name in ("one", "two"))
    canvas = Canvas(image)
    session.predictions.segment(request(image, canvas, others=others))
    done(qtbot, session)
    assert session.message[1].startswith("Found 0 objects"), session.message
    assert [model.description.name for model in session.predictions.current.models] == [
        "tiny", "blind", "blind",
    ]  # fmt: skip
    np.testing.assert_allclose(map_of(qtbot, session)[6, 6], 1 / 3, atol=0.01)
    assert session.predictions.how[0].endswith("Mean of 3 models.")


def test_models_of_different_kinds_leave_a_sentence(
    qtbot, session, image, make_tiny_model, tmp_path
):
    save_model(make_tiny_model("three", n_classes=3), tmp_path / "three.safetensors")
    others = (str(tmp_path / "three.safetensors"),)
    session.predictions.segment(request(image, Canvas(image), others=others))
    done(qtbot, session)
    assert session.message[0] == "error"
    assert "cannot be averaged" in session.message[1]


# Images too big for the memory


@pytest.fixture
def big(session, monkeypatch):
    """An image that counts as big, and a request for it."""
    monkeypatch.setattr("napari_unet.predictions.BIG", 1000)
    image = make_image(np.tile(squares(), (20, 20)), "yx", name="big")

    def ask(canvas, **settings):
        chosen = SegmentSettings(**settings)
        folder = session.predictions.folder_for(image, "the-key", chosen)
        return request(image, canvas, chosen, folder=folder)

    return image, ask


def test_a_big_result_is_kept_in_the_project(qtbot, session, big):
    image, ask = big
    canvas = Canvas(image)
    asked = ask(canvas)
    name = f"the-key-{session.model.id}.zarr"
    assert asked.folder == session.project.folder / "segmentations" / name
    session.predictions.segment(asked)
    done(qtbot, session)
    assert session.message[1].startswith("Found 6,400 objects"), session.message
    full, coarse = canvas.levels
    np.testing.assert_array_equal(full[:] > 0, image.array > 0)
    np.testing.assert_array_equal(coarse[:], full[::2, ::2])
    assert "would not fit" in session.predictions.why_no_map


def test_other_networks_get_another_folder_and_small_images_none(session, image, big):
    _, ask = big
    folders = [ask(None).folder, ask(None, what="classes", min_size=7).folder]
    folders += [ask(None, augmentation="flips").folder, ask(None, precision="full").folder]
    assert folders[0] == folders[1]
    assert len(set(folders)) == 3
    with_others = session.predictions.folder_for(big[0], "the-key", SegmentSettings(), ("a",))
    assert with_others not in folders
    small = make_image(np.zeros((10, 10)), "yx")
    assert session.predictions.folder_for(small, "the-key", SegmentSettings()) is None


def test_a_big_result_that_was_stopped_goes_on_where_it_stopped(qtbot, session, big):
    image, ask = big
    said = []
    session.said.connect(lambda kind, sentence: said.append(sentence))
    canvas = Canvas(image)
    session.predictions.segment(ask(canvas))
    qtbot.waitUntil(lambda: canvas.n_written > 0, timeout=20_000)
    session.cancel()
    done(qtbot, session)
    assert not any("where it stopped" in sentence for sentence in said)
    session.predictions.segment(ask(canvas))
    done(qtbot, session)
    (sentence,) = [sentence for sentence in said if "where it stopped" in sentence]
    assert sentence.endswith("% of it is done already.")
    np.testing.assert_array_equal(canvas.levels[0][:] > 0, image.array > 0)


def test_what_the_network_says_of_a_big_image_is_there_before_its_objects(qtbot, session, big):
    image, ask = big
    canvas, seen = Canvas(image), []

    def write(progress):
        if progress.plan is None and not seen:  # the first objects; the network is done
            seen.append(np.array(canvas.levels[0]))

    canvas.write = write
    session.predictions.segment(ask(canvas))
    done(qtbot, session)
    (shown,) = seen
    assert (shown > 0).mean() == pytest.approx((image.array > 0).mean(), abs=0.01)


def test_knobs_act_on_a_big_result_on_disk(qtbot, session, big):
    image, ask = big
    canvas = Canvas(image)
    session.predictions.segment(ask(canvas))
    done(qtbot, session)
    adjust(session, min_size=65, seen=Box((slice(0, 100), slice(0, 100))))
    done(qtbot, session)
    assert not canvas.levels[0][:].any()
    assert "levels" in vars(canvas)
    del canvas.levels
    adjust(session, what="classes", precision="full")  # whose type takes other files
    done(qtbot, session)
    np.testing.assert_array_equal(canvas.levels[0][:], image.array > 0)
