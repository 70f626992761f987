"""Tiles give the result of the whole image, in the right order, and survive a lack of memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import dask.array as da
import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor, nn

from napari_unet.core import prediction
from napari_unet.core.errors import DeviceMemoryError, ImageError, SettingsError, UNetLiveError
from napari_unet.core.image import Image, make_image
from napari_unet.core.networks import UNet, UNetConfig
from napari_unet.core.normalization import IntensityScale, match_channels, normalise
from napari_unet.core.prediction import TileDone, predict
from napari_unet.core.progress import finish

ONE = IntensityScale(offset=(0.0,), scale=(1.0,))
SMALL = UNetConfig(widths=(4, 8, 8), out_channels=3)


class Identity(nn.Module):
    """Gives back what it is shown, and remembers how large that was."""

    def __init__(self, dims: int = 2, in_channels: int = 1, stride: int = 1, halo: int = 0) -> None:
        super().__init__()
        self.config: Any = SimpleNamespace(
            dims=dims, in_channels=in_channels, stride=stride, halo=halo
        )
        self.shapes: list[tuple[int, ...]] = []

    def forward(self, image: Tensor) -> Tensor:
        """`(b, c, [z,] y, x)` unchanged."""
        self.shapes.append(tuple(image.shape[2:]))
        return image.clone()


class BlockMeans(Identity):
    """The mean of each block of 4 px: sees the padding at the far end, and needs no halo."""

    def __init__(self) -> None:
        super().__init__(stride=4)

    def forward(self, image: Tensor) -> Tensor:
        """`(b, c, y, x)` to block means of the same size."""
        return nn.functional.avg_pool2d(image, 4).repeat_interleave(4, -1).repeat_interleave(4, -2)


class Failing(nn.Module):
    """A network that fails where `fails` says so, given the number of px it is shown."""

    def __init__(self, network: nn.Module, fails: Callable[[int], None]) -> None:
        super().__init__()
        self.network = network
        self.config = network.config
        self.fails = fails

    def forward(self, image: Tensor) -> Tensor:
        """`(b, c, [z,] y, x)` to logits, or an error."""
        self.fails(image[0, 0].numel())
        logits: Tensor = self.network(image)
        return logits


def unet(config: UNetConfig = SMALL, seed: int = 0) -> UNet:
    """A U-Net whose batch normalisation has seen something."""
    torch.manual_seed(seed)
    network = UNet(config)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d | nn.BatchNorm3d):
            nn.init.normal_(module.running_mean, 0, 0.3)  # type: ignore[arg-type]
            nn.init.uniform_(module.running_var, 0.5, 2)  # type: ignore[arg-type]
            nn.init.uniform_(module.weight, 0.7, 1.5)
            nn.init.normal_(module.bias, 0, 0.3)
    return network.eval()


def whole(
    network: nn.Module, image: Image, index: tuple[int, ...] = (), scale: IntensityScale = ONE
) -> npt.NDArray[np.float32]:
    """Probabilities `(output, [z,] y, x)` of one run on the whole plane or volume."""
    config: Any = network.config
    shape = image.spatial_shape(config.dims)
    raw = image.read(index, tuple(slice(0, n) for n in shape))
    shown = match_channels(normalise(raw, scale), config.in_channels)
    padding = [(0, 0)] + [(0, -n % config.stride) for n in shape]
    shown = np.pad(shown, padding, mode="reflect")
    with torch.no_grad():
        logits = network(torch.from_numpy(shown)[None])[0]
    return logits[(slice(None), *(slice(0, n) for n in shape))].softmax(dim=0).numpy()


def picture(*shape: int, seed: int = 1) -> Image:
    """Noise on a gradient, `([z,] y, x)` float32."""
    generator = np.random.default_rng(seed)
    gradient = np.linspace(-1, 1, shape[-1])
    array = generator.normal(0, 1, shape).astype(np.float32) + gradient.astype(np.float32)
    return make_image(array, "zyx"[-len(shape) :])


def room(n_outputs: int, image: Image, dtype: Any = np.float32) -> npt.NDArray[Any]:
    """Room for a result, `(output, ...)`, filled with what no network gives."""
    return np.full((n_outputs, *image.label_shape), -7, dtype)


def run(network: nn.Module, image: Image, n_outputs: int = 3, **settings: Any) -> npt.NDArray[Any]:
    """Predict to the end."""
    out = room(n_outputs, image)
    finish(predict(network, image, ONE, out, **settings))
    return out


# --- exactness ---------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(1, 1), (3, 50), (33, 47), (64, 64)])
@pytest.mark.parametrize("tile_size", [5, 16, 200])
@pytest.mark.parametrize(("stride", "halo"), [(1, 0), (4, 0), (8, 24)])
def test_an_identity_network_gives_the_image(
    shape: tuple[int, int], tile_size: int, stride: int, halo: int
) -> None:
    image = picture(*shape)
    network = Identity(stride=stride, halo=halo)
    out = run(network, image, 1, tile_size=tile_size, activation="none")
    expected = np.clip(image.array, -1, 4)
    np.testing.assert_array_equal(out[0], expected)
    assert all(n % stride == 0 for sizes in network.shapes for n in sizes)


@pytest.mark.parametrize("shape", [(1, 2), (17, 9), (19, 34)])
@pytest.mark.parametrize("tile_size", [4, 8, 100])
def test_tiles_see_the_same_padding_as_the_whole_image(
    shape: tuple[int, int], tile_size: int
) -> None:
    image = picture(*shape)
    out = run(BlockMeans(), image, 1, tile_size=tile_size, activation="none")
    padded = np.pad(np.clip(image.array, -1, 4), [(0, -n % 4) for n in shape], mode="reflect")
    blocks = padded.reshape(padded.shape[0] // 4, 4, -1, 4).mean(axis=(1, 3))
    expected = np.kron(blocks, np.ones((4, 4)))[: shape[0], : shape[1]]
    np.testing.assert_allclose(out[0], expected, atol=1e-6)


@pytest.mark.parametrize("shape", [(1, 1), (2, 90), (97, 130), (128, 64)])
@pytest.mark.parametrize("tile_size", [16, 40, 64, 1000, None])
@pytest.mark.parametrize(
    "config",
    [
        SMALL,
        replace(SMALL, upsampling="linear"),
        replace(SMALL, norm="none"),
        replace(SMALL, widths=(4, 4, 4, 4)),
        replace(SMALL, widths=(4, 8), upsampling="linear"),
        replace(SMALL, widths=(8,)),
    ],
    ids=["batch", "linear", "no norm", "4 levels", "2 levels", "1 level"],
)
def test_tiles_give_the_result_of_the_whole_image(
    config: UNetConfig, shape: tuple[int, int], tile_size: int | None
) -> None:
    network, image = unet(config), picture(*shape)
    expected = whole(network, image)
    out = run(network, image, tile_size=tile_size)
    np.testing.assert_allclose(out, expected, rtol=0, atol=1e-5)
    np.testing.assert_array_equal(out.argmax(axis=0), expected.argmax(axis=0))


@pytest.mark.parametrize("shape", [(1, 3, 5), (9, 30, 41), (24, 16, 40)])
@pytest.mark.parametrize("tile_size", [8, 16, None])
@pytest.mark.parametrize("upsampling", ["transposed", "linear"])
def test_tiles_give_the_result_of_the_whole_volume(
    upsampling: Any, shape: tuple[int, int, int], tile_size: int | None
) -> None:
    config = replace(SMALL, dims=3, widths=(3, 4, 4), upsampling=upsampling)
    network, image = unet(config), picture(*shape)
    expected = whole(network, image)
    out = run(network, image, tile_size=tile_size)
    np.testing.assert_allclose(out, expected, rtol=0, atol=1e-5)
    np.testing.assert_array_equal(out.argmax(axis=0), expected.argmax(axis=0))


def test_a_smaller_halo_would_not_be_exact() -> None:
    network, image = unet(), picture(97, 130)
    expected = whole(network, image)
    network.config = SimpleNamespace(dims=2, in_channels=1, stride=4, halo=8)  # type: ignore
    assert np.abs(run(network, image, tile_size=32) - expected).max() > 1e-4


@pytest.mark.parametrize("axes", ["tzyx", "ztcyx", "czyx", "yxc"])
def test_steps_through_all_other_axes(axes: str) -> None:
    sizes = {"t": 2, "z": 3, "c": 3, "y": 21, "x": 30}
    generator = np.random.default_rng(3)
    image = make_image(generator.integers(0, 4, [sizes[a] for a in axes]).astype(">u2"), axes)
    scale = IntensityScale(
        offset=(0.5, 1.0, 1.5)[: image.n_channels], scale=(1.0, 2.0, 3.0)[: image.n_channels]
    )
    network = unet(replace(SMALL, in_channels=3))
    out = room(3, image, np.float16)
    finish(predict(network, image, scale, out, tile_size=16))
    for index in np.ndindex(*image.index_shape(2)):
        expected = whole(network, image, index, scale)
        np.testing.assert_allclose(out[(slice(None), *index)], expected, rtol=0, atol=1e-3)


def test_a_3d_network_steps_through_time_only() -> None:
    generator = np.random.default_rng(3)
    image = make_image(generator.random((2, 5, 12, 18)).astype(np.float32), "tzyx")
    network = unet(replace(SMALL, dims=3, widths=(4, 4)))
    out = room(3, image)
    regions = [tile.region for tile in predict(network, image, ONE, out, tile_size=8)]
    assert {region.index for region in regions} == {(0,), (1,)}
    for t in range(2):
        np.testing.assert_allclose(out[:, t], whole(network, image, (t,)), rtol=0, atol=1e-5)


@pytest.mark.parametrize("activation", ["softmax", "sigmoid", "none"])
def test_activations(activation: Any) -> None:
    image = make_image(np.array([[[0.0, 1.0]], [[2.0, -0.5]]]), "cyx")
    out = run(Identity(in_channels=2), image, 2, activation=activation)
    logits = image.array
    expected = {
        "softmax": np.exp(logits) / np.exp(logits).sum(axis=0),
        "sigmoid": 1 / (1 + np.exp(-logits)),
        "none": logits,
    }[activation]
    np.testing.assert_allclose(out, expected, atol=1e-6)


def test_the_network_and_the_image_stay_as_they_are() -> None:
    network, image = unet(), picture(40, 40)
    weights = {name: weight.clone() for name, weight in network.state_dict().items()}
    before = image.array.copy()
    run(network, image, tile_size=16)
    np.testing.assert_array_equal(image.array, before)
    for name, weight in network.state_dict().items():
        assert torch.equal(weight, weights[name])
        assert weight.stride() == weights[name].stride()


# --- order, progress, stopping -----------------------------------------------------------------


def regions_of(image: Image, **settings: Any) -> list[TileDone]:
    """What comes, one after another."""
    return list(predict(Identity(), image, ONE, room(1, image), activation="none", **settings))


def test_the_plane_and_the_tile_in_focus_come_first() -> None:
    image = picture(5, 64, 96)
    tiles = regions_of(image, tile_size=32, focus=(3, 40.0, 70.5))
    assert [tile.region.index[0] for tile in tiles[::6]] == [3, 2, 4, 1, 0]
    first, second = tiles[0].region, tiles[6].region
    assert first.window == second.window == (slice(32, 64), slice(64, 96))
    assert tiles[5].region.window == (slice(0, 32), slice(0, 32))
    assert [(tile.done, tile.total) for tile in tiles] == [(i, 30) for i in range(1, 31)]


def test_only_the_planes_asked_for_are_filled() -> None:
    image = picture(4, 20, 20)
    out = room(1, image)
    work = predict(Identity(), image, ONE, out, activation="none", indices=[(2,), (0,)])
    assert [tile.region.index for tile in work] == [(2,), (0,)]
    assert (out[0, [1, 3]] == -7).all()
    assert (out[0, [0, 2]] != -7).all()
    assert regions_of(image, indices=[]) == []


def test_stopped_half_way_what_is_done_stays() -> None:
    network, image = unet(), picture(64, 64)
    expected, out = whole(network, image), room(3, image)
    work = predict(network, image, ONE, out, tile_size=32, focus=(60, 60))
    regions = [next(work).region, next(work).region]
    work.close()
    done = np.zeros(image.label_shape, bool)
    for region in regions:
        done[region.window] = True
    assert done.sum() == 2 * 32 * 32
    np.testing.assert_allclose(out[:, done], expected[:, done], rtol=0, atol=1e-5)
    assert (out[:, ~done] == -7).all()


def test_training_can_follow_on_the_same_thread_after_a_stop() -> None:
    network, image = unet(), picture(64, 64)
    work = predict(network, image, ONE, room(3, image), tile_size=32)
    next(work)
    assert not torch.is_inference_mode_enabled()
    assert torch.is_grad_enabled()
    work.close()
    network.train()
    network(torch.rand(1, 1, 16, 16)).sum().backward()


# --- tile size ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pixels_per_second", "shape", "n_tiles"),
    [
        (1e12, (1300, 500), 2),
        (1e12, (300, 200), 1),
        (1.0, (300, 200), 4),
        (0.0, (128, 100), 1),
        (300 * 300 / prediction.SECONDS_PER_TILE, (300, 600), 2),
    ],
)
def test_the_tile_size_follows_from_the_speed(
    monkeypatch: pytest.MonkeyPatch, pixels_per_second: float, shape: tuple[int, int], n_tiles: int
) -> None:
    monkeypatch.setattr(prediction, "_pixels_per_second", lambda *_: pixels_per_second)
    assert len(regions_of(picture(*shape))) == n_tiles


@pytest.mark.parametrize(("dims", "stride"), [(2, 1), (2, 48), (3, 16)])
def test_the_speed_is_measured_on_a_piece_that_fits(dims: int, stride: int) -> None:
    network = Identity(dims=dims, stride=stride)
    assert prediction._pixels_per_second(network, network.config) > 1000
    size = -(-prediction.PROBE_SIZE[dims] // stride) * stride
    assert network.shapes == [(size,) * dims] * 2


# --- lazy arrays -------------------------------------------------------------------------------


def test_a_lazy_image_is_read_tile_by_tile() -> None:
    computed: list[tuple[int, ...]] = []

    def block(block_info: Any = None) -> npt.NDArray[np.float32]:
        computed.append(block_info[None]["chunk-location"])
        return values[tuple(slice(*part) for part in block_info[None]["array-location"])]

    values = np.asarray(picture(3, 256, 256).array)
    chunks = ((1,) * 3, (64,) * 4, (64,) * 4)
    array = da.map_blocks(block, chunks=chunks, dtype=np.float32, meta=values[:0, :0, :0])
    image = make_image(array, "zyx")
    network, out = unet(), room(3, image)
    work = predict(network, image, ONE, out, tile_size=64, focus=(1, 0, 0))
    seen = [len(set(computed))]
    for tile in work:
        assert {location[0] for location in computed} == {tile.region.index[0]}
        assert len(computed) == len(set(computed)) <= 9
        seen.append(len(computed))
        computed.clear()
    assert seen[:2] == [0, 4]
    assert len(seen) == 1 + 3 * 16
    np.testing.assert_allclose(
        out[:, 2], whole(network, make_image(values, "zyx"), (2,)), rtol=0, atol=1e-5
    )


# --- what goes wrong ---------------------------------------------------------------------------

LACKS_OF_MEMORY = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:72] DefaultCPUAllocator: not enough memory"),
    RuntimeError("MPS backend out of memory"),
    RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    MemoryError(),
]


def limited(network: nn.Module, n_pixels: int, error: Exception) -> Failing:
    """The network on a device that has memory for `n_pixels` px."""

    def fails(n: int) -> None:
        if n > n_pixels:
            raise error

    return Failing(network, fails).eval()


@pytest.mark.parametrize("error", LACKS_OF_MEMORY, ids=lambda error: str(error)[-30:])
def test_goes_on_in_smaller_tiles_when_the_memory_runs_out(error: Exception) -> None:
    network, image = unet(), picture(2, 300, 280)
    out = room(3, image)
    work = predict(limited(network, 120 * 120, error), image, ONE, out, focus=(1, 150, 150))
    tiles = list(work)
    assert max(w.stop - w.start for tile in tiles for w in tile.region.window) <= 80
    assert tiles[-1].done == tiles[-1].total == len(tiles)
    for z in range(2):
        np.testing.assert_allclose(out[:, z], whole(network, image, (z,)), rtol=0, atol=1e-5)


def test_finished_tiles_stay_when_the_memory_runs_out_later() -> None:
    calls = []

    def fails(n: int) -> None:
        calls.append(n)
        if len(calls) > 2 and n > 120 * 120:
            raise torch.OutOfMemoryError("CUDA out of memory")

    network, image = unet(), picture(256, 256)
    out = room(3, image)
    tiles = list(predict(Failing(network, fails), image, ONE, out, tile_size=128))
    sizes = [tile.region.window[0].stop - tile.region.window[0].start for tile in tiles]
    assert sizes == [128] * 2 + [64] * 8
    assert [tile.total for tile in tiles] == [4] * 2 + [10] * 8
    filled = np.zeros(image.label_shape, int)
    for tile in tiles:
        filled[tile.region.window] += 1
    assert (filled == 1).all()
    np.testing.assert_allclose(out, whole(network, image), rtol=0, atol=1e-5)


def test_says_so_when_the_smallest_tile_is_too_large() -> None:
    image = picture(300, 300)
    network = limited(unet(), 1000, LACKS_OF_MEMORY[0])
    with pytest.raises(DeviceMemoryError, match=r"tile of 64 px\. Close other programs"):
        run(network, image)


def test_recognises_a_real_lack_of_memory() -> None:
    def fails(n: int) -> None:
        torch.empty(2**55)

    with pytest.raises(DeviceMemoryError, match="memory of this computer"):
        run(Failing(unet(), fails), picture(40, 40))


def test_no_runtime_error_comes_out() -> None:
    error = RuntimeError("Expected 3 channels\nand more lines")

    def fails(n: int) -> None:
        raise error

    with pytest.raises(UNetLiveError, match=r"tile of 40 x 44 px \(Expected 3 channels\)\. ") as e:
        run(Failing(unet(), fails), picture(40, 42))
    assert e.value.__cause__ is error
    assert not isinstance(e.value, RuntimeError)


@pytest.mark.parametrize("error", [OSError("the disk is gone"), RuntimeError("bad chunk")])
def test_an_unreadable_image_is_a_sentence(error: Exception) -> None:
    class Broken:
        shape, dtype = (40, 40), np.dtype(np.uint8)

        def __getitem__(self, where: object) -> None:
            raise error

    image = make_image(Broken(), name="scan")
    with pytest.raises(ImageError, match=f"'scan' could not be read: {error}") as e:
        run(unet(), image)
    assert e.value.__cause__ is error


def test_refuses_what_does_not_fit_together() -> None:
    two = make_image(np.zeros((2, 20, 20)), "cyx", "pair")
    with pytest.raises(ImageError, match=r"'pair' has 2 channels .* takes 3"):
        run(unet(replace(SMALL, in_channels=3)), two)
    with pytest.raises(ImageError, match="works on volumes"):
        run(unet(replace(SMALL, dims=3)), picture(20, 20))
    with pytest.raises(ImageError, match=r"needs \(output, 20, 20\)"):
        finish(predict(unet(), picture(20, 20), ONE, np.zeros((3, 20, 21), np.float32)))
    with pytest.raises(ImageError, match=r"gives \(3, 20, 20\)"):
        run(unet(), picture(20, 20), n_outputs=2)
    with pytest.raises(SettingsError, match="focus must have a number for each"):
        run(unet(), picture(20, 20), focus=(1, 2, 3))


def test_gives_memory_back_however_it_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    released: list[torch.device] = []
    monkeypatch.setattr(prediction, "release_memory", released.append)
    image = picture(64, 64)
    run(unet(), image, tile_size=32)
    assert released == [torch.device("cpu")]
    work = predict(unet(), image, ONE, room(3, image), tile_size=32)
    next(work)
    work.close()
    assert len(released) == 2
    with pytest.raises(DeviceMemoryError):
        run(limited(unet(), 10, MemoryError()), image, tile_size=64)
    assert len(released) == 4  # once before it gives up, once at the end
