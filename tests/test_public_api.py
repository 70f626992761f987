"""The Python API as the documentation promises it: names, signatures, and the example itself."""

import inspect
import subprocess
import sys

import dask.array as da
import numpy as np
import pytest
import zarr

import napari_unet
from napari_unet.core import model as model_module

EXAMPLE = """
import napari_unet as nu
model = nu.load_model("nuclei")                    # a built-in name or a path; device="auto"
result = nu.segment(image, model)                  # numpy, dask or zarr; axes="yx", "cyx", ...
result = nu.segment(image, model, nu.SegmentSettings(tile_size=256), axes="yx")
result.labels, result.classes, result.probabilities
tuned = nu.fine_tune(model, [(image, corrections)], nu.FineTuneSettings(steps=200, seed=0))
nu.save_model(tuned, "mine.safetensors")
"""

SIGNATURES = {
    "load_model": "(source, device='auto', *, choose=None, trust=False)",
    "save_model": "(model, path, half=False)",
    "segment": "(image, model, settings=None, axes=None, *, pixel_size=None, store=None)",
    "plan_for": "(image, models, settings=None)",
    "store_for": "(folder, image, models, settings, *, keep_outputs=True)",
    "run_batch": "(sources, model, out, settings=None, options=None, report=None)",
    "fine_tune": "(model, images, settings=None, axes=None, report=None)",
    "make_image": "(array, axes=None, name='image', pixel_size=None)",
    "LiveSession": "(model, settings=None, device='auto')",
    "train": "(images, settings=None, *, axes=None, start=None, folder=None, device='auto', "
    "report=None, class_names=None, imagenet=None)",
}

SETTINGS = {
    "SegmentSettings": {
        "what": "objects", "tile_size": None, "threshold": None, "min_size": None, "split": None,
        "smoothing": None, "fill_holes": None, "link": None, "precision": "auto",
        "augmentation": "none",
    },
    "FineTuneSettings": {
        "steps": 200, "learning_rate": 1e-3, "patch_size": 128, "batch_size": 4, "memory": 0.5,
        "held_out": 0.2, "seed": 0,
    },
    "TrainSettings": {
        "network": "unet", "width": None, "dims": 2, "what": "objects", "split": "gap",
        "outputs": None, "steps": 2000, "minutes": None, "patience": 0, "measure_every": 0,
        "loss": None, "gamma": 2.0, "alpha": 0.3, "beta": 0.7, "class_weights": "equal",
        "separation": None, "separation_sigma": 5.0, "optimizer": None, "learning_rate": None,
        "momentum": None, "weight_decay": None, "schedule": None, "clip": None,
        "patch_size": None, "batch_size": None, "average": None, "normalization": None,
        "network_dropout": None, "precision": "auto",
        "held_out": 0.2, "n_folds": 0, "fold": 0, "seed": 0,
    },
}  # fmt: skip


def painted():
    """An image `(y, x)` with bright boxes, and corrections of some of it."""
    image = np.full((96, 96), 100, np.uint16)
    image[20:60:20, 10:80] = image[70:90, 70:90] = 900
    corrections = np.zeros(image.shape, np.uint8)
    corrections[::16] = np.where(image[::16] > 500, 2, 1)
    corrections[75] = np.where(image[75] > 500, 2, 1)
    return image, corrections


@pytest.mark.parametrize("container", ["numpy", "dask", "zarr"])
def test_the_documented_example_runs(container, tiny_file, tmp_path, monkeypatch):
    monkeypatch.setitem(model_module.BUILT_IN, "nuclei", tiny_file)
    monkeypatch.chdir(tmp_path)
    pixels, corrections = painted()
    image = {
        "numpy": lambda: pixels,
        "dask": lambda: da.from_array(pixels, chunks=40),
        "zarr": lambda: zarr.create_array(tmp_path / "a.zarr", data=pixels, chunks=(40, 40)),
    }[container]()
    example = EXAMPLE.replace("steps=200", "steps=3")
    names = {"image": image, "corrections": corrections}
    exec(example, names)

    result, model, tuned = names["result"], names["model"], names["tuned"]
    assert isinstance(result, napari_unet.Result)
    assert isinstance(model, napari_unet.Model)
    assert (result.labels.dtype, result.classes.dtype) == (np.uint8, np.uint8)
    assert result.labels.shape == result.classes.shape == image.shape
    assert result.probabilities.shape == (2, *image.shape)
    assert np.issubdtype(result.probabilities.dtype, np.floating)
    np.testing.assert_array_equal(result.classes, pixels > 500)
    assert tuned is not model
    assert tuned.id != model.id
    opened = napari_unet.load_model("mine.safetensors", "cpu")
    assert opened.id == tuned.id
    assert len(opened.history) == 1


TRAINING = """
import napari_unet as nu
model = nu.train(
    [(image, masks), (other, other_masks)],          # masks: 0 background, then objects
    nu.TrainSettings(network="unet-2015", steps=2000),
    folder="run",                                    # to go on after whatever happens
)
result = nu.segment(image, model)
model.description.scores["held out"]                 # on images that were not trained on
nu.save_model(model, "mine.safetensors")
"""


def test_the_documented_training_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pixels, _ = painted()
    small = 'network="unet-2015", width=2, patch_size=16, steps=2, separation=5'
    example = TRAINING.replace('network="unet-2015", steps=2000', small)
    masks = (pixels > 500).astype(np.uint8)
    names = {"image": pixels, "masks": masks, "other": pixels.T, "other_masks": masks.T}
    exec(example, names)
    assert names["model"].architecture == "unet_2015"
    assert names["result"].labels.shape == pixels.shape
    assert (tmp_path / "run" / "log.csv").exists()
    assert napari_unet.load_model("mine.safetensors", "cpu").id == names["model"].id


@pytest.mark.parametrize("name", SIGNATURES)
def test_signatures(name):
    signature = inspect.signature(getattr(napari_unet, name))
    bare = [
        parameter.replace(annotation=inspect.Parameter.empty)
        for parameter in signature.parameters.values()
    ]
    assert str(inspect.Signature(bare)) == SIGNATURES[name]
    assert "Parameters\n" in inspect.getdoc(getattr(napari_unet, name))


@pytest.mark.parametrize("name", SETTINGS)
def test_settings_and_their_defaults(name):
    settings = getattr(napari_unet, name)()
    for field, default in SETTINGS[name].items():
        assert getattr(settings, field) == default
    assert set(inspect.signature(type(settings)).parameters) - set(SETTINGS[name]) <= {
        "augmentation"
    }


@pytest.mark.parametrize("name", napari_unet.__all__)
def test_every_public_name_is_itself_and_documented(name):
    thing = getattr(napari_unet, name)
    assert thing.__name__ == name
    assert thing.__doc__
    assert thing.__module__.startswith("napari_unet.core.")


def test_names_that_are_not_there():
    with pytest.raises(AttributeError, match="has no attribute 'segement'"):
        napari_unet.segement  # noqa: B018
    with pytest.raises(ImportError):
        from napari_unet import segement  # noqa: F401
    assert not hasattr(napari_unet, "__wrapped__")


def test_the_version_is_that_of_the_distribution():
    parts = napari_unet.__version__.split(".")
    assert len(parts) >= 3
    assert all(part.isdigit() for part in parts[:2])


def test_each_error_is_of_one_kind():
    from napari_unet.core import errors

    for name in errors.__all__:
        error = getattr(errors, name)
        assert issubclass(error, napari_unet.UNetLiveError)
        assert not issubclass(error, RuntimeError)
    for act in (
        lambda: napari_unet.load_model("nowhere"),
        lambda: napari_unet.segment(np.zeros(3), "nuclei"),
        lambda: napari_unet.SegmentSettings(tile_size=1),
        lambda: napari_unet.make_image("a path"),
    ):
        with pytest.raises(napari_unet.UNetLiveError, match=r"[.)]$"):
            act()


LAZY = """
import sys
import napari_unet
heavy = {"torch", "numpy", "scipy", "skimage", "dask", "napari", "qtpy"}
assert not heavy & set(sys.modules), heavy & set(sys.modules)
assert "segment" in dir(napari_unet) and "__version__" in dir(napari_unet)
assert not heavy & set(sys.modules)
napari_unet.SegmentSettings(), napari_unet.FineTuneSettings(), napari_unet.UNetLiveError
napari_unet.LiveSettings()
napari_unet.TrainSettings()
assert not heavy & set(sys.modules), "settings and errors are plain Python"
napari_unet.segment
assert "torch" in sys.modules
assert not {"napari", "qtpy"} & set(sys.modules)
"""


def test_nothing_heavy_is_loaded_before_it_is_used():
    answer = subprocess.run(
        [sys.executable, "-c", LAZY], capture_output=True, text=True, timeout=120
    )
    assert answer.returncode == 0, answer.stderr
