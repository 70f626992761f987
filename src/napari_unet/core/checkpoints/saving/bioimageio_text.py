"""The description of a bioimage.io package (format 0.5), and the texts that go with it."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from napari_unet.core.checkpoints.packages.bioimageio_meaning import KEY, LISTS, MARKS, TEXTS
from napari_unet.core.checkpoints.packages.bioimageio_processing import Step
from napari_unet.core.checkpoints.plain import to_json
from napari_unet.core.checkpoints.saving.architecture import plain_config
from napari_unet.core.checkpoints.saving.example import Example
from napari_unet.core.checkpoints.saving.sizes import Sizes
from napari_unet.core.model import Description, Model
from napari_unet.core.versions import version

__all__ = ["FORMAT", "description_of", "environment", "readme"]

FORMAT = "0.5.5"
"""The first version with all that is said here, so that as many programs as possible read it."""
LICENCES = (
    "CC0-1.0", "CC-BY-4.0", "CC-BY-SA-4.0", "CC-BY-NC-4.0", "CC-BY-NC-SA-4.0", "MIT",
    "BSD-2-Clause", "BSD-3-Clause", "Apache-2.0", "GPL-2.0-only", "GPL-2.0-or-later",
    "GPL-3.0-only", "GPL-3.0-or-later", "LGPL-3.0-only", "LGPL-3.0-or-later", "MPL-2.0",
)  # fmt: skip
"""Identifiers that may stand in a description; other terms stand in the text beside it."""
UNIT = {"range": [0.0, 1.0]}
PAPER = {
    "text": "Ronneberger, Fischer, Brox: U-Net: Convolutional Networks for Biomedical Image "
    "Segmentation. MICCAI 2015.",
    "doi": "10.1007/978-3-319-24574-4_28",
}


def description_of(
    model: Model, sizes: Sizes, example: Example, files: Mapping[str, bytes], authors: Sequence[str]
) -> dict[str, Any]:
    """The description as plain values, for YAML.

    Parameters
    ----------
    files : all other files of the package by name.
    authors : names of people; () if nobody is to be named.
    """
    about = model.description
    licence = next((name for name in LICENCES if name == about.licence), None)
    return {
        "format_version": FORMAT,
        "type": "model",
        "name": _title(model),
        "description": _sentence(about),
        "covers": ["cover.png"],
        "authors": [{"name": name.replace("/", "-")} for name in authors or ("unknown",)],
        "cite": [dict(PAPER)],
        **({"license": licence} if licence else {}),
        "tags": ["unet", f"{about.dims}d", "segmentation", "pytorch", "napari-unet-live"],
        "documentation": "README.md",
        "inputs": [_input(about, sizes, example, files)],
        "outputs": [_output(about, sizes, example, files)],
        "weights": _weights(model, files),
        "config": {KEY: _own_words(about)},
    }


def _title(model: Model) -> str:
    """The name without letters that bioimage.io does not allow, and long enough for it."""
    name = re.sub(r"[^A-Za-z0-9_+\-() ]+", " ", model.title).strip()
    name = f"{name} model" if len(name) < 5 else name
    return name[:64].strip()


def _sentence(about: Description) -> str:
    kind = "2D images" if about.dims == 2 else "3D images"
    return f"A U-Net that finds {about.segments} in {kind}."[:500]


def _file(name: str, files: Mapping[str, bytes]) -> dict[str, str]:
    return {"source": name, "sha256": hashlib.sha256(files[name]).hexdigest()}


# --- images ------------------------------------------------------------------------------------


def _input(
    about: Description, sizes: Sizes, example: Example, files: Mapping[str, bytes]
) -> dict[str, Any]:
    space = [
        {**_space_axis(letter, about), "size": {"min": least, "step": step}}
        for letter, least, step in zip("zyx"[-about.dims :], sizes.least, sizes.step, strict=True)
    ]
    names = [f"channel{at}" for at in range(about.in_channels)]
    return {
        "id": "input",
        "description": about.channels[:128],
        "axes": [{"type": "batch"}, {"type": "channel", "channel_names": names}, *space],
        "data": {"type": example.image.dtype.name},
        "test_tensor": _file("test_input.npy", files),
        "preprocessing": [_step(step, about.dims) for step in example.before],
    }


def _output(
    about: Description, sizes: Sizes, example: Example, files: Mapping[str, bytes]
) -> dict[str, Any]:
    space = []
    for letter, margin, halo in zip("zyx"[-about.dims :], sizes.margin, sizes.halo, strict=True):
        size = {"tensor_id": "input", "axis_id": letter, **({"offset": -margin} if margin else {})}
        axis = {**_space_axis(letter, about), "size": size}
        space.append({**axis, "halo": halo} if halo else axis)
    return {
        "id": "output",
        "description": "probabilities",
        "axes": [{"type": "batch"}, {"type": "channel", "channel_names": _distinct(about)}, *space],
        "data": {"type": "float32", **({} if about.activation == "none" else UNIT)},
        "test_tensor": _file("test_output.npy", files),
        "postprocessing": [_step(step, about.dims) for step in example.after],
    }


def _space_axis(letter: str, about: Description) -> dict[str, Any]:
    """An axis of space; the size of a pixel is known of y and x only."""
    axis: dict[str, Any] = {"type": "space", "id": letter}
    if about.pixel_size and letter != "z":
        axis |= {"unit": "micrometer", "scale": float(about.pixel_size)}
    return axis


def _distinct(about: Description) -> list[str]:
    """Names of the outputs, numbered where two are the same."""
    names = [name or "output" for name in about.outputs]
    return [f"{name} {at}" if names.count(name) > 1 else name for at, name in enumerate(names)]


def _step(step: Step, dims: int) -> dict[str, Any]:
    values = dict(step.values)
    if step.axes:
        values["axes"] = [axis for axis in "zyx"[-dims:] if axis in step.axes]
    return {"id": step.name, **({"kwargs": values} if values else {})}


# --- weights -----------------------------------------------------------------------------------


def _weights(model: Model, files: Mapping[str, bytes]) -> dict[str, Any]:
    torch_version = str(torch.__version__).partition("+")[0]
    architecture = {
        "import_from": "napari_unet.core.checkpoints.saving",
        "callable": "network",
        "kwargs": {"architecture": model.architecture, "config": plain_config(model)},
    }
    weights: dict[str, Any] = {
        "pytorch_state_dict": {
            **_file("weights.pt", files),
            "architecture": architecture,
            "pytorch_version": torch_version,
            "dependencies": _file("environment.yaml", files),
        }
    }
    parent = {"parent": "pytorch_state_dict"}
    if "weights.torchscript.pt" in files:
        entry = _file("weights.torchscript.pt", files)
        weights["torchscript"] = {**entry, **parent, "pytorch_version": torch_version}
    if "weights.onnx" in files:
        from napari_unet.core.checkpoints.saving.onnx import opset_of

        opset = opset_of(files["weights.onnx"])
        weights["onnx"] = {**_file("weights.onnx", files), **parent, "opset_version": opset}
    return weights


def environment() -> str:
    """What is needed to load the state dict, as a conda environment."""
    own_version = version("napari-unet-live")
    torch_version = str(torch.__version__).partition("+")[0]
    return (
        f"name: napari-unet-live\nchannels:\n  - conda-forge\n  - nodefaults\ndependencies:\n"
        f"  - python>=3.11\n  - pytorch>={torch_version}\n  - pip\n  - pip:\n"
        f"      - napari-unet-live>={own_version}\n"
    )


# --- words -------------------------------------------------------------------------------------


def _own_words(about: Description) -> dict[str, Any]:
    """What is needed to understand the model again just as it was."""
    words: dict[str, Any] = {name: getattr(about, name) for name in (*TEXTS, *LISTS, *MARKS)}
    words |= {"inverted": about.inverted, "normalization": about.normalization}
    words |= {"objects": about.objects, "assumed": about.assumed}
    plain: dict[str, Any] = json.loads(to_json(words))
    return {name: value for name, value in plain.items() if value is not None}


def readme(model: Model, sizes: Sizes, example: Example, left_out: Sequence[str]) -> str:
    """The longer text of the package (Markdown)."""
    about = model.description
    axes = "z, y, x"[-3 * about.dims + 2 :]
    lines = [
        f"# {model.title}",
        _sentence(about),
        f"- Input: {about.channels} ({about.in_channels}), raw brightness as it comes from the "
        f"microscope; the steps that are done to it are in the description.",
        f"- Output: probabilities of {', '.join(about.outputs)}.",
        f"- Classes: {', '.join(about.class_names)}.",
        f"- Sizes ({axes}): {sizes.least} px, and multiples of {sizes.step} px more.",
        f"- Licence: {about.licence}. Source: {about.source}.",
    ]
    if about.normalization.kind == "range" and example.image.dtype.kind in "iu":
        lines.append(
            f"- Brightness is divided by the largest value of the type of the image: as written "
            f"here, for {example.image.dtype.name}. Change the step for images of another type."
        )
    if about.assumed:
        lines.append(f"- Assumed, not known: {', '.join(about.assumed)}.")
    lines += [f"- {sentence}" for sentence in left_out]
    scores = [f"- {kind}: {dict(values)}" for kind, values in about.scores.items()]
    lines += ["\n## Validation", *(scores or ["Compare with your own annotations before use."])]
    lines += ["\n## More", about.card] if about.card else []
    return "\n".join(lines) + "\n"
