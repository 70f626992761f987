"""A program is followed without being run: every call on the image becomes one recorded step.

The values of a followed program are plain numbers, tensors of the file, and `Feature`s, which
stand for what a step gives and know nothing but their shape. Shapes are computed by the layers
themselves on torch's "meta" device, where there are no numbers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor

from napari_unet.core.checkpoints.graphs.shapes import shape_after
from napari_unet.core.errors import ModelFileError

__all__ = ["Feature", "Outcome", "Recorder", "Step", "View"]

MAX_STEPS = 20_000


@dataclass(frozen=True, slots=True, eq=False)
class Feature:
    """What a step gives.

    Attributes
    ----------
    step : its number; -1 is the image.
    shape : `(b, c, [z,] y, x)`.
    """

    step: int
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True, eq=False)
class View:
    """The values of a feature in another arrangement, which the program must undo again.

    Attributes
    ----------
    base : the feature.
    shape : its shape as the program sees it.
    order : the axes of `base` in the order of this view, or None if it was reshaped.
    """

    base: Feature
    shape: tuple[int, ...]
    order: tuple[int, ...] | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Outcome:
    """What programs make of the output at their end, which is none of a network's layers.

    Attributes
    ----------
    value : the feature, or view of one, that it is made of.
    activation : what makes probabilities of it: "softmax" or "sigmoid".
    """

    value: Feature | View
    activation: str


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Step:
    """One call on the image or on what came of it.

    Attributes
    ----------
    op : what is done, a name in `layered_ops.OPS`.
    inputs : numbers of the steps whose results it takes.
    values : plain numbers and texts, as the layer takes them.
    weights : tensors of the file by their names in the layer: "weight", "bias" ...
    shape : of the result.
    where : where it stands in the program, for people.
    """

    op: str
    inputs: tuple[int, ...]
    values: Mapping[str, Any]
    weights: Mapping[str, Tensor]
    shape: tuple[int, ...]
    where: str


@dataclass(slots=True, eq=False)
class Recorder:
    """Takes down the steps of one program for one size of the image.

    Attributes
    ----------
    steps : what was recorded so far.
    where : where the program stands, for messages; kept up to date by whoever reads the program.
    hopeless : whether what stops the program will stop it for images of any size.
    """

    image_shape: tuple[int, ...]
    steps: list[Step] = field(default_factory=list)
    where: str = ""
    hopeless: bool = False
    _overwritten: dict[int, Feature] = field(default_factory=dict)

    @property
    def image(self) -> Feature:
        """What goes into the program."""
        return Feature(-1, self.image_shape)

    def refuse(self, why: str) -> ModelFileError:
        """An error that says where in the program something cannot be translated."""
        return ModelFileError(
            f"The program in this file cannot be rebuilt: {why}"
            f"{f' (at {self.where})' if self.where else ''}. "
            "Please save the weights alone (the state dict), or report this file."
        )

    def add(
        self,
        op: str,
        *inputs: Feature,
        weights: Mapping[str, Tensor | None] | None = None,
        **values: Any,
    ) -> Feature:
        """Record a step and return what it gives; raises `ModelFileError` if shapes do not fit."""
        if len(self.steps) >= MAX_STEPS:
            raise self.refuse(f"it has more than {MAX_STEPS} steps")
        held = {role: value for role, value in (weights or {}).items() if value is not None}
        inputs = tuple(self.now(x) for x in inputs)
        shapes = [x.shape for x in inputs]
        try:
            shape = shape_after(op, shapes, values, held, len(self.image_shape) - 2)
        except (RuntimeError, ValueError, TypeError, IndexError, OverflowError) as error:
            raise self.refuse(
                f"the step '{op}' does not fit what it is given, of shape "
                f"{' and '.join(map(str, shapes))}"
            ) from error
        steps = tuple(x.step for x in inputs)
        self.steps.append(
            Step(op=op, inputs=steps, values=values, weights=held, shape=shape, where=self.where)
        )
        return Feature(len(self.steps) - 1, shape)

    def overwrite(self, value: Any, result: Any) -> None:
        """A feature was changed in place: whoever still has it has the result from now on."""
        value = value.base if isinstance(value, View) else value
        result = result.base if isinstance(result, View) else result
        if isinstance(value, Feature) and isinstance(result, Feature) and value is not result:
            self._overwritten[self.now(value).step] = result

    def now(self, value: Feature) -> Feature:
        """A feature with all changes that were made to it in place."""
        while value.step in self._overwritten:
            value = self._overwritten[value.step]
        return value

    def feature(self, value: Any) -> Feature:
        """The value as a feature; refuses constants and views, which no layer can take."""
        if isinstance(value, Feature):
            return value
        if isinstance(value, View):
            raise self.refuse("it rearranges the axes of features in a way that is not understood")
        if isinstance(value, Outcome):
            raise self.refuse("it goes on after the decision for a class")
        raise self.refuse("a layer is given a constant where the image was expected")

    def pointwise(self, op: str, x: Any, **values: Any) -> Any:
        """A function of each number by itself, of a feature or of a view of one."""
        if isinstance(x, View):
            return View(self.pointwise(op, x.base, **values), x.shape, x.order)
        return self.add(op, self.feature(x), **values)

    def binary(self, kind: str, left: Any, right: Any) -> Any:
        """`add`, `sub`, `mul` or `div` of features, or of a feature and a constant."""
        if isinstance(left, View) or isinstance(right, View):
            return self._binary_of_views(kind, left, right)
        if isinstance(left, Feature) and isinstance(right, Feature):
            return self.add(kind, left, right)
        reverse = not isinstance(left, Feature)
        feature, constant = (right, left) if reverse else (left, right)
        return self._with_constant(kind, self.feature(feature), constant, reverse)

    def _with_constant(self, op: str, x: Feature, constant: Any, reverse: bool) -> Feature:
        value = constant if isinstance(constant, Tensor) else torch.tensor(float(constant))
        if value.numel() == 1:
            number = float(value)
            if not reverse and number == {"add": 0, "sub": 0, "mul": 1, "div": 1}.get(op):
                return x
            settings: dict[str, Any] = {"reversed": True} if reverse else {}
            return self.add(op, x, value=number, **settings)
        shape = (1,) * (len(x.shape) - value.ndim) + tuple(value.shape)
        if len(shape) != len(x.shape) or math.prod(shape[2:]) != 1 or shape[0] != 1:
            raise self.refuse(
                "it adds or multiplies constants that belong to one size of the image"
            )
        value = value.to(torch.float32)
        if shape[1] == x.shape[1] and (op in ("add", "mul") or not reverse) and op != "pow":
            return self._scale_shift(op, x, value.reshape(-1))
        other = self.add("constant", shape=shape, weights={"value": value.reshape(shape)})
        return self.add(op, other, x) if reverse else self.add(op, x, other)

    def _scale_shift(self, op: str, x: Feature, value: Tensor) -> Feature:
        """One number per channel that is added or multiplied."""
        ones, zeros = torch.ones_like(value), torch.zeros_like(value)
        factor = {"mul": value, "div": 1 / value}.get(op, ones)
        shift = {"add": value, "sub": -value}.get(op, zeros)
        weights = {"factor": factor, "shift": shift}
        return self.add("scale_shift", x, channels=value.numel(), weights=weights)

    def _binary_of_views(self, kind: str, left: Any, right: Any) -> View:
        view = cast(View, left if isinstance(left, View) else right)
        bases: list[Any] = []
        for value in (left, right):
            if isinstance(value, View):
                same = (value.order, value.shape) == (view.order, view.shape)
                if not same and (value.order is None or value.order != view.order):
                    raise self.refuse("it combines features whose axes are arranged differently")
                bases.append(value.base)
            elif isinstance(value, Feature):
                raise self.refuse("it combines features whose axes are arranged differently")
            else:
                bases.append(self._constant_in(view, value))
        base = self.binary(kind, *bases)
        return View(base, view.shape, view.order)

    def _constant_in(self, view: View, value: Any) -> Any:
        """A constant that meets a view, arranged for the base of the view."""
        if not isinstance(value, Tensor) or value.numel() == 1:
            return value
        if view.order is not None:
            whole = value.reshape((1,) * (len(view.order) - value.ndim) + tuple(value.shape))
            return whole.permute([view.order.index(i) for i in range(len(view.order))])
        if value.ndim <= 2 and view.shape[-1] == view.base.shape[1] == value.numel():
            return value.reshape(1, -1, *(1 for _ in view.base.shape[2:]))
        raise self.refuse("it combines a reshaped feature with a constant")

    def permute(self, value: Any, order: Sequence[int]) -> Any:
        """Axes in another order: of the image or of a feature, to be undone later."""
        shape = tuple(value.shape[i] for i in order)
        if isinstance(value, View):
            if value.order is None:
                raise self.refuse("it reshapes and transposes features")
            total = tuple(value.order[i] for i in order)
            base = value.base
        else:
            base, total = self.feature(value), tuple(order)
        if total == tuple(range(len(total))):
            return base
        return View(base, shape, total)

    def reshape(self, value: Any, shape: Sequence[int]) -> Any:
        """Another shape, to be undone later, unless it only drops or adds axes of length one."""
        total = math.prod(value.shape)
        sizes = list(shape)
        if sizes.count(-1) == 1:
            sizes[sizes.index(-1)] = total // max(1, -math.prod(sizes))
        if math.prod(sizes) != total:
            raise self.refuse("it reshapes features to a size that does not fit")
        if isinstance(value, View) and value.order is not None:
            raise self.refuse("it reshapes and transposes features")
        base = value.base if isinstance(value, View) else self.feature(value)
        return base if tuple(sizes) == base.shape else View(base, tuple(sizes))

    def concatenate(self, values: Sequence[Any], axis: int) -> Any:
        """Along the axis of the channels."""
        if len(values) == 1:
            return values[0]
        views = [value for value in values if isinstance(value, View)]
        if views:
            orders = {value.order for value in views}
            if len(views) != len(values) or len(orders) != 1 or None in orders:
                raise self.refuse("it joins features whose axes are arranged differently")
            order = cast(tuple[int, ...], views[0].order)
            if order[axis] != 1:
                raise self.refuse("it joins features along an axis other than the channels")
            base = self.add("concat", *(view.base for view in views))
            return View(base, tuple(base.shape[i] for i in order), order)
        features = [self.feature(value) for value in values]
        if axis % len(features[0].shape) != 1:
            raise self.refuse("it joins features along an axis other than the channels")
        return self.add("concat", *features)

    def conv(
        self,
        value: Any,
        weight: Tensor,
        bias: Tensor | None,
        *,
        groups: int = 1,
        transposed: bool = False,
        **values: Any,
    ) -> Feature:
        """A convolution, or a transposed one; `values` as the layers take them."""
        x = self.feature(value)
        if weight.ndim != len(x.shape):
            raise self.refuse("a convolution is not of the dimensions of the image")
        n_in, n_out = (weight.shape[0], weight.shape[1] * groups) if transposed else (
            weight.shape[1] * groups, weight.shape[0]
        )  # fmt: skip
        return self.add(
            "transposed_conv" if transposed else "conv",
            x,
            weights={"weight": weight, "bias": bias},
            in_channels=n_in,
            out_channels=n_out,
            kernel=tuple(weight.shape[2:]),
            groups=groups,
            bias=bias is not None,
            **values,
        )

    def linear(self, value: Any, weight: Tensor, bias: Tensor | None) -> Any:
        """A dense layer on pooled features `(b, c)` is a convolution of single pixels."""
        if not isinstance(value, View) or value.order is not None or len(value.shape) != 2:
            raise self.refuse("it has a dense layer on features that are not pooled to one value")
        if math.prod(value.base.shape[2:]) != 1:
            raise self.refuse("it has a dense layer that works for a single size of the image only")
        ones = (1,) * (len(value.base.shape) - 2)
        out = self.conv(value.base, weight.reshape(*weight.shape, *ones), bias)
        return View(out, out.shape[:2])

    def norm(
        self, op: str, value: Any, weight: Tensor | None, bias: Tensor | None, **values: Any
    ) -> Feature:
        """`batch_norm`, `instance_norm`, `group_norm` or `layer_norm` over the channels."""
        x = self.feature(value)
        held = dict(values.pop("weights", {}))
        if weight is not None or bias is not None:
            some = weight if weight is not None else bias
            held["weight"] = weight if weight is not None else torch.ones_like(cast(Tensor, some))
            held["bias"] = bias if bias is not None else torch.zeros_like(cast(Tensor, some))
        if any(one.numel() != x.shape[1] for one in held.values()):
            raise self.refuse("a normalisation has not one number per channel")
        if op != "layer_norm":
            values["affine"] = "weight" in held
        return self.add(op, x, weights=held, channels=x.shape[1], **values)

    def reduce(self, kind: str, value: Any, axes: Sequence[int], keep: bool) -> Any:
        """The "mean" or "max" over all axes of the image, or over the channels."""
        if isinstance(value, View) and value.order is not None and keep:
            order = value.order
            out = self.reduce(kind, value.base, [order[a] for a in axes], keep)
            return View(out, tuple(out.shape[i] for i in order), order)
        if isinstance(value, View) and value.order is not None:
            return self.reduce(kind, value.base, [value.order[a] for a in axes], keep)
        x = self.feature(value)
        n = len(x.shape)
        over = sorted(a % n for a in axes)
        if over == [1] and keep:
            return self.add(f"channel_{kind}", x)
        if over != list(range(2, n)):
            raise self.refuse(f"it takes the {kind} over other axes than those of the image")
        out = self.add("global_avg_pool" if kind == "mean" else "global_max_pool", x)
        return out if keep else self.reshape(out, out.shape[:2])

    def slice(self, value: Any, axis: int, start: int, stop: int, step: int = 1) -> Any:
        """A range of channels, or of an axis of the image."""
        if isinstance(value, View) and value.order is not None:
            base = self.slice(value.base, value.order[axis], start, stop, step)
            return View(base, tuple(base.shape[i] for i in value.order), value.order)
        x = self.feature(value)
        axis %= len(x.shape)
        start, stop, step = slice(start, stop, step).indices(x.shape[axis])
        if step != 1 or stop <= start:
            raise self.refuse("it takes every other value of an axis, or none")
        if (start, stop) == (0, x.shape[axis]):
            return x
        if axis == 0:
            raise self.refuse("it takes single images out of a batch")
        if axis == 1:
            return self.add("channels", x, start=start, stop=stop)
        before = [0] * (len(x.shape) - 2)
        after = list(before)
        before[axis - 2], after[axis - 2] = start, x.shape[axis] - stop
        return self.add("crop", x, amounts=(*before, *after))

    def pad(
        self, value: Any, before: Sequence[int], after: Sequence[int], mode: str, fill: float
    ) -> Any:
        """Values added (or taken off, where negative) at the ends of the axes of the image."""
        if isinstance(value, View):
            raise self.refuse("it pads features whose axes are rearranged")
        x = self.feature(value)
        if any(before[: -len(x.shape) + 2]) or any(after[: -len(x.shape) + 2]):
            raise self.refuse("it pads channels")
        low, high = tuple(before[-len(x.shape) + 2 :]), tuple(after[-len(x.shape) + 2 :])
        if not any(low) and not any(high):
            return x
        if max(*low, *high) <= 0:
            return self.add("crop", x, amounts=tuple(-n for n in (*low, *high)))
        return self.add("pad", x, amounts=(*low, *high), mode=mode, value=float(fill))

    def resize(
        self,
        value: Any,
        size: Sequence[int] | None,
        scale: Sequence[float] | None,
        mode: str,
        align_corners: bool,
    ) -> Feature:
        """Enlarged or reduced to a size, or by factors."""
        x = self.feature(value)
        if scale is not None and size is None:
            if not all(float(s).is_integer() or float(1 / s).is_integer() for s in scale):
                raise self.refuse(f"it resizes by factors of {tuple(scale)}, no whole numbers")
            factors = tuple(float(s) for s in scale)
            return self.add("resize", x, scale=factors, mode=mode, align_corners=align_corners)
        target = tuple(int(n) for n in size or ())
        if len(target) != len(x.shape) - 2:
            raise self.refuse("it resizes other axes than those of the image")
        return self.add("resize", x, size=target, mode=mode, align_corners=align_corners)
