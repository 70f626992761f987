import collections
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from napari_unet.core.checkpoints.containers import Inert
from napari_unet.core.checkpoints.containers.finding import find_evidence
from napari_unet.core.checkpoints.evidence import Contents, Evidence, LayerNote
from napari_unet.core.errors import ChoiceNeeded, ModelFileError


def weights(scale: float = 1.0, n_out: int = 2) -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(3)
    names = ["inc.0", "inc.3", "down.0", "up.0", "out"]
    return {
        f"{name}.{kind}": scale * torch.randn(shape, generator=draw)
        for name in names
        for kind, shape in (("weight", (n_out, 2, 3, 3)), ("bias", (n_out,)))
    }


def prefixed(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {prefix + name: value for name, value in tensors.items()}


def found(tree: Any, layers: Any = (), **options: Any) -> Evidence:
    contents = Contents(container="PyTorch file", tree=tree, layers=dict(layers), notes=("First.",))
    return find_evidence(contents, "net.pth", **options)


def assert_same(evidence: Evidence, wanted: dict[str, Tensor]) -> None:
    assert list(evidence.tensors) == list(wanted)
    for name, value in wanted.items():
        torch.testing.assert_close(evidence.tensors[name], value)


def by_name(*names: str) -> Any:
    """Recognises networks that have all of these tensors."""
    return lambda evidence: evidence.has(*names)


def test_a_plain_state_dict() -> None:
    evidence = found({**weights(), "mask_values": [0, 1]})
    assert_same(evidence, weights())
    assert evidence.config == {"mask_values": [0, 1]}
    assert (evidence.name, evidence.prefix, evidence.notes) == ("net.pth", "", ("First.",))


@pytest.mark.parametrize(
    "key",
    [
        "state_dict", "model_state_dict", "model_state", "network_weights", "model", "net",
        "network", "weights", "params", "module", "generator", "segmentor", "anything",
    ],
)  # fmt: skip
def test_wrappers(key: str) -> None:
    tree = {"epoch": 3, key: weights(), "optimizer": {"state": {}, "param_groups": []}}
    evidence = found(tree)
    assert_same(evidence, weights())
    assert evidence.config["epoch"] == 3
    assert evidence.notes == ("First.", "Saved in training: epoch 3.")
    assert_same(found({"checkpoint": {"inner": tree}}), weights())
    assert_same(found((3, tree)), weights())


@pytest.mark.parametrize(
    "prefix",
    [
        "module.", "_orig_mod.", "module._orig_mod.", "_fsdp_wrapped_module.", "_forward_module.",
        "model.", "net.", "network.", "unet.", "segmentation_model.", "backbone.unet.", "student.",
        "model.module.net.",
    ],
)  # fmt: skip
def test_prefixes(prefix: str) -> None:
    layers = {prefix + "inc.0": LayerNote(kind="Conv2d", values={"padding": (1, 1)})}
    layers |= {prefix + n: LayerNote(kind="Conv2d", values={}) for n in ("inc.3", "down.0", "up.0")}
    layers |= {prefix + "out": LayerNote(kind="Conv2d", values={})}
    tree = prefixed(prefix, weights())
    evidence = found(tree, layers)
    assert_same(evidence, weights())
    assert evidence.prefix == prefix
    assert evidence.setting("inc.0", "padding") == (1, 1)


def test_prefixes_stay_where_a_family_knows_them() -> None:
    tree = {"state_dict": prefixed("module.model.", weights())}
    kept = found(tree, is_known=by_name("model.inc.0.weight"))
    assert kept.prefix == "module."
    assert_same(kept, prefixed("model.", weights()))
    assert found(tree, is_known=by_name("inc.0.weight")).prefix == "module.model."
    assert found(tree, is_known=by_name("other")).prefix == "module.model."


def test_odd_prefixes_only_go_if_a_family_knows_what_is_left() -> None:
    tree = prefixed("my_net_2.", weights())
    assert found(tree).prefix == ""
    assert found(tree, is_known=by_name("other")).prefix == ""
    assert found(tree, is_known=by_name("inc.0.weight")).prefix == "my_net_2."


def test_what_does_not_belong_to_the_network_is_left_out_and_said() -> None:
    evidence = found({**prefixed("model.", weights()), "loss.pos_weight": torch.ones(1)})
    assert_same(evidence, weights())
    assert "1 tensors beside the network were left out: loss.pos_weight." in evidence.notes


def test_averages_are_preferred_and_said() -> None:
    tree = {"model": weights(1), "ema": weights(2)}
    evidence = found(tree)
    assert_same(evidence, weights(2))
    assert "'ema', averaged over the training, was used" in evidence.notes[1]
    assert_same(found(tree, choose="model"), weights(1))


def test_averages_without_statistics_take_those_of_the_network() -> None:
    statistics = {"norm.running_mean": torch.ones(2), "norm.num_batches_tracked": torch.tensor(3)}
    evidence = found({"state_dict": {**weights(1), **statistics}, "state_dict_ema": weights(2)})
    assert_same(evidence, {**weights(2), **statistics})
    assert any("2 tensors that the average does not hold" in note for note in evidence.notes)


def test_averaged_models() -> None:
    tree = {"n_averaged": torch.tensor(5), **prefixed("module.", weights())}
    assert_same(found(tree), weights())


def test_student_and_teacher() -> None:
    tree = {**prefixed("student.", weights(1)), **prefixed("teacher.", weights(2))}
    evidence = found({"state_dict": tree})
    assert_same(evidence, weights(2))
    assert_same(found({"state_dict": tree}, choose="state_dict.student"), weights(1))


def test_branches_that_are_alike_are_one_network() -> None:
    tree = {**prefixed("left.", weights(1)), **prefixed("right.", weights(2))}
    assert_same(found(tree), tree)


def test_several_networks_are_asked_about() -> None:
    tree = {"net_a": weights(1), "net_b": weights(2, n_out=4)}
    with pytest.raises(ChoiceNeeded, match=r"2 networks \('net_a', 'net_b'\)") as caught:
        found(tree)
    assert caught.value.options == ("net_a", "net_b")
    assert_same(found(tree, choose="net_b"), weights(2, n_out=4))
    with pytest.raises(ChoiceNeeded, match="no network called 'net_c'"):
        found(tree, choose="net_c")
    other = {"net_a": weights(1), "net_b": prefixed("other.", weights(2))}
    assert_same(found(other, is_known=by_name("other.inc.0.weight")), other["net_b"])


def test_lightning_hyperparameters() -> None:
    tree = {
        "state_dict": prefixed("model.", weights()),
        "hyper_parameters": {"lr": 0.1, "loss": Inert("m.Loss", ()), "widths": [8, 16]},
        "loops": {"fit": {"state": weights(3)}},
        "optimizer_states": [{"param_groups": [{"lr": 1}]}],
    }
    evidence = found(tree)
    assert_same(evidence, weights())
    assert evidence.config["model"] == {"lr": 0.1, "widths": [8, 16]}
    assert "optimizer_states" not in evidence.config


def test_arguments_of_the_network() -> None:
    init = {
        "model_class": "torch_em.model.unet.UNet2d",
        "model_kwargs": {"depth": 3},
        "x": Inert("y"),
    }
    evidence = found({"model_state": weights(), "init": init})
    assert evidence.config["model"] == {"depth": 3}
    assert evidence.config["class"] == "UNet2d"
    assert evidence.config["init"]["x"] == "y"
    hyper = {"model": {"_target_": "monai.networks.nets.UNet", "channels": (8, 16)}}
    evidence = found({"state_dict": weights(), "hyper_parameters": hyper})
    assert evidence.config["model"]["channels"] == (8, 16)
    assert evidence.config["class"] == "UNet"


def test_layers_of_the_same_network_elsewhere_are_used() -> None:
    """Lightning may keep the network as a hyperparameter, with its settings."""
    owners = ("inc.0", "inc.3", "down.0", "up.0", "out")
    layers = {
        f"hyper_parameters.net.{owner}": LayerNote(kind="Conv2d", values={"padding": (0, 0)})
        for owner in owners
    }
    tree = {"state_dict": weights(), "hyper_parameters": {"net": weights(2)}}
    evidence = found(tree, layers, choose="state_dict")
    assert evidence.setting("inc.0", "padding") == (0, 0)


def test_optimizers_alone_are_said() -> None:
    tree = {"state": {0: {"exp_avg": torch.ones(2, 2, 3, 3)}}, "param_groups": [{"lr": 0.1}]}
    for held in (tree, {"optimizer": tree, "epoch": 3}):
        with pytest.raises(ModelFileError, match=r"state of the optimiser, not the network\. Look"):
            found(held)


@pytest.mark.parametrize("tree", [None, 3, {}, {"a": {"b": "text"}}, [1, 2], Inert("m.C", ())])
def test_files_without_a_network_are_said(tree: Any) -> None:
    with pytest.raises(ModelFileError, match=r"^net\.pth: No network was found in it"):
        found(tree)


def test_trees_without_end_are_left() -> None:
    tree: dict[str, Any] = {"state_dict": weights(), "more": [1]}
    tree["self"] = tree
    tree["more"].append(tree["more"])
    for _ in range(60):
        tree["more"] = [tree["more"], tree["more"]]
    assert_same(found(tree), weights())


def normed(layer: nn.Module, norm: Any) -> nn.Module:
    network = nn.Sequential(collections.OrderedDict(first=norm(layer)))
    with torch.no_grad():
        for _ in range(3):
            network(torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(1)))
    return network.eval()


@pytest.mark.filterwarnings("ignore:.*weight_norm. is deprecated")
@pytest.mark.parametrize("layer", [nn.Conv2d(3, 4, 3), nn.ConvTranspose2d(3, 4, 2)])
@pytest.mark.parametrize(
    "norm",
    [
        nn.utils.weight_norm,
        nn.utils.spectral_norm,
        nn.utils.parametrizations.weight_norm,
        nn.utils.parametrizations.spectral_norm,
    ],
)
def test_normed_weights_are_computed(layer: nn.Module, norm: Any) -> None:
    network = normed(type(layer)(3, 4, 3), norm)
    with torch.no_grad():
        network(torch.zeros(1, 3, 8, 8))  # the old kind computes its weight when it runs
        first = network.get_submodule("first")
        wanted = {"first.weight": first.weight.detach(), "first.bias": first.bias.detach()}
    evidence = found(network.state_dict())
    assert set(evidence.tensors) == set(wanted)
    for name, value in wanted.items():
        torch.testing.assert_close(evidence.tensors[name], value)
    assert any("normalisation of 1 weights was computed" in note for note in evidence.notes)
