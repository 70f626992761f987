"""`napari-unet networks`: the networks that can be trained, and what they cost."""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from napari_unet.cli.parsing import add_command
from napari_unet.cli.telling import OK, aligned

if TYPE_CHECKING:
    from napari_unet.core.network_facts import NetworkFacts
    from napari_unet.core.networks import Preset, Wanted

__all__ = ["HEAD", "add_networks", "cells_of"]

EXAMPLES = """
examples:
  napari-unet networks
  napari-unet networks unet-2015 unet --width 32
  napari-unet networks unet --dims 3

Parameters and multiply-adds per output pixel (of the convolutions, on a large image) are counted
for --in-channels and --out-channels. Sees: edge of the part of the image that one output pixel
depends on. Fits: sizes are this far apart. Halo: how far around a block the image matters, so that
tiles are exact. Smaller: how much smaller the output is than the input. All but the names in px.
"""

HEAD = ("network", "parameters", "multiply-adds/px", "sees", "fits", "halo", "smaller")
WIDTH = 96


def add_networks(commands: Any) -> None:
    """Add the command `networks`."""
    parser = add_command(
        commands, "networks", _run_networks, "list the networks that can be trained", EXAMPLES
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="only these, with their papers")
    parser.add_argument("--dims", type=int, choices=(2, 3), help="built for images or for volumes")
    parser.add_argument("--width", type=int, metavar="N", help="channels of the first level")
    parser.add_argument("--in-channels", type=int, default=1, metavar="N", help="(default: 1)")
    parser.add_argument("--out-channels", type=int, default=2, metavar="N", help="(default: 2)")
    parser.add_argument("--markdown", action="store_true", help="as a table in Markdown")


def _run_networks(chosen: argparse.Namespace) -> int:
    from napari_unet.core.network_facts import facts_of
    from napari_unet.core.networks import preset_of, presets

    names = chosen.names or [
        preset.name for preset in presets().values() if chosen.dims in (None, *preset.dims)
    ]
    rows = []
    for name in names:
        preset = preset_of(name)
        rows.append(cells_of(facts_of(name, _wanted(preset, chosen))))
    print("\n".join(_markdown(rows) if chosen.markdown else aligned([HEAD, *rows])))
    for name in chosen.names:
        print("", *_details(preset_of(name)), sep="\n")
    return OK


def _wanted(preset: Preset, chosen: argparse.Namespace) -> Wanted:
    from napari_unet.core.networks import Wanted

    return Wanted(
        dims=chosen.dims or preset.dims[0], in_channels=chosen.in_channels,
        out_channels=chosen.out_channels, width=chosen.width,
    )  # fmt: skip


def cells_of(facts: NetworkFacts) -> tuple[str, ...]:
    """The figures of a network as words."""
    return (
        facts.name,
        f"{facts.n_parameters:,}",
        f"{facts.multiply_adds:,.0f}",
        _sizes(facts.receptive_field) or "all of the image",
        _sizes(facts.stride),
        _sizes(facts.halo) or "all",
        _sizes(facts.margin),
    )


def _sizes(sizes: tuple[int, ...] | None) -> str:
    """Sizes per axis; one number if they are all the same."""
    if sizes is None:
        return ""
    return str(sizes[0]) if len(set(sizes)) == 1 else " × ".join(map(str, sizes))


def _markdown(rows: Sequence[tuple[str, ...]]) -> Iterator[str]:
    yield f"| {' | '.join(HEAD)} |"
    yield "|---|" + "--:|" * (len(HEAD) - 1)
    for name, *cells in rows:
        yield f"| `{name}` | {' | '.join(cells)} |"


def _details(preset: Preset) -> Iterator[str]:
    """What a network is, and how its paper trained it."""
    yield f"{preset.name}: {preset.title}"
    recipe = ", ".join(f"{name} {value}" for name, value in preset.recipe.items())
    said = [preset.summary, preset.paper, f"Trained with: {recipe}." if recipe else ""]
    for text in filter(None, said):
        yield textwrap.fill(text, WIDTH, initial_indent="  ", subsequent_indent="  ")
