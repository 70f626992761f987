"""`napari-unet score`: files that belong together by name, compared and written down."""

import argparse
import csv
import math

import numpy as np
import pytest
import tifffile

from napari_unet.cli.parsing import Parser
from napari_unet.cli.scoring import add_score
from napari_unet.cli.telling import FAILED, OK
from napari_unet.core.errors import ImageError

TRUTH = np.array([[1, 1, 1, 1, 0, 2, 2, 0, 5]] * 2, np.uint8)
SAID = np.array([[7, 7, 7, 0, 0, 9, 9, 9, 0]] * 2, np.uint16)  # IoU 3/4, 2/3, and one missed


def score(*arguments):
    parser = Parser(prog="napari-unet")
    add_score(parser.add_subparsers(parser_class=Parser))
    chosen = parser.parse_args(["score", *map(str, arguments)], argparse.Namespace())
    return chosen.run(chosen)


def write(path, array, **how):
    path.parent.mkdir(parents=True, exist_ok=True)
    tifffile.imwrite(path, array, **how)
    return path


def table(path):
    with path.open(newline="") as file:
        return [
            {name: value if name == "image" else float(value) for name, value in row.items()}
            for row in csv.DictReader(file)
        ]


def test_two_files(tmp_path, capsys):
    said, truth = write(tmp_path / "a.tif", SAID), write(tmp_path / "b.tif", TRUTH)
    assert score(said, truth, "--out", tmp_path / "new" / "scores.csv") == OK
    heading, row = capsys.readouterr().out.splitlines()
    assert heading.split() == [
        "image", "true", "found", "f1", "precision", "recall", "mean_ap", "panoptic", "seg",
        "pixel_iou",
    ]  # fmt: skip
    assert row.split()[1:6] == ["3", "2", "0.8000", "1.0000", "0.6667"]
    (line,) = table(tmp_path / "new" / "scores.csv")
    assert line["image"] == "a.tif"
    assert line["seg"] == pytest.approx((3 / 4 + 2 / 3) / 3)
    assert line["pixel_iou"] == pytest.approx(5 / 8)


def test_two_folders(tmp_path, capsys):
    """Names as `batch` writes them and as the Cell Tracking Challenge does; one without truth."""
    write(tmp_path / "said" / "cells_labels.tif", SAID)
    write(tmp_path / "said" / "cells_probabilities.tif", SAID.astype(np.float32))
    write(tmp_path / "said" / "mask007.tif", TRUTH)
    write(tmp_path / "said" / "mask008.tif", TRUTH)
    write(tmp_path / "true" / "cells.tif", TRUTH)
    write(tmp_path / "true" / "man_seg007.tif", TRUTH)
    assert score(tmp_path / "said", tmp_path / "true", "--out", tmp_path / "scores.csv") == OK
    lines = table(tmp_path / "scores.csv")
    assert [line["f1"] for line in lines] == pytest.approx([4 / 5, 1, 10 / 11, 9 / 10])
    assert [line["image"] for line in lines] == [
        "cells_labels.tif", "mask007.tif", "all together", "mean of images",
    ]  # fmt: skip
    assert len(capsys.readouterr().out.splitlines()) == 5


def test_classes(tmp_path):
    classes, said = np.array([[0, 0, 1, 255]], np.uint8), np.array([[0, 1, 1, 1]], np.uint8)
    write(tmp_path / "said" / "a.tif", said)
    write(tmp_path / "said" / "b.tif", 2 * said)
    write(tmp_path / "true" / "a.tif", classes)
    write(tmp_path / "true" / "b.tif", 2 * said)
    arguments = ("--what", "classes", "--out", tmp_path / "scores.csv")
    assert score(tmp_path / "said", tmp_path / "true", *arguments) == OK
    first, second, both, mean = table(tmp_path / "scores.csv")
    assert first["accuracy"] == pytest.approx(2 / 3)
    assert (first["iou_0"], first["iou_1"]) == (1 / 2, 1 / 2)
    assert math.isnan(first["iou_2"]) and math.isnan(second["iou_1"])
    assert both["iou_0"] == pytest.approx(2 / 3) and both["accuracy"] == pytest.approx(6 / 7)
    assert mean["iou_0"] == pytest.approx(3 / 4) and mean["iou_1"] == 1 / 2


@pytest.mark.parametrize("with_channels", [False, True])
def test_membranes(tmp_path, with_channels):
    truth = np.full((2, 6, 11), 255, np.uint8)
    truth[:, :, 5] = 0
    inside = np.where(truth > 0, 0.85, 0.25).astype(np.float32)
    write(tmp_path / "b.tif", truth, photometric="minisblack", metadata={"axes": "ZYX"})
    channel = ()
    if with_channels:
        channel = ("--channel", "1")
        stack = np.stack([1 - inside, inside], axis=1)
        write(tmp_path / "a.tif", stack, imagej=True, metadata={"axes": "ZCYX"})
    else:
        write(tmp_path / "a.tif", inside, photometric="minisblack", metadata={"axes": "ZYX"})
    arguments = ("--what", "membranes", *channel, "--out", tmp_path / "scores.csv")
    assert score(tmp_path / "a.tif", tmp_path / "b.tif", *arguments) == OK
    (line,) = table(tmp_path / "scores.csv")
    assert (line["v_rand"], line["at"], line["v_info"], line["rand_error"]) == (1, 0.3, 1, 0)
    assert line["pixel_error"] == pytest.approx((60 * 0.15**2 + 6 * 0.25**2) / 66, abs=1e-6)
    assert line["warping"] == 0


def test_a_channel_must_be_named(tmp_path, capsys):
    stack = np.zeros((2, 6, 11), np.float32)
    write(tmp_path / "a.tif", stack, imagej=True, metadata={"axes": "CYX"})
    write(tmp_path / "b.tif", np.ones((6, 11), np.uint8))
    assert score(tmp_path / "a.tif", tmp_path / "b.tif", "--what", "membranes") == FAILED
    assert "--channel which one" in capsys.readouterr().err


def test_planes_of_a_film(tmp_path):
    """In a film, object 1 of one plane is not object 1 of the next."""
    film = np.stack([TRUTH, TRUTH[:, ::-1]])
    said = np.stack([TRUTH, TRUTH[:, ::-1] + 10 * (TRUTH[:, ::-1] > 0)])
    for name, array in (("a.tif", said), ("b.tif", film)):
        write(tmp_path / name, array, photometric="minisblack", metadata={"axes": "TYX"})
    out = tmp_path / "scores.csv"
    for planes, expected in (((), 1), (("--planes",), 4)):
        score(tmp_path / "a.tif", tmp_path / "b.tif", *planes, "--out", out)
        assert len(table(out)) == expected
        assert (table(out)[-1]["f1"] == 1) == bool(planes)


def test_one_bad_file_does_not_cost_the_others(tmp_path, capsys):
    write(tmp_path / "said" / "a.tif", SAID)
    write(tmp_path / "said" / "b.tif", SAID[:, 1:])
    for name in ("a.tif", "b.tif"):
        write(tmp_path / "true" / name, TRUTH)
    assert score(tmp_path / "said", tmp_path / "true") == FAILED
    told = capsys.readouterr()
    assert "b.tif: The prediction has the shape (2, 8), but the truth has (2, 9)" in told.err
    assert len(told.out.splitlines()) == 2


def test_what_does_not_belong_together(tmp_path):
    said = write(tmp_path / "said" / "a.tif", SAID)
    truth = write(tmp_path / "true" / "b.tif", TRUTH)
    with pytest.raises(ImageError, match=r"no file for 1 of the 1 .*: b\.tif"):
        score(said.parent, truth.parent)
    with pytest.raises(ImageError, match="two of a kind"):
        score(said, truth.parent)
    with pytest.raises(ImageError, match="two of a kind"):
        score(said.parent, truth)
    with pytest.raises(ImageError, match="There is no file or folder"):
        score(said, tmp_path / "nothing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ImageError, match="no images"):
        score(said.parent, tmp_path / "empty")
    write(said.parent / "a_mask.tif", SAID)
    with pytest.raises(ImageError, match=r"a\.tif and a_mask\.tif may all belong to 'a'"):
        score(said.parent, truth.parent)
