"""What training sees, as pictures: of what, when they are made, and how they are drawn."""

from dataclasses import replace

import dask.array as da
import numpy as np
import pytest
from qtpy.QtCore import QPoint, Qt

from napari_unet import previews as previews_module
from napari_unet.core.corrections import IGNORE
from napari_unet.core.errors import CorrectionsError, ImageError
from napari_unet.core.image import make_image
from napari_unet.core.progress import finish
from napari_unet.core.settings import AugmentationSettings, FineTuneSettings
from napari_unet.layers import color_of, stage_of
from napari_unet.previewing import OFF, Picture, PreviewRequest, previewing
from napari_unet.widgets.augmentation import KNOBS, AugmentationForm
from napari_unet.widgets.finetune import FineTuneWidget
from napari_unet.widgets.live import LiveWidget
from napari_unet.widgets.sheet import in_colors

SIZE = 32


@pytest.fixture(autouse=True)
def small_patches(monkeypatch):
    settings = FineTuneWidget.settings
    monkeypatch.setattr(
        FineTuneWidget, "settings", lambda self: replace(settings(self), patch_size=SIZE)
    )


@pytest.fixture
def made(monkeypatch):
    """The requests that were worked on."""
    requests = []
    work = previews_module.previewing

    def counting(request, summaries=None):
        requests.append(request)
        return (yield from work(request, summaries))

    monkeypatch.setattr(previews_module, "previewing", counting)
    return requests


@pytest.fixture
def settled(qtbot):
    """Waits until a preview shows what the form says."""

    def wait(preview):
        def is_settled():
            is_busy = preview._session.previews.is_busy(id(preview))
            return not is_busy and not preview._clock.isActive()

        qtbot.waitUntil(is_settled, timeout=10_000)
        return preview.shown

    return wait


@pytest.fixture
def live(dock, viewer, session, idle, made, squares):
    viewer.add_image(squares, name="squares")
    widget = dock(LiveWidget)
    widget.show()
    return widget


@pytest.fixture
def segmented(live, session, idle):
    live.segment.segment()
    idle(session)
    return live


def paint(live, viewer, session, idle, strokes):
    if stage_of(viewer).corrections() is None:
        live.correct.start()
    layer = stage_of(viewer).corrections().layer
    for position, value in strokes:
        layer.paint(position, value)
    idle(session)


@pytest.fixture
def painted(segmented, viewer, session, idle):
    paint(segmented, viewer, session, idle, [((24, 24), 2), ((16, 32), 1)])
    return segmented


def unfold(widget):
    step = getattr(widget, "finetune", widget)
    step.preview_fold.button.setChecked(True)
    return step.preview


# ---- when


def test_nothing_is_made_while_it_is_closed(painted, made, qtbot):
    assert not painted.finetune.preview_fold.button.isChecked()
    painted.finetune.augmentation.knobs["rotation"].setValue(10)
    qtbot.wait(300)
    assert made == []
    assert painted.finetune.preview.shown is None


def test_nothing_is_made_any_more_when_it_is_closed_again(painted, made, settled, qtbot):
    preview = unfold(painted)
    settled(preview)
    painted.finetune.preview_fold.button.setChecked(False)
    n_made = len(made)
    painted.finetune.augmentation.knobs["rotation"].setValue(10)
    qtbot.wait(300)
    assert len(made) == n_made


def test_a_changed_setting_is_shown_at_once(painted, settled):
    preview = unfold(painted)
    settled(preview)
    assert preview.shown.request.settings == painted.finetune.settings()
    painted.finetune.augmentation.show_settings(OFF)
    painted.finetune.augmentation.changed.emit()
    shown = settled(preview)
    assert shown.request.settings.augmentation == OFF
    for picture in shown.pictures:
        np.testing.assert_array_equal(picture.image, shown.pictures[0].image)
        np.testing.assert_array_equal(picture.target, shown.pictures[0].target)


def test_of_many_changes_the_last_one_wins_and_few_are_worked_on(painted, made, settled, qtbot):
    preview = unfold(painted)
    settled(preview)
    del made[:]
    for strength in np.linspace(0, 20, 100):
        painted.finetune.augmentation.knobs["elastic_sigma"].setValue(float(strength))
    shown = settled(preview)
    assert shown.request.settings.augmentation.elastic_sigma == 20
    assert len(made) < 10


def test_strokes_are_shown_when_they_are_painted(segmented, viewer, session, idle, settled):
    preview = unfold(segmented)
    assert settled(preview).source == "segmented"
    paint(segmented, viewer, session, idle, [((24, 24), 2)])
    assert settled(preview).source == "painted"


def test_two_docks_that_ask_at_once_both_get_an_answer(painted, dock, settled):
    other = dock(FineTuneWidget)
    other.show()
    other.augmentation.knobs["rotation"].setValue(10)
    one, two = unfold(painted), unfold(other)
    assert settled(one).request.settings.augmentation.rotation == 180
    assert settled(two).request.settings.augmentation.rotation == 10


def test_a_dock_that_dies_while_its_preview_is_made_is_not_missed(painted, session, qtbot, viewer):
    widget = FineTuneWidget(viewer)
    widget.show()
    preview = unfold(widget)
    preview._ask()
    widget.close()
    widget.deleteLater()
    del widget
    qtbot.waitUntil(lambda: session.previews._job is None, timeout=10_000)


def test_an_image_that_was_changed_meanwhile_is_not_shown(painted, viewer, made, settled):
    preview = unfold(painted)
    preview._ask()
    viewer.add_image(np.random.default_rng(0).random((64, 64)), name="other")
    stage_of(viewer).choose(viewer.layers["other"])
    painted.finetune.session.image_changed.emit()
    assert settled(preview).request.image.name == "other"


def test_what_takes_long_is_said(painted, settled, qtbot, monkeypatch):
    preview = unfold(painted)
    work, is_held = previews_module.previewing, True

    def slow(request, summaries=None):
        while is_held:
            yield
        return (yield from work(request, summaries))

    monkeypatch.setattr(previews_module, "previewing", slow)
    preview._ask()
    assert preview.words.text() == "Preparing the pictures…"
    assert preview.sheet.isHidden()
    qtbot.waitUntil(lambda: preview.state.text() == "Working…", timeout=5000)
    is_held = False
    settled(preview)
    assert preview.state.text() == ""
    assert not preview.sheet.isHidden()


def test_what_fails_leaves_its_sentence_and_the_next_is_shown(painted, settled, monkeypatch):
    def failing(request, summaries=None):
        yield
        raise ImageError("The file of the image is gone.")

    preview = unfold(painted)
    with monkeypatch.context() as patched:
        patched.setattr(previews_module, "previewing", failing)
        preview._ask()
        settled(preview)
        assert preview.words.text() == "The file of the image is gone."
        assert preview.sheet.isHidden()
    preview._ask()
    assert settled(preview) is not None
    assert "Your corrections" in preview.words.text()


# ---- of what


def test_what_is_painted_is_shown_as_it_is_and_varied(painted, settled):
    preview = unfold(painted)
    shown = settled(preview)
    assert shown.source == "painted"
    assert shown.size == (SIZE, SIZE)
    assert "Your corrections" in preview.words.text()
    first, *others = shown.pictures
    assert len(others) == 5
    y, x = (middle - SIZE // 2 for middle in shown.center)
    part = (slice(y, y + SIZE), slice(x, x + SIZE))
    corrections = stage_of(painted.finetune.stage.viewer).corrections().array()[part]
    np.testing.assert_array_equal(first.target[corrections > 0], corrections[corrections > 0] - 1)
    assert (first.target[corrections == 0] == IGNORE).all()
    pixels = np.asarray(shown.request.image.array)[part]
    assert first.image[0][pixels > 0].min() > 0.9  # as the network gets it
    assert abs(first.image[0][pixels == 0]).max() < 0.1
    for other in others:
        assert not np.array_equal(other.image, first.image)
        assert (other.target != IGNORE).any()
    assert "background" in preview.legend.text()
    assert "object" in preview.legend.text()


def test_the_segmentation_stands_in_for_paint(segmented, settled):
    preview = unfold(segmented)
    shown = settled(preview)
    assert shown.source == "segmented"
    assert "segmentation stands in" in preview.words.text()
    first = shown.pictures[0]
    np.testing.assert_array_equal(first.target == 1, first.image[0] > 0.5)


def test_an_image_alone_is_shown_without_a_target(live, session, idle, settled):
    preview = unfold(live)
    shown = settled(preview)
    assert shown.source == "nothing"
    assert "only the image" in preview.words.text()
    assert preview.legend.isHidden()
    assert all((picture.target == IGNORE).all() for picture in shown.pictures)


def test_other_draws(painted, settled, click):
    preview = unfold(painted)
    before = settled(preview)
    click(preview.draws_button)
    after = settled(preview)
    assert after is not before
    np.testing.assert_array_equal(after.pictures[0].image, before.pictures[0].image)
    for one, other in zip(after.pictures[1:], before.pictures[1:], strict=True):
        assert not np.array_equal(one.image, other.image)


def test_a_grid_bends_with_the_pictures(painted, settled):
    preview = unfold(painted)
    assert not any(picture.lines.any() for picture in settled(preview).pictures)
    preview.grid_box.setChecked(True)
    first, *others = (picture.lines for picture in settled(preview).pictures)
    assert first.all(axis=0).any()  # straight
    assert all(lines.any() for lines in others)
    assert not any(lines.all(axis=0).any() for lines in others)


def test_why_there_is_nothing_to_show(dock, viewer, settled, session, idle, made):
    widget = dock(FineTuneWidget)
    widget.show()
    preview = unfold(widget)
    settled(preview)
    assert preview.words.text().startswith("Open a model first")
    assert preview.sheet.isHidden()
    session.open_first_model()
    idle(session)
    settled(preview)
    assert preview.words.text() == "Open an image first."
    assert made == []


def test_an_image_that_does_not_fit_the_model_leaves_a_sentence(live, viewer, settled):
    viewer.add_image(np.zeros((64, 64, 3), np.uint8), rgb=True, name="colours")
    stage_of(viewer).choose(viewer.layers["colours"])
    preview = unfold(live)
    settled(preview)
    assert "3 channels" in preview.words.text()
    assert preview.sheet.isHidden()


# ---- stacks, volumes, big images


def test_the_slice_in_view_of_a_stack(dock, viewer, session, idle, squares, settled, qtbot, made):
    stack = np.stack([squares, squares.T // 2, squares])
    viewer.add_image(stack, name="stack")
    live = dock(LiveWidget)
    live.show()
    viewer.dims.set_current_step(0, 0)
    preview = unfold(live)
    assert settled(preview).index == (0,)
    viewer.dims.set_current_step(0, 1)
    qtbot.waitUntil(lambda: settled(preview).index == (1,), timeout=5000)
    assert "z\u00a01" in preview.words.text()
    paint(live, viewer, session, idle, [((2, 24, 24), 2)])
    shown = settled(preview)  # the nearest that is painted
    assert (shown.index, shown.source) == ((2,), "painted")


def request_for(model, array, axes, **others):
    image = make_image(array, axes)
    others.setdefault("focus", tuple(n / 2 for n in image.label_shape))
    settings = FineTuneSettings(patch_size=SIZE)
    return PreviewRequest(model=model, image=image, key="k", settings=settings, **others)


def test_only_a_part_of_a_big_image_is_read(tiny_model):
    n_read = []

    def block(block_info=None):
        n_read.append(1)
        return np.full((256, 256), 7, np.uint16)

    big = da.map_blocks(block, chunks=((256,) * 32, (256,) * 32), dtype=np.uint16)
    meta_calls = len(n_read)
    summaries = {"k": np.array([[0, 10]], np.uint16)}
    shown = finish(previewing(request_for(tiny_model, big, "yx"), summaries))
    assert shown.center == (4096, 4096)
    assert len(n_read) - meta_calls <= 4
    del n_read[:]
    summaries.clear()
    finish(previewing(request_for(tiny_model, big, "yx"), summaries))
    assert len(n_read) < 64  # its intensities are measured in a few places, ...
    assert list(summaries) == ["k"]
    del n_read[:]
    finish(previewing(request_for(tiny_model, big, "yx"), summaries))
    assert len(n_read) <= 4  # ... once


def test_near_the_border_no_more_of_the_outside_is_shown_than_must_be(tiny_model):
    array = np.arange(64 * 64, dtype=np.float32).reshape(64, 64)
    request = request_for(tiny_model, array, "yx", focus=(-50.0, 900.0))
    assert finish(previewing(request)).center == (SIZE // 2, 64 - SIZE // 2)
    small = request_for(tiny_model, array[:20], "yx")
    shown = finish(previewing(small))
    assert shown.center == (10, 32)
    assert shown.pictures[0].image.shape == (1, SIZE, SIZE)


def test_channels_as_the_model_takes_them(make_tiny_model):
    model = make_tiny_model(in_channels=3)
    colors = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    shown = finish(previewing(request_for(model, colors, "yxc")))
    assert shown.pictures[0].image.shape == (3, SIZE, SIZE)
    one = finish(previewing(request_for(model, colors[..., 0], "yx")))
    first = one.pictures[0].image
    np.testing.assert_array_equal(first[0], first[2])
    two = request_for(model, np.moveaxis(colors[..., :2], -1, 0), "cyx")
    with pytest.raises(CorrectionsError, match="2 channels"):
        finish(previewing(two))


@pytest.fixture
def volume_model(tiny_model):
    from napari_unet.core.networks import UNet, UNetConfig

    config = UNetConfig(dims=3, in_channels=1, out_channels=2, widths=(2, 4), norm="none")
    about = replace(tiny_model.description, dims=3)
    return replace(tiny_model, network=UNet(config).eval(), config=config, description=about)


def test_a_model_of_volumes_shows_the_slice(volume_model):
    volume = np.broadcast_to(np.arange(20, dtype=np.float32)[:, None, None], (20, 64, 64))
    corrections = np.zeros(volume.shape, np.uint8)
    corrections[12, 30:34, 30:34] = 2
    request = request_for(volume_model, volume, "zyx", corrections=corrections)
    request = replace(request, is_painted=True, focus=(11.0, 32.0, 32.0))
    shown = finish(previewing(request))
    assert shown.index == (12,)
    assert len(shown.size) == 3
    first = shown.pictures[0]
    assert first.image.shape == (1, *shown.size[1:])
    assert len(np.unique(first.image)) == 1  # one slice
    assert (first.target == 1).sum() == 16
    with pytest.raises(ImageError, match="z axis"):
        finish(previewing(request_for(volume_model, volume[0], "yx")))


def test_of_a_network_without_padding_only_what_it_answers_for_is_marked(tiny_model):
    from torch import nn

    model = replace(tiny_model, network=nn.Conv2d(1, 2, 9).eval())
    labels = np.ones((128, 128), np.uint8)
    array = np.zeros((128, 128), np.float32)
    shown = finish(previewing(request_for(model, array, "yx", labels=labels, what="classes")))
    assert shown.size == (SIZE + 8, SIZE + 8)
    expected = np.full(shown.size, IGNORE, np.uint8)
    expected[4:-4, 4:-4] = 1
    for picture in shown.pictures:
        np.testing.assert_array_equal(picture.target, expected)


def test_labels_of_classes_stand_in_as_classes(tiny_model):
    array = np.zeros((64, 64), np.float32)
    labels = np.zeros((64, 64), np.uint8)
    labels[20:40, 20:40] = 3
    shown = finish(previewing(request_for(tiny_model, array, "yx", labels=labels, what="classes")))
    assert set(np.unique(shown.pictures[0].target)) == {0, 3}
    shown = finish(previewing(request_for(tiny_model, array, "yx", labels=labels)))
    assert set(np.unique(shown.pictures[0].target)) == {0, 1}


# ---- how it is drawn


def picture(values, target=IGNORE, lines=0):
    shape = values.shape[1:]
    return Picture(
        values.astype(np.float32), np.full(shape, target, np.uint8), np.full(shape, lines, np.uint8)
    )


def test_all_pictures_are_on_the_scale_of_the_first():
    ramp = np.tile(np.linspace(0, 1, 64), (1, 64, 1))
    first, brighter, darker = in_colors(
        [picture(ramp), picture(ramp + 0.3), picture(ramp / 2)], True
    )
    assert first.shape == (64, 64, 3)
    assert (first.min(), first.max()) == (0, 255)
    assert brighter.min() == pytest.approx(0.3 * 255, abs=5)
    assert darker.max() == pytest.approx(0.5 * 255, abs=5)


def test_a_constant_image_can_be_drawn():
    (drawn,) = in_colors([picture(np.ones((2, 8, 8)))], True)
    assert drawn.shape == (8, 8, 3)


def test_classes_have_the_colours_of_the_corrections():
    values = np.zeros((1, 16, 16))
    values[:, 8:] = 1
    drawn = picture(values)
    drawn.target[2:8, 2:8] = 1
    drawn.target[10:14, 2:8] = 0
    (colors,) = in_colors([drawn], True)
    for row, painted in ((2, 2), (10, 1)):
        color = tuple(bytes.fromhex(color_of(painted)[1:7]))
        assert tuple(colors[row, 4]) == color  # an outline
        inside = colors[row + 2, 4].astype(int)
        plain = in_colors([picture(values)], True)[0][row + 2, 4].astype(int)
        np.testing.assert_allclose(inside, 0.7 * plain + 0.3 * np.array(color), atol=1)
    untouched = drawn.target == IGNORE
    np.testing.assert_array_equal(
        colors[untouched], in_colors([picture(values)], True)[0][untouched]
    )


def test_of_a_segmentation_there_are_outlines_of_objects_only():
    drawn = picture(np.zeros((1, 16, 16)), target=0)
    drawn.target[4:10, 4:10] = 1
    (colors,) = in_colors([drawn], False)
    assert colors.any(axis=2).sum() == 20  # the rim of 6 x 6 px


def test_a_click_enlarges_a_picture_and_another_shows_all(painted, settled, qtbot):
    preview = unfold(painted)
    settled(preview)
    sheet = preview.sheet
    last = sheet._places()[-1][1]
    qtbot.mouseClick(sheet, Qt.MouseButton.LeftButton, pos=last.center())
    assert sheet.enlarged == 5
    assert [(at, place.width()) for at, place in sheet._places()] == [(5, sheet.width())]
    qtbot.mouseClick(sheet, Qt.MouseButton.LeftButton, pos=QPoint(1, 1))
    assert sheet.enlarged is None
    assert len(sheet._places()) == 6
    assert sheet.height() == sheet._places()[-1][1].bottom() + 1
    assert not sheet.grab().toImage().isNull()


# ---- the form


def test_the_form_says_the_defaults(qtbot):
    form = AugmentationForm()
    qtbot.addWidget(form)
    assert form.settings() == AugmentationSettings()
    chosen = AugmentationSettings(elastic_sigma=3.5, color=0.2, elastic_points=4, flips=False)
    other = AugmentationForm(chosen)
    qtbot.addWidget(other)
    assert other.settings() == chosen  # also what it does not offer


@pytest.mark.parametrize("knob", KNOBS, ids=lambda knob: knob.name)
def test_each_knob_is_for_the_setting_of_its_name(knob, qtbot):
    form = AugmentationForm(has_dropout=True)
    qtbot.addWidget(form)
    for value in (knob.low, knob.high):
        with qtbot.waitSignal(form.changed):
            form.knobs[knob.name].setValue((knob.low + knob.high) / 3)
            form.knobs[knob.name].setValue(value)
        assert form.settings() == replace(AugmentationSettings(), **{knob.name: value})
    assert form.knobs[knob.name].toolTip() == knob.tip


def test_dropout_is_offered_only_where_there_is_some(qtbot, painted):
    assert "dropout" not in painted.finetune.augmentation.knobs
    assert painted.finetune.settings().augmentation.dropout == AugmentationSettings().dropout


def test_reset(qtbot, click):
    form = AugmentationForm()
    qtbot.addWidget(form)
    form.knobs["noise"].setValue(0.5)
    form.flips.setChecked(False)
    with qtbot.waitSignal(form.changed):
        click(form.reset_button)
    assert form.settings() == AugmentationSettings()


def test_the_form_says_why_it_is_disabled(qtbot):
    form = AugmentationForm()
    qtbot.addWidget(form)
    form.explain("Training is running.")
    for part in (*form.knobs.values(), form.flips, form.reset_button):
        assert not part.isEnabled()
        assert part.toolTip() == "Training is running."
    form.explain("")
    assert all(part.isEnabled() for part in form.knobs.values())
