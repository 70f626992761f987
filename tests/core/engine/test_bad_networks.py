"""Whatever a network does wrong ends in a sentence, never in an error of torch."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from networks import picture, with_middle
from running import image_of, plan_for, request_for, unscaled
from torch import Tensor, nn

from napari_unet.core.errors import ImageError, UNetLiveError
from napari_unet.core.prediction import member_for, predict
from napari_unet.core.progress import finish
from napari_unet.core.rooms import ArrayRoom


class Answering(nn.Module):
    """A convolution, and then whatever a function makes of its output."""

    def __init__(self, answer: Callable[[Tensor], Any], n_in: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(n_in, 3, 3, padding=1)
        self.answer = answer

    def forward(self, image: Tensor) -> Any:
        return self.answer(self.conv(image))


def fails(*_: object) -> Any:
    raise ZeroDivisionError("no idea")


SENTENCE = re.compile(r"^The network cannot be used: .+\. Choose another model, or check that ")


@pytest.mark.parametrize(
    ("answer", "what"),
    [
        (lambda x: None, "gives a NoneType, in which there is no picture"),
        (lambda x: (), "gives a tuple"),
        (lambda x: ("a", 3), "gives a tuple"),
        (lambda x: {"loss": x.mean()}, "gives a dict"),
        (lambda x: x.mean(dim=(2, 3)), r"gives a Tensor of shape \(1, 3\)"),
        (lambda x: x.argmax(dim=1), r"gives a Tensor of shape"),
        (lambda x: x.argmax(dim=1, keepdim=True), r"gives a Tensor of shape"),
        (lambda x: x.mean(dim=(2, 3), keepdim=True), "of another resolution"),
        (lambda x: nn.functional.avg_pool2d(x, 2), "of another resolution"),
        (lambda x: nn.functional.interpolate(x, scale_factor=2), r"gives \(128, 128\) px for"),
        (lambda x: x.numpy(), "gives a ndarray"),
        (fails, "takes no image of usual size .*no idea"),
    ],
)  # fmt: skip
def test_no_picture_comes_out(answer: Callable[[Tensor], Any], what: str) -> None:
    with pytest.raises(UNetLiveError, match=what) as caught:
        plan_for(Answering(answer).eval().requires_grad_(False), picture(1, 40, 40))
    assert SENTENCE.match(str(caught.value)), str(caught.value)
    assert "\n" not in str(caught.value)
    assert not isinstance(caught.value, RuntimeError)


def test_another_number_of_channels() -> None:
    with pytest.raises(UNetLiveError, match=r"cannot be used: it takes no image of usual size"):
        plan_for(Answering(lambda x: x, n_in=3), picture(1, 40, 40))
    with pytest.raises(UNetLiveError, match="cannot be used"):
        plan_for(nn.Conv3d(1, 2, 3, padding=1), picture(1, 2, 40, 40)[0])


def test_an_image_with_other_channels_than_the_network() -> None:
    network = Answering(lambda x: x, n_in=3).eval()
    array = picture(2, 30, 30)
    request = request_for(network, picture(3, 30, 30))
    with pytest.raises(ImageError, match=r"has 2 channels .* network takes 3"):
        member_for(request, image_of(array), unscaled(2))


def test_a_forward_that_wants_more() -> None:
    class Greedy(nn.Module):
        def forward(self, image: Tensor, prompt: Tensor) -> Tensor:
            return image * prompt

    with pytest.raises(UNetLiveError, match="missing 1 required positional argument: 'prompt'"):
        plan_for(Greedy(), picture(1, 40, 40))


def test_weights_of_another_type() -> None:
    with pytest.raises(UNetLiveError, match="cannot be used"):
        plan_for(nn.Conv2d(1, 2, 3).double(), picture(1, 40, 40))


def test_a_lack_of_memory_while_it_is_tried() -> None:
    """Larger pictures than the first do not fit: then what can be tried must do."""

    class Large(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = with_middle(nn.ReflectionPad2d(0))

        def forward(self, image: Tensor) -> Tensor:
            if image.shape[2] > 100:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")
            return self.network(image) + (image[:, :, ::1].flip(3).flip(3) * 0)

    made = plan_for(Large().eval(), picture(1, 200, 200), tile_size=48)
    assert made.name == "in blended tiles"
    assert not made.is_exact
    assert "trying it out failed (CUDA out of memory" in made.reason


@pytest.mark.parametrize(
    "error", [RuntimeError("Expected 3\nand more"), ValueError("bad"), IndexError("out of range"),
              KeyError("z"), AssertionError()],
)  # fmt: skip
def test_a_network_that_fails_later(error: Exception) -> None:
    class Later(nn.Module):
        is_tried = True

        def forward(self, image: Tensor) -> Tensor:
            if not self.is_tried:
                raise error
            return image.flip(2).flip(2)

    network, array = Later(), picture(1, 40, 40)
    member = member_for(request_for(network, array), image_of(array), unscaled(1))
    network.is_tried = False
    room = ArrayRoom(np.zeros((1, 40, 40), np.float32))
    with pytest.raises(UNetLiveError, match="The network failed on a part of the image") as caught:
        finish(predict([member], image_of(array), room))
    assert caught.value.__cause__ is error
    assert "\n" not in str(caught.value)
    assert not isinstance(caught.value, RuntimeError)


def test_more_outputs_than_there_is_room_for() -> None:
    network, array = Answering(lambda x: x).eval().requires_grad_(False), picture(1, 40, 40)
    member = member_for(request_for(network, array), image_of(array), unscaled(1))
    room = ArrayRoom(np.zeros((2, 40, 40), np.float32))
    with pytest.raises(ImageError, match=r"gives \(3, 40, 40\) .* as its description says"):
        finish(predict([member], image_of(array), room))
