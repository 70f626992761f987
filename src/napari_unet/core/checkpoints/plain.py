"""Frozen dataclasses of plain values as JSON, and back, strictly.

What comes from a file is checked against the annotations of the class before it is believed.
"""

from __future__ import annotations

import json
import types
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

__all__ = ["checked", "from_plain", "to_json"]

T = TypeVar("T")
LARGEST = 10**300
"""Whole numbers up to this are numbers to compute with."""
Plain = bool | int | float | str | None


def to_json(value: Any) -> str:
    """JSON of a dataclass or of plain values; numpy's numbers become plain ones."""
    return json.dumps(value, default=_plain)


def _plain(value: Any) -> Any:
    if is_dataclass(value):
        return {field.name: getattr(value, field.name) for field in fields(value)}
    return value.item() if hasattr(value, "item") else dict(value)


def from_plain(kind: type[T], values: Mapping[str, Any]) -> T:
    """Build a dataclass of plain values from what `json.loads` gives.

    Parameters
    ----------
    kind : a dataclass whose fields are bool, int, float, str, None, Literal, tuples and mappings
        of those, unions of those, or dataclasses of the kind.
    values : by name. Missing ones keep their defaults.

    Raises
    ------
    ValueError
        If a value is not of the type of its field, is missing, or belongs to no field.
    """
    if not isinstance(values, Mapping):
        raise ValueError(f"{kind.__name__} cannot be made from {_short(values)}")
    known = {field.name: field for field in fields(kind) if field.init}  # type: ignore[arg-type]
    unknown = sorted(set(values) - set(known))
    if unknown:
        raise ValueError(f"{kind.__name__} knows no {unknown[0]!r}")
    hints = _hints(kind)  # type: ignore[arg-type]
    for name, field in known.items():
        is_optional = field.default is not MISSING or field.default_factory is not MISSING
        if name not in values and not is_optional:
            raise ValueError(f"{name} of {kind.__name__} is missing")
    return kind(**{name: checked(hints[name], value, name) for name, value in values.items()})


@cache
def _hints(kind: type) -> dict[str, Any]:
    return get_type_hints(kind)


def checked(hint: Any, value: Any, name: str) -> Any:
    """A value as the annotation of its field wants it; raises `ValueError`."""
    origin, options = get_origin(hint), get_args(hint)
    if hint is Any:
        return _tuples(value)
    if origin is Literal:
        if not any(value == one and type(value) is type(one) for one in options):
            raise ValueError(f"{name} must be one of {options}, not {_short(value)}")
        return value
    if origin in (Union, types.UnionType):
        return _any_of(options, value, name)
    if origin is tuple:
        return _tuple(options, value, name)
    if origin is not None and issubclass(origin, Mapping):
        return {key: checked(options[1], one, name) for key, one in _mapping(value, name).items()}
    if is_dataclass(hint):
        return from_plain(hint, value)  # type: ignore[arg-type]
    if hint is float and type(value) is int:
        if abs(value) > LARGEST:
            raise ValueError(f"{name} is too large")
        return float(value)
    if type(value) is not (type(None) if hint is None else hint):
        raise ValueError(f"{name} must be {getattr(hint, '__name__', hint)}, not {_short(value)}")
    return value


def _any_of(options: tuple[Any, ...], value: Any, name: str) -> Any:
    problem: ValueError | None = None
    exact = sorted(options, key=lambda option: option is float)  # an int stays one, where it may
    for option in exact:
        try:
            return checked(option, value, name)
        except ValueError as error:
            problem = error
    raise problem or ValueError(f"{name} must not be {_short(value)}")


def _tuple(options: tuple[Any, ...], value: Any, name: str) -> tuple[Any, ...]:
    if not isinstance(value, list | tuple):
        raise ValueError(f"{name} must be a list, not {_short(value)}")
    if len(options) == 2 and options[1] is Ellipsis:
        return tuple(checked(options[0], one, name) for one in value)
    if len(value) != len(options):
        raise ValueError(f"{name} must be {len(options)} values, not {len(value)}")
    return tuple(checked(option, one, name) for option, one in zip(options, value, strict=True))


def _mapping(value: Any, name: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise ValueError(f"{name} must be values by name, not {_short(value)}")
    return value


def _tuples(value: Any) -> Any:
    """JSON's lists as tuples."""
    if isinstance(value, list | tuple):
        return tuple(_tuples(one) for one in value)
    if isinstance(value, Mapping):
        return {key: _tuples(one) for key, one in value.items()}
    return value


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
