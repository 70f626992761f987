"""What the outputs of a network that is trained mean, and what its masks hold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from napari_unet.core.errors import SettingsError, TrainingError
from napari_unet.core.model import Description
from napari_unet.core.training.settings import TrainSettings

__all__ = ["MAX_CLASSES", "Outputs", "outputs_for", "outputs_of"]

MAX_CLASSES = 64
"""Masks that hold more classes than this number objects."""

RIM, CORE = 1, 2
"""In targets of objects with rims; 0 is the background."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outputs:
    """The outputs of a network and the values of its targets.

    Attributes
    ----------
    names : of the outputs.
    output_class, inside, class_names, activation : as in `Description`.
    counted : the target's value that each output stands for; -1 for none.
    what, split : as in `TrainSettings`; what the targets are made from.
    values : target values of what is 0 background, 1 rim and 2 core, if `split` is "rim".
    """

    names: tuple[str, ...]
    output_class: tuple[int, ...]
    class_names: tuple[str, ...]
    activation: Literal["softmax", "sigmoid", "none"]
    counted: tuple[int, ...]
    what: Literal["objects", "classes"]
    split: Literal["gap", "rim", "none"]
    inside: int | None = None
    inverted: bool = False
    values: tuple[int, ...] = (0, RIM, CORE)

    @property
    def n_values(self) -> int:
        """How many values a target has."""
        return max(self.counted) + 1


def outputs_for(
    settings: TrainSettings, n_classes: int, class_names: Sequence[str] | None = None
) -> Outputs:
    """The outputs of a new network.

    Parameters
    ----------
    settings : with nothing left open.
    n_classes : that the masks hold, with the background; 2 for objects.
    class_names : of all classes, or of all but the background.

    Raises
    ------
    SettingsError
        If there are too few or too many names.
    """
    names = _class_names(settings, n_classes, class_names)
    outputs: tuple[str, ...]
    output_class: tuple[int, ...]
    if settings.what == "objects" and settings.split == "rim":
        outputs, output_class = (names[0], "rim", "inside"), (0, 1, 1)
    else:
        outputs, output_class = names, tuple(range(n_classes))
    first = 1 if settings.outputs == "sigmoid" else 0
    return Outputs(
        names=outputs[first:],
        output_class=output_class[first:],
        class_names=names,
        activation="sigmoid" if settings.outputs == "sigmoid" else "softmax",
        counted=tuple(range(len(outputs)))[first:],
        what=settings.what,
        split=settings.split if settings.what == "objects" else "none",
        inside=outputs.index("inside") - first if "inside" in outputs else None,
    )


def _class_names(
    settings: TrainSettings, n_classes: int, wanted: Sequence[str] | None
) -> tuple[str, ...]:
    if wanted is None:
        if settings.what == "objects":
            return "background", "object"
        return "background", *(f"class {i}" for i in range(1, n_classes))
    names = tuple(wanted) if len(wanted) == n_classes else ("background", *wanted)
    if len(names) != n_classes:
        raise SettingsError(
            f"class_names has {len(wanted)} names, but the masks hold {n_classes} classes with "
            f"the background. Name each of them, or each but the background."
        )
    return names


def outputs_of(about: Description, settings: TrainSettings) -> Outputs:
    """The outputs of a network that is there already.

    Objects with rims are asked of an output for the inside and one for the rim; every other
    network learns classes.

    Raises
    ------
    TrainingError
        If the masks hold objects, and the network knows several classes.
    """
    n_classes = len(about.class_names)
    if settings.what == "objects" and n_classes > 2:
        raise TrainingError(
            f"The model {about.name!r} tells {n_classes - 1} classes apart, but the masks number "
            f"objects. Train with what='classes' on masks of its classes, or another network."
        )
    rims = [i for i, one in enumerate(about.output_class) if one == 1 and i != about.inside]
    zero = [i for i, one in enumerate(about.output_class) if one == 0]
    has_rim = about.inside is not None and len(rims) == 1 and len(about.outputs) == 2 + len(zero)
    is_rimmed = settings.what == "objects" and has_rim and len(zero) < 2
    first = 0 if zero else 1  # without an output for the background, the first one is value 1
    own = tuple(range(first, first + len(about.outputs)))
    values = (zero[0] if zero else 0, own[rims[0]], own[about.inside or 0]) if is_rimmed else ()
    return Outputs(
        names=about.outputs,
        output_class=about.output_class,
        class_names=about.class_names,
        activation=about.activation,
        counted=own if is_rimmed else about.output_class,
        what=settings.what,
        split="rim" if is_rimmed else "gap" if settings.what == "objects" else "none",
        inside=about.inside,
        inverted=about.inverted,
        values=values or (0, RIM, CORE),
    )
