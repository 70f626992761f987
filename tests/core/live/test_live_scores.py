"""Held-out pixels are asked about, and nothing else."""

import numpy as np
import pytest
import torch

from napari_unet.core.corrections import IGNORE
from napari_unet.core.engine.fitting import Fit
from napari_unet.core.live.pieces import Piece, places_in
from napari_unet.core.live.scores import MOST_PATCHES, exam_of
from napari_unet.core.model import Description

ABOUT = Description(name="test")
CPU = torch.device("cpu")


class Threshold(torch.nn.Module):
    """An object is whatever is above a half; how sure it is can be chosen."""

    def __init__(self, sureness=20.0):
        super().__init__()
        self.sureness = sureness

    def forward(self, image):
        on = self.sureness * (image - 0.5)
        return torch.cat([-on / 2, on / 2], dim=1)


def piece_with(held, image):
    target = torch.full(held.shape, IGNORE, dtype=torch.uint8)
    return Piece(
        index=(), start=(0, 0), image=image[None], target=target, held=held,
        held_places=places_in(held),
    )  # fmt: skip


def exam(held, image):
    fit = Fit(base=(32, 32), stride=(1, 1), margin=(0, 0))
    return exam_of([piece_with(held, image)], (32, 32), fit, ABOUT)


@pytest.fixture
def held():
    held = torch.full((96, 96), IGNORE, dtype=torch.uint8)
    held[10:14, 10:20], held[70:74, 70:80] = 0, 1
    return held


def test_all_right_and_half_wrong(held):
    image = (held == 1).float()
    assert exam(held, image).score(Threshold(), CPU) == 1.0
    image[70:74, 70:75] = 0  # half of the object is missed
    assert exam(held, image).score(Threshold(), CPU) == pytest.approx((0.5 + 40 / 60) / 2, abs=1e-3)


def test_what_is_not_held_out_does_not_count(held):
    image = (held == 1).float()
    image[held == IGNORE] = torch.rand(96, 96, generator=torch.Generator().manual_seed(0))[
        held == IGNORE
    ]
    assert exam(held, image).score(Threshold(), CPU) == 1.0


def test_one_class_alone_gives_no_score(held):
    held[held == 1] = IGNORE
    found = exam(held, (held == 1).float())
    assert not found.is_fair
    assert found.score(Threshold(), CPU) is None
    assert found.temperature(Threshold(), CPU) == 1.0


def test_many_cells_are_thinned(held):
    held = torch.zeros(320, 320, dtype=torch.uint8)
    held[:, 160:] = 1
    found = exam(held, (held == 1).float())
    assert len(found._images) <= MOST_PATCHES + 2
    assert found.score(Threshold(), CPU) == 1.0


def test_a_network_that_is_too_sure_of_itself_is_found_out(held):
    generator = torch.Generator().manual_seed(0)
    image = (held == 1).float() + 0.6 * torch.randn(held.shape, generator=generator)
    sure, modest = (exam(held, image).temperature(Threshold(n), CPU) for n in (40.0, 3.0))
    assert sure > 2 * modest
    assert np.isfinite(sure)
