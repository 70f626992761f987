"""What each step learns from: patches around new strokes, around all strokes, and rehearsal."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from napari_unet.core.engine.facts import Facts
from napari_unet.core.engine.source import continued
from napari_unet.core.live.drawing import Batch, batch_of, near, varied
from napari_unet.core.live.objective import answer_on
from napari_unet.core.live.paint import Paint
from napari_unet.core.live.pieces import Patch, Piece, cut
from napari_unet.core.live.settings import LiveSettings
from napari_unet.core.model import Model
from napari_unet.core.patches import PatchPlan, TrainingBlock, integer, plan_for
from napari_unet.core.rehearsal import rehearsal_images
from napari_unet.core.settings import FineTuneSettings

__all__ = ["FOCUS", "Batches"]

FOCUS = 5
"""So many steps after a stroke show it for certain."""


class Batches:
    """Draws one batch after another.

    Parameters
    ----------
    model, facts : what is trained, and what is known about its network.
    settings : how.
    paint : all strokes so far, which change as time goes on.

    Attributes
    ----------
    patch_size : edge of a patch, in px; call `changed` after changing it.
    """

    def __init__(self, model: Model, facts: Facts, settings: LiveSettings, paint: Paint) -> None:
        self._about, self._facts, self._settings = model.description, facts, settings
        self._paint = paint
        self._random = torch.Generator().manual_seed(settings.seed)
        self._memories = [_memory(picture) for picture in rehearsal_images(model)]
        self._plan: PatchPlan | None = None
        self.patch_size = settings.patch_size

    def changed(self) -> None:
        """Strokes came or went, or patches have another size now."""
        self._plan = None

    @property
    def plan(self) -> PatchPlan:
        """Shape and number of the patches that the network can take."""
        if self._plan is None:
            settings = FineTuneSettings(
                patch_size=self.patch_size,
                batch_size=self._settings.batch_size,
                memory=self._settings.memory,
            )
            blocks = [
                TrainingBlock(image=piece.image, target=piece.target, places=piece.places)
                for piece in self._paint.all()
            ]
            self._plan = plan_for(settings, self._facts, blocks, bool(self._memories))
        return self._plan

    def draw(self, since: int, n_steps: int, old: nn.Module, device: torch.device) -> Batch:
        """A batch, `since` steps after the last stroke and `n_steps` from the very start.

        Parameters
        ----------
        old, device : the network before, for its answers to rehearsal pictures, and where it is.
        """
        plan, values = self.plan, self._paint.values
        n = plan.n_patches
        n_new = max(n - round(self._settings.replay * n), int(since < FOCUS))
        patches = []
        for i in range(n):
            recent = self._recent(i, since) if i < n_new else None
            piece, place = recent or self._any(values[(i + n_steps) % len(values)])
            patch = cut(piece, near(place, plan.spread, self._random), plan.shape)
            patches.append(varied(patch, self._random))
        patches += [self._remembered(plan, old, device) for _ in range(plan.n_memories)]
        return batch_of(patches, plan.n_memories, self._about.in_channels)

    def prepare(self, old: nn.Module, device: torch.device) -> bool:
        """Ask for the old answer to one more rehearsal picture; False if all are known."""
        unknown = [piece for piece in self._memories if piece.answer is None]
        if unknown and self._settings.memory and unknown[0].target.ndim == 2:
            self._answer(unknown[0], old, device)
            return True
        return False

    def blank(self) -> Batch:
        """A batch of the usual size that shows nothing, for trying out."""
        plan = self.plan
        n = plan.n_patches + plan.n_memories
        return Batch(
            image=torch.zeros(n, self._about.in_channels, *plan.shape),
            target=torch.full((n, *plan.shape), 255, dtype=torch.uint8),
            answer=None,
            is_memory=torch.arange(n) >= plan.n_patches,
        )

    def _recent(self, i: int, since: int) -> tuple[Piece, Tensor] | None:
        """The newest strokes one by one right after they came, then any of the recent ones."""
        n = len(self._paint.strokes.recent)
        if not n:
            return None
        at = i % n if since < FOCUS else integer(n, self._random)
        return self._paint.strokes.newest(self._paint.pieces, at, self._random)

    def _any(self, value: int) -> tuple[Piece, Tensor]:
        """Any stroke of a class; all painted blocks take turns."""
        found = self._paint.strokes.any_of(self._paint.pieces, value, self._random)
        assert found is not None
        return found

    def _remembered(self, plan: PatchPlan, old: nn.Module, device: torch.device) -> Patch:
        picture = self._memories[integer(len(self._memories), self._random)]
        self._answer(picture, old, device)
        center = [integer(n, self._random) for n in picture.target.shape]
        return varied(cut(picture, center, plan.shape), self._random)

    def _answer(self, piece: Piece, old: nn.Module, device: torch.device) -> None:
        """Make sure that the old answer to a rehearsal picture is known, of planes; of volumes it
        is asked each time."""
        if piece.answer is not None or piece.target.ndim == 3 or not self._settings.memory:
            return
        image = piece.image.expand(self._about.in_channels, *piece.image.shape[1:])
        shape, fit = tuple(piece.target.shape), self._facts.fit
        each = zip(fit.before, fit.size_for(shape), strict=True)
        shown = continued(image, tuple((-before, size - before) for before, size in each))
        found = answer_on(old, shown[None].to(device), self._about)[0]
        inner = (slice(None), *(slice(n) for n in shape))
        piece.answer = found[inner].to("cpu", torch.float16)


def _memory(picture: Tensor) -> Piece:
    """A rehearsal picture: nobody painted in it."""
    nothing = torch.full(picture.shape[1:], 255, dtype=torch.uint8)
    return Piece(index=(), start=(0,) * nothing.ndim, image=picture, target=nothing, held=nothing)
