"""Which device is chosen, and the reasons given."""

from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch

from napari_unet.core import device
from napari_unet.core.device import autocast, choose_device, release_memory
from napari_unet.core.errors import SettingsError


@pytest.fixture
def no_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    monkeypatch.setattr(device.platform, "system", lambda: "Linux")


@pytest.fixture
def one_gpu(monkeypatch):
    """A torch that says it has one working GPU."""
    properties = SimpleNamespace(name="Test GPU", total_memory=8 * 2**30)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda name: properties)
    monkeypatch.setattr(torch.version, "cuda", "12.6")
    monkeypatch.setattr(device, "_cuda_works", lambda: True)


@pytest.mark.parametrize("name", ["gpu", "", "CPU", "cudax", "cuda:", "cuda:one", "mps:0", "xpu"])
def test_unknown_names_are_refused(name, one_gpu):
    with pytest.raises(SettingsError, match="must be 'auto', 'cpu', 'cuda'"):
        choose_device(name)


def test_the_processor_when_asked_for():
    chosen = choose_device("cpu")
    assert chosen.name == "cpu"
    assert chosen.torch_device == torch.device("cpu")
    assert chosen.reason == "you chose the processor"
    assert f"{torch.get_num_threads()} threads" in chosen.label


def test_a_cpu_only_build_says_so(monkeypatch, no_gpu):
    monkeypatch.setattr(torch.version, "cuda", None)
    monkeypatch.setattr(torch.version, "hip", None, raising=False)
    assert choose_device().name == "cpu"
    assert choose_device().reason == "this build of torch is CPU-only"
    for name in ("cuda", "cuda:1", "mps"):
        with pytest.raises(SettingsError, match=f"'{name}' .* CPU-only.*'auto' or 'cpu'"):
            choose_device(name)


def test_no_driver_says_so(monkeypatch, no_gpu):
    monkeypatch.setattr(torch.version, "cuda", "12.6")
    assert choose_device("auto").name == "cpu"
    assert "driver is missing or too old" in choose_device("auto").reason


def test_an_old_mac_says_so(monkeypatch, no_gpu):
    monkeypatch.setattr(torch.version, "cuda", None)
    monkeypatch.setattr(torch.version, "hip", None, raising=False)
    monkeypatch.setattr(device.platform, "system", lambda: "Darwin")
    assert choose_device("auto").reason == "this Mac has no GPU that torch can use"


def test_an_apple_gpu_is_used(monkeypatch, no_gpu):
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert [choose_device(name).name for name in ("auto", "mps", "cpu")] == ["mps", "mps", "cpu"]


def test_a_gpu_is_used(one_gpu):
    chosen = choose_device("auto")
    assert (chosen.name, chosen.label) == ("cuda", "Test GPU, 8 GB, CUDA 12.6")
    assert chosen.reason == "it is the fastest device here"
    assert [choose_device(name).name for name in ("cuda", "cuda:0")] == ["cuda", "cuda:0"]
    assert choose_device("cuda:0").reason == "you chose it"


@pytest.mark.parametrize("name", ["cuda:1", "cuda:12"])
def test_a_gpu_that_is_not_there_is_a_sentence_not_a_runtime_error(one_gpu, name):
    with pytest.raises(SettingsError, match=f"'{name}' .* 1 GPU"):
        choose_device(name)


def test_a_gpu_that_is_too_old(monkeypatch, one_gpu):
    monkeypatch.setattr(device, "_cuda_works", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert choose_device("auto").name == "cpu"
    assert "too old for this build of torch (CUDA 12.6)" in choose_device("auto").reason
    with pytest.raises(SettingsError, match="too old"):
        choose_device("cuda")


def test_mixed_precision_only_where_it_gains(monkeypatch):
    cpu = torch.device("cpu")
    monkeypatch.setattr(device, "processor_has_bfloat16", lambda: False)
    assert isinstance(autocast(cpu), nullcontext)
    monkeypatch.setattr(device, "processor_has_bfloat16", lambda: True)
    with autocast(cpu):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.bfloat16
    assert isinstance(autocast(torch.device("mps")), nullcontext)


def test_asking_for_bfloat16_never_fails():
    assert device.processor_has_bfloat16() in (True, False)


def test_memory_is_released_on_each_kind(monkeypatch):
    released = []
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: released.append("cuda"))
    monkeypatch.setattr(torch.mps, "empty_cache", lambda: released.append("mps"))
    for name in ("cpu", "cuda", "mps"):
        release_memory(torch.device(name))
    assert released == ["cuda", "mps"]
