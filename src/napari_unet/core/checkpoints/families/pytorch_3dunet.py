"""The U-Nets of wolny/pytorch-3dunet, as PlantSeg uses them too, in all generations of their names.

Plain ones with two convolutions a level, and residual ones with or without squeeze and excitation.
The 2D network was until 2023 a 3D one with flat kernels; it becomes a true 2D network here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, cast

from napari_unet.core.checkpoints.evidence import Evidence
from napari_unet.core.checkpoints.family import Family, Understanding
from napari_unet.core.checkpoints.unet3d.describing import describe, mapping
from napari_unet.core.checkpoints.unet3d.network import (
    GROUPS,
    Norm,
    Unet3dConfig,
    Unet3dNetwork,
    Upsampling,
)
from napari_unet.core.errors import ModelFileError

__all__ = ["FAMILY"]

LETTERS = {"r": "relu", "l": "leaky_relu", "e": "elu"}
"""What the letters of `layer_order` in a training configuration mean."""


def _recognise(evidence: Evidence) -> bool:
    has_blocks = any(
        evidence.matches(r"encoders\.0\.basic_module\.(SingleConv1|conv2)\.conv\.weight")
    )
    has_decoder = any(evidence.matches(r"decoders\.0\.basic_module\..*"))
    return has_blocks and has_decoder and evidence.has("final_conv.weight")


def _understand(evidence: Evidence) -> Understanding:
    told = mapping(evidence.config.get("model"))
    is_flat = _is_flat(evidence, told)
    config, assumed = _read(evidence, told, is_flat)
    about, guessed = describe(evidence, config, told)
    old = r"decoders\.(\d+)\.upsample\.(weight|bias)"
    return Understanding(
        config=config,
        about=about,
        assumed=(*assumed, *guessed),
        tensors={
            name: tensor.squeeze(2) if tensor.ndim == 5 else tensor  # (out, in, y, x)
            for name, tensor in evidence.tensors.items()
        }
        if is_flat
        else None,
        names={
            f"decoders.{found[1]}.upsampling.upsample.{found[2]}": (found[0],)
            for found in evidence.matches(old)
        },
    )


def _is_flat(evidence: Evidence, told: Mapping[str, Any]) -> bool:
    """Whether a 2D network was stored with the tensors of a 3D one, as it was until 2023."""
    kernels = [value.shape[2:] for value in evidence.tensors.values() if value.ndim == 5]
    is_flat = bool(kernels) and all(kernel[0] == 1 for kernel in kernels)
    return is_flat and not str(told.get("name", "")).endswith("3D")


def _read(
    evidence: Evidence, told: Mapping[str, Any], is_flat: bool
) -> tuple[Unet3dConfig, tuple[str, ...]]:
    """The config, and the names of what was assumed in it."""
    block: Literal["double", "residual", "residual_conv"] = "double"
    first = last = "conv2"
    if evidence.has("encoders.0.basic_module.SingleConv1.conv.weight"):
        first, last = "SingleConv1", "SingleConv2"
    else:
        is_old = evidence.has("encoders.0.basic_module.conv1.conv.weight")
        block = "residual_conv" if is_old else "residual"
    encoders, decoders = (
        tuple(
            (
                evidence.n_out(f"{part}.{i}.basic_module.{first}.conv.weight"),
                evidence.n_out(f"{part}.{i}.basic_module.{last}.conv.weight"),
            )
            for i in range(evidence.count(rf"{part}\.(\d+)\..*"))
        )
        for part in ("encoders", "decoders")
    )
    if len(encoders) != len(decoders) + 1:
        raise ModelFileError(
            f"{evidence.name} has {len(encoders)} levels on the way down and {len(decoders)} on "
            "the way up, but needs one more on the way down. Is the file complete?"
        )
    path = f"encoders.0.basic_module.{first}"
    kernel = evidence.shape(f"{path}.conv.weight")[2 + is_flat :]
    reading = _Reading(evidence, told, path, len(kernel))
    up, deconv = _enlarged(evidence, encoders, decoders)
    config = Unet3dConfig(
        dims=2 if len(kernel) == 2 else 3,
        in_channels=_first_channels(evidence, "encoders.0.basic_module"),
        out_channels=evidence.n_out("final_conv.weight"),
        block=block,
        encoders=encoders,
        decoders=decoders,
        up=up,
        join=_join(evidence, encoders, up),
        kernel=kernel,
        pool=reading.pool(),
        norm=reading.norm,
        norm_at=reading.norm_at(block),
        groups=reading.groups(),
        bias=evidence.has(f"{path}.conv.bias"),
        nonlinearity=reading.nonlinearity(block),
        padding=reading.padding(),
        upsampling=deconv or reading.upsampling(),
        up_bias=any(evidence.matches(r"decoders\.0\.upsampl.*\.bias")),
        excitation=_kind_of_excitation(evidence),
    )
    if deconv and "upsampling" in reading.assumed:
        reading.assumed.remove("upsampling")
    return config, tuple(reading.assumed)


def _first_channels(evidence: Evidence, block: str) -> int:
    """Channels that a block takes."""
    names = [f"{block}.{name}.weight" for name in ("SingleConv1.conv", "conv1", "conv1.conv")]
    found = [name for name in names if evidence.has(name)]
    return evidence.n_in((found or [f"{block}.conv2.conv.weight"])[0])


def _enlarged(
    evidence: Evidence,
    encoders: Sequence[tuple[int, int]],
    decoders: Sequence[tuple[int, int]],
) -> tuple[tuple[int, ...], Literal["deconv", "deconv_resized"] | None]:
    """Channels of each enlarged image, and how it is enlarged if that is learned."""
    kinds: dict[str, Literal["deconv", "deconv_resized"]] = {
        "upsampling.upsample.conv_transposed": "deconv_resized",
        "upsampling.upsample": "deconv",
        "upsample": "deconv",
    }
    for path, kind in kinds.items():
        if evidence.has(f"decoders.0.{path}.weight"):
            names = [f"decoders.{i}.{path}.weight" for i in range(len(decoders))]
            return tuple(evidence.n_in(name) for name in names), kind
    return (encoders[-1][1], *(widths[1] for widths in decoders[:-1])), None


def _join(
    evidence: Evidence, encoders: Sequence[tuple[int, int]], up: Sequence[int]
) -> Literal["concat", "add"]:
    n_in, n_skip = _first_channels(evidence, "decoders.0.basic_module"), encoders[-2][1]
    if n_in not in (n_skip, n_skip + up[0]):
        raise ModelFileError(
            f"In {evidence.name} the first block on the way up takes {n_in} channels, but "
            f"{n_skip} come across and {up[0]} from below: they can be joined in no known way."
        )
    return "add" if n_in == n_skip else "concat"


def _kind_of_excitation(evidence: Evidence) -> Literal["none", "cse", "sse", "scse"]:
    path = "encoders.0.basic_module.se_module"
    if evidence.has(f"{path}.cSE.fc1.weight"):
        return "scse"
    if evidence.has(f"{path}.fc1.weight"):
        return "cse"
    return "sse" if evidence.has(f"{path}.conv.weight") else "none"


class _Reading:
    """Reads what names and shapes cannot tell; notes in `assumed` what nothing tells."""

    def __init__(self, evidence: Evidence, told: Mapping[str, Any], path: str, dims: int) -> None:
        self.evidence, self.told, self.path, self.dims = evidence, told, path, dims
        self.assumed: list[str] = []  # What a configuration leaves out has its default.
        self.order = [letter for letter in str(told.get("layer_order", "")) if letter in "gbcrle"]
        self.norm: Norm = "none"
        if evidence.has(f"{path}.groupnorm.weight"):
            self.norm = "groupnorm"
        elif evidence.has(f"{path}.batchnorm.weight"):
            self.norm = "batchnorm"
        self.curve = next(
            (kind for kind in ("ReLU", "LeakyReLU", "ELU") if f"{path}.{kind}" in evidence.layers),
            None,
        )

    def _assume(self, name: str) -> None:
        if not self.told:
            self.assumed.append(name)

    def norm_at(self, block: str) -> Literal["before", "between", "last"]:
        """The order of the names shows whether the normalization comes first."""
        names = [name for name in self.evidence.tensors if name.startswith(f"{self.path}.")]
        if self.norm == "none" or names[0].startswith(f"{self.path}.{self.norm}"):
            return "before"
        letters = "".join(self.order)
        if self.curve:
            paths = list(self.evidence.layers)
            is_last = paths.index(f"{self.path}.{self.curve}") < paths.index(
                f"{self.path}.{self.norm}"
            )
            return "last" if is_last else "between"
        if letters:
            return "last" if letters[-1] in "gb" else "between"
        means = [
            value
            for name, value in self.evidence.tensors.items()
            if name.startswith("encoders.") and name.endswith("running_mean")
        ]
        if any(bool((value < 0).any()) for value in means):  # no mean after a ReLU is negative
            return "between"
        self._assume("norm_at")
        return "last" if block == "double" and self.norm == "groupnorm" else "between"

    def nonlinearity(self, block: str) -> Literal["relu", "leaky_relu", "elu"]:
        """From the training configuration, or a stored layer, or the default."""
        found = {"ReLU": "relu", "LeakyReLU": "leaky_relu", "ELU": "elu"}.get(self.curve or "")
        found = found or next((LETTERS[x] for x in self.order if x in LETTERS), None)
        if found is None:
            self._assume("nonlinearity")
            # Where residual blocks normalize last, the original recommends "cge", with an ELU.
            names = list(self.evidence.tensors)
            if block != "double" and self.norm == "groupnorm":
                path, norm = f"{self.path}.conv.weight", f"{self.path}.groupnorm.weight"
                found = "elu" if names.index(path) < names.index(norm) else None
        return cast(Literal["relu", "leaky_relu", "elu"], found or "relu")

    def groups(self) -> int:
        """From the training configuration, or stored layers, or 8 if that is possible."""
        if self.norm != "groupnorm":
            return GROUPS
        stored = [
            int(note.values.get("num_groups", 0))
            for note in self.evidence.layers.values()
            if note.kind == "GroupNorm"
        ]
        told = _numbers(self.told.get("num_groups"), ())
        if stored or told:
            return max(stored or told)
        self._assume("groups")
        names = self.evidence.matches(r".*\.groupnorm\.weight")
        widths = [self.evidence.shape(name[0])[0] for name in names]
        return next(n for n in range(GROUPS, 0, -1) if all(w < n or w % n == 0 for w in widths))

    def padding(self) -> int:
        """From a stored layer, or the training configuration, or 1."""
        found = self.evidence.setting(f"{self.path}.conv", "padding")
        if found is None:
            found = self.told.get("conv_padding")
        if found is None:
            self._assume("padding")
        return max(_numbers(found, (1,)))

    def pool(self) -> tuple[int, ...]:
        """From a stored layer, or the training configuration, or 2 along each axis."""
        found = self.evidence.setting("encoders.1.pooling", "kernel_size")
        if found is None:
            found = self.told.get("pool_kernel_size")
        sizes = _numbers(found, (2,))
        return (sizes * self.dims if len(sizes) == 1 else sizes)[-self.dims :]

    def upsampling(self) -> Upsampling:
        """From the training configuration, or by nearest neighbours."""
        self._assume("upsampling")
        found = str(self.told.get("upsample", "nearest")).removeprefix("bi").removeprefix("tri")
        return cast(Upsampling, found) if found in ("nearest", "linear", "area") else "nearest"


def _numbers(value: Any, default: tuple[int, ...]) -> tuple[int, ...]:
    """A number or a sequence of numbers."""
    if isinstance(value, int):
        return (value,)
    is_sequence = isinstance(value, (list, tuple)) and all(isinstance(n, int) for n in value)
    return tuple(value) if is_sequence and value else default


FAMILY = Family(
    name="pytorch_3dunet",
    title="pytorch-3dunet or PlantSeg (Wolny et al.)",
    config=Unet3dConfig,
    network=Unet3dNetwork,
    recognise=_recognise,
    understand=_understand,
    choices={
        "nonlinearity": ("relu", "leaky_relu", "elu"),
        "norm_at": ("between", "last"),
        "groups": (8, 1, 2, 4, 16, 32),
        "padding": (1, 0),
        "upsampling": ("nearest", "linear", "area"),
    },
)
