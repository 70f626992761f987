"""What was understood of a model, line by line, and what of it may be changed.

Each line says whether the file states it, whether it was assumed, or whether the user chose it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, get_type_hints

from napari_unet.core.architectures import architecture_of
from napari_unet.core.checkpoints.checks import try_out
from napari_unet.core.checkpoints.family import classes_of, families
from napari_unet.core.checkpoints.normalizations import NORMALIZATIONS, normalization_words
from napari_unet.core.checkpoints.plain import checked, from_plain
from napari_unet.core.checkpoints.rebuild import fill, without_memory
from napari_unet.core.errors import ModelFileError, SettingsError, UNetLiveError
from napari_unet.core.model import Model, weights_id
from napari_unet.core.normalization import Normalization

__all__ = ["Line", "Option", "card_of", "changed", "decoded"]

State = Literal["file", "assumed", "chosen", "unknown"]

LABELS = {
    "padding": "Borders of the image",
    "align_corners": "Enlarging aligns corners",
    "upsampling": "How it enlarges",
    "slope": "Slope of the leaky ReLU",
    "groups": "Groups of the group norm",
    "n_groups": "Groups of the group norm",
    "activation": "Activation",
    "act": "Activation",
    "order": "Order of joined channels",
    "concat": "Order of joined channels",
    "strides": "Steps from level to level",
    "steps": "Recurrent steps",
    "interpolation": "How it enlarges",
    "output_stride": "Coarsest resolution (1/n)",
    "rates": "Reach of the atrous convolutions",
    "pooling": "How it makes the image smaller",
    "pool": "How it makes the image smaller",
    "norm": "Normalization inside the network",
    "act_first": "Activation before normalization",
    "kept_axis": "Axis that keeps its size (volumes)",
    "join": "Order of joined channels",
    "nonlinearity": "Activation",
    "enlarging": "How it enlarges",
    "up_activation": "Activation after enlarging",
    "norm_at": "Place of the normalization",
    "n_flat": "Levels with flat kernels",
    "linear": "Enlarges by interpolation",
}
"""What attributes of configs are called for people."""

VALUES = {
    "valid": "unpadded (valid): the result is smaller, the image is mirrored around it",
    "same": "padded (same): the result is as large as the image",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """One value that may be chosen: plain JSON, and how people call it."""

    value: Any
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One line of the card.

    Attributes
    ----------
    label, text : what it is about, and what is so, in plain words.
    state : "file" if the file says so, "assumed", "chosen" by the user, or "unknown".
    name : attribute that may be changed; "" if it may not.
    kind : how it is changed: by choosing an option, or by typing a text or a number.
    options : to choose from.
    value : the present value, plain JSON.
    """

    label: str
    text: str
    state: State = "file"
    name: str = ""
    kind: Literal["choice", "text", "number"] = "choice"
    options: tuple[Option, ...] = ()
    value: Any = None


def card_of(model: Model) -> tuple[Line, ...]:
    """All lines about a model, the most important first."""
    about = model.description
    n_weights = sum(value.numel() for value in model.network.parameters())
    lines = [
        Line(label="Network", text=f"{_title(model)}, {n_weights:,} weights"),
        Line(label="Works on", text="volumes" if about.dims == 3 else "images, slice by slice"),
        _line(model, "Takes", "channels", _channels(model)),
        _names(model),
        *_outputs(model),
        _intensities(model),
        _pixel_size(model),
        *_structure(model),
        *(_config_line(model, name) for name in _changeable(model)),
        _licence(model),
        Line(label="From", text=_from(model)),
    ]
    return tuple(lines)


def _state(model: Model, name: str) -> State:
    if name in model.description.chosen:
        return "chosen"
    return "assumed" if name in model.description.assumed else "file"


def _line(model: Model, label: str, name: str, text: str) -> Line:
    return Line(label=label, text=text, state=_state(model, name))


def _title(model: Model) -> str:
    origin = model.origin
    if model.architecture == "layered" and origin is not None and origin.container:
        return f"layer by layer, as the file says ({origin.container})"
    try:
        return architecture_of(model.architecture).title
    except ModelFileError:
        return model.architecture


def _from(model: Model) -> str:
    origin = model.origin
    if origin is None or not origin.container:
        return model.description.source
    return f"{origin.file} ({origin.container})"


def _licence(model: Model) -> Line:
    words = model.description.licence
    if words == "unknown":
        return Line(label="Licence", text="not said: ask the author", state="unknown")
    return _line(model, "Licence", "licence", words)


def _channels(model: Model) -> str:
    n_channels, words = model.description.in_channels, model.description.channels
    is_said = words.startswith((str(n_channels), "one channel"))
    return words if is_said else f"{n_channels}: {words}"


def _names(model: Model) -> Line:
    names = model.description.class_names
    return Line(
        label="Tells apart", text=", ".join(names), state=_state(model, "class_names"),
        name="class_names", kind="text", value=list(names),
    )  # fmt: skip


def _outputs(model: Model) -> list[Line]:
    about = model.description
    if len(about.outputs) == 1:
        options = (
            Option(value=False, text="the objects"),
            Option(value=True, text="what is between them (inverted)"),
        )
        return [
            Line(
                label="High values mark", text=options[about.inverted].text,
                state=_state(model, "inverted"), options=options, value=about.inverted,
                name="inverted" if about.activation == "sigmoid" else "",
            )
        ]  # fmt: skip
    options = (
        Option(value="softmax", text="compete: each pixel is one of them, the first is background"),
        Option(value="sigmoid", text="are independent: each is there or not"),
    )
    text = next((one.text for one in options if one.value == about.activation), "are probabilities")
    return [
        Line(
            label=f"Its {len(about.outputs)} outputs", text=text,
            state=_state(model, "activation"), name="activation", options=options,
            value=about.activation,
        )
    ]  # fmt: skip


def _intensities(model: Model) -> Line:
    present = model.description.normalization
    options = tuple(Option(value=key, text=text) for key, (_, text) in NORMALIZATIONS.items())
    words = normalization_words(present)
    value = next((key for key, (_, text) in NORMALIZATIONS.items() if text == words), "")
    return Line(
        label="Intensities", text=words,
        state=_state(model, "normalization"), name="normalization", options=options, value=value,
    )  # fmt: skip


def _pixel_size(model: Model) -> Line:
    size = model.description.pixel_size
    text = "not known: images are used as they are" if size is None else f"{size:g} µm"
    return Line(
        label="Pixel size", text=text, name="pixel_size", kind="number", value=size,
        state=_state(model, "pixel_size") if size is not None else "unknown",
    )  # fmt: skip


def _structure(model: Model) -> list[Line]:
    """Widths and depth, for whoever knows what that is."""
    widths = getattr(model.config, "widths", None) or getattr(model.config, "down", None)
    if not isinstance(widths, tuple) or not all(isinstance(width, int) for width in widths):
        return []
    return [Line(label="Widths", text=" – ".join(map(str, widths)))]


def _changeable(model: Model) -> tuple[str, ...]:
    """Attributes of the config that no file states and that have values to choose from."""
    family = families().get(model.architecture)
    if family is None:
        return ()
    names = {field.name for field in fields(model.config)}  # type: ignore[arg-type]
    open_ones = {*model.description.assumed, *model.description.chosen}
    return tuple(name for name in family.choices if name in names and name in open_ones)


def _config_line(model: Model, name: str) -> Line:
    present = getattr(model.config, name)
    values = families()[model.architecture].choices[name]
    options = tuple(Option(value=value, text=_words(value)) for value in values)
    return Line(
        label=LABELS.get(name, name.replace("_", " ").capitalize()), text=_words(present),
        state=_state(model, name), name=name, options=options, value=present,
    )  # fmt: skip


def _words(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, tuple):
        return " – ".join(map(str, value))
    return VALUES.get(value, str(value))


# ---- changes


def decoded(changes: Mapping[str, Any], config: Any) -> dict[str, Any]:
    """Plain JSON values, by attribute of a config or a `Description`, as what they stand for.

    What is not known, or cannot be, is left out: it was said of another version.
    """
    found: dict[str, Any] = {}
    for name, value in changes.items():
        try:
            found.update(_decoded(name, value, config))
        except (ValueError, TypeError, KeyError, UNetLiveError):
            continue
    return found


def _decoded(name: str, value: Any, config: Any) -> dict[str, Any]:
    if name in {field.name for field in fields(config)}:
        return {name: checked(get_type_hints(type(config))[name], value, name)}
    if name == "normalization":
        known = NORMALIZATIONS.get(value) if isinstance(value, str) else None
        return {name: known[0] if known else from_plain(Normalization, value)}
    if name == "activation":
        return classes_of(config.out_channels, value)
    if name == "inverted":
        return {name: bool(value)}
    if name == "class_names":
        return {name: tuple(str(one).strip() for one in value)}
    if name == "pixel_size":
        return {name: None if value is None else float(value)}
    raise KeyError(name)


def changed(model: Model, name: str, value: Any) -> Model:
    """The model with another value for something that its file does not state.

    Parameters
    ----------
    name, value : as in a `Line`.

    Raises
    ------
    ModelFileError
        If the network cannot be so.
    """
    chosen = tuple(dict.fromkeys([*model.description.chosen, name]))
    if name == "activation" and value == model.description.activation:
        return model.described(chosen=chosen)  # with the classes that it has
    try:
        values = _decoded(name, value, model.config)
    except (ValueError, TypeError, KeyError) as error:
        raise ModelFileError(f"{name} cannot be {value!r} ({error}). Choose another.") from error
    if name in {field.name for field in fields(model.config)}:  # type: ignore[arg-type]
        return _rebuilt(model, values).described(chosen=chosen)
    return model.described(**values, chosen=chosen)


def _rebuilt(model: Model, values: Mapping[str, Any]) -> Model:
    """The same weights in a network that is otherwise built."""
    kind = architecture_of(model.architecture)
    try:
        config = replace(model.config, **values)  # type: ignore[type-var]
        empty = without_memory(kind.build, config)
        network = fill(empty, kind.build, config, model.network.state_dict())
        list(try_out(network, config, model.description.name))
    except (SettingsError, RuntimeError) as error:
        raise ModelFileError(
            f"With {values} the network does not fit its weights. Choose another value."
        ) from error
    network = network.to(model.device.torch_device)
    return replace(model, network=network, config=config, id=weights_id(network))
