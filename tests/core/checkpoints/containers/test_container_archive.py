import io
import os
import zipfile
from pathlib import Path

import pytest

from napari_unet.core.checkpoints.containers import Archive, Source
from napari_unet.core.errors import ChoiceNeeded, ModelFileError


def zipped(parts: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        for name, content in parts.items():
            archive.writestr(name, content)
    return file.getvalue()


PARTS = {
    "rdf.yaml": b"name: net\nwidths: [8, 16]\n",
    "config.json": b'{"a": [1, 2.5, null]}',
    "sub/weights.bin": bytes(range(256)) * 100,
}


@pytest.fixture(params=["stored", "deflated", "folder"])
def archive(request: pytest.FixtureRequest, tmp_path: Path) -> Archive:
    if request.param == "folder":
        for name, content in PARTS.items():
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).write_bytes(content)
        return Archive.of_path(tmp_path)
    method = zipfile.ZIP_STORED if request.param == "stored" else zipfile.ZIP_DEFLATED
    return Archive.of_source(Source.of_bytes(zipped(PARTS, method), "net.zip"))


def test_folders_and_zip_files_are_read_alike(archive: Archive) -> None:
    assert set(archive.names()) == set(PARTS)
    assert archive.read("sub/weights.bin") == PARTS["sub/weights.bin"]
    assert archive.read("./config.json") == PARTS["config.json"]
    assert archive.json("config.json") == {"a": [1, 2.5, None]}
    assert archive.yaml("rdf.yaml") == {"name": "net", "widths": [8, 16]}
    source = archive.source("sub/weights.bin")
    assert source.size == 25600
    with source.open() as file:
        file.seek(-3, io.SEEK_END)
        assert file.read() == b"\xfd\xfe\xff"
        file.seek(256)
        assert file.read(2) == b"\x00\x01"


def test_what_is_missing_or_too_large_is_said(archive: Archive) -> None:
    with pytest.raises(ModelFileError, match=r"weights\.pt is missing"):
        archive.read("weights.pt")
    with pytest.raises(ModelFileError, match="at most 100 bytes make sense"):
        archive.read("sub/weights.bin", limit=100)
    with pytest.raises(ModelFileError, match="not valid JSON"):
        archive.json("rdf.yaml")


def test_yaml_makes_no_objects(tmp_path: Path) -> None:
    touched = tmp_path / "touched"
    (tmp_path / "a.yaml").write_text(f"!!python/object/apply:os.mkdir ['{touched}']")
    (tmp_path / "b.yaml").write_text("a: " + "b" * 1_100_000)
    archive = Archive.of_path(tmp_path)
    with pytest.raises(ModelFileError, match="not valid YAML"):
        archive.yaml("a.yaml")
    assert not touched.exists()
    with pytest.raises(ModelFileError, match=r"1\.0 MB make sense"):
        archive.yaml("b.yaml")


def test_yaml_that_repeats_itself_is_refused(tmp_path: Path) -> None:
    lines = ["a0: &a0 [x, x]"]
    lines += [f"a{i + 1}: &a{i + 1} [*a{i}, *a{i}]" for i in range(40)]
    (tmp_path / "bomb.yaml").write_text("\n".join(lines))
    (tmp_path / "self.yaml").write_text("&a [*a]")
    (tmp_path / "fine.yaml").write_text("a: &a [1]\nb: *a")
    archive = Archive.of_path(tmp_path)
    for name in ("bomb.yaml", "self.yaml"):
        with pytest.raises(ModelFileError, match="not valid YAML"):
            archive.yaml(name)
    assert archive.yaml("fine.yaml") == {"a": [1], "b": [1]}


def test_a_bomb_is_not_unpacked() -> None:
    content = zipped({"archive/data/0": bytes(50_000_000)}, zipfile.ZIP_DEFLATED)
    assert len(content) < 100_000
    with pytest.raises(ModelFileError, match=r"claims to unpack to 50\.0 MB\. Refused"):
        Archive.of_source(Source.of_bytes(content, "net.pth"))


def test_one_bomb_among_much_else_is_not_unpacked() -> None:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("noise", os.urandom(3_000_000))
        archive.writestr("bomb", bytes(30_000_000), zipfile.ZIP_DEFLATED)
    archive = Archive.of_source(Source.of_bytes(file.getvalue(), "net.zip"))
    with pytest.raises(ModelFileError, match=r"bomb is .* claims to unpack to"):
        archive.read("bomb")


def test_a_member_that_unpacks_to_more_than_it_says_is_damaged() -> None:
    content = bytearray(zipped({"a": bytes(1000)}, zipfile.ZIP_DEFLATED))
    directory = content.index(b"PK\x01\x02")
    content[directory + 24 : directory + 28] = (10).to_bytes(4, "little")  # size unpacked
    with pytest.raises(ModelFileError, match="damaged at a"):
        Archive.of_source(Source.of_bytes(bytes(content), "net.zip")).read("a")


def test_a_changed_byte_is_found() -> None:
    content = zipped(PARTS).replace(b"name: net", b"name: bet")
    with pytest.raises(ModelFileError, match=r"damaged at rdf\.yaml"):
        Archive.of_source(Source.of_bytes(content, "net.zip")).read("rdf.yaml")


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_two_members_of_one_name_are_refused() -> None:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("a", b"1")
        archive.writestr("a", b"2")
    with pytest.raises(ModelFileError, match="two files of the same name"):
        Archive.of_source(Source.of_bytes(file.getvalue(), "net.zip"))


def test_a_password_is_said() -> None:
    content = bytearray(zipped({"a": b"1"}))
    content[content.index(b"PK\x01\x02") + 8] |= 1
    with pytest.raises(ModelFileError, match="password-protected"):
        Archive.of_source(Source.of_bytes(bytes(content), "net.zip")).read("a")


@pytest.mark.parametrize("n_left", [1, 100, -1])
def test_a_cut_off_archive_is_said_to_be_incomplete(n_left: int) -> None:
    content = zipped(PARTS)[:n_left] if n_left != 1 else b"PK\x03\x04"
    with pytest.raises(ModelFileError, match=r"^net\.pth: The file is incomplete or damaged"):
        Archive.of_source(Source.of_bytes(content, "net.pth"))


def test_names_are_never_paths(tmp_path: Path) -> None:
    (tmp_path / "secret.txt").write_text("secret")
    inner = tmp_path / "package"
    inner.mkdir()
    (inner / "a.txt").write_text("a")
    (inner / "link.txt").symlink_to(tmp_path / "secret.txt")
    (inner / "loop").symlink_to(inner / "loop")
    (inner / "up").symlink_to(tmp_path)
    (inner / "good.txt").symlink_to(inner / "a.txt")
    archive = Archive.of_path(inner)
    assert set(archive.names()) == {"a.txt", "good.txt"}
    for name in ("link.txt", "../secret.txt", str(tmp_path / "secret.txt"), "up/secret.txt"):
        with pytest.raises(ModelFileError, match="is missing"):
            archive.read(name)
    packed = zipped({"../../secret.txt": b"mine"})
    archive = Archive.of_source(Source.of_bytes(packed, "net.zip"))
    assert archive.read("../../secret.txt") == b"mine"
    assert (tmp_path / "secret.txt").read_text() == "secret"


def test_litter_is_left_out() -> None:
    content = zipped({"a": b"", "__MACOSX/._a": b"", "sub/.DS_Store": b"", "sub/": b""})
    assert Archive.of_source(Source.of_bytes(content, "net.zip")).names() == ("a",)


def test_paths_that_cannot_be_opened_are_said(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match="There is no model file"):
        Source.of_path(tmp_path / "none.pth")
    with pytest.raises(ModelFileError, match="is a folder"):
        Source.of_path(tmp_path)
    with pytest.raises(ModelFileError, match="not a file but a device"):
        Source.of_path(Path("/dev/null"))
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises(ModelFileError, match="cannot be read"):
        Source.of_path(tmp_path / "loop")
    with pytest.raises(ModelFileError, match="cannot be read"):
        Source.of_path(Path("a\0b"))
    (tmp_path / "saved_model.pb").write_bytes(b"")
    with pytest.raises(ModelFileError, match=r"TensorFlow SavedModel.*Export it"):
        Source.of_path(tmp_path)


def test_a_file_of_any_name(tmp_path: Path) -> None:
    path = tmp_path / "Zellkörper 細胞.pth"
    path.write_bytes(b"abc")
    source = Source.of_path(path)
    assert (source.name, source.size, source.head(2), source.path) == (path.name, 3, b"ab", path)


def test_more_special_errors_keep_what_they_carry() -> None:
    from napari_unet.core.checkpoints.containers.source import named

    with pytest.raises(ChoiceNeeded) as caught, named("a.pth"):
        raise ChoiceNeeded("Which?", ("a", "b"))
    assert caught.value.options == ("a", "b")
