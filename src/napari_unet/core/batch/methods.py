"""A paragraph for the Methods section of a paper, with the figures of this batch."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from napari_unet.core.batch.planning import Plan
from napari_unet.core.batch.state import Entry
from napari_unet.core.model import Model
from napari_unet.core.normalization import Normalization
from napari_unet.core.versions import version

__all__ = ["CITATION", "methods"]

CITATION = (
    "Ronneberger, O., Fischer, P. & Brox, T. (2015). U-Net: Convolutional Networks for "
    "Biomedical Image Segmentation. In: Medical Image Computing and Computer-Assisted "
    "Intervention (MICCAI 2015), Lecture Notes in Computer Science 9351, 234–241. Springer. "
    "https://doi.org/10.1007/978-3-319-24574-4_28"
)


def methods(plan: Plan, entries: Sequence[Entry]) -> str:
    """What was done and what came out, in whole sentences."""
    return " ".join(_sentences(plan, entries))


def _sentences(plan: Plan, entries: Sequence[Entry]) -> Iterator[str]:
    done = [entry for entry in entries if entry.status == "done"]
    if not done:
        yield "No image was analysed."
        return
    several = len(plan.models) > 1
    nets = f"an ensemble of {len(plan.models)} U-Nets" if several else "a U-Net"
    software = ", ".join(sorted({entry.made_by for entry in done}))
    yield (
        f"Images were segmented with {nets} (Ronneberger et al., 2015) in U-Net Live "
        f"(napari-unet-live {software}; PyTorch {version('torch').partition('+')[0]})."
    )
    for model in plan.models:
        yield from _model_sentences(model)
    if several:
        yield "The probabilities that the networks gave were averaged."
    yield from _input_sentences(plan)
    yield from _way_sentences(plan, done)
    yield from _object_sentences(plan)
    yield from _result_sentences(plan, done, entries)


def _model_sentences(model: Model) -> Iterator[str]:
    about = model.description
    n_weights = sum(weights.numel() for weights in model.network.parameters())
    origin = "" if about.source == "unknown" else f", source: {about.source}"
    yield (
        f"The model '{about.name}' ({n_weights:,} weights, identifier {model.id}{origin}) segments "
        f"{about.segments} in {'volumes' if about.dims == 3 else 'single planes'}."
    )
    if model.history:
        n_rounds, last = len(model.history), model.history[-1]
        painted = " and ".join(f"{entry.n_corrected:,}" for entry in model.history)
        yield (
            f"It was fine-tuned in {_counted(n_rounds, 'round')} on {painted} manually corrected "
            f"pixels{' in turn' if n_rounds > 1 else ''} (last on {last.created[:10]})."
        )


def _input_sentences(plan: Plan) -> Iterator[str]:
    if plan.options.channels is not None:
        numbers = ", ".join(str(channel) for channel in plan.options.channels)
        yield f"The network was shown channel {numbers} of each image, counted from 0."
    scalings = dict.fromkeys(_scaling(model.description.normalization) for model in plan.models)
    yield from (sentence for sentence in scalings if sentence)
    augmentation = getattr(plan.settings, "augmentation", "none")
    if augmentation != "none":
        views = "flips" if augmentation == "flips" else "flips and right-angle rotations"
        yield f"Probabilities were averaged over {views} of the image (test-time augmentation)."


def _way_sentences(plan: Plan, done: Sequence[Entry]) -> Iterator[str]:
    resampled = [entry for entry in done if entry.is_resampled]
    size = plan.models[0].description.pixel_size
    if resampled and size is not None:
        which = "Images" if len(resampled) == len(done) else _counted(len(resampled), "image")
        yield f"{which} were resampled to {size:g} µm per pixel, and the result back, linearly."
    is_flat = plan.models[0].description.dims == 2
    if is_flat and any(math.prod(entry.shape[:-2]) > 1 for entry in done):
        yield "Stacks and time series were processed plane by plane."
    ways = [entry.way for entry in done]
    if ways and all(way.startswith("Exact") for way in ways):
        yield "The result is that of the network applied to each image as a whole."
    elif any(way.startswith("Approx") for way in ways):
        yield "Larger images were processed in overlapping tiles, whose results were blended."


def _scaling(normalization: Normalization) -> str:
    each = "Each channel of each image was scaled linearly"
    low, high = _ordinal(normalization.low), _ordinal(normalization.high)
    return {
        "percentile": f"{each} so that its {low} percentile became 0 and its {high} became 1.",
        "zscore": f"{each} to mean 0 and standard deviation 1.",
        "minmax": f"{each} so that its lowest value became 0 and its highest became 1.",
        "range": "Intensities were divided by the highest value of their integer type.",
    }.get(normalization.kind, "")


def _object_sentences(plan: Plan) -> Iterator[str]:
    chosen, about = plan.objects, plan.models[0].description
    if chosen.smoothing:
        yield f"Probabilities were smoothed with a Gaussian of sigma {chosen.smoothing:g} px."
    likeliest = " and were given the most probable other class" * (len(about.class_names) > 2)
    yield (
        "Pixels counted as foreground where the probability of background was below "
        f"{1 - chosen.threshold:g}{likeliest}."
    )
    if plan.settings.what == "classes":
        return
    if chosen.split == 0:
        yield "Connected foreground pixels of one class formed an object."
    else:
        how = "cut at their waists, found by the distance transform"
        if about.separator is not None:
            marks = about.separator
            marked = about.outputs[marks if marks >= 0 else ~marks]
            how = f"separated by a watershed from the {marked}"
        yield f"Touching objects were {how} (split setting {chosen.split:g})."
    if chosen.min_size > 1:
        unit = "voxels" if about.dims == 3 else "pixels"
        yield f"Objects of fewer than {chosen.min_size} {unit} were discarded."
    if chosen.fill_holes:
        yield "Holes within single objects were filled."
    if chosen.link and about.dims == 2:
        yield "In stacks, the objects of neighbouring planes were linked to volumes."


def _result_sentences(plan: Plan, done: Sequence[Entry], entries: Sequence[Entry]) -> Iterator[str]:
    images = _counted(len(done), "image")
    if plan.settings.what == "classes":
        yield f"This was done for {images}."
    else:
        n_objects = sum(entry.count or 0 for entry in done)
        yield f"In {images}, {_counted(n_objects, 'object')} were found in total."
    if len(done) < len(entries):
        n_missing = len(entries) - len(done)
        were = "was" if n_missing == 1 else "were"
        yield f"{n_missing:,} of {_counted(len(entries), 'image')} {were} not analysed."
    sizes = sorted({entry.pixel_size for entry in done if entry.pixel_size is not None})
    if sizes and all(entry.pixel_size is not None for entry in done):
        span = f"{sizes[0]:.4g}" if len(sizes) == 1 else f"{sizes[0]:.4g} to {sizes[-1]:.4g}"
        yield f"The pixel size was {span} µm."
    thing = "object" if plan.settings.what == "objects" else "class"
    size = " and ".join(
        {2: "area", 3: "volume"}[dims] for dims in sorted({entry.dims for entry in done})
    )
    yield (
        f"The {size}, position, and the mean, lowest, highest and integrated raw intensity of "
        f"every channel were measured for each {thing}."
    )


def _counted(n: int, thing: str) -> str:
    return f"{n:,} {thing}" if n == 1 else f"{n:,} {thing}s"


def _ordinal(number: float) -> str:
    text = f"{number:g}"
    if not text.isdigit():
        return f"{text}th"
    last = {"1": "st", "2": "nd", "3": "rd"}.get(text[-1], "th")
    return f"{text}th" if text.endswith(("11", "12", "13")) else f"{text}{last}"
