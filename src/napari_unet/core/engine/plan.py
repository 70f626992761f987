"""Which way a network is run on an image, and why: decided once, and told in plain words."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from napari_unet.core.engine.choosing import layers_precision, network_precision
from napari_unet.core.engine.facts import Facts, facts_for
from napari_unet.core.engine.fitting import Fit
from napari_unet.core.engine.graph import Graph, Shape, UnsupportedError
from napari_unet.core.engine.memory import largest_window
from napari_unet.core.engine.precision import Precision, in_precision
from napari_unet.core.engine.request import Request, device_of
from napari_unet.core.engine.symmetry import (
    AS_IT_IS,
    Symmetry,
    reordered,
    seen_through,
    symmetries,
)
from napari_unet.core.engine.tiles import Blended, Tiled
from napari_unet.core.engine.ways import GPU_STRIP_BYTES, STRIP_BYTES, RowByRow, Way
from napari_unet.core.tiling import padded_size

__all__ = ["Plan", "Request", "make_plan"]

TILE_SIZE = {2: 512, 3: 128}
BLENDED_TILE_SIZE = {2: 512, 3: 96}
"""Edge of a tile where tiles are needed, in px, by number of dimensions."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Plan:
    """How an image is run through a network. Printed, it says so in plain words.

    Attributes
    ----------
    ways : one for each view of the image that is averaged.
    is_exact : whether the result is that of the network run once on the whole image.
    reason : why this way.
    precision : the arithmetic.
    largest : the largest window whose rows fit into the memory, per axis, in px.
    device : where it is computed.
    """

    ways: tuple[Way, ...]
    is_exact: bool
    reason: str
    precision: Precision
    largest: Shape
    device: torch.device

    @property
    def axis(self) -> int | None:
        """The axis along which finished rows follow one another, if they do."""
        way = self.ways[0]
        return way.order[0] if isinstance(way, RowByRow) else None

    @property
    def name(self) -> str:
        """The way in two or three words."""
        return {RowByRow: "row by row", Tiled: "in tiles", Blended: "in blended tiles"}[
            type(self.ways[0])
        ]

    @property
    def summary(self) -> str:
        """One sentence for people."""
        exact = "Exact, " if self.is_exact else "Approximate, "
        bits = ", 16-bit arithmetic" if self.precision.is_reduced else ""
        views = f", average of {len(self.ways)} views" if len(self.ways) > 1 else ""
        return f"{exact}{self.name}{bits}{views}."

    def __str__(self) -> str:
        way = self.ways[0]
        reach, stride, largest = (
            " x ".join(map(str, numbers)) for numbers in (way.reach, way.stride, self.largest)
        )
        return "\n".join(
            [
                self.summary,
                f"Why: {self.reason}.",
                f"Arithmetic: {str(self.precision.dtype).removeprefix('torch.')}; "
                f"{self.precision.reason}.",
                f"Reach of the network: {reach} px around blocks of {stride} px.",
                f"At once: windows of up to {largest} px, on {self.device}.",
            ]
        )

    def smaller(self) -> Plan | None:
        """The same with less memory; None if there is no way to do with less."""
        ways = [way.smaller() for way in self.ways]
        if any(way is None for way in ways):
            least = max(64, max(self.ways[0].stride))
            if max(self.largest) <= least or not isinstance(self.ways[0], RowByRow):
                return None
            ways = list(self.ways)
        largest = tuple(max(64, n // 2) for n in self.largest)
        return replace(
            self, ways=tuple(way for way in ways if way is not None), largest=largest,
            is_exact=self.is_exact and not isinstance(ways[0], Blended),
        )  # fmt: skip


def make_plan(request: Request) -> Plan:
    """Decide how an image is run through a network.

    Raises
    ------
    UNetLiveError
        If the network takes no image of a usual size, or gives no image.
    """
    facts = facts_for(request, request.shape)
    if facts.graph is not None:
        try:
            return _row_by_row(request, facts, facts.graph)
        except UnsupportedError as error:  # a view of it that cannot be had from its layers
            facts = replace(facts, graph=None, reason=f"{error}; {facts.reason}")
    if facts.reach is not None:
        return _tiled(request, facts, facts.reach)
    return _blended(request, facts)


def _row_by_row(request: Request, facts: Facts, graph: Graph) -> Plan:
    device = device_of(request.network)
    assert facts.reach is not None
    frame = facts.fit.size_for(request.shape)
    precision = layers_precision(request, graph, facts.fit)
    order, turned = _ordered(graph, request.shape)
    size = tuple(frame[at] for at in order)
    base = RowByRow(
        graph=in_precision(turned, precision.dtype), fit=facts.fit, reach=facts.reach,
        activation=request.activation, order=order,
        strip_bytes=GPU_STRIP_BYTES if device.type == "cuda" else STRIP_BYTES,
    )  # fmt: skip
    seen = []
    for view in symmetries(request.views, request.dims):
        if view == AS_IT_IS:
            seen.append(base)
            continue
        mirrored = seen_through(_seen_by(view, request, graph), view, frame)
        mirrored = reordered(mirrored, order)
        if mirrored.sizes(size)[-1] != turned.sizes(size)[-1]:  # which also raises
            raise UnsupportedError("the network does not take the image as a view shows it")
        seen.append(replace(base, graph=in_precision(mirrored, precision.dtype)))
    return Plan(
        ways=tuple(seen), is_exact=True, reason=facts.reason, precision=precision,
        largest=largest_window(base, request), device=device,
    )  # fmt: skip


def _seen_by(view: Symmetry, request: Request, graph: Graph) -> Graph:
    """The layers of the network for the image seen so, which has other sizes if it is turned."""
    if not view.turned:
        return graph
    return facts_for(request, _turned(request.shape)).graph or graph


def _ordered(graph: Graph, shape: Shape) -> tuple[tuple[int, ...], Graph]:
    """The order of the axes, and the network for it."""
    order, natural = _order(shape), tuple(range(len(shape)))
    try:
        return order, graph if order == natural else reordered(graph, order)
    except UnsupportedError:  # more pixels wait then, but no one is computed twice
        return natural, graph


def _order(shape: Shape) -> tuple[int, ...]:
    """The longest axis first: fewest pixels wait while rows lie along it. Ties stay as they are."""
    longest = max(range(len(shape)), key=lambda at: (shape[at], -at))
    # NOTE: a copy of an image in memory is cheapest in its own order: a little longer is no reason.
    if shape[longest] < 1.5 * shape[0]:
        return tuple(range(len(shape)))
    return longest, *(at for at in range(len(shape)) if at != longest)


def _tiled(request: Request, facts: Facts, reach: Shape) -> Plan:
    edge = request.tile_size or max(TILE_SIZE[request.dims], 2 * max(reach))
    precision = network_precision(request, facts.fit)
    ways = tuple(
        Tiled(
            network=request.network, fit=_fit_for(view, request, facts.fit),
            activation=request.activation, reach=_turned(reach) if view.turned else reach,
            tile_size=padded_size(edge, max(facts.fit.grid)), symmetry=view, dtype=precision.dtype,
        )
        for view in symmetries(request.views, request.dims)
    )  # fmt: skip
    return Plan(
        ways=ways, is_exact=True, reason=facts.reason, precision=precision,
        largest=(ways[0].tile_size,) * request.dims, device=device_of(request.network),
    )  # fmt: skip


def _fit_for(view: Symmetry, request: Request, fit: Fit) -> Fit:
    """Which images fit if the network sees them so."""
    if not view.turned:
        return fit
    return facts_for(request, _turned(request.shape)).fit.turned()


def _turned(values: Shape) -> Shape:
    """Values per axis with y and x exchanged."""
    return (*values[:-2], values[-1], values[-2])


def _blended(request: Request, facts: Facts) -> Plan:
    edge = request.tile_size or BLENDED_TILE_SIZE[request.dims]
    whole = max(request.shape) <= edge
    reason = facts.reason
    if whole:
        reason += "; the whole image fits into one tile"
    precision = network_precision(request, facts.fit)
    ways = tuple(
        Blended(
            network=request.network, fit=_fit_for(view, request, facts.fit),
            activation=request.activation, tile_size=edge, symmetry=view, dtype=precision.dtype,
        )
        for view in symmetries(request.views, request.dims)
    )  # fmt: skip
    half = max(1, edge // 2)
    return Plan(
        ways=ways, is_exact=whole, reason=reason, precision=precision,
        largest=(edge if whole else 4 * half,) * request.dims,
        device=device_of(request.network),
    )  # fmt: skip
