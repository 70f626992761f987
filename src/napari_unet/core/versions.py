"""What software is at work here, on what."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed

__all__ = ["version", "versions"]

PACKAGES = ("napari-unet-live", "torch", "numpy", "scikit-image", "scipy", "tifffile", "zarr")


def version(package: str) -> str:
    """The version of a package that is installed; "unknown" if none is."""
    try:
        return installed(package)
    except PackageNotFoundError:
        return "unknown"


def versions() -> dict[str, str]:
    """Name to version of all that has a say in the results."""
    return {
        **{package: version(package) for package in PACKAGES},
        "Python": platform.python_version(),
        "platform": platform.platform(),
    }
