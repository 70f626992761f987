"""The Model dock: what is opened, what it says about it, and what it says of bad files."""

import json

import pytest
from qtpy.QtCore import QMimeData, QPoint, QPointF, Qt, QUrl
from qtpy.QtGui import QDragEnterEvent, QDropEvent, QPixmap
from qtpy.QtWidgets import QApplication, QDialog, QTextBrowser

from napari_unet.core.checkpoints.archives import SUFFIXES
from napari_unet.core.model import save_model
from napari_unet.opening import FORMATS
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
    for part in ("other", "cells", "2D", "Not fine-tuned yet"):
        assert part in words
    lines = {row.line.label: row.line.text for row in widget.card.rows}
    assert "phase contrast" in lines["Takes"]
    assert lines["Tells apart"] == "background, object"
    assert lines["From"] == "somebody's bench"
    assert lines["Licence"] == "CC0"
    assert "processor" in widget.device_words.text()
    assert session.model.device.reason in widget.device_words.text()
    assert widget.choice.currentText() == "other"


def test_while_a_model_is_being_opened_nothing_can_be_chosen(viewer, session, idle, qtbot):
    widget = ModelWidget(viewer)
    qtbot.addWidget(widget)
    assert session.is_busy
    assert widget.words.text() == "Opening the model…"
    parts = (
        widget.choice, widget.open_button, widget.folder_button, widget.device,
        widget.about_button, widget.save_button,
    )  # fmt: skip
    for part in parts:
        assert not part.isEnabled()
        assert part.toolTip()
    assert widget.fold.isHidden()
    idle(session)
    for part in parts:
        assert part.isEnabled()
    assert not widget.fold.isHidden()


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
    assert "Download" in session.message[1]


def test_a_folder_that_is_dropped_or_chosen_is_opened(
    dock, session, idle, click, tmp_path, monkeypatch
):
    widget = dock(ModelWidget)
    asked = []
    monkeypatch.setattr(session, "open_model", lambda path, **_: bool(asked.append(path)))
    folder = tmp_path / "package"
    folder.mkdir()
    assert drop(widget, folder)
    chosen = "napari_unet.widgets.model.QFileDialog.getExistingDirectory"
    monkeypatch.setattr(chosen, lambda *_: "")
    click(widget.folder_button)
    monkeypatch.setattr(chosen, lambda *_: str(folder))
    click(widget.folder_button)
    assert asked == [folder, folder]


def test_all_endings_of_models_are_offered(dock, click, monkeypatch):
    widget = dock(ModelWidget)
    filters = []

    def get(parent, title, folder, kinds):
        filters.append(kinds)
        return "", ""

    monkeypatch.setattr("napari_unet.widgets.model.QFileDialog.getOpenFileName", get)
    click(widget.open_button)
    (kinds,) = filters
    for ending in SUFFIXES:
        assert f"*{ending}" in kinds.split(";;")[0].rstrip(")").split("(")[1].split()


@pytest.fixture
def save_as(dock, session, idle, click, monkeypatch):
    """Clicks Save as, and answers the dialog."""

    def save(name, kind):
        widget = dock(ModelWidget)
        asked = []

        def get(parent, title, suggested, kinds):
            asked.append((suggested, kinds))
            return str(name), kind

        monkeypatch.setattr("napari_unet.widgets.model.QFileDialog.getSaveFileName", get)
        click(widget.save_button)
        idle(session)
        return asked[0]

    return save


def test_a_model_is_saved_with_the_ending_of_the_filter(save_as, session, tmp_path):
    kind = next(name for name, ending in FORMATS.items() if ending == ".pth")
    suggested, kinds = save_as(tmp_path / "mine.v2", kind)
    assert suggested == "tiny.safetensors"
    assert kinds.split(";;") == list(FORMATS)
    assert session.message[0] == "done", session.message
    assert (tmp_path / "mine.v2.pth").is_file()


def test_an_ending_that_was_typed_counts(save_as, session, tmp_path):
    save_as(tmp_path / "mine.pth", next(iter(FORMATS)))
    assert (tmp_path / "mine.pth").is_file()
    assert not (tmp_path / "mine.pth.safetensors").exists()


def test_a_file_that_the_dialog_did_not_ask_about_is_not_replaced(save_as, session, tmp_path):
    (tmp_path / "mine.safetensors").write_bytes(b"precious")
    save_as(tmp_path / "mine", next(iter(FORMATS)))
    assert session.message[0] == "error"
    assert (tmp_path / "mine.safetensors").read_bytes() == b"precious"


def test_saving_can_be_given_up(save_as, session):
    save_as("", "")
    assert "saved" not in session.message[1]


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


def test_what_a_model_says_about_itself_is_shown(dock, click):
    widget = dock(ModelWidget)
    click(widget.about_button)
    (dialog,) = widget.findChildren(QDialog)
    assert "A tiny model" in dialog.findChild(QTextBrowser).toPlainText()
    dialog.close()


def test_what_a_model_says_about_itself_loads_and_runs_nothing(
    dock, session, idle, make_tiny_model, tmp_path, click, monkeypatch
):
    opened = []
    monkeypatch.setattr(
        "napari_unet.widgets.about.QDesktopServices.openUrl", lambda link: opened.append(link)
    )
    picture = tmp_path / "picture.png"
    QPixmap(20, 20).save(str(picture))
    card = f"![a]({picture.as_uri()})\n\n<img src='{picture.as_uri()}'> [b](https://example.org)"
    model = make_tiny_model()
    save_model(model.described(card=card), tmp_path / "card.safetensors")
    widget = dock(ModelWidget)
    session.open_model(tmp_path / "card.safetensors")
    idle(session)
    click(widget.about_button)
    (dialog,) = widget.findChildren(QDialog)
    browser = dialog.findChild(QTextBrowser)
    assert browser.loadResource(2, QUrl(picture.as_uri())) is None
    assert "<img src=" in browser.toPlainText()  # as it stands there
    browser.anchorClicked.emit(QUrl(picture.as_uri()))
    assert opened == []
    browser.anchorClicked.emit(QUrl("https://example.org"))
    assert opened == [QUrl("https://example.org")]
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
