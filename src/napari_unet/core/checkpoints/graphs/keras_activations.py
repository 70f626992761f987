"""What Keras calls its activation functions, inside layers and as layers of their own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["Function", "activation_layer", "activation_of"]

Function = tuple[str, dict[str, Any]]
"""A name in `layered_ops.OPS`, and its values."""

SIMPLE: dict[str, Function] = {
    "linear": ("identity", {}),
    "relu": ("relu", {}),
    "relu6": ("clip", {"min": 0.0, "max": 6.0}),
    "elu": ("elu", {"alpha": 1.0}),
    "selu": ("selu", {}),
    "gelu": ("gelu", {"approximate": "none"}),
    "sigmoid": ("sigmoid", {}),
    "softmax": ("softmax", {}),
    "tanh": ("tanh", {}),
    "softplus": ("softplus", {}),
    "softsign": ("softsign", {}),
    "swish": ("silu", {}),
    "silu": ("silu", {}),
    "mish": ("mish", {}),
    "hard_swish": ("hard_swish", {}),
    "hard_silu": ("hard_swish", {}),
    "exponential": ("exp", {}),
    "leaky_relu": ("leaky_relu", {"slope": 0.2}),
}
LAYERS = ("ReLU", "LeakyReLU", "ELU", "Softmax", "Activation")
"""Activations that are layers, and take no weights."""


def activation_of(stored: Any, version: int) -> Function | None:
    """An activation by its name or its stored configuration; None if it is not known.

    Parameters
    ----------
    stored : such as "relu", or a dictionary with "class_name" and "config".
    version : of Keras, the first number.
    """
    if stored is None:
        return "identity", {}
    if isinstance(stored, Mapping):
        kind, config = str(stored.get("class_name", "")), stored.get("config")
        if kind in LAYERS and isinstance(config, Mapping):
            return activation_layer(kind, config, version)
        stored = config if kind == "function" else kind
    if stored == "hard_sigmoid":
        return "hard_sigmoid", {"slope": 0.2 if version < 3 else 1 / 6, "shift": 0.5}
    return SIMPLE.get(str(stored).rsplit(">", 1)[-1])


def activation_layer(kind: str, config: Mapping[str, Any], version: int) -> Function | None:
    """A layer that is an activation, as a function; None if it is not known."""
    if kind == "Activation":
        return activation_of(config["activation"], version)
    if kind == "LeakyReLU":
        slope = _number(config.get("alpha", config.get("negative_slope")), 0.3)
        return "leaky_relu", {"slope": slope}
    if kind == "ELU":
        return "elu", {"alpha": _number(config.get("alpha"), 1.0)}
    if kind == "Softmax":
        return "softmax", {}
    return _relu(config)


def _relu(config: Mapping[str, Any]) -> Function | None:
    slope = _number(config.get("negative_slope"), 0.0)
    threshold = _number(config.get("threshold"), 0.0)
    most = config.get("max_value")
    if threshold != 0 or (most is not None and slope != 0):
        return None
    if most is not None:
        return "clip", {"min": 0.0, "max": _number(most, 0.0)}
    return ("leaky_relu", {"slope": slope}) if slope else ("relu", {})


def _number(stored: Any, default: float) -> float:
    """A number, also where Keras has stored one of numpy's, as a dictionary."""
    if isinstance(stored, Mapping):
        stored = stored.get("value", stored.get("config", default))
    return default if stored is None else float(stored)
