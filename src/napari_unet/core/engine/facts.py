"""What is found out about a network, once: its layers, or how it behaves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from weakref import WeakKeyDictionary

from torch import Tensor, nn

from napari_unet.core.engine.fitting import Fit
from napari_unet.core.engine.graph import Graph, Shape, UnsupportedError, WholeImageError
from napari_unet.core.engine.probing import (
    known_layers,
    likely_grid,
    measured_fit,
    measured_grid,
    measured_reach,
    reach_of,
)
from napari_unet.core.engine.request import Request
from napari_unet.core.errors import UNetLiveError

__all__ = ["Facts", "facts_for", "general_facts"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Facts:
    """What was found out about a network: its layers, or why they are not known."""

    graph: Graph | None
    fit: Fit
    reach: Shape | None
    reason: str


_FACTS: WeakKeyDictionary[nn.Module, dict[object, Facts]] = WeakKeyDictionary()


def facts_for(request: Request, shape: Shape) -> Facts:
    """What is known about the network for images of one size.

    Some networks take images of any size, padding what comes up to the size of what comes
    across: then their layers are those for this size, and nothing is mirrored.
    """
    facts, known = _facts_of(request.network, request.in_channels, request.dims)
    if facts.graph is None or any(facts.fit.margin) or facts.fit.size_for(shape) == shape:
        return facts
    each = zip(facts.fit.base, facts.fit.stride, shape, strict=True)
    like = tuple(base + (n - base) % step for base, step, n in each)
    if like not in known:
        known[like] = facts
        try:
            graph, fit = known_layers(request.network, request.in_channels, request.dims, like)
        except UnsupportedError:
            return facts
        if not any(fit.margin):
            known[like] = replace(facts, graph=graph, fit=fit, reach=reach_of(graph, fit))
    return known[like]


def general_facts(network: nn.Module, in_channels: int, dims: int) -> Facts:
    """What is known about a network, whatever the size of the image."""
    return _facts_of(network, in_channels, dims)[0]


def _facts_of(network: nn.Module, in_channels: int, dims: int) -> tuple[Facts, dict[object, Facts]]:
    """What is known about the network; found out once, as long as its weights stay as they are.

    With it comes where to keep what is known about images of other sizes.
    """
    weights = [(id(p), _version(p), str(p.device)) for p in _tensors_of(network)]
    version = str((dims, in_channels, network.training, weights))
    known = _FACTS.setdefault(network, {})
    if version not in known:
        known.clear()
        known[version] = _found_out(network, in_channels, dims)
    return known[version], known


def _version(tensor: Tensor) -> tuple[object, ...]:
    """Differs after a change of a tensor in place.

    Changes are counted, but not those of `tensor.data` or in inference mode: so a few values too.
    """
    n_changes = 0 if tensor.is_inference() else tensor._version
    values = tensor.detach().flatten()
    return n_changes, *values[:: max(1, values.numel() // 8)].tolist()


def _tensors_of(network: nn.Module) -> Sequence[Tensor]:
    return [*network.parameters(), *network.buffers()]


def _found_out(network: nn.Module, in_channels: int, dims: int) -> Facts:
    uses_whole_image = False
    try:
        graph, fit = known_layers(network, in_channels, dims)
    except WholeImageError as error:
        uses_whole_image, reason = True, str(error)
    except UnsupportedError as error:
        reason = str(error)
    else:
        reason = f"all of its {len(graph.layers)} layers are known, and each acts locally"
        return Facts(graph=graph, fit=fit, reach=reach_of(graph, fit), reason=reason)
    try:
        fit = measured_fit(network, in_channels, dims)
    except UnsupportedError as error:
        raise UNetLiveError(
            f"The network cannot be used: {error}. Choose another model, or check that this one "
            "is a network for segmentation."
        ) from error
    if uses_whole_image:
        return Facts(graph=None, fit=fit, reach=None, reason=reason)
    return _tried_out(network, in_channels, Facts(graph=None, fit=fit, reach=None, reason=reason))


def _tried_out(network: nn.Module, in_channels: int, facts: Facts) -> Facts:
    """With the reach of the network, if it has one and it can be measured."""
    try:
        fit = replace(facts.fit, grid=likely_grid(network, in_channels, facts.fit))
        reach = measured_reach(network, in_channels, fit)
        if reach is None:
            return replace(facts, reason=f"{facts.reason}, and every pixel depends on all others")
        grid = measured_grid(network, in_channels, fit, reach)
        if grid is None:
            return replace(facts, reason=f"{facts.reason}, and it matters where a pixel lies")
        if grid != fit.grid:
            fit = replace(fit, grid=grid)
            reach = measured_reach(network, in_channels, fit)
    except UnsupportedError as error:
        return replace(facts, reason=f"{facts.reason}, and trying it out failed ({error})")
    if reach is None:
        return replace(facts, reason=f"{facts.reason}, and every pixel depends on all others")
    told = f"tried out, a pixel depends on no more than {max(reach)} px around it"
    return replace(facts, fit=fit, reach=reach, reason=f"{facts.reason}; {told}")
