"""What a network consists of, read off one run of it.

The calls that a network makes while it works on a small picture are recorded, whatever class or
library it comes from. Nothing but their meaning counts: a network is known if each of its calls
is a kind of layer that can be evaluated window by window (`ops`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from napari_unet.core.engine.calls import (
    NOTHING,
    POINTWISE,
    READERS,
    WHOLE_IMAGE,
    Call,
    channels,
    pointwise,
    tensors_in,
)
from napari_unet.core.engine.graph import (
    Graph,
    Layer,
    UnsupportedError,
    WholeImageError,
)
from napari_unet.core.engine.ops import (
    Op,
)

__all__ = ["picture_in", "trace"]


@torch.inference_mode(False)  # in that mode other calls are seen, of many steps in one
@torch.no_grad()
def trace(network: nn.Module, in_channels: int, shape: tuple[int, ...]) -> Graph:
    """Record what `network` does with a picture of `shape` `([z,] y, x)`.

    Raises
    ------
    WholeImageError
        If a layer uses statistics of the whole image.
    UnsupportedError
        If a layer is of a kind that is not known here.
    RuntimeError
        If the network cannot take a picture of this size.
    """
    parameter = next(network.parameters(), torch.empty(0))
    generator = torch.Generator().manual_seed(0)
    image = torch.randn((1, in_channels, *shape), generator=generator).to(parameter.device)
    recorder = _Recorder(image)
    with recorder:
        output = network(image)
    place = recorder.place_of(picture_in(output, image.ndim))
    layers = _only_needed(recorder.layers, place)
    return Graph(dims=len(shape), in_channels=in_channels, layers=layers)


def picture_in(output: Any, ndim: int) -> Tensor:
    """The result among all that a network gives: the first of the largest pictures.

    Parameters
    ----------
    output : a tensor, or tensors in lists, tuples and dictionaries, as from deep supervision.
    ndim : of a picture with its batch and its channels.

    Raises
    ------
    UnsupportedError
        If there is none.
    """
    tensors = [one for one in tensors_in([output]) if one.ndim == ndim and one.shape[0] == 1]
    pictures = [one for one in tensors if one.is_floating_point()]
    if not pictures:
        kind = type(output).__name__
        kind += f" of shape {tuple(output.shape)}" if isinstance(output, Tensor) else ""
        raise UnsupportedError(f"it gives a {kind}, in which there is no picture")
    return max(pictures, key=lambda one: one[0, 0].numel())


def _only_needed(layers: Sequence[Layer], place: int) -> tuple[Layer, ...]:
    """The layers that lead to a place: others, as for deep supervision, have other outputs."""
    needed = {place}
    for at in range(place, 0, -1):
        needed.update(layers[at - 1].inputs if at in needed else ())
    places, kept = {0: 0}, []
    for at in sorted(needed - {0}):
        layer = layers[at - 1]
        kept.append(replace(layer, inputs=tuple(places[source] for source in layer.inputs)))
        places[at] = len(kept)
    return tuple(kept)


class _Recorder(TorchDispatchMode):
    """Writes down each call on a tensor that depends on the image."""

    def __init__(self, image: Tensor) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.layers: list[Layer] = []
        self.places: dict[int, int] = {id(image): 0}
        self._problems: list[UnsupportedError] = []  # the place of what has the first one is -1
        self._alive: list[Tensor] = [image]  # NOTE: an id is only unique while its owner lives

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """NOTE: if torch were to skip it, it would import its compiler first: a second or two."""
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        inputs = [self.places[id(t)] for t in tensors_in(args) if id(t) in self.places]
        out = func(*args, **kwargs)
        if inputs and min(inputs) < 0:
            self._lose(out, self._problems[-1 - min(inputs)])
        elif inputs:
            name = str(func.overloadpacket).partition(".")[2]
            name = name.rstrip("_") if name.endswith("_") else name
            try:
                self._record(name, func, args, kwargs, out)
            except UnsupportedError as problem:
                self._lose(out, problem)
        return out

    def place_of(self, result: Tensor) -> int:
        """The place of the layer that gives a result; raises what became of it on its way."""
        place = self.places.get(id(result), 0)
        if place < 0:
            raise self._problems[-1 - place]
        if place == 0:
            raise UnsupportedError("its output does not come from a layer that acts on the image")
        return place

    def _lose(self, out: Any, problem: UnsupportedError) -> None:
        """What comes from here is not followed; that matters if the output depends on it."""
        tensors = tensors_in([out])
        if not tensors:  # a number, by which the network may decide what it does
            raise problem
        self._problems.append(problem)
        for tensor in tensors:
            self._remember(tensor, -len(self._problems))

    def _record(
        self, name: str, func: Any, args: Sequence[Any], kwargs: dict[str, Any], out: Any
    ) -> None:
        call = Call(name=name, func=func, args=args, kwargs=kwargs, out=out)
        if name == "cat" and not all(self._is_followed(one) for one in tensors_in(args)):
            raise UnsupportedError("a layer joins the image with a picture of its own")
        if name in READERS:
            op = READERS[name](call)
        elif name in POINTWISE:
            op = pointwise(call, self._is_followed)
        elif name in NOTHING or (name in ("view", "_unsafe_view") and out.shape == args[0].shape):
            self._remember(out, self.places[id(args[0])])
            return
        elif name in ("split", "split_with_sizes", "chunk"):
            self._record_split(call)
            return
        elif name in WHOLE_IMAGE or name == "native_batch_norm":
            raise WholeImageError(f"a layer ({name}) uses statistics of the whole image")
        else:
            raise UnsupportedError(f"a layer ({name}) is of a kind that is not known here")
        first, *rest = out if isinstance(out, tuple | list) else (out,)
        self._add(op, [t for t in tensors_in(args) if self._is_followed(t)], first)
        if rest:
            self._lose(
                rest, UnsupportedError(f"a layer uses the second result of another ({name})")
            )

    def _record_split(self, call: Call) -> None:
        if (call.args[2] if len(call.args) > 2 else call.kwargs.get("dim", 0)) != 1:
            raise UnsupportedError("a layer splits the image")
        start = 0
        for part in call.out:
            stop = start + part.shape[1]
            self._add(channels(call.args[0], start, stop), [call.args[0]], part)
            start = stop

    def _is_followed(self, tensor: Tensor) -> bool:
        return id(tensor) in self.places

    def _add(self, op: Op, sources: Sequence[Tensor], out: Tensor) -> None:
        inputs = tuple(self.places[id(t)] for t in sources)
        self.layers.append(Layer(op=op, inputs=inputs, n_channels=int(out.shape[1])))
        self._remember(out, len(self.layers))

    def _remember(self, tensor: Any, place: int) -> None:
        if isinstance(tensor, Tensor):
            self.places[id(tensor)] = place
            self._alive.append(tensor)
