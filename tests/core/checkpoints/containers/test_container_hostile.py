"""Files made to do damage: what they would do is looked for, and has not happened."""

import builtins
import io
import os
import pickle
import resource
import socket
import struct
import subprocess
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from napari_unet.core.checkpoints.containers import Source, read_contents
from napari_unet.core.checkpoints.containers.finding import find_evidence
from napari_unet.core.checkpoints.containers.inert import runs_code
from napari_unet.core.errors import ModelFileError

WEIGHTS = {"a.weight": torch.ones(2, 1, 3, 3), "a.bias": torch.zeros(2)}


class Call:
    """Pickles into a call of a function with these arguments."""

    def __init__(self, function: Any, *args: Any) -> None:
        self.function, self.args = function, args

    def __reduce__(self) -> tuple[Any, ...]:
        return self.function, self.args


def saved(content: Any, **options: Any) -> bytes:
    file = io.BytesIO()
    torch.save(content, file, **options)
    return file.getvalue()


def read(content: bytes) -> Any:
    return read_contents(Source.of_bytes(content, "net.pth"))


def with_pickle(pickled: bytes, **storages: bytes) -> bytes:
    """A file as PyTorch writes it, around a pickle of our own."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("archive/data.pkl", pickled)
        archive.writestr("archive/version", "3")
        for key, content in storages.items():
            archive.writestr(f"archive/data/{key[1:]}", content)
    return file.getvalue()


def growth(content: bytes) -> float:
    """By how many MB the memory of this process grew at most, while a file was read."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ModelFileError):
        find_evidence(read(content), "net.pth")
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1000


@pytest.mark.parametrize("how", ["zip", "legacy", "pickle 0", "pickle 4", "pickle 5"])
@pytest.mark.parametrize("what", ["os.system", "subprocess", "eval", "exec", "open", "socket"])
def test_nothing_is_run(how: str, what: str, tmp_path: Path) -> None:
    touched = tmp_path / "touched"
    calls = {
        "os.system": Call(os.system, f"touch {touched}"),
        "subprocess": Call(subprocess.Popen, ["touch", str(touched)]),
        "eval": Call(eval, f"open({str(touched)!r}, 'w')"),
        "exec": Call(exec, f"open({str(touched)!r}, 'w')"),
        "open": Call(builtins.open, str(touched), "w"),
        "socket": Call(socket.create_connection, ("localhost", 9)),
    }
    held = {"state_dict": WEIGHTS, "extra": calls[what]}
    if how.startswith("pickle"):
        content = pickle.dumps(held, int(how[-1]))
    else:
        content = saved(held, _use_new_zipfile_serialization=how == "zip")
    contents = read(content)
    assert not touched.exists()
    assert "asks to run code on your computer" in contents.notes[0]
    assert "Nothing was run" in contents.notes[0]
    assert "import" not in contents.notes[0]
    evidence = find_evidence(contents, "net.pth")
    assert torch.equal(evidence.tensors["a.weight"], WEIGHTS["a.weight"])
    assert evidence.notes[0] == contents.notes[0]
    pickle.loads(pickle.dumps(Call(Path.touch, touched)))
    assert touched.exists()  # what would have happened


def test_a_file_that_is_nothing_but_a_call(tmp_path: Path) -> None:
    content = saved(Call(os.system, f"touch {tmp_path / 'touched'}"))
    with pytest.raises(ModelFileError, match=r"run code on your computer \((posix|nt)\.system\)"):
        find_evidence(read(content), "net.pth")
    assert not (tmp_path / "touched").exists()


@pytest.mark.parametrize(
    "pickled",
    [
        b"cos\nsystem\n(S'touch x'\ntR.",
        b"(S'touch x'\nios\nsystem\n.",
        b"(cos\nsystem\nS'touch x'\no.",
        b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x07touch x\x85R.",
        b"\x80\x02cos\nsystem\nU\x07touch x\x85\x81.",
        b"\x80\x04\x8c\x13torch.serialization\x8c\x09os.system\x93\x8c\x07touch x\x85R.",
        b"\x80\x02cbuiltins\n__import__\nU\x02os\x85R.",
    ],
)
def test_all_ways_to_call_are_seen(pickled: bytes) -> None:
    contents = read(with_pickle(pickled))
    assert "asks to run code" in contents.notes[0]


def test_classes_of_networks_do_not_raise_the_alarm() -> None:
    for kind in (
        "torch.nn.modules.conv.Conv2d",
        "unet.UNet",
        "src.system.LitSystem",
        "code.model.UNet",
        "numpy.core.multiarray.scalar",
        "functools.partial",
        "__main__.Net",
    ):
        assert not runs_code(kind)


def tensor_pickle(size: tuple[int, ...], stride: tuple[int, ...], key: str = "0") -> bytes:
    """`{"w": tensor}`, the tensor a view of the storage `key`."""

    def number(n: int) -> bytes:
        return b"\x8a\x09" + n.to_bytes(9, "little", signed=True)

    def numbers(values: tuple[int, ...]) -> bytes:
        return b"(" + b"".join(map(number, values)) + b"t"

    storage = b"(U\x07storagectorch\nFloatStorage\nU\x01" + key.encode() + b"U\x03cpuK\x01tQ"
    called = b"ctorch._utils\n_rebuild_tensor_v2\n("
    return (
        b"\x80\x02}U\x01w"
        + called
        + storage
        + number(0)
        + numbers(size)
        + numbers(stride)
        + b"\x89}tRs."
    )


def test_a_tensor_of_our_own_making_is_read() -> None:
    content = with_pickle(tensor_pickle((2, 2), (2, 1)), _0=np.arange(4, dtype="<f4").tobytes())
    assert read(content).tree["w"].tolist() == [[0, 1], [2, 3]]


@pytest.mark.parametrize(
    ("size", "stride", "sentence"),
    [
        ((10**6, 10**6), (0, 0), r"w declares more numbers \(1\.0e\+12\) than the file holds"),
        ((5,), (1,), r"more numbers \(5\) than the file holds for it \(4\)"),
        ((2,), (4,), "more numbers"),
        ((2**62, 2**62), (1, 1), "more numbers"),
        ((-1,), (1,), "makes no sense"),
        ((2,), (-1,), "makes no sense"),
        ((2, 2), (1,), "makes no sense"),
        ((1,) * 65, (1,) * 65, "makes no sense"),
    ],
)
def test_views_outside_their_numbers(
    size: tuple[int, ...], stride: tuple[int, ...], sentence: str
) -> None:
    with pytest.raises(ModelFileError, match=sentence):
        read(with_pickle(tensor_pickle(size, stride), _0=bytes(16)))


def test_numbers_that_are_missing() -> None:
    with pytest.raises(ModelFileError, match="data of layer w is missing"):
        read(with_pickle(tensor_pickle((1,), (1,))))
    with pytest.raises(ModelFileError, match="data of layer w is missing"):
        read(with_pickle(tensor_pickle((1,), (1,), key="../0"[:1]), _0=bytes(4)))


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        (torch.zeros(3, device="meta"), "w cannot be used: it holds no numbers"),
        (torch.zeros(3, dtype=torch.complex64), "complex numbers"),
        (torch.zeros(3).to(torch.float8_e4m3fn), "8-bit floating point"),
        (torch.eye(3).to_sparse(), "sparse"),
    ],
)
def test_numbers_that_cannot_be_used(value: torch.Tensor, sentence: str) -> None:
    with pytest.raises(ModelFileError, match=sentence):
        read(saved({"w": value}))


@pytest.mark.filterwarnings("ignore")
def test_quantised_weights_are_said() -> None:
    value = torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8)
    with pytest.raises(ModelFileError, match=r"quantised.*load the float version"):
        read(saved({"w": value}))


def deep(n: int) -> bytes:
    return b"\x80\x02" + b"]" * n + b"a" * (n - 1) + b"."


def laughs(n: int, opener: bytes = b"]", closer: bytes = b"e") -> bytes:
    """Lists of ten times the list before: short to write, without end to walk."""
    steps = [b"]q\x00"]
    for i in range(n):
        steps.append(opener + b"(" + b"h" + bytes([i]) + b"h" + bytes([i]))
        steps[-1] += (b"h" + bytes([i])) * 8 + closer + b"q" + bytes([i + 1])
    return b"\x80\x02" + b"".join(steps) + b"."


HUGE = struct.pack("<I", 0x7FFFFFFF)
BOMBS = {
    "nested deeply": deep(100_000),
    "laughs": laughs(100),
    "laughs in tuples": laughs(100, b"", b"t"),
    "laughs as a key": b"\x80\x02}" + laughs(100, b"", b"t")[2:-1] + b"Ns.",
    "laughs as an attribute": b"\x80\x02cm\nC\n)\x81" + laughs(100)[2:-1] + b"b.",
    "memo at the end of the world": b"\x80\x02Nr" + HUGE + b".",
    "text of 2 GB": b"\x80\x02X" + HUGE + b"a.",
    "bytes of 8 EB": b"\x80\x04\x8e" + b"\xff" * 7 + b"\x7f" + b"a.",
    "byte array of 8 EB": b"\x80\x05\x96" + b"\xff" * 7 + b"\x7f" + b"a.",
    "number of 2 GB": b"\x80\x02\x8b" + HUGE + b"\x01.",
    "number of many digits": b"I" + b"9" * 900_000 + b"\n.",
    "list that holds itself": b"\x80\x02]q\x00h\x00a.",
    "dict that holds itself": b"\x80\x02}q\x00U\x01ah\x00s.",
    "object that holds itself": b"\x80\x02cm\nC\n)\x81q\x00h\x00b.",
    "call of itself": b"\x80\x02]q\x00(ctorch._tensor\n_rebuild_from_type_v2\nq\x01h\x01"
    b"h\x00Neh\x01h\x01h\x00h\x00t\x85R.",
    "no end": b"\x80\x02]]]]",
    "nothing to stop at": b"\x80\x02.",
    "mark never set": b"\x80\x02e.",
    "extension": b"\x80\x02\x82\x01.",
    "buffer from outside": b"\x80\x05\x97.",
    "many copies": b"\x80\x02" + b"U\xff" + b"a" * 255 + b"q\x00" + b"c_codecs\nencode\nq\x01"
    b"U\x06latin1q\x02" + b"h\x01h\x00h\x02\x86R" * 100_000 + b".",
    "many arrays": b"\x80\x02B" + struct.pack("<I", 10**6) + bytes(10**6) + b"q\x00"
    b"U\x02u1q\x01cnumpy\ndtype\nh\x01\x85Rq\x02cnumpy.core.numeric\n_frombuffer\nq\x03"
    b"\x8a\x04" + struct.pack("<i", 10**6) + b"\x85q\x04U\x01Cq\x05]("
    + b"h\x03(h\x00h\x02h\x04h\x05tR" * 2000 + b"e.",
}  # fmt: skip


@pytest.mark.parametrize("name", BOMBS)
@pytest.mark.parametrize("within", ["zip", "plain"])
def test_bombs_do_not_go_off(name: str, within: str) -> None:
    pickled = BOMBS[name]
    assert growth(with_pickle(pickled) if within == "zip" else pickled) < 200


def test_modules_within_modules_without_end() -> None:
    """Each layer holds the one before twice: 2 to the power of 40 layers."""
    module = b"cm\nC\n)\x81}(U\x0b_parametersq\xf0}U\x08_modulesq\xf1}U\x01x%sub"
    steps = [module.replace(b"U\x01x%s", b"") + b"q\x00"]
    for i in range(40):
        inner = b"h" + bytes([i])
        step = b"cm\nC\n)\x81}(h\xf0}h\xf1}(U\x01a" + inner + b"U\x01b" + inner + b"uub"
        steps.append(step + b"q" + bytes([i + 1]))
    assert growth(with_pickle(b"\x80\x02" + b"".join(steps) + b".")) < 200


def test_a_legacy_file_that_promises_too_much() -> None:
    content = saved(WEIGHTS, _use_new_zipfile_serialization=False)
    count = struct.pack("<q", 18)
    assert content.count(count) == 1
    for n in (19, 2**61, -1, 2**62 + 1):
        with pytest.raises(ModelFileError):
            read(content.replace(count, struct.pack("<q", n)))
    with pytest.raises(ModelFileError, match="incomplete"):
        read(content[:-10])


def test_many_conversions_of_the_same_numbers_are_refused() -> None:
    whole = torch.zeros(1_000_000, dtype=torch.float16)
    held = {f"w{i}": whole[: 1_000_000 - i] for i in range(200)}
    assert growth(saved(held)) < 200


def test_a_header_of_safetensors_that_lies() -> None:
    header = b'{"a":{"dtype":"F32","shape":[1000000,1000000],"data_offsets":[0,4]}}'
    for content in (
        struct.pack("<Q", len(header)) + header + bytes(4),
        struct.pack("<Q", 90_000_000) + header,
        struct.pack("<Q", len(header)) + header[:-1] + b"x" + bytes(4),
    ):
        with pytest.raises(ModelFileError, match="damaged or incomplete"):
            read(content)


def test_a_program_that_would_write_when_loaded_does_not(tmp_path: Path) -> None:
    """The text of a TorchScript program with `__setstate__` is never compiled."""
    touched = tmp_path / "touched"
    code = (
        "class Net(Module):\n  __parameters__ = []\n  __buffers__ = []\n"
        f"  def __setstate__(self, state: int) -> NoneType:\n    torch.save(1, {str(touched)!r})\n"
    )
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("m/data.pkl", b"\x80\x02c__torch__\nNet\n)\x81K\x01b.")
        archive.writestr("m/code/__torch__.py", code)
        archive.writestr("m/constants.pkl", b"\x80\x02).")
    contents = read(file.getvalue())
    assert contents.container == "TorchScript file"
    with pytest.raises(ModelFileError, match="No network was found"):
        find_evidence(contents, "net.pt")
    assert not touched.exists()
