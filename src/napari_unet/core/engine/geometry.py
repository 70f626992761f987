"""Which px of its input a layer reads for which px of its output, along one axis. Integers only.

All positions are counted from the border of the whole image, at the resolution of the layer, so
any window of any layer can be computed by itself and fits what lies around it exactly.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

__all__ = ["SAME", "Axis", "Enlarge", "Span", "Spread", "Window", "hull"]

Span: TypeAlias = tuple[int, int]
"""Half-open interval of px along one axis."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """Each output px reads a window of the input: convolution, pooling, cropping, or nothing.

    Attributes
    ----------
    extent, step : size of the window, and how far it moves from one output px to the next, in px.
    before, after : px read beyond the two borders; negative where input is left out.
    """

    extent: int = 1
    step: int = 1
    before: int = 0
    after: int = 0

    def out_size(self, size: int) -> int:
        """Size of the output for an input of `size` px."""
        room = size + self.before + self.after - self.extent
        return room // self.step + 1 if room >= 0 else 0

    def reads(self, span: Span, size: int) -> Span:
        """Input px that a span of output depends on; they may lie beyond the borders."""
        start = span[0] * self.step - self.before
        return start, (span[1] - 1) * self.step - self.before + self.extent

    def ready(self, n: int) -> int:
        """How many px of output the first `n` px of input suffice for."""
        return max(0, (n + self.before - self.extent) // self.step + 1)

    def used(self, n: int) -> int:
        """How many px of input are no longer needed after the first `n` px of output."""
        return max(0, n * self.step - self.before)

    @property
    def is_local(self) -> bool:
        """Whether output px share no input, and none of it lies beyond a border."""
        return self.extent == self.step and self.before <= 0 and self.after <= 0

    def flipped(self, size: int) -> Window:
        """The same seen in a mirror, for an input of `size` px."""
        behind = (self.out_size(size) - 1) * self.step + self.extent - size - self.before
        return replace(self, before=behind, after=self.before)


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """Each input px adds to a window of the output: transposed convolution.

    Attributes
    ----------
    extent, step : size of the window, and how far it moves from one input px to the next, in px.
    before, after : px cut off the output at its two borders.
    """

    extent: int
    step: int
    before: int = 0
    after: int = 0

    def out_size(self, size: int) -> int:
        """Size of the output for an input of `size` px."""
        return (size - 1) * self.step + self.extent - self.before - self.after

    def reads(self, span: Span, size: int) -> Span:
        """Input px that a span of output depends on, inside the borders."""
        first = -(-(span[0] + self.before - self.extent + 1) // self.step)
        return max(0, first), min(size, (span[1] - 1 + self.before) // self.step + 1)

    def ready(self, n: int) -> int:
        """How many px of output the first `n` px of input suffice for."""
        return max(0, n * self.step - self.before)

    def used(self, n: int) -> int:
        """How many px of input are no longer needed after the first `n` px of output."""
        return max(0, -(-(n + self.before - self.extent + 1) // self.step))

    def starts(self, first: int) -> int:
        """Where in the output a piece begins that is made from input px `first` and later."""
        return first * self.step - self.before

    @property
    def is_local(self) -> bool:
        """Whether input px add to separate windows of the output."""
        return self.extent == self.step

    def flipped(self, size: int) -> Spread:
        """The same seen in a mirror."""
        return replace(self, before=self.after, after=self.before)


@dataclass(frozen=True, slots=True, kw_only=True)
class Enlarge:
    """Enlargement by a whole factor.

    "block" repeats px; "linear" interpolates; "corners" interpolates with the middles of the
    corner px aligned (`align_corners=True`), so that it depends on the size of the whole image.
    """

    factor: int
    kind: Literal["block", "linear", "corners"] = "block"

    def out_size(self, size: int) -> int:
        """Size of the output for an input of `size` px."""
        return size * self.factor

    def reads(self, span: Span, size: int) -> Span:
        """Input px that a span of output depends on, inside the borders."""
        if self.is_local:
            return span[0] // self.factor, (span[1] - 1) // self.factor + 1
        low, high = (int(self.source(at, size)) for at in (span[0], span[1] - 1))
        return max(0, low - 1), min(size, high + 3)  # NOTE: 1 px to spare for rounding

    def source(self, at: int, size: int) -> float:
        """Where between the middles of the input px output px `at` lies."""
        if self.kind == "corners":
            return at * (size - 1) / max(1, self.out_size(size) - 1)
        return (at + 0.5) / self.factor - 0.5

    def ready(self, n: int) -> int:
        """How many px of output the first `n` px of input suffice for."""
        return max(0, n - (0 if self.is_local else 3)) * self.factor

    def used(self, n: int) -> int:
        """How many px of input are no longer needed after the first `n` px of output."""
        return max(0, n // self.factor - (0 if self.is_local else 2))

    def starts(self, first: int) -> int:
        """Where in the output a piece begins that is made from input px `first` and later."""
        return first * self.factor

    @property
    def is_local(self) -> bool:
        """Whether output px depend on one input px each."""
        return self.kind == "block" or self.factor == 1

    def flipped(self, size: int) -> Enlarge:
        """The same seen in a mirror: no difference."""
        return self


Axis: TypeAlias = Window | Spread | Enlarge
SAME = Window()
"""Output px reads the input px at its place."""


def hull(first: Span | None, second: Span) -> Span:
    """The smallest span that holds both."""
    if first is None:
        return second
    return min(first[0], second[0]), max(first[1], second[1])
