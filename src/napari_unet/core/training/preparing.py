"""What is settled before the first step: who is held out, which network, what it will be called."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from napari_unet.core.corrections import IGNORE
from napari_unet.core.datasets import Pair, fold_of, split_pairs
from napari_unet.core.device import Device
from napari_unet.core.errors import TrainingError
from napari_unet.core.model import Description, Model
from napari_unet.core.networks import Wanted, preset_of
from napari_unet.core.networks.imagenet import load_encoder_weights
from napari_unet.core.normalization import Normalization
from napari_unet.core.progress import Work
from napari_unet.core.scoring import memory_format
from napari_unet.core.training.cutting import object_settings_for
from napari_unet.core.training.optimizing import seeded
from napari_unet.core.training.outputs import Outputs, outputs_for, outputs_of
from napari_unet.core.training.pictures import (
    Picture,
    channels_of,
    classes_in,
    pictures_of,
    pixel_size_of,
)
from napari_unet.core.training.progress import TrainProgress
from napari_unet.core.training.settings import TrainSettings

__all__ = ["Request", "Subject", "divided", "subject_of"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Request:
    """What is asked for.

    Attributes
    ----------
    pairs : images and their masks.
    settings : how to train.
    start : the model to go on from; None for a new network.
    device : to train on.
    name : of the new model.
    class_names : of all classes, or of all but the background; None for made-up ones.
    imagenet : a file of weights of the encoder, trained on ImageNet; None for random ones.
    """

    pairs: Sequence[Pair]
    settings: TrainSettings
    start: Model | None
    device: Device
    name: str
    class_names: Sequence[str] | None
    imagenet: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Subject:
    """What is trained, and on what.

    Attributes
    ----------
    settings : with nothing left open.
    network, architecture, config : as in `Model`; in evaluation mode, on the device.
    about, outputs : what the model will be.
    trained, held_out : pictures to train on, and to measure on.
    n_images, n_held_out : images, of which pictures are planes or volumes.
    """

    settings: TrainSettings
    network: nn.Module
    architecture: str
    config: Any
    about: Description
    outputs: Outputs
    trained: tuple[Picture, ...]
    held_out: tuple[Picture, ...]
    n_images: int
    n_held_out: int


def divided(
    pairs: Sequence[Pair], settings: TrainSettings
) -> tuple[tuple[Pair, ...], tuple[Pair, ...]]:
    """The images to train on, and those to measure on."""
    if settings.n_folds:
        return fold_of(pairs, settings.n_folds, settings.fold, settings.seed)
    return split_pairs(pairs, settings.held_out, settings.seed)


def subject_of(request: Request) -> Work[TrainProgress, Subject]:
    """Look at the images and their masks, and build the network.

    Raises
    ------
    TrainingError
        If there is nothing to learn from, or it does not go together.
    SettingsError
        If the network cannot be built for that.
    """
    if not request.pairs:
        raise TrainingError("There are no images to learn from. Give images and their masks.")
    yield TrainProgress(message="Looking at the images")
    trained, held = divided(request.pairs, request.settings)
    found = _new(request, (*trained, *held)) if request.start is None else _old(request)
    pictures: dict[str, list[Picture]] = {"images": [], "held-out images": []}
    for kind, mine in (("images", trained), ("held-out images", held)):
        for i, pair in enumerate(mine, start=1):
            pictures[kind] += _pictures_of(pair, found)
            yield TrainProgress(done=i, total=len(mine), message=f"Reading the {kind}")
    _check_marked(pictures["images"])
    if request.start is None and found.settings.what == "objects":
        cut = object_settings_for(pictures["images"], found.outputs, found.settings.split)
        found = replace(found, about=replace(found.about, objects=cut))
    network = found.network.to(request.device.torch_device)
    return replace(
        found,
        network=network.to(memory_format=memory_format(found.about.dims)).eval(),  # type: ignore[call-overload]
        trained=tuple(pictures["images"]),
        held_out=tuple(pictures["held-out images"]),
        n_images=len(trained),
        n_held_out=len(held),
    )


def _pictures_of(pair: Pair, subject: Subject) -> list[Picture]:
    about = subject.about
    return list(
        pictures_of(
            [pair], subject.settings, subject.outputs, about.normalization, about.in_channels
        )
    )


def _check_marked(pictures: Sequence[Picture]) -> None:
    """Raise `TrainingError` if there is only one thing to learn."""
    values = {value for picture in pictures for value in picture.places}
    if len(values - {IGNORE}) < 2:
        raise TrainingError(
            f"In the masks of the {len(pictures)} pictures to train on, "
            f"{'nothing is marked' if values <= {0} else 'everything is marked alike'}. Give masks "
            f"with objects (1, 2, 3, ...) and background (0)."
        )


def _new(request: Request, pairs: Sequence[Pair]) -> Subject:
    """A network of the literature, with random weights."""
    preset = preset_of(request.settings.network)
    settings = request.settings.completed(preset.recipe)
    n_channels = channels_of(pairs)
    n_classes = classes_in(pairs) if settings.what == "classes" else 2
    outputs = outputs_for(settings, n_classes, request.class_names)
    wanted = Wanted(
        dims=settings.dims, in_channels=n_channels, out_channels=len(outputs.names),
        width=settings.width,
    )  # fmt: skip
    config = preset.config_for(wanted)
    if getattr(config, "output", None) == "tanh":
        raise TrainingError(
            f"The network {settings.network!r} gives images, and masks are learned with networks "
            f"that give classes. Choose another one, such as 'unet'."
        )
    with seeded(torch.device("cpu"), settings.seed):
        network = preset.kind.network(config)
    _set_dropout(network, settings.network_dropout)
    notes: tuple[str, ...] = ()
    if request.imagenet is not None:
        notes = load_encoder_weights(network, request.imagenet)
    about = Description(
        name=request.name or preset.title,
        segments="objects" if settings.what == "objects" else ", ".join(outputs.class_names[1:]),
        dims=settings.dims,
        in_channels=n_channels,
        channels="one channel" if n_channels == 1 else f"{n_channels} channels",
        class_names=outputs.class_names,
        outputs=outputs.names,
        output_class=outputs.output_class,
        inside=outputs.inside,
        activation=outputs.activation,
        normalization=_normalization(settings),
        pixel_size=pixel_size_of(pairs),
        licence="that of the images it was trained on",
        notes=notes,
    )
    return Subject(
        settings=settings, network=network, architecture=preset.kind.name, config=config,
        about=about, outputs=outputs, trained=(), held_out=(), n_images=0, n_held_out=0,
    )  # fmt: skip


def _normalization(settings: TrainSettings) -> Normalization:
    """How intensities become input; only percentiles leave anything to be cut off."""
    assert settings.normalization is not None
    if settings.normalization == "percentile":
        return Normalization()
    return Normalization(kind=settings.normalization, clip=None)


def _set_dropout(network: nn.Module, share: float | None) -> None:
    """Drop this share wherever the network drops something; None for what it says itself."""
    if share is None:
        return
    for layer in network.modules():
        if isinstance(layer, nn.Dropout | nn.Dropout2d | nn.Dropout3d):
            layer.p = float(share)


def _old(request: Request) -> Subject:
    """A copy of a network that is there already."""
    from napari_unet.core.checkpoints.native import PROGRAM

    start = request.start
    assert start is not None
    about = start.description
    if start.architecture == PROGRAM:
        raise TrainingError(
            f"{about.name} is a program that only its own file can run: what it learns could not "
            f"be kept. Ask for the weights alone (a state dict), and start from those."
        )
    if request.settings.dims != about.dims:
        raise TrainingError(
            f"The model {about.name!r} is one for {about.dims}D, but dims is "
            f"{request.settings.dims}. Set dims to {about.dims}."
        )
    n_channels = channels_of(request.pairs)
    if n_channels not in (1, about.in_channels):
        raise TrainingError(
            f"The images have {n_channels} channels, but the model {about.name!r} takes "
            f"{about.in_channels}. Choose a model that fits, or train a new network."
        )
    # What is recorded is the network that is trained, and not the one that a new one would be.
    asked = replace(request.settings, network=start.architecture, width=None)
    settings = asked.completed({})
    outputs = outputs_of(about, settings)
    n_known = len(about.class_names)
    if settings.what == "classes" and (n := classes_in(request.pairs)) > n_known:
        raise TrainingError(
            f"The masks hold {n} classes with the background, but the model {about.name!r} knows "
            f"{n_known} ({', '.join(about.class_names)}). Train a new network for these masks."
        )
    # NOTE: images are shown as they are; `segment` would else resample them to the old size.
    size = pixel_size_of(request.pairs) or about.pixel_size
    about = replace(about, name=request.name or about.name, pixel_size=size)
    return Subject(
        settings=settings, network=copy.deepcopy(start.network), architecture=start.architecture,
        config=start.config, about=about, outputs=outputs, trained=(), held_out=(), n_images=0,
        n_held_out=0,
    )  # fmt: skip
