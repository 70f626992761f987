"""What is known of the images and outputs of a network, apart from how it is built."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["About", "mapping_of"]


@dataclass(frozen=True, slots=True, kw_only=True)
class About:
    """Attributes of a `Description`, which of them were assumed, and sentences for the user."""

    about: Mapping[str, Any]
    assumed: tuple[str, ...]
    notes: tuple[str, ...]


def mapping_of(value: Any) -> Mapping[str, Any]:
    """What a file says under some name, if it is a mapping; else nothing."""
    return value if isinstance(value, Mapping) else {}
