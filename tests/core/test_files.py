"""Images in and labels out keep their pixels, their axes and their pixel sizes."""

import gc
import sys

import numpy as np
import pytest
import tifffile
import zarr
from skimage.io import imread, imsave

from napari_unet.core.errors import ImageError
from napari_unet.core.files import (
    ImageFile,
    can_be_image,
    check_ending,
    discard,
    fields_of,
    look_at,
    open_image,
    output_path,
    read_image,
    read_labels,
    stem_of,
    write_labels,
    write_probabilities,
)
from napari_unet.core.files import tiff as tiff_module
from napari_unet.core.image import make_image

PIXELS = np.arange(2 * 3 * 30 * 40, dtype=np.uint16).reshape(2, 3, 30, 40)
OME = {"ome": True, "photometric": "minisblack", "compression": "zlib"}


def labels_of(*shape, highest=7):
    return np.random.default_rng(0).integers(0, highest + 1, shape).astype(np.int32)


# TIFF in


@pytest.mark.parametrize(
    ("shape", "options", "axes", "sizes"),
    [
        ((30, 40), {}, "yx", {}),
        ((6, 30, 40), {}, "zyx", {}),
        ((2, 3, 30, 40), {"photometric": "minisblack"}, "tzyx", {}),
        ((30, 40, 3), {"photometric": "rgb"}, "yxc", {}),
        ((3, 30, 40), {"photometric": "rgb", "planarconfig": "separate"}, "cyx", {}),
        ((30, 40), {"resolution": (2e4, 1e4), "resolutionunit": 3}, "yx", {"y": 1.0, "x": 0.5}),
        ((30, 40), {"resolution": (300, 300), "resolutionunit": 2}, "yx", {}),
        (
            (6, 30, 40),
            {"imagej": True, "resolution": (2, 4),
             "metadata": {"axes": "ZYX", "unit": "um", "spacing": 3.0}},
            "zyx",
            {"z": 3.0, "y": 0.25, "x": 0.5},
        ),
        (
            (6, 30, 40),
            {"imagej": True, "resolution": (2, 2),
             "metadata": {"axes": "TYX", "unit": "\\u00B5m"}},
            "tyx",
            {"y": 0.5, "x": 0.5},
        ),
        ((6, 30, 40), {"imagej": True, "metadata": {"axes": "CYX", "unit": "pixel"}}, "cyx", {}),
        (
            (2, 3, 30, 40),
            {**OME, "metadata": {"axes": "TCYX", "PhysicalSizeX": 250.0,
                                 "PhysicalSizeXUnit": "nm", "PhysicalSizeY": 0.5}},
            "tcyx",
            {"x": 0.25, "y": 0.5},
        ),
    ],
)  # fmt: skip
def test_tiff_files_say_their_axes_and_pixel_sizes(tmp_path, shape, options, axes, sizes):
    pixels = PIXELS.ravel()[: np.prod(shape)].reshape(shape)
    tifffile.imwrite(tmp_path / "cells.tif", pixels, **options)
    opened = open_image(tmp_path / "cells.tif")
    assert (opened.image.axes, opened.image.name) == (axes, "cells.tif")
    assert opened.pixel_sizes == opened.image.pixel_size == pytest.approx(sizes)
    np.testing.assert_array_equal(opened.image.array, pixels)
    check_looked_at(tmp_path / "cells.tif", opened)


def check_looked_at(path, opened, **options):
    """The head of a file says what the whole file says, and its pixels were not read."""
    seen = look_at(path, **options)
    assert seen.image.axes == opened.image.axes
    assert seen.image.label_shape == opened.image.label_shape
    assert seen.image.array.dtype == opened.image.array.dtype
    assert seen.pixel_sizes == opened.pixel_sizes
    with pytest.raises(ImageError, match="only looked at"):
        seen.image.array[...]


def test_given_axes_overrule_those_of_the_file(tmp_path):
    tifffile.imwrite(tmp_path / "cells.tif", PIXELS[0], photometric="minisblack")
    assert read_image(tmp_path / "cells.tif").axes == "zyx"
    assert read_image(tmp_path / "cells.tif", "cyx").n_channels == 3
    with pytest.raises(ImageError, match="name 2"):
        read_image(tmp_path / "cells.tif", "yx")


@pytest.mark.parametrize(
    ("axes", "expected"),
    [("QQYX", "tzyx"), ("IYXS", "zyxc"), ("QZYX", "tzyx"), ("SYX", "cyx"), ("QTZYX", "ptzyx"),
     ("CYXS", "cyxs"), ("RYX", "ryx")],
)  # fmt: skip
def test_letters_of_tiff_axes_become_ours(axes, expected):
    assert tiff_module._tiff_axes(axes) == expected


@pytest.mark.parametrize("compression", [None, "zlib"])
def test_a_big_tiff_is_read_window_by_window(tmp_path, monkeypatch, compression):
    options = {"photometric": "minisblack", "compression": compression, "rowsperstrip": 8}
    tifffile.imwrite(tmp_path / "big.tif", PIXELS, **options)
    in_memory = read_image(tmp_path / "big.tif")
    monkeypatch.setattr(tiff_module, "IN_MEMORY_LIMIT", 0)
    lazy = read_image(tmp_path / "big.tif")
    assert isinstance(in_memory.array, np.ndarray) and not isinstance(in_memory.array, np.memmap)
    assert type(lazy.array) is (np.memmap if compression is None else tiff_module._LazyTiff)
    window = (slice(3, 9), slice(30, 40))
    np.testing.assert_array_equal(lazy.read((1, 2), window)[0], PIXELS[1, 2, 3:9, 30:40])
    assert lazy.fingerprint() == in_memory.fingerprint()
    del lazy
    gc.collect()  # a file left open would be a warning, and warnings are errors


def test_a_big_tiff_that_breaks_off_gives_a_sentence(tmp_path, monkeypatch):
    path = tmp_path / "big.tif"
    generator = np.random.default_rng(0)
    noise = generator.integers(0, 2**16, (8, 64, 64)).astype(np.uint16)
    tifffile.imwrite(path, noise, compression="zlib", metadata={"axes": "TYX"})
    with tifffile.TiffFile(path) as tif:
        offset = tif.pages[3].dataoffsets[0]
    content = bytearray(path.read_bytes())
    content[offset : offset + 4000] = bytes(4000)
    path.write_bytes(content)
    monkeypatch.setattr(tiff_module, "IN_MEMORY_LIMIT", 0)
    image = read_image(path)
    window = (slice(0, 64), slice(0, 64))
    np.testing.assert_array_equal(image.read((1,), window)[0], noise[1])
    with pytest.raises(ImageError, match=r"big\.tif cannot be read"):
        image.read((3,), window)


# Pictures in


@pytest.mark.parametrize("ending", [".png", ".tif", ".PNG"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_gray_pictures(tmp_path, ending, dtype):
    pixels = (PIXELS[0, 0] % 256).astype(dtype)
    imsave(tmp_path / f"gray{ending}", pixels, check_contrast=False)
    image = read_image(tmp_path / f"gray{ending}")
    assert (image.axes, image.array.dtype) == ("yx", dtype)
    np.testing.assert_array_equal(image.array, pixels)


def test_colours_stay_and_opacity_goes(tmp_path):
    colours = np.random.default_rng(0).integers(0, 255, (20, 30, 4)).astype(np.uint8)
    imsave(tmp_path / "a.png", colours, check_contrast=False)
    image = read_image(tmp_path / "a.png")
    assert image.axes == "yxc"
    np.testing.assert_array_equal(image.array, colours[..., :3])


def test_gray_saved_as_colours_is_gray(tmp_path):
    gray = PIXELS[0, 0].astype(np.uint8)
    imsave(tmp_path / "a.png", np.stack([gray] * 3, axis=-1), check_contrast=False)
    image = read_image(tmp_path / "a.png")
    assert image.axes == "yx"
    np.testing.assert_array_equal(image.array, gray)


def test_jpeg_is_read_but_never_used_for_labels(tmp_path):
    path = tmp_path / "a.jpg"
    imsave(path, np.full((20, 30, 3), (200, 30, 90), np.uint8), check_contrast=False)
    assert read_image(path).n_channels == 3
    with pytest.raises(ImageError, match="JPEG file, which changes the values"):
        read_labels(path)
    with pytest.raises(ImageError, match="JPEG file, which changes the values"):
        write_labels(path, labels_of(3, 4), "yx")


# OME-Zarr in


def ome_zarr(path, version, axes="tczyx", scale=(1, 1, 2, 0.5, 0.25)):
    """Write the metadata of the standard by hand, as another program would."""
    group = zarr.open_group(path, mode="w", zarr_format=3 if version == "0.5" else 2)
    pixels = PIXELS.reshape(1, 2, 3, 30, 40)
    for name, step in (("first", 1), ("second", 2)):
        level = group.create_array(
            name, shape=pixels[..., ::step, ::step].shape, dtype=pixels.dtype,
            chunks=(1, 1, 1, 16, 16),
        )  # fmt: skip
        level[...] = pixels[..., ::step, ::step]
    kinds = {"t": "time", "c": "channel"}
    named = [{"name": a, "type": kinds.get(a, "space")} for a in axes]
    for axis in named:
        if axis["type"] == "space":
            axis["unit"] = "micrometer" if axis["name"] != "z" else "nanometer"
    multiscale = {
        "axes": named,
        "datasets": [
            {"path": name, "coordinateTransformations": [{"type": "scale", "scale": scale}]}
            for name in ("first", "second")
        ],
        "coordinateTransformations": [{"type": "scale", "scale": (1, 1, 1, 2, 2)}],
    }
    about = {"multiscales": [multiscale], "version": version}
    group.attrs.update({"ome": about} if version == "0.5" else about)
    return pixels


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_the_finest_level_of_an_ome_zarr_is_read_lazily(tmp_path, version):
    pixels = ome_zarr(tmp_path / "cells.ome.zarr", version)
    opened = open_image(tmp_path / "cells.ome.zarr")
    assert isinstance(opened.image.array, zarr.Array)
    assert opened.image.axes == "tczyx"
    assert opened.pixel_sizes == pytest.approx({"z": 0.002, "y": 1.0, "x": 0.5})
    np.testing.assert_array_equal(
        opened.image.read((0, 2), (slice(5, 30), slice(1, 4))), pixels[0, :, 2, 5:30, 1:4]
    )


def test_an_ome_zarr_converted_by_bioformats2raw_opens_at_its_first_image(tmp_path):
    group = zarr.open_group(tmp_path / "a.zarr", mode="w", zarr_format=2)
    group.attrs["bioformats2raw.layout"] = 3
    ome_zarr(tmp_path / "a.zarr" / "0", "0.4")
    assert read_image(tmp_path / "a.zarr").axes == "tczyx"


# Looking at files


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_the_head_of_a_gray_png_tells_all(tmp_path, dtype):
    path = tmp_path / "a.png"
    imsave(path, PIXELS[0, 0].astype(dtype), check_contrast=False)
    check_looked_at(path, open_image(path))


def test_pictures_in_colour_are_read_to_be_looked_at(tmp_path):
    """Only their pixels say whether they are gray."""
    gray = np.stack([PIXELS[0, 0].astype(np.uint8)] * 3, axis=-1)
    for name, pixels, axes in (("a", gray, "yx"), ("b", gray * (1, 2, 3), "yxc")):
        for ending in (".png", ".jpg"):
            path = tmp_path / f"{name}{ending}"
            imsave(path, pixels.astype(np.uint8), check_contrast=False)
            assert look_at(path).image.axes == axes


@pytest.mark.parametrize("name", ["a.png", "gray.tif", "packed.tif"])
def test_a_file_that_breaks_off_is_found_without_its_pixels(tmp_path, name):
    path = tmp_path / name
    if name == "a.png":
        imsave(path, PIXELS[0, 0], check_contrast=False)
    else:
        packed = {"compression": "zlib"} if name == "packed.tif" else {}
        tifffile.imwrite(path, PIXELS, photometric="minisblack", **packed)
    assert look_at(path).image.label_shape[-2:] == (30, 40)
    path.write_bytes(path.read_bytes()[:-300])
    with pytest.raises(ImageError, match="cannot be read"):
        look_at(path)


def test_given_axes_count_when_a_file_is_looked_at(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", PIXELS[0], photometric="minisblack")
    check_looked_at(tmp_path / "a.tif", open_image(tmp_path / "a.tif", "cyx"), axes="cyx")
    with pytest.raises(ImageError, match="There is no file"):
        look_at(tmp_path / "missing.tif")


# Plates


def plate(path, version, wells, missing=()):
    """A plate with the given wells ("A/1") to their fields, as another program writes it."""
    kind = 3 if version == "0.5" else 2

    def say(group, about):
        about = {"version": version, **about}
        group.attrs.update({"ome": about} if kind == 3 else about)

    group = zarr.open_group(path, mode="w", zarr_format=kind)
    say(group, {"plate": {"name": "p", "wells": [{"path": well} for well in wells]}})
    for well, fields in wells.items():
        if well in missing:
            continue
        images = [{"path": name} for name in fields]
        say(zarr.open_group(path / well, mode="w", zarr_format=kind), {"well": {"images": images}})
        for name in fields:
            ome_zarr(path / well / name, version)


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_a_plate_falls_apart_into_its_fields(tmp_path, version):
    path = tmp_path / "p.zarr"
    plate(path, version, {"A/1": ["0", "1"], "B/12": ["FOV_0"]})
    fields = fields_of(path)
    assert [(one.name, one.row, one.column, one.field) for one in fields] == [
        ("A1_0", "A", "1", "0"), ("A1_1", "A", "1", "1"), ("B12_FOV_0", "B", "12", "FOV_0"),
    ]  # fmt: skip
    assert [one.path for one in fields] == [path / "A/1/0", path / "A/1/1", path / "B/12/FOV_0"]
    assert all(read_image(one.path).axes == "tczyx" and not one.problem for one in fields)
    assert [one.name for one in fields_of(path / "A" / "1")] == ["A1_0", "A1_1"]
    assert fields_of(path / "A" / "1" / "0") == []


def test_a_well_that_is_not_there_does_not_cost_the_others(tmp_path):
    path = tmp_path / "p.zarr"
    plate(path, "0.4", {"A/1": ["0"], "A/2": ["0"], "A/3": [], "1/4": ["0"]}, missing=["A/2"])
    first, second, third, fourth = fields_of(path)
    assert (first.name, first.problem, fourth.name) == ("A1_0", "", "1-4_0")
    assert "is listed on the plate, but is not there" in second.problem
    assert "lists no fields" in third.problem
    (path / "A" / "1" / ".zattrs").write_text("{")
    assert "cannot be read" in fields_of(path)[0].problem


def test_a_plate_without_wells_is_an_error(tmp_path):
    plate(tmp_path / "p.zarr", "0.5", {})
    with pytest.raises(ImageError, match="lists no wells"):
        fields_of(tmp_path / "p.zarr")


def test_several_images_of_one_file_converted_by_bioformats2raw(tmp_path):
    group = zarr.open_group(tmp_path / "a.zarr", mode="w", zarr_format=2)
    group.attrs["bioformats2raw.layout"] = 3
    ome_zarr(tmp_path / "a.zarr" / "0", "0.4")
    assert fields_of(tmp_path / "a.zarr") == []
    ome_zarr(tmp_path / "a.zarr" / "1", "0.4")
    assert [(one.name, one.row) for one in fields_of(tmp_path / "a.zarr")] == [("0", ""), ("1", "")]
    listed = zarr.open_group(tmp_path / "a.zarr" / "OME", mode="w", zarr_format=2)
    listed.attrs["series"] = ["1", "0"]
    assert [one.name for one in fields_of(tmp_path / "a.zarr")] == ["1", "0"]


def test_what_can_be_an_image(tmp_path):
    plate(tmp_path / "plate", "0.5", {})
    (tmp_path / "folder").mkdir()
    for name, expected in (("a.TIF", True), ("a.png", True), ("a.txt", False), ("a.czi", False)):
        assert can_be_image(tmp_path / name) is expected
    assert can_be_image(tmp_path / "plate") and not can_be_image(tmp_path / "folder")


def test_a_plain_zarr_array_has_guessed_axes(tmp_path):
    zarr.save_array(tmp_path / "a.zarr", PIXELS[0])
    assert read_image(tmp_path / "a.zarr").axes == "zyx"
    assert read_image(tmp_path / "a.zarr", "cyx").n_channels == 3


def test_a_zarr_group_without_an_image_says_so(tmp_path):
    zarr.open_group(tmp_path / "plate.zarr", mode="w").attrs["plate"] = {}
    with pytest.raises(ImageError, match="Name the folder of one image"):
        read_image(tmp_path / "plate.zarr")


# What cannot be read


@pytest.mark.parametrize(
    ("name", "content", "match"),
    [
        ("a.czi", b"ZISRAW", "unknown kind.*Convert it to TIFF"),
        ("a.tif", b"hello", "cannot be read.*damaged"),
        ("a.tif", b"", "cannot be read.*damaged"),
        ("a.tif", b"II*\0\x08\0\0\0", "cannot be read.*damaged"),
        ("a.png", b"\x89PNG\r\n\x1a\n", "cannot be read.*damaged"),
        ("a.jpg", b"hello", "cannot be read.*damaged"),
    ],
)
def test_what_cannot_be_read_gives_a_sentence(tmp_path, name, content, match):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ImageError, match=match):
        read_image(tmp_path / name)


def test_missing_files_and_folders_give_a_sentence(tmp_path):
    with pytest.raises(ImageError, match="There is no file"):
        read_image(tmp_path / "missing.tif")
    with pytest.raises(ImageError, match="is a folder"):
        read_image(tmp_path)
    (tmp_path / "empty.zarr").mkdir()
    with pytest.raises(ImageError, match="cannot be read"):
        read_image(tmp_path / "empty.zarr")


def test_a_truncated_tiff_gives_a_sentence(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", PIXELS, photometric="minisblack", compression="zlib")
    content = (tmp_path / "a.tif").read_bytes()
    (tmp_path / "a.tif").write_bytes(content[: len(content) // 2])
    with pytest.raises(ImageError, match="cannot be read"):
        read_image(tmp_path / "a.tif")


def test_a_missing_codec_is_named(tmp_path, monkeypatch):
    (tmp_path / "a.tif").touch()

    def fail(*args, **options):
        raise ValueError("<COMPRESSION.LZW: 5> requires the 'imagecodecs' package")

    monkeypatch.setattr(tifffile, "TiffFile", fail)
    with pytest.raises(ImageError, match="pip install imagecodecs"):
        read_image(tmp_path / "a.tif")


# Labels


@pytest.mark.parametrize(
    ("shape", "axes"), [((30, 40), "yx"), ((3, 30, 40), "zyx"), ((2, 3, 30, 40), "tzyx")]
)
@pytest.mark.parametrize(
    ("highest", "dtype"), [(255, np.uint8), (256, np.uint16), (65536, np.uint32)]
)
def test_labels_come_back_from_tiff(tmp_path, shape, axes, highest, dtype):
    labels = labels_of(*shape)
    labels.ravel()[0] = highest
    like = ImageFile(
        path=tmp_path, image=make_image(labels, axes),
        pixel_sizes={"z": 2.0, "y": 0.25, "x": 0.125},
    )  # fmt: skip
    write_labels(tmp_path / "out" / "a.tif", labels, axes, like)
    opened = open_image(tmp_path / "out" / "a.tif")
    assert opened.image.axes == axes
    assert opened.pixel_sizes == {a: s for a, s in like.pixel_sizes.items() if a in axes}
    read = read_labels(tmp_path / "out" / "a.tif")
    assert read.dtype == dtype
    np.testing.assert_array_equal(read, labels)
    with tifffile.TiffFile(tmp_path / "out" / "a.tif") as tif:
        assert tif.is_ome and tif.pages[0].compression == 8
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["a.tif"]


def test_axes_that_ome_does_not_know_are_written_under_others(tmp_path):
    labels = labels_of(2, 3, 30, 40)
    write_labels(tmp_path / "a.tif", labels, "szyx")
    assert read_image(tmp_path / "a.tif").axes == "tzyx"
    write_labels(tmp_path / "b.tif", labels[None], "tszyx")
    np.testing.assert_array_equal(np.squeeze(read_labels(tmp_path / "b.tif")), labels)


@pytest.mark.parametrize("highest", [200, 60000])
def test_labels_come_back_from_png(tmp_path, highest):
    labels = labels_of(30, 40, highest=highest)
    write_labels(tmp_path / "a.png", labels, "yx")
    np.testing.assert_array_equal(read_labels(tmp_path / "a.png"), labels)
    np.testing.assert_array_equal(imread(tmp_path / "a.png"), labels)


def test_png_refuses_what_it_cannot_hold(tmp_path):
    with pytest.raises(ImageError, match="one plane"):
        write_labels(tmp_path / "a.png", labels_of(3, 30, 40), "zyx")
    with pytest.raises(ImageError, match="up to 65535"):
        write_labels(tmp_path / "a.png", labels_of(3, 4) + 70000, "yx")
    assert list(tmp_path.iterdir()) == []


def test_labels_have_one_channel_of_whole_numbers(tmp_path):
    tifffile.imwrite(tmp_path / "f.tif", np.zeros((30, 40), np.float32))
    tifffile.imwrite(tmp_path / "c.tif", np.zeros((30, 40, 3), np.uint8), photometric="rgb")
    for name in ("f.tif", "c.tif"):
        with pytest.raises(ImageError, match="one channel of whole numbers"):
            read_labels(tmp_path / name)


def test_a_failed_write_leaves_the_old_file_and_no_rest(tmp_path, monkeypatch):
    write_labels(tmp_path / "a.tif", labels_of(3, 4), "yx")
    before = (tmp_path / "a.tif").read_bytes()

    def fail(path, *args, **options):
        path.write_bytes(b"half of")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tifffile, "imwrite", fail)
    with pytest.raises(ImageError, match=r"could not be written \(No space left"):
        write_labels(tmp_path / "a.tif", labels_of(3, 4, highest=2), "yx")
    assert (tmp_path / "a.tif").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["a.tif"]
    (tmp_path / "file").touch()
    with pytest.raises(ImageError, match="could not be written"):
        write_labels(tmp_path / "file" / "a.tif", labels_of(3, 4), "yx")


def test_an_unknown_ending_is_refused(tmp_path):
    with pytest.raises(ImageError, match="results are"):
        write_labels(tmp_path / "a.npy", labels_of(3, 4), "yx")


def test_probabilities_are_written_as_channels(tmp_path):
    probabilities = np.random.default_rng(0).random((2, 3, 30, 40)).astype(np.float16)
    write_probabilities(tmp_path / "p.tif", probabilities, "tyx")
    image = read_image(tmp_path / "p.tif")
    assert (image.axes, image.array.dtype) == ("ctyx", np.float32)
    np.testing.assert_array_equal(image.array, probabilities.astype(np.float32))


# OME-Zarr out


def test_labels_come_back_from_ome_zarr(tmp_path):
    pytest.importorskip("ome_zarr")
    path = tmp_path / "a.ome.zarr"
    labels = labels_of(2, 1500, 40, highest=300)
    like = ImageFile(
        path=path, image=make_image(labels, "zyx"), pixel_sizes={"z": 2.0, "y": 0.5, "x": 0.5}
    )
    for _ in range(2):  # the second time over the first
        write_labels(path, labels, "zyx", like)
        opened = open_image(path)
        assert (opened.image.axes, opened.image.array.dtype) == ("zyx", np.uint16)
        assert opened.pixel_sizes == like.pixel_sizes
        np.testing.assert_array_equal(read_labels(path), labels)
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.ome.zarr"]
    levels = sorted(zarr.open_group(path, mode="r").array_keys())
    assert len(levels) == 2
    small = np.asarray(zarr.open_group(path, mode="r")[levels[1]])
    assert small.shape == (2, 750, 20) and set(np.unique(small)) <= set(np.unique(labels))


def test_probabilities_come_back_from_ome_zarr(tmp_path):
    pytest.importorskip("ome_zarr")
    probabilities = np.random.default_rng(0).random((2, 3, 30, 40)).astype(np.float16)
    write_probabilities(tmp_path / "p.ome.zarr", probabilities, "tyx")
    image = read_image(tmp_path / "p.ome.zarr")
    assert image.axes == "tcyx"  # the order that the standard wants
    np.testing.assert_array_equal(image.array[...], probabilities.swapaxes(0, 1).astype(np.float32))


def test_a_folder_of_something_else_is_never_replaced(tmp_path):
    pytest.importorskip("ome_zarr")
    (tmp_path / "a.zarr").mkdir()
    (tmp_path / "a.zarr" / "letter.txt").touch()
    with pytest.raises(ImageError, match="something else"):
        write_labels(tmp_path / "a.zarr", labels_of(30, 40), "yx")
    assert [path.name for path in tmp_path.rglob("*")] == ["a.zarr", "letter.txt"]


def test_without_the_library_for_ome_zarr_a_sentence_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ome_zarr.format", None)
    with pytest.raises(ImageError, match=r"pip install \"napari-unet-live\[ome-zarr\]\""):
        write_labels(tmp_path / "a.zarr", labels_of(30, 40), "yx")
    assert list(tmp_path.iterdir()) == []


# Names


@pytest.mark.parametrize(
    "name", ["cells.1.tif", "cells.1.OME.TIFF", "cells.1.png", "cells.1.ome.zarr", "cells.1.zarr"]
)
def test_results_are_named_after_the_image(tmp_path, name):
    assert output_path(tmp_path, f"a/{name}", "_labels.tif") == tmp_path / "cells.1_labels.tif"
    assert stem_of(f"a/{name}") == "cells.1"


def test_whether_a_format_can_be_written_is_known_beforehand(monkeypatch):
    for ending in (".tif", ".png"):
        check_ending(ending)
    with pytest.raises(ImageError, match="results are"):
        check_ending(".npy")
    monkeypatch.setitem(sys.modules, "ome_zarr.format", None)
    with pytest.raises(ImageError, match="pip install"):
        check_ending(".ome.zarr")


def test_results_are_discarded_and_nothing_else(tmp_path):
    (tmp_path / "a.tif").touch()
    plate(tmp_path / "b.zarr", "0.5", {})
    (tmp_path / "folder").mkdir()
    for name in ("a.tif", "b.zarr", "missing.tif"):
        discard(tmp_path / name)
    with pytest.raises(ImageError, match="something else"):
        discard(tmp_path / "folder")
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


@pytest.mark.parametrize("ending", [".tif", ".ome.zarr", ".png"])
def test_labels_that_are_not_in_memory_are_written_piece_by_piece(tmp_path, monkeypatch, ending):
    if ending == ".ome.zarr":
        pytest.importorskip("ome_zarr")
    monkeypatch.setattr(tiff_module, "TILE_SIZE", 16)
    labels = labels_of(*((30, 40) if ending == ".png" else (2, 30, 40)), highest=300)
    lazy = zarr.create_array({}, data=labels.astype(np.uint32), chunks=labels[:1].shape)
    seen = []

    class Watched:
        shape, dtype, ndim = lazy.shape, lazy.dtype, lazy.ndim

        def __getitem__(self, selection):
            seen.append(np.asarray(lazy[selection]))
            return seen[-1]

    write_labels(tmp_path / f"a{ending}", Watched(), "yx" if ending == ".png" else "zyx")
    written = read_labels(tmp_path / f"a{ending}")
    assert written.dtype == np.uint16
    np.testing.assert_array_equal(written, labels)
    if ending != ".png":
        assert max(part.size for part in seen) <= labels[0].size
