"""Whether a network opened here gives what its package says it gives."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from napari_unet.core.checkpoints.packages.bioimageio import Package
from napari_unet.core.checkpoints.packages.bioimageio_processing import Step, apply_steps
from napari_unet.core.checkpoints.packages.bioimageio_tensors import TensorNote
from napari_unet.core.errors import ModelFileError
from napari_unet.core.model import Model

__all__ = ["check_test_tensors", "read_test_tensors", "reproduced", "tested", "told"]

TOLERANCE = 1e-3
"""Of the largest value: bioimage.io itself allows as much."""
MAX_BYTES = 1 << 30
ACTIVATIONS = ("sigmoid", "softmax")
LEFT_OUT = ("custom", "scale_mean_variance", "stardist_postprocessing", "cellpose_flow_dynamics")


def check_test_tensors(package: Package, predict: Callable[[Tensor], Tensor]) -> float | None:
    """The largest difference between a network's output and the package's own example.

    Parameters
    ----------
    package : what `read_bioimageio` gave.
    predict : the network: input `(1, c, [z,] y, x)`, float32, to logits.

    Returns
    -------
    The difference, of probabilities if the package gives some; None without an example.

    Raises
    ------
    ModelFileError
        If the example is damaged, or is not of the shape that the network gives.
    """
    found = reproduced(package, predict)
    return None if found is None else found[0]


def reproduced(package: Package, predict: Callable[[Tensor], Tensor]) -> tuple[float, str] | None:
    """The largest difference, and what the network of the package ends in by itself.

    A package whose steps name no activation may have one within its network, where those here
    have none: it is "sigmoid" or "softmax" if its example comes out right only with it, else "".
    """
    example = read_test_tensors(package)
    if example is None:
        return None
    image, wanted = example
    steps = package.output.steps
    if any(step.name in LEFT_OUT for step in steps):
        return None
    with torch.inference_mode():
        logits = predict(torch.from_numpy(apply_steps(image, package.input.steps)))
    if tuple(logits.shape) != wanted.shape:
        raise ModelFileError(
            f"The network gives {tuple(logits.shape)} for the example in its package, where the "
            f"package says {wanted.shape}. It was not understood rightly; please report this file."
        )
    return _compared(logits.double().cpu().numpy(), wanted, steps)


def _compared(
    logits: npt.NDArray[np.float64], wanted: npt.NDArray[Any], steps: Sequence[Step]
) -> tuple[float, str]:
    endings = ["", *ACTIVATIONS]
    if any(step.name in ACTIVATIONS for step in steps):
        endings = [""]
    found = []
    for ending in endings:
        values = apply_steps(logits, [*([Step(name=ending)] if ending else []), *steps])
        found.append((float(np.abs(values - wanted.astype(np.float64)).max()), ending))
    return found[0] if found[0][0] <= TOLERANCE else min(found)


def tested(package: Package, model: Model) -> Model:
    """The model with the package's notes, and whether its example comes out right.

    Where the package says nothing of an activation, but its example comes out right with one
    only, that one is taken.
    """
    notes, activation = list(package.notes), ""
    try:
        found = reproduced(package, _on_processor(model.network))
        notes.append(told(package, None if found is None else found[0]))
        activation = found[1] if found is not None and found[0] <= TOLERANCE else ""
    except (ModelFileError, RuntimeError) as error:
        notes.append(f"The example in the package could not be compared with: {error}")
    about = model.description
    changes: dict[str, Any] = {"notes": tuple(dict.fromkeys((*about.notes, *notes)))}
    if activation and "activation" not in package.about:
        try:
            settled = tuple(name for name in about.assumed if name != "activation")
            return model.described(activation=activation, assumed=settled, **changes)
        except ModelFileError:  # its classes are not said in that way
            pass
    return model.described(**changes)


def _on_processor(network: nn.Module) -> Callable[[Tensor], Tensor]:
    """The network on the processor, whatever it is on."""
    weights = next(network.parameters(), None)
    is_there = weights is None or weights.device.type == "cpu"
    return network if is_there else copy.deepcopy(network).to("cpu")


def told(package: Package, difference: float | None) -> str:
    """A sentence for the user on what `check_test_tensors` gave."""
    if difference is None:
        return "The package has no example that could be compared with."
    if difference <= TOLERANCE:
        return f"The example in the package is reproduced (largest difference {difference:.1g})."
    return (
        f"NOTE: the example in the package is not reproduced (largest difference "
        f"{difference:.2g}). Look at the settings of this model, and at its results, with care."
    )


def read_test_tensors(
    package: Package,
) -> tuple[npt.NDArray[Any], npt.NDArray[Any]] | None:
    """Example input and output as `(b, c, [z,] y, x)`, if the package has them.

    Raises
    ------
    ModelFileError
        If they are damaged.
    """
    pair = [_read(package, note) for note in (package.input, package.output)]
    if pair[0] is None or pair[1] is None:
        return None
    return pair[0], pair[1]


def _read(package: Package, note: TensorNote) -> npt.NDArray[Any] | None:
    name = package.folder + (note.test or "").removeprefix("./")
    if note.test is None or name not in package.archive or not name.endswith(".npy"):
        return None
    content = package.archive.read(name, MAX_BYTES)
    try:
        return note.canonical(_array(content))
    except (ValueError, SyntaxError, EOFError, OSError, MemoryError) as error:
        raise ModelFileError(
            f"The example {note.test!r} in the package is damaged ({error}). Download it again."
        ) from error


def _array(content: bytes) -> npt.NDArray[Any]:
    """The array of a `.npy` file; no memory is taken before its size is known to be right."""
    file = io.BytesIO(content)
    version = np.lib.format.read_magic(file)
    read = {(1, 0): np.lib.format.read_array_header_1_0}.get(
        version, np.lib.format.read_array_header_2_0
    )
    shape, _, kind = read(file)
    if kind.hasobject or kind.kind not in "biuf":
        raise ValueError(f"it holds {kind}, not numbers")
    n_bytes = kind.itemsize
    for n in shape:
        n_bytes *= int(n)
    if n_bytes > len(content):
        raise ValueError(f"it says to be {n_bytes} bytes large but is {len(content)}")
    array: npt.NDArray[Any] = np.load(io.BytesIO(content), allow_pickle=False)
    return array
