"""How much memory the rows that wait inside a network take, counted and not guessed."""

from __future__ import annotations

import math

import torch

from napari_unet.core.engine.graph import Graph, Shape
from napari_unet.core.engine.inboxes import SPARE_ROWS
from napari_unet.core.engine.request import Request, device_of
from napari_unet.core.engine.ways import RowByRow
from napari_unet.core.tiling import padded_size

__all__ = ["bytes_per_column", "largest_window"]

MEMORY = {2: 400 * 2**20, 3: 700 * 2**20}
"""Rows that wait in a network may fill this much of the memory of the processor, in bytes."""
MOST_COLUMNS = 2**14
"""Windows of planes are no wider than this, in px: finished rows, too, are gathered in memory."""
FAR = 1 << 14
"""A row so far down that nothing depends on the border any more."""


def bytes_per_column(graph: Graph, base: tuple[int, ...], stride: int) -> float:
    """Bytes that wait inside the network per px across the rows, once it is filled.

    Parameters
    ----------
    graph : the network; rows lie along the first axis.
    base : an image size that fits it.
    stride : rows after which everything repeats.
    """
    shares = [math.prod(size[1:]) / math.prod(base[1:]) for size in graph.sizes(base)]
    return max(
        sum(
            n_rows * shares[source] * _bytes_per_px(graph, source, place)
            for source, place, n_rows in _waiting(graph, FAR + at)
        )
        for at in range(stride)
    )


def _bytes_per_px(graph: Graph, source: int, place: int) -> int:
    """Of what `place` reads from `source`, in bytes."""
    n_channels = graph.in_channels if source == 0 else graph.layers[source - 1].n_channels
    weight = getattr(graph.layers[place - 1].op, "weight", None)
    if weight is None and source > 0:
        weight = getattr(graph.layers[source - 1].op, "weight", None)
    return n_channels * (4 if weight is None else weight.element_size())


def _waiting(graph: Graph, n_rows: int) -> list[tuple[int, int, int]]:
    """`(source, place, rows)` that wait between two layers after `n_rows` rows of the image."""
    made = [n_rows]
    for layer in graph.layers:
        axis = layer.op.axes[0]
        made.append(min(axis.ready(made[source]) for source in layer.inputs))
    waiting = []
    for place, layer in enumerate(graph.layers, start=1):
        axis = layer.op.axes[0]
        spare = 0 if axis.is_local else SPARE_ROWS
        for source in layer.inputs:
            waiting.append((source, place, made[source] - axis.used(made[place]) + spare))
    return waiting


def largest_window(way: RowByRow, request: Request) -> Shape:
    """The widest window whose waiting rows fit into the memory; all of it along the rows."""
    if request.tile_size is not None:
        return (padded_size(request.tile_size, way.stride[0]),) * request.dims
    budget, device = MEMORY[request.dims], device_of(request.network)
    if device.type == "cuda":
        budget = torch.cuda.mem_get_info(device)[0] // 2
    turned = tuple(way.fit.base[at] for at in way.order)
    column = bytes_per_column(way.graph, turned, way.stride[way.order[0]])
    columns = max(1, int(budget / max(1.0, column)))  # where nothing waits there is no limit
    if request.dims == 2:
        columns = min(columns, MOST_COLUMNS)
    first, *others = way.order
    largest = list(request.shape)
    # The shorter axis across is taken whole if it can be: nothing is read twice along it.
    others.sort(key=lambda at: request.shape[at])
    for at, left in zip(others, range(len(others), 0, -1), strict=True):
        room = round(columns ** (1 / left))
        extent = request.shape[at]
        if left == 1 or extent <= 2 * room:
            share = columns // extent if left > 1 else columns
            largest[at] = _shortened(extent, columns, way, at)
            columns = max(1, share)
        else:
            largest[at] = _shortened(extent, room, way, at)
            columns = max(1, columns // room)
    largest[first] = request.shape[first]
    return tuple(largest)


def _shortened(extent: int, room: int, way: RowByRow, axis: int) -> int:
    """What of `extent` px is worked on at once if there is room for `room`, reach included."""
    if extent <= room:
        return extent
    stride = way.stride[axis]
    inner = room - 2 * way.reach[axis]
    n_parts = max(1, -(-extent // max(inner, way.reach[axis], stride)))
    return padded_size(-(-extent // n_parts), stride)
