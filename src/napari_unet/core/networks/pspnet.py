"""PSPNet: what an image is like in large fields, beside what it is like at each pixel.

After Zhao, Shi, Qi, Wang, Jia: "Pyramid Scene Parsing Network", CVPR 2017. The last feature map of
a ResNet-50 that keeps 1/8 of the resolution is averaged in 1x1, 2x2, 3x3 and 6x6 fields; the
averages are enlarged and joined with it. So every pixel knows of the whole image, and no part of
it can be computed by itself.

What differs from the paper: the encoder begins with one convolution 7x7, not three of 3x3; what is
joined is mixed by a convolution 1x1, and the last is 3x3, not the other way round; and there is no
second loss halfway. The layers are those of segmentation_models_pytorch, so that files fit.

The same network on other encoders is in `backbones.py`, where this one is "pspnet-resnet50".
"""

from __future__ import annotations

from functools import partial

from napari_unet.core.networks.backbones import KIND, pspnet_config
from napari_unet.core.networks.registry import Preset

__all__ = ["PRESETS"]

RECIPE = {
    "optimizer": "sgd", "momentum": 0.9, "learning_rate": 0.01, "weight_decay": 1e-4,
    "schedule": "poly", "loss": "cross-entropy", "outputs": "softmax", "batch_size": 16,
}  # fmt: skip
"""The paper's, which begins with weights of ImageNet."""

PRESETS = (
    Preset(
        name="pspnet",
        title="PSPNet",
        paper="Zhao, Shi, Qi, Wang, Jia: Pyramid Scene Parsing Network, CVPR 2017",
        summary="A ResNet-50 at 1/8 of the resolution with pyramid pooling, so that every pixel "
        "knows of the whole image.",
        kind=KIND,
        configure=partial(pspnet_config, "resnet50"),
        recipe=RECIPE,
    ),
)
