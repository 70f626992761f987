"""What a benchmark was run on, in the words of its table."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

__all__ = ["processor", "tell", "versions_of"]


def processor() -> str:
    """The name of the processor."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor())


def versions_of(names: Sequence[str]) -> str:
    """Packages with their versions, those that are installed."""
    found = []
    for name in names:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            continue
    return ", ".join(found)


def tell(text: str, out: Path | None) -> None:
    """Print what was measured, and write it to a file if one was named."""
    print(text)
    if out is not None:
        out.write_text(text, encoding="utf-8")
