"""What all tests share: no user's settings or projects are ever read or written."""

import os
import signal
import sys
import tempfile
from pathlib import Path

import pytest

# torch reads this when it is imported: its waiting threads let others work, as in the plugin.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

from napari_unet import preferences

# napari reads this when it is imported, so it must be set before.
_SETTINGS = tempfile.TemporaryDirectory(prefix="napari-unet-live-", ignore_cleanup_errors=True)
os.environ["NAPARI_CONFIG"] = str(Path(_SETTINGS.name) / "settings.yaml")

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session", autouse=True)
def ctrl_c_is_heard():
    """A shell ignores Ctrl+C in what it runs in the background, and so would the tests."""
    before = signal.getsignal(signal.SIGINT)
    if before is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(autouse=True)
def projects_folder(tmp_path, monkeypatch):
    """Where this test's corrections, models and history go."""
    folder = tmp_path / "projects"
    monkeypatch.setenv("NAPARI_UNET_PROJECTS", str(folder))
    monkeypatch.setenv("NAPARI_UNET_ANSWERS", str(tmp_path / "answers"))
    preferences._settings.cache_clear()  # napari's fixtures make new ones for each test
    return folder


@pytest.fixture(autouse=True)
def no_thread_is_left(request):
    """A test with Qt ends when its worker threads do: a stray one crashes later tests."""
    yield
    if "qtpy.QtCore" not in sys.modules or "qapp" not in request.fixturenames:
        return
    from qtpy.QtCore import QThreadPool

    pool = QThreadPool.globalInstance()
    assert pool.waitForDone(10_000), f"{pool.activeThreadCount()} worker threads still run"


@pytest.fixture
def make_tiny_model():
    """Makes networks by hand: an object is whatever is brighter than half of the range."""

    def make(name="tiny", in_channels=1, n_classes=2, **about):
        import torch

        from napari_unet.core.device import choose_device
        from napari_unet.core.model import Description, Model, weights_id
        from napari_unet.core.networks import UNet, UNetConfig
        from napari_unet.core.settings import ObjectSettings

        config = UNetConfig(
            in_channels=in_channels, out_channels=n_classes, widths=(4,), norm="none"
        )
        network = UNet(config).eval()
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for convolution in (network.encoder[0][0], network.encoder[0][2]):
                convolution.weight.copy_(
                    0.02 * torch.randn(convolution.weight.shape, generator=generator)
                )
                convolution.weight[0] = 0
                convolution.weight[0, 0, 1, 1] = 1  # the first channel goes straight through
            network.head.weight.zero_()
            network.head.bias.fill_(-20)
            network.head.weight[1, 0] = 20
            network.head.bias[:2] = torch.tensor([0.0, -10.0])
        names = ("background", "object", *(f"class {i}" for i in range(2, n_classes)))
        description = Description(
            name=name, in_channels=in_channels, class_names=names, outputs=names,
            output_class=tuple(range(n_classes)), card="# A tiny model",
            objects=ObjectSettings(threshold=0.5, min_size=0, split=0.0), **about,
        )  # fmt: skip
        return Model(
            network=network, architecture="unet", config=config, description=description,
            device=choose_device("cpu"), id=weights_id(network),
        )  # fmt: skip

    return make


@pytest.fixture
def tiny_model(make_tiny_model):
    return make_tiny_model()


@pytest.fixture
def tiny_file(tiny_model, tmp_path):
    """The tiny model as a file."""
    from napari_unet.core.model import save_model

    save_model(tiny_model, tmp_path / "tiny.safetensors")
    return tmp_path / "tiny.safetensors"


def pytest_sessionfinish():
    _SETTINGS.cleanup()
