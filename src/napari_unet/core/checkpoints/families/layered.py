"""Networks that come with a list of their layers: Keras, Freiburg's Caffe, ONNX.

They are not recognised by names of tensors: their readers in `graphs/` give config and weights.
"""

from __future__ import annotations

from napari_unet.core.checkpoints.evidence import Evidence
from napari_unet.core.checkpoints.family import Family, Understanding
from napari_unet.core.errors import ModelFileError
from napari_unet.core.networks.layered import LayeredConfig, LayeredNetwork

__all__ = ["FAMILY"]


def _recognise(_evidence: Evidence) -> bool:
    return False


def _understand(evidence: Evidence) -> Understanding:
    raise ModelFileError(
        f"{evidence.name} holds weights without the list of layers they belong to. Open the file "
        f"that the network was exported to as a whole (Keras, ONNX or Caffe)."
    )


FAMILY = Family(
    name="layered",
    title="network with its own list of layers",
    config=LayeredConfig,
    network=LayeredNetwork,
    recognise=_recognise,
    understand=_understand,
)
