"""Settings of layers in the text of a TorchScript program. The text is read, never run."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

__all__ = ["constants_in"]

_CLASS = re.compile(r"^class (\w+)\(Module\):$", re.MULTILINE)
_FINAL = re.compile(r"^  (\w+) : Final\[[^=\n]*\] = (.{1,200})$", re.MULTILINE)
_NUMBER = re.compile(r"-?\d+|-?\d*\.\d*(?:e[+-]?\d+)?|-?\d+e[+-]?\d+")
_LIST = r"(\[[\d, -]*\])"
_CONVOLUTION = re.compile(
    rf"torch\._convolution\(\w+, \w+, \w+, {_LIST}, {_LIST}, {_LIST}, (True|False), {_LIST}, (\d+)"
)
_SLOPE = re.compile(r"torch\.leaky_relu_?\(\w+, ([-\d.e+]+)\)")
_BATCH_NORM = re.compile(r"torch\.batch_norm\((?:\w+, ){5}\w+, ([-\d.e+]+), ([-\d.e+]+), \w+\)")
_GROUP_NORM = re.compile(r"torch\.group_norm\(\w+, (\d+), \w+, \w+, ([-\d.e+]+)")
_RESIZED = re.compile(r"torch\.upsample_(bilinear|trilinear|linear)\dd\(\w+, \w+, (True|False)")


def constants_in(text: str, module: str) -> dict[str, dict[str, Any]]:
    """Settings of each class in a file of TorchScript, by the full name of the class.

    A scripted class names its settings; of a traced one they are read off the call it makes.
    """
    starts = [*_CLASS.finditer(text)]
    ends = [*(start.start() for start in starts[1:]), len(text)][: len(starts)]
    return {
        f"{module}.{start[1]}": _settings(text[start.end() : end])
        for start, end in zip(starts, ends, strict=True)
    }


def _settings(text: str) -> dict[str, Any]:
    traced = {
        name: value
        for pattern, read in _TRACED.items()
        if (found := pattern.search(text))
        for name, value in read(found).items()
    }
    return traced | {name: _literal(value) for name, value in _FINAL.findall(text)}


def _literal(text: str) -> Any:
    """A number, text, truth value or tuple of those; as it stands if it is anything else."""
    text = text.strip()
    if text in ("None", "True", "False"):
        return {"None": None, "True": True, "False": False}[text]
    if len(text) > 1 and text[0] == text[-1] == '"':
        return text[1:-1]
    if text[:1] in ("(", "["):
        inner = [part for part in text[1:-1].split(",") if part.strip()]
        return tuple(_literal(part) for part in inner) if "(" not in text[1:] else text
    if _NUMBER.fullmatch(text) and any(letter.isdigit() for letter in text):
        return int(text) if re.fullmatch(r"-?\d+", text) else float(text)
    return text


def _convolution(found: re.Match[str]) -> dict[str, Any]:
    stride, padding, dilation, transposed, output_padding, groups = found.groups()
    return {
        "stride": _literal(stride),
        "padding": _literal(padding),
        "dilation": _literal(dilation),
        "transposed": transposed == "True",
        "output_padding": _literal(output_padding),
        "groups": int(groups),
    }


_TRACED: dict[re.Pattern[str], Callable[[re.Match[str]], dict[str, Any]]] = {
    _CONVOLUTION: _convolution,
    _SLOPE: lambda found: {"negative_slope": _literal(found[1])},
    _BATCH_NORM: lambda found: {"momentum": _literal(found[1]), "eps": _literal(found[2])},
    _GROUP_NORM: lambda found: {"num_groups": int(found[1]), "eps": _literal(found[2])},
    _RESIZED: lambda found: {"mode": found[1], "align_corners": found[2] == "True"},
}
