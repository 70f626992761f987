"""The network in training: strokes go in as they come, step by step it learns from all of them.

Training works on a copy of the network, whose batch statistics stay as they are. Everything
random follows from the seed. One thread, no window: see `living.py` for who calls what when.
"""

from __future__ import annotations

import contextlib
import copy
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from napari_unet.core.device import autocast, choose_device, release_memory
from napari_unet.core.engine.facts import general_facts
from napari_unet.core.errors import TrainingError
from napari_unet.core.live.batches import Batches
from napari_unet.core.live.drawing import Batch
from napari_unet.core.live.inbox import Forget, GoBack, Message, Painted
from napari_unet.core.live.objective import answer_on, loss_of
from napari_unet.core.live.paint import Paint
from napari_unet.core.live.scores import Exam, exam_of
from napari_unet.core.live.settings import LiveSettings
from napari_unet.core.live.standing import Standing
from napari_unet.core.live.states import State, States, Weights, weights_of
from napari_unet.core.losses import output_probabilities
from napari_unet.core.model import Model
from napari_unet.core.patches import seen
from napari_unet.core.running import is_out_of_memory
from napari_unet.core.scoring import memory_format

__all__ = ["Learner", "check_trainable"]

LEAST_RATE = 0.01
"""Share of the learning rate that is left when training comes to rest."""
LONGEST_MEAN = 0.95
"""What is shown is a moving mean of the weights: so much of it stays from step to step at most."""
GROWN_UP = 15
"""After so many steps in all, what is shown no longer jumps to the newest weights ..."""
AT_ONCE = 0.35
"""... at a stroke, but moves so much of the way with each step."""
LEAST_PATCH = 32
MOST_FAILURES = 3


class Learner:
    """Learns from strokes.

    Parameters
    ----------
    model : where to start; it is not changed.
    settings : None for the defaults.

    Attributes
    ----------
    paint : all strokes so far.
    device : where the network is; the processor if the device of the model failed.
    n_steps : training steps so far.
    weights_step : how many of them the newest weights have seen.
    version : changes whenever the weights do.
    message : one sentence on what went wrong and what was done about it; "" if nothing did.

    Raises
    ------
    TrainingError
        If the model is a program that cannot be trained.
    """

    def __init__(self, model: Model, settings: LiveSettings | None = None) -> None:
        check_trainable(model)
        self.settings = settings or LiveSettings()
        self.model, self.device = model, model.device.torch_device
        self.n_steps, self.weights_step, self.version, self.message = 0, 0, 0, ""
        self.paint = Paint(model.description, self.settings.held_out)
        self._about, config = model.description, model.config
        self._facts = general_facts(model.network, config.in_channels, config.dims)
        self._old = model.network
        self._network = copy.deepcopy(model.network)
        on_processor = self.device.type == "cpu"
        self._spare = None if on_processor else copy.deepcopy(model.network).to("cpu")
        self._batches = Batches(model, self._facts, self.settings, self.paint)
        self._since, self._n_failures = self.settings.settle, 0
        self._is_tried = False
        self._standing = Standing(self.device, self._examined)
        self._states = States()
        self._states.keep(weights_of(self._network), step=0, score=None, n=0)
        self._begin()

    def _begin(self) -> None:
        """Make the network ready for training on the device."""
        form = memory_format(self.model.config.dims)
        network = self._network.requires_grad_(True).to(self.device)
        self._network = network.to(memory_format=form)  # type: ignore[call-overload]
        self._network.eval()  # NOTE: batch statistics of a few strokes would ruin those learned
        self._shown = copy.deepcopy(self._network).requires_grad_(False)
        self._before = copy.deepcopy(self._shown)  # what was shown before the newest stroke
        self._optimizer = torch.optim.AdamW(
            self._network.parameters(), lr=self.settings.learning_rate, weight_decay=0.0
        )

    # ---- what is known

    @property
    def network(self) -> nn.Module:
        """What is shown: in evaluation mode, a mean of the weights of the newest steps."""
        return self._shown

    @property
    def old(self) -> nn.Module:
        """The network before, on the device where training is."""
        return self._old

    @property
    def is_settled(self) -> bool:
        """Whether there is nothing (more) to learn until the next stroke."""
        return not self.paint.pieces or self._since >= self.settings.settle

    @property
    def steps_since(self) -> int:
        """Steps since the last stroke."""
        return self._since

    @property
    def states(self) -> tuple[State, ...]:
        """What can be returned to, oldest first; the first is the model before."""
        return self._states.listed()

    # ---- what happens

    def take(self, messages: Sequence[Message]) -> bool:
        """Take in what has happened; whether any strokes came or went."""
        has_changed = False
        for message in messages:
            if isinstance(message, Painted):
                has_changed = True
                try:
                    self.paint.take(message)
                finally:
                    self._changed()
            elif isinstance(message, Forget) and message.strokes:
                has_changed = True
                self.paint.forget(message.key)
                self._changed()
            elif isinstance(message, GoBack):
                self.go_back(message.state)
        return has_changed

    def _changed(self) -> None:
        """Strokes came or went: learn again, and hold to what is shown now elsewhere."""
        self._since = 0
        self._before.load_state_dict(self._shown.state_dict())
        self._standing.changed()
        self._batches.changed()
        self.message = ""

    def prepare(self) -> bool:
        """Do beforehand what would delay the first step; False if there is nothing left to do.

        Each call takes about as long as a step. It changes nothing that is learned.
        """
        if self._is_tried or self.paint.pieces:
            return self._batches.prepare(self._old, self.device)
        self._is_tried = True  # the very first step takes much longer than others
        if self.model.config.dims == 2:
            with contextlib.suppress(RuntimeError, MemoryError):  # the first step will tell
                self._gradients(self._batches.blank())
            self._optimizer.zero_grad(set_to_none=True)
            self._batches.changed()
        return True

    def step(self) -> float | None:
        """Learn from one batch; the loss on its painted pixels, or None if nothing was learned.

        Raises
        ------
        TrainingError
            If the loss is no number again and again, or the device fails in spite of all.
        """
        if self.is_settled:
            return None
        self._optimizer.param_groups[0]["lr"] = self.settings.learning_rate * self._pace()
        try:
            batch = self._batches.draw(self._since, self.n_steps, self._old, self.device)
            loss = self._learn(batch)
        except (RuntimeError, MemoryError) as error:
            self.make_do(error)
            return None
        if not math.isfinite(loss):
            self._recover()
            return None
        self.n_steps += 1
        self.weights_step += 1
        self.version += 1
        self._since += 1
        return loss

    def _pace(self) -> float:
        """Share of the learning rate: full after a stroke, down along a cosine to nearly none.

        The very first step is half as long: Adam moves each weight equally far then, whether it
        matters or not.
        """
        share = min(1.0, self._since / self.settings.settle)
        pace = LEAST_RATE + (1 - LEAST_RATE) * 0.5 * (1 + math.cos(math.pi * share))
        return pace if self.n_steps else pace / 2

    def _learn(self, batch: Batch) -> float:
        loss = self._gradients(batch)
        norm = nn.utils.clip_grad_norm_(self._network.parameters(), 1.0)
        if not (math.isfinite(loss) and math.isfinite(float(norm))):
            return math.nan
        self._optimizer.step()
        self._average()
        return loss

    def _gradients(self, batch: Batch) -> float:
        """The loss on the painted pixels of a batch; what the weights should do is in them."""
        image = batch.image.to(self.device, memory_format=memory_format(batch.image.ndim - 2))
        # NOTE: without it torch 2.13 crashes on a processor if a group norm comes first.
        image.requires_grad_(self.device.type == "cpu")
        target = seen(batch.target.to(self.device), self._facts.fit)
        with autocast(self.device, self.model.config.dims):
            logits = self._network(image)
        answer = self._answers(batch, image.detach(), logits) if self.settings.memory else None
        painted, held = loss_of(
            logits, target, answer, batch.is_memory.to(self.device), self._about,
            self.settings.memory, lightly=len(self.paint.values) > 1,
        )  # fmt: skip
        self._optimizer.zero_grad(set_to_none=True)
        (painted + held).backward()
        return float(painted.item())

    @torch.no_grad()
    def _answers(self, batch: Batch, image: Tensor, logits: Tensor) -> Tensor:
        """What is held to: what was shown of patches before the newest stroke, and the old answer
        to rehearsal pictures.

        In the first step after a stroke both are as good as the same, and nothing is asked: it is
        to show soon.
        """
        n = int((~batch.is_memory).sum())
        if self._since:
            answers = [answer_on(self._before, image[:n], self._about)]
        else:
            answers = [output_probabilities(logits[:n], self._about.outcome)]
        if batch.answer is not None:
            answers.append(seen(batch.answer.to(self.device), self._facts.fit).float())
        elif n < len(image):
            answers.append(answer_on(self._old, image[n:], self._about))
        return torch.cat(answers)

    @torch.no_grad()
    def _average(self) -> None:
        """Mean over about the last third of the steps since the last stroke.

        Single steps swing to and fro; their mean does not (Polyak and Juditsky 1992). Right after
        a stroke it is short, so that the stroke shows at once: nothing but the newest weights
        at the very first strokes, some steps later on, when there is more to lose.
        """
        share = 1 - min(LONGEST_MEAN, self._since / (self._since + 3))
        share = min(share, max(AT_ONCE, 1 - self.n_steps / GROWN_UP))
        for mean, newest in zip(self._shown.parameters(), self._network.parameters(), strict=True):
            mean.lerp_(newest, share)

    # ---- scores and states

    def score(self, network: nn.Module | None = None) -> float | None:
        """Mean IoU on held-out corrections, 0 to 1; None if there are not yet two classes of them.

        Without a `network` it is that of the newest weights, and the best state is kept.
        """
        if not self.paint.pieces:
            return None
        if network is not None:
            return self._standing.exam(self._shown).score(network, self.device)
        return self._standing.measure(self._shown, self.weights_step)

    def temperature(self) -> float:
        """How much too sure of itself the network is, measured on held-out corrections; 1 if
        there is no telling."""
        if not self.paint.pieces:
            return 1.0
        return self._standing.exam(self._shown).temperature(self._shown, self.device)

    def _examined(self) -> Exam:
        shape = self._batches.plan.shape
        return exam_of(self.paint.all(), shape, self._facts.fit, self._about)

    def keep(self) -> State:
        """Keep the weights as they are now as a state."""
        return self._states.keep(
            weights_of(self._shown),
            step=self.weights_step,
            score=self._standing.score,
            n=self.paint.n_trained,
        )  # fmt: skip

    def prefer_best(self) -> None:
        """Back to the best state, if it is clearly better on held-out corrections."""
        self.score()
        best = self._standing.preferred()
        if best is not None:
            self._load(best.weights, best.step)
            self._standing.score = best.score

    def rest(self) -> float | None:
        """Training has settled: back to the best state if it is clearly better, and list it."""
        if not self.paint.pieces:
            return None
        self.prefer_best()
        return self.keep().score

    def go_back(self, number: int) -> None:
        """Return to the weights of a state; training rests until the next stroke.

        Raises
        ------
        TrainingError
            If there is no such state.
        """
        weights = self._states.weights(number)
        if weights is None:
            raise TrainingError(
                f"State {number} is not kept (any more). "
                f"Choose one of {', '.join(str(s.number) for s in self.states)}."
            )
        self._load(weights, next(s.step for s in self.states if s.number == number))
        self._standing.chosen()
        self._since = self.settings.settle

    def _load(self, weights: Weights, step: int) -> None:
        for network in (self._network, self._shown):
            network.load_state_dict(weights)
        self.weights_step = step
        self._optimizer.state.clear()
        self.version += 1

    # ---- when something goes wrong

    def _recover(self) -> None:
        """The loss is no number any more: back to what is known to be good."""
        self._n_failures += 1
        if self._n_failures > MOST_FAILURES:
            raise TrainingError(
                "Training went astray again and again: the loss was no number any more. The model "
                "is unchanged. Try a smaller learning rate, and look for wrong strokes."
            )
        self._load(*self._good())
        self.message = (
            "The loss was no number any more, so training went back to the best state so far."
        )

    def _good(self) -> tuple[Weights, int]:
        """The best weights that are safe in the memory of the computer, and their step."""
        best = self._standing.since or self._standing.ever
        if best is not None:
            return best.weights, best.step
        weights = self._states.weights(self.states[-1].number)
        assert weights is not None
        return weights, self.states[-1].step

    def make_do(self, error: RuntimeError | MemoryError) -> None:
        """The device failed: smaller patches if memory ran out, else (or then) the processor.

        Raises
        ------
        RuntimeError, MemoryError
            If there is nothing left to try.
        """
        least = min(LEAST_PATCH, self.settings.patch_size)
        if is_out_of_memory(error) and self._batches.patch_size > least:
            self._batches.patch_size = max(least, self._batches.patch_size // 2)
            self._optimizer.zero_grad(set_to_none=True)
            release_memory(self.device)
            self.message = (
                f"The memory of the device did not suffice, so training goes on with patches of "
                f"{self._batches.patch_size} px."
            )
        elif self.device.type != "cpu":
            self._move_to_processor(error)
        else:
            raise error
        self._standing.changed(has_new_strokes=False)
        self._batches.changed()

    def _move_to_processor(self, error: Exception) -> None:
        """Go on without the device, from weights that it cannot have spoilt."""
        self.device = self._standing.device = choose_device("cpu").torch_device
        self._batches.patch_size = self.settings.patch_size
        weights, self.weights_step = self._good()
        first = self._states.weights(0)
        assert first is not None
        # NOTE: of a lost device nothing can be read any more; the spare has always been here.
        assert self._spare is not None
        self._network, self._old = copy.deepcopy(self._spare), self._spare
        self._network.load_state_dict(weights)
        self._old.load_state_dict(first)
        self._begin()
        self.version += 1
        reason = str(error).strip().partition("\n")[0]
        self.message = (
            f"The device failed ({reason}), so training goes on with the processor, from the best "
            f"state so far."
        )


def check_trainable(model: Model) -> None:
    """Raise `TrainingError` if what a model learns could not be kept."""
    from napari_unet.core.checkpoints.native import PROGRAM

    if model.architecture == PROGRAM:
        raise TrainingError(
            f"{model.description.name} is a program that only its own file can run: what it "
            f"learns could not be kept. Ask for the weights alone (a state dict), and open those."
        )
