"""What can be chosen, what is refused, and what counts where nothing was chosen."""

import math
import subprocess
import sys
from dataclasses import fields

import pytest

from napari_unet.core.errors import SettingsError
from napari_unet.core.settings import AugmentationSettings
from napari_unet.core.training.settings import DEFAULTS, TrainSettings

WRONG = {
    "network": ["", None, 3],
    "width": [0, 2.5, "wide", True],
    "dims": [4, None, 2.5],
    "what": ["cells", None],
    "split": ["waist", None],
    "outputs": ["tanh"],
    "steps": [0, -1, 1.5, None, True],
    "minutes": [0, -1, math.inf, math.nan],
    "patience": [-1, None],
    "measure_every": [-1, 0.5],
    "loss": ["l2"],
    "gamma": [-1, "a", None],
    "alpha": [-1, math.nan],
    "beta": [-0.1, math.inf],
    "class_weights": ["rare", None],
    "separation": [-1, math.inf],
    "separation_sigma": [0, -5, None],
    "optimizer": ["rmsprop"],
    "learning_rate": [0, -1e-3, math.nan, 11],
    "momentum": [1, -0.1],
    "weight_decay": [-1, math.inf],
    "schedule": ["step"],
    "clip": [-1, math.nan],
    "patch_size": [8, 64.5],
    "batch_size": [0, True],
    "average": [1, -0.5],
    "normalization": ["median", 1],
    "network_dropout": [1.0, -0.1],
    "precision": ["half", None],
    "augmentation": [None, {}],
    "held_out": [1, -0.1],
    "n_folds": [1, -2],
    "fold": [-1, 0.5],
    "seed": [-1, 2**63, 0.5],
}


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name, values in WRONG.items() for value in values]
)
def test_a_value_that_makes_no_sense_is_refused_by_name(name, value):
    with pytest.raises(SettingsError, match=rf"\b{name}\b.*\.$"):
        TrainSettings(**{name: value})


def test_every_setting_is_checked():
    assert set(WRONG) == {field.name for field in fields(TrainSettings)}


def test_folds_are_counted_from_zero():
    assert TrainSettings(n_folds=3, fold=2).fold == 2
    with pytest.raises(SettingsError, match="fold below it"):
        TrainSettings(n_folds=3, fold=3)


def test_tversky_needs_one_of_its_weights():
    with pytest.raises(SettingsError, match="alpha and beta"):
        TrainSettings(alpha=0, beta=0)


def test_what_was_chosen_counts_before_the_recipe_and_the_recipe_before_the_default():
    recipe = {"batch_size": 1, "patch_size": 388, "loss": "cross-entropy"}
    found = TrainSettings(patch_size=64).completed(recipe)
    assert (found.patch_size, found.batch_size, found.loss) == (64, 1, "cross-entropy")
    assert found.schedule == DEFAULTS["schedule"]
    left_open = [f.name for f in fields(found) if getattr(found, f.name) is None]
    assert left_open == ["width", "minutes", "network_dropout"]
    assert found.completed({}) == found


def test_zero_is_a_choice():
    assert TrainSettings(clip=0, average=0).completed({"clip": 3.0, "average": 0.5}).clip == 0


def test_each_optimizer_has_its_own_learning_rate():
    rates = {
        name: TrainSettings(optimizer=name).completed({}).learning_rate
        for name in ("adamw", "adam", "sgd")
    }
    assert rates["sgd"] > rates["adam"] == rates["adamw"]
    assert TrainSettings(optimizer="adam").completed({}).weight_decay == 0


def test_a_recipe_says_nothing_of_another_optimizer_than_its_own():
    recipe = {"optimizer": "sgd", "learning_rate": 0.5, "momentum": 0.99, "batch_size": 1}
    own = TrainSettings().completed(recipe)
    assert (own.optimizer, own.learning_rate, own.momentum) == ("sgd", 0.5, 0.99)
    other = TrainSettings(optimizer="adam").completed(recipe)
    assert (other.learning_rate, other.momentum, other.batch_size) == (1e-3, 0.9, 1)


def test_augmentation_is_kept():
    still = AugmentationSettings(elastic_sigma=0)
    assert TrainSettings(augmentation=still).completed({}).augmentation is still


def test_forms_need_no_torch():
    code = (
        "import sys; from napari_unet.core.training import TrainSettings; TrainSettings()\n"
        "assert not {'torch', 'numpy', 'qtpy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
