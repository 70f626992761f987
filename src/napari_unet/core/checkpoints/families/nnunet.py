"""PlainConvUNet and ResidualEncoderUNet of nnU-Net v2, read off their weights and plans.

Its files hold most tensors several times: once more as "all_modules", and the encoder once more
within the decoder. Strides are those of the convolutions that enlarge, which are seen.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from napari_unet.core.checkpoints.aliases import merged
from napari_unet.core.checkpoints.evidence import Evidence
from napari_unet.core.checkpoints.family import Family, Understanding
from napari_unet.core.checkpoints.nnunet.network import NnUNet, NnUNetConfig
from napari_unet.core.checkpoints.nnunet.plans import about_of, configuration_of
from napari_unet.core.checkpoints.styles import (
    ACTS,
    CHOICES,
    axes_of,
    per_axis,
)
from napari_unet.core.errors import ModelFileError

__all__ = ["FAMILY"]

CASCADE = (
    "is the second of two networks that work one after the other (a cascade of nnU-Net): it takes "
    "the result of the first one beside the image. Open a network of the configuration 2d or "
    "3d_fullres instead."
)


def _canonical(name: str) -> str:
    """The one name of a tensor that a file holds under several."""
    name = re.sub(r"^decoder\.encoder\.", "encoder.", name)
    name = re.sub(r"\.all_modules\.0\.", ".conv.", name)
    return re.sub(r"\.all_modules\.\d+\.", ".norm.", name)


def _recognise(evidence: Evidence) -> bool:
    has_decoder = evidence.has("decoder.transpconvs.0.weight", "decoder.seg_layers.0.weight")
    pattern = r"encoder\.(stages\.0\.[01]\.convs|stem\.convs)\.0\.conv\.weight"
    return has_decoder and any(re.fullmatch(pattern, _canonical(name)) for name in evidence.tensors)


def _understand(evidence: Evidence) -> Understanding:
    evidence, names = merged(evidence, _canonical)
    if any(".squeeze_excitation." in name for name in evidence.tensors):
        raise ModelFileError(
            f"{evidence.name} is a network of nnU-Net with squeeze-and-excitation, which is not "
            "supported. Networks of nnU-Net's own plans are."
        )
    config, assumed = _config(evidence)
    about = about_of(evidence, config.dims, config.in_channels, config.out_channels)
    if configuration_of(evidence).get("previous_stage"):
        raise ModelFileError(f"{evidence.name} {CASCADE}")
    return Understanding(
        config=config,
        about=about.about,
        assumed=(*assumed, *about.assumed),
        names=names,
        notes=(*evidence.notes, *about.notes),
    )


def _config(evidence: Evidence) -> tuple[NnUNetConfig, tuple[str, ...]]:
    stages = _stages(evidence)
    firsts = [_first(evidence, path) for path in stages]
    is_residual = evidence.has("encoder.stem.convs.0.conv.weight")
    start = "encoder.stem.convs.0" if is_residual else firsts[0]
    shape = evidence.shape(f"{start}.conv.weight")
    dims = axes_of(shape, evidence.name)
    told = _arguments(evidence)
    strides, no_strides = _strides(evidence, firsts[0], len(stages), dims, told)
    has_pool = stages[-1].endswith(".1.convs")
    style, no_style = _style(evidence, start, told)
    n_up = evidence.count(r"decoder\.transpconvs\.(\d+)\.weight")
    config = NnUNetConfig(
        dims=dims,
        in_channels=shape[1],
        out_channels=evidence.n_out(f"decoder.seg_layers.{n_up - 1}.weight"),
        widths=tuple(_width(evidence, path) for path in stages),
        kernels=tuple(_kernel(evidence, path, dims) for path in firsts),
        strides=strides,
        n_down=tuple(evidence.count(rf"{re.escape(path)}\.(\d+)\..*") for path in stages),
        n_up=tuple(evidence.count(rf"decoder\.stages\.{i}\.convs\.(\d+)\..*") for i in range(n_up)),
        stem=shape[0] if is_residual else 0,
        within=_within(evidence, firsts),
        pool="max" if has_pool else "conv",
        bias=evidence.has(f"{start}.conv.bias"),
        **style,
    )
    return config, (*no_strides, *(("pool",) if has_pool else ()), *no_style)


# ---- places


def _stages(evidence: Evidence) -> list[str]:
    """Where the convolutions or blocks of each level lie, from full resolution down."""
    n_stages = evidence.count(r"encoder\.stages\.(\d+)\..*")
    kinds = ("blocks", "0.convs", "1.convs")
    paths = [[f"encoder.stages.{i}.{kind}" for kind in kinds] for i in range(n_stages)]
    return [
        next((path for path in options if _first_name(evidence, path)), options[0])
        for options in paths
    ]


def _first_name(evidence: Evidence, path: str) -> str:
    """The first convolution of a level, if it is there."""
    names = (f"{path}.0", f"{path}.0.conv1")
    return next((name for name in names if evidence.has(f"{name}.conv.weight")), "")


def _first(evidence: Evidence, path: str) -> str:
    return _first_name(evidence, path) or f"{path}.0"


def _is_narrowed(evidence: Evidence, first: str) -> bool:
    return evidence.has(f"{first.removesuffix('conv1')}conv3.conv.weight")


def _width(evidence: Evidence, path: str) -> int:
    """Channels that a level gives."""
    first = _first(evidence, path)
    if _is_narrowed(evidence, first):
        first = f"{path}.0.conv3"
    return evidence.n_out(f"{first}.conv.weight")


def _kernel(evidence: Evidence, first: str, dims: int) -> tuple[int, ...]:
    if _is_narrowed(evidence, first):
        first = f"{first.removesuffix('conv1')}conv2"
    return evidence.shape(f"{first}.conv.weight")[-dims:]


def _within(evidence: Evidence, firsts: list[str]) -> tuple[int, ...]:
    if not _is_narrowed(evidence, firsts[0]):
        return ()
    return tuple(evidence.n_out(f"{first}.conv.weight") for first in firsts)


# ---- what weights do not tell


def _arguments(evidence: Evidence) -> Mapping[str, Any]:
    """The keyword arguments of the network, as far as they are known."""
    architecture = configuration_of(evidence).get("architecture")
    told = architecture.get("arch_kwargs") if isinstance(architecture, Mapping) else None
    told = told if isinstance(told, Mapping) else evidence.config.get("model")
    return told if isinstance(told, Mapping) else {}


def _strides(
    evidence: Evidence, first: str, n_stages: int, dims: int, told: Mapping[str, Any]
) -> tuple[tuple[tuple[int, ...], ...], tuple[str, ...]]:
    """Of each level from full resolution down, and ("strides",) if the first was assumed."""
    ups = [
        evidence.shape(f"decoder.transpconvs.{i}.weight")[2:] for i in reversed(range(n_stages - 1))
    ]
    at_first = evidence.setting(f"{first}.conv", "stride")
    for listed in (told.get("strides"), configuration_of(evidence).get("pool_op_kernel_sizes")):
        if at_first is None and isinstance(listed, (list, tuple)) and len(listed) == n_stages:
            at_first = listed[0]
    # It is 1 in whatever nnU-Net plans by itself.
    sure = at_first is not None or "init_args" in evidence.config
    return (per_axis(at_first or 1, dims), *ups), () if sure else ("strides",)


def _style(
    evidence: Evidence, path: str, told: Mapping[str, Any]
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Normalization and activation, and what of them was assumed."""
    norm, no_norm = _read_norm(evidence, f"{path}.norm", told)
    act, no_act = _read_act(evidence, f"{path}.nonlin", told)
    return {**norm, **act, "act_first": told.get("nonlin_first") is True}, (*no_norm, *no_act)


def _read_norm(
    evidence: Evidence, path: str, told: Mapping[str, Any]
) -> tuple[dict[str, Any], tuple[str, ...]]:
    affine = evidence.has(f"{path}.weight")
    note = evidence.layers.get(path)
    said = note.kind if note else str(told.get("norm_op", "")).rpartition(".")[2]
    values = note.values if note else told.get("norm_op_kwargs")
    values = values if isinstance(values, Mapping) else {}
    eps = values.get("eps", 1e-5)
    fields = {"affine": affine, "eps": float(eps) if isinstance(eps, (int, float)) else 1e-5}
    if evidence.has(f"{path}.running_mean"):
        return {**fields, "norm": "batch"}, ()
    if affine:
        is_group = said == "GroupNorm"
        groups = values.get("num_groups", 1) if is_group else 1
        sure = is_group or said.startswith("InstanceNorm") or "init_args" in evidence.config
        known = {"norm": "group" if is_group else "instance", "groups": groups}
        return {**fields, **known}, () if sure else ("norm", "groups")
    if said.startswith("InstanceNorm"):
        return {**fields, "norm": "instance"}, ()
    return {**fields, "norm": "none"}, () if "norm_op" in told else ("norm",)


def _read_act(
    evidence: Evidence, path: str, told: Mapping[str, Any]
) -> tuple[dict[str, Any], tuple[str, ...]]:
    note = evidence.layers.get(path)
    said = note.kind if note else str(told.get("nonlin") or "").rpartition(".")[2]
    values = note.values if note else told.get("nonlin_kwargs")
    values = values if isinstance(values, Mapping) else {}
    if not said:
        # Plans that do not say it are older than the possibility to choose.
        sure = "init_args" in evidence.config
        return {"act": "leakyrelu", "slope": 0.01}, () if sure else ("act", "slope")
    if said.lower() not in ACTS:
        raise ModelFileError(
            f"{evidence.name} is a network of nnU-Net with the activation {said[:40]!r}, which is "
            f"not supported. Supported are: {', '.join(ACTS)}."
        )
    numbers = {"slope": values.get("negative_slope", 0.01), "alpha": values.get("alpha", 1.0)}
    known = {name: float(n) for name, n in numbers.items() if isinstance(n, (int, float))}
    return {"act": said.lower(), **known}, ()


FAMILY = Family(
    name="nnunet",
    title="nnU-Net v2",
    config=NnUNetConfig,
    network=NnUNet,
    recognise=_recognise,
    understand=_understand,
    choices={
        **CHOICES,
        "pool": ("max", "avg"),
    },
)
