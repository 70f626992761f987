"""What the networks of MONAI have in common: their convolution, and how it is described.

A convolution is followed by normalization (N) and activation (A) in a list called `adn`. MONAI
names both by a word or by a word and arguments: "batch", ("group", {"num_groups": 4}).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal, TypeAlias, TypeVar

from torch import nn

from napari_unet.core.checkpoints.evidence import Evidence
from napari_unet.core.checkpoints.styles import ACTS, Act, Style, activation, named, normalizer
from napari_unet.core.errors import ModelFileError

__all__ = [
    "KEPT_AXES",
    "KeptAxis",
    "adn_of",
    "assumed_strides",
    "convolution",
    "kept",
    "keywords",
    "read_order",
    "read_style",
]

KeptAxis = Literal["none", "z", "y", "x"]
KEPT_AXES: tuple[KeptAxis, ...] = ("none", "z", "x")

_WORDS = {
    "": "none",
    "instance_nvfuser": "instance",
    "syncbatch": "batch",
    "swish": "silu",
    "memswish": "silu",
}
_KINDS = {"InstanceNorm": "instance", "BatchNorm": "batch", "GroupNorm": "group"}

_T = TypeVar("_T")
_Known: TypeAlias = "tuple[str, Mapping[str, Any]]"
_Default: TypeAlias = "tuple[Act, float]"


def convolution(
    style: Style,
    channels: tuple[int, int],
    kernel: tuple[int, ...],
    stride: tuple[int, ...],
    *,
    bias: bool = True,
    transposed: bool = False,
    only: bool = False,
    act_first: bool = False,
) -> nn.Sequential:
    """A convolution with what follows it, unless `only` that.

    It keeps the size `(z, y, x)` if the stride is 1, else divides it, rounding up; `transposed`,
    it multiplies the size by the stride. `act_first` puts the activation before the
    normalization.
    """
    padding = tuple((k - 1) // 2 for k in kernel)
    rest: dict[str, Any] = {"stride": stride, "padding": padding, "bias": bias}
    if transposed:
        rest["output_padding"] = tuple(s - 1 for s in stride)
    kind = getattr(nn, f"Conv{'Transpose' if transposed else ''}{style.dims}d")
    layers: dict[str, nn.Module] = {"conv": kind(*channels, kernel, **rest)}
    if not only:
        order = "AN" if act_first else "NA"
        parts = {"N": normalizer(style, channels[1]), "A": activation(style)}
        adn = {name: part for name in order if (part := parts[name]) is not None}
        layers |= {"adn": named(adn)} if adn else {}
    return named(layers)


def keywords(evidence: Evidence, *classes: str) -> Mapping[str, Any]:
    """The keyword arguments of the network where they are known, and are of these classes."""
    told = evidence.config.get("model")
    kind = str(evidence.config.get("class") or "").rpartition(".")[2].lower()
    is_ours = not kind or kind in {name.lower() for name in classes}
    return told if is_ours and isinstance(told, Mapping) else {}


def read_style(
    evidence: Evidence, places: tuple[str, str, str], told: Mapping[str, Any], default: _Default
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Normalization and activation: attributes of a `Style`, and those of them that were assumed.

    Parameters
    ----------
    evidence : what is known of the file.
    places : where a convolution, its normalization and its activation lie.
    told : what is known of the keyword arguments "norm" and "act".
    default : activation and slope where nothing tells.
    """
    conv, norm_at, act_at = places
    is_noted = conv in evidence.layers
    noted = (_noted(evidence, at) if is_noted else None for at in (norm_at, act_at))
    known_norm, known_act = (
        note or _worded(told, name) for note, name in zip(noted, ("norm", "act"), strict=True)
    )
    norm, no_norm = _read_norm(evidence, norm_at, known_norm)
    act, no_act = _read_act(evidence, act_at, known_act, default)
    return {**norm, **act}, (*no_norm, *no_act)


def adn_of(path: str) -> tuple[str, str, str]:
    """Where the parts of a convolution lie that was made by `convolution`."""
    return f"{path}.conv", f"{path}.adn.N", f"{path}.adn.A"


def _worded(told: Mapping[str, Any], name: str) -> _Known | None:
    """A word with its arguments, however they are written; None where nothing is known."""
    if name not in told:
        return None
    value = told[name]
    if value is None:
        return "none", {}
    word, *rest = value if isinstance(value, (list, tuple)) and value else (value,)
    if not isinstance(word, str):
        return None
    word = word.lower()
    arguments = rest[0] if rest and isinstance(rest[0], Mapping) else {}
    return _WORDS.get(word, word), arguments


def _noted(evidence: Evidence, path: str) -> _Known:
    """Kind and attributes of a layer, where modules were stored whole."""
    note = evidence.layers.get(path)
    if note is None:
        return "none", {}
    kind = note.kind.rstrip("123d") if note.kind[-2:] in ("1d", "2d", "3d") else note.kind
    word = _KINDS.get(kind, kind.lower())
    return _WORDS.get(word, word), note.values


def _read_norm(
    evidence: Evidence, path: str, known: _Known | None
) -> tuple[dict[str, Any], tuple[str, ...]]:
    affine = evidence.has(f"{path}.weight")
    word, arguments = known or ("instance", {})
    if evidence.has(f"{path}.running_mean"):
        word, known = "batch", known or ("batch", {})
    elif word == "batch" or (affine and word == "none"):
        word, known = "instance", None
    _refuse_unless(word, ("instance", "batch", "group", "none"), "normalization")
    groups, eps = arguments.get("num_groups", 1), arguments.get("eps", 1e-5)
    if not (type(groups) is int and groups > 0 and isinstance(eps, (int, float)) and eps >= 0):
        raise ModelFileError(
            f"The settings of the normalization beside the weights make no sense: "
            f"{str(dict(arguments))[:80]}."
        )
    fields = {"norm": word, "affine": affine, "groups": groups, "eps": float(eps)}
    return fields, () if known else ("norm", *(("groups",) if affine else ()))


def _read_act(
    evidence: Evidence, path: str, known: _Known | None, default: _Default
) -> tuple[dict[str, Any], tuple[str, ...]]:
    fields: dict[str, Any] = {"act": default[0], "slope": default[1], "alpha": 1.0}
    if evidence.has(f"{path}.weight"):
        return {**fields, "act": "prelu"}, ()
    if known is None or known[0] == "prelu":
        return fields, ("act", "slope")
    word, arguments = known
    _refuse_unless(word, ("prelu", *ACTS), "activation")
    told = {"slope": arguments.get("negative_slope", 0.01), "alpha": arguments.get("alpha", 1.0)}
    numbers = {name: float(n) for name, n in told.items() if isinstance(n, (int, float))}
    return {**fields, **numbers, "act": word}, ()


def read_order(
    evidence: Evidence, path: str, told: Mapping[str, Any]
) -> tuple[bool, tuple[str, ...]]:
    """Whether the activation comes first, and ("act_first",) if that was assumed.

    Where both have weights, the order of their names tells.
    """
    for names in (evidence.tensors, evidence.layers):
        inner = (name[len(path) + 1 :] for name in names if name.startswith(f"{path}."))
        both = _unique(name[0] for name in inner if name[:1] in ("N", "A"))
        if len(both) == 2:
            return both[0] == "A", ()
    if isinstance(told.get("adn_ordering"), str):
        return _unique(c for c in told["adn_ordering"].upper() if c in "NA")[:1] == ("A",), ()
    return False, () if "strides" in told else ("act_first",)


def kept(stride: tuple[int, ...], axis: KeptAxis) -> tuple[int, ...]:
    """A stride `(z, y, x)` that leaves one axis of volumes as it is."""
    if axis == "none" or len(stride) != 3:
        return stride
    at = "zyx".index(axis)
    return (*stride[:at], 1, *stride[at + 1 :])


def assumed_strides(dims: int, seen: bool) -> tuple[str, ...]:
    """What has to be assumed of strides, unless they were seen."""
    if seen:
        return ()
    return ("strides", "kept_axis") if dims == 3 else ("strides",)


def _unique(values: Iterable[_T]) -> tuple[_T, ...]:
    return tuple(dict.fromkeys(values))


def _refuse_unless(word: str, known: tuple[str, ...], what: str) -> None:
    if word not in known:
        raise ModelFileError(
            f"This network of MONAI has the {what} {word[:40]!r}, which is not supported. "
            f"Supported are: {', '.join(known)}."
        )
