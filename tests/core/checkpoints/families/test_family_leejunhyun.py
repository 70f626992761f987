"""The four networks of LeeJunHyun/Image_Segmentation, and their copies, against the originals."""

import pytest
from family_fixtures import (
    difference,
    evidence_of,
    rebuilt,
)

from napari_unet.core.checkpoints.evidence import LayerNote
from napari_unet.core.checkpoints.families.leejunhyun import FAMILY
from napari_unet.core.normalization import Normalization


@pytest.mark.parametrize(
    ("name", "attention", "recurrent", "point"),
    [
        ("unet", (), False, "Conv_1x1"),
        ("attention", (1, 1, 2, 4), False, "Conv_1x1"),
        ("r2", (), True, "Conv_1x1"),
        ("r2_attention", (1, 1, 2, 4), True, "Conv_1x1"),
        ("copy_attention", (1, 1, 2, 4), False, "Conv"),
        ("copy_r2", (), True, "Conv"),
    ],
)
def test_its_kinds_are_told_apart(name, attention, recurrent, point):
    config = FAMILY.understand(evidence_of(f"leejunhyun/{name}")).config

    assert (config.attention, config.recurrent, config.point) == (attention, recurrent, point)
    assert config.widths == (1, 2, 4, 8, 16)


def test_repetitions_are_assumed_where_they_matter():
    found = FAMILY.understand(evidence_of("leejunhyun/r2_t3"))

    assert found.config.steps == 2 and "steps" in found.assumed
    for name in ("unet", "copy_r2"):
        assert "steps" not in FAMILY.understand(evidence_of(f"leejunhyun/{name}")).assumed


@pytest.mark.parametrize(
    "known",
    [
        {"config": {"model": {"t": 3}}},
        {"layers": {"RRCNN1.RCNN.0": LayerNote(kind="Recurrent_block", values={"t": 3})}},
    ],
)
def test_repetitions_are_read_where_they_are_told(known):
    found = FAMILY.understand(evidence_of("leejunhyun/r2_t3", **known))

    assert found.config.steps == 3 and "steps" not in found.assumed


@pytest.mark.parametrize("strange", [True, "3", 0, 10**9, None, [3]])
def test_repetitions_that_are_none_are_no_matter(strange):
    found = FAMILY.understand(evidence_of("leejunhyun/r2", config={"model": {"t": strange}}))

    assert found.config.steps == 2 and "steps" in found.assumed


def test_repetitions_matter():
    fixture = "leejunhyun/r2_t3"

    assert difference(rebuilt(FAMILY, evidence_of(fixture), steps=2), fixture) > 1e-3


def test_it_wants_its_input_around_0():
    about = FAMILY.understand(evidence_of("leejunhyun/unet")).about
    halves = (0.5, 0.5, 0.5)

    assert about["activation"] == "sigmoid"
    assert about["normalization"] == Normalization(
        kind="range", offset=halves, scale=halves, clip=None
    )
