"""`napari-unet info`: what a model is and where it is from."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from napari_unet.cli.parsing import add_command
from napari_unet.cli.telling import OK

if TYPE_CHECKING:
    from napari_unet.core.model import Model

__all__ = ["add_info"]


def add_info(commands: Any) -> None:
    """Add the command `info`."""
    parser = add_command(commands, "info", _run_info, "say what a model is and where it is from")
    parser.add_argument("model", metavar="MODEL", help="a built-in name ('nuclei') or a model file")


def _run_info(chosen: argparse.Namespace) -> int:
    from napari_unet.core.model import load_model

    print(*_info_lines(load_model(chosen.model, "cpu")), sep="\n")
    return OK


def _info_lines(model: Model) -> Iterator[str]:
    about = model.description
    n_weights = sum(weights.numel() for weights in model.network.parameters())
    n_channels, size = about.in_channels, about.pixel_size
    rows = {
        "Name": model.title,
        "Segments": about.segments,
        "Works on": "volumes (z, y, x)" if about.dims == 3 else "planes (y, x)",
        "Channels": f"{n_channels} ({about.channels})",
        "Classes": ", ".join(about.class_names),
        "Outputs": ", ".join(about.outputs),
        "Pixel size": "not known" if size is None else f"{size:g} µm",
        "Network": f"{model.architecture}, {n_weights:,} weights, id {model.id}",
        "Licence": about.licence,
        "Source": about.source,
    }
    for name, text in rows.items():
        yield f"{name + ':':<12}{text}"
    for kind, scores in about.scores.items():
        measured = ", ".join(f"{name} {value:.3f}" for name, value in scores.items())
        yield f"{'Scores:':<12}{kind}: {measured}"
    for entry in model.history:
        yield f"{'Fine-tuned:':<12}{entry.created}, {entry.name}, {entry.n_corrected} painted px"
    if about.assumed:
        yield f"{'Assumed:':<12}{', '.join(about.assumed)} (the file does not say)"
    if about.card:
        yield f"\n{about.card.strip()}"
