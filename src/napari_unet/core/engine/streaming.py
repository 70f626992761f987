"""A network evaluated row by row: the result of the whole image, each pixel computed once.

Every layer keeps just those rows of its own input that it will need again, and what skips a part
of the network waits until the rest has caught up. So an image of any height runs in memory that
depends on its width alone, without tiles that overlap, and the result is that of the network run
once on the whole image. Depth-first evaluation: Alwani et al., "Fused-layer CNN accelerators",
MICRO 2016; "rows" are planes of a volume.
"""

from __future__ import annotations

import math

from torch import Tensor

from napari_unet.core.engine.graph import Graph, Shape, Spans, joined
from napari_unet.core.engine.inboxes import Inbox, Rows
from napari_unet.core.engine.stages import Stage, stage_for

__all__ = ["Stream"]


class Stream:
    """One window of the result of a network on an image, computed from top to bottom.

    Parameters
    ----------
    graph : the network; each layer computes in the type of its weights.
    shape : `([z,] y, x)` of the whole image in px, of a size that the network takes.
    window : the part of the result that is wanted.
    most_bytes : no layer computes more than this at once, if a row is not larger.

    Attributes
    ----------
    wanted : the part of the image to `push`.
    """

    def __init__(self, graph: Graph, shape: Shape, window: Spans, most_bytes: int = 2**62) -> None:
        sizes = graph.sizes(shape)
        needs = graph.needs(sizes, window)
        assert needs[0] is not None
        self.wanted: Spans = needs[0]
        self._next_row = self.wanted[0][0]
        self._stages: list[tuple[int, Stage]] = []
        self._inboxes: list[list[Inbox]] = [[] for _ in sizes]  # by the place that fills them
        for place, layer in enumerate(graph.layers, start=1):
            span = needs[place]
            if span is None:
                continue
            given = [_given(needs[source]) for source in layer.inputs]
            widths = [
                graph.in_channels if source == 0 else graph.layers[source - 1].n_channels
                for source in layer.inputs
            ]
            row = 4 * layer.n_channels * math.prod(stop - start for start, stop in span[1:])
            stage = stage_for(layer.op, span, given, sizes[layer.inputs[0]], widths)
            stage.n_most = max(1, most_bytes // row)
            self._stages.append((place, stage))
            for source, inbox in zip(layer.inputs, stage.inboxes, strict=True):
                self._inboxes[source].append(inbox)
        self._output = Rows(span=window, given=window)
        self._inboxes[-1].append(self._output)

    def push(self, rows: Tensor) -> Tensor | None:
        """Take the next rows `(1, c, n, ...)` of `wanted`, in order; give those that are ready.

        Returns
        -------
        Tensor `(1, output, m, ...)` or None
            The next rows of the window, m >= 1.
        """
        for inbox in self._inboxes[0]:
            inbox.accept(rows, self._next_row)
        self._next_row += int(rows.shape[2])
        while sum(stage.advance(self._inboxes[place]) for place, stage in self._stages):
            pass  # NOTE: a sum, so that each round lets every stage work, in their order
        ready = self._output.take(self._output.n_rows)
        return joined(ready, 2) if ready else None

    def n_bytes(self) -> int:
        """Bytes of all rows that wait, in whatever they are a part of."""
        held = {
            tensor.untyped_storage()._cdata: tensor.untyped_storage().nbytes()
            for inboxes in self._inboxes
            for inbox in inboxes
            for tensor in inbox.tensors()
        }
        return sum(held.values())


def _given(span: Spans | None) -> Spans:
    assert span is not None
    return span
