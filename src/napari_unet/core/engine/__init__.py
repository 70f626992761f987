"""The engine: any network on an image of any size, exactly, at the speed of the network."""

from __future__ import annotations

from napari_unet.core.engine.plan import Plan, Request, make_plan
from napari_unet.core.engine.source import Source
from napari_unet.core.engine.ways import Activation

__all__ = ["Activation", "Plan", "Request", "Source", "make_plan"]
