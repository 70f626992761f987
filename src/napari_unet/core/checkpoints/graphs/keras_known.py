"""U-Nets whose weights are passed around without a list of layers, told by their weights alone."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from napari_unet.core.checkpoints.graphs.hdf5 import Hdf5
from napari_unet.core.checkpoints.graphs.keras_weights import LegacyWeights, weights_in
from napari_unet.core.errors import ModelFileError

__all__ = ["Known", "known_config"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """What a file of weights alone was taken for.

    Attributes
    ----------
    config : the `model_config` that a model file would have.
    assumed, notes : as in `Graph`.
    """

    config: dict[str, Any]
    assumed: tuple[str, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Conv:
    """One convolution of the file: name of its layer, and shape of its kernel as Keras has it."""

    name: str
    shape: tuple[int, ...]

    @property
    def kernel(self) -> tuple[int, ...]:
        return self.shape[:-2]

    @property
    def is_transposed(self) -> bool:
        return "transpose" in self.name


def known_config(file: Hdf5) -> Known:
    """The layers that weights without a list of layers belong to.

    Raises
    ------
    ModelFileError
        If they are not those of a well-known network.
    """
    for order in _orders(_convolutions(file)):
        for family, title in ((_tutorial, "of the tutorials"), (_membrane, "of zhixuhao/unet")):
            config = family(order)
            if config is not None:
                return Known(
                    config=config,
                    assumed=("layers", "activation", "normalization"),
                    notes=(
                        f"{file.name} holds weights without a list of layers. Their shapes are "
                        f"those of the U-Net {title}, so its padding (same), its ReLU and its "
                        f"final activation were assumed.",
                    ),
                )
    raise ModelFileError(
        f"{file.name} holds only weights, without the list of layers they belong to, and they are "
        f"not those of a well-known U-Net. Save the whole model, model.save('name.h5') or "
        f"'name.keras', or export it as ONNX."
    )


def _convolutions(file: Hdf5) -> list[_Conv]:
    """All layers with weights, if they are all convolutions, in the order of the file."""
    weights = weights_in(file, {})
    if isinstance(weights, LegacyWeights):
        names: Sequence[str] = weights.layers
    else:
        listed = (file.children(part) for part in ("layers", "_layer_checkpoint_dependencies"))
        groups = [f"{part}/{name}/vars" for part, children in
                  zip(("layers", "_layer_checkpoint_dependencies"), listed, strict=True)
                  for name in children]  # fmt: skip
        names = [str(file.attribute(one, "name") or one.split("/")[1]) for one in groups]
    found = []
    for name in names:
        stored = weights.of((name,), "Conv", {})
        if not stored:
            continue
        if not set(stored) <= {"kernel", "bias"} or stored["kernel"][0].ndim not in (4, 5):
            return []
        found.append(_Conv(name=name, shape=tuple(stored["kernel"][0].shape)))
    return found


def _orders(convs: list[_Conv]) -> list[list[_Conv]]:
    """Orders in which the layers may follow each other: as listed, and as numbered by name.

    The newer files list them by alphabet, so that the number in their names is all there is; the
    up-convolutions are then numbered by themselves, and each belongs before the two convolutions
    that take half their channels from it.
    """
    if not convs:
        return []
    plain = sorted((c for c in convs if not c.is_transposed), key=lambda c: _number(c.name))
    ups = sorted((c for c in convs if c.is_transposed), key=lambda c: _number(c.name))
    if not ups:
        return [convs, plain]
    n_levels = len(ups) + 1
    merged = plain[: 2 * n_levels]
    for at, up in enumerate(ups):
        start = 2 * n_levels + 2 * at
        merged += [up, *plain[start : start + 2]]
    merged += plain[2 * n_levels + 2 * len(ups) :]
    return [convs, merged]


def _number(name: str) -> int:
    found = re.search(r"_(\d{1,6})$", name)
    return int(found[1]) if found else -1


def _tutorial(convs: list[_Conv]) -> dict[str, Any] | None:
    """Two convolutions per level, up-convolution 2x2, [up, skip], convolution 1x1."""
    n_ups = sum(conv.is_transposed for conv in convs)
    if n_ups < 1 or len(convs) != 2 * (n_ups + 1) + 3 * n_ups + 1:
        return None
    net = _Net(convs)
    if convs[0].shape[-2] == 3:
        net.add("Rescaling", "scaled", {"scale": 1 / 255, "offset": 0.0}, [net.last])
    skips = []
    for level in range(n_ups + 1):
        skips.append(net.twice())
        if level < n_ups:
            net.pool()
    skips.pop()
    for _ in range(n_ups):
        size = net.next.kernel
        up = net.conv("Conv%dDTranspose", None, {"strides": list(size)}, is_up=True)
        net.add("Concatenate", f"{up}_joined", {"axis": -1}, [up, skips.pop()])
        net.twice()
    return net.finished()


def _membrane(convs: list[_Conv]) -> dict[str, Any] | None:
    """Two convolutions per level, nearest and convolution 2x2, [skip, up], perhaps one to 2."""
    n_ups = sum(set(conv.kernel) == {2} for conv in convs)
    n_more = len(convs) - (2 * (n_ups + 1) + 3 * n_ups + 1)
    if n_ups < 1 or n_more not in (0, 1) or any(conv.is_transposed for conv in convs):
        return None
    net, skips = _Net(convs), []
    for level in range(n_ups + 1):
        skips.append(net.twice())
        if level < n_ups:
            net.pool()
    skips.pop()
    for _ in range(n_ups):
        net.add(f"UpSampling{net.dims}D", f"{net.last}_up", {"size": [2] * net.dims}, [net.last])
        up = net.conv("Conv%dD", "relu")
        net.add("Concatenate", f"{up}_joined", {"axis": -1}, [skips.pop(), up])
        net.twice()
    if n_more:
        net.conv("Conv%dD", "relu")
    return net.finished()


class _Net:
    """A model configuration in the making; `fits` turns false when a shape does not."""

    def __init__(self, convs: list[_Conv]) -> None:
        self.dims = len(convs[0].kernel)
        self.fits = True
        self._left = list(convs)
        self._layers: list[dict[str, Any]] = []
        self._channels: dict[str, int] = {}
        shape = [None, *[None] * self.dims, convs[0].shape[-2]]
        self.last = ""
        self.add("InputLayer", "image", {"batch_input_shape": shape}, [])
        self._channels["image"] = convs[0].shape[-2]

    @property
    def next(self) -> _Conv:
        """The convolution that comes next; the last one if none is left."""
        return self._left[0] if self._left else _Conv(name="", shape=(0,) * (self.dims + 2))

    def add(self, kind: str, name: str, config: dict[str, Any], inputs: list[str]) -> str:
        """A layer."""
        nodes = [[[one, 0, 0, {}] for one in inputs]] if inputs else []
        self._layers.append(
            {
                "class_name": kind,
                "name": name,
                "config": {"name": name, **config},
                "inbound_nodes": nodes,
            }
        )
        self._channels[name] = sum(self._channels.get(one, 0) for one in inputs)
        self.last = name
        return name

    def conv(
        self,
        kind: str,
        activation: str | None,
        config: dict[str, Any] | None = None,
        is_up: bool = False,
    ) -> str:
        """The next convolution of the file."""
        one = self.next
        n_in, n_out = (one.shape[-1], one.shape[-2]) if is_up else one.shape[-2:]
        self.fits &= n_in == self._channels[self.last] and one.is_transposed == is_up
        self.fits &= len(one.kernel) == self.dims and one.name not in self._channels
        self._left = self._left[1:]
        settings = {"padding": "same", "activation": activation, **(config or {})}
        name = self.add(kind % self.dims, one.name, settings, [self.last])
        self._channels[name] = n_out
        return name

    def twice(self) -> str:
        """Two convolutions 3x3."""
        for _ in range(2):
            self.fits &= set(self.next.kernel) == {3}
            self.conv("Conv%dD", "relu")
        return self.last

    def pool(self) -> None:
        """Halve the image."""
        size = {"pool_size": [2] * self.dims}
        self.add(f"MaxPooling{self.dims}D", f"{self.last}_pooled", size, [self.last])

    def finished(self) -> dict[str, Any] | None:
        """The configuration, with a last convolution 1x1; None if anything did not fit."""
        self.fits &= set(self.next.kernel) == {1}
        n_out = self.next.shape[-1]
        name = self.conv("Conv%dD", "sigmoid" if n_out == 1 else "softmax")
        if not self.fits or self._left:
            return None
        config = {
            "name": "known",
            "layers": self._layers,
            "input_layers": [["image", 0, 0]],
            "output_layers": [[name, 0, 0]],
        }
        return {"class_name": "Functional", "config": config}
