"""The command line does what the Python API does, and says on one line what went wrong."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from skimage.io import imread, imsave

import napari_unet as nu
from napari_unet import cli
from napari_unet.cli import segmenting as segmenting_command
from napari_unet.core import segmentation
from napari_unet.core.corrections import corrected_blocks
from napari_unet.core.device import choose_device
from napari_unet.core.errors import TrustNeeded
from napari_unet.core.files import read_image, read_labels
from napari_unet.core.model import Description, Model, weights_id
from napari_unet.core.networks import UNet, UNetConfig
from napari_unet.core.progress import finish
from napari_unet.project import Project

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def model_path(tmp_path_factory):
    """A tiny network with random weights that finds something in `pixels`."""
    config = UNetConfig(widths=(4, 8))
    with torch.random.fork_rng():
        torch.manual_seed(3)
        network = UNet(config).eval().requires_grad_(False)
    description = Description(
        name="tiny", segments="bright spots", licence="CC0-1.0", card="# A card", pixel_size=0.5,
        scores={"spots": {"F1": 0.75}},
    )  # fmt: skip
    model = Model(
        network=network, architecture="unet", config=config, description=description,
        device=choose_device("cpu"), id=weights_id(network),
    )  # fmt: skip
    path = tmp_path_factory.mktemp("model") / "tiny.safetensors"
    nu.save_model(model, path)
    return path


@pytest.fixture(scope="module")
def pixels():
    generator = np.random.default_rng(0)
    noise = generator.normal(100, 10, (2, 60, 70))
    noise[:, 20:35, 10:30] += 400
    return noise.astype(np.uint16)


@pytest.fixture
def image_path(tmp_path, pixels):
    tifffile.imwrite(
        tmp_path / "cells.ome.tif", pixels, photometric="minisblack",
        metadata={"axes": "TYX", "PhysicalSizeX": 0.25, "PhysicalSizeY": 0.25},
    )  # fmt: skip
    return tmp_path / "cells.ome.tif"


def segment(model_path, out, *arguments):
    start = ["segment", "--model", str(model_path), "--device", "cpu", "--out", str(out)]
    return cli.main([*start, *(str(argument) for argument in arguments)])


def error_of(capsys):
    """The one line on stderr, without its beginning."""
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and lines[0].startswith("napari-unet: error: ")
    return lines[0].removeprefix("napari-unet: error: ")


# Start


@pytest.mark.parametrize("command", [[], ["segment"], ["fine-tune"], ["info"], ["demo"]])
def test_help_comes_without_heavy_imports(command):
    code = (
        "import sys, napari_unet.cli as cli\n"
        f"try: cli.main({[*command, '--help']})\n"
        "except SystemExit as end: assert end.code == 0\n"
        "assert not {'torch', 'napari', 'qtpy', 'numpy', 'tifffile'} & set(sys.modules)"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(cli.__file__).parents[2])}
    done = subprocess.run(
        [sys.executable, "-c", code], check=True, env=environment, capture_output=True, text=True
    )
    assert "usage: napari-unet" in done.stdout


def test_help_states_the_defaults_of_the_settings(capsys):
    with pytest.raises(SystemExit):
        cli.main(["fine-tune", "--help"])
    said = " ".join(capsys.readouterr().out.split())
    assert f"training steps (default: {nu.FineTuneSettings().steps})" in said
    assert f"(default: {nu.FineTuneSettings().learning_rate})" in said
    assert "examples:" in said


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        (["segmnt"], "invalid choice"),
        (["segment", "a.tif", "--model", "nuclei"], "--out"),
        (["segment", "a.tif", "--model", "m", "--out", "o", "--threshold", "2"], "threshold must"),
        (["segment", "a.tif", "--model", "m", "--out", "o", "--tile-size", "x"], "tile-size"),
        (["segment", "a/c.tif", "b/c.png", "--model", "m", "--out", "o"], "the same name"),
        (["fine-tune", "--model", "m", "--out", "o", "--image", "a.tif"], "needs its --corr"),
        (["fine-tune", "--model", "m", "--out", "o"], "or --project"),
    ],
)
def test_wrong_use_gives_one_line_and_2(capsys, arguments, match):
    with pytest.raises(SystemExit) as end:
        cli.main(arguments)
    assert end.value.code == 2
    assert match in error_of(capsys)


def test_no_command_shows_the_help(capsys):
    assert cli.main([]) == 2
    assert "usage: napari-unet" in capsys.readouterr().err


# segment


def test_segment_writes_what_the_python_function_finds(
    tmp_path, capsys, model_path, image_path, pixels
):
    assert segment(model_path, tmp_path / "out", image_path, "--min-size", 3) == 0
    image = nu.make_image(pixels, "tyx", pixel_size={"y": 0.25, "x": 0.25})  # as the file says
    expected = nu.segment(
        image, nu.load_model(model_path, "cpu"), nu.SegmentSettings(min_size=3)
    ).labels
    assert 0 < (expected > 0).mean() < 1
    written = tmp_path / "out" / "cells_labels.tif"
    np.testing.assert_array_equal(read_labels(written), expected)
    assert read_image(written).axes == "tyx"
    with tifffile.TiffFile(written) as tif:
        assert 'PhysicalSizeX="0.25"' in tif.ome_metadata
    said = capsys.readouterr()
    assert f"{expected.max()} objects" in said.out
    assert f"1 of 1 images segmented into {tmp_path / 'out'}" in said.out
    assert said.err == ""  # no progress bar where there is no terminal


def test_classes_probabilities_and_axes(tmp_path, model_path, pixels):
    tifffile.imwrite(tmp_path / "a.tif", pixels[0])
    settings = ("--what", "classes", "--probabilities", "--threshold", 0.4, "--axes", "yx")
    assert segment(model_path, tmp_path / "out", tmp_path / "a.tif", *settings) == 0
    result = nu.segment(
        pixels[0],
        nu.load_model(model_path, "cpu"),
        nu.SegmentSettings(what="classes", threshold=0.4),
    )
    classes = read_labels(tmp_path / "out" / "a_classes.tif")
    assert classes.dtype == np.uint8
    np.testing.assert_array_equal(classes, result.classes)
    probabilities = read_image(tmp_path / "out" / "a_probabilities.tif")
    assert probabilities.axes == "cyx"
    np.testing.assert_array_equal(probabilities.array, result.probabilities)


def test_png_in_and_out(tmp_path, model_path, pixels):
    imsave(tmp_path / "a.png", (pixels[0] // 3).astype(np.uint8), check_contrast=False)
    assert segment(model_path, tmp_path, tmp_path / "a.png", "--format", "png") == 0
    expected = nu.segment((pixels[0] // 3).astype(np.uint8), nu.load_model(model_path, "cpu"))
    np.testing.assert_array_equal(imread(tmp_path / "a_labels.png"), expected.labels)


def test_ome_zarr_in_and_out(tmp_path, model_path, image_path):
    pytest.importorskip("ome_zarr")
    assert segment(model_path, tmp_path, image_path, "--format", "ome-zarr") == 0
    assert segment(model_path, tmp_path, image_path) == 0
    np.testing.assert_array_equal(
        read_labels(tmp_path / "cells_labels.ome.zarr"), read_labels(tmp_path / "cells_labels.tif")
    )


def test_the_plan_is_told_and_nothing_is_written(tmp_path, capsys, model_path, image_path):
    code = cli.main(
        ["segment", str(image_path), "--model", str(model_path), "--plan", "--device", "cpu"]
    )
    assert code == 0
    said = capsys.readouterr().out
    assert "Exact, row by row" in said
    assert "Why: all of its" in said
    assert list(tmp_path.iterdir()) == [image_path]


def test_without_a_folder_for_results_there_is_only_the_plan(capsys, model_path, image_path):
    with pytest.raises(SystemExit) as left:
        cli.main(["segment", str(image_path), "--model", str(model_path)])
    assert left.value.code == 2
    assert "--out is needed" in capsys.readouterr().err


def test_several_models_views_and_knobs(tmp_path, model_path, image_path, pixels):
    options = ("--model", model_path, "--augmentation", "flips", "--smoothing", 1, "--link")
    assert segment(model_path, tmp_path / "out", image_path, *options) == 0
    model = nu.load_model(model_path, "cpu")
    image = nu.make_image(pixels, "tyx", pixel_size={"y": 0.25, "x": 0.25})
    settings = nu.SegmentSettings(augmentation="flips", smoothing=1.0, link=True)
    expected = nu.segment(image, [model, model], settings).labels
    written = read_labels(tmp_path / "out" / "cells_labels.tif")
    np.testing.assert_array_equal(written, expected)


def test_a_big_image_goes_on_where_it_was_stopped(
    tmp_path, model_path, image_path, monkeypatch, capsys
):
    assert segment(model_path, tmp_path / "whole", image_path) == 0
    monkeypatch.setattr(segmenting_command, "IN_MEMORY_LIMIT", 1000)
    real = segmentation.finding

    def stopped(*_, **__):
        raise KeyboardInterrupt
        yield

    monkeypatch.setattr(segmentation, "finding", stopped)
    assert segment(model_path, tmp_path / "out", image_path) == 130
    (folder,) = (tmp_path / "out").glob("*.unfinished.zarr")
    monkeypatch.setattr(segmentation, "finding", real)
    assert segment(model_path, tmp_path / "out", image_path) == 0
    assert not folder.exists()
    first, second = (read_labels(tmp_path / name / "cells_labels.tif") for name in ("whole", "out"))
    np.testing.assert_array_equal(first, second)


def test_a_bad_image_does_not_cost_the_others(tmp_path, capsys, model_path, image_path):
    (tmp_path / "bad.tif").write_bytes(b"hello")
    colours = np.zeros((20, 20, 3), np.uint8)
    colours[..., 0] = 9
    imsave(tmp_path / "colours.png", colours, check_contrast=False)
    images = [tmp_path / "bad.tif", tmp_path / "gone.tif", tmp_path / "colours.png", image_path]
    assert segment(model_path, tmp_path / "out", *images) == 1
    said = capsys.readouterr()
    errors = said.err.splitlines()
    assert len(errors) == 3
    assert all(line.startswith("napari-unet: error: ") for line in errors)
    assert "bad.tif" in errors[0] and "gone.tif" in errors[1] and "3 channels" in errors[2]
    assert "1 of 4 images segmented" in said.out and "3 failed" in said.out
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["cells_labels.tif"]


def test_results_are_replaced_only_when_asked(tmp_path, capsys, model_path, image_path):
    output = tmp_path / "cells_labels.tif"
    output.write_bytes(b"precious")
    assert segment(model_path, tmp_path, image_path) == 1
    assert "is there already. Add --overwrite" in error_of(capsys)
    assert output.read_bytes() == b"precious"
    assert segment(model_path, tmp_path, image_path, "--overwrite") == 0
    assert read_labels(output).shape == (2, 60, 70)


def test_patterns_are_expanded_where_the_shell_does_not(tmp_path, model_path, pixels):
    for name in ("b.tif", "a.tif", "[1].tif"):
        tifffile.imwrite(tmp_path / name, pixels[0])
    assert segment(model_path, tmp_path / "out", tmp_path / "?.tif", tmp_path / "[1].tif") == 0
    assert sorted(path.name[0] for path in (tmp_path / "out").iterdir()) == ["[", "a", "b"]
    assert segment(model_path, tmp_path / "out", tmp_path / "*.jpg") == 1


def test_errors_take_one_line(tmp_path, capsys, model_path, image_path, monkeypatch):
    assert segment(tmp_path / "gone.safetensors", tmp_path, image_path) == 1
    assert "There is no model file" in error_of(capsys)

    def fail(*arguments, **named):
        raise ValueError("two\nlines")

    monkeypatch.setattr(segmentation, "segmenting", fail)
    assert segment(model_path, tmp_path, image_path) == 1
    assert error_of(capsys).endswith("unexpected ValueError: two lines (add --debug to see where)")
    with pytest.raises(ValueError, match="two"):
        segment(model_path, tmp_path, image_path, "--debug")


def test_ctrl_c_stops_everything(tmp_path, capsys, model_path, image_path, monkeypatch):
    def interrupt(*arguments, **named):
        raise KeyboardInterrupt
        yield

    monkeypatch.setattr(segmentation, "segmenting", interrupt)
    assert segment(model_path, tmp_path / "out", image_path, tmp_path / "other.tif") == 130
    assert error_of(capsys) == "stopped."
    assert not (tmp_path / "out").exists()


def test_a_terminal_shows_a_progress_bar(tmp_path, capsys, model_path, image_path, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert segment(model_path, tmp_path, image_path) == 0
    said = capsys.readouterr().err
    assert "cells.ome.tif" in said and "Finding objects" in said and "100%" in said


# fine-tune


@pytest.fixture
def painted(tmp_path, pixels):
    corrections = np.zeros(pixels.shape, np.uint8)
    corrections[0, 20:35, 10:30] = 2
    corrections[0, 40:50, :] = 1
    tifffile.imwrite(
        tmp_path / "painted.tif", corrections, photometric="minisblack", metadata={"axes": "TYX"}
    )
    return corrections


def fine_tune(model_path, out, *arguments):
    start = ["fine-tune", "--model", str(model_path), "--device", "cpu", "--out", str(out)]
    quick = ["--steps", "3", "--patch-size", "32", "--batch-size", "2"]
    return cli.main([*start, *quick, *(str(argument) for argument in arguments)])


def test_fine_tune_from_files_and_from_a_project_is_the_same(
    tmp_path, capsys, model_path, image_path, painted, pixels
):
    pair = ("--image", image_path, "--corrections", tmp_path / "painted.tif")
    assert fine_tune(model_path, tmp_path / "new" / "a", *pair) == 0
    assert "1 images" in capsys.readouterr().out

    project = Project.create(tmp_path / "project")
    image = read_image(image_path)
    finish(project.save_blocks(image, corrected_blocks(image, painted)))
    project_out = tmp_path / "b.safetensors"
    assert fine_tune(model_path, project_out, "--project", project.folder) == 0

    start = nu.load_model(model_path, "cpu")
    settings = nu.FineTuneSettings(steps=3, patch_size=32, batch_size=2)
    expected = nu.fine_tune(start, [(pixels, painted)], settings, axes="tyx")
    tuned = [nu.load_model(p, "cpu") for p in (tmp_path / "new" / "a.safetensors", project_out)]
    assert {model.id for model in tuned} == {expected.id}
    assert expected.id != start.id
    (entry,) = tuned[0].history
    assert entry.parent == start.id and entry.settings["steps_done"] == 3


def test_an_existing_model_is_replaced_only_when_asked(tmp_path, capsys, model_path):
    taken = tmp_path / "mine.safetensors"
    taken.write_bytes(b"precious")
    assert fine_tune(model_path, tmp_path / "mine", "--project", tmp_path) == 1
    assert "is there already" in error_of(capsys)
    assert taken.read_bytes() == b"precious"


def test_what_cannot_be_learned_from_says_so(tmp_path, capsys, model_path, image_path):
    out = tmp_path / "mine.safetensors"
    project = Project.create(tmp_path / "project")
    assert fine_tune(model_path, out, "--project", project.folder) == 1
    assert "Nothing is painted yet" in error_of(capsys)
    tifffile.imwrite(tmp_path / "small.tif", np.ones((5, 5), np.uint8))
    pair = ("--image", image_path, "--corrections", tmp_path / "small.tif")
    assert fine_tune(model_path, out, *pair) == 1
    assert "have the shape (5, 5)" in capsys.readouterr().err
    (tmp_path / "file").touch()
    assert fine_tune(model_path, tmp_path / "file" / "a", *pair) == 1
    assert "cannot be made" in error_of(capsys)
    assert not out.exists()


# info


CHECKPOINTS = Path(__file__).parent / "fixtures" / "checkpoints"
FOREIGN = CHECKPOINTS / "jvanvugt" / "valid.pt"


def info(*arguments):
    return cli.main(["info", *(str(argument) for argument in arguments)])


def line_of(said, label):
    return next(line for line in said.splitlines() if line.startswith(label))


def test_info_says_what_a_model_is(capsys, model_path):
    assert info(model_path) == 0
    said = capsys.readouterr().out
    for part in ("tiny", "bright spots", "CC0-1.0", "0.5 µm", "spots: F1 0.750", "# A card"):
        assert part in said
    assert info(model_path.parent / "none.pth") == 1
    assert "There is no model file" in error_of(capsys)


def test_info_marks_what_was_assumed(capsys):
    assert info(FOREIGN) == 0
    said = capsys.readouterr().out
    assert line_of(said, "Network").endswith("from the file")
    assert line_of(said, "Borders of the image").endswith("assumed (padding)")
    starts = {line.rfind("  ") for line in said.splitlines() if line.endswith("from the file")}
    assert len(starts) == 1  # the marks stand below each other


def test_info_changes_what_was_assumed_for_good(capsys):
    names = ("--set", "class_names=ground, cell", "--set", "pixel-size=0,5")
    assert info(FOREIGN, "--set", "padding=same", *names) == 0
    said = capsys.readouterr().out
    assert line_of(said, "Borders").endswith("your choice (padding)")
    assert "0.5 µm" in line_of(said, "Pixel size")
    assert info(FOREIGN) == 0
    said = capsys.readouterr().out
    assert "padded (same)" in line_of(said, "Borders")
    assert line_of(said, "Borders").endswith("your choice (padding)")
    assert "ground, cell" in line_of(said, "Tells apart")
    assert nu.load_model(FOREIGN, "cpu").config.padding == "same"


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ("padding=", "Possible are: valid (unpadded"),
        ("padding=both", "'both' is not possible"),
        ("colour=red", "Possible are class_names, activation"),
        ("padding", "'' is not possible"),
        ("pixel_size=wide", "number above 0"),
    ],
)
def test_info_lists_what_may_be_set(capsys, change, match):
    assert info(FOREIGN, "--set", change) == 1
    assert match in error_of(capsys)
    assert info(FOREIGN) == 0
    assert "your choice" not in capsys.readouterr().out


def test_info_says_that_a_model_of_ours_is_left_as_it_is(capsys, model_path):
    before = model_path.read_bytes()
    assert info(model_path, "--set", "pixel_size=2") == 0
    said = capsys.readouterr().out
    assert "2 µm" in line_of(said, "Pixel size")
    assert "Not remembered" in said
    assert model_path.read_bytes() == before


def test_info_ranks_normalizations_on_an_image(capsys, tmp_path):
    generator = np.random.default_rng(0)
    imsave(tmp_path / "a.png", generator.integers(0, 255, (48, 48, 3), np.uint8))
    assert info(CHECKPOINTS / "milesial" / "d_transposed.pt", "--image", tmp_path / "a.png") == 0
    said = capsys.readouterr().out
    ranking = said[said.index("Intensities of") :].splitlines()[1:]
    scores = [float(line.split()[0]) for line in ranking if line.startswith("  ")]
    assert len(scores) > 5
    assert scores == sorted(scores)
    assert "mismatch" in said
    assert info(FOREIGN, "--image", tmp_path / "a.png") == 1
    assert "no batch normalisation" in " ".join(error_of_all(capsys).split())


def error_of_all(capsys):
    return capsys.readouterr().err


def test_info_sends_nothing_to_the_terminal_but_text(capsys, tmp_path, model_path):
    model = nu.load_model(model_path, "cpu")
    evil = model.described(
        name="a\x1b]0;b", segments="\x1b[2J", card="c\x1b[31m\nd", source="e\rf",
        class_names=("background", "g\x9b"),
    )  # fmt: skip
    nu.save_model(evil, tmp_path / "evil.safetensors")
    assert info(tmp_path / "evil.safetensors") == 0
    said = capsys.readouterr().out
    assert not [one for one in said if not (one.isprintable() or one == "\n")]


# what some files ask


@pytest.fixture
def two_models(tmp_path):
    with zipfile.ZipFile(tmp_path / "two.zip", "w") as archive:
        for name in ("first one.pt", "second.pt"):
            archive.write(FOREIGN, name)
    return tmp_path / "two.zip"


def test_one_of_several_models_is_chosen(capsys, two_models):
    assert info(two_models) == 1
    assert error_of(capsys).endswith("such as --choose 'first one.pt'")
    assert info(two_models, "--choose", "second.pt") == 0
    assert "jvanvugt" in capsys.readouterr().out


def test_one_of_several_models_segments(capsys, two_models, tmp_path):
    imsave(tmp_path / "a.png", np.eye(32, dtype=np.uint8) * 255)
    assert segment(two_models, tmp_path / "out", tmp_path / "a.png") == 1
    assert "--choose" in error_of(capsys)
    chosen = ("--choose", "second.pt")
    assert segment(two_models, tmp_path / "out", tmp_path / "a.png", *chosen) == 0
    start = ["batch", str(tmp_path / "a.png"), "--model", str(two_models), "--device", "cpu"]
    assert cli.main([*start, "--out", str(tmp_path / "batch")]) == 1
    assert "--choose" in error_of_all(capsys)
    assert cli.main([*start, "--out", str(tmp_path / "batch"), *chosen]) == 0


def test_a_program_is_run_only_with_a_flag(capsys, monkeypatch, tiny_model):
    asked = []

    def load(source, device, *, choose, trust):
        asked.append((source, choose, trust))
        if not trust:
            raise TrustNeeded("m.pt carries a program.", "ab" * 32, "the program in m.pt")
        return tiny_model

    monkeypatch.setattr("napari_unet.core.model.load_model", load)
    assert info("m.pt") == 1
    said = error_of(capsys)
    assert said.startswith("m.pt carries a program. To run the program in m.pt, add --trust")
    assert "ab" * 32 in said
    assert info("m.pt", "--trust") == 0
    assert asked == [("m.pt", None, False), ("m.pt", None, True)]


@pytest.mark.parametrize("command", ["segment", "batch", "fine-tune", "info"])
def test_help_says_what_trust_means(capsys, command):
    with pytest.raises(SystemExit):
        cli.main([command, "--help"])
    said = " ".join(capsys.readouterr().out.split())
    assert "only if you trust the file" in said
    assert "--choose NAME" in said


@pytest.mark.skipif(os.name == "nt", reason="pipes end otherwise there")
def test_a_reader_that_has_seen_enough_is_no_error(tmp_path):
    runner = "import sys; from napari_unet.cli import main; sys.exit(main(['info', 'nuclei']))"
    command = f'{sys.executable} -c "{runner}" | head -n 1'
    found = subprocess.run(command, shell=True, capture_output=True, text=True, cwd=tmp_path)
    assert found.stdout.startswith("nuclei")
    assert found.stderr == ""


def test_what_was_said_of_a_file_can_be_forgotten(capsys, tmp_path):
    fixture = ROOT / "tests" / "fixtures" / "checkpoints" / "jvanvugt" / "valid.pt"
    path = tmp_path / "net.pt"
    path.write_bytes(fixture.read_bytes())
    assert cli.main(["info", str(path), "--set", "padding=same"]) == 0
    capsys.readouterr()
    assert cli.main(["info", str(path)]) == 0
    assert "your choice (padding)" in capsys.readouterr().out
    assert cli.main(["info", str(path), "--forget"]) == 0
    assert "assumed (padding)" in capsys.readouterr().out
    assert cli.main(["info", str(path)]) == 0
    assert "assumed (padding)" in capsys.readouterr().out


def test_info_ranks_whatever_was_assumed(capsys, tmp_path):
    fixtures = ROOT / "tests" / "fixtures" / "checkpoints"
    tifffile.imwrite(tmp_path / "a.tif", np.random.default_rng(0).integers(0, 255, (64, 64), "u1"))
    path = str(fixtures / "jvanvugt" / "same_norm.pt")
    assert cli.main(["info", path, "--image", str(tmp_path / "a.tif")]) == 0
    said = capsys.readouterr().out
    assert "Intensities of" in said
    assert "(padding):" in said
    assert said.count("  valid ") == 1
