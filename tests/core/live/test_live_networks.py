"""Networks of every kind learn from strokes: without padding, of volumes, with other outputs."""

import numpy as np
import pytest
import torch
from torch import nn

from napari_unet.core.device import choose_device
from napari_unet.core.image import make_image
from napari_unet.core.instances import classes_of
from napari_unet.core.live import batches as batches_module
from napari_unet.core.live.images import PaintedBlock, live_image, painted_blocks
from napari_unet.core.live.inbox import Painted
from napari_unet.core.live.learner import Learner
from napari_unet.core.live.settings import LiveSettings
from napari_unet.core.live.viewing import View, Viewer
from napari_unet.core.model import Description, Model, weights_id
from napari_unet.core.networks import UNet, UNetConfig
from napari_unet.core.networks.unet_2015 import UNet2015, UNet2015Config
from napari_unet.core.rehearsal import rehearsal_images

QUICK = LiveSettings(
    patch_size=32, batch_size=3, settle=60, held_out=0.2, learning_rate=1e-2, memory=0.05
)  # its old answers are random


@pytest.fixture(autouse=True)
def small_rehearsal(monkeypatch):
    def small(model):
        return [picture[:, 100:164, 100:164].clone() for picture in rehearsal_images(model)[:1]]

    monkeypatch.setattr(batches_module, "rehearsal_images", small)


def model_of(config, seed=0, **about):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        kind = UNet if isinstance(config, UNetConfig) else UNet2015
        network = kind(config).eval().requires_grad_(False)
    n = config.out_channels
    about = {
        "class_names": ("background", *(f"class {i}" for i in range(1, max(2, n)))),
        "outputs": tuple(f"output {i}" for i in range(n)), "output_class": tuple(range(n)),
    } | about  # fmt: skip
    return Model(
        network=network, architecture="unet", config=config, device=choose_device("cpu"),
        id=weights_id(network),
        description=Description(
            name="random", dims=config.dims, in_channels=config.in_channels, **about
        ),
    )  # fmt: skip


def boxes(size=96):
    truth = np.zeros((size, size), np.uint8)
    for y in range(6, size - 20, 30):
        truth[y : y + 18, 6:34] = truth[y : y + 18, 50:84] = 1
    return truth


def case_of(truth, shape=None, channels=1):
    noise = np.random.default_rng(0).normal(0, 40, (channels, *(shape or truth.shape)))
    return (300 + 500.0 * truth + noise).astype(np.float32)


def lines(truth, step=12):
    corrections = np.zeros_like(truth)
    for y in range(10, truth.shape[-2], step):
        corrections[..., y : y + 3, :] = truth[..., y : y + 3, :] + 1
    return corrections


def learns(model, image, corrections, truth, index=(), n_steps=40, axes=None):
    """Shares of right pixels in a plane before and after some steps, and the learner."""
    live = live_image(make_image(image, axes))
    learner, viewer = Learner(model, QUICK), Viewer(model)
    learner.take([Painted(image=live, blocks=painted_blocks(corrections))])
    window = tuple(slice(0, n) for n in truth.shape[-2:])
    view = View(image=live, index=index, window=window)
    right = []
    for n in (0, n_steps):
        losses = [learner.step() for _ in range(n)]
        assert all(np.isfinite(losses))
        outputs = viewer.outputs(learner.network, view, learner.device)
        found = classes_of(outputs, model.description.output_class)
        right.append((found == truth[index]).mean())
    score = learner.score()
    assert score is None or 0 <= score <= 1
    return (*right, learner)


def test_with_padding_and_several_channels():
    model = model_of(UNetConfig(in_channels=3, widths=(4, 8)))
    truth = boxes()
    image = case_of(truth, channels=3)
    before, after, _ = learns(model, image, lines(truth), truth, axes="cyx")
    assert after > max(0.9, before)


def test_without_padding():
    model = model_of(UNet2015Config(widths=(4, 8), dropout=0.0))
    truth = boxes()
    before, after, learner = learns(model, case_of(truth)[0], lines(truth), truth)
    assert after > max(0.9, before)
    piece = next(one for one in learner._batches._memories if one.answer is not None)
    assert piece.answer.shape[1:] == piece.target.shape  # for every pixel of the picture


@pytest.mark.parametrize(
    ("n", "about"),
    [
        (1, {"activation": "sigmoid", "output_class": (1,)}),
        (1, {"activation": "sigmoid", "output_class": (1,), "inverted": True}),
        (2, {"activation": "sigmoid", "output_class": (1, -1)}),
        (3, {"output_class": (0, 1, 1), "inside": 2}),
    ],
)  # fmt: skip
def test_outputs_of_other_kinds(n, about):
    names = {"class_names": ("background", "object")}
    model = model_of(UNetConfig(out_channels=n, widths=(8, 8)), **names, **about)
    truth = boxes()
    before, after, _ = learns(model, case_of(truth)[0], lines(truth), truth)
    assert after > max(0.85, before - 0.02)


def test_three_classes():
    model = model_of(UNetConfig(out_channels=3, widths=(8, 8)))
    truth = boxes()
    truth[:, 50:] *= 2
    before, after, learner = learns(model, case_of(truth)[0], lines(truth), truth)
    assert learner.paint.values == [0, 1, 2]
    assert after > max(0.8, before)


def test_strokes_on_slices_teach_a_network_of_volumes():
    model = model_of(UNetConfig(dims=3, widths=(4, 4)))
    truth = np.stack([boxes(64)] * 6)
    corrections = np.zeros_like(truth)
    corrections[2], corrections[4] = lines(truth[2]), lines(truth[4])
    before, after, learner = learns(
        model, case_of(truth)[0], corrections, truth, index=(3,), n_steps=40
    )
    assert after > max(0.8, before)
    (piece,) = learner.paint.all()
    assert piece.target.ndim == 3
    corrections[2] = 0
    live = live_image(make_image(case_of(truth)[0]))
    (gone, stays) = painted_blocks(np.stack([lines(truth[2]), corrections[4]]))
    gone.corrections[...] = 0
    empty = PaintedBlock(index=(2,), origin=(0, 0), corrections=gone.corrections)
    learner.take([Painted(image=live, blocks=(empty,))])
    (piece,) = learner.paint.all()
    z = torch.cat(list(piece.places.values()))[:, 0].unique() + piece.start[0]
    assert z.tolist() == [4]
    assert stays.corrections.any()
    assert np.isfinite(learner.step())


def test_volumes_are_learned_from_with_32_bits(monkeypatch):
    """torch's gradients of 16-bit convolutions of volumes are other ones each time."""
    monkeypatch.setattr("napari_unet.core.device.processor_has_bfloat16", lambda: True)
    kinds = []
    for dims, image, corrections in (
        (3, np.stack([boxes(64)] * 6), np.stack([lines(boxes(64))] * 6)),
        (2, boxes(), lines(boxes())),
    ):
        model = model_of(UNetConfig(dims=dims, widths=(4, 4)))
        learner = Learner(model, QUICK)
        convolution = next(
            one for one in learner._network.modules() if isinstance(one, nn.Conv2d | nn.Conv3d)
        )
        convolution.register_forward_hook(lambda _, __, out: kinds.append(out.dtype))
        live = live_image(make_image(case_of(image)[0]))
        learner.take([Painted(image=live, blocks=painted_blocks(corrections))])
        assert np.isfinite(learner.step())
    assert kinds == [torch.float32, torch.bfloat16]


def test_an_image_smaller_than_a_patch():
    model = model_of(UNetConfig(widths=(4, 8)))
    truth = boxes(96)[:20, :47]
    before, after, _ = learns(
        model, case_of(truth)[0], lines(truth, 6), truth, n_steps=QUICK.settle
    )
    assert after > before
