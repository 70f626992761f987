"""The temperature of a network that is too sure of itself is found again."""

import numpy as np
import pytest

from napari_unet.core.corrections import IGNORE
from napari_unet.core.errors import SettingsError
from napari_unet.core.live.calibration import calibration_error, temperature, tempered


def of_two(foreground):
    """Class probabilities `(class, ...)` of background and object."""
    foreground = np.asarray(foreground, np.float32)
    return np.stack([1 - foreground, foreground])


def drawn(n, heat, n_classes=2, seed=0):
    """Probabilities of a network that is too sure of itself by `heat`, and what is true."""
    generator = np.random.default_rng(seed)
    true = generator.dirichlet(np.ones(n_classes), n).T  # (class, n)
    target = (generator.random(n) > true.cumsum(axis=0)).sum(axis=0).clip(max=n_classes - 1)
    said = true**heat
    return (said / said.sum(axis=0)).astype(np.float32), target.astype(np.uint8)


@pytest.mark.parametrize("n_classes", [2, 4])
@pytest.mark.parametrize("heat", [0.7, 1.0, 2.5])
def test_the_temperature_is_found_again(heat, n_classes):
    probabilities, target = drawn(20_000, heat, n_classes)
    found = temperature(probabilities, target)
    assert found == pytest.approx(heat, rel=0.06)
    before = calibration_error(probabilities, target)
    after = calibration_error(tempered(probabilities, found), target)
    assert after < 0.015
    if heat > 2:
        assert before > 0.1


def test_a_little_evidence_moves_the_temperature_a_little():
    wrong = of_two(np.full(5, 0.99))
    assert 1 < temperature(wrong, np.zeros(5, np.uint8)) < 3
    many = temperature(of_two(np.full(5000, 0.99)), np.zeros(5000, np.uint8))
    assert many > 9
    assert temperature(of_two(np.zeros(0)), np.zeros(0, np.uint8)) == 1.0
    nobody = np.full(50, IGNORE, np.uint8)
    assert temperature(of_two(np.full(50, 0.7)), nobody) == 1.0


def test_pixels_that_nobody_painted_do_not_count():
    probabilities, target = drawn(3000, 2.0)
    padded = np.concatenate([probabilities, of_two(np.full(999, 0.999))], axis=1)
    known = np.concatenate([target, np.full(999, IGNORE, np.uint8)])
    assert temperature(padded, known) == temperature(probabilities, target)
    assert calibration_error(padded, known) == calibration_error(probabilities, target)


def test_a_single_class_has_no_temperature():
    assert temperature(np.ones((1, 5)), np.zeros(5, np.uint8)) == 1.0


def test_calibration_error_by_hand():
    probabilities = of_two([0.95, 0.95, 0.95, 0.95, 0.65, 0.35])
    target = np.array([1, 1, 1, 0, 1, 1], np.uint8)
    # 4 px say 0.95 and 3 of them are right: 0.2 too much; 2 px say 0.65, one is right: 0.15
    expected = (4 * 0.2 + 2 * 0.15) / 6
    assert calibration_error(probabilities, target) == pytest.approx(expected, abs=1e-6)
    assert calibration_error(of_two([1.0, 0.0]), np.array([1, 0])) == pytest.approx(0, abs=2e-4)
    assert np.isnan(calibration_error(of_two([0.5]), np.array([IGNORE])))


def test_a_target_of_another_shape_is_refused():
    with pytest.raises(SettingsError, match="shape"):
        temperature(of_two(np.ones((4, 5))), np.zeros((5, 4), np.uint8))


def test_tempering_keeps_the_order_and_sums_to_one():
    probabilities = np.array([[0.9, 0.2], [0.1, 0.3], [0.0, 0.5]])
    hot = tempered(probabilities, 2.0)
    np.testing.assert_allclose(hot.sum(axis=0), 1, atol=1e-6)
    np.testing.assert_array_equal(hot.argsort(axis=0), probabilities.argsort(axis=0))
    assert hot[0, 0] / hot[1, 0] == pytest.approx(3, rel=1e-5)  # odds of 9
