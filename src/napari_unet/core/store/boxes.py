"""Boxes of whole numbers: what is left of one, and several as one. Exact, in any dimension."""

from __future__ import annotations

from collections.abc import Iterable

__all__ = ["Box", "subtract", "united"]

Box = tuple[tuple[int, int], ...]
"""Start and stop along each axis, in px."""


def subtract(box: Box, holes: Iterable[Box]) -> list[Box]:
    """What is left of a box, in pieces that do not overlap, those nearest to its start first."""
    pieces = [box]
    for hole in holes:
        pieces = [piece for whole in pieces for piece in _without(whole, hole)]
    return sorted(pieces)


def _without(box: Box, hole: Box) -> list[Box]:
    """At most two pieces for each axis: before the hole and after it."""
    if any(max(a, c) >= min(b, d) for (a, b), (c, d) in zip(box, hole, strict=True)):
        return [box]
    pieces = []
    for axis, ((start, stop), (c, d)) in enumerate(zip(box, hole, strict=True)):
        before, after = (start, max(start, c)), (min(stop, d), stop)
        for part in (before, after):
            if part[0] < part[1]:
                pieces.append((*box[:axis], part, *box[axis + 1 :]))
        box = (*box[:axis], (before[1], after[0]), *box[axis + 1 :])  # beside the hole
    return pieces


def united(boxes: Iterable[Box], box: Box) -> tuple[Box, ...]:
    """Boxes that do not overlap and `box`, as boxes that do not overlap, few of them."""
    united = [other for other in boxes if _without(other, box)]
    for piece in subtract(box, united):
        united = _joined(united, piece)
    return tuple(united)


def _joined(boxes: list[Box], box: Box) -> list[Box]:
    """Add a box; as long as there is another one that makes a box with it, those two are one."""
    boxes = list(boxes)
    while True:
        for at, other in enumerate(boxes):
            both = _as_one(other, box)
            if both is not None:
                box = both
                del boxes[at]
                break
        else:
            return [*boxes, box]


def _as_one(one: Box, other: Box) -> Box | None:
    """Two boxes as one if they lie side by side and fit, else None."""
    differing = [axis for axis in range(len(one)) if one[axis] != other[axis]]
    if len(differing) != 1:
        return None
    (axis,) = differing
    first, second = sorted((one[axis], other[axis]))
    if first[1] != second[0]:
        return None
    return (*one[:axis], (first[0], second[1]), *one[axis + 1 :])
