"""Folders and zip files of nnU-Net v2."""

from __future__ import annotations

import json
import shutil
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from originals import image_for, largest_difference, randomised
from torch import nn

from napari_unet.core.checkpoints.containers.archive import Archive
from napari_unet.core.checkpoints.family import recognised
from napari_unet.core.checkpoints.packages.nnunet_folder import (
    is_nnunet_folder,
    read_nnunet_folder,
)
from napari_unet.core.checkpoints.rebuild import rebuild
from napari_unet.core.errors import ChoiceNeeded, ModelFileError
from napari_unet.core.model import Model

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    unet = pytest.importorskip("dynamic_network_architectures.architectures.unet")

PLANS: dict[str, Any] = {
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
DATASET = {
    "channel_names": {"0": "DAPI"},
    "labels": {"background": 0, "nucleus": 1},
    "file_ending": ".tif",
}


def network(seed: int) -> nn.Module:
    return randomised(
        unet.PlainConvUNet(
            1, 3, (4, 6, 8), nn.Conv2d, 3, (1, 2, 2), 2, 2, 2, True, nn.InstanceNorm2d,
            {"eps": 1e-5, "affine": True}, None, None, nn.LeakyReLU, {"inplace": True},
            deep_supervision=True,
        ),
        seed,
    )  # fmt: skip


def trained_in(
    folder: Path,
    n_folds: int,
    *,
    name: str = "nnUNetTrainer__nnUNetPlans__2d",
    arguments: bool = True,
) -> Path:
    """What training leaves."""
    root = folder / "Dataset004_Cells" / name
    root.mkdir(parents=True)
    for file, values in (("plans", PLANS), ("dataset", DATASET), ("dataset_fingerprint", {})):
        (root / f"{file}.json").write_text(json.dumps(values))
    for fold in range(n_folds):
        (root / f"fold_{fold}").mkdir()
        told = {"plans": PLANS, "configuration": "2d", "fold": fold, "dataset_json": DATASET}
        torch.save(
            {
                "network_weights": network(fold).state_dict(),
                "optimizer_state": {"state": {}, "param_groups": []},
                "grad_scaler_state": None,
                "logging": {"mean_fg_dice": [np.float64(0.5)]},
                "_best_ema": np.float32(0.5),
                "current_epoch": 3,
                "init_args": {**told, "device": torch.device("cpu")} if arguments else {},
                "trainer_name": "nnUNetTrainer",
                "inference_allowed_mirroring_axes": (0, 1),
            },
            root / f"fold_{fold}" / "checkpoint_final.pth",
        )
        (root / f"fold_{fold}" / "checkpoint_best.pth").write_bytes(b"not asked")
    return root


def opened(path: Path, fold: str | None = None) -> Model:
    archive = Archive.of_path(path)
    assert is_nnunet_folder(archive.names())
    evidence = read_nnunet_folder(archive, fold)
    family = recognised(evidence)
    assert family is not None
    return rebuild(evidence, family.name, family.understand(evidence))


def difference(model: Model, fold: int) -> float:
    original = network(fold)
    return largest_difference(model.network, lambda image: original(image)[0], image_for(1, 20, 28))


@pytest.mark.parametrize("arguments", [True, False])
@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_folder_gives_network_and_description(kind: str, arguments: bool, tmp_path: Path) -> None:
    path = trained_in(tmp_path / "results", 1, arguments=arguments)
    if kind == "zip":
        path = Path(shutil.make_archive(str(tmp_path / "export"), "zip", tmp_path / "results"))
    model = opened(path)
    assert difference(model, 0) <= 1e-5
    about = model.description
    assert about.name == "Dataset004_Cells"
    assert about.class_names == ("background", "nucleus")
    assert about.channels == "DAPI"
    assert about.pixel_size == pytest.approx(0.5)
    assert about.assumed == ()
    assert not any("folds" in note for note in about.notes)


def test_first_of_several_folds_or_the_one_asked_for(tmp_path: Path) -> None:
    path = trained_in(tmp_path, 3)
    first = opened(path)
    assert difference(first, 0) <= 1e-5
    assert any("3 folds, of which fold_0" in note for note in first.description.notes)
    assert difference(opened(path, "fold_2"), 2) <= 1e-5
    with pytest.raises(ModelFileError, match="fold_7"):
        opened(path, "fold_7")


def test_several_networks_ask_for_a_choice(tmp_path: Path) -> None:
    trained_in(tmp_path, 1)
    trained_in(tmp_path, 2, name="nnUNetTrainer_ResEnc__nnUNetPlans__2d")
    with pytest.raises(ChoiceNeeded) as asked:
        opened(tmp_path)
    assert len(asked.value.options) == 2
    assert all(difference(opened(tmp_path, option), 0) <= 1e-5 for option in asked.value.options)


def test_best_checkpoint_where_there_is_no_final_one(tmp_path: Path) -> None:
    path = trained_in(tmp_path, 1)
    fold = path / "fold_0"
    (fold / "checkpoint_final.pth").replace(fold / "checkpoint_best.pth")
    assert difference(opened(path), 0) <= 1e-5


def test_other_folders_are_not_taken(tmp_path: Path) -> None:
    assert not is_nnunet_folder(("plans.json", "dataset.json"))
    assert not is_nnunet_folder(("fold_0/checkpoint_final.pth",))
    assert not is_nnunet_folder(("a/plans.json", "b/fold_0/checkpoint_final.pth"))
    assert is_nnunet_folder(("plans.json", "fold_all/checkpoint_best.pth"))
