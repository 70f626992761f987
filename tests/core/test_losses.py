"""The losses against numpy, by hand, and what an untouched pixel must not do."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from napari_unet.core.augmentation import IGNORE
from napari_unet.core.errors import SettingsError
from napari_unet.core.losses import (
    balanced_weights,
    class_log_probabilities,
    hold_loss,
    masked_cross_entropy,
    masked_dice,
    regression_loss,
    training_loss,
)
from napari_unet.core.training.settings import LOSSES


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


# The losses for training from masks

IDENTITY = {"softmax": lambda k: tuple(range(k)), "sigmoid": lambda k: tuple(range(1, k + 1))}


def answers_of(logits, outcome):
    return class_log_probabilities(logits, IDENTITY[outcome](logits.shape[1]), outcome)


def loss_of(kind, logits, target, outcome="softmax", **wishes):
    return training_loss(kind, answers_of(logits, outcome), target, outcome=outcome, **wishes)


def chances_of(logits, place, outcome):
    """Of each output at a pixel, float64, and which value of the target each stands for."""
    z = logits[(place[0], slice(None), *place[1:])].astype(float)
    if outcome == "softmax":
        raised = np.exp(z - z.max())
        return raised / raised.sum(), list(range(len(z)))
    return 1 / (1 + np.exp(-z)), list(range(1, len(z) + 1))


def by_pixel(kind, logits, target, outcome, weights, class_weights, gamma, alpha, beta):
    """The losses as the papers write them, pixel by pixel in float64."""
    n_values = logits.shape[1] + (outcome == "sigmoid")
    of_class = np.ones(n_values) if class_weights is None else np.asarray(class_weights, float)
    total = weighed = 0.0
    hits, wrong, missed, real = (np.zeros(n_values) for _ in range(4))
    for place in np.ndindex(target.shape):
        true = int(target[place])
        if true == IGNORE:
            continue
        weight = 1.0 if weights is None else float(weights[place])
        chances, values = chances_of(logits, place, outcome)
        weighed += weight * of_class[true]
        for p, value in zip(chances, values, strict=True):
            is_it = value == true
            right = p if is_it else 1 - p
            if is_it or outcome == "sigmoid":
                power = gamma if kind == "focal" else 0
                total -= weight * of_class[true] * (1 - right) ** power * np.log(right)
            hits[value] += weight * p * is_it
            wrong[value] += weight * p * (not is_it)
            missed[value] += weight * (1 - p) * is_it
            real[value] += weight * is_it
    if kind in ("cross-entropy", "focal"):
        return total / weighed
    a, b = (alpha, beta) if kind == "tversky" else (0.5, 0.5)
    overlaps = (hits + 0.5) / (hits + a * wrong + b * missed + 0.5)
    counts = of_class * (real > 0) if outcome == "softmax" else of_class * (np.arange(n_values) > 0)
    overlap = ((1 - overlaps) * counts).sum() / counts.sum()
    return overlap + (total / weighed if "entropy" in kind else 0)


@pytest.mark.parametrize("kind", LOSSES)
@pytest.mark.parametrize(
    ("outcome", "n_outputs"), [("softmax", 2), ("softmax", 3), ("sigmoid", 1), ("sigmoid", 3)]
)
@pytest.mark.parametrize("is_weighted", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_losses_are_those_of_the_papers(kind, outcome, n_outputs, is_weighted, shape):
    n_values = n_outputs + (outcome == "sigmoid")
    logits, target = logits_of(shape[0], n_outputs, *shape[1:]), target_of(shape, n_values)
    weights = torch.rand(shape, generator=torch.Generator().manual_seed(5)) * 10
    wishes = {"weights": None, "class_weights": None, "gamma": 1.5, "alpha": 0.2, "beta": 0.9}
    if is_weighted:
        wishes |= {"weights": weights, "class_weights": [0.5, 2.0, 1.0, 0.25][:n_values]}
    found = loss_of(kind, logits, target, outcome, **wishes)
    expected = by_pixel(kind, logits.detach().numpy(), target, outcome, **wishes)
    assert found.item() == pytest.approx(expected, rel=2e-5)


@pytest.mark.parametrize("class_weights", [None, [0.3, 1.0, 2.5]])
def test_cross_entropy_is_torchs(class_weights):
    logits, target = logits_of(2, 3, 9, 8), target_of((2, 9, 8), 3)
    given = None if class_weights is None else torch.tensor(class_weights)
    expected = F.cross_entropy(logits, target.long(), given, ignore_index=IGNORE)
    found = loss_of("cross-entropy", logits, target, class_weights=class_weights)
    ours, theirs = (torch.autograd.grad(x, logits)[0] for x in (found, expected))
    assert found.item() == pytest.approx(expected.item(), rel=1e-6)
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("n_outputs", [1, 3])
def test_binary_cross_entropy_is_torchs(n_outputs):
    logits, target = logits_of(2, n_outputs, 9, 8), target_of((2, 9, 8), n_outputs + 1)
    weights = torch.rand(2, 9, 8, generator=torch.Generator().manual_seed(1))
    truth = torch.stack([(target == i + 1).float() for i in range(n_outputs)], dim=1)
    counted = (weights * (target != IGNORE))[:, None]
    total = F.binary_cross_entropy_with_logits(logits, truth, counted, reduction="sum")
    expected = total / counted.sum()
    found = loss_of("cross-entropy", logits, target, "sigmoid", weights=weights)
    ours, theirs = (torch.autograd.grad(x, logits)[0] for x in (found, expected))
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-7)


def monais(kind, n_outputs, outcome):
    """The same loss of MONAI."""
    losses = pytest.importorskip("monai.losses")
    is_softmax = outcome == "softmax"
    soft = {"softmax": is_softmax, "sigmoid": not is_softmax, "batch": True}
    if kind == "dice":
        return losses.DiceLoss(**soft, smooth_nr=1, smooth_dr=1)
    if kind == "tversky":
        return losses.TverskyLoss(**soft, smooth_nr=0.5, smooth_dr=0.5, alpha=0.2, beta=0.9)
    return losses.FocalLoss(gamma=1.5, use_softmax=is_softmax)


@pytest.mark.parametrize("kind", ["dice", "tversky", "focal"])
@pytest.mark.parametrize(("outcome", "n_outputs"), [("softmax", 3), ("sigmoid", 1), ("sigmoid", 3)])
def test_overlaps_and_focal_are_monais(kind, outcome, n_outputs):
    is_softmax = outcome == "softmax"
    logits = logits_of(2, n_outputs, 9, 8)
    target = target_of((2, 9, 8), n_outputs + (not is_softmax), ignored=0)
    truth = torch.stack([(target == i + (not is_softmax)) for i in range(n_outputs)], dim=1)
    expected = monais(kind, n_outputs, outcome)(logits, truth.float())
    if kind == "focal":  # theirs is a mean over outputs as well
        expected = expected * n_outputs
    found = loss_of(kind, logits, target, outcome, gamma=1.5, alpha=0.2, beta=0.9)
    ours, theirs = (torch.autograd.grad(x, logits)[0] for x in (found, expected))
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)
    torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-7)


def test_losses_that_are_one_another():
    logits, target = logits_of(2, 3, 9, 8), target_of((2, 9, 8), 3)
    entropy = loss_of("cross-entropy", logits, target).item()
    dice = loss_of("dice", logits, target).item()
    assert loss_of("focal", logits, target, gamma=0).item() == pytest.approx(entropy)
    assert loss_of("tversky", logits, target, alpha=0.5, beta=0.5).item() == dice
    assert loss_of("dice+cross-entropy", logits, target).item() == pytest.approx(entropy + dice)
    answers = answers_of(logits, "softmax")
    assert masked_dice(answers, target).item() == dice
    assert masked_cross_entropy(answers, target).item() == entropy


def test_tversky_by_hand():
    """One px of each: hit, wrongly found, missed. Alpha is for what is wrongly found."""
    logits = torch.tensor([80.0, 80.0, -80.0]).view(1, 1, 3)
    target = torch.tensor([[1, 0, 1]], dtype=torch.uint8)
    found = loss_of("tversky", logits, target, "sigmoid", alpha=0.2, beta=0.9)
    assert found.item() == pytest.approx(1 - 1.5 / (1 + 0.2 + 0.9 + 0.5))


def test_focal_by_hand():
    """The paper's example: a pixel at 0.9 counts 100 times less than in cross-entropy."""
    answers = torch.tensor([0.1, 0.9]).log().view(1, 2, 1)
    target = torch.ones(1, 1, dtype=torch.uint8)
    found = training_loss("focal", answers, target, gamma=2)
    assert found.item() == pytest.approx(-np.log(0.9) / 100, rel=1e-4)


def test_several_outputs_by_themselves_are_each_compared_with_their_own_truth():
    """All three are likely where one is true: two are wrong, which the joint likelihood hides."""
    logits = torch.full((1, 3, 2, 2), 80.0)
    target = torch.ones(1, 2, 2, dtype=torch.uint8)
    found = loss_of("dice", logits, target, "sigmoid").item()
    wrong = 1 - 1 / (4 + 1)
    assert found == pytest.approx((0 + wrong + wrong) / 3)


def test_an_output_that_is_nowhere_true_still_learns_to_be_silent():
    logits = torch.zeros(1, 1, 4, 4, requires_grad=True)
    loss_of("dice", logits, torch.zeros(1, 4, 4, dtype=torch.uint8), "sigmoid").backward()
    assert (logits.grad > 0).all()


@pytest.mark.parametrize("kind", LOSSES)
@pytest.mark.parametrize(("outcome", "n_outputs"), [("softmax", 3), ("sigmoid", 1), ("sigmoid", 2)])
class TestUnknownPixels:
    @pytest.mark.parametrize("poison", [3e4, -1e30, [1e30, -1e30, 0.0]])
    def test_poison_does_nothing(self, kind, outcome, n_outputs, poison):
        logits = logits_of(2, n_outputs, 6, 7).detach()
        target = target_of((2, 6, 7), n_outputs + (outcome == "sigmoid"))
        weights = torch.rand(2, 6, 7, generator=torch.Generator().manual_seed(5))
        unknown = (target == IGNORE)[:, None]
        values = poison[:n_outputs] if isinstance(poison, list) else [poison] * n_outputs
        bad = torch.where(unknown, torch.tensor(values).view(1, -1, 1, 1), logits)
        found = []
        for one in (logits, bad):
            one.requires_grad_()
            given = weights if one is logits else torch.where(unknown[:, 0], torch.inf, weights)
            loss = loss_of(kind, one, target, outcome, weights=given)
            loss.backward()
            found.append((loss.item(), one.grad))
        assert found[0][0] == found[1][0]
        assert torch.equal(found[0][1], found[1][1])
        assert (found[1][1][unknown.expand_as(bad)] == 0).all()
        assert (found[1][1].abs().sum(dim=1)[target != IGNORE] > 0).all()

    @pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
    def test_answers_that_are_no_numbers_do_nothing(self, kind, outcome, n_outputs, bad):
        logits = logits_of(1, n_outputs, 6, 7)
        target = target_of((1, 6, 7), n_outputs + (outcome == "sigmoid"))
        unknown = (target == IGNORE)[:, None]
        answers = torch.where(unknown, bad, answers_of(logits, outcome)).detach().requires_grad_()
        loss = training_loss(kind, answers, target, outcome=outcome)
        loss.backward()
        assert loss.item() == loss_of(kind, logits, target, outcome).item()
        assert (answers.grad[unknown.expand_as(answers)] == 0).all()
        assert answers.grad.isfinite().all()

    def test_nothing_known_costs_nothing(self, kind, outcome, n_outputs):
        logits = logits_of(2, n_outputs, 4, 4)
        target = torch.full((2, 4, 4), IGNORE, dtype=torch.uint8)
        classes = torch.ones(n_outputs + (outcome == "sigmoid"))
        loss = loss_of(kind, logits, target, outcome, class_weights=classes)
        loss.backward()
        assert loss.item() == 0
        assert torch.equal(logits.grad, torch.zeros_like(logits))


@pytest.mark.parametrize("kind", LOSSES)
@pytest.mark.parametrize(("outcome", "n_outputs"), [("softmax", 2), ("sigmoid", 1), ("sigmoid", 3)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_sure_logits_are_safe(kind, outcome, n_outputs, dtype, gamma):
    n_values = n_outputs + (outcome == "sigmoid")
    target = target_of((2, 8, 8), n_values)
    logits = (logits_of(2, n_outputs, 8, 8).detach().sign() * 100).to(dtype).requires_grad_()
    loss = loss_of(kind, logits, target, outcome, gamma=gamma)
    loss.backward()
    assert loss.dtype == torch.float32
    assert loss.isfinite()
    assert loss.item() > 0.1
    assert logits.grad.isfinite().all()
    right = torch.stack([target == value for value in range(n_values)], dim=1)
    right = right[:, 1:] if outcome == "sigmoid" else right
    good = torch.where(right, 100.0, -100.0).to(dtype).requires_grad_()
    loss = loss_of(kind, good, target, outcome, gamma=gamma)
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-5)
    assert good.grad.abs().max().item() < 1e-5


@pytest.mark.parametrize("kind", LOSSES)
@pytest.mark.parametrize("outcome", ["softmax", "sigmoid"])
def test_gradients_of_training_losses_are_right(kind, outcome):
    """Against finite differences, in double precision."""
    target = target_of((1, 3, 3), 3)
    answers = torch.log_softmax(logits_of(1, 3, 3, 3).double(), dim=1).detach().requires_grad_()
    weights = torch.rand(1, 3, 3, generator=torch.Generator().manual_seed(3)).double()
    assert torch.autograd.gradcheck(
        lambda x: training_loss(
            kind, x, target, weights=weights, class_weights=[1.0, 2.0, 0.5], outcome=outcome
        ),
        answers,
    )


@pytest.mark.parametrize("kind", LOSSES)
def test_a_pixel_without_weight_does_not_count(kind):
    logits, target = logits_of(1, 2, 6, 6), target_of((1, 6, 6), 2)
    weights = torch.ones(1, 6, 6)
    weights[:, :3] = 0
    found = loss_of(kind, logits, target, weights=weights)
    rest = torch.where(weights > 0, target, IGNORE).to(torch.uint8)
    assert found.item() == pytest.approx(loss_of(kind, logits, rest).item(), rel=1e-6)


def test_losses_that_do_not_exist():
    with pytest.raises(SettingsError, match=r"hinge.*dice\+cross-entropy"):
        loss_of("hinge", logits_of(1, 2, 3, 3), target_of((1, 3, 3), 2))


# Weights of classes


def test_balanced_weights_by_hand():
    found = balanced_weights([900, 100])
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, torch.tensor([0.2, 1.8]))
    torch.testing.assert_close(balanced_weights([30, 0, 10]), torch.tensor([0.5, 0.0, 1.5]))
    torch.testing.assert_close(balanced_weights(torch.tensor([7, 7])), torch.ones(2))
    assert balanced_weights([0, 0]).tolist() == [0, 0]


def test_balanced_classes_count_alike():
    counts = [123_456, 789, 12]
    counted = balanced_weights(counts) * torch.tensor(counts)
    torch.testing.assert_close(counted, counted[:1].expand(3))


# Image to image


def test_absolute_differences_are_torchs():
    predicted = logits_of(2, 3, 5, 6)
    target = logits_of(2, 3, 5, 6, seed=1).detach()
    expected = F.l1_loss(predicted, target)
    assert regression_loss(predicted, target).item() == pytest.approx(expected.item(), rel=1e-6)
    weights = torch.zeros(2, 5, 6)
    weights[:, 2] = 4
    expected = F.l1_loss(predicted[:, :, 2], target[:, :, 2])
    found = regression_loss(predicted, target, weights)
    assert found.item() == pytest.approx(expected.item(), rel=1e-6)


def test_where_nothing_is_known_of_the_image_nothing_counts():
    predicted, target = logits_of(1, 1, 4, 4), torch.zeros(1, 1, 4, 4)
    target[..., :2] = torch.nan
    loss = regression_loss(predicted, target)
    loss.backward()
    assert loss.item() == pytest.approx(predicted[..., 2:].abs().mean().item())
    assert (predicted.grad[..., :2] == 0).all()
    assert (predicted.grad[..., 2:] != 0).all()
