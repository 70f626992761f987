"""`napari-unet networks`, and the table in the documents."""

from pathlib import Path

import pytest

from napari_unet.cli import main
from napari_unet.cli.networks import HEAD, cells_of
from napari_unet.core.network_facts import facts_of
from napari_unet.core.networks import presets

DOCUMENT = Path(__file__).resolve().parents[1] / "docs" / "networks.md"


def rows_of_document():
    lines = [line for line in DOCUMENT.read_text("utf-8").splitlines() if "|" in line]
    rows = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]
    return {row[0].strip("`"): [row[0].strip("`"), *row[1:]] for row in rows if "`" in row[0]}


def test_a_few_by_name(capsys):
    assert main(["networks", "unet-2015", "unet-tutorial"]) == 0
    said = capsys.readouterr().out
    assert "31,030,658" in said and "184" in said
    assert "Ronneberger" in said and "Trained with: " in said


def test_other_widths_and_channels(capsys):
    assert main(["networks", "unet", "--width", "4", "--in-channels", "3", "--dims", "3"]) == 0
    expected = facts_of("unet")
    assert f"{expected.n_parameters:,}" not in capsys.readouterr().out


def test_as_markdown(capsys):
    assert main(["networks", "unet", "--markdown"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"| {' | '.join(HEAD)} |" and lines[2].startswith("| `unet` |")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [(["no-such"], "There is no network 'no-such'"), (["unet-2015", "--dims", "3"], "not for 3D")],
)
def test_what_cannot_be(arguments, sentence, capsys):
    assert main(["networks", *arguments]) == 1
    assert sentence in capsys.readouterr().err


def test_the_document_has_all_networks():
    assert list(rows_of_document()) == list(presets())


@pytest.mark.parametrize(
    "name", ["unet", "unet-2015", "unet-tutorial", "fcn-8s", "segnet", "unet++", "unet-resnet18"]
)
def test_the_document_says_what_is_computed(name):
    assert rows_of_document()[name] == list(cells_of(facts_of(name)))
