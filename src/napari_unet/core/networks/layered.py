"""A network given as a list of layers, as Keras, Caffe and ONNX files hold it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor, nn

from napari_unet.core.errors import ModelFileError
from napari_unet.core.networks.layered_ops import OPS, Value

__all__ = ["INPUT", "Layer", "LayeredConfig", "LayeredNetwork"]

INPUT = "input"
"""What layers call the image itself."""
MOST_LAYERS = 5_000
LARGEST = 1 << 24
"""No number of channels, and no other number, is larger than this."""
LARGEST_OF: Mapping[str, int] = {
    **dict.fromkeys(("amounts", "dilation", "kernel", "offset", "padding", "stride"), 1024),
    "size": 8192,
}
"""Of what is measured in px: at least this keeps a layer from taking all memory."""
MOST_ENLARGED = 64
"""No layer's output may be more than this many times as wide as the image."""

ENLARGING: Mapping[str, str] = {
    "pixel_shuffle": "factor",
    "resize": "scale",
    "transposed_conv": "stride",
}
"""Layers that enlarge, and the value that says how much."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """One layer.

    Attributes
    ----------
    name : unlike that of any other layer.
    op : what it does, a name in `layered_ops.OPS`, where the values it takes are described.
    inputs : names of earlier layers, or "input".
    values : its settings, plain values.
    """

    name: str
    op: str
    inputs: tuple[str, ...]
    values: Mapping[str, Value] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.op not in OPS:
            raise ModelFileError(
                f"Layer {self.name!r} does {self.op!r}, which is not known here; known are "
                f"{', '.join(sorted(OPS))}."
            )
        n_least, n_most = OPS[self.op].n_inputs
        if not n_least <= len(self.inputs) <= n_most:
            raise ModelFileError(
                f"Layer {self.name!r} ({self.op}) has {len(self.inputs)} inputs, but needs "
                f"{n_least if n_least == n_most else f'at least {n_least}'}."
            )
        for name, value in self.values.items():
            most = LARGEST_OF.get(name, LARGEST)
            if any(_is_too_large(one, most) for one in _listed(value)):
                raise ModelFileError(
                    f"Layer {self.name!r} says {name} = {value}, which no image needs; "
                    f"the file is damaged."
                )


def _listed(value: Value) -> tuple[object, ...]:
    return value if isinstance(value, tuple) else (value,)


def _is_too_large(value: object, most: float) -> bool:
    return isinstance(value, int | float) and not abs(value) <= most  # nor not a number


@dataclass(frozen=True, slots=True, kw_only=True)
class LayeredConfig:
    """What the network is.

    Attributes
    ----------
    dims : 2 for images `(y, x)`, 3 for volumes `(z, y, x)`.
    in_channels, out_channels : channels of the input and of the output.
    layers : in an order in which they can be evaluated; the last one is the output.
    """

    dims: Literal[2, 3]
    in_channels: int
    out_channels: int
    layers: tuple[Layer, ...]

    def __post_init__(self) -> None:
        if self.dims not in (2, 3):
            raise ModelFileError(f"dims must be 2 or 3, not {self.dims}; the file is damaged.")
        if not 0 < len(self.layers) <= MOST_LAYERS:
            raise ModelFileError(
                f"The file lists {len(self.layers)} layers; a network has 1 to {MOST_LAYERS}."
            )
        enlarged = {INPUT: (1.0,) * self.dims}
        for layer in self.layers:
            unknown = [name for name in layer.inputs if name not in enlarged]
            if unknown:
                raise ModelFileError(
                    f"Layer {layer.name!r} reads {unknown[0]!r}, which is not among the layers "
                    f"before it; the list of layers is inconsistent."
                )
            if layer.name in enlarged:
                raise ModelFileError(
                    f"There are two layers of the name {layer.name!r}; the list of layers is "
                    f"inconsistent."
                )
            enlarged[layer.name] = self._enlarged(layer, [enlarged[name] for name in layer.inputs])
            if max(enlarged[layer.name]) > MOST_ENLARGED:
                raise ModelFileError(
                    f"Layer {layer.name!r} would make the image more than {MOST_ENLARGED} times "
                    f"as wide; that is not a network for segmentation."
                )

    def _enlarged(self, layer: Layer, before: Sequence[tuple[float, ...]]) -> tuple[float, ...]:
        """At most how many times as wide as the image the output of a layer is, per axis."""
        most = [max(axis) for axis in zip(*before, strict=True)] or [1.0] * self.dims
        name = ENLARGING.get(layer.op, "stride")
        steps = [float(str(one)) for one in _listed(layer.values.get(name) or 1)]
        if len(steps) not in (1, self.dims) or min(steps) <= 0:
            raise ModelFileError(
                f"Layer {layer.name!r} says {name} = {layer.values[name]}, which does not fit "
                f"images with {self.dims} axes; the file is damaged."
            )
        steps = steps if len(steps) > 1 else steps * self.dims
        if layer.op in ENLARGING:
            return tuple(n * step for n, step in zip(most, steps, strict=True))
        return tuple(n / step for n, step in zip(most, steps, strict=True))


class LayeredNetwork(nn.Module):
    """Image `(b, c, [z,] y, x)` to whatever the last layer gives, `(b, output, [z,] y, x)`.

    Weights are in `layers`, one plain module of torch per layer: "layers.3.weight".
    """

    def __init__(self, config: LayeredConfig) -> None:
        super().__init__()
        self.config = config
        self.layers = nn.ModuleList(
            OPS[layer.op].build(layer.values, config.dims) for layer in config.layers
        )
        self._last_use = _last_uses(config.layers)

    def forward(self, image: Tensor) -> Tensor:
        """Run the layers one after the other; what nobody reads any more is let go."""
        known = {INPUT: image}
        for at, (layer, module) in enumerate(zip(self.config.layers, self.layers, strict=True)):
            inputs = [known[name] for name in layer.inputs]
            known[layer.name] = OPS[layer.op].run(module, layer.values, inputs)
            del inputs
            for name in self._last_use[at]:
                known.pop(name, None)
        return known[self.config.layers[-1].name]


def _last_uses(layers: tuple[Layer, ...]) -> tuple[tuple[str, ...], ...]:
    """For each layer, the names that are read by it for the last time."""
    last = {name: at for at, layer in enumerate(layers) for name in layer.inputs}
    last.pop(layers[-1].name, None)
    return tuple(tuple(name for name in last if last[name] == at) for at in range(len(layers)))
