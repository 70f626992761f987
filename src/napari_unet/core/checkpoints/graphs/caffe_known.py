"""The layers of Freiburg's U-Nets, for weights that come without them.

All their networks call their layers alike: `conv_d2a-b` leads from `d2a` to `d2b`, on level 2 of
the way down.
"""

from __future__ import annotations

import re
from itertools import pairwise

from napari_unet.core.checkpoints.graphs.caffe_blobs import Blobs

__all__ = ["known_definition"]


def known_definition(blobs: Blobs, slope: float, offset: float) -> str | None:
    """A network definition for weights of these names; None if they are not Freiburg's.

    Parameters
    ----------
    blobs : the weights.
    slope : of the ReLUs below 0: 0 in 2015, 0.1 in the networks of the Fiji plugin.
    offset : added to the image first of all: 0 in 2015, -0.5 in the networks of the Fiji plugin.
    """
    found = (re.fullmatch(r"conv_d(\d)a-b", name) for name in blobs)
    bottom = max((int(one[1]) for one in found if one), default=0)
    ups = [f"d{bottom}c_u{bottom - 1}a"] + [f"u{n}d_u{n - 1}a" for n in range(bottom - 1, 0, -1)]
    needed = [f"conv_d{n}{step}" for n in range(bottom + 1) for step in ("a-b", "b-c")]
    needed += [f"upconv_{up}" for up in ups] + ["conv_u0d-score"]
    needed += [f"conv_u{n}{step}" for n in range(bottom) for step in ("b-c", "c-d")]
    if bottom < 1 or set(needed) - set(blobs):
        return None
    lines = [
        _layer("trafo_data-d0a", "ValueTransformation", ["data"], "d0a")
        + f" value_transformation_param {{ offset {{ v: {offset} }} }} }}"
    ]
    for n in range(bottom + 1):
        lines += _convolutions(blobs, "d", n, "abc", slope)
        if n < bottom:
            kernel = blobs[f"upconv_{ups[bottom - 1 - n]}"][0][0].shape[2:]
            size = _repeated("kernel_size", kernel) + _repeated("stride", kernel)
            lines.append(
                _layer(f"pool_d{n}c-{n + 1}a", "Pooling", [f"d{n}c"], f"d{n + 1}a")
                + f" pooling_param {{ pool: MAX {size} }} }}"
            )
    for n, up in zip(range(bottom - 1, -1, -1), ups, strict=True):
        source, target = up.split("_")
        lines += _up(blobs, up, source, target, slope)
        lines.append(_layer(f"concat_u{n}a-b", "Concat", [target, f"d{n}c"], f"u{n}b") + " }")
        lines += _convolutions(blobs, "u", n, "bcd", slope)
    lines.append(_convolution(blobs, "conv_u0d-score", "u0d", "score"))
    return "\n".join(lines)


def _layer(name: str, kind: str, bottoms: list[str], top: str) -> str:
    read = " ".join(f"bottom: '{one}'" for one in bottoms)
    return f"layer {{ name: '{name}' type: '{kind}' {read} top: '{top}'"


def _repeated(name: str, numbers: tuple[int, ...]) -> str:
    return " ".join(f"{name}: {n}" for n in numbers) + " "


def _relu(blob: str, slope: float) -> str:
    start = _layer(f"relu_{blob}", "ReLU", [blob], blob)
    return f"{start} relu_param {{ negative_slope: {slope} }} }}"


def _convolution(blobs: Blobs, name: str, source: str, target: str) -> str:
    kernel = _repeated("kernel_size", tuple(blobs[name][0][0].shape[2:]))
    start = _layer(name, "Convolution", [source], target)
    return f"{start} convolution_param {{ {kernel} }} }}"


def _convolutions(blobs: Blobs, way: str, level: int, steps: str, slope: float) -> list[str]:
    lines = []
    for one, other in pairwise(steps):
        source, target = f"{way}{level}{one}", f"{way}{level}{other}"
        lines.append(_convolution(blobs, f"conv_{source}-{other}", source, target))
        lines.append(_relu(target, slope))
    return lines


def _up(blobs: Blobs, up: str, source: str, target: str, slope: float) -> list[str]:
    kernel = tuple(blobs[f"upconv_{up}"][0][0].shape[2:])
    size = _repeated("kernel_size", kernel) + _repeated("stride", kernel)
    start = _layer(f"upconv_{up}", "Deconvolution", [source], target)
    return [f"{start} convolution_param {{ {size} }} }}", _relu(target, slope)]
