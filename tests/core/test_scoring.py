"""Scores count held-out paint and nothing else, and say how much is remembered."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from napari_unet.core import scoring
from napari_unet.core.corrections import CorrectedBlock
from napari_unet.core.device import choose_device
from napari_unet.core.engine.fitting import Fit
from napari_unet.core.model import Description, Model
from napari_unet.core.networks import UNet, UNetConfig
from napari_unet.core.scoring import Scorer, whole_picture_classes


class Brightness(nn.Module):
    """Says object where the picture is above `threshold`, and counts how often it is asked."""

    def __init__(self, threshold=0.5, stride=1):
        super().__init__()
        self.threshold = threshold
        self.stride = stride
        self.shapes = []

    def forward(self, image):
        """`(b, 1, y, x)` to logits `(b, 2, y, x)`."""
        assert image.shape[-1] % self.stride == image.shape[-2] % self.stride == 0
        self.shapes.append(tuple(image.shape[-2:]))
        return torch.cat([torch.zeros_like(image), image - self.threshold], dim=1)


def case(picture, corrections, held, origin=(0, 0), image_origin=(0, 0)):
    """A block, the picture of it for the network, and what is held out."""
    block = CorrectedBlock(
        index=(), origin=origin, corrections=np.array(corrections, np.uint8),
        image=np.zeros((1, *np.shape(picture))), image_origin=image_origin,
    )  # fmt: skip
    return block, torch.tensor(picture, dtype=torch.float32)[None], np.array(held, bool)


def scorer_of(model, cases=(), memories=()):
    blocks, inputs, held = zip(*cases, strict=True) if cases else ((), (), ())
    return Scorer(model, blocks, inputs, held, memories)


def test_scores_by_hand(tiny_model):
    picture = [[1, 1, 0, 0, 0, 1]]
    painted = [[2, 2, 2, 1, 1, 1]]  # found: object, object, -, -, -, object
    scorer = scorer_of(tiny_model, [case(picture, painted, [[1, 1, 1, 1, 1, 1]])])
    scores = scorer.score(Brightness())
    # object: 2 of 4; background: 2 of 4
    assert scores == {"iou": 0.5, "accuracy": round(4 / 6, 4)}
    assert scorer.score(Brightness(-1)) == {"iou": 0.25, "accuracy": 0.5}


def test_only_held_out_paint_counts(tiny_model):
    picture = [[1, 1, 0, 0, 0, 1]]
    held = [[1, 0, 1, 1, 0, 0]]
    for painted in ([[2, 1, 2, 1, 2, 1]], [[2, 0, 2, 1, 0, 0]]):
        scores = scorer_of(tiny_model, [case(picture, painted, held)]).score(Brightness())
        assert scores == {"iou": 0.5, "accuracy": round(2 / 3, 4)}


def test_classes_that_are_not_painted_do_not_count(make_tiny_model):
    model = make_tiny_model(n_classes=3)
    scorer = scorer_of(model, [case([[1, 1, 0]], [[2, 2, 1]], [[1, 1, 1]])])
    assert scorer.score(Brightness()) == {"iou": 1.0, "accuracy": 1.0}


@pytest.mark.parametrize("value", [1, 2])
def test_one_class_alone_gives_no_score(tiny_model, value):
    """It would be best for a network that says this class everywhere."""
    corrections = [[value, value, 0, 3 - value]]
    scorer = scorer_of(tiny_model, [case([[1, 1, 0, 0]], corrections, [[1, 1, 1, 0]])])
    assert scorer.score(Brightness()) == {}


def test_nothing_held_out_gives_no_score(tiny_model):
    scorer = scorer_of(tiny_model, [case([[1, 0]], [[2, 1]], [[0, 0]])])
    assert scorer.score(Brightness()) == {}
    assert scorer_of(tiny_model).score(Brightness()) == {}


def test_blocks_add_up(tiny_model):
    cases = [case([[1, 0]], [[2, 2]], [[1, 1]]), case([[1, 0]], [[2, 1]], [[1, 1]])]
    scores = scorer_of(tiny_model, cases).score(Brightness())
    assert scores == {"iou": round((2 / 3 + 1 / 2) / 2, 4), "accuracy": 0.75}


def test_paint_is_looked_up_where_it_lies(tiny_model):
    picture = np.zeros((12, 10))
    picture[4, 6] = 1
    painted = np.ones((5, 4))
    painted[1, 2] = 2
    there = case(picture, painted, np.ones((5, 4)), origin=(256, 256), image_origin=(253, 252))
    assert scorer_of(tiny_model, [there]).score(Brightness()) == {"iou": 1.0, "accuracy": 1.0}


def test_only_the_surroundings_of_the_paint_are_shown(tiny_model):
    picture = np.zeros((300, 200))
    painted = np.zeros((300, 200))
    painted[100:105, 50], painted[105:110, 50] = 1, 2
    network = Brightness()
    scorer_of(tiny_model, [case(picture, painted, painted > 0)]).score(network)
    halo = tiny_model.config.halo
    assert network.shapes == [(10 + 2 * halo, 1 + 2 * halo)]


def test_many_blocks_are_thinned_evenly(tiny_model, monkeypatch):
    monkeypatch.setattr(scoring, "MAX_BLOCKS", 4)
    cases = [case([[1.0]], [[2 if i < 8 else 1]], [[1]]) for i in range(16)]
    network = Brightness()
    scores = scorer_of(tiny_model, cases).score(network)
    assert len(network.shapes) == 4
    assert scores["accuracy"] == 0.5, "the later images must count as much as the first ones"


# --- volumes ------------------------------------------------------------------------------------


class BrightVoxels(Brightness):
    """The same for volumes."""

    def forward(self, image):
        """`(b, 1, z, y, x)` to logits `(b, 2, z, y, x)`."""
        self.shapes.append(tuple(image.shape[2:]))
        return torch.cat([torch.zeros_like(image), image - self.threshold], dim=1)


def volume_scorer(picture, corrections, held):
    config = UNetConfig(dims=3, widths=(2,))
    model = Model(
        network=UNet(config).eval(), architecture="unet", config=config,
        description=Description(name="m", dims=3), device=choose_device("cpu"), id="0",
    )  # fmt: skip
    block = CorrectedBlock(
        index=(), origin=(5, 0, 0), corrections=corrections, image=picture[None],
        image_origin=(5, 0, 0),
    )  # fmt: skip
    return Scorer(model, [block], [torch.from_numpy(picture)[None]], [held], [])


def test_volumes_are_scored_where_they_are_held_out():
    picture = np.zeros((6, 20, 20), np.float32)
    picture[2, 4, 4:8] = 1
    corrections = np.zeros(picture.shape, np.uint8)
    corrections[2, 4, 4:6], corrections[2, 4, 6:8], corrections[3, 4, 4:6] = 2, 1, 1
    corrections[0] = 2  # wrong, but not held out
    network = BrightVoxels()
    scores = volume_scorer(picture, corrections, np.arange(6)[:, None, None] > 1).score(network)
    assert scores == {"iou": 0.5, "accuracy": round(4 / 6, 4)}
    assert network.shapes == [(6, 5, 8)]  # 2 px around, from (0, 2, 2); below there is no image


def test_large_volumes_are_scored_in_a_few_small_pieces():
    picture = np.zeros((40, 200, 200), np.float32)
    corrections = np.ones(picture.shape, np.uint8)
    corrections[37, 190, 190] = 2  # rare, and yet it counts
    network = BrightVoxels()
    scores = volume_scorer(picture, corrections, corrections > 0).score(network)
    assert scores["iou"] == pytest.approx(0.5, abs=1e-3)
    assert len(network.shapes) == scoring.MAX_BLOCKS
    assert max(max(shape) for shape in network.shapes) <= 64 + 2 * 2


# --- memory ------------------------------------------------------------------------------------


def test_memory_is_agreement_with_the_old_network(tiny_model):
    picture = torch.tensor([[[1.0, 0.7, 0.2, 0.0]]])
    scorer = scorer_of(replace(tiny_model, network=Brightness()), memories=[picture])
    assert scorer.score(Brightness()) == {"memory": 1.0}
    assert scorer.score(Brightness(0.8)) == {"memory": 0.75}
    assert scorer.score(Brightness(-1)) == {"memory": 0.5}
    assert scorer.score(Brightness(), with_memory=False) == {}


@pytest.mark.parametrize("n", [1, 3, 4, 5, 7, 20])
def test_a_few_pictures_are_enough(tiny_model, n):
    network = Brightness()
    memories = [torch.zeros(1, 1, i + 1) for i in range(n)]
    scorer_of(tiny_model, memories=memories).score(network)
    widths = [shape[1] for shape in network.shapes]
    assert len(widths) <= scoring.MAX_MEMORIES
    assert len(widths) >= min(n, 2)
    assert widths[0] == 1


# --- whole pictures ----------------------------------------------------------------------------


def fit_of_stride(stride):
    return Fit(base=(stride, stride), stride=(stride, stride), margin=(0, 0))


@pytest.mark.parametrize("shape", [(1, 1), (7, 9), (8, 16), (33, 4)])
def test_a_picture_of_any_size_fits_the_network(shape):
    picture = torch.rand(1, *shape, generator=torch.Generator().manual_seed(0))
    found = whole_picture_classes(
        Brightness(stride=8), picture, fit_of_stride(8), Description(name="m")
    )
    np.testing.assert_array_equal(found.numpy(), (picture[0] > 0.5).long().numpy())


class Fixed(nn.Module):
    """Gives the same logits everywhere."""

    def forward(self, image):
        """`(b, 1, y, x)` to logits `(b, 3, y, x)`."""
        return torch.tensor([1.0, 0.5, 0.75])[:, None, None].expand(1, 3, *image.shape[-2:])


@pytest.mark.parametrize(("output_class", "likeliest"), [((0, 1, 1), 1), ((0, 1, 2), 0)])
def test_the_likeliest_class_sums_its_outputs(output_class, likeliest):
    about = Description(
        name="m", outputs=("a", "b", "c"), output_class=output_class,
        class_names=("background", "b", "c")[: max(output_class) + 1],
    )  # fmt: skip
    found = whole_picture_classes(Fixed(), torch.zeros(1, 3, 5), fit_of_stride(1), about)
    assert torch.equal(found, torch.full((3, 5), likeliest))


def test_scoring_leaves_the_network_trainable(tiny_model):
    network = tiny_model.network.requires_grad_(True)
    scorer = scorer_of(tiny_model, [case([[1, 0]], [[2, 1]], [[1, 1]])], [torch.zeros(1, 4, 4)])
    scorer.score(network)
    assert torch.is_grad_enabled()
    assert not torch.is_inference_mode_enabled()
    network(torch.zeros(1, 1, 4, 4)).sum().backward()
    assert network.head.bias.grad is not None
