"""The losses against numpy, by hand, and what an untouched pixel must not do."""

import numpy as np
import pytest
import torch

from napari_unet.core.augmentation import IGNORE
from napari_unet.core.losses import (
    class_log_probabilities,
    hold_loss,
    masked_cross_entropy,
    masked_dice,
)


def logits_of(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(*shape, generator=generator) * 3).requires_grad_()


def target_of(shape, n_classes, ignored=0.3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    target = torch.randint(0, n_classes, shape, generator=generator, dtype=torch.uint8)
    target[torch.rand(shape, generator=generator) < ignored] = IGNORE
    return target


def softmax(logits):
    """Of a numpy array, over axis 1, in double precision."""
    raised = np.exp(logits.astype(float) - logits.max(axis=1, keepdims=True))
    return raised / raised.sum(axis=1, keepdims=True)


SHAPES = [(2, 5, 6), (1, 3, 4, 5)]  # (b, y, x), (b, z, y, x)


# Outputs to classes


@pytest.mark.parametrize("output_class", [(0, 1), (0, 1, 1), (0, 2, 1, 1), (1, 0), (0, 1, 2)])
def test_classes_are_sums_of_softmax(output_class):
    logits = logits_of(2, len(output_class), 4, 5)
    found = class_log_probabilities(logits, output_class).exp().detach().numpy()
    outputs = softmax(logits.detach().numpy())
    for which in range(max(output_class) + 1):
        counted = [i for i, c in enumerate(output_class) if c == which]
        np.testing.assert_allclose(found[:, which], outputs[:, counted].sum(axis=1), rtol=1e-5)
    np.testing.assert_allclose(found.sum(axis=1), 1, rtol=1e-5)


def test_a_single_output_is_a_sigmoid():
    logits = logits_of(2, 1, 4, 5)
    found = class_log_probabilities(logits, (1,)).exp()
    expected = 1 / (1 + np.exp(-logits.detach().numpy()[:, 0].astype(float)))
    assert found.shape == (2, 2, 4, 5)
    np.testing.assert_allclose(found[:, 1].detach().numpy(), expected, rtol=1e-5)
    np.testing.assert_allclose(found[:, 0].detach().numpy(), 1 - expected, atol=1e-6)


def test_half_precision_is_computed_in_single():
    logits = torch.tensor([30.0, -30.0, 0.0]).view(1, 3, 1, 1).bfloat16()
    found = class_log_probabilities(logits, (0, 1, 1))
    assert found.dtype == torch.float32
    assert found[0, 1, 0, 0].item() == pytest.approx(-30, abs=1e-3)


def test_huge_logits_stay_finite():
    logits = torch.tensor([1e4, -1e4, 0.0]).view(1, 3, 1, 1).requires_grad_()
    loss = masked_cross_entropy(
        class_log_probabilities(logits, (0, 1, 1)), torch.ones(1, 1, 1, dtype=torch.uint8)
    )
    loss.backward()
    assert loss.item() == pytest.approx(1e4, rel=1e-3)
    assert logits.grad.isfinite().all()


# Cross-entropy


def test_cross_entropy_by_hand():
    probabilities = torch.tensor([[0.25, 0.75], [0.5, 0.5], [0.9, 0.1]]).T[None]  # (1, 2, 3)
    target = torch.tensor([[1, 0, IGNORE]], dtype=torch.uint8)
    loss = masked_cross_entropy(probabilities.log(), target)
    assert loss.item() == pytest.approx(-(np.log(0.75) + np.log(0.5)) / 2)
    weights = torch.tensor([[1.0, 3.0, 100.0]])
    loss = masked_cross_entropy(probabilities.log(), target, weights)
    assert loss.item() == pytest.approx(-(np.log(0.75) + 3 * np.log(0.5)) / 4)


@pytest.mark.parametrize("shape", SHAPES)
def test_cross_entropy_is_numpys(shape):
    logits = logits_of(shape[0], 3, *shape[1:])
    target = target_of(shape, 3)
    outputs = softmax(logits.detach().numpy())
    total, n = 0.0, 0
    for place in np.ndindex(shape):
        if target[place] != IGNORE:
            total -= np.log(outputs[(place[0], int(target[place]), *place[1:])])
            n += 1
    loss = masked_cross_entropy(class_log_probabilities(logits, (0, 1, 2)), target)
    assert loss.item() == pytest.approx(total / n, rel=1e-5)


# Dice


def numpy_dice(outputs, target, smooth=1.0):
    terms = []
    for which in range(outputs.shape[1]):
        truth = target == which
        if truth.any():
            said = outputs[:, which][target != IGNORE].sum()
            both = outputs[:, which][truth].sum()
            terms.append(1 - (2 * both + smooth) / (said + truth.sum() + smooth))
    return float(np.mean(terms)) if terms else 0.0


def test_dice_by_hand():
    probabilities = torch.tensor([[0.2, 0.8], [0.6, 0.4], [0.5, 0.5]]).T[None]  # (1, 2, 3)
    target = torch.tensor([[1, 0, IGNORE]], dtype=torch.uint8)
    background = 1 - (2 * 0.6 + 1) / (0.8 + 1 + 1)
    foreground = 1 - (2 * 0.8 + 1) / (1.2 + 1 + 1)
    loss = masked_dice(probabilities.log(), target)
    assert loss.item() == pytest.approx((background + foreground) / 2)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("n_present", [1, 2, 3])
def test_dice_is_numpys_and_absent_classes_do_not_count(shape, n_present):
    logits = logits_of(shape[0], 3, *shape[1:])
    target = target_of(shape, n_present)
    loss = masked_dice(class_log_probabilities(logits, (0, 1, 2)), target)
    expected = numpy_dice(softmax(logits.detach().numpy()), target.numpy())
    assert loss.item() == pytest.approx(expected, rel=1e-5)


def test_perfect_answers_cost_nothing():
    target = target_of((2, 8, 8), 2)
    logits = torch.where(target[:, None] == torch.arange(2).view(1, 2, 1, 1), 50.0, -50.0)
    answers = class_log_probabilities(logits, (0, 1))
    assert masked_dice(answers, target).item() == pytest.approx(0, abs=1e-6)
    assert masked_cross_entropy(answers, target).item() == pytest.approx(0, abs=1e-6)


# The untouched pixel


@pytest.mark.parametrize("loss_of", [masked_cross_entropy, masked_dice])
@pytest.mark.parametrize("output_class", [(0, 1, 1), (0, 1, 2), (1,)])
@pytest.mark.parametrize("shape", SHAPES)
def test_untouched_pixels_have_no_gradient_at_all(loss_of, output_class, shape):
    logits = logits_of(shape[0], len(output_class), *shape[1:])
    target = target_of(shape, 2)
    loss_of(class_log_probabilities(logits, output_class), target).backward()
    strength = logits.grad.abs().sum(dim=1)
    assert (strength[target == IGNORE] == 0).all()
    assert (strength[target != IGNORE] > 0).all()


@pytest.mark.parametrize("loss_of", [masked_cross_entropy, masked_dice])
def test_untouched_pixels_cannot_change_the_loss(loss_of):
    target = target_of((1, 6, 6), 2)
    logits = logits_of(1, 2, 6, 6).detach()
    other = torch.where((target == IGNORE)[:, None], 40 - logits, logits)
    one, two = (loss_of(class_log_probabilities(x, (0, 1)), target) for x in (logits, other))
    assert one.item() == two.item()


@pytest.mark.parametrize("loss_of", [masked_cross_entropy, masked_dice])
def test_a_batch_without_targets_costs_nothing(loss_of):
    logits = logits_of(2, 3, 4, 4)
    target = torch.full((2, 4, 4), IGNORE, dtype=torch.uint8)
    loss = loss_of(class_log_probabilities(logits, (0, 1, 1)), target)
    loss.backward()
    assert loss.item() == 0
    assert torch.equal(logits.grad, torch.zeros_like(logits))


@pytest.mark.parametrize("loss_of", [masked_cross_entropy, masked_dice])
def test_gradients_are_right(loss_of):
    """Against finite differences, in double precision."""
    target = target_of((1, 3, 3), 2)
    answers = torch.log_softmax(logits_of(1, 2, 3, 3).double(), dim=1).detach().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: loss_of(x, target), answers)


# Holding on to the old answer


@pytest.mark.parametrize("n_outputs", [1, 2, 3])
def test_holding_costs_nothing_while_nothing_changes(n_outputs):
    logits = logits_of(2, n_outputs, 5, 5).detach().sign() * 40
    logits[:, 0] = 60 * logits[:, 0].sign()
    old = torch.sigmoid(logits) if n_outputs == 1 else torch.softmax(logits, dim=1)
    everywhere = torch.ones(2, 5, 5, dtype=torch.bool)
    sure = old.amax(dim=1).clamp(max=1) if n_outputs > 1 else torch.ones(2, 5, 5)
    everywhere &= sure > 0.999
    assert everywhere.any()
    assert hold_loss(logits, old, everywhere).item() == pytest.approx(0, abs=1e-6)


def test_holding_by_hand():
    old = torch.tensor([0.9, 0.1]).view(1, 2, 1, 1)
    new = torch.tensor([0.3, 0.7]).log().view(1, 2, 1, 1)
    where = torch.ones(1, 1, 1, dtype=torch.bool)
    expected = 0.9 - (0.9 * 0.3 + 0.1 * 0.7)
    assert hold_loss(new, old, where).item() == pytest.approx(expected, rel=1e-5)
    logit = torch.tensor(np.log(0.7 / 0.3), dtype=torch.float32).view(1, 1, 1, 1)
    assert hold_loss(logit, old[:, 1:], where).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("n_outputs", [1, 3])
def test_holding_is_bounded(n_outputs):
    old = logits_of(2, n_outputs, 5, 5, seed=1).detach() * 20
    old = torch.sigmoid(old) if n_outputs == 1 else torch.softmax(old, dim=1)
    where = torch.ones(2, 5, 5, dtype=torch.bool)
    for seed in range(10):
        loss = hold_loss(logits_of(2, n_outputs, 5, 5, seed=seed) * 30, old, where).item()
        assert 0 <= loss <= 1


def test_the_pull_back_fades_once_the_answer_has_turned_round():
    old = torch.tensor([1.0, 0.0]).view(1, 2, 1, 1)
    where = torch.ones(1, 1, 1, dtype=torch.bool)
    pulls = []
    for margin in (0.0, 4.0, 8.0):  # how sure the network has become of the opposite
        logits = torch.tensor([-margin, margin]).view(1, 2, 1, 1).requires_grad_()
        hold_loss(logits, old, where).backward()
        assert logits.grad[0, 0].item() < 0  # towards the old answer
        pulls.append(logits.grad.abs().max().item())
    assert pulls[0] > 100 * pulls[1] > 10_000 * pulls[2] > 0


def test_only_the_pixels_to_hold_count():
    old = torch.softmax(logits_of(1, 2, 4, 4, seed=2).detach(), dim=1)
    where = torch.zeros(1, 4, 4, dtype=torch.bool)
    where[0, 1, 1:3] = True
    logits = (10 * (0.5 - old)).requires_grad_()  # the opposite of the old answer
    hold_loss(logits, old, where).backward()
    strength = logits.grad.abs().sum(dim=1)
    assert (strength[~where] == 0).all()
    assert (strength[where] > 0).all()
    nowhere = hold_loss(logits, old, torch.zeros_like(where))
    assert nowhere.item() == 0
