"""Saving models for other programs: plain PyTorch weights, ONNX, packages of bioimage.io."""

from __future__ import annotations

from napari_unet.core.checkpoints.saving.architecture import network
from napari_unet.core.checkpoints.saving.bioimageio import write_bioimageio
from napari_unet.core.checkpoints.saving.onnx import write_onnx
from napari_unet.core.checkpoints.saving.plain import write_plain

__all__ = ["network", "write_bioimageio", "write_onnx", "write_plain"]
