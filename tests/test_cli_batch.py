"""`napari-unet batch` says beforehand what cannot be done, does the rest, and can be repeated."""

import csv
import json
import signal
import subprocess
import sys

import numpy as np
import pytest
import tifffile

from napari_unet import cli
from napari_unet.core.batch import imaging
from napari_unet.core.files import read_labels
from napari_unet.core.settings import SegmentSettings


def boxes(n):
    pixels = np.full((30, 40), 100, np.uint16)
    for at in range(n):
        pixels[2 : 5 + at, 2 + 10 * at : 8 + 10 * at] = 900
    return pixels


@pytest.fixture
def folder(tmp_path):
    """Images with 1, 2 and 3 objects; the last one in a folder of its own."""
    for n, name in enumerate(("a.tif", "b.tif", "sub/c.tif"), start=1):
        path = tmp_path / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        tifffile.imwrite(path, boxes(n))
    return tmp_path / "images"


@pytest.fixture
def run(tiny_file, tmp_path):
    def run(*arguments, out=tmp_path / "out"):
        start = ["batch", "--model", str(tiny_file), "--device", "cpu", "--out", str(out)]
        return cli.main([*start, *(str(argument) for argument in arguments)])

    return run


def summary(tmp_path):
    with (tmp_path / "out" / "summary.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_folder_is_done_and_said(tmp_path, capsys, folder, run):
    assert run(folder, "--recursive", "--min-size", 3) == 0
    said = capsys.readouterr()
    assert said.err == ""
    lines = said.out.splitlines()
    assert lines[0] == "Check: 3 images: 3 to do"
    assert lines[1] == "  3 with axes yx, 30 x 40, uint16, pixel size not known"
    assert lines[2].startswith("Model tiny on processor")
    assert [line.split(",")[0] for line in lines[3:6]] == [
        "[1/3] a: 1 object", "[2/3] b: 2 objects", "[3/3] sub/c: 3 objects",
    ]  # fmt: skip
    assert lines[6] == "3 of 3 images done, 6 objects"
    assert str(tmp_path / "out") in lines[7]
    assert read_labels(tmp_path / "out" / "sub" / "c_labels.tif").max() == 3
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["command"].startswith("napari-unet batch --model ")
    assert report["settings"]["min_size"] == 3
    assert [row["count"] for row in summary(tmp_path)] == ["1", "2", "3"]


def test_the_second_time_nothing_is_left_to_do(capsys, folder, run):
    assert run(folder) == 0
    capsys.readouterr()
    assert run(folder) == 0
    said = capsys.readouterr().out
    assert "Check: 2 images: 0 to do, 2 done already" in said
    assert "2 of 2 images done, 3 objects" in said
    assert run(folder, "--threshold", 0.6) == 1
    assert "--overwrite" in capsys.readouterr().err
    assert run(folder, "--threshold", 0.6, "--overwrite") == 0


def test_the_check_only_checks(tmp_path, capsys, folder, run):
    for name in ("bad.tif", "worse.tif"):
        (folder / name).write_bytes(b"hello")
    (folder / "notes.txt").touch()
    assert run(folder, "--check") == 1
    said = capsys.readouterr()
    assert said.err == ""
    assert "4 images: 2 can be done, 2 cannot be done" in said.out
    assert "cannot be done: " in said.out and "bad.tif cannot be read" in said.out
    assert "the same for 1: worse" in said.out
    assert "left out, since they are no images: notes.txt" in said.out
    assert not (tmp_path / "out").exists()


def test_the_check_needs_no_model_and_no_place_for_results(capsys, folder):
    assert cli.main(["batch", str(folder), "--check"]) == 0
    assert "2 images: 2 can be done" in capsys.readouterr().out


def test_it_goes_on_with_the_good_ones(tmp_path, capsys, folder, run, monkeypatch):
    (folder / "bad.tif").write_bytes(b"hello")
    whole = imaging.measuring

    def fail(labels, image, *args, **options):
        if image.name == "a":
            raise ValueError("two\nlines")
        return whole(labels, image, *args, **options)

    monkeypatch.setattr(imaging, "measuring", fail)
    assert run(folder) == 1
    said = capsys.readouterr()
    assert "3 images: 2 to do, 1 cannot be done" in said.out
    assert "1 of 3 images done, 1 failed, 1 could not be done, 2 objects" in said.out
    (line,) = said.err.splitlines()
    assert line.startswith("napari-unet: error: [1/2]") and "unexpected ValueError: two li" in line
    assert [row["status"] for row in summary(tmp_path)] == ["failed", "done", "refused"]
    with pytest.raises(ValueError, match="two"):
        run(folder, "--debug")


def test_nothing_that_can_be_done_is_an_error(tmp_path, capsys, run):
    (tmp_path / "bad.tif").write_bytes(b"hello")
    assert run(tmp_path / "bad.tif") == 1
    said = capsys.readouterr()
    assert "cannot be read" in said.out and "None of the images can be done" in said.err
    assert not (tmp_path / "out").exists()
    assert run(tmp_path / "*.jpg") == 1
    assert "There is no file" in capsys.readouterr().out


def test_patterns_channels_and_formats(tmp_path, capsys, folder, run):
    noise = np.random.default_rng(0).integers(0, 99, (30, 40)).astype(np.uint16)
    tifffile.imwrite(folder / "two.tif", np.stack([noise, boxes(2)]), photometric="minisblack")
    options = ("--pattern", "t*", "--axes", "cyx", "--format", "png", "--probabilities")
    assert run(folder, *options) == 1
    assert "--channels" in capsys.readouterr().out
    assert run(folder, *options, "--channels", "1") == 0
    assert read_labels(tmp_path / "out" / "two_labels.png").max() == 2
    assert (tmp_path / "out" / "two_probabilities.tif").is_file()


def test_classes(tmp_path, capsys, folder, run):
    assert run(folder / "?.tif", "--what", "classes") == 0
    assert read_labels(tmp_path / "out" / "b_classes.tif").max() == 1
    said = capsys.readouterr().out
    assert "2 of 2 images done\n" in said and "objects" not in said.split("Model")[1]


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ([], "SOURCE"),
        (["a"], "needs --model and --out"),
        (["a", "--model", "m"], "needs --model and --out"),
        (["a", "--check", "--threshold", "2"], "threshold must"),
        (["a", "--check", "--channels", "x"], "channels"),
        (["a", "--check", "--channels", "1,1"], "different numbers"),
        (["a", "--check", "--format", "jpg"], "invalid choice"),
    ],
)
def test_wrong_use_gives_one_line_and_2(capsys, arguments, match):
    with pytest.raises(SystemExit) as end:
        cli.main(["batch", *arguments])
    assert end.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert match in line


def test_every_setting_of_segment_is_an_option(capsys):
    with pytest.raises(SystemExit):
        cli.main(["batch", "--help"])
    said = capsys.readouterr().out
    for name in SegmentSettings.__dataclass_fields__:
        assert f"--{name.replace('_', '-')}" in said
    assert "examples:" in said and "batch.json" in said


def test_several_models_are_all_loaded(folder, tiny_file, tmp_path, monkeypatch):
    asked = []
    whole = imaging.segmenting

    def segmenting(image, models, settings):
        asked.append(models)
        return whole(image, models[0], settings)

    monkeypatch.setattr(imaging, "segmenting", segmenting)
    twice = ["--model", str(tiny_file), "--model", str(tiny_file)]
    out = str(tmp_path / "out")
    assert cli.main(["batch", str(folder), *twice, "--out", out, "--device", "cpu"]) == 0
    assert [len(models) for models in asked] == [2, 2]


def test_ctrl_c_stops_and_the_next_run_goes_on(tmp_path, capsys, folder, run, monkeypatch):
    whole = imaging.segmenting

    def interrupt(image, *args):
        if image.name == "b":
            raise KeyboardInterrupt
        return whole(image, *args)

    monkeypatch.setattr(imaging, "segmenting", interrupt)
    assert run(folder) == 130
    assert "stopped." in capsys.readouterr().err
    assert [row["status"] for row in summary(tmp_path)] == ["done", "waiting"]
    assert "stopped before its end" in (tmp_path / "out" / "report.md").read_text()
    monkeypatch.undo()
    assert run(folder) == 0
    assert "1 to do, 1 done already" in capsys.readouterr().out


def test_a_terminal_shows_a_bar_and_the_lines_above_it(capsys, folder, run, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert run(folder) == 0
    said = capsys.readouterr()
    assert "1 of 2, a: " in said.err and "100%" in said.err
    assert "[2/2] b: 2 objects" in said.out


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL")
def test_a_process_killed_half_way_is_taken_up_again(tmp_path, folder, run, tiny_file, capsys):
    for n in range(30):
        tifffile.imwrite(folder / f"more {n:02}.tif", boxes(2))
    arguments = [str(folder), "--model", str(tiny_file), "--device", "cpu"]
    command = ["batch", *arguments, "--out", str(tmp_path / "out")]
    code = f"import sys; from napari_unet.cli import main; sys.exit(main({command!r}))"
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    try:
        while not child.stdout.readline().startswith("[3/"):
            assert child.poll() is None
    finally:
        child.send_signal(signal.SIGKILL)
        child.wait()
        child.stdout.close()
    state = json.loads((tmp_path / "out" / "batch.json").read_text())
    done = [entry["name"] for entry in state["images"] if entry["status"] == "done"]
    assert 3 <= len(done) < 32
    times = {name: (tmp_path / "out" / f"{name}_labels.tif").stat().st_mtime_ns for name in done}
    assert run(folder) == 0
    assert f"{32 - len(done)} to do, {len(done)} done already" in capsys.readouterr().out
    after = {name: (tmp_path / "out" / f"{name}_labels.tif").stat().st_mtime_ns for name in done}
    assert after == times
    assert len(summary(tmp_path)) == 32


def test_the_help_comes_without_heavy_imports():
    code = (
        "import sys, napari_unet.cli as cli\n"
        "try: cli.main(['batch', '--help'])\n"
        "except SystemExit as end: assert end.code == 0\n"
        "assert not {'torch', 'napari', 'qtpy', 'numpy', 'tifffile'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, timeout=60)
