"""Networks that only their own program can compute. It is run only for who trusts the file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from napari_unet.core.checkpoints.checks import try_out
from napari_unet.core.checkpoints.containers.source import Source
from napari_unet.core.checkpoints.family import classes_of
from napari_unet.core.checkpoints.native import PROGRAM
from napari_unet.core.checkpoints.origin import Origin
from napari_unet.core.device import choose_device
from napari_unet.core.errors import ModelFileError
from napari_unet.core.model import Description, Model, weights_id
from napari_unet.core.normalization import Normalization

__all__ = ["TrustedConfig", "run_torchscript"]

MAX_CHANNELS = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class TrustedConfig:
    """All that is known of a network that is a program.

    Attributes
    ----------
    dims, in_channels, out_channels : found out by trying.
    """

    dims: Literal[2, 3]
    in_channels: int
    out_channels: int


class _Program(nn.Module):
    """A TorchScript program: image `(b, c, [z,] y, x)` to logits `(b, output, [z,] y, x)`."""

    def __init__(self, program: Any) -> None:
        super().__init__()
        self.program = program

    def forward(self, image: Tensor) -> Tensor:
        """What the program makes of an image; of several results, the first."""
        found = self.program(image)
        while isinstance(found, list | tuple):
            found = found[0]
        logits: Tensor = found
        return logits


def run_torchscript(source: Source, sha256: str, member: str = "") -> Model:
    """Load a TorchScript file and RUN what it carries. Only for files that the user trusts.

    Raises
    ------
    ModelFileError
        If the program fails, or takes no image.
    """
    try:
        with source.open() as file:
            network = _Program(torch.jit.load(file, map_location="cpu")).eval()
        network.requires_grad_(False)
        config = _tried(network, source.name)
    except (RuntimeError, ValueError, OSError) as error:
        raise ModelFileError(
            f"The program in {source.name} was run, but failed: {str(error).splitlines()[-1][:200]}"
        ) from error
    notes = [
        "The program in this file was run, as you have allowed.",
        *try_out(network, config, source.name),
    ]
    about = classes_of(config.out_channels)
    return Model(
        network=network,
        architecture=PROGRAM,
        config=config,
        description=Description(
            name=source.name.rsplit(".", 1)[0], dims=config.dims, in_channels=config.in_channels,
            channels=f"{config.in_channels} channels", source=source.name,
            normalization=Normalization(kind="range", clip=None), notes=tuple(notes),
            assumed=("normalization", "activation", "class_names", "pixel_size"), **about,
        ),
        device=choose_device("cpu"),
        id=weights_id(network),
        origin=Origin(
            file=source.name, sha256=sha256, member=member, container="TorchScript program"
        ),
    )  # fmt: skip


@torch.inference_mode()
def _tried(network: nn.Module, file: str) -> TrustedConfig:
    """Try which images the program takes."""
    dims_of_weights = {value.ndim - 2 for value in network.state_dict().values() if value.ndim > 3}
    for dims in sorted(dims_of_weights & {2, 3}) or (2, 3):
        for n_channels in range(1, MAX_CHANNELS + 1):
            size = (64, 64) if dims == 2 else (32, 32, 32)
            try:
                found = network(torch.zeros(1, n_channels, *size))
            except RuntimeError:
                continue
            if isinstance(found, Tensor) and found.ndim == dims + 2:
                return TrustedConfig(
                    dims=2 if dims == 2 else 3, in_channels=n_channels, out_channels=found.shape[1]
                )
    raise ModelFileError(
        f"The program in {file} takes no image of up to {MAX_CHANNELS} channels, or gives none; "
        f"it is no network for segmentation."
    )
