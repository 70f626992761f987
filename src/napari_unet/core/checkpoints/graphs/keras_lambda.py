"""Lambda layers: Python's bytecode in a model file. It is looked at as bytes, and never decoded.

Nearly all U-Nets that have one divide the image by 255. Python's compilers translate
`lambda x: x / 255` to a handful of instructions, each version to its own; a file that has exactly
those, followed by the number, is understood. Everything else is refused.
"""

from __future__ import annotations

import base64
import binascii
import math
import re
import struct
from collections.abc import Mapping
from typing import Any

__all__ = ["divisor_of"]

DIVISIONS = (
    "7c0000 640100 1b 53",  # Python 3.5
    "7c00 6401 1b00 5300",  # 3.6 to 3.10
    "9700 7c00 6401 7a0b 0000 5300",  # 3.11, 3.12
    "9500 5500 5301 2d0b 0000 2400",  # 3.13
)
"""Load the argument, load the first constant, divide, return."""
CONSTANT = rb"(?:\)\x02|\(\x02\0\0\0)[N\xce](?:[i\xe9](?P<whole>.{4})|[g\xe7](?P<real>.{8}))"
"""A pair of constants: None, and an int of four bytes or a float of eight."""
LONGEST = 1 << 16


def divisor_of(config: Mapping[str, Any]) -> tuple[float, bool] | None:
    """What a Lambda layer divides by, and whether that is sure; None if it does anything else.

    It is not sure if the number 255 is all that is recognised.
    """
    code = _bytes_of(config.get("function"))
    if code is None:
        return None
    for division in DIVISIONS:
        instructions = bytes.fromhex(division)
        body = struct.pack("<I", len(instructions)) + instructions
        found = re.search(re.escape(body) + CONSTANT, code, re.DOTALL)
        if found:
            whole, real = found["whole"], found["real"]
            value = struct.unpack("<i", whole)[0] if whole else struct.unpack("<d", real)[0]
            return (float(value), True) if math.isfinite(value) and value != 0 else None
    holds_255 = b"\xff\0\0\0" in code or struct.pack("<d", 255.0) in code
    return (255.0, False) if holds_255 and len(code) < 1000 else None


def _bytes_of(function: Any) -> bytes | None:
    """The bytecode as it is stored, by Keras 2 in a list, by Keras 3 in a dictionary."""
    if isinstance(function, Mapping):
        config = function.get("config")
        function = config.get("code") if isinstance(config, Mapping) else None
    elif isinstance(function, list) and function:
        function = function[0]
    if not isinstance(function, str) or len(function) > LONGEST:
        return None
    try:
        return base64.b64decode(function.replace("\n", ""), validate=True)
    except (binascii.Error, ValueError):
        return None
