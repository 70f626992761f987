"""What lies beside the weights: hyperparameters, and how far the training was."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from napari_unet.core.checkpoints.containers.inert import Inert, runs_code
from napari_unet.core.checkpoints.containers.plainly import is_optimizer
from napari_unet.core.checkpoints.containers.source import shown
from napari_unet.core.checkpoints.evidence import Contents

__all__ = ["config_of", "training_note"]

MAX_VALUES = 100_000
MAX_DEPTH = 30
MAX_TEXT = 100_000  # letters

_HYPERPARAMETERS = ("hyper_parameters", "hparams", "init_args", "init", "args", "config", "opt")
_KWARGS = ("model_kwargs", "model_args", "model_params", "network_kwargs", "kwargs")
_NETWORKS = ("model", "network", "net", "unet")
_CLASSES = ("model_class", "class", "_target_", "class_path", "class_name", "arch", "architecture")
_TRAINING = ("epoch", "current_epoch", "n_epochs", "global_step", "iteration", "iter", "step")


def config_of(contents: Contents) -> dict[str, Any]:
    """The plain values of a file under their own names, copied.

    `model` holds the arguments and `class` the name of the network, where the file says them.
    """
    plain = _Copy().value(contents.tree)
    config: dict[str, Any] = plain if isinstance(plain, dict) else {}
    config = {name: value for name, value in config.items() if isinstance(name, str)}
    if "init" in config and not isinstance(config["init"], Mapping):
        del config["init"]
    arguments, kind = _model_in(config)
    if arguments is not None:
        config["model"] = arguments
    elif not isinstance(config.get("model", {}), Mapping):
        said = config.pop("model")
        kind = kind or (said if isinstance(said, str) else "")
    root = contents.layers.get("") or contents.layers.get("model")
    if kind or root is not None:
        config["class"] = kind or (root.kind if root is not None else "")
    config.pop("about", None)  # what packages say of a model; a file has no say in it
    return config


def _model_in(config: Mapping[str, Any]) -> tuple[dict[str, Any] | None, str]:
    """Arguments and class of the network from the first entry that has some."""
    for name in _HYPERPARAMETERS:
        entry = config.get(name)
        if not isinstance(entry, Mapping) or not entry:
            continue
        arguments = _first(entry, _KWARGS, Mapping) or _first(entry, _NETWORKS, Mapping) or entry
        inner = _first(arguments, _KWARGS, Mapping) or _first(arguments, ("init_args",), Mapping)
        kind = _first(entry, _CLASSES, str) or _first(arguments, _CLASSES, str)
        return dict(inner or arguments), str(kind or "").rpartition(".")[2]
    return None, ""


def _first(entry: Mapping[str, Any], names: tuple[str, ...], kind: type) -> Any:
    return next((entry[name] for name in names if isinstance(entry.get(name), kind)), None)


class _Copy:
    """Copies plain values, at most so many; tensors and objects are left out."""

    def __init__(self) -> None:
        self._left = MAX_VALUES

    def value(self, value: Any, depth: int = 0) -> Any:
        """The copy; `_LEFT_OUT` for what is not plain."""
        self._left -= 1
        if self._left < 0 or depth > MAX_DEPTH:
            return _LEFT_OUT
        if isinstance(value, (int, float, bool, type(None))):
            return value
        if isinstance(value, str):
            return value[:MAX_TEXT]
        if isinstance(value, Inert):
            return self._object(value, depth)
        if isinstance(value, Mapping):
            return self._mapping(value, depth)
        if isinstance(value, (list, tuple)):
            copies = [self.value(item, depth + 1) for item in value[:MAX_VALUES]]
            return type(value)(copy for copy in copies if copy is not _LEFT_OUT)
        return _LEFT_OUT

    def _mapping(self, value: Mapping[Any, Any], depth: int) -> Any:
        copies: dict[Any, Any] = {}
        for key, item in value.items():
            if isinstance(item, Tensor) or is_optimizer(key, item):
                continue
            copy = self.value(item, depth + 1)
            if copy is not _LEFT_OUT:
                copies[key] = copy
            if self._left < 0:
                break
        return copies if copies or not value else _LEFT_OUT

    def _object(self, value: Inert, depth: int) -> Any:
        """A class by its name, an object by its attributes, an enumeration by its value."""
        if value.args is None:
            return value.kind
        if isinstance(value.state, Mapping) and value.state:
            return self._mapping(value.state, depth)
        if runs_code(value.kind):
            return _LEFT_OUT
        if len(value.args) == 1 and isinstance(value.args[0], (str, int, float)):
            return value.args[0]
        return _LEFT_OUT


_LEFT_OUT: Any = object()


def training_note(tree: Any) -> tuple[str, ...]:
    """A sentence on how far the training was when the file was saved, if it says so."""
    if not isinstance(tree, Mapping):
        return ()
    said = [
        f"{name.replace('_', ' ')} {_number(tree[name])}"
        for name in tree
        if isinstance(name, str)
        and (name in _TRAINING or name.startswith(("best", "_best")))
        and isinstance(_scalar(tree[name]), (int, float))
    ]
    return (f"Saved in training: {shown(', '.join(said[:5]), 200)}.",) if said else ()


def _scalar(value: Any) -> Any:
    if isinstance(value, Tensor) and value.numel() == 1:
        return value.item()
    return None if isinstance(value, bool) else value


def _number(value: Any) -> str:
    return f"{_scalar(value):.4g}" if isinstance(_scalar(value), float) else str(_scalar(value))
