"""Networks that are not U-Nets, or need more than a U-Net gives: what they are, what opens them.

Told by names and shapes of tensors, and by what lies beside them, when no family recognises them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from napari_unet.core.checkpoints.evidence import Evidence

__all__ = ["refusal_by_config", "refusal_for"]

SEGMENT = "(^|[./])"
"""Begin of a part of a name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Refusal:
    """A kind of network.

    Attributes
    ----------
    says : a sentence or two: what it is, and which tool opens it.
    names : regular expressions, all of which must be found in some name.
    without : regular expressions of which none may be found in any name.
    config : keys of the config, all of which must be there.
    shapes : a further test of the tensors, if any.
    """

    says: str
    names: tuple[str, ...] = ()
    without: tuple[str, ...] = ()
    config: tuple[str, ...] = ()
    shapes: Callable[[Evidence], bool] | None = None

    def fits(self, evidence: Evidence) -> bool:
        """Whether a file is of this kind."""
        return (
            all(_is_in(pattern, evidence.tensors) for pattern in self.names)
            and not any(_is_in(pattern, evidence.tensors) for pattern in self.without)
            and all(_is_told(key, evidence) for key in self.config)
            and (self.shapes is None or self.shapes(evidence))
        )


def _is_in(pattern: str, names: Iterable[str]) -> bool:
    return any(re.search(pattern, name) for name in names)


def _is_told(key: str, evidence: Evidence) -> bool:
    model = evidence.config.get("model")
    return key in evidence.config or (isinstance(model, dict) and key in model)


def _convolutions(evidence: Evidence) -> list[str]:
    """Names of the weights of convolutions with a kernel larger than 1."""
    return [
        name
        for name, tensor in evidence.tensors.items()
        if tensor.ndim in (4, 5) and max(tensor.shape[2:]) > 1
    ]


def _has_none(evidence: Evidence) -> bool:
    return not any(tensor.ndim in (3, 4, 5) for tensor in evidence.tensors.values())


def _ends_in_linear(evidence: Evidence) -> bool:
    """Whether what comes last is fully connected, after convolutions."""
    large = [name for name, tensor in evidence.tensors.items() if tensor.ndim >= 2]
    return bool(_convolutions(evidence)) and evidence.tensors[large[-1]].ndim == 2


def _only_shrinks(evidence: Evidence) -> bool:
    """Whether all kernels are 4 wide, channels grow, and the last one gives a single channel."""
    weights = [evidence.shape(name) for name in _convolutions(evidence)]
    inner = [shape[0] for shape in weights[:-1]]
    return (
        len(weights) >= 3
        and all(set(shape[2:]) == {4} for shape in weights)
        and weights[-1][0] == 1
        and inner == sorted(inner)
        and weights[-1][1] == inner[-1]
    )


def _only_grows(evidence: Evidence) -> bool:
    """Whether an encoder has no counterpart: channels never become fewer, as in a classifier."""
    widths = [evidence.shape(name)[0] for name in _convolutions(evidence)]
    return len(widths) >= 4 and widths == sorted(widths) and widths[-1] >= 8 * widths[0]


_REFUSALS = (
    _Refusal(
        says="This is a network of StarDist: it predicts distances to the borders of star-shaped "
        "objects, which only StarDist turns into objects. Use the StarDist plugin for napari.",
        config=("n_rays",),
    ),
    _Refusal(
        says="This is a network of StarDist: it predicts distances to the borders of star-shaped "
        "objects, which only StarDist turns into objects. Use the StarDist plugin for napari.",
        names=(rf"{SEGMENT}prob(_\d+)?[./]", rf"{SEGMENT}dist(_\d+)?[./]"),
    ),
    _Refusal(
        says="This is a network of CSBDeep (CARE or Noise2Void): it restores images and does not "
        "segment them. Use CSBDeep, N2V or CAREamics.",
        config=("unet_kern_size",),
    ),
    _Refusal(
        says="This is a network of Cellpose-SAM (Cellpose 4): a transformer whose output only "
        "Cellpose turns into objects. Use the Cellpose plugin for napari.",
        names=(r"^(module\.)?W2$", r"encoder\.patch_embed\.proj\.weight$"),
    ),
    _Refusal(
        says="This is a network of Cellpose (version 3 or older, or Omnipose). It is a kind of "
        "U-Net, but it predicts flows, which only Cellpose turns into objects. Use the Cellpose "
        "plugin for napari.",
        names=(r"downsample\.down\.res_down_0\.", r"upsample\.up\.res_up_0\."),
    ),
    _Refusal(
        says="This is a Segment Anything model (SAM) or one made from it, such as micro-sam: a "
        "transformer that is asked for objects one by one. Use the plugin micro-sam for napari.",
        names=(r"image_encoder\.", r"(mask_decoder|prompt_encoder|memory_encoder)\."),
    ),
    _Refusal(
        says="This is the image encoder of a Segment Anything model (SAM), without anything that "
        "makes objects. Use the plugin micro-sam for napari.",
        names=(r"image_encoder\.(trunk\.)?patch_embed\.proj\.weight$",),
    ),
    _Refusal(
        says="This is the network of a diffusion model: it makes images out of noise and does not "
        "segment them. Use the program that it was made with, such as diffusers.",
        names=(
            rf"{SEGMENT}(time_embedding\.linear_1|time_embed\.\d|time_mlp|time_embedding\.\d)"
            r"|down_blocks\.0\.resnets|input_blocks\.0\.0\.weight|\.time_emb_proj\.|\.emb_layers\.",
        ),
    ),
    _Refusal(
        says="This is a network that finds boxes around objects (of the R-CNN kind), not a U-Net. "
        "Open it with the program that it was made with, such as torchvision or Detectron2.",
        names=(rf"{SEGMENT}(rpn|proposal_generator|rpn_head)\.", r"roi_heads?\."),
    ),
    _Refusal(
        says="This is a network that finds boxes around objects (YOLO), not a U-Net. Open it with "
        "the program that it was made with, such as ultralytics.",
        names=(
            rf"{SEGMENT}model\.\d+\.(cv\d|m\.\d|dfl|anchors|conv)\b|^(\d+)\.cv\d\.",
            r"\.(cv\d\.|dfl\.|m\.\d)",
        ),
        without=(r"^encoder", r"^decoder", r"submodule"),
    ),
    _Refusal(
        says="This is a transformer that finds objects (of the DETR or Mask2Former kind), not a "
        "U-Net. Open it with the program that it was made with.",
        names=(rf"{SEGMENT}(class_embed|bbox_embed|query_embed|class_predictor)\.",),
    ),
    _Refusal(
        says="This is a network that is built on a transformer (such as UNETR, Swin-UNETR, "
        "TransUNet or SegFormer), not a convolutional U-Net. Open it with the program that it was "
        "made with, or ask its author for an ONNX file.",
        names=(
            rf"relative_position_bias_table|{SEGMENT}(vit|swinViT|transformer)\.|\.attn\.qkv\."
            rf"|attention\.self\.query|{SEGMENT}(cls_token|pos_embed)$|in_proj_weight$",
        ),
        without=(r"segmentation_head\.",),
    ),
    _Refusal(
        says="This is a segmentation network of torchvision (DeepLab, FCN or LR-ASPP), not a "
        "U-Net. Open it with torchvision, or ask its author for an ONNX file.",
        names=(r"^backbone\.", r"^classifier\."),
    ),
    _Refusal(
        says="This is a network that tells real from generated images (a discriminator), one half "
        "of an adversarial pair. What is needed is the other half, the generator.",
        names=(r"discriminator",),
    ),
    _Refusal(
        says="This looks like a network that tells real from generated images (a discriminator), "
        "one half of an adversarial pair. What is needed is the other half, the generator.",
        shapes=_only_shrinks,
    ),
    _Refusal(
        says="This is the state of an optimizer, not a network. Look for a file named model, best "
        "or weights beside it.",
        names=(r"exp_avg|momentum_buffer",),
        without=(r"\.(weight|kernel)$",),
    ),
    _Refusal(
        says="There is no convolution in this file, so it is no U-Net. It may be a network for "
        "texts or tables, or only a part of a network. Look for another file beside it.",
        shapes=_has_none,
    ),
    _Refusal(
        says="This is a network that classifies whole images: it ends in a fully connected layer "
        "and says what an image shows, but not where. A segmentation network is needed.",
        shapes=_ends_in_linear,
    ),
    _Refusal(
        says="This is only the way down of a network (an encoder, or a network that classifies "
        "whole images): nothing brings its features back to the size of the image. A complete "
        "segmentation network is needed.",
        shapes=_only_grows,
    ),
)
"""In the order in which they are tried: from what is surest to what is most general."""


def refusal_by_config(config: Mapping[str, Any]) -> str | None:
    """The same, by nothing but the values that lie beside a file."""
    evidence = Evidence(name="", container="", tensors={}, config=config)
    told = (refusal for refusal in _REFUSALS if refusal.config and not refusal.names)
    return next((refusal.says for refusal in told if refusal.fits(evidence)), None)


def refusal_for(evidence: Evidence) -> str | None:
    """What a network is that this program does not open, and which tool does; None if unknown.

    Meant for files that no family recognises.
    """
    return next((refusal.says for refusal in _REFUSALS if refusal.fits(evidence)), None)
