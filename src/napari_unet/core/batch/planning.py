"""The check beforehand: which images can be done, which are done, which cannot, and why."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_unet.core.batch.checking import check_image, check_outputs, is_done, kind_of
from napari_unet.core.batch.settings import ENDINGS, BatchSettings
from napari_unet.core.batch.sources import Source, find_sources
from napari_unet.core.batch.state import Entry, State, read_state
from napari_unet.core.errors import ImageError, SettingsError
from napari_unet.core.files import check_ending
from napari_unet.core.progress import Progress, Work
from napari_unet.core.settings import ObjectSettings, SegmentSettings

if TYPE_CHECKING:
    from napari_unet.core.model import Model

__all__ = ["Plan", "check_runnable", "entry_of", "planning"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a batch will do.

    Attributes
    ----------
    sources : all images, in order.
    todo, done : images to work on, and those whose results are there already.
    refused : entries of images that cannot be worked on; `error` says why.
    left_out : files in the folders that are no images.
    kinds : how many of the images to work on are alike: axes, shape, type, size of a px.
    obstacle : a sentence if nothing can be done before it is settled.
    models, out, settings, options : with what, where to, and how; none and None only for a
        check that does without.
    state : what is known of earlier runs that counts.
    """

    sources: tuple[Source, ...]
    todo: tuple[Source, ...]
    done: tuple[Source, ...]
    refused: tuple[Entry, ...]
    left_out: tuple[Path, ...]
    kinds: Mapping[str, int]
    obstacle: str
    models: tuple[Model, ...]
    out: Path | None
    settings: SegmentSettings
    options: BatchSettings
    state: State

    @property
    def objects(self) -> ObjectSettings:
        """How objects are made, with the model's choices where the user made none."""
        return objects_of_batch(self.models, self.settings)


def planning(
    sources: str | Path | Sequence[str | Path],
    models: Sequence[Model] = (),
    out: str | Path | None = None,
    settings: SegmentSettings | None = None,
    options: BatchSettings | None = None,
) -> Work[Progress, Plan]:
    """Look at every image, without reading its pixels where that can be avoided.

    Parameters
    ----------
    sources : files, folders, OME-Zarr images or plates.
    models : one, several for an ensemble, or none to check the files only.
    out : folder of the results; None to check the images only.
    settings, options : how to segment, and what else was chosen.

    Raises
    ------
    ImageError, SettingsError
        If there are no images, the results cannot be written in this format, or they would
        lie among the images.
    """
    settings, options = settings or SegmentSettings(), options or BatchSettings()
    check_ending(ENDINGS[options.file_format])
    folder = None if out is None else Path(out).expanduser()
    found = find_sources(_paths(sources), folder, options)
    state, obstacle = _earlier(folder, models, settings, options)
    plan = Plan(
        sources=found.sources, todo=(), done=(), refused=(), left_out=found.left_out, kinds={},
        obstacle=obstacle, models=tuple(models), out=folder, settings=settings, options=options,
        state=state,
    )  # fmt: skip
    twins = _twins(found.sources)
    todo: list[Source] = []
    done: list[Source] = []
    refused: list[Entry] = []
    kinds: Counter[str] = Counter()
    for n_seen, source in enumerate(found.sources, start=1):
        yield Progress(done=n_seen, total=len(found.sources), message="Checking")
        try:
            if is_done(source, state, folder):
                done.append(source)
            else:
                kinds[_checked(source, twins, plan)] += 1
                todo.append(source)
        except (ImageError, OSError, MemoryError) as error:
            refused.append(entry_of(source, status="refused", error=str(error)))
    return replace(
        plan, todo=tuple(todo), done=tuple(done), refused=tuple(refused), kinds=dict(kinds)
    )


def _twins(sources: Sequence[Source]) -> dict[Source, Source]:
    """Images whose results would have the same name, also where case does not count."""
    first: dict[str, Source] = {}
    twins: dict[Source, Source] = {}
    for source in sources:
        other = first.setdefault(source.name.casefold(), source)
        if other is not source:
            twins[source] = other
            twins.setdefault(other, source)
    return twins


def _checked(source: Source, twins: Mapping[Source, Source], plan: Plan) -> str:
    """What kind of image it is; raises `ImageError` if nothing can be made of it."""
    if source in twins:
        raise ImageError(
            f"The results of {source.path} and {twins[source].path} would have the same name. "
            "Do them apart, with a pattern or with different folders for the results."
        )
    opened = check_image(source, plan.models, plan.options)
    if plan.out is not None and not plan.obstacle:
        check_outputs(source, plan.state, plan.out, plan.settings, plan.options)
    return kind_of(opened)


def _paths(sources: str | Path | Sequence[str | Path]) -> list[Path]:
    given = [sources] if isinstance(sources, (str, Path)) else sources
    return list(dict.fromkeys(Path(path).expanduser() for path in given))


def entry_of(source: Source, **what: Any) -> Entry:
    """The entry of an image about which nothing else is known than `what`."""
    return Entry(
        name=source.name, source=str(source.path), row=source.row, column=source.column,
        field=source.field, **what,
    )  # fmt: skip


# What was done earlier


def _earlier(
    out: Path | None,
    models: Sequence[Model],
    settings: SegmentSettings,
    options: BatchSettings,
) -> tuple[State, str]:
    """What counts of earlier runs, and a sentence if they were others than this one."""
    fresh = State(made_with=_made_with(models, settings, options))
    if out is None or not models or options.overwrite:
        return fresh, ""
    try:
        state = read_state(out)
    except ImageError as error:
        return fresh, str(error)
    if state is None or state.made_with == fresh.made_with:
        return state or fresh, ""
    others = ", ".join(
        f"{name} {_worded(state.made_with.get(name))}, now {_worded(value)}"
        for name, value in fresh.made_with.items()
        if state.made_with.get(name) != value
    )
    return fresh, (
        f"The results in {out} were made in another way ({others}). Choose another folder, or "
        "begin anew (--overwrite)."
    )


def _made_with(
    models: Sequence[Model], settings: SegmentSettings, options: BatchSettings
) -> dict[str, Any]:
    """All that results hang on, in words and numbers that JSON gives back as they are."""
    chosen = {name: value for name, value in asdict(settings).items() if value is not None}
    if models:
        chosen |= asdict(objects_of_batch(models, settings))
    everything = {
        "models": [model.id for model in models],
        **{name.replace("_", " "): value for name, value in sorted(chosen.items())},
        "axes": options.axes,
        "channels": options.channels,
        "format": options.file_format,
        "probabilities": options.probabilities,
    }
    known: dict[str, Any] = json.loads(json.dumps(everything))  # tuples become lists
    return known


def _worded(value: Any) -> str:
    if isinstance(value, list):
        return " + ".join(str(one) for one in value)
    return "as chosen for the user" if value is None else str(value)


def objects_of_batch(models: Sequence[Model], settings: SegmentSettings) -> ObjectSettings:
    """How objects are made, with the choices of the (first) model where the user made none."""
    return settings.objects(models[0].description.objects if models else ObjectSettings())


def check_runnable(plan: Plan) -> Path:
    """The folder for the results; raises `SettingsError` if the plan is good for a check only."""
    if plan.obstacle:
        raise SettingsError(plan.obstacle)
    if plan.out is None or not plan.models:
        raise SettingsError("A batch needs a model and a folder for its results. Choose both.")
    return plan.out
