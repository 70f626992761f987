"""What is not a U-Net is called by its name."""

from __future__ import annotations

import itertools
import re
from typing import Any

import pytest
import torch
from torch import nn

from napari_unet.core.checkpoints.evidence import Evidence
from napari_unet.core.checkpoints.refusals import refusal_for

CONV = (4, 4, 3, 3)


def evidence(shapes: dict[str, tuple[int, ...]], **config: Any) -> Evidence:
    tensors = {name: torch.zeros(shape) for name, shape in shapes.items()}
    return Evidence(name="x.pth", container="PyTorch file", tensors=tensors, config=config)


def of(network: nn.Module) -> Evidence:
    return Evidence(name="x.pth", container="PyTorch file", tensors=network.state_dict())


KINDS: dict[str, tuple[dict[str, tuple[int, ...]], str]] = {
    "cellpose 3": (
        {
            "downsample.down.res_down_0.conv.conv_0.0.weight": (2,),
            "downsample.down.res_down_0.conv.conv_0.2.weight": (32, 2, 3, 3),
            "upsample.up.res_up_0.conv.conv_1.full.weight": (32, 256),
            "output.2.weight": (3, 32, 1, 1),
            "diam_mean": (1,),
        },
        "Cellpose .version 3.*predicts flows",
    ),
    "cellpose-sam": (
        {
            "W2": (192, 3, 8, 8),
            "encoder.patch_embed.proj.weight": (8, 3, 8, 8),
            "encoder.blocks.0.attn.qkv.weight": (24, 8),
            "out.weight": (192, 8, 1, 1),
        },
        "Cellpose-SAM",
    ),
    "stardist": (
        {
            "conv2d/kernel": (32, 1, 3, 3),
            "features/kernel": (128, 32, 3, 3),
            "prob/kernel": (1, 128, 1, 1),
            "dist/kernel": (32, 128, 1, 1),
        },
        "StarDist",
    ),
    "sam": (
        {
            "image_encoder.patch_embed.proj.weight": (8, 3, 16, 16),
            "mask_decoder.iou_token.weight": (1, 8),
        },
        "Segment Anything.*micro-sam",
    ),
    "sam encoder": (
        {"image_encoder.patch_embed.proj.weight": (8, 3, 16, 16)},
        "image encoder of a Segment Anything",
    ),
    "diffusers": (
        {
            "conv_in.weight": (8, 4, 3, 3),
            "time_embedding.linear_1.weight": (8, 8),
            "down_blocks.0.resnets.0.conv1.weight": CONV,
        },
        "diffusion",
    ),
    "guided diffusion": (
        {
            "time_embed.0.weight": (8, 8),
            "input_blocks.0.0.weight": CONV,
            "input_blocks.1.0.emb_layers.1.weight": (8, 8),
        },
        "diffusion",
    ),
    "small diffusion": ({"time_mlp.1.weight": (8, 8), "downs.0.0.conv.weight": CONV}, "diffusion"),
    "r-cnn": (
        {
            "backbone.body.conv1.weight": (64, 3, 7, 7),
            "rpn.head.conv.0.0.weight": CONV,
            "roi_heads.box_head.fc6.weight": (8, 8),
        },
        "boxes around objects .of the R-CNN",
    ),
    "yolo": (
        {
            "model.0.conv.weight": (16, 3, 3, 3),
            "model.2.cv1.conv.weight": CONV,
            "model.22.dfl.conv.weight": (1, 16, 1, 1),
        },
        "YOLO",
    ),
    "detr": (
        {
            "transformer.encoder.layers.0.linear1.weight": (8, 8),
            "class_embed.weight": (8, 8),
            "backbone.0.body.conv1.weight": CONV,
        },
        "DETR",
    ),
    "unetr": ({"vit.patch_embedding.weight": (8, 8), "decoder2.conv.weight": CONV}, "transformer"),
    "swin": (
        {
            "swinViT.layers1.0.blocks.0.attn.relative_position_bias_table": (8, 3),
            "encoder1.layer.conv1.conv.weight": CONV,
        },
        "transformer",
    ),
    "deeplab": (
        {"backbone.conv1.weight": (64, 3, 7, 7), "classifier.4.weight": (21, 256, 1, 1)},
        "torchvision",
    ),
    "named discriminator": ({"discriminator.0.weight": CONV}, "generator"),
    "optimizer": ({"0.exp_avg": CONV, "0.exp_avg_sq": CONV}, "optimizer"),
    "words": ({"embedding.weight": (100, 8), "fc.weight": (3, 8)}, "no convolution"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_networks_are_called_by_their_names(kind: str) -> None:
    shapes, wanted = KINDS[kind]
    said = refusal_for(evidence(shapes))

    assert said is not None
    assert re.search(wanted, said), said


def test_discriminator_is_told_by_its_shapes() -> None:
    layers = [nn.Conv2d(n_in, n_out, 4) for n_in, n_out in ((3, 8), (8, 16), (16, 32), (32, 1))]
    assert "discriminator" in str(refusal_for(of(nn.Sequential(*layers))))


def test_classifier_is_told_by_its_last_layer() -> None:
    network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Conv2d(4, 8, 3), nn.Linear(8, 2))
    assert "classifies whole images" in str(refusal_for(of(network)))


def test_encoder_alone_is_no_segmentation_network() -> None:
    widths = (1, 4, 8, 16, 32)
    pairs = itertools.pairwise(widths)
    network = nn.Sequential(*[nn.Conv2d(n_in, n_out, 3) for n_in, n_out in pairs])
    assert "only the way down" in str(refusal_for(of(network)))


@pytest.mark.parametrize(
    "config, wanted",
    [
        ({"n_rays": 32, "unet_kern_size": [3, 3]}, "StarDist"),
        ({"unet_kern_size": 5, "probabilistic": False}, "restores images"),
        ({"model": {"n_rays": 96}}, "StarDist"),
    ],
)
def test_configurations_tell(config: dict[str, Any], wanted: str) -> None:
    assert wanted in str(refusal_for(evidence({"conv2d/kernel": CONV}, **config)))


@pytest.mark.parametrize("up", [{"up.weight": (8, 4, 2, 2)}, {}])
def test_unets_are_not_refused(up: dict[str, tuple[int, ...]]) -> None:
    shapes = {
        "down1.weight": (4, 1, 3, 3),
        "down2.weight": (8, 4, 3, 3),
        **up,
        "dec.weight": (4, 8 if up else 12, 3, 3),
        "classifier.weight": (2, 4, 1, 1),
    }
    assert refusal_for(evidence(shapes)) is None
