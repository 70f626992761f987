"""A window is predicted as if the whole image were, and what stays is kept."""

import numpy as np
import pytest
import torch

from napari_unet.core.image import make_image
from napari_unet.core.live.images import live_image
from napari_unet.core.live.viewing import MOST_KEPT, View, Viewer, pieces_of, rest_of
from napari_unet.core.model import Description, Model, weights_id
from napari_unet.core.networks import UNet, UNetConfig
from napari_unet.core.segmentation import segment

CPU = torch.device("cpu")


def random_model(seed=0, **options):
    config = UNetConfig(**{"widths": (4, 8), **options})
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = UNet(config).eval().requires_grad_(False)
    description = Description(
        name="random", dims=config.dims, in_channels=config.in_channels,
        class_names=("background", "object"), outputs=("background", "object"),
    )  # fmt: skip
    from napari_unet.core.device import choose_device

    return Model(
        network=network, architecture="unet", config=config, description=description,
        device=choose_device("cpu"), id=weights_id(network),
    )  # fmt: skip


def noise(*shape, seed=0):
    return np.random.default_rng(seed).normal(300, 50, shape).astype(np.float32)


def view_of(array, window, index=(), axes=None):
    return View(image=live_image(make_image(array, axes)), index=index, window=window)


@pytest.mark.parametrize(
    "window",
    [
        (slice(0, 150), slice(0, 131)), (slice(0, 40), slice(91, 131)),
        (slice(37, 90), slice(45, 46)), (slice(110, 150), slice(100, 131)),
    ],
)  # fmt: skip
def test_a_window_is_as_in_the_whole_image(window):
    model, image = random_model(), noise(150, 131)
    found = Viewer(model).outputs(model.network, view_of(image, window), CPU)
    expected = np.asarray(segment(image, model).outputs)[(slice(None), *window)]
    assert found.dtype == np.float16
    np.testing.assert_allclose(found, expected, atol=5e-3)


def test_a_plane_of_a_stack_by_a_network_of_volumes():
    model, stack = random_model(dims=3, widths=(4, 4)), noise(9, 40, 52)
    window = (slice(3, 40), slice(0, 50))
    found = Viewer(model).outputs(model.network, view_of(stack, window, (4,)), CPU)
    expected = np.asarray(segment(stack, model).outputs)[:, 4][(slice(None), *window)]
    np.testing.assert_allclose(found, expected, atol=5e-3)


def test_a_plane_of_a_stack_by_a_network_of_planes():
    model, stack = random_model(), noise(3, 40, 52)
    window = (slice(0, 40), slice(0, 52))
    found = Viewer(model).outputs(model.network, view_of(stack, window, (2,)), CPU)
    expected = np.asarray(segment(stack, model).outputs)[:, 2]
    np.testing.assert_allclose(found, expected, atol=5e-3)


def test_what_stays_in_view_is_read_once():
    class Counting(np.ndarray):
        n_read = 0

        def __getitem__(self, item):
            Counting.n_read += 1
            return np.asarray(self)[item]

    model = random_model()
    image = live_image(make_image(noise(64, 64).view(Counting)))
    viewer, view = Viewer(model), View(image=image, index=(), window=(slice(0, 64),) * 2)
    Counting.n_read = 0
    for _ in range(3):
        viewer.outputs(model.network, view, CPU)
    assert Counting.n_read == 1
    for x in range(10):
        one = View(image=image, index=(), window=(slice(0, 8), slice(x, x + 20)))
        viewer.outputs(model.network, one, CPU)
    assert len(viewer._inputs) <= MOST_KEPT
    viewer.forget()
    assert not viewer._inputs


def test_it_answers_with_the_network_it_is_given():
    model = random_model()
    other, view = random_model(seed=1), view_of(noise(40, 40), (slice(0, 40),) * 2)
    viewer = Viewer(model)
    a, b = (viewer.outputs(one.network, view, CPU) for one in (model, other))
    assert np.abs(a - b).max() > 0.01


def test_pieces_cover_a_big_view_from_the_middle_outwards():
    view = view_of(noise(300, 90), (slice(10, 300), slice(0, 90)))
    pieces = list(pieces_of(view, 100))
    covered = np.zeros((300, 90), int)
    for piece in pieces:
        covered[piece.window] += 1
        assert all(part.stop - part.start <= 100 for part in piece.window)
    assert (covered[10:] == 1).all()
    assert not covered[:10].any()
    rows = pieces[0].window[0]
    assert rows.start <= 155 <= rows.stop


def test_the_rest_of_a_stack_follows_plane_by_plane():
    stack = noise(4, 50, 60)
    view = view_of(stack, (slice(0, 20), slice(0, 20)), (2,))
    rest = list(rest_of(view, view.image.image, 40))
    assert rest[0].index == (2,)
    assert rest[0].window == (slice(0, 25), slice(0, 30))  # nearest to the view
    assert list(dict.fromkeys(one.index for one in rest)) == [(2,), (3,), (1,), (0,)]
    covered = np.zeros(stack.shape, int)
    for piece in rest:
        covered[piece.index][piece.window] += 1
    assert (covered == 1).all()


def test_other_stacks_come_after_the_one_in_view():
    view = view_of(noise(3, 2, 20, 20), (slice(0, 20), slice(0, 20)), (1, 0))
    rest = [one.index for one in rest_of(view, view.image.image)]
    assert rest == [(1, 0), (1, 1), (2, 0), (2, 1), (0, 0), (0, 1)]
