"""Any other plain encoder-decoder with skips, whatever its layers are called.

Recognised by the shapes of its convolutions alone, and only where no other family fits. What
shapes cannot tell is assumed, and can be changed.
"""

from __future__ import annotations

from typing import Literal

from napari_unet.core.checkpoints.evidence import Evidence
from napari_unet.core.checkpoints.family import Family, Understanding, classes_of
from napari_unet.core.checkpoints.matching.items import Items, table
from napari_unet.core.checkpoints.matching.network import GenericConfig, GenericUNet, Step
from napari_unet.core.checkpoints.matching.pairing import Kind, Pairing, pairings
from napari_unet.core.checkpoints.matching.reading import names_of, settings_of, step_of
from napari_unet.core.checkpoints.refusals import refusal_for
from napari_unet.core.errors import ModelFileError
from napari_unet.core.normalization import Normalization

__all__ = ["FAMILY"]


def _recognise(evidence: Evidence) -> bool:
    n_convs = sum(tensor.ndim in (4, 5) for tensor in evidence.tensors.values())
    return n_convs >= 4 and refusal_for(evidence) is None


def _understand(evidence: Evidence) -> Understanding:
    items = Items.of(evidence)
    pairing = _only(evidence, items)
    settings, assumed = settings_of(evidence, items, pairing)
    config = _config(pairing, settings)
    about = {
        **classes_of(config.out_channels),
        "normalization": Normalization(kind="range", clip=None),
    }
    layout = pairing.layout
    return Understanding(
        config=config,
        about=about,
        assumed=(*assumed, "activation", "normalization", "class_names", "pixel_size"),
        names=names_of(evidence, pairing),
        notes=(
            f"The names in this file are those of no known program. From the shapes it is a U-Net "
            f"with {layout.n_levels + 1} levels; compare its results with those of the program "
            "that it was made with.",
        ),
    )


def _only(evidence: Evidence, items: Items) -> Pairing:
    """The one way to make a U-Net of all convolutions."""
    begin = f"{evidence.name} holds a network of a kind that is not known"
    advice = (
        "If you can, export it as ONNX or TorchScript from the program that it was made with, or "
        "ask its author for the name of the network."
    )
    if len({len(item.shape) for item in items.convs}) > 1:
        raise ModelFileError(
            f"{begin}, with convolutions of images and of volumes. {advice}\n{table(items.convs)}"
        )
    found = pairings(items.convs, items.norm_first)
    if len(found) == 1:
        return found[0]
    if not found:
        raise ModelFileError(
            f"{begin}. A plain U-Net was looked for: some levels with as many convolutions each on "
            "the way down, as many levels on the way up, each of which takes the channels from "
            "below together with those that come across, and in the end a convolution for the "
            f"output. These convolutions cannot be put together like that. {advice}\n"
            + table(items.convs)
        )
    ways = sorted({_in_words(pairing) for pairing in found})
    raise ModelFileError(
        f"{begin}. It can be a U-Net in several ways, and nothing tells which one is right: "
        f"{'; or '.join(ways)}. {advice}\n{table(items.convs)}"
    )


def _in_words(pairing: Pairing) -> str:
    layout = pairing.layout
    return (
        f"{layout.n_levels + 1} levels with {layout.n_encoder} convolutions each on the way down, "
        f"{layout.n_bottom} at the bottom and {layout.n_decoder} each on the way up"
    )


def _config(pairing: Pairing, settings: dict[str, object]) -> GenericConfig:
    steps = [(placed.kind, placed.level, step_of(placed)) for placed in pairing.placed]

    def at(kind: Kind, level: int) -> tuple[Step, ...]:
        return tuple(step for a_kind, a_level, step in steps if (a_kind, a_level) == (kind, level))

    levels = range(pairing.layout.n_levels)
    first, last = steps[0][2], steps[-1][2]
    dims: Literal[2, 3] = 2 if len(first.kernel) == 2 else 3
    return GenericConfig(
        dims=dims,
        in_channels=first.n_in,
        out_channels=last.n_out,
        encoder=tuple(at("encoder", level) for level in levels),
        bottom=at("bottom", pairing.layout.n_levels),
        decoder=tuple(at("decoder", level) for level in levels),
        head=at("head", 0),
        down=tuple(next(iter(at("down", level)), None) for level in levels),
        up=tuple(next(iter(at("up", level)), None) for level in levels),
        **settings,  # type: ignore[arg-type]
    )


FAMILY = Family(
    name="generic",
    title="Plain U-Net of unknown origin",
    config=GenericConfig,
    network=GenericUNet,
    recognise=_recognise,
    understand=_understand,
    choices={
        "join": ("skip first", "up first"),
        "padding": ("same", "valid"),
        "nonlinearity": ("relu", "leaky_relu_0.01", "leaky_relu_0.1", "leaky_relu_0.2", "elu"),
        "enlarging": ("nearest", "linear", "linear_corners"),
        "order": ("conv norm act", "conv act norm", "norm conv act", "norm act conv"),
        "norm": ("none", "plain_instance", "group", "instance"),
        "groups": (8, 1, 2, 4, 16, 32),
        "up_activation": (False, True),
        "pooling": ("max", "mean"),
    },
    last=True,
)
