"""Files that are bad or mean harm, opened from the path: a sentence, and nothing else happens."""

from __future__ import annotations

import base64
import io
import json
import os
import pickle
import random
import resource
import struct
import sys
import tarfile
import time
import warnings
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from napari_unet import UNetLiveError, load_model, save_model, segment
from napari_unet.core.errors import ChoiceNeeded, ModelFileError
from napari_unet.core.model import Model

FIXTURES = Path(__file__).parents[2] / "fixtures" / "checkpoints"
MAX_GROWTH = 300_000
"""By how many kB the memory of this process may grow while a bad file is read."""
MAX_SECONDS = 20
N_MUTANTS = 150

Weights = dict[str, Any]


# ---- what is looked for while a file is open


class Watch:
    """What Python does behind the back of a file: processes, sockets, files that are written."""

    HARMFUL = (
        "subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.fork", "os.spawn",
        "socket.connect", "socket.bind", "socket.getaddrinfo", "os.remove", "os.rename",
        "os.mkdir", "os.link", "os.symlink", "os.chmod", "shutil.rmtree", "shutil.copyfile",
        "pickle.find_class", "ctypes.dlopen", "webbrowser.open", "urllib.Request",
    )  # fmt: skip

    def __init__(self) -> None:
        self.is_on = False
        self.seen: list[str] = []

    def __call__(self, event: str, args: tuple[Any, ...]) -> None:
        if not self.is_on:
            return
        harmful = event in self.HARMFUL and "torchinductor" not in str(args)  # made on its import
        if harmful or (event == "open" and _is_for_writing(args)):
            self.seen.append(f"{event} {args}"[:200])


def _is_for_writing(args: tuple[Any, ...]) -> bool:
    path, mode, flags = args
    if not isinstance(path, str | bytes) or "__pycache__" in os.fsdecode(path):
        return False
    if isinstance(mode, str):
        return any(letter in mode for letter in "wax+")
    return bool(flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))


WATCH = Watch()
sys.addaudithook(WATCH)  # which cannot be taken back, but is off outside of `watched`


@pytest.fixture(scope="module", autouse=True)
def imported() -> None:
    """What is imported only when it is needed is there before anything is watched."""
    for name in ("milesial/d_transposed.pt", "keras/tutorial.keras", "bioimageio/example.zip"):
        load_model(FIXTURES / name, "cpu")


@pytest.fixture(autouse=True)
def watched(imported: None, tmp_path: Path) -> Iterator[None]:
    """No harm is done, little memory is used, and it is over soon."""
    yield
    assert WATCH.seen == []


def attempt(path: Path | str) -> Model:
    """Open a file under guard."""
    WATCH.seen.clear()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.monotonic()
    WATCH.is_on = True
    try:
        return load_model(path, "cpu")
    finally:
        WATCH.is_on = False
        assert time.monotonic() - start < MAX_SECONDS
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < MAX_GROWTH


def declined(path: Path | str) -> str:
    """The sentence with which a file is declined."""
    with pytest.raises(ModelFileError) as caught:
        attempt(path)
    sentence = str(caught.value)
    assert len(sentence) < 2000
    assert is_plain(sentence)
    assert "not foreseen" not in sentence
    return sentence


def is_plain(text: str) -> bool:
    """Whether it is text of one or more lines, and nothing that steers a terminal."""
    return text.replace("\n", "").isprintable()


def says(sentence: str, *words: str) -> None:
    for word in words:
        assert word.lower() in sentence.lower(), sentence


# ---- what the files are made of


def weights() -> Weights:
    """Of a U-Net that is known."""
    held = torch.load(FIXTURES / "milesial" / "d_transposed.pt", weights_only=True)
    return {name: value for name, value in held.items() if isinstance(value, Tensor)}


def saved(content: Any, path: Path, **options: Any) -> Path:
    torch.save(content, path, **options)
    return path


def zipped(path: Path, members: dict[str, bytes], compression: int = 0) -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def members_of(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


class Call:
    """Pickles into a call."""

    def __init__(self, function: Any, *args: Any) -> None:
        self.function, self.args = function, args

    def __reduce__(self) -> tuple[Any, ...]:
        return self.function, self.args


class Little(nn.Module):
    """The smallest U-Net there is."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(1, 2, 3, padding=1), nn.Conv2d(2, 4, 3, padding=1)
        self.up, self.three = nn.ConvTranspose2d(4, 2, 2, 2), nn.Conv2d(4, 2, 3, padding=1)
        self.last = nn.Conv2d(2, 2, 1)

    def forward(self, image: Tensor) -> Tensor:
        """Scores `(n, 2, y, x)`."""
        first = torch.relu(self.one(image))
        below = torch.relu(self.two(nn.functional.max_pool2d(first, 2)))
        return self.last(torch.relu(self.three(torch.cat([first, self.up(below)], 1))))


# ---- the rows of the list


def test_1_an_empty_file(tmp_path: Path) -> None:
    (tmp_path / "net.pth").write_bytes(b"")
    says(declined(tmp_path / "net.pth"), "empty", "0 bytes", "again")


@pytest.mark.parametrize("n_left", [1, 100, 0.5, 0.9])
def test_2_an_incomplete_file(n_left: float, tmp_path: Path) -> None:
    content = saved(weights(), tmp_path / "net.pth").read_bytes()
    n_kept = -int(n_left) if n_left >= 1 else int(len(content) * n_left)
    (tmp_path / "net.pth").write_bytes(content[:n_kept])
    says(declined(tmp_path / "net.pth"), "incomplete", "again")


def test_3_a_placeholder_of_git_lfs(tmp_path: Path) -> None:
    (tmp_path / "net.pth").write_text(
        f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 124000000\n"
    )
    says(declined(tmp_path / "net.pth"), "Git-LFS", "placeholder", "124", "git lfs pull")


def test_4_a_web_page(tmp_path: Path) -> None:
    page = "<!DOCTYPE html><html><head><title>Drive - Virus scan warning</title></head></html>"
    (tmp_path / "net.pth").write_text(page)
    says(declined(tmp_path / "net.pth"), "web page", "Virus scan warning", "download")


@pytest.mark.parametrize(
    "text", ['{"message": "Not Found"}', "<?xml version='1.0'?><Error>Not Found</Error>"]
)
def test_5_an_error_of_a_server(text: str, tmp_path: Path) -> None:
    (tmp_path / "net.pth").write_text(text)
    says(declined(tmp_path / "net.pth"), "text file", "Not Found")


@pytest.mark.parametrize("new", [True, False])
def test_6_a_pickle_that_runs_a_program(new: bool, tmp_path: Path) -> None:
    held = {"state_dict": weights(), "epoch": Call(os.system, f"touch {tmp_path / 'touched'}")}
    path = saved(held, tmp_path / "net.pth", _use_new_zipfile_serialization=new)
    model = attempt(path)
    assert not (tmp_path / "touched").exists()
    says(" ".join(model.description.notes), "run code", "system", "Nothing was run")

    saved(Call(os.system, f"touch {tmp_path / 'touched'}"), path)
    says(declined(path), "run code", "system", "Nothing was run")
    assert not (tmp_path / "touched").exists()


def test_7_a_whole_module(tmp_path: Path) -> None:
    model = attempt(saved(Little(), tmp_path / "net.pth"))
    says(" ".join(model.description.notes), "Python object", "no code")


class Writer(nn.Module):
    """Its program writes a file as soon as it is loaded."""

    def __init__(self, path: str) -> None:
        super().__init__()
        self.path = path
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, image: Tensor) -> Tensor:
        """The image."""
        return image * self.weight

    @torch.jit.export
    def __getstate__(self) -> tuple[str, Tensor, bool]:
        return self.path, self.weight, self.training

    @torch.jit.export
    def __setstate__(self, state: tuple[str, Tensor, bool]) -> None:
        self.path, self.training = state[0], state[2]
        self.weight = state[1]
        torch.save(state[1], state[0])


@pytest.mark.filterwarnings("ignore")
def test_8_a_program_that_writes_when_it_is_loaded(tmp_path: Path) -> None:
    touched = tmp_path / "touched"
    torch.jit.save(torch.jit.script(Writer(str(touched))), tmp_path / "net.pt")
    touched.unlink(missing_ok=True)
    declined(tmp_path / "net.pt")
    assert not touched.exists()
    torch.jit.load(tmp_path / "net.pt")
    assert touched.exists()  # what would have happened


@pytest.mark.filterwarnings("ignore")
def test_8_a_program_is_read_and_not_run(tmp_path: Path) -> None:
    torch.jit.save(torch.jit.script(Little().eval()), tmp_path / "net.pt")
    assert attempt(tmp_path / "net.pt").config.in_channels == 1


def test_9_a_zip_bomb(tmp_path: Path) -> None:
    path = saved(weights(), tmp_path / "net.pth")
    members = members_of(path)
    name = next(name for name in members if name.endswith("/data/0"))
    zipped(path, {**members, name: bytes(300_000_000)}, zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 1_000_000
    says(declined(path), "unpack", "300")


def test_10_a_bomb_in_hdf5(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    content = (FIXTURES / "keras" / "tutorial.h5").read_bytes()
    (tmp_path / "net.h5").write_bytes(content)
    with h5py.File(tmp_path / "net.h5", "a") as file:
        group = next(iter(_kernels(file)))
        parent, name = group.parent, group.name.rpartition("/")[2]
        del parent[name]
        parent.create_dataset(name, (100_000, 100_000), "<f4", chunks=(1000, 1000))
    assert (tmp_path / "net.h5").stat().st_size < 200_000
    says(declined(tmp_path / "net.h5"), "40")


def _kernels(file: Any) -> Iterator[Any]:
    import h5py

    found: list[Any] = []
    file.visititems(lambda name, one: found.append(one) if isinstance(one, h5py.Dataset) else None)
    yield from (one for one in found if one.name.rpartition("/")[2].startswith("kernel"))


@pytest.mark.parametrize("how", ["external link", "external storage", "soft link", "virtual"])
def test_11_hdf5_that_reads_other_files(how: str, tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    (tmp_path / "secret.bin").write_bytes(np.arange(5000, dtype="<f4").tobytes())
    with h5py.File(tmp_path / "secret.h5", "w") as file:
        file["numbers"] = np.arange(5000, dtype="<f4")
    path = tmp_path / "net.h5"
    path.write_bytes((FIXTURES / "keras" / "tutorial.h5").read_bytes())
    with h5py.File(path, "a") as file:
        kernel = next(iter(_kernels(file)))
        parent, name, shape = kernel.parent, kernel.name.rpartition("/")[2], kernel.shape
        del parent[name]
        if how == "external link":
            parent[name] = h5py.ExternalLink(str(tmp_path / "secret.h5"), "/numbers")
        elif how == "soft link":
            parent[name] = h5py.SoftLink("/model_weights")
        elif how == "virtual":
            layout = h5py.VirtualLayout(shape, "<f4")
            other = h5py.VirtualSource(str(tmp_path / "secret.h5"), "numbers", (5000,))
            layout[...] = np.prod(shape) and other[: int(np.prod(shape))]
            parent.create_virtual_dataset(name, layout)
        else:
            size = int(np.prod(shape)) * 4
            parent.create_dataset(
                name, shape, "<f4", external=[(str(tmp_path / "secret.bin"), 0, size)]
            )
    sentence = declined(path)
    if how != "soft link":
        says(sentence, "other", "file")


def test_12_a_tensor_of_huge_size(tmp_path: Path) -> None:
    held = {**weights(), "outc.conv.weight": torch.zeros(1).expand(10**6, 10**6, 1, 1)}
    says(declined(saved(held, tmp_path / "net.pth")), "outc.conv.weight", "more numbers")


def test_12_a_tensor_without_numbers(tmp_path: Path) -> None:
    held = {**weights(), "outc.conv.weight": torch.empty(2, 4, 1, 1, device="meta")}
    says(declined(saved(held, tmp_path / "net.pth")), "outc.conv.weight")


@pytest.mark.parametrize("what", ["missing", "short"])
def test_13_numbers_that_are_not_there(what: str, tmp_path: Path) -> None:
    path = saved(weights(), tmp_path / "net.pth")
    members = members_of(path)
    name = next(name for name in members if name.endswith("/data/3"))
    if what == "missing":
        del members[name]
    else:
        members[name] = members[name][:-4]
    says(declined(zipped(path, members)), "damaged")


@pytest.mark.parametrize(
    "pickled",
    [
        b"\x80\x02" + b"]q\x00" + b"(h\x00h\x00h\x00h\x00e" * 2000 + b".",
        b"\x80\x02" + b"(" * 1000 + b"l" * 1000 + b".",
        b"\x80\x02" + b"]" * 200_000 + b"a" * 199_999 + b".",
        b"\x80\x05\x8e" + struct.pack("<Q", 1 << 60) + b"x.",
        b"\x80\x04\x95" + struct.pack("<Q", 1 << 62) + b".",
        b"\x80\x02r\xff\xff\xff\xff.",
        b"\x80\x04" + b"\x8f(" + b"K\x01" * 10 + b"\x90.",
    ],
    ids=["references", "marks", "nested", "length", "frame", "memo", "set"],
)
@pytest.mark.parametrize("within", ["zip", "alone"])
def test_14_malformed_pickles(pickled: bytes, within: str, tmp_path: Path) -> None:
    path = tmp_path / "net.pth"
    if within == "alone":
        path.write_bytes(pickled)
    else:
        zipped(path, {"net/data.pkl": pickled, "net/version": b"3\n"})
    declined(path)


def test_15_numbers_that_are_none(tmp_path: Path) -> None:
    held = weights()
    held["up4.conv.double_conv.0.weight"][0, 0, 0, 0] = torch.nan
    sentence = declined(saved(held, tmp_path / "net.pth"))
    says(sentence, "1 of", "invalid numbers", "up4.conv.double_conv.0.weight")


def test_16_a_network_that_was_never_trained(tmp_path: Path) -> None:
    held = {
        name: torch.zeros_like(value)
        if "running_mean" in name or "num_batches" in name
        else torch.ones_like(value)
        if "running_var" in name
        else value
        for name, value in weights().items()
    }
    notes = attempt(saved(held, tmp_path / "net.pth")).description.notes
    says(" ".join(notes), "untrained")


def test_16_weights_that_are_all_zero(tmp_path: Path) -> None:
    held = {name: torch.zeros_like(value) for name, value in weights().items()}
    path = saved(held, tmp_path / "net.pth")
    try:
        says(" ".join(attempt(path).description.notes), "untrained")
    except ModelFileError as error:
        says(str(error), "untrained")


def test_17_missing_tensors(tmp_path: Path) -> None:
    held = {name: value for name, value in weights().items() if not name.startswith("up1.up.")}
    held.pop("up2.conv.double_conv.0.weight")
    sentence = declined(saved(held, tmp_path / "net.pth"))
    says(sentence, "missing", "up2.conv.double_conv.0.weight")


def test_17_an_encoder_alone(tmp_path: Path) -> None:
    held = {name: value for name, value in weights().items() if name.startswith(("inc", "down"))}
    declined(saved(held, tmp_path / "net.pth"))


def test_18_more_tensors_than_needed(tmp_path: Path) -> None:
    held = {"state_dict": {**weights(), "criterion.weight": torch.ones(2)}, "optimizer": {}}
    notes = attempt(saved(held, tmp_path / "net.pth")).description.notes
    says(" ".join(notes), "criterion.weight", "ignored")


def test_19_shapes_that_do_not_fit(tmp_path: Path) -> None:
    held = weights()
    held["up2.conv.double_conv.3.weight"] = torch.zeros(5, 7, 3, 3)
    sentence = declined(saved(held, tmp_path / "net.pth"))
    says(sentence, "up2.conv.double_conv.3.weight", "5", "7")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["int8", "complex", "float8", "quantised"])
def test_20_numbers_of_other_kinds(kind: str, tmp_path: Path) -> None:
    held = weights()
    for name, value in list(held.items()):
        if value.ndim == 4:
            held[name] = {
                "int8": lambda one: one.to(torch.int8),
                "complex": lambda one: one.to(torch.complex64),
                "float8": lambda one: one.to(torch.float8_e4m3fn),
                "quantised": lambda one: torch.quantize_per_tensor(one, 0.1, 0, torch.qint8),
            }[kind](value)
    sentence = declined(saved(held, tmp_path / "net.pth"))
    says(sentence, {"float8": "8", "int8": "int8", "quantised": "quantised"}.get(kind, kind))


def test_21_an_optimizer_alone(tmp_path: Path) -> None:
    optimizer = torch.optim.Adam(Little().parameters())
    sum(p.sum() for p in optimizer.param_groups[0]["params"]).backward()
    optimizer.step()
    says(declined(saved(optimizer.state_dict(), tmp_path / "net.pth")), "optimi", "best")


@pytest.mark.parametrize(
    ("names", "word"),
    [
        (
            {
                "downsample.down.res_down_0.conv.conv_0.0.weight": (1,),
                "downsample.down.res_down_0.conv.conv_0.2.weight": (32, 2, 3, 3),
                "upsample.up.res_up_0.conv.conv_1.full.weight": (32, 256),
                "output.2.weight": (3, 32, 1, 1), "diam_mean": (1,), "diam_labels": (1,),
            },
            "Cellpose",
        ),
        (
            {
                "image_encoder.patch_embed.proj.weight": (8, 3, 4, 4),
                "mask_decoder.output_upscaling.0.weight": (8, 4, 2, 2),
                "prompt_encoder.no_mask_embed.weight": (1, 8),
            },
            "Segment Anything",
        ),
        (
            {
                "time_embedding.linear_1.weight": (8, 8), "conv_in.weight": (8, 3, 3, 3),
                "down_blocks.0.resnets.0.conv1.weight": (8, 8, 3, 3),
                "up_blocks.0.resnets.0.conv1.weight": (8, 16, 3, 3),
                "conv_out.weight": (3, 8, 3, 3),
            },
            "diffusion",
        ),
        (
            {
                "conv1.weight": (8, 3, 7, 7), "layer1.0.conv1.weight": (8, 8, 3, 3),
                "layer1.0.conv2.weight": (8, 8, 3, 3), "fc.weight": (10, 8), "fc.bias": (10,),
            },
            "classif",
        ),
    ],
    ids=["cellpose", "sam", "diffusion", "classifier"],
)  # fmt: skip
def test_22_networks_of_another_kind(
    names: dict[str, tuple[int, ...]], word: str, tmp_path: Path
) -> None:
    held = {name: torch.randn(shape) for name, shape in names.items()}
    says(declined(saved(held, tmp_path / "net.pth")), word)


def test_22_a_folder_of_stardist(tmp_path: Path) -> None:
    (tmp_path / "star").mkdir()
    (tmp_path / "star" / "config.json").write_text('{"n_rays": 32, "unet_n_depth": 3}')
    (tmp_path / "star" / "thresholds.json").write_text('{"prob": 0.5, "nms": 0.4}')
    content = (FIXTURES / "keras" / "tutorial.weights.h5").read_bytes()
    (tmp_path / "star" / "weights_best.h5").write_bytes(content)
    says(declined(tmp_path / "star"), "StarDist")
    says(declined(tmp_path / "star" / "weights_best.h5"), "StarDist")


def test_23_an_image_that_does_not_fit(tmp_path: Path) -> None:
    model = attempt(saved(weights(), tmp_path / "net.pth"))
    n = model.description.in_channels
    with pytest.raises(UNetLiveError, match=f"{n + 1} channels.* takes {n} "):
        segment(np.zeros((n + 1, 32, 32), np.uint8), model, axes="cyx")
    volumes = load_model(FIXTURES / "keras" / "volumes.keras", "cpu")
    with pytest.raises(UNetLiveError, match=r"volumes.* no z"):
        segment(np.zeros((32, 32), np.uint8), volumes, axes="yx")


def test_24_a_lambda_of_keras(tmp_path: Path) -> None:
    def run(x: Any) -> Any:
        return os.system("touch /nonexistent/touched") or x

    import marshal

    code = base64.b64encode(marshal.dumps(run.__code__)).decode()
    members = members_of(FIXTURES / "keras" / "tutorial.keras")
    config = json.loads(members["config.json"])
    layers = config["config"]["layers"]
    at = next(i for i, one in enumerate(layers) if one["class_name"] in ("MaxPooling2D", "Dropout"))
    layers[at]["class_name"] = "Lambda"
    layers[at]["config"] = {
        "name": layers[at]["config"]["name"],
        "function": {"class_name": "__lambda__", "config": {"code": code, "defaults": None}},
        "arguments": {},
    }
    members["config.json"] = json.dumps(config).encode()
    sentence = declined(zipped(tmp_path / "net.keras", members))
    says(sentence, layers[at]["config"]["name"], "ONNX")


def test_24_a_saved_model_of_tensorflow(tmp_path: Path) -> None:
    (tmp_path / "net" / "variables").mkdir(parents=True)
    (tmp_path / "net" / "saved_model.pb").write_bytes(b"\x08\x01\x12\x00")
    says(declined(tmp_path / "net"), "SavedModel", ".h5", "ONNX")
    zipped(tmp_path / "net.zip", {"net/saved_model.pb": b"\x08\x01\x12\x00"})
    says(declined(tmp_path / "net.zip"), "SavedModel", "ONNX")


def test_24_a_learner_of_fastai(tmp_path: Path) -> None:
    (tmp_path / "export.pkl").write_bytes(pickle.dumps(Call(print, "learner"), 4))
    declined(tmp_path / "export.pkl")


def test_25_paths(tmp_path: Path) -> None:
    says(declined(tmp_path / "none.pth"), "no model file")
    says(declined(tmp_path), "no model")
    loop = tmp_path / "loop.pth"
    loop.symlink_to(loop)
    declined(loop)
    declined(tmp_path / ("n" * 300))
    declined("net\0.pth")
    if os.name == "posix":
        says(declined("/dev/null"), "device")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read all")
def test_25_a_file_that_may_not_be_read(tmp_path: Path) -> None:
    path = saved(weights(), tmp_path / "net.pth")
    path.chmod(0)
    says(declined(path), "permission")


def test_25_a_file_of_an_odd_name(tmp_path: Path) -> None:
    assert attempt(saved(weights(), tmp_path / "Zellkerne Übung ☃.pth.tar")).config.dims == 2


def test_25_folds_in_a_zip(tmp_path: Path) -> None:
    content = saved(weights(), tmp_path / "net.pth").read_bytes()
    folds = {f"fold_{i}.pth": content for i in range(5)}
    with pytest.raises(ChoiceNeeded, match="5 models"):
        attempt(zipped(tmp_path / "folds.zip", folds))


def test_25_names_that_leave_the_zip(tmp_path: Path) -> None:
    content = saved(weights(), tmp_path / "net.pth").read_bytes()
    archive = zipped(tmp_path / "net.zip", {"../../outside.pth": content})
    try:
        attempt(archive)
    except ModelFileError as error:
        assert is_plain(str(error))
    assert not (tmp_path.parent.parent / "outside.pth").exists()


def test_25_a_huge_file(tmp_path: Path) -> None:
    path = saved(weights(), tmp_path / "net.pth")
    with path.open("r+b") as file:
        file.truncate(20 << 30)  # a hole, which takes no room
    says(declined(path), "large")


# ---- and further


def test_protocols_that_torch_does_not_read(tmp_path: Path) -> None:
    held = {name: value.numpy() for name, value in weights().items()}
    path = saved(weights(), tmp_path / "net.pth", pickle_protocol=5)
    assert attempt(path).architecture == "milesial"
    (tmp_path / "net.pkl").write_bytes(pickle.dumps(held, 5))
    assert attempt(tmp_path / "net.pkl").architecture == "milesial"


def test_names_are_shown_as_text(tmp_path: Path) -> None:
    name = "evil\n\x1b[2J<img src=x>\u202e" + "x" * 5000
    held = {**weights(), name: torch.ones(2)}
    for note in attempt(saved(held, tmp_path / "net.pth")).description.notes:
        assert note.isprintable()
        assert len(note) < 1000
    held = {f"{name}.{i}.weight": torch.ones(i + 1, 7, 3, 3) for i in range(5)}
    sentence = declined(saved(held, tmp_path / "net.pth"))
    assert "evil\n" not in sentence
    assert "xxxx" * 100 not in sentence


def test_onnx_that_reads_other_files(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    (tmp_path / "secret.bin").write_bytes(bytes(4000))
    (tmp_path / "inner").mkdir()
    model = onnx.load_from_string(_onnx())
    for tensor in model.graph.initializer:
        tensor.ClearField("raw_data")
        tensor.data_location = onnx.TensorProto.EXTERNAL
        entry = tensor.external_data.add()
        entry.key, entry.value = "location", "../secret.bin"
    (tmp_path / "inner" / "net.onnx").write_bytes(model.SerializeToString())
    says(declined(tmp_path / "inner" / "net.onnx"), "another place on your disk")


# ---- mutants


def _scripted() -> bytes:
    file = io.BytesIO()
    torch.jit.save(torch.jit.trace(Little().eval(), torch.randn(1, 1, 16, 16)), file)
    return file.getvalue()


def _exported() -> bytes:
    file = io.BytesIO()
    torch.export.save(torch.export.export(Little().eval(), (torch.zeros(1, 1, 16, 16),)), file)
    return file.getvalue()


def _onnx() -> bytes:
    pytest.importorskip("onnx")
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(Little().eval(), (torch.zeros(1, 1, 16, 16),), file, dynamo=False)
    return file.getvalue()


def _torch(**options: Any) -> bytes:
    file = io.BytesIO()
    torch.save({"state_dict": weights(), "epoch": 3}, file, **options)
    return file.getvalue()


def _safetensors() -> bytes:
    import safetensors.torch

    return safetensors.torch.save(weights(), {"format": "pt"})


def _own() -> bytes:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        model = load_model(FIXTURES / "jvanvugt" / "valid.pt", "cpu")
        save_model(model, Path(folder) / "net.safetensors")
        return (Path(folder) / "net.safetensors").read_bytes()


def _tar() -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for name in ("storages", "tensors", "pickle"):
            content = pickle.dumps(0, 2)
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return file.getvalue()


def _fixture(name: str) -> Callable[[], bytes]:
    return (FIXTURES / name).read_bytes


def _module() -> bytes:
    file = io.BytesIO()
    torch.save(Little().eval(), file)
    return file.getvalue()


MAKERS: dict[str, Callable[[], bytes]] = {
    "net.pth": _torch,
    "legacy.pth": lambda: _torch(_use_new_zipfile_serialization=False),
    "module.pth": _module,
    "old.tar": _tar,
    "net.pkl": lambda: pickle.dumps({k: v.numpy() for k, v in weights().items()}, 4),
    "script.pt": _scripted,
    "net.pt2": _exported,
    "net.onnx": _onnx,
    "foreign.safetensors": _safetensors,
    "own.safetensors": _own,
    "package.zip": _fixture("bioimageio/example.zip"),
    "net.h5": _fixture("keras/tutorial.h5"),
    "net.weights.h5": _fixture("keras/tutorial.weights.h5"),
    "net.keras": _fixture("keras/tutorial.keras"),
    "small.caffemodel": _fixture("freiburg/small.caffemodel"),
    "small.modeldef.h5": _fixture("freiburg/small.modeldef.h5"),
}


def mutant(content: bytes, draw: random.Random) -> bytes:
    """A copy with bytes changed, cut off, put in or taken out, or with a number made large."""
    changed = bytearray(content)
    for _ in range(draw.choice((1, 1, 2, 8))):
        # Where a file begins and ends says how the rest is read.
        near = draw.choice((len(changed), 400, 400))
        at = min(len(changed) - 1, draw.randrange(near))
        at = draw.choice((at, len(changed) - 1 - at))
        kind = draw.randrange(6)
        if kind == 0:
            changed[at] ^= 1 << draw.randrange(8)
        elif kind == 1:
            changed[at] = draw.randrange(256)
        elif kind == 2:
            del changed[at : at + draw.choice((1, 4, 100))]
        elif kind == 3:
            changed[at:at] = draw.randbytes(draw.choice((1, 4, 100)))
        elif kind == 4:
            n_bytes = draw.choice((1, 4, 8))
            changed[at : at + n_bytes] = b"\xff" * (n_bytes - 1) + b"\x7f"
        elif len(changed) > 20:
            del changed[-draw.randrange(1, len(changed) // 2) :]
        if not changed:
            changed = bytearray(b"P")
    return bytes(changed)


@pytest.mark.parametrize("name", MAKERS)
def test_mutants_are_opened_or_declined(name: str, tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the programs that write the file
        content = MAKERS[name]()
    draw = random.Random(f"mutants of {name}")
    if name == "small.modeldef.h5":
        partner = FIXTURES / "freiburg" / "small.caffemodel.h5"
        (tmp_path / partner.name).write_bytes(partner.read_bytes())
    n_declined = 0
    for _ in range(N_MUTANTS):
        (tmp_path / name).write_bytes(mutant(content, draw))
        try:
            model = attempt(tmp_path / name)
        except ModelFileError as error:
            n_declined += 1
            assert is_plain(str(error))
            assert len(str(error)) < 3000
            assert "not foreseen" not in str(error)
        else:
            assert isinstance(model, Model)
        assert WATCH.seen == []
    assert n_declined > 10
