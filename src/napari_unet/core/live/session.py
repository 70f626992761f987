"""Live mode for Python: paint, learn, look, step by step, in scripts and for simulated users."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from napari_unet.core.corrections import check_corrections
from napari_unet.core.errors import SettingsError
from napari_unet.core.image import Image, make_image
from napari_unet.core.instances import class_probabilities, classes_of, objects_of
from napari_unet.core.live.images import LiveImage, changed_blocks, live_image
from napari_unet.core.live.inbox import Painted
from napari_unet.core.live.learner import Learner
from napari_unet.core.live.living import SCORE_EVERY
from napari_unet.core.live.outcome import model_of
from napari_unet.core.live.settings import LiveSettings
from napari_unet.core.live.states import State
from napari_unet.core.live.viewing import View, Viewer, pieces_of
from napari_unet.core.model import Description, Model, load_model

if TYPE_CHECKING:
    from napari_unet.core.live.uncertainty import Place

__all__ = ["LiveResult", "LiveSession"]


@dataclass(frozen=True, kw_only=True, eq=False)
class LiveResult:
    """What the newest weights say of a window.

    Attributes
    ----------
    index, window : where: the label axes before `(y, x)`, and `(y, x)` in px.
    outputs : float16 `(output, y, x)`, the probabilities of the network's outputs.
    model : what its outputs mean.
    """

    index: tuple[int, ...]
    window: tuple[slice, slice]
    outputs: npt.NDArray[np.float16]
    model: Model = field(repr=False)

    @cached_property
    def classes(self) -> npt.NDArray[np.uint8]:
        """Class of each pixel `(y, x)`, 0 for background."""
        about = self.model.description
        return classes_of(self.outputs, about.output_class, about.objects.threshold)

    @cached_property
    def labels(self) -> npt.NDArray[np.int32]:
        """Single objects `(y, x)`, from 1; 0 for background."""
        about = self.model.description
        return objects_of(self.outputs, about.output_class, about.objects, about.separator)

    @property
    def probabilities(self) -> npt.NDArray[np.float32]:
        """Probability of each class, `(class, y, x)`, in 0 to 1."""
        return class_probabilities(self.outputs, self.model.description.output_class)


class LiveSession:
    """A model that learns from strokes as they come.

    Parameters
    ----------
    model : from `load_model`, or what `load_model` takes. It is not changed.
    settings : None for the defaults.
    device : "auto", "cpu", "cuda", ...

    Examples
    --------
    ::

        live = nu.LiveSession("nuclei")
        key = live.add_image(image)
        live.paint(key, corrections)      # 0 untouched, 1 background, 2 and up the classes
        live.learn(seconds=3)
        live.look(key).labels
        tuned = live.model                # what was learned, for segment and save_model
    """

    def __init__(
        self, model: Model | str | Path, settings: LiveSettings | None = None, device: str = "auto"
    ) -> None:
        opened = model if isinstance(model, Model) and device == "auto" else None
        self._learner = Learner(opened or load_model(model, device), settings)
        self._viewer = Viewer(self._learner.model)
        self._images: dict[str, LiveImage] = {}
        self._painted: dict[str, npt.NDArray[np.uint8]] = {}
        self._looked: dict[tuple[str, tuple[int, ...]], list[tuple[slice, slice]]] = {}
        self._scores: list[tuple[int, float]] = []
        self._scored, self._started = 0, time.monotonic()

    def add_image(self, image: Any, axes: str | None = None) -> str:
        """Add an image (array or `Image`) and return its key; adding it twice changes nothing."""
        opened = image if isinstance(image, Image) else make_image(image, axes)
        live = live_image(opened)
        self._images.setdefault(live.key, live)
        return live.key

    def paint(
        self,
        key: str,
        corrections: npt.NDArray[np.integer],
        window: tuple[slice, slice] | None = None,
        index: tuple[int, ...] = (),
    ) -> None:
        """Replace the corrections of an image, or of a window of it.

        Parameters
        ----------
        key : from `add_image`.
        corrections : whole numbers: 0 untouched, 1 background, 2 and up the classes. What was
            painted before and is 0 now is taken out of training.
        window : `(y, x)` where they belong, in the plane `index`; None if they have the whole
            label shape.
        index : position along the label axes before `(y, x)`.

        Raises
        ------
        CorrectionsError
            If they do not fit the image or the classes.
        """
        live, given = self._image(key), np.asarray(corrections)
        assert live.image is not None
        painted = self._painted.setdefault(key, np.zeros(live.image.label_shape, np.uint8))
        new = painted.copy()
        if window is None:
            check_corrections(live.image, given, len(self._about.class_names))
            new[...] = given
        else:
            new[self._whole(live, index)][window] = given
        changed = changed_blocks(painted, new)
        if changed:
            self._learner.take([Painted(image=live, blocks=changed)])
        self._painted[key] = new

    def learn(self, seconds: float | None = None, steps: int | None = None) -> int:
        """Train on all that was painted so far; the number of steps done.

        It ends after so many seconds or steps, or, without either, when training has settled. What
        has settled learns no more until something new is painted.
        """
        end = None if seconds is None else time.monotonic() + seconds
        done = 0
        while not self._learner.is_settled:
            if steps is not None and done >= steps:
                return done
            if end is not None and time.monotonic() >= end:
                return done
            self._learner.step()
            done += 1
            if self._learner.n_steps - self._scored >= SCORE_EVERY:
                self._score()
        if done:
            self._learner.rest()
        return done

    def look(
        self,
        key: str,
        window: tuple[slice, slice] | None = None,
        index: tuple[int, ...] | None = None,
    ) -> LiveResult:
        """What the newest weights say of an image.

        Parameters
        ----------
        key : from `add_image`.
        window : `(y, x)` in px; None for the whole plane.
        index : which plane; None for the first.
        """
        view = self._view(key, window, index)
        if window is not None:
            self._looked.setdefault((key, view.index), []).append(view.window)
        return LiveResult(
            index=view.index,
            window=view.window,
            outputs=self._outputs(view),
            model=self._learner.model,
        )

    def next(self, key: str | None = None, size: int = 256) -> Place | None:
        """Where to look next: the most uncertain region that nobody has looked at.

        What it gives counts as looked at from then on, and so does what `look` was asked for by
        its window. It looks through whole planes, so that big images take a while.

        Parameters
        ----------
        key : which image; None for all.
        size : height and width of the region, in px.

        Returns
        -------
        Place or None
            With `key`, `index` and `window`, which `look` and `paint` take, and `score`; None if
            nothing is in doubt any more.
        """
        from napari_unet.core.live.uncertainty import Plane, ranked, uncertain

        heat = self._learner.temperature()

        def planes() -> Iterator[Plane]:
            for name in self._images if key is None else [key]:
                live = self._image(name)
                assert live.image is not None
                for index in np.ndindex(*live.image.label_shape[:-2]):
                    outputs = self._outputs(self._view(name, None, index))
                    yield Plane(
                        key=name,
                        index=index,
                        uncertainty=uncertain(outputs, self._about.output_class, heat),
                        looked_at=self._looked.get((name, index), []),
                    )

        found = ranked(planes(), size, n=1)
        for place in found:
            self._looked.setdefault((place.key, place.index), []).append(place.window)
        return found[0] if found else None

    def scores(self) -> dict[str, Any]:
        """Scores so far: "iou" on held-out corrections now (None if there are not two classes of
        them), and "trend", pairs of a step and the score then."""
        return {"iou": self._score(), "trend": tuple(self._scores)}

    def keep(self) -> State:
        """Keep the weights as they are now as a state to return to."""
        return self._learner.keep()

    @property
    def states(self) -> tuple[State, ...]:
        """What can be returned to, oldest first; number 0 is the model before."""
        return self._learner.states

    def go_back(self, state: State | int) -> None:
        """Return to a state; training rests until something new is painted."""
        self._learner.go_back(state.number if isinstance(state, State) else state)

    @property
    def is_settled(self) -> bool:
        """Whether training rests until something new is painted."""
        return self._learner.is_settled

    @property
    def n_steps(self) -> int:
        """Training steps so far."""
        return self._learner.n_steps

    @property
    def model(self) -> Model:
        """A new model with the weights as they are now; its history tells how it came about."""
        return model_of(self._learner, self._started)

    @property
    def _about(self) -> Description:
        return self._learner.model.description

    def _score(self) -> float | None:
        self._scored = self._learner.n_steps
        score = self._learner.score()
        if score is not None:
            self._scores.append((self._learner.n_steps, score))
        return score

    def _image(self, key: str) -> LiveImage:
        if key not in self._images:
            raise SettingsError(f"There is no image {key!r} here; use a key from add_image.")
        return self._images[key]

    def _whole(self, live: LiveImage, index: tuple[int, ...]) -> tuple[int, ...]:
        assert live.image is not None
        n = len(live.image.label_shape) - 2
        if len(index) != n:
            raise SettingsError(
                f"index must have {n} numbers, one for each axis before the last two of "
                f"{live.image.label_axes!r}, not {index}."
            )
        return index

    def _outputs(self, view: View) -> npt.NDArray[np.float16]:
        """Probabilities `(output, y, x)` of a view, put together from its pieces."""
        height, width = (part.stop - part.start for part in view.window)
        top, left = (part.start for part in view.window)
        outputs = np.zeros((len(self._about.outputs), height, width), np.float16)
        for piece in pieces_of(view):
            rows, columns = piece.window
            inner = (
                slice(rows.start - top, rows.stop - top),
                slice(columns.start - left, columns.stop - left),
            )
            outputs[(slice(None), *inner)] = self._viewer.outputs(
                self._learner.network, piece, self._learner.device
            )
        return outputs

    def _view(
        self, key: str, window: tuple[slice, slice] | None, index: tuple[int, ...] | None
    ) -> View:
        live = self._image(key)
        assert live.image is not None
        shape = live.image.label_shape
        at = (0,) * (len(shape) - 2) if index is None else self._whole(live, index)
        rows, columns = window or (slice(None), slice(None))
        whole = slice(*rows.indices(shape[-2])[:2]), slice(*columns.indices(shape[-1])[:2])
        return View(image=live, index=at, window=whole)
