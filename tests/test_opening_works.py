"""Opening, changing and saving a model as works: what they return, and what may be typed."""

import zipfile
from pathlib import Path

import pytest

from napari_unet.core.checkpoints.archives import SUFFIXES
from napari_unet.core.checkpoints.card import Line, Option, card_of
from napari_unet.core.errors import ModelFileError, TrustNeeded
from napari_unet.core.model import load_model, save_model
from napari_unet.core.progress import finish
from napari_unet.opening import (
    ENDINGS,
    FORMATS,
    Opened,
    Question,
    changing,
    named_ending,
    opening_model,
    option_name,
    plain,
    saving,
    typed,
)
from napari_unet.project import default_project

FIXTURES = Path(__file__).parent / "fixtures" / "checkpoints"
JVANVUGT = FIXTURES / "jvanvugt" / "valid.pt"


def test_the_endings_are_those_of_the_core():
    assert ENDINGS == SUFFIXES


def test_the_formats_have_their_endings_in_their_filters():
    assert all(kind.endswith(f"(*{ending})") for kind, ending in FORMATS.items())
    assert len(set(FORMATS.values())) == len(FORMATS)


def opening(*arguments):
    return finish(opening_model(arguments[0], "cpu", default_project(), *arguments[1:]))


def test_a_model_comes_with_its_lines():
    opened = opening(JVANVUGT)
    assert isinstance(opened, Opened)
    assert opened.explained.lines == card_of(opened.model)
    assert not opened.explained.can_guess  # it keeps no statistics
    assert opening(FIXTURES / "milesial" / "d_transposed.pt").explained.can_guess


def test_several_models_are_a_question(tmp_path):
    path = tmp_path / "two.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("first.pt", "second.pt"):
            archive.write(JVANVUGT, name)
    question = opening(path)
    assert isinstance(question, Question)
    assert (question.kind, len(question.options)) == ("choice", 2)
    assert isinstance(opening(path, question.options[1]), Opened)


def test_a_program_is_a_question_that_remembers_the_first_answer(monkeypatch):
    def refuse(*_, **__):
        raise TrustNeeded("It carries a program.", "ab" * 32, "its program")

    monkeypatch.setattr("napari_unet.core.model.load_model", refuse)
    question = opening("any.pt", "fold_1")
    assert question == Question(
        kind="trust", source="any.pt", sentence="It carries a program.", sha256="ab" * 32,
        program="its program", choose="fold_1",
    )  # fmt: skip


def test_a_change_is_remembered_for_the_file():
    changed = finish(changing(load_model(JVANVUGT, "cpu"), "padding", "same", JVANVUGT))
    assert changed.is_remembered
    assert changed.model.config.padding == "same"
    states = {line.name: line.state for line in changed.explained.lines}
    assert states["padding"] == "chosen"
    again = {line.name: line.state for line in opening(JVANVUGT).explained.lines}
    assert again["padding"] == "chosen"


def test_a_change_of_a_model_of_ours_is_not_remembered_for_the_file_it_once_came_from(tmp_path):
    path = tmp_path / "ours.safetensors"
    save_model(load_model(JVANVUGT, "cpu"), path)
    ours = load_model(path, "cpu")
    assert ours.origin.sha256
    for source in (path, "nuclei", ""):
        changed = finish(changing(ours, "padding", "same", source))
        assert changed.model.config.padding == "same"
        assert not changed.is_remembered
    assert load_model(JVANVUGT, "cpu").config.padding == "valid"


def test_a_format_that_is_not_known_is_refused(tiny_model, tmp_path):
    with pytest.raises(ModelFileError, match=r"\.docx.*\.onnx"):
        finish(saving(tiny_model, tmp_path / "a.docx"))
    path = finish(saving(tiny_model, tmp_path / "a.safetensors"))
    assert load_model(path, "cpu").id == tiny_model.id


@pytest.mark.parametrize(
    ("name", "kind", "expected"),
    [
        ("a", "ONNX (*.onnx)", "a.onnx"),
        ("a.b", "ONNX (*.onnx)", "a.b.onnx"),
        ("a.pth", "ONNX (*.onnx)", "a.pth"),
        ("a", "", "a.safetensors"),
    ],
)
def test_the_ending_of_the_filter_is_added(name, kind, expected):
    assert named_ending(Path("folder", name), kind) == Path("folder", expected)


def test_text_from_files_is_made_harmless():
    assert plain("a\x1b[31m\nb\u202ec\x00") == "a [31m b c"
    assert len(plain("x" * 5000)) == 400


# ---- what may be typed


def choice(*values):
    options = tuple(Option(value=value, text=f"it is {value}") for value in values)
    return Line(label="Kind", text="", name="kind", options=options)


@pytest.mark.parametrize("value", ["same", True, False, 3, 0.1, [1, 2, 4], (1, 2), 255.0])
def test_every_option_can_be_typed(value):
    assert typed(choice("other", value), option_name(value)) == value
    assert typed(choice("other", value), f" {option_name(value).upper()} ") == value


def test_true_is_not_one():
    assert typed(choice(True, 1), "true") is True
    assert typed(choice(True, 1), "1") == 1
    assert typed(choice(True, 1), "1") is not True


def test_what_is_possible_is_listed():
    with pytest.raises(ModelFileError, match=r"'x' is not possible.*same \(it is same\); true"):
        typed(choice("same", True), "x")


@pytest.mark.parametrize(
    ("text", "size"),
    [("0.5", 0.5), ("0,5", 0.5), ("2 µm", 2.0), ("", None), ("none", None), (" unknown ", None)],
)
def test_pixel_sizes(text, size):
    assert typed(Line(label="Pixel size", text="", name="pixel_size", kind="number"), text) == size


@pytest.mark.parametrize("text", ["nan", "-1", "0", "1e999", "one"])
def test_pixel_sizes_that_cannot_be(text):
    with pytest.raises(ModelFileError, match="above 0"):
        typed(Line(label="Pixel size", text="", name="pixel_size", kind="number"), text)


def test_names():
    line = Line(label="Names", text="", name="class_names", kind="text", value=["a", "b"])
    assert typed(line, " ground , cell ") == ["ground", "cell"]
    for text in ("cell", "a,b,c", "a,a", "a,"):
        with pytest.raises(ModelFileError, match="2 different names"):
            typed(line, text)
