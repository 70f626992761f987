"""What decoder a network of segmentation_models_pytorch has, read off names and shapes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, get_args

from napari_unet.core.checkpoints.evidence import Evidence
from napari_unet.core.errors import ModelFileError
from napari_unet.core.networks.decoders import (
    AttentionKind,
    DecoderName,
    EncoderDecoderConfig,
    Interpolation,
    Norm,
)
from napari_unet.core.networks.encoders import ENCODERS

__all__ = ["config_of"]

DECODERS: tuple[tuple[DecoderName, str], ...] = (
    ("unetplusplus", r"decoder\.blocks\.x_0_0\.conv1\.0\.weight"),
    ("manet", r"decoder\.blocks\.0\.hl_conv\.0\.0\.weight"),
    ("unet", r"decoder\.blocks\.0\.conv1\.0\.weight"),
    ("linknet", r"decoder\.blocks\.0\.block\.1\.0\.weight"),
    ("fpn", r"decoder\.p4\.skip_conv\.weight"),
    ("pspnet", r"decoder\.psp\.blocks\.0\.pool\.1\.0\.weight"),
    ("pan", r"decoder\.fpa\.mid\.0\.conv\.weight"),
    ("deeplabv3plus", r"decoder\.aspp\.0\.convs\.0\.0\.weight"),
    ("deeplabv3", r"decoder\.aspp\.convs\.0\.0\.weight"),
)
"""Each decoder, and a tensor that only it has; the first that is found counts."""

OTHER_DECODERS = (
    ("UPerNet", r"decoder\.(fpn_lateral_blocks|psp)\..*"),
    ("Segformer", r"decoder\.mlp_stage\..*"),
    ("DPT", r"decoder\.(projection_blocks|reassemble_blocks|neck)\..*"),
    ("an old version of another decoder", r"decoder\..*"),
)

MODEL_NAMES = ("Unet", "UnetPlusPlus", "MAnet", "Linknet", "FPN", "PSPNet", "PAN", "DeepLabV3")


def config_of(
    known: Evidence, encoder: str, told: Mapping[str, Any]
) -> tuple[EncoderDecoderConfig, tuple[str, ...]]:
    """The config of the network, and the names of its attributes that were assumed.

    Parameters
    ----------
    known : the evidence, with the names that the network has here.
    encoder : name of its encoder.
    told : arguments of its class, as far as they are known.

    Raises
    ------
    ModelFileError
        If it has a decoder that cannot be built here.
    """
    decoder = _decoder(known)
    parts, matters = _READERS[decoder](known, ENCODERS[encoder].widths, told)
    stated = _stated(encoder, told)
    parts.update({name: value for name, value in stated.items() if name in matters})
    config = EncoderDecoderConfig(
        in_channels=known.n_in(f"encoder.{ENCODERS[encoder].first}"),
        out_channels=known.n_out("segmentation_head.0.weight"),
        encoder=encoder,
        decoder=decoder,
        head=known.shape("segmentation_head.0.weight")[2],
        **parts,
    )
    return config, tuple(name for name in matters if name not in stated)


def _stated(encoder: str, told: Mapping[str, Any]) -> dict[str, Any]:
    """Attributes of the config that leave no trace in names and shapes, as far as known."""
    stated: dict[str, Any] = {}
    mode = told.get("decoder_interpolation", told.get("upscale_mode"))
    if mode in get_args(Interpolation):
        stated["interpolation"] = mode
    if told.get("encoder_output_stride") in (8, 16, 32):
        stated["output_stride"] = told["encoder_output_stride"]
    if encoder.startswith(("vgg", "densenet")):
        stated["output_stride"] = 32  # they cannot be built otherwise
    rates = told.get("decoder_atrous_rates")
    if isinstance(rates, list | tuple) and [type(rate) for rate in rates] == [int] * 3:
        stated["rates"] = tuple(rates)
    return stated


def _decoder(known: Evidence) -> DecoderName:
    for name, pattern in DECODERS:
        if any(known.matches(pattern)):
            return name
    words = next(
        (words for words, pattern in OTHER_DECODERS if any(known.matches(pattern))), "no decoder"
    )
    raise ModelFileError(
        f"{known.name} is a network of segmentation_models_pytorch with {words}, which cannot be "
        f"rebuilt here; {', '.join(MODEL_NAMES)} and DeepLabV3Plus can. Export the model as ONNX "
        f"(torch.onnx.export) and open that file."
    )


Parts = tuple[dict[str, Any], tuple[str, ...]]
"""Attributes of the config, and which others matter but are not in the file."""


def _norm(known: Evidence, path: str, told: Mapping[str, Any]) -> Norm:
    """What is between the convolution and the ReLU at a path."""
    stated = told.get("decoder_use_norm", told.get("decoder_use_batchnorm"))
    kind = stated.get("type") if isinstance(stated, Mapping) else stated
    if kind in ("inplace", "layernorm"):
        raise ModelFileError(
            f"{known.name} has a decoder with {kind!r} norms, which cannot be rebuilt here. Export "
            f"the model as ONNX (torch.onnx.export) and open that file."
        )
    if known.has(f"{path}.1.running_mean"):
        return "batch"
    return "instance" if known.has(f"{path}.1.weight") else "none"


def _unet(known: Evidence, _: Sequence[int], told: Mapping[str, Any]) -> Parts:
    n_blocks = known.count(r"decoder\.blocks\.(\d+)\.conv1\.0\.weight")
    blocks = [f"decoder.blocks.{i}" for i in range(n_blocks)]
    return _u_shaped(known, blocks, told), ("interpolation",)


def _unetplusplus(known: Evidence, _: Sequence[int], told: Mapping[str, Any]) -> Parts:
    n_blocks = known.count(r"decoder\.blocks\.x_0_(\d+)\.conv1\.0\.weight")
    blocks = [f"decoder.blocks.x_0_{i}" for i in range(n_blocks)]
    return _u_shaped(known, blocks, told), ("interpolation",)


def _u_shaped(known: Evidence, blocks: list[str], told: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "depth": len(blocks),
        "widths": tuple(known.n_out(f"{block}.conv1.0.weight") for block in blocks),
        "norm": _norm(known, f"{blocks[0]}.conv1", told),
        "center": known.has("decoder.center.0.0.weight"),
        "attention": _attention(known, f"{blocks[0]}.attention1.attention.sSE.0.weight"),
    }


def _attention(known: Evidence, name: str) -> AttentionKind:
    if not known.has(name):
        return "none"
    return "scse" if known.n_out(name) == 1 else "old scse"


def _manet(known: Evidence, widths: Sequence[int], told: Mapping[str, Any]) -> Parts:
    parts, matters = _unet(known, widths, told)
    return {**parts, "inner": known.n_out("decoder.center.top_conv.weight")}, matters


def _linknet(known: Evidence, _: Sequence[int], told: Mapping[str, Any]) -> Parts:
    depth = known.count(r"decoder\.blocks\.(\d+)\.block\.0\.0\.weight")
    width = known.n_out(f"decoder.blocks.{depth - 1}.block.2.0.weight")
    norm = _norm(known, "decoder.blocks.0.block.0", told)
    return {"depth": depth, "widths": (width,), "norm": norm}, ()


def _fpn(known: Evidence, widths: Sequence[int], told: Mapping[str, Any]) -> Parts:
    skips = [known.n_in(f"decoder.p{i}.skip_conv.weight") for i in (2, 3, 4)]
    wanted = (*skips, known.n_in("decoder.p5.weight"))
    fitting = [depth for depth in (5, 4) if tuple(widths[depth - 4 : depth]) == wanted]
    width = known.n_out("decoder.seg_blocks.3.block.0.block.0.weight")
    n_merged = known.n_in("segmentation_head.0.weight")
    return {
        "depth": _depth(known, told, fitting or [3]),
        "widths": (known.n_out("decoder.p5.weight"), width),
        "merge": "add" if n_merged == width else "cat",
    }, ("interpolation",)


def _pspnet(known: Evidence, widths: Sequence[int], told: Mapping[str, Any]) -> Parts:
    n = known.n_in("decoder.psp.blocks.0.pool.1.0.weight")
    depth = _depth(known, told, [d for d in (3, 4, 5, 2, 1) if widths[d - 1] == n])
    return {
        "depth": depth,
        "widths": (known.n_out("decoder.conv.0.weight"),),
        "norm": _norm(known, "decoder.conv", told),
    }, ("output_stride",) if depth > 3 else ()


def _pan(known: Evidence, _: Sequence[int], told: Mapping[str, Any]) -> Parts:
    return {
        "depth": 2 + known.count(r"decoder\.gau(\d)\.conv2\.conv\.weight"),
        "widths": (known.n_out("decoder.fpa.mid.0.conv.weight"),),
        "interpolation": "bilinear",
        "output_stride": 16,
    }, ("interpolation", "output_stride")


def _deeplab(known: Evidence, widths: Sequence[int], told: Mapping[str, Any]) -> Parts:
    plus = known.has("decoder.block1.0.weight")
    path = "decoder.aspp.0" if plus else "decoder.aspp"
    n = known.n_in(f"{path}.convs.0.0.weight")
    return {
        "depth": _depth(known, told, [d for d in (5, 4, 3, 2, 1) if widths[d - 1] == n]),
        "widths": (known.n_out(f"{path}.convs.0.0.weight"),),
        "separable": known.has(f"{path}.convs.1.0.0.weight"),
        "output_stride": 16 if plus else 8,
    }, ("output_stride", "rates")


def _depth(known: Evidence, told: Mapping[str, Any], fitting: list[int]) -> int:
    """The depth that is stated, if it can be; else the likeliest of those that can be."""
    stated = told.get("encoder_depth")
    if stated in fitting:
        return int(stated)
    if fitting:
        return fitting[0]
    raise ModelFileError(
        f"{known.name}: encoder and decoder do not belong together; their channels differ. The "
        f"file is damaged, or of a version that is not known here."
    )


_READERS: Mapping[DecoderName, Callable[[Evidence, Sequence[int], Mapping[str, Any]], Parts]] = {
    "unet": _unet,
    "unetplusplus": _unetplusplus,
    "manet": _manet,
    "linknet": _linknet,
    "fpn": _fpn,
    "pspnet": _pspnet,
    "pan": _pan,
    "deeplabv3": _deeplab,
    "deeplabv3plus": _deeplab,
}
