"""The card of a model: what it shows, what may be changed, and the questions before opening."""

import zipfile
from dataclasses import replace
from html import escape
from pathlib import Path

import numpy as np
import pytest
from qtpy.QtCore import QPoint, QPointF, Qt
from qtpy.QtGui import QWheelEvent
from qtpy.QtWidgets import QApplication, QLabel, QLineEdit

from napari_unet.core.checkpoints.card import Line, Option
from napari_unet.core.errors import ImageError, ModelFileError
from napari_unet.core.fingerprint import Guess, Proposal
from napari_unet.core.model import load_model, save_model
from napari_unet.opening import Explained, Question
from napari_unet.widgets.asking import ChoiceDialog, TrustDialog, ask
from napari_unet.widgets.card import Card
from napari_unet.widgets.live import LiveWidget
from napari_unet.widgets.model import ModelWidget
from napari_unet.widgets.plainly import safe_tip

FIXTURES = Path(__file__).resolve().parents[1] / "fixtures" / "checkpoints"
MILESIAL = FIXTURES / "milesial" / "d_transposed.pt"
JVANVUGT = FIXTURES / "jvanvugt" / "valid.pt"
HOSTILE = "<img src=x><b>fine</b>\x1b[31m\n" + "x" * 300


@pytest.fixture
def opened(dock, session, idle):
    """A Model dock with a model of somebody else."""

    def open_it(path, kind=ModelWidget):
        widget = dock(kind)
        assert session.open_model(path)
        idle(session)
        assert session.message[0] != "error", session.message
        return widget if kind is ModelWidget else widget.model

    return open_it


def row_of(widget, name):
    (row,) = (row for row in widget.card.rows if row.line.name == name)
    return row


def choose(row, value):
    """Choose an option as with the mouse."""
    at = [one.value for one in row.line.options].index(value)
    row.value.setCurrentIndex(at)
    row.value.activated.emit(at)


def write(row, text):
    """Type a text and leave the field."""
    row.value.setText(text)
    row.value.editingFinished.emit()


def test_every_line_is_shown_with_its_mark(opened, session):
    widget = opened(JVANVUGT)
    lines = session.explained.lines
    assert [row.line for row in widget.card.rows] == list(lines)
    marks = {row.line.label: row.mark.text() for row in widget.card.rows}
    assert marks["Network"] == "from the file"
    assert marks["Intensities"] == marks["Borders of the image"] == "assumed"
    n_assumed = sum(line.state == "assumed" for line in lines)
    assert f"{n_assumed} assumed" in widget.fold.button.text()


def test_a_choice_with_a_long_label_stands_below_it(opened):
    widget = opened(JVANVUGT)
    widget.resize(370, 900)
    widget.show()
    QApplication.processEvents()
    row = row_of(widget, "pooling")
    assert max(len(option.text) for option in row.line.options) < 10
    assert row.value.y() >= row.label.y() + row.label.height()
    assert row.value.width() > 1.5 * row_of(widget, "class_names").value.width()


def test_the_trust_dialog_says_why_only_once(viewer, session, qtbot):
    question = Question(
        kind="trust", source="net.pt", sentence="It carries a program: because. Beware.",
        sha256="0" * 64, program="a program", reason="because",
    )  # fmt: skip
    parent = ModelWidget(viewer)
    qtbot.addWidget(parent)
    texts = [label.text() for label in TrustDialog(question, session, parent).findChildren(QLabel)]
    assert "Why: because" in texts
    assert not any("Beware" in text for text in texts)


def test_it_is_open_when_something_was_assumed_and_else_folded(opened, session, idle, tiny_file):
    widget = opened(JVANVUGT)
    assert widget.fold.button.isChecked()
    session.open_model(tiny_file)
    idle(session)
    assert not widget.fold.button.isChecked()
    assert widget.fold.button.text() == "What I understood"


def test_it_folds_once_when_there_is_a_result_to_look_at(opened, session):
    widget = opened(JVANVUGT)
    session.predictions.segmented.emit()
    assert not widget.fold.button.isChecked()
    widget.fold.button.click()
    session.predictions.segmented.emit()
    assert widget.fold.button.isChecked()


def test_an_option_is_changed_and_remembered(opened, session, idle):
    widget = opened(JVANVUGT)
    choose(row_of(widget, "padding"), "same")
    idle(session)
    assert session.model.config.padding == "same"
    row = row_of(widget, "padding")
    assert (row.mark.text(), row.value.currentText()[:6]) == ("your choice", "padded")
    assert "Save" not in session.message[1]
    assert load_model(JVANVUGT, "cpu").config.padding == "same"


def test_what_is_changed_of_a_model_of_ours_must_be_saved(opened, session, idle, tiny_file):
    widget = opened(tiny_file)
    write(row_of(widget, "pixel_size"), "0.5")
    idle(session)
    assert session.model.description.pixel_size == 0.5
    assert "Save the model" in session.message[1]


def test_names_and_pixel_size_are_changed(opened, session, idle):
    widget = opened(JVANVUGT)
    write(row_of(widget, "class_names"), " ground ,cell")
    idle(session)
    write(row_of(widget, "pixel_size"), "0,5")
    idle(session)
    about = load_model(JVANVUGT, "cpu").description
    assert about.class_names == ("ground", "cell")
    assert about.pixel_size == 0.5
    assert row_of(widget, "pixel_size").value.text() == "0.5"
    write(row_of(widget, "pixel_size"), "")
    idle(session)
    assert session.model.description.pixel_size is None


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("class_names", "one"), ("class_names", "a, a"), ("class_names", "a, "),
        ("pixel_size", "wide"), ("pixel_size", "-1"), ("pixel_size", "inf"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_said_and_taken_back(opened, session, name, text):
    widget = opened(JVANVUGT)
    row, model = row_of(widget, name), session.model
    before = row.value.text()
    write(row, text)
    assert session.model is model
    assert not session.is_busy
    assert session.message[0] == "error"
    assert row.value.text() == before


def test_showing_changes_nothing(opened, session, idle):
    widget = opened(JVANVUGT)
    model = session.model
    session.model_changed.emit()
    session.job_changed.emit()
    for row in widget.card.rows:
        if isinstance(row.value, QLineEdit):
            row.value.editingFinished.emit()  # the field was left as it was
    choose(row_of(widget, "padding"), "valid")  # as it is
    assert not session.is_busy
    assert session.model is model


def test_scrolling_past_chooses_nothing(opened):
    row = row_of(opened(JVANVUGT), "padding")
    before = row.value.currentIndex()
    row.value.setFocus()
    for way in (120, -120):
        event = QWheelEvent(
            QPointF(5, 5), QPointF(5, 5), QPoint(), QPoint(0, way), Qt.MouseButton.NoButton,
            Qt.KeyboardModifier.NoModifier, Qt.ScrollPhase.NoScrollPhase, False,
        )  # fmt: skip
        QApplication.sendEvent(row.value, event)
    assert row.value.currentIndex() == before


def test_a_change_that_the_network_does_not_allow_is_taken_back(opened, session, idle, monkeypatch):
    widget = opened(JVANVUGT)

    def refuse(*_):
        raise ModelFileError("No. Choose another.")
        yield

    monkeypatch.setattr("napari_unet.session.changing", refuse)
    choose(row_of(widget, "padding"), "same")
    idle(session)
    assert session.message == ("error", "No. Choose another.")
    assert row_of(widget, "padding").value.currentText().startswith("unpadded")


def test_while_a_job_runs_nothing_can_be_changed_and_it_says_why(opened, session, idle):
    widget = opened(JVANVUGT)
    session.open_model(JVANVUGT)
    for row in widget.card.rows:
        if row.can_change:
            assert not row.value.isEnabled()
            assert "is running" in row.value.toolTip()
    idle(session)
    assert all(row.value.isEnabled() for row in widget.card.rows)


# ---- text from files


def hostile_lines():
    options = (Option(value=1, text=HOSTILE), Option(value=2, text="<b>two</b>"))
    return (
        Line(label="<b>Label</b>", text=HOSTILE),
        Line(label="b", text=HOSTILE, name="b", options=options, value=1),
        Line(label="c", text=HOSTILE, name="class_names", kind="text", value=[HOSTILE, "d"]),
    )


def test_text_from_a_file_is_never_rich_and_never_widens_the_dock(qtbot):
    card = Card()
    qtbot.addWidget(card)
    card.show_explained(Explained(lines=hostile_lines(), notes=(HOSTILE,)))
    card.give_reasons("", "")
    card.resize(330, 600)
    card.show()
    for label in card.findChildren(QLabel):
        assert label.textFormat() == Qt.TextFormat.PlainText or "<" not in label.text()
        assert "\x1b" not in label.text()
        assert "\n" not in label.text()
    assert card.minimumSizeHint().width() <= 330
    for row in card.rows:
        assert "<img" not in row.value.toolTip()
    assert safe_tip("<b>") == f"<span>{escape('<b>')}</span>"


def test_nothing_is_cut_off_at_the_usual_width(opened, viewer, qtbot):
    widget = opened(JVANVUGT)
    widget.resize(352, 900)
    widget.show()
    qtbot.waitExposed(widget)
    qtbot.wait(50)
    card = widget.card
    assert card.minimumSizeHint().width() <= 334
    for row in card.rows:
        for part in (row.label, row.value, row.mark):
            at = part.mapTo(widget, QPoint(0, 0)).x()
            assert at >= 0
            assert at + part.width() <= widget.width()
        if not row.can_change:
            assert row.value.height() >= row.value.heightForWidth(row.value.width())
        assert row.mark.width() >= row.mark.sizeHint().width()


def test_the_window_may_be_narrow(opened):
    widget = opened(MILESIAL, LiveWidget)
    assert widget.window().minimumWidth() <= 404


# ---- intensities


def picture():
    return np.random.default_rng(0).integers(0, 255, (48, 48, 3)).astype(np.uint8)


def test_intensities_are_worked_out_once_when_there_is_an_image(opened, viewer, session, idle):
    widget = opened(MILESIAL)
    assert session.explained.proposal is None
    assert not widget.card.guess_button.isEnabled()
    assert "Open an image" in widget.card.guess_button.toolTip()
    viewer.add_image(picture(), rgb=True)
    assert session.busy == "Working out the intensities"
    idle(session)
    assert session.explained.proposal is not None
    assert widget.card.proposal.text().startswith(session.explained.proposal.sentence()[:12])
    assert not widget.card.proposal.isHidden()
    viewer.add_image(picture(), rgb=True)
    assert not session.is_busy
    assert widget.card.guess_button.isEnabled()


def test_a_model_that_is_opened_beside_an_image_asks_it_by_itself(opened, viewer, session):
    viewer.add_image(picture(), rgb=True)
    opened(MILESIAL)
    assert session.explained.proposal is not None


def test_two_docks_ask_once(opened, dock, viewer, session, idle, monkeypatch):
    opened(MILESIAL)
    dock(LiveWidget)
    asked = []
    real = session.guess_intensities
    monkeypatch.setattr(session, "guess_intensities", lambda im: asked.append(im) or real(im))
    viewer.add_image(picture(), rgb=True)
    idle(session)
    assert len(asked) == 1
    assert session.message[0] == "info"


def test_an_image_that_does_not_fit_is_not_asked(opened, viewer, session, monkeypatch):
    def refuse(*_):
        raise ImageError("It has 2 channels.")

    widget = opened(MILESIAL)
    monkeypatch.setattr("napari_unet.core.segmentation.check_image", refuse)
    viewer.add_image(picture(), rgb=True)
    assert not session.is_busy
    assert session.message[0] != "error"
    assert not widget.card.guess_button.isEnabled()
    assert "It has 2 channels." in widget.card.guess_button.toolTip()


def test_what_was_chosen_before_is_not_asked_again(opened, viewer, session, idle):
    widget = opened(MILESIAL)
    choose(row_of(widget, "normalization"), "zscore")
    idle(session)
    viewer.add_image(picture(), rgb=True)
    assert not session.is_busy


@pytest.fixture
def proposing(opened, session):
    """The Model dock while a proposal is shown."""

    def show(present, best):
        widget = opened(MILESIAL)
        guess = Guess(value="zscore", text="mean 0, standard deviation 1", score=best)
        found = Proposal(guesses=(guess,), present=present)
        session.explained = replace(session.explained, proposal=found)
        session.model_changed.emit()
        return widget

    return show


def test_a_proposal_is_taken_with_one_click(proposing, session, idle, click):
    widget = proposing(1.5, 0.3)
    assert "mean 0, standard deviation 1" in widget.card.proposal.text()
    click(widget.card.use_button)
    idle(session)
    assert session.model.description.normalization.kind == "zscore"
    assert row_of(widget, "normalization").mark.text() == "your choice"
    assert widget.card.use_button.isHidden()


def test_an_image_that_fits_already_needs_no_change(proposing):
    widget = proposing(0.31, 0.3)
    assert widget.card.use_button.isHidden()
    assert "border-left" not in widget.card.proposal.styleSheet()


def test_a_strange_image_is_a_warning(proposing):
    widget = proposing(5.0, 4.9)
    assert "looks like nothing" in widget.card.proposal.text()
    assert "border-left" in widget.card.proposal.styleSheet()


def test_a_model_that_says_it_all_offers_no_working_out(dock):
    widget = dock(ModelWidget)
    assert widget.card._guess.isHidden()


# ---- questions


@pytest.fixture
def two_models(tmp_path):
    """A file with two networks in it."""
    with zipfile.ZipFile(tmp_path / "<b>two.zip", "w") as archive:
        archive.write(MILESIAL, "first.pt")
        archive.write(JVANVUGT, "<i>second.pt")
    return tmp_path / "<b>two.zip"


def test_which_model_is_asked_and_opened(dock, session, idle, two_models):
    widget, other = dock(ModelWidget), dock(ModelWidget, "other")
    widget.open_file(str(two_models))
    idle(session)
    dialogs = [*widget.findChildren(ChoiceDialog), *other.findChildren(ChoiceDialog)]
    (dialog,) = dialogs
    assert session.model.description.name == "tiny"
    names = [dialog.models.item(at).text() for at in range(2)]
    assert sorted(names) == ["<i>second.pt", "first.pt"]
    dialog.models.setCurrentRow(names.index("<i>second.pt"))
    dialog.accept()
    idle(session)
    assert session.message[0] != "error", session.message
    assert session.model.architecture == "jvanvugt"


def test_nothing_is_opened_if_no_model_is_chosen(dock, session, idle, two_models):
    widget = dock(ModelWidget)
    widget.open_file(str(two_models))
    idle(session)
    widget.findChild(ChoiceDialog).reject()
    assert not session.is_busy
    assert session.model.description.name == "tiny"


QUESTION = Question(
    kind="trust", source="/data/<i>colleague.pt", sentence="It carries <b>a program</b>.",
    sha256="ab" * 32, program="the TorchScript program in it", choose="fold_1",
)  # fmt: skip


@pytest.fixture
def trust(dock, session, monkeypatch):
    """The dialog that asks for trust, and what is opened after it."""
    widget, opened = dock(ModelWidget), []
    monkeypatch.setattr(session, "open_model", lambda *a, **k: bool(opened.append((a, k))))
    session.asked.emit(QUESTION)
    return widget.findChild(TrustDialog), opened


def test_trust_is_asked_for_with_all_that_matters(trust):
    dialog, opened = trust
    texts = [label.text() for label in dialog.findChildren(QLabel)]
    for label in dialog.findChildren(QLabel):
        assert label.textFormat() == Qt.TextFormat.PlainText
    words = " ".join(texts)
    for part in ("<i>colleague.pt", "the TorchScript program in it", "read, change, delete"):
        assert part in words
    assert dialog.sha256.text() == "ab" * 32
    assert dialog.sha256.isReadOnly()
    assert dialog.refuse_button.isDefault()
    assert not dialog.run_button.isDefault()
    assert opened == []


def test_without_trust_nothing_runs(trust, click):
    dialog, opened = trust
    click(dialog.refuse_button)
    assert opened == []


def test_with_trust_this_very_file_is_opened(trust, click):
    dialog, opened = trust
    click(dialog.run_button)
    assert opened == [((QUESTION.source,), {"choose": "fold_1", "trust": QUESTION.sha256})]


def test_one_question_is_asked_once(trust, session, dock):
    dialog, _ = trust
    assert ask(QUESTION, session, dialog.parent()) is None


def test_a_tiny_model_keeps_its_names(tiny_model, tmp_path, opened):
    named = tiny_model.described(class_names=("background", HOSTILE))
    save_model(named, tmp_path / "named.safetensors")
    widget = opened(tmp_path / "named.safetensors")
    assert "\n" not in row_of(widget, "class_names").value.text()
