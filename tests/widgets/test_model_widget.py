"""The Model dock: what is opened, what it says about it, and what it says of bad files."""

import json

import pytest
from qtpy.QtCore import QMimeData, QPoint, QPointF, Qt, QUrl
from qtpy.QtGui import QDragEnterEvent, QDropEvent
from qtpy.QtWidgets import QApplication, QDialog, QTextBrowser

from napari_unet.core.model import save_model
from napari_unet.preferences import recent_models, remember_model
from napari_unet.widgets.live import LiveWidget
from napari_unet.widgets.model import ModelWidget


def _url(place):
    return QUrl(place) if "://" in str(place) else QUrl.fromLocalFile(str(place))


def drop(widget, *urls):
    """Drag files over a widget and let go; whether it takes them."""
    mime = QMimeData()
    if urls:
        mime.setUrls([_url(url) for url in urls])
    else:
        mime.setText("words")
    where = (Qt.MouseButton.LeftButton, Qt.KeyboardModifier.NoModifier)
    enter = QDragEnterEvent(QPoint(5, 5), Qt.DropAction.CopyAction, mime, *where)
    QApplication.sendEvent(widget, enter)
    if enter.isAccepted():
        dropped = QDropEvent(QPointF(5, 5), Qt.DropAction.CopyAction, mime, *where)
        QApplication.sendEvent(widget, dropped)
    return enter.isAccepted()


@pytest.fixture
def other_file(make_tiny_model, tmp_path):
    save_model(
        make_tiny_model(
            name="other", segments="cells", channels="phase contrast", licence="CC0",
            source="somebody's bench",
        ),
        tmp_path / "other.safetensors",
    )  # fmt: skip
    return tmp_path / "other.safetensors"


def test_it_says_in_plain_words_what_the_model_is(dock, session, idle, other_file):
    widget = dock(ModelWidget)
    session.open_model(other_file)
    idle(session)
    words = widget.words.text()
    for part in (
        "other", "cells", "2D", "phase contrast", "background, object", "somebody's bench", "CC0",
        "not fine-tuned yet",
    ):  # fmt: skip
        assert part in words
    assert "processor" in widget.device_words.text()
    assert session.model.device.reason in widget.device_words.text()
    assert widget.choice.currentText() == "other"


def test_while_a_model_is_being_opened_nothing_can_be_chosen(viewer, session, idle, qtbot):
    widget = ModelWidget(viewer)
    qtbot.addWidget(widget)
    assert session.is_busy
    assert widget.words.text() == "Opening the model…"
    for part in (widget.choice, widget.open_button, widget.device, widget.card_button):
        assert not part.isEnabled()
    idle(session)
    for part in (widget.choice, widget.open_button, widget.device, widget.card_button):
        assert part.isEnabled()


def test_a_dropped_file_is_opened_and_remembered(dock, session, idle, other_file):
    widget = dock(ModelWidget)
    assert drop(widget, other_file)
    idle(session)
    assert session.model.description.name == "other"
    assert recent_models() == [other_file]
    again = dock(ModelWidget, "again")
    texts = [again.choice.itemText(i) for i in range(again.choice.count())]
    assert other_file.name in texts
    again.choice.setCurrentIndex(0)
    again.choice.activated.emit(texts.index(other_file.name))
    idle(session)
    assert session.model.description.name == "other"


def test_text_that_is_dropped_is_not_taken(dock):
    assert not drop(dock(ModelWidget))


@pytest.mark.parametrize("name", ["photo.png", "model.pt", "model.safetensors", "model.onnx"])
def test_a_bad_file_leaves_a_sentence_that_can_be_seen(dock, session, idle, tmp_path, name):
    live = dock(LiveWidget)
    model = session.model
    (tmp_path / name).write_bytes(b"this is no model")
    drop(live.model, tmp_path / name)
    idle(session)
    assert session.model is model
    assert name in live.status.sentence.text()
    assert not live.status.sentence.isHidden()
    assert "unforeseen" not in live.status.sentence.text()
    assert live.status.sentence.text().endswith(".")
    assert "tiny" in live.model.words.text()
    assert live.model.choice.currentText() == "tiny"


def test_after_a_bad_choice_the_list_shows_the_model_in_use(dock, session, idle, tmp_path):
    bad = tmp_path / "bad.safetensors"
    bad.write_bytes(b"this is no model")
    remember_model(bad)
    widget = dock(ModelWidget)
    at = widget.choice.findData(str(bad))
    widget.choice.setCurrentIndex(at)
    widget.choice.activated.emit(at)
    idle(session)
    assert session.message[0] == "error"
    assert widget.choice.currentText() == "tiny"


def test_a_second_dock_shows_the_model_in_use(dock):
    dock(ModelWidget)
    assert dock(ModelWidget, "again").choice.currentText() == "tiny"


def test_something_from_the_web_that_is_dropped_leaves_a_sentence(dock, session, idle):
    widget = dock(ModelWidget)
    drop(widget, "https://example.org/model.safetensors")
    idle(session)
    assert session.model.description.name == "tiny"
    assert session.message[0] == "error"
    assert "unforeseen" not in session.message[1]


def test_a_file_chosen_in_the_dialog_is_opened(dock, session, idle, click, other_file, monkeypatch):
    widget = dock(ModelWidget)
    monkeypatch.setattr(
        "napari_unet.widgets.model.QFileDialog.getOpenFileName", lambda *_: ("", "")
    )
    click(widget.open_button)
    assert not session.is_busy
    monkeypatch.setattr(
        "napari_unet.widgets.model.QFileDialog.getOpenFileName", lambda *_: (str(other_file), "")
    )
    click(widget.open_button)
    idle(session)
    assert session.model.description.name == "other"


def test_the_card_is_shown(dock, click):
    widget = dock(ModelWidget)
    click(widget.card_button)
    (dialog,) = widget.findChildren(QDialog)
    assert "A tiny model" in dialog.findChild(QTextBrowser).toPlainText()
    dialog.close()


def test_another_device_is_used_or_it_says_why_not(dock, session, idle):
    widget = dock(ModelWidget)
    names = [widget.device.itemData(i) for i in range(widget.device.count())]
    widget.device.activated.emit(names.index("cpu"))
    idle(session)
    assert "you chose the processor" in widget.device_words.text()
    widget.device.activated.emit(names.index("mps"))
    idle(session)
    assert session.message[0] == "error"
    assert "mps" in session.message[1]
    assert session.model is not None


def test_rounds_of_fine_tuning_are_named(dock, session, idle, tiny_model, tmp_path):
    from dataclasses import replace

    from napari_unet.core.model import Round

    entry = Round(
        id="b", parent="a", name="round 1", created="2026-01-01T00:00:00+00:00", settings={},
        scores_before={}, scores_after={}, n_corrected=5, seconds=1.0,
    )  # fmt: skip
    save_model(replace(tiny_model, history=(entry, entry)), tmp_path / "tuned.safetensors")
    widget = dock(ModelWidget)
    session.open_model(tmp_path / "tuned.safetensors")
    idle(session)
    assert "2 rounds of fine-tuning" in widget.words.text()
    assert widget.choice.currentText() == "tiny, round 1"


def test_the_built_in_model_opens_with_one_click(dock, session, idle):
    widget = dock(ModelWidget)
    at = [widget.choice.itemData(i) for i in range(widget.choice.count())].index("nuclei")
    widget.choice.activated.emit(at)
    idle(session)
    assert session.model.description.name == "nuclei"
    assert widget.choice.currentData() == "nuclei"


@pytest.mark.parametrize("content", ["", "not json", json.dumps({"a": 1}), json.dumps([1, None])])
def test_a_damaged_list_of_recent_models_is_no_harm(dock, projects_folder, content):
    projects_folder.mkdir(exist_ok=True)
    (projects_folder / "recent-models.json").write_text(content)
    widget = dock(ModelWidget)
    assert widget.choice.findData("nuclei") >= 0
