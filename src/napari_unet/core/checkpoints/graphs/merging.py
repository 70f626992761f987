"""Runs of one program for several sizes of the image become one list of layers for all sizes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, cast

import torch
from torch import Tensor

from napari_unet.core.checkpoints.family import classes_of
from napari_unet.core.checkpoints.graphs import Graph
from napari_unet.core.checkpoints.graphs.aligning import aligned
from napari_unet.core.checkpoints.graphs.probing import Program, Run, runs_of
from napari_unet.core.checkpoints.graphs.recording import Step
from napari_unet.core.checkpoints.graphs.shapes import shape_after
from napari_unet.core.errors import ModelFileError
from napari_unet.core.networks.layered import INPUT, Layer, LayeredConfig

__all__ = ["Names", "followed"]


@dataclass(slots=True, eq=False)
class Names:
    """What the tensors of a file are called, also after they were reshaped."""

    _known: dict[tuple[int, int], str] = field(default_factory=dict)

    def know(self, name: str, tensor: Tensor) -> None:
        """Remember the name of a tensor, which must be kept alive."""
        self._known.setdefault((tensor.data_ptr(), tensor.numel()), name)

    def of(self, tensor: Tensor) -> str | None:
        """The name, unless the tensor was computed."""
        return self._known.get((tensor.data_ptr(), tensor.numel()))


def followed(program: Program, options: Sequence[Sequence[tuple[int, ...]]], names: Names) -> Graph:
    """The list of layers that does what a program does.

    Parameters
    ----------
    program : follows the program of a file.
    options : lists of shapes of images to follow it for, `(1, c, [z,] y, x)`; see `runs_of`.
    names : of the tensors of the file.

    Raises
    ------
    ModelFileError
        If a step of the program is none that a list of layers can hold, or depends on the size of
        the image in a way that is not understood.
    """
    runs = runs_of(program, options)
    chosen = aligned(runs)
    layers, weights = _layers(chosen)
    image_shape, out_shape = chosen[0].image_shape, chosen[0].steps[-1].shape
    config = LayeredConfig(
        dims=cast(Literal[2, 3], len(image_shape) - 2),
        in_channels=image_shape[1],
        out_channels=out_shape[1],
        layers=tuple(layers),
    )
    _check_sizes(config, runs)
    activation = chosen[0].activation
    notes = [note for run in chosen[:1] for note in run.notes]
    if len({run.image_shape for run in runs}) == 1:
        size = " x ".join(str(n) for n in image_shape[2:])
        notes.append(f"The file states images of {size} px; other sizes may work as well.")
    return Graph(
        config=config,
        tensors={name: value.detach().to(torch.float32) for name, value in weights.items()},
        names={n: (known,) for n, value in weights.items() if (known := names.of(value))},
        about=classes_of(out_shape[1], "" if activation == "none" else activation),
        assumed=("class_names", "normalization", "pixel_size")
        + (("activation",) if activation == "none" else ()),
        notes=tuple(notes),
    )


def _layers(runs: Sequence[Run]) -> tuple[list[Layer], dict[str, Tensor]]:
    """Layers for all sizes, and their weights by names in the network."""
    layers: list[Layer] = []
    weights: dict[str, Tensor] = {}
    called = {-1: INPUT}
    steps = _affine(runs)
    for at, step in steps.items():
        inputs = tuple(called[i] for i in step.inputs)
        if step.op == "identity" and at < len(steps) - 1:
            called[at] = inputs[0]
            continue
        layers += _pieces(at, step, inputs, runs, called)
        for role, value in step.weights.items():
            weights[f"layers.{len(layers) - 1}.{role}"] = value.contiguous()
        called[at] = layers[-1].name
    return layers, weights


def _pieces(
    at: int, step: Step, inputs: tuple[str, ...], runs: Sequence[Run], called: Mapping[int, str]
) -> list[Layer]:
    """The layer, or layers, of one step of all runs."""
    name = f"{at} {step.op}"
    for run in runs[1:]:
        other = run.steps[at].weights
        if any(not _same(run_value, other.get(role)) for role, run_value in
               runs[0].steps[at].weights.items()):  # fmt: skip
            raise _dependent(step)
    varying = [run.steps[at].values for run in runs]
    if all(values == varying[0] for values in varying) and "size" not in step.values:
        return [Layer(name=name, op=step.op, inputs=inputs, values=step.values)]
    if step.op == "resize":
        return [_resized(at, step, inputs, runs, called)]
    if step.op in ("pad", "crop"):
        return _fitted(at, step, inputs, runs, called)
    if step.op in ("avg_pool", "max_pool") and all(
        tuple(run.steps[at].values["kernel"]) == run.shape(step.inputs[0])[2:] for run in runs
    ):
        return [Layer(name=name, op=f"global_{step.op}", inputs=inputs)]
    raise _dependent(step)


def _same(one: Tensor, other: Tensor | None) -> bool:
    return one is other or (other is not None and torch.equal(one, other))


def _dependent(step: Step) -> ModelFileError:
    return ModelFileError(
        f"The program in this file computes something from the size of the image that is not "
        f"understood ({step.op} at {step.where or 'an unnamed place'}), so that it cannot be "
        f"rebuilt. Please save the weights alone (the state dict), or report this file."
    )


def _resized(
    at: int, step: Step, inputs: tuple[str, ...], runs: Sequence[Run], called: Mapping[int, str]
) -> Layer:
    """Resizing by a factor, to a fixed size, or to the size of an earlier result."""
    name = f"{at} resize"
    values = {key: value for key, value in step.values.items() if key not in ("size", "scale")}
    factors = {
        tuple(n / m for n, m in zip(_size(run, at), _size(run, step.inputs[0]), strict=True))
        for run in runs
    }
    if len(factors) == 1 and all(float(one).is_integer() for one in min(factors)):
        return Layer(
            name=name, op="resize", inputs=inputs, values={**values, "scale": min(factors)}
        )
    if len({_size(run, at) for run in runs}) == 1 < len({run.image_shape for run in runs}):
        return Layer(name=name, op="resize", inputs=inputs, values=step.values)
    like = called[_like(at, step, runs)]
    return Layer(name=name, op="resize", inputs=(*inputs, like), values=values)


def _size(run: Run, at: int) -> tuple[int, ...]:
    return run.shape(at)[2:]


def _like(at: int, step: Step, runs: Sequence[Run]) -> int:
    """An earlier result, or the image, that is of the size that a step gives in all runs."""
    for other in range(-1, at):
        if all(_size(run, other) == _size(run, at) for run in runs):
            return other
    raise _dependent(step)


def _fitted(
    at: int, step: Step, inputs: tuple[str, ...], runs: Sequence[Run], called: Mapping[int, str]
) -> list[Layer]:
    """Borders added or cut so that the size is that of an earlier result.

    More than enough is added first, and what is too much is cut off then, so that any size fits.
    """
    dims = len(runs[0].image_shape) - 2
    sign = 1 if step.op == "pad" else -1
    amounts = [[sign * n for n in run.steps[at].values["amounts"]] for run in runs]
    spare = max(max(map(abs, some)) for some in amounts)
    if step.op == "crop":
        spare = 0
    elif step.values.get("mode", "zero") == "zero":
        spare = max(2 * spare, 4)
    ends = [(one[i], one[i + dims]) for one in amounts for i in range(dims)]
    before = {some[i] for some in amounts for i in range(dims)}
    offset: dict[str, Any] = {}
    is_floor = all(first == (first + last) // 2 for first, last in ends)
    is_ceil = all(first == -(-(first + last) // 2) for first, last in ends)
    if is_ceil and (sign < 0 or not is_floor):
        added = (spare, spare)
    elif is_floor:  # the odd px is added behind, or cut off in front
        added = (spare, spare + 1)
    elif len(before) == 1:
        added = (spare, spare)
        offset = {"offset": (spare - min(before),) * dims}
    else:
        raise _dependent(step)
    like = called[_like(at, step, runs)]
    layers = []
    if any(added):
        values: dict[str, Any] = {**step.values} if sign > 0 else {"mode": "zero"}
        values["amounts"] = (added[0],) * dims + (added[1],) * dims
        layers.append(Layer(name=f"{at} pad", op="pad", inputs=inputs, values=values))
        inputs = (layers[0].name,)
    crop = Layer(name=f"{at} fit", op="crop", inputs=(*inputs, like), values=offset)
    return [*layers, crop]


def _affine(runs: Sequence[Run]) -> dict[int, Step]:
    """The steps of the first run, factors and shifts after a normalisation taken into it."""
    steps = dict(enumerate(runs[0].steps))
    users: dict[int, int] = defaultdict(int)
    for step in steps.values():
        for i in step.inputs:
            users[i] += 1
    for at, step in list(steps.items()):
        before = steps.get(step.inputs[0]) if step.inputs else None
        if step.op != "scale_shift" or before is None or users[step.inputs[0]] != 1:
            continue
        if before.op in ("group_norm", "instance_norm"):
            steps[step.inputs[0]] = replace(steps[step.inputs[0]], op="identity", weights={},
                                            values={}, inputs=before.inputs)  # fmt: skip
            steps[at] = _with_affine(before, step)
    return steps


def _with_affine(norm: Step, scale: Step) -> Step:
    factor, shift = scale.weights["factor"], scale.weights["shift"]
    weight, bias = norm.weights.get("weight"), norm.weights.get("bias")
    is_shift = bool((factor == 1).all())
    weights = {
        "weight": factor if weight is None else weight if is_shift else weight * factor,
        "bias": shift if bias is None or not bias.any() else bias * factor + shift,
    }
    return replace(norm, values={**norm.values, "affine": True}, weights=weights)


def _check_sizes(config: LayeredConfig, runs: Sequence[Run]) -> None:
    """Whether the layers give results of the sizes that the program gives."""
    for run in runs:
        shapes = {INPUT: run.image_shape}
        for layer in config.layers:
            given = [shapes[name] for name in layer.inputs]
            try:
                shapes[layer.name] = shape_after(layer.op, given, layer.values, {}, config.dims)
            except (RuntimeError, ValueError) as error:
                raise _dependent(run.steps[-1]) from error
        if shapes[config.layers[-1].name] != run.steps[-1].shape:
            raise _dependent(run.steps[-1])
