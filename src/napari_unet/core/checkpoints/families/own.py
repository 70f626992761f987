"""This project's own U-Net, as a plain state dict."""

from __future__ import annotations

from napari_unet.core.checkpoints.evidence import Evidence
from napari_unet.core.checkpoints.family import Family, Understanding, classes_of
from napari_unet.core.errors import ModelFileError
from napari_unet.core.networks import UNet, UNetConfig

__all__ = ["FAMILY"]


def _recognise(evidence: Evidence) -> bool:
    return evidence.has("encoder.0.0.weight", "head.weight") and any(
        evidence.matches(r"(up|decoder)\.0\..*|encoder\.0\.[12]\.weight")
    )


def _understand(evidence: Evidence) -> Understanding:
    """Read depth, widths, channels and kind of layers off the names and shapes."""
    n_levels = evidence.count(r"encoder\.(\d+)\.0\.weight")
    n_axes = {len(evidence.shape(f"encoder.{i}.0.weight")) for i in range(n_levels)}
    n_axes.add(len(evidence.shape("head.weight")))
    if n_axes not in ({4}, {5}):
        raise ModelFileError(f"{evidence.name}: the convolutions are neither all 2D nor all 3D.")
    config = UNetConfig(
        dims=2 if n_axes == {4} else 3,
        in_channels=evidence.n_in("encoder.0.0.weight"),
        out_channels=evidence.n_out("head.weight"),
        widths=tuple(evidence.n_out(f"encoder.{i}.0.weight") for i in range(n_levels)),
        norm="batch" if evidence.has("encoder.0.1.running_mean") else "none",
        upsampling="linear" if evidence.has("up.0.1.weight") else "transposed",
    )
    return Understanding(
        config=config,
        about=classes_of(config.out_channels),
        assumed=("class_names", "activation", "normalization", "channels", "pixel_size"),
    )


FAMILY = Family(
    name="unet",
    title="U-Net of napari-unet-live",
    config=UNetConfig,
    network=UNet,
    recognise=_recognise,
    understand=_understand,
)
