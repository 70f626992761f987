"""Networks built by other libraries, saved as their users save them, opened from the path."""

from __future__ import annotations

import copy
import io
import json
import os
import subprocess
import sys
import warnings
from collections.abc import Callable, Mapping
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from originals import image_for, import_smp, randomised
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from napari_unet import SegmentSettings, load_model, save_model, segment
from napari_unet.core.checkpoints.saving import write_bioimageio
from napari_unet.core.errors import ChoiceNeeded
from napari_unet.core.model import Model
from napari_unet.core.normalization import normalise, scale_of, summary_of

pytestmark = pytest.mark.filterwarnings("ignore")  # of the other libraries
TOLERANCE = 1e-5
Weights = Mapping[str, Tensor]


# ---- the originals


def monai_unet() -> nn.Module:
    nets = pytest.importorskip("monai.networks.nets")
    arguments = {"channels": (4, 6, 8), "strides": (2, 2), "num_res_units": 1, "norm": "batch"}
    return randomised(nets.UNet(spatial_dims=2, in_channels=2, out_channels=3, **arguments))


def smp_unet(seed: int = 0) -> nn.Module:
    widths = (16, 12, 10, 8, 6)
    return randomised(
        import_smp().Unet(
            "resnet18", encoder_weights=None, in_channels=1, classes=2, decoder_channels=widths
        ),
        seed,
    )


def nnunet(seed: int = 0) -> nn.Module:
    unet = pytest.importorskip("dynamic_network_architectures.architectures.unet")
    network = unet.PlainConvUNet(
        1, 3, (4, 6, 8), nn.Conv2d, 3, (1, 2, 2), 2, 3, 2, True, nn.InstanceNorm2d,
        {"eps": 1e-5, "affine": True}, None, None, nn.LeakyReLU, {"inplace": True},
        deep_supervision=True,
    )  # fmt: skip
    return randomised(network, seed)


def unet3d() -> nn.Module:
    model = pytest.importorskip("pytorch3dunet.unet3d.model")
    return randomised(model.UNet3D(1, 2, f_maps=[8, 12, 16], num_groups=4, layer_order="gcl"))


class Block(nn.Sequential):
    """Two convolutions, each normalised and rectified."""

    def __init__(self, n_in: int, n_out: int) -> None:
        layers: list[nn.Module] = []
        for n in (n_in, n_out):
            layers += [nn.Conv2d(n, n_out, 3, padding=1), nn.BatchNorm2d(n_out), nn.ReLU(True)]
        super().__init__(*layers)


class Colleague(nn.Module):
    """A U-Net that no library has, in names that nobody else uses."""

    def __init__(self) -> None:
        super().__init__()
        self.links = nn.ModuleList([Block(1, 4), Block(4, 6), Block(6, 8)])
        self.rise = nn.ModuleList([nn.ConvTranspose2d(8, 6, 2, 2), nn.ConvTranspose2d(6, 4, 2, 2)])
        self.rechts = nn.ModuleList([Block(12, 6), Block(8, 4)])
        self.ende = nn.Conv2d(4, 3, 1)

    def forward(self, image: Tensor) -> Tensor:
        """Scores `(n, 3, y, x)`."""
        kept = []
        for i, block in enumerate(self.links):
            image = block(image if i == 0 else nn.functional.max_pool2d(image, 2))
            kept.append(image)
        for i, (rise, block) in enumerate(zip(self.rise, self.rechts, strict=True)):
            image = block(torch.cat([kept[1 - i], rise(image)], 1))
        return self.ende(image)


def colleague() -> nn.Module:
    return randomised(Colleague())


# ---- the ways to save them


def plain(network: nn.Module, path: Path) -> Path:
    torch.save(network.state_dict(), path)
    return path


def as_lightning(network: nn.Module, path: Path) -> Path:
    weights = {f"model.{name}": value for name, value in network.state_dict().items()}
    torch.save(
        {
            "epoch": 9,
            "global_step": 1000,
            "pytorch-lightning_version": "2.6.1",
            "state_dict": {**weights, "loss.pos_weight": torch.ones(1)},
            "loops": {},
            "callbacks": {"ModelCheckpoint": {"best_model_path": Path("a.ckpt")}},
            "optimizer_states": [torch.optim.Adam(network.parameters()).state_dict()],
            "hyper_parameters": {"lr": 1e-3, "when": np.datetime64("2026-01-01")},
        },
        path,
    )
    return path


def under(prefix: str) -> Callable[[nn.Module, Path], Path]:
    def save(network: nn.Module, path: Path) -> Path:
        named = {f"{prefix}{name}": value for name, value in network.state_dict().items()}
        torch.save(named, path)
        return path

    return save


def whole(network: nn.Module, path: Path) -> Path:
    torch.save(network, path)
    return path


def parallel(network: nn.Module, path: Path) -> Path:
    torch.save({"epoch": 3, "model": nn.DataParallel(network).state_dict()}, path)
    return path


def legacy(network: nn.Module, path: Path) -> Path:
    torch.save(network.state_dict(), path, _use_new_zipfile_serialization=False)
    return path


def averaged(network: nn.Module, path: Path) -> Path:
    """The average is what counts; the weights of the last step lie beside it."""
    average = torch.optim.swa_utils.AveragedModel(network)
    average.update_parameters(network)
    last = randomised(copy.deepcopy(network), 99)
    torch.save({"model": last.state_dict(), "model_ema": average.state_dict()}, path)
    return path


def half(network: nn.Module, path: Path) -> Path:
    torch.save({"state_dict": copy.deepcopy(network).half().state_dict()}, path)
    return path


def safe(network: nn.Module, path: Path) -> Path:
    torch_files = pytest.importorskip("safetensors.torch")
    torch_files.save_file(network.state_dict(), path, {"format": "pt"})
    return path


def scripted(network: nn.Module, path: Path) -> Path:
    torch.jit.save(torch.jit.script(network), path)
    return path


def traced(network: nn.Module, path: Path) -> Path:
    torch.jit.save(torch.jit.trace(network, torch.randn(1, 1, 40, 48)), path)
    return path


def exported(network: nn.Module, path: Path) -> Path:
    sizes = ({2: torch.export.Dim.DYNAMIC, 3: torch.export.Dim.DYNAMIC},)
    torch.export.save(
        torch.export.export(network, (torch.randn(1, 1, 40, 48),), dynamic_shapes=sizes), path
    )
    return path


def onnx(network: nn.Module, path: Path) -> Path:
    pytest.importorskip("onnx")
    pytest.importorskip("onnxscript")
    image = torch.randn(1, 1, 40, 48)
    axes = {"image": {0: "n", 2: "y", 3: "x"}}
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        torch.onnx.export(
            network, (image,), path, dynamo=False, input_names=["image"], dynamic_axes=axes
        )
    return path


CASES: dict[str, tuple[Callable[[], nn.Module], Callable[[nn.Module, Path], Path], str, str]] = {
    "MONAI in Lightning": (monai_unet, as_lightning, "last.ckpt", "monai_unet"),
    "MONAI, whole module": (monai_unet, whole, "model.pt", "monai_unet"),
    "smp under model.": (smp_unet, under("model."), "best.pth", "smp"),
    "smp, whole module": (smp_unet, whole, "best_model.pth", "smp"),
    "smp on several devices": (smp_unet, parallel, "best.pth.tar", "smp"),
    "a colleague's": (colleague, plain, "unet.pth", "generic"),
    "a colleague's, whole module": (colleague, whole, "unet.pth", "generic"),
    "a colleague's, compiled": (colleague, under("_orig_mod.module."), "unet.pth", "generic"),
    "a colleague's, legacy": (colleague, legacy, "unet.pt", "generic"),
    "a colleague's, averaged": (colleague, averaged, "unet.pt", "generic"),
    "a colleague's, safetensors": (colleague, safe, "model.safetensors", "generic"),
    "a colleague's, script": (colleague, scripted, "unet.pt", "layered"),
    "a colleague's, trace": (colleague, traced, "unet.pt", "layered"),
    "a colleague's, export": (colleague, exported, "unet.pt2", "layered"),
    "a colleague's, ONNX": (colleague, onnx, "unet.onnx", "layered"),
}


@torch.inference_mode()
def difference(model: Model, original: Callable[[Tensor], Any], *size: int) -> float:
    """The largest between the outputs for one image."""
    image = image_for(model.config.in_channels, *size)
    found, wanted = model.network(image), original(image)
    wanted = wanted[0] if isinstance(wanted, list | tuple) else wanted
    assert found.shape == wanted.shape
    assert float(wanted.std()) > 1e-3  # it says something
    return float((found - wanted).abs().max())


@pytest.mark.parametrize("case", CASES)
def test_an_original_is_rebuilt_from_its_file(case: str, tmp_path: Path) -> None:
    make, save, name, family = CASES[case]
    original = make()
    model = load_model(save(original, tmp_path / name), "cpu")
    assert model.architecture == family
    size = (64, 96) if family == "smp" else (36, 52)
    assert difference(model, original, *size) <= TOLERANCE


@pytest.mark.parametrize("make", [monai_unet, smp_unet, colleague])
def test_what_is_saved_again_fits_the_original(
    make: Callable[[], nn.Module], tmp_path: Path
) -> None:
    original = make()
    model = load_model(under("model.")(original, tmp_path / "net.pth"), "cpu")
    save_model(model, tmp_path / "again.pth")
    holder = nn.Module()
    holder.model = randomised(make(), 5)
    holder.load_state_dict(torch.load(tmp_path / "again.pth", weights_only=True), strict=True)
    assert difference(model, holder.model.eval(), 64, 64) <= TOLERANCE


def test_a_folder_of_save_pretrained(tmp_path: Path) -> None:
    original = smp_unet()
    original.save_pretrained(tmp_path / "cells")
    model = load_model(tmp_path / "cells", "cpu")
    assert model.architecture == "smp"
    assert difference(model, original, 64, 64) <= TOLERANCE


def nnunet_checkpoint(network: nn.Module) -> dict[str, Any]:
    return {
        "network_weights": network.state_dict(),
        "optimizer_state": torch.optim.SGD(network.parameters(), 0.1).state_dict(),
        "grad_scaler_state": None,
        "logging": {"mean_fg_dice": [np.float64(0.5)]},
        "_best_ema": np.float32(0.5),
        "current_epoch": 1000,
        "init_args": {"configuration": "2d", "fold": 0, "device": torch.device("cpu")},
        "trainer_name": "nnUNetTrainer",
        "inference_allowed_mirroring_axes": (0, 1),
    }


def test_a_checkpoint_of_nnunet_alone(tmp_path: Path) -> None:
    original = nnunet()
    torch.save(nnunet_checkpoint(original), tmp_path / "checkpoint_final.pth")
    model = load_model(tmp_path / "checkpoint_final.pth", "cpu")
    assert model.architecture == "nnunet"
    assert difference(model, original, 36, 52) <= TOLERANCE


def test_the_results_of_nnunet(tmp_path: Path) -> None:
    folder = tmp_path / "Dataset004_Cells" / "nnUNetTrainer__nnUNetPlans__2d"
    plans = {
        "dataset_name": "Dataset004_Cells",
        "transpose_forward": [0, 1, 2],
        "configurations": {
            "2d": {
                "spacing": [0.5, 0.5],
                "patch_size": [32, 32],
                "normalization_schemes": ["ZScoreNormalization"],
                "use_mask_for_norm": [False],
            }
        },
    }
    labels = {"background": 0, "nucleus": 1, "debris": 2}
    dataset = {"channel_names": {"0": "DAPI"}, "labels": labels, "file_ending": ".tif"}
    for fold in (0, 1):
        (folder / f"fold_{fold}").mkdir(parents=True)
        file = folder / f"fold_{fold}" / "checkpoint_final.pth"
        torch.save(nnunet_checkpoint(nnunet(fold)), file)
    (folder / "plans.json").write_text(json.dumps(plans))
    (folder / "dataset.json").write_text(json.dumps(dataset))
    try:
        model = load_model(folder, "cpu")
        fold = 0
    except ChoiceNeeded as error:
        model, fold = load_model(folder, "cpu", choose=error.options[1]), 1
    assert difference(model, nnunet(fold), 36, 52) <= TOLERANCE
    assert model.description.class_names == ("background", "nucleus", "debris")
    assert model.description.normalization.kind == "zscore"
    assert "normalization" not in model.description.assumed


def test_a_checkpoint_of_pytorch_3dunet_beside_its_configuration(tmp_path: Path) -> None:
    original = unet3d()
    content = {
        "num_epochs": 7,
        "num_iterations": 1000,
        "model_state_dict": original.state_dict(),
        "best_eval_score": np.float64(0.7),
        "optimizer_state_dict": torch.optim.Adam(original.parameters()).state_dict(),
        "device": "cuda:0",
    }
    torch.save(content, tmp_path / "best_checkpoint.pytorch")
    (tmp_path / "config_train.yml").write_text(
        "model:\n  name: UNet3D\n  in_channels: 1\n  out_channels: 2\n  layer_order: gcl\n"
        "  f_maps: [8, 12, 16]\n  num_groups: 4\n  final_sigmoid: true\n"
        "loaders:\n  train:\n    transformer:\n      raw:\n        - name: Standardize\n"
    )
    model = load_model(tmp_path / "best_checkpoint.pytorch", "cpu")
    assert model.architecture == "pytorch_3dunet"
    assert model.description.activation == "sigmoid"
    assert model.description.normalization.kind == "zscore"
    assert not {"groups", "nonlinearity", "normalization"} & set(model.description.assumed)

    def logits(image: Tensor) -> Tensor:
        return original(image, return_logits=True)[1]

    assert difference(model, logits, 10, 21, 26) <= TOLERANCE


# ---- weights that are kept in another form


@pytest.mark.parametrize("way", ["parametrized", "as before"])
def test_weights_apart_from_their_lengths(way: str, tmp_path: Path) -> None:
    original = colleague()
    normed = parametrizations.weight_norm if way == "parametrized" else nn.utils.weight_norm
    for module in list(original.modules()):
        if isinstance(module, nn.Conv2d):
            normed(module)
    model = load_model(plain(original, tmp_path / "net.pth"), "cpu")
    assert difference(model, original, 36, 52) <= TOLERANCE


def test_weights_of_half_precision(tmp_path: Path) -> None:
    original = colleague()
    model = load_model(half(original, tmp_path / "net.pth"), "cpu")
    rounded = copy.deepcopy(original).half().float()
    assert difference(model, rounded, 36, 52) <= TOLERANCE
    assert any("16" in note or "half" in note for note in model.description.notes)


# ---- a tutorial of Keras


@pytest.fixture(scope="module")
def keras() -> Any:
    os.environ["KERAS_BACKEND"] = "torch"  # before the import, which chooses by it
    return pytest.importorskip("keras")


def tutorial(keras: Any) -> Any:
    """The U-Net for nuclei, as courses write it, with narrow layers."""
    layers = keras.layers

    def double(x: Any, width: int) -> Any:
        for i in range(2):
            x = layers.Conv2D(
                width, 3, activation="relu", kernel_initializer="he_normal", padding="same"
            )(x)
            x = layers.Dropout(0.1)(x) if i == 0 else x
        return x

    image = layers.Input((64, 64, 3))
    x, kept = layers.Rescaling(1 / 255)(image), []
    for width in (4, 6):
        kept.append(double(x, width))
        x = layers.MaxPooling2D(2)(kept[-1])
    x = double(x, 8)
    for width in (6, 4):
        x = layers.Conv2DTranspose(width, 2, strides=2, padding="same")(x)
        x = double(layers.concatenate([x, kept.pop()]), width)
    model = keras.Model(image, layers.Conv2D(1, 1, activation="sigmoid")(x))
    random = np.random.default_rng(0)
    for variable in model.variables:
        if variable.path.endswith("bias"):
            variable.assign(random.uniform(-0.3, 0.3, variable.shape))
    return model


@pytest.mark.parametrize("name", ["model_for_nuclei.h5", "model_for_nuclei.keras"])
def test_a_tutorial_of_keras(keras: Any, name: str, tmp_path: Path) -> None:
    original = tutorial(keras)
    original.save(tmp_path / name)
    model = load_model(tmp_path / name, "cpu")
    image = np.random.default_rng(1).integers(0, 256, (64, 64, 3)).astype(np.uint8)
    wanted = np.asarray(original.predict(image[None].astype(np.float32), verbose=0))[0, ..., 0]
    about = model.description
    assert about.activation == "sigmoid"
    assert "normalization" not in about.assumed
    planes = np.moveaxis(image, -1, 0)
    scaled = normalise(planes, scale_of(summary_of(planes), about.normalization, 3))
    with torch.inference_mode():
        found = model.network(torch.from_numpy(scaled)[None]).sigmoid()[0, 0]
    assert float(np.abs(found.numpy() - wanted).max()) <= TOLERANCE
    settings = SegmentSettings(what="classes", precision="full")
    shown = segment(planes, model, settings, axes="cyx").outputs
    assert float(np.abs(np.asarray(shown)[0] - wanted).max()) <= 1e-3  # kept as float16


# ---- what we write ourselves


def test_a_package_that_was_written_here(tmp_path: Path) -> None:
    original = monai_unet()
    model = load_model(as_lightning(original, tmp_path / "last.ckpt"), "cpu")
    write_bioimageio(model, tmp_path / "cells.zip")
    again = load_model(tmp_path / "cells.zip", "cpu")
    assert again.architecture == "monai_unet"
    assert again.config == model.config
    assert again.description.class_names == model.description.class_names
    assert difference(again, original, 36, 52) <= TOLERANCE


def test_no_warning_is_shown_to_people(tmp_path: Path) -> None:
    path = as_lightning(colleague(), tmp_path / "last.ckpt")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_model(path, "cpu")


TUNE = """
import sys
import numpy as np
from napari_unet import FineTuneSettings, fine_tune, load_model

model = load_model(sys.argv[1], "cpu")
image = np.random.default_rng(0).integers(0, 255, (64, 64)).astype(np.uint8)
painted = np.zeros((64, 64), np.uint8)
painted[4:12, 4:12], painted[24:32, 24:32] = 1, 2
settings = FineTuneSettings(steps=2, patch_size=32, batch_size=2)
assert fine_tune(model, [(image, painted)], settings, axes="yx").id != model.id
"""


def test_a_network_that_begins_with_a_group_norm_learns(tmp_path: Path) -> None:
    """In a process of its own: torch crashed, rather than raising an error."""
    model = pytest.importorskip("pytorch3dunet.unet3d.model")
    original = randomised(model.UNet2D(1, 1, f_maps=[4, 8], num_groups=2))
    torch.save({"model_state_dict": original.state_dict()}, tmp_path / "best.pytorch")
    path = str(tmp_path / "best.pytorch")
    done = subprocess.run([sys.executable, "-c", TUNE, path], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
