"""U-Nets of unusual names and orders, written here, rebuilt from their tensors alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from originals import image_for, largest_difference, randomised
from torch import Tensor, nn

from napari_unet.core.checkpoints.evidence import Evidence, LayerNote
from napari_unet.core.checkpoints.families.generic import FAMILY
from napari_unet.core.checkpoints.family import Understanding
from napari_unet.core.errors import ModelFileError

Layers = Callable[..., nn.Module]


def evidence_of(tensors: Mapping[str, Tensor], **more: Any) -> Evidence:
    return Evidence(name="rete.pth", container="PyTorch file", tensors=dict(tensors), **more)


def rebuilt(evidence: Evidence, **changes: Any) -> tuple[nn.Module, Understanding]:
    assert FAMILY.recognise(evidence)
    understanding = FAMILY.understand(evidence)
    for name, value in changes.items():
        assert name in understanding.assumed
        assert value in FAMILY.choices[name]
    network = FAMILY.network(replace(understanding.config, **changes))
    ours = {names[0]: name for name, names in understanding.names.items()}
    tensors = {ours[name]: value for name, value in evidence.tensors.items()}
    network.load_state_dict(tensors, strict=True)
    return network.eval(), understanding


def norm_act(n: int) -> list[nn.Module]:
    return [nn.BatchNorm2d(n), nn.ReLU()]


class Italian(nn.Module):
    """Every layer by itself; batch normalization; transposed convolutions; skip first."""

    def __init__(self) -> None:
        super().__init__()
        for level, (n_in, n_out) in enumerate([(3, 4), (4, 8), (8, 16)]):
            for i, n_from in ((1, n_in), (2, n_out)):
                self.add_module(f"discesa{level}_conv{i}", nn.Conv2d(n_from, n_out, 3, padding=1))
                self.add_module(f"discesa{level}_norma{i}", nn.BatchNorm2d(n_out))
        for level, n in ((1, 8), (0, 4)):
            self.add_module(f"salita{level}", nn.ConvTranspose2d(2 * n, n, 2, stride=2))
            for i, n_from in ((1, 2 * n), (2, n)):
                self.add_module(f"risalita{level}_conv{i}", nn.Conv2d(n_from, n, 3, padding=1))
                self.add_module(f"risalita{level}_norma{i}", nn.BatchNorm2d(n))
        self.uscita = nn.Conv2d(4, 2, 1)

    def block(self, name: str, x: Tensor) -> Tensor:
        for i in (1, 2):
            conv, norm = (self.get_submodule(f"{name}_{part}{i}") for part in ("conv", "norma"))
            x = F.relu(norm(conv(x)))
        return x

    def forward(self, x: Tensor) -> Tensor:
        a = self.block("discesa0", x)
        b = self.block("discesa1", F.max_pool2d(a, 2))
        x = self.block("discesa2", F.max_pool2d(b, 2))
        x = self.block("risalita1", torch.cat([b, self.salita1(x)], 1))
        x = self.block("risalita0", torch.cat([a, self.salita0(x)], 1))
        return self.uscita(x)


class Lists(nn.Module):
    """Sequences in lists; `inner` makes a block, `up` enlarges, in any order of definition."""

    def __init__(
        self,
        widths: tuple[int, ...],
        inner: Callable[[int, int], nn.Module],
        up: Callable[[int, int], nn.Module] | None = None,
        n_in: int = 1,
        order: tuple[str, ...] = ("giu", "fondo", "su", "blocchi", "fine"),
        *,
        shallow_first: bool = False,
        add: bool = False,
        up_first: bool = False,
        down: Callable[[int], nn.Module] | None = None,
        head: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.add, self.up_first, self.shallow_first = add, up_first, shallow_first
        pairs = list(zip((n_in, *widths), widths, strict=False))
        levels = range(len(widths) - 1)
        ups = levels if shallow_first else levels[::-1]
        joined = {
            i: widths[i] * (1 if add else 2) if up else widths[i] + widths[i + 1] for i in levels
        }
        dims = 3 if isinstance(head, nn.Conv3d) else 2
        parts: dict[str, Callable[[], nn.Module]] = {
            "giu": lambda: nn.ModuleList(inner(*pair) for pair in pairs[:-1]),
            "fondo": lambda: inner(*pairs[-1]),
            "su": lambda: nn.ModuleList(
                up(widths[i + 1], widths[i]) if up else nn.Identity() for i in ups
            ),
            "blocchi": lambda: nn.ModuleList(inner(joined[i], widths[i]) for i in ups),
            "fine": lambda: head or nn.Conv2d(widths[0], 2, 1),
        }
        for name in order:
            self.add_module(name, parts[name]())
        pool = nn.MaxPool2d(2) if dims == 2 else nn.MaxPool3d((1, 2, 2))
        self.pools = nn.ModuleList(down(widths[i]) if down else pool for i in levels)
        self.mode = "bilinear"

    def forward(self, x: Tensor) -> Tensor:
        skips = []
        for block, pool in zip(self.giu, self.pools, strict=True):
            skips.append(block(x))
            x = pool(skips[-1])
        x = self.fondo(x)
        n = len(self.su)
        for i in range(n):
            at = n - 1 - i if self.shallow_first else i
            skip = skips.pop()
            if isinstance(self.su[at], nn.Identity):
                x = F.interpolate(x, size=skip.shape[2:], mode=self.mode)
            x = self.su[at](x)
            pair = [x, skip] if self.up_first else [skip, x]
            x = self.blocchi[at](x + skip if self.add else torch.cat(pair, 1))
        return self.fine(x)


def double(n_in: int, n_out: int, *, bias: bool = True) -> nn.Module:
    conv = nn.Conv2d
    return nn.Sequential(
        *[conv(n_in, n_out, 3, padding=1, bias=bias), *norm_act(n_out)],
        *[conv(n_out, n_out, 3, padding=1, bias=bias), *norm_act(n_out)],
    )


def bare(n_in: int, n_out: int) -> nn.Module:
    convs = [nn.Conv2d(n, n_out, 3, padding=1) for n in (n_in, n_out)]
    return nn.Sequential(convs[0], nn.ReLU(), convs[1], nn.ReLU())


def one_activation(n_in: int, n_out: int) -> nn.Module:
    convs = [nn.Conv2d(n, n_out, 3, padding=1) for n in (n_in, n_out)]
    return nn.Sequential(*convs, nn.ReLU())


def activation_then_norm(n_in: int, n_out: int) -> nn.Module:
    layers: list[nn.Module] = []
    for n in (n_in, n_out, n_out):
        layers += [nn.Conv2d(n, n_out, 3, padding=1), nn.ReLU(), nn.BatchNorm2d(n_out)]
    return nn.Sequential(*layers)


def norm_first(n_in: int, n_out: int) -> nn.Module:
    layers: list[nn.Module] = []
    for n in (n_in, n_out):
        layers += [nn.BatchNorm2d(n), nn.Conv2d(n, n_out, 3, padding=1), nn.ReLU()]
    return nn.Sequential(*layers)


def norm_activation_conv(n_in: int, n_out: int) -> nn.Module:
    layers: list[nn.Module] = []
    for n in (n_in, n_out):
        layers += [nn.BatchNorm2d(n), nn.ReLU(), nn.Conv2d(n, n_out, 3, padding=1)]
    return nn.Sequential(*layers)


def grouped(n_in: int, n_out: int) -> nn.Module:
    layers: list[nn.Module] = []
    for n in (n_in, n_out):
        layers += [nn.Conv2d(n, n_out, 3, padding=1), nn.GroupNorm(4, n_out), nn.LeakyReLU(0.1)]
    return nn.Sequential(*layers)


def weightless(n_in: int, n_out: int) -> nn.Module:
    layers: list[nn.Module] = []
    for n in (n_in, n_out):
        conv = nn.Conv2d(n, n_out, 3, padding=1, bias=False)
        layers += [conv, nn.InstanceNorm2d(n_out), nn.ReLU()]
    return nn.Sequential(*layers)


def single(n_in: int, n_out: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(n_in, n_out, 3, padding=1), nn.ELU())


def volume(n_in: int, n_out: int) -> nn.Module:
    layers: list[nn.Module] = []
    for n in (n_in, n_out):
        layers += [nn.Conv3d(n, n_out, 3, padding=1), nn.BatchNorm3d(n_out), nn.ReLU()]
    return nn.Sequential(*layers)


class Grouped(nn.Module):
    """Two convolutions, then their two normalizations."""

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.faltung_a = nn.Conv2d(n_in, n_out, 3, padding=1, bias=False)
        self.faltung_b = nn.Conv2d(n_out, n_out, 3, padding=1, bias=False)
        self.norm_a = nn.BatchNorm2d(n_out)
        self.norm_b = nn.BatchNorm2d(n_out)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm_a(self.faltung_a(x)))
        return F.relu(self.norm_b(self.faltung_b(x)))


def transposed(n_in: int, n_out: int) -> nn.Module:
    return nn.ConvTranspose2d(n_in, n_out, 2, stride=2)


def transposed_3(n_in: int, n_out: int) -> nn.Module:
    return nn.ConvTranspose2d(n_in, n_out, 3, stride=2, padding=1, output_padding=1)


def transposed_4(n_in: int, n_out: int) -> nn.Module:
    return nn.ConvTranspose2d(n_in, n_out, 4, stride=2, padding=1)


def flat_transposed(n_in: int, n_out: int) -> nn.Module:
    return nn.ConvTranspose3d(n_in, n_out, (1, 2, 2), stride=(1, 2, 2))


def resized(n_in: int, n_out: int) -> nn.Module:
    upsample = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True)
    conv = nn.Conv2d(n_in, n_out, 3, padding=1)
    return nn.Sequential(upsample, conv, *norm_act(n_out))


def resized_1(n_in: int, n_out: int) -> nn.Module:
    return nn.Sequential(nn.Upsample(scale_factor=2), nn.Conv2d(n_in, n_out, 1))


def shrinking(n: int) -> nn.Module:
    return nn.Conv2d(n, n, 2, stride=2)


def two_convs(n_in: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(n_in, 2, 3, padding=1), nn.ReLU(), nn.Conv2d(2, 1, 1))


class Woven(nn.Module):
    """Lists in which up-convolutions and blocks take turns, and the bottom comes after them."""

    def __init__(self) -> None:
        super().__init__()
        widths = (4, 8, 16)
        pairs = zip((3, *widths), widths, strict=False)
        self.oben = nn.ModuleList()
        self.unten = nn.ModuleList(double(*pair, bias=False) for pair in pairs)
        for n in widths[::-1]:
            self.oben.append(transposed(2 * n, n))
            self.oben.append(double(2 * n, n, bias=False))
        self.tief = double(16, 32, bias=False)
        self.ende = nn.Conv2d(4, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        skips = []
        for block in self.unten:
            skips.append(block(x))
            x = F.max_pool2d(skips[-1], 2)
        x = self.tief(x)
        for i in range(0, len(self.oben), 2):
            x = self.oben[i + 1](torch.cat([skips.pop(), self.oben[i](x)], 1))
        return self.ende(x)


UPS_FIRST = ("su", "blocchi", "giu", "fondo", "fine")
HEAD_FIRST = ("fine", "blocchi", "su", "giu", "fondo")

NETWORKS: dict[str, tuple[Callable[[], nn.Module], dict[str, Any], int, tuple[int, ...]]] = {
    "italian": (Italian, {}, 3, (16, 20)),
    "woven": (Woven, {}, 3, (16, 24)),
    "two at the end": (
        lambda: Lists((4, 8, 16), double, transposed, head=two_convs(4)),
        {},
        1,
        (16, 20),
    ),
    "sequences": (lambda: Lists((4, 8, 16), double, transposed), {}, 1, (16, 20)),
    "five levels": (lambda: Lists((2, 4, 8, 16, 32), double, transposed), {}, 1, (32, 48)),
    "ups first": (lambda: Lists((4, 8, 16), double, transposed, order=UPS_FIRST), {}, 1, (16, 20)),
    "head first": (lambda: Lists((4, 8, 16), bare, transposed, order=HEAD_FIRST), {}, 1, (16, 20)),
    "shallow first": (
        lambda: Lists((4, 8, 16), double, transposed, shallow_first=True),
        {},
        1,
        (16, 20),
    ),
    "interpolated, up first": (
        lambda: Lists((4, 8, 16), bare, up_first=True),
        {"join": "up first"},
        1,
        (16, 20),
    ),
    "one activation": (
        lambda: Lists((4, 8, 16), one_activation, transposed, n_in=2),
        {},
        2,
        (16, 20),
    ),
    "three, activation first": (
        lambda: Lists((4, 8), activation_then_norm, transposed),
        {},
        1,
        (16, 20),
    ),
    "norm first": (lambda: Lists((4, 8, 16), norm_first, transposed, n_in=2), {}, 2, (16, 20)),
    "norm, activation, convolution": (
        lambda: Lists((4, 8, 16), norm_activation_conv, transposed, n_in=2),
        {},
        2,
        (16, 20),
    ),
    "group norm": (
        lambda: Lists((4, 8, 16), grouped, transposed),
        {"groups": 4, "nonlinearity": "leaky_relu_0.1"},
        1,
        (16, 20),
    ),
    "instance norm": (lambda: Lists((4, 8, 16), weightless, transposed), {}, 1, (16, 20)),
    "single, kernel 3": (
        lambda: Lists((4, 8, 16), single, transposed_3),
        {"nonlinearity": "elu"},
        1,
        (16, 20),
    ),
    "kernel 4": (lambda: Lists((4, 8, 16), double, transposed_4), {}, 1, (16, 20)),
    "convolved after interpolation": (
        lambda: Lists((4, 8, 16), Grouped, resized),
        {"enlarging": "linear_corners"},
        1,
        (16, 20),
    ),
    "1x1 after interpolation": (
        lambda: Lists((4, 8, 16), double, resized_1),
        {"enlarging": "nearest"},
        1,
        (16, 20),
    ),
    "added": (lambda: Lists((4, 8, 16), double, transposed, add=True), {}, 1, (16, 20)),
    "strided": (lambda: Lists((4, 8, 16), double, transposed, down=shrinking), {}, 1, (16, 20)),
    "same width everywhere": (lambda: Lists((6, 6, 6), double, transposed), {}, 1, (16, 20)),
    "flat volumes": (
        lambda: Lists((2, 4, 8), volume, flat_transposed, head=nn.Conv3d(2, 3, 1)),
        {},
        1,
        (3, 8, 12),
    ),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_output_is_that_of_the_original(name: str) -> None:
    make, changes, n_in, size = NETWORKS[name]
    original = randomised(make())

    network, understanding = rebuilt(evidence_of(original.state_dict()), **changes)

    assert largest_difference(network, original, image_for(n_in, *size)) < 1e-5
    assert understanding.config.in_channels == n_in
    assert {"padding", "nonlinearity", "normalization"} <= set(understanding.assumed)


def test_stored_layers_tell_what_shapes_do_not() -> None:
    original = randomised(Lists((4, 8), bare, transposed_3))
    layers = {
        path: LayerNote(kind=type(layer).__name__, values=vars(layer))
        for path, layer in original.named_modules()
    }

    network, understanding = rebuilt(evidence_of(original.state_dict(), layers=layers))

    assert largest_difference(network, original, image_for(1, 8, 10)) < 1e-5
    assert not {"nonlinearity", "padding", "pooling", "norm"} & set(understanding.assumed)


def test_unpadded_convolutions_can_be_chosen() -> None:
    original = Lists((4, 8), bare, transposed)
    evidence = evidence_of(randomised(original).state_dict())
    network, _ = rebuilt(evidence, padding="valid")

    assert network(image_for(1, 44, 48)).shape == (1, 2, 28, 32)


def test_odd_sizes_are_kept() -> None:
    for up in (transposed, None):
        original = randomised(Lists((4, 8, 16), bare, up))
        network, _ = rebuilt(evidence_of(original.state_dict()))
        assert network(image_for(1, 21, 18)).shape == (1, 2, 21, 18)


def test_unpaired_convolutions_are_shown() -> None:
    tensors = dict(Lists((4, 8, 16), bare, transposed).state_dict())
    del tensors["giu.1.0.weight"], tensors["giu.1.0.bias"]

    with pytest.raises(ModelFileError, match="cannot be put together") as raised:
        FAMILY.understand(evidence_of(tensors))
    assert "  giu.0.0: 4x1x3x3" in str(raised.value)


def test_doubt_is_told() -> None:
    tensors = {f"c{i}.weight": torch.zeros(6, 6, 3, 3) for i in range(8)}
    tensors["head.weight"] = torch.zeros(2, 6, 1, 1)

    with pytest.raises(ModelFileError, match=r"several ways.*levels with"):
        FAMILY.understand(evidence_of(tensors))


def test_other_tensors_are_told() -> None:
    tensors = dict(Lists((4, 8, 16), bare, transposed).state_dict())
    tensors["attention.query"] = torch.zeros(4, 4)

    with pytest.raises(ModelFileError, match=r"attention\.query: \(4, 4\)"):
        FAMILY.understand(evidence_of(tensors))


def test_networks_without_convolutions_are_not_recognised() -> None:
    assert not FAMILY.recognise(evidence_of({"fc.weight": torch.zeros(2, 2)}))


def test_network_can_be_trained() -> None:
    network, _ = rebuilt(evidence_of(Lists((4, 8), double, transposed).state_dict()))
    image = image_for(1, 8, 8)
    before = image.clone()

    network.train()(image).sum().backward()

    assert all(parameter.grad is not None for parameter in network.parameters())
    assert torch.equal(image, before)


def test_family_is_asked_last() -> None:
    assert FAMILY.last
