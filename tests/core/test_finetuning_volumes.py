"""Networks of volumes learn from strokes on a few slices of a stack, as 2D ones do on images."""

import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import scipy.ndimage as ndi
import torch
from torch import nn

from napari_unet.core import finetuning
from napari_unet.core.corrections import hold_out
from napari_unet.core.device import choose_device
from napari_unet.core.engine.facts import general_facts
from napari_unet.core.errors import CorrectionsError, TrainingError
from napari_unet.core.finetuning import fine_tune, fine_tuning, training_image
from napari_unet.core.image import make_image
from napari_unet.core.losses import class_log_probabilities, masked_cross_entropy
from napari_unet.core.model import Description, Model, load_model, save_model, weights_id
from napari_unet.core.networks import UNet, UNetConfig
from napari_unet.core.normalization import normalise, scale_of
from napari_unet.core.progress import FinishEarly
from napari_unet.core.segmentation import segment
from napari_unet.core.settings import AugmentationSettings, FineTuneSettings
from napari_unet.core.training_images import blocks_for

FIXTURES = Path(__file__).parents[1] / "fixtures" / "checkpoints"
STILL = AugmentationSettings(
    elastic_sigma=0, rotation=0, scale=1, flips=False, brightness=0, contrast=0, gamma=1, noise=0
)
QUICK = FineTuneSettings(steps=4, patch_size=16, batch_size=4)
BARE = replace(QUICK, memory=0)
PAINTED = (3, 8, 12)


def model_of(network, config, name="random"):
    """A network of volumes that tells objects from background."""
    n = config.out_channels
    names = ("background", "object")
    description = Description(
        name=name, dims=3, in_channels=config.in_channels, class_names=names,
        outputs=names[-n:], output_class=(0, 1)[-n:], activation="softmax" if n > 1 else "sigmoid",
    )  # fmt: skip
    return Model(
        network=network.eval().requires_grad_(False), architecture="unet", config=config,
        description=description, device=choose_device("cpu"), id=weights_id(network),
    )  # fmt: skip


def random_model(**config):
    config = UNetConfig(dims=3, **{"widths": (4, 8), **config})
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return model_of(UNet(config), config)


class Unpadded(nn.Module):
    """Convolutions without padding: what comes out is 4 px smaller, in the plane 8 px."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv3d(1, 6, 3)
        self.second = nn.Conv3d(6, 6, (3, 7, 7))
        self.head = nn.Conv3d(6, 2, 1)

    def forward(self, image):
        """`(b, 1, z, y, x)` to logits `(b, 2, z - 4, y - 8, x - 8)`."""
        return self.head(self.second(self.first(image).relu()).relu())


def unpadded_model():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return model_of(Unpadded(), UNetConfig(dims=3, widths=(4,)))


def stack(seed=0, shape=(16, 40, 40), n_balls=26):
    """Bright balls in a noisy stack whose voxels are 2.5 times as high as wide, and the truth."""
    generator = np.random.default_rng(seed)
    z, y, x = np.indices(shape)
    truth = np.zeros(shape, np.uint8)
    for _ in range(n_balls):
        at, radius = generator.uniform(0, shape), generator.uniform(5, 9)
        far = ((z - at[0]) * 2.5) ** 2 + (y - at[1]) ** 2 + (x - at[2]) ** 2
        truth[far < radius**2] = 1
    blurred = ndi.gaussian_filter(truth * 400.0, (0.5, 1, 1))
    return (blurred + generator.normal(300, 80, shape)).astype(np.float32), truth


def strokes(truth, slices=PAINTED):
    """Lines that are painted through a few slices, right everywhere."""
    corrections = np.zeros_like(truth)
    for z in slices:
        corrections[z, 3::9, 4:-4] = truth[z, 3::9, 4:-4] + 1
    return corrections


def easy_case():
    image, truth = stack()
    return image, strokes(truth)


def iou(found, truth, where):
    return np.count_nonzero((found & truth)[where]) / np.count_nonzero((found | truth)[where])


def work_on(model, settings, case=None):
    image, corrections = case or easy_case()
    return fine_tuning(model, [training_image(make_image(image, "zyx"), corrections)], settings)


# --- learning ----------------------------------------------------------------------------------


MILD = AugmentationSettings(elastic_sigma=3, scale=1.1, brightness=0, contrast=0, gamma=1, noise=0)
LEARN = FineTuneSettings(
    steps=60, patch_size=32, batch_size=8, learning_rate=2e-2, memory=0, augmentation=MILD
)


@pytest.fixture(scope="module")
def learned():
    """A network before and after it has learned from three slices of a stack."""
    image, truth = stack()
    model = random_model(widths=(8, 8))
    return model, fine_tune(model, [(image, strokes(truth))], LEARN, "zyx")


def gain(model, tuned):
    """IoU before and after on the slices that were not painted on."""
    image, truth = stack()
    others = np.ones(truth.shape, bool)
    others[list(PAINTED)] = False
    return [
        iou(segment(image, which, axes="zyx").classes > 0, truth > 0, others)
        for which in (model, tuned)
    ]


def test_strokes_on_three_slices_teach_the_others(learned):
    model, tuned = learned
    assert (easy_case()[1] > 0).mean() < 0.02
    before, after = gain(model, tuned)
    assert after > max(0.7, before + 0.2), (before, after)
    (entry,) = tuned.history
    assert entry.scores_after["iou"] > max(0.75, entry.scores_before["iou"])


def test_a_second_stack_that_was_never_painted_gains_too(learned):
    other, truth = stack(seed=1)
    everywhere = np.ones(truth.shape, bool)
    found = segment(other, learned[1], axes="zyx").classes > 0
    assert iou(found, truth > 0, everywhere) > 0.65


@pytest.mark.parametrize(
    "make", [lambda: random_model(widths=(8, 8), out_channels=1), unpadded_model],
    ids=["sigmoid", "unpadded"],
)  # fmt: skip
def test_other_networks_learn_too(make):
    model = make()
    before, after = gain(model, fine_tune(model, [easy_case()], LEARN, "zyx"))
    assert after > max(0.65, before + 0.1), (before, after)


# --- only paint counts -------------------------------------------------------------------------


def test_untouched_voxels_count_for_nothing():
    """The network sees 2 voxels far: what lies further from paint has exactly no gradient."""
    model = random_model(widths=(4,), norm="none")
    image, _ = stack(shape=(12, 40, 40))
    corrections = np.zeros(image.shape, np.uint8)
    corrections[5, 5:8, 5:20], corrections[5, 12:15, 5:20] = 1, 2
    far = np.ones(image.shape, bool)
    far[1:10, 1:19, 1:24] = False  # what lies between voxels is read from both
    other = image.copy()
    other[far] = np.random.default_rng(1).permutation(image[far])  # the same quantiles
    settings = replace(BARE, augmentation=STILL, held_out=0)
    tuned = fine_tune(model, [(image, corrections)], settings, "zyx")
    assert tuned.id != model.id
    assert fine_tune(model, [(other, corrections)], settings, "zyx").id == tuned.id
    for z in (3, 5, 7):
        near = image.copy()
        near[z, 6, 10] = near.max()
        assert fine_tune(model, [(near, corrections)], settings, "zyx").id != tuned.id


def test_with_memory_untouched_voxels_hold_the_model():
    ids = {
        fine_tune(random_model(), [easy_case()], replace(QUICK, memory=memory), "zyx").id
        for memory in (0, 0.5, 1)
    }
    assert len(ids) == 3


def test_memory_keeps_old_answers_where_nobody_painted(learned):
    """Strokes on one half say that nothing is an object; how much stays in the other half?"""
    image, truth = stack()
    model = learned[1]
    corrections = np.zeros_like(truth)
    corrections[[4, 8, 12], 2::6, :14] = 1
    kept = {}
    for memory in (0, 1):
        settings = replace(LEARN, steps=30, learning_rate=4e-3, memory=memory, held_out=0)
        tuned = fine_tune(model, [(image, corrections)], settings, "zyx")
        old, new = (segment(image, which, axes="zyx").classes > 0 for which in (model, tuned))
        kept[memory] = iou(new, old, np.broadcast_to(np.arange(40) > 20, truth.shape))
    assert kept[1] > kept[0] + 0.1, kept


def test_held_out_paint_is_never_trained_on():
    image, corrections = easy_case()
    model = random_model()
    gathered = training_image(make_image(image, "zyx"), corrections)
    blocks = list(blocks_for(gathered, 3))
    held = np.zeros(corrections.shape, bool)
    for block, mask in zip(blocks, hold_out([(gathered.key, b) for b in blocks], 0.2), strict=True):
        part = tuple(slice(o, o + n) for o, n in zip(block.origin, mask.shape, strict=True))
        held[part] |= mask
    painted = (corrections > 0) & held
    assert 20 < painted.sum() < np.count_nonzero(corrections) / 2
    wrong = corrections.copy()
    wrong[painted] = 3 - wrong[painted]
    tuned, misled = (fine_tune(model, [(image, c)], BARE, "zyx") for c in (corrections, wrong))
    assert misled.id == tuned.id
    assert misled.history[0].scores_after["iou"] != tuned.history[0].scores_after["iou"]
    assert tuned.history[0].n_corrected == np.count_nonzero(corrections[~held])


def test_slices_far_from_paint_are_not_looked_at():
    image, truth = stack(shape=(60, 32, 32), n_balls=20)
    corrections = strokes(truth, (20,))
    settings = replace(BARE, held_out=0)
    tuned = fine_tune(random_model(), [(image, corrections)], settings, "zyx")
    generator = np.random.default_rng(0)
    for changed, is_same in ((slice(40, 60), True), (slice(22, 60), False)):
        other = image.copy()
        other[changed] = generator.permutation(image[changed].ravel()).reshape(-1, 32, 32)
        again = fine_tune(random_model(), [(other, corrections)], settings, "zyx")
        assert (again.id == tuned.id) == is_same


# --- a copy and a value ------------------------------------------------------------------------


def test_the_old_model_stays_and_the_seed_decides():
    model = random_model()
    before = copy.deepcopy(model.network.state_dict())
    first, again = (fine_tune(model, [easy_case()], QUICK, "zyx") for _ in range(2))
    other = fine_tune(model, [easy_case()], replace(QUICK, seed=1), "zyx")
    assert first.id == again.id == weights_id(first.network)
    assert len({model.id, first.id, other.id}) == 3
    assert first.history[0].scores_after == again.history[0].scores_after
    for name, value in model.network.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_closed_in_the_middle_nothing_has_changed(monkeypatch):
    released = []
    monkeypatch.setattr(finetuning, "release_memory", released.append)
    model = random_model()
    work = work_on(model, QUICK)
    for _ in range(3):
        next(work)
    work.close()
    assert released == [torch.device("cpu")]
    assert weights_id(model.network) == model.id
    assert torch.is_grad_enabled()
    assert model.history == ()


def test_stopped_early_it_returns_what_there_is():
    model = random_model()
    work = work_on(model, QUICK)
    while next(work).done < 2:
        pass
    with pytest.raises(StopIteration) as end:
        work.throw(FinishEarly)
    tuned = end.value.value
    assert tuned.id == weights_id(tuned.network) != model.id
    assert tuned.history[0].settings["steps_done"] == 2


def test_the_round_tells_what_was_done_and_survives_saving(tmp_path):
    tuned = fine_tune(random_model(), [easy_case()], replace(QUICK, patch_size=32), "zyx")
    said = tuned.history[0].settings
    assert (said["patch_shape"], said["patch_size"], said["batch_size"]) == ([8, 32, 32], 32, 2)
    save_model(tuned, tmp_path / "tuned.safetensors")
    opened = load_model(tmp_path / "tuned.safetensors", "cpu")
    assert opened.history == tuned.history
    assert opened.id == tuned.id


# --- stacks of all kinds -----------------------------------------------------------------------


@pytest.mark.parametrize("axes", ["zyx", "tzyx", "czyx", "xyzt"])
def test_any_axes(axes):
    sizes = {"t": 2, "z": 5, "c": 2, "y": 30, "x": 26}
    generator = np.random.default_rng(0)
    image = generator.integers(0, 4000, [sizes[axis] for axis in axes]).astype(np.uint16)
    corrections = np.zeros(make_image(image, axes).label_shape, np.uint8)
    corrections[..., 1, 10:14, :], corrections[..., 3, 20:24, :] = 1, 2
    model = random_model(in_channels=2 if "c" in axes else 1)
    tuned = fine_tune(model, [(image, corrections)], QUICK, axes)
    assert 0 < tuned.history[0].n_corrected <= np.count_nonzero(corrections)


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 30, 30), (3, 5, 40), (30, 6, 6)])
def test_stacks_smaller_than_a_patch(shape):
    image = np.random.default_rng(0).random(shape)
    for model in (random_model(), unpadded_model()):
        tuned = fine_tune(model, [(image, np.ones(shape, np.uint8))], QUICK, "zyx")
        assert tuned.id != model.id


def painted_loss(model, image, corrections):
    """Cross-entropy on all painted voxels of a stack `(c, z, y, x)` of a size that fits."""
    about, part = model.description, (slice(2, 14), slice(2, 38), slice(2, 38))
    scale = scale_of(image.reshape(len(image), -1), about.normalization, len(image))
    shown = torch.from_numpy(normalise(image, scale)[(slice(None), *part)])[None]
    target = torch.from_numpy(np.where(corrections > 0, corrections - 1, 255)[part])[None]
    with torch.inference_mode():
        logits = model.network(shown)
    found = class_log_probabilities(logits, about.output_class, about.outcome)
    return float(masked_cross_entropy(found, target))


@pytest.mark.parametrize(
    "file",
    [
        "pytorch_3dunet/residual3d_1.3.9.pt",
        "pytorch_3dunet/residual3d_cbe_1.3.9.pt",
        "pytorch_3dunet/residual_1.5.0.pt",
        "pytorch_3dunet/unet3d_crg_1.2.5.pt",
        "torch_em/anisotropic.pt",
        "torch_em/anisotropic_3.pt",
        "torch_em/anisotropic_kernels.pt",
        "torch_em/unet3d.pt",
    ],
)
def test_opened_checkpoints_learn(file):
    model = load_model(FIXTURES / file, "cpu")
    assert model.config.dims == 3
    n_channels = model.config.in_channels
    image, corrections = easy_case()
    image = np.stack([image] * n_channels)
    settings = FineTuneSettings(
        steps=8, patch_size=32, learning_rate=1e-2, memory=0.1, augmentation=STILL
    )
    tuned = fine_tune(model, [(image, corrections)], settings, "czyx")
    assert painted_loss(tuned, image, corrections) < painted_loss(model, image, corrections)
    fit = general_facts(model.network, n_channels, 3).fit
    shape = tuple(tuned.history[0].settings["patch_shape"])
    assert fit.size_for(tuple(n - m for n, m in zip(shape, fit.margin, strict=True))) == shape


# --- what cannot be ----------------------------------------------------------------------------


def test_an_image_without_z():
    corrections = np.ones((16, 16), np.uint8)
    with pytest.raises(CorrectionsError, match="no stack"):
        fine_tune(random_model(), [(np.zeros((16, 16)), corrections)], QUICK)


def test_nothing_painted():
    image, corrections = easy_case()
    for cases in ([], [(image, np.zeros_like(corrections))]):
        with pytest.raises(CorrectionsError, match="Nothing is painted yet"):
            fine_tune(random_model(), cases, QUICK, "zyx")


def test_a_class_the_model_does_not_have():
    image, corrections = easy_case()
    corrections[9, 9, 9] = 3
    with pytest.raises(CorrectionsError, match=r"painted class \(3\) is not one of the model's 2"):
        list(work_on(random_model(), QUICK, (image, corrections)))


def test_a_failing_device_is_told():
    class Failing(nn.Module):
        def __init__(self, network):
            super().__init__()
            self.network = network

        def forward(self, image):
            if torch.is_grad_enabled():
                raise RuntimeError("no room")
            return self.network(image)

    model = random_model()
    failing = replace(model, network=Failing(model.network))
    with pytest.raises(TrainingError, match=r"stopped \(no room\)"):
        fine_tune(failing, [easy_case()], QUICK, "zyx")
