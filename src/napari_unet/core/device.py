"""Which device and which precision to use, and why."""

from __future__ import annotations

import platform
import re
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cache

import torch

from napari_unet.core.errors import SettingsError

__all__ = ["Device", "autocast", "choose_device", "processor_has_bfloat16", "release_memory"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """A torch device, its name for people, and the reason for the choice."""

    name: str
    label: str
    reason: str

    @property
    def torch_device(self) -> torch.device:
        """The device as torch knows it."""
        return torch.device(self.name)


def choose_device(wanted: str = "auto") -> Device:
    """Choose a GPU if torch can use one, else the processor, and say why.

    Raises
    ------
    SettingsError
        If `wanted` is not "auto", "cpu", "mps", "cuda" or "cuda:N", or is not there.
    """
    if wanted == "auto":
        return _automatic()
    if wanted == "cpu":
        return _processor("you chose the processor")
    if re.fullmatch(r"cuda(:\d+)?", wanted) and torch.cuda.is_available() and _cuda_works():
        return _chosen_cuda(wanted)
    if wanted == "mps" and torch.backends.mps.is_available():
        return Device(name="mps", label="Apple GPU", reason="you chose it")
    if re.fullmatch(r"cuda(:\d+)?|mps", wanted):
        raise SettingsError(
            f"The device {wanted!r} was asked for, but {_why_no_gpu()}. Use device='auto' or 'cpu'."
        )
    raise SettingsError(
        f"The device must be 'auto', 'cpu', 'cuda', 'cuda:1' and so on, or 'mps', not {wanted!r}."
    )


def _automatic() -> Device:
    if torch.cuda.is_available() and _cuda_works():
        return _cuda("cuda", "it is the fastest device here")
    if torch.backends.mps.is_available():
        return Device(name="mps", label="Apple GPU", reason="it is the fastest device here")
    return _processor(_why_no_gpu())


def _processor(reason: str) -> Device:
    n_threads = torch.get_num_threads()
    label = f"processor, {n_threads} thread{'' if n_threads == 1 else 's'}"
    return Device(name="cpu", label=label, reason=reason)


def _chosen_cuda(name: str) -> Device:
    n_gpus = torch.cuda.device_count()
    if int(name.partition(":")[2] or 0) >= n_gpus:
        raise SettingsError(
            f"The device {name!r} was asked for, but torch finds {n_gpus} GPU(s), counted from "
            "cuda:0. Use one of those, or device='auto'."
        )
    return _cuda(name, "you chose it")


def _cuda(name: str, reason: str) -> Device:
    properties = torch.cuda.get_device_properties(torch.device(name))
    memory = properties.total_memory / 2**30
    label = f"{properties.name}, {memory:.0f} GB, CUDA {torch.version.cuda}"
    return Device(name=name, label=label, reason=reason)


@cache
def _cuda_works() -> bool:
    """Whether a kernel really runs; a GPU can be too old for this build of torch."""
    try:
        return bool((torch.ones(2, device="cuda") + 1).sum().item() == 4)
    except RuntimeError:
        return False


def _why_no_gpu() -> str:
    if torch.version.cuda is None and getattr(torch.version, "hip", None) is None:
        if platform.system() == "Darwin":
            return "this Mac has no GPU that torch can use"
        return "this build of torch is CPU-only"
    if torch.cuda.is_available():
        return f"the GPU is too old for this build of torch (CUDA {torch.version.cuda})"
    return "torch finds no GPU (no NVIDIA card, or its driver is missing or too old)"


@cache
def processor_has_bfloat16() -> bool:
    """Whether the processor multiplies bfloat16 in hardware (AVX512-BF16 or AMX)."""
    # NOTE: torch offers no public query that works back to torch 2.6.
    query = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
    try:
        return bool(query()) if query is not None else False
    except (RuntimeError, AttributeError):
        return False


def autocast(device: torch.device, dims: int = 2) -> AbstractContextManager[object]:
    """Mixed precision for training where the device gains from it, else nothing.

    NOTE: not for the gradients of volumes on a processor. Where a 3D convolution sees two slices,
    torch 2.13 gives other ones of its bfloat16 weights each time, some of them no numbers.

    Parameters
    ----------
    dims : of what the network learns from, 2 or 3; without gradients volumes do no harm.
    """
    if device.type == "cuda" and torch.cuda.is_bf16_supported():
        return torch.autocast("cuda", dtype=torch.bfloat16)
    if device.type == "cpu" and dims == 2 and processor_has_bfloat16():
        return torch.autocast("cpu", dtype=torch.bfloat16)
    return nullcontext()


def release_memory(device: torch.device) -> None:
    """Give memory that a finished job held back to the GPU."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
    elif device.type == "mps":
        torch.mps.empty_cache()
