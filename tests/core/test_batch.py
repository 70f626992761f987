"""A batch: checked beforehand, exact in its tables, taken up again where it was stopped."""

import csv
import json
import os
import subprocess
import sys
from contextlib import closing
from dataclasses import replace

import numpy as np
import pytest
import tifffile
import zarr
from skimage.io import imsave

from napari_unet.core.batch import (
    BatchProgress,
    BatchSettings,
    batch,
    imaging,
    planning,
    run_batch,
    running,
)
from napari_unet.core.batch.channels import with_channels
from napari_unet.core.errors import ImageError, SettingsError
from napari_unet.core.files import open_image, read_image, read_labels
from napari_unet.core.image import make_image
from napari_unet.core.model import Round
from napari_unet.core.progress import FinishEarly, finish
from napari_unet.core.segmentation import segment
from napari_unet.core.settings import SegmentSettings


def boxes(*shape, n=3):
    """Dark ground with bright boxes far apart, the n-th of them n + 2 px high; uint16."""
    pixels = np.full(shape, 100, np.uint16)
    for at in range(n):
        pixels[..., 2 : 5 + at, 2 + 10 * at : 8 + 10 * at] = 900 + at
    return pixels


def write(path, pixels, axes="YX", size=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    sizes = {} if size is None else {f"PhysicalSize{axis}": size for axis in "XY"}
    tifffile.imwrite(
        path, pixels, ome=True, photometric="minisblack", metadata={"axes": axes, **sizes}
    )


@pytest.fixture
def folder(tmp_path):
    """Three images with 1, 2 and 3 objects, the last one in a folder of its own."""
    for n, name in enumerate(("a.ome.tif", "b.ome.tif", "sub/c.ome.tif"), start=1):
        write(tmp_path / "images" / name, boxes(30, 40, n=n), size=0.5)
    return tmp_path / "images"


@pytest.fixture
def out(tmp_path):
    return tmp_path / "results"


RECURSIVE = BatchSettings(recursive=True)


def table(path):
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def reasons(plan):
    return {entry.name: entry.error for entry in plan.refused}


def files_below(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.*"))


# What comes out


def test_labels_are_those_of_segment_and_tables_agree_with_them(folder, out, tiny_model):
    result = run_batch(folder, tiny_model, out, options=RECURSIVE)
    assert [(e.name, e.status, e.count) for e in result.entries] == [
        ("a", "done", 1), ("b", "done", 2), ("sub/c", "done", 3),
    ]  # fmt: skip
    assert files_below(out) == [
        "a_labels.tif", "a_objects.csv", "b_labels.tif", "b_objects.csv", "batch.json",
        "objects.csv", "report.json", "report.md", "sub/c_labels.tif", "sub/c_objects.csv",
        "summary.csv",
    ]  # fmt: skip
    pixels = read_image(folder / "sub" / "c.ome.tif").array
    labels = read_labels(out / "sub" / "c_labels.tif")
    np.testing.assert_array_equal(labels, segment(pixels, tiny_model).labels)
    assert open_image(out / "sub" / "c_labels.tif").pixel_sizes == {"y": 0.5, "x": 0.5}
    rows = table(out / "sub" / "c_objects.csv")
    assert list(rows[0]) == [
        "image", "label", "class", "area_px", "area_um2", "centroid_y", "centroid_x", "y_min",
        "y_max", "x_min", "x_max", "mean_ch0", "min_ch0", "max_ch0", "integrated_ch0",
    ]  # fmt: skip
    for row in rows:
        mine = labels == int(row["label"])
        y, x = np.nonzero(mine)
        assert (row["image"], row["class"]) == ("sub/c", "object")
        assert int(row["area_px"]) == mine.sum()
        assert float(row["area_um2"]) == mine.sum() / 4
        assert [float(row["centroid_y"]), float(row["centroid_x"])] == [y.mean(), x.mean()]
        ends = [int(row[name]) for name in ("y_min", "y_max", "x_min", "x_max")]
        assert ends == [y.min(), y.max(), x.min(), x.max()]
        assert int(row["integrated_ch0"]) == pixels[mine].sum()
        assert (int(row["min_ch0"]), int(row["max_ch0"])) == (
            pixels[mine].min(),
            pixels[mine].max(),
        )
        assert float(row["mean_ch0"]) == pytest.approx(pixels[mine].mean(), rel=1e-6)
    every = [row for name in "ab" for row in table(out / f"{name}_objects.csv")] + rows
    assert table(out / "objects.csv") == every


def test_the_summary_has_a_row_for_each_image(folder, out, tiny_model):
    write(folder / "unknown.ome.tif", boxes(30, 40, n=2))
    write(folder / "empty.ome.tif", np.arange(900, dtype=np.uint16).reshape(30, 30) // 899)
    (folder / "bad.tif").write_bytes(b"hello")
    run_batch(folder, tiny_model, out, SegmentSettings(min_size=10))
    rows = {row["image"]: row for row in table(out / "summary.csv")}
    assert list(rows) == ["a", "b", "bad", "empty", "unknown"]
    b, unknown, empty, bad = rows["b"], rows["unknown"], rows["empty"], rows["bad"]
    assert (b["status"], b["count"], b["pixel_size_um"], b["error"]) == ("done", "2", "0.5", "")
    sizes = [int(row["area_px"]) for row in table(out / "b_objects.csv")]
    assert float(b["median_area_px"]) == sum(sizes) / 2
    assert float(b["median_area_um2"]) == sum(sizes) / 8
    assert float(b["area_fraction"]) == pytest.approx(sum(sizes) / 1200, rel=1e-5)
    assert float(b["seconds"]) > 0
    assert (unknown["median_area_um2"], unknown["pixel_size_um"]) == ("", "")
    assert "area_um2" not in table(out / "unknown_objects.csv")[0]
    assert (empty["count"], empty["median_area_px"], empty["area_fraction"]) == ("0", "", "0")
    assert table(out / "empty_objects.csv") == []
    assert bad["status"] == "refused" and "cannot be read" in bad["error"] and bad["count"] == ""


def test_stacks_have_rows_for_every_plane(tmp_path, out, tiny_model):
    stack = np.stack([boxes(2, 30, 40, n=n) for n in (1, 2, 3)])  # (t, z, y, x)
    write(tmp_path / "movie.ome.tif", stack, "TZYX")
    write(tmp_path / "short.ome.tif", stack[:, :1], "TZYX")
    run_batch([tmp_path / "movie.ome.tif", tmp_path / "short.ome.tif"], tiny_model, out)
    rows = table(out / "movie_objects.csv")
    labels = read_labels(out / "movie_labels.tif")
    assert [row["t"] for row in rows] == list("001111222222")
    assert [row["z"] for row in rows] == list("010011000111")
    for row in rows:
        plane = labels[int(row["t"]), int(row["z"])]
        assert int(row["area_px"]) == (plane == int(row["label"])).sum()
    short = table(out / "short_objects.csv")
    assert "z" not in short[0] and [row["t"] for row in short] == list("011222")
    assert list(table(out / "objects.csv")[0])[-1] == "integrated_ch0"  # t, z: as in the first


def test_volumes_are_measured_whole(tmp_path, out, tiny_model, monkeypatch):
    """Where planes are linked; the arithmetic of a 3D model is the same."""
    stack = np.full((3, 30, 40), 100, np.uint16)
    stack[1:, 2:7, 3:9] = 900
    tifffile.imwrite(
        tmp_path / "v.tif", stack, imagej=True, resolution=(2, 2),
        metadata={"axes": "ZYX", "unit": "um", "spacing": 3.0},
    )  # fmt: skip
    linked = np.where(stack > 500, 1, 0).astype(np.uint8)
    fake = segment(stack, tiny_model, axes="zyx")
    object.__setattr__(fake, "labels", linked)
    monkeypatch.setattr(imaging, "_segmenting", lambda *args: (yield from given(fake)))
    model = tiny_model.described(objects=replace(tiny_model.description.objects, link=True))
    run_batch(tmp_path / "v.tif", model, out)
    (row,) = table(out / "v_objects.csv")
    n_pixels = int(linked.sum())
    assert (row["volume_px"], row["z_min"], row["z_max"]) == (str(n_pixels), "1", "2")
    assert float(row["volume_um3"]) == n_pixels * 3 * 0.25
    assert float(row["centroid_z"]) == 1.5
    summary = table(out / "summary.csv")[0]
    assert float(summary["median_volume_um3"]) == n_pixels * 3 * 0.25
    assert summary["median_area_px"] == ""


def given(result):
    yield from ()
    return result


def test_classes_and_probabilities(folder, out, tiny_model):
    options = BatchSettings(probabilities=True, pattern="b.*")
    run_batch(folder, tiny_model, out, SegmentSettings(what="classes"), options)
    assert {"b_classes.tif", "b_classes.csv", "b_probabilities.tif", "classes.csv"} < set(
        files_below(out)
    )
    (row,) = table(out / "b_classes.csv")
    classes = read_labels(out / "b_classes.tif")
    assert (row["label"], row["class"]) == ("1", "object")
    assert int(row["area_px"]) == classes.sum()
    assert table(out / "summary.csv")[0]["count"] == ""
    expected = segment(read_image(folder / "b.ome.tif"), tiny_model).probabilities
    np.testing.assert_array_equal(read_image(out / "b_probabilities.tif").array, expected)


def test_other_formats(folder, out, tiny_model):
    run_batch(folder / "b.ome.tif", tiny_model, out, options=BatchSettings(file_format="png"))
    expected = segment(read_image(folder / "b.ome.tif"), tiny_model).labels
    np.testing.assert_array_equal(read_labels(out / "b_labels.png"), expected)
    pytest.importorskip("ome_zarr")
    settings = BatchSettings(file_format="ome-zarr", overwrite=True)
    for _ in range(2):
        run_batch(folder / "b.ome.tif", tiny_model, out, options=settings)
        np.testing.assert_array_equal(read_labels(out / "b_labels.ome.zarr"), expected)
    kept = BatchSettings(file_format="ome-zarr")
    assert run_batch(folder / "b.ome.tif", tiny_model, out, options=kept).n_new == 0


# Channels


@pytest.mark.parametrize("axes", ["CYX", "YXC"])
@pytest.mark.parametrize("is_lazy", [False, True])
def test_the_model_sees_the_channels_chosen_and_all_are_measured(
    tmp_path, out, tiny_model, axes, is_lazy
):
    other = np.random.default_rng(0).integers(0, 5000, (30, 40)).astype(np.uint16)
    pixels = np.stack([other, boxes(30, 40), other], axis=axes.index("C"))
    if is_lazy:
        zarr.save_array(tmp_path / "a.zarr", pixels)
    else:
        tifffile.imwrite(tmp_path / "a.tif", pixels, photometric="minisblack")
    path = tmp_path / ("a.zarr" if is_lazy else "a.tif")
    plan = finish(planning(path, [tiny_model], out, options=BatchSettings(axes=axes.lower())))
    assert "has 3 channels" in reasons(plan)["a"] and "--channels" in reasons(plan)["a"]
    options = BatchSettings(axes=axes.lower(), channels=(1,))
    run_batch(path, tiny_model, out, options=options)
    labels = read_labels(out / "a_labels.tif")
    np.testing.assert_array_equal(labels, segment(boxes(30, 40), tiny_model).labels)
    for row in table(out / "a_objects.csv"):
        mine = labels == int(row["label"])
        assert int(row["integrated_ch1"]) == boxes(30, 40)[mine].sum()
        assert int(row["integrated_ch0"]) == int(row["integrated_ch2"]) == other[mine].sum()


def test_channels_are_chosen_without_reading_the_others():
    pixels = np.arange(4 * 3 * 20 * 30).reshape(4, 3, 20, 30)

    seen = []

    class Watched:
        shape, dtype, chunks = pixels.shape, pixels.dtype, (1, 1, 10, 10)

        def __getitem__(self, selection):
            seen.append(selection[1])
            return pixels[selection]

    chosen = with_channels(make_image(Watched(), "tcyx"), (2, 0))
    window = (slice(3, 9), slice(4, 8))
    np.testing.assert_array_equal(chosen.read((1,), window), pixels[1, [2, 0], 3:9, 4:8])
    np.testing.assert_array_equal(chosen.array[:, 0], pixels[:, 2])
    np.testing.assert_array_equal(chosen.array[...][:, 1], pixels[:, 0])
    assert set(seen) == {0, 2}
    assert (chosen.n_channels, chosen.array.chunks) == (2, (1, 1, 10, 10))
    with pytest.raises(ImageError, match="there is no channel 3"):
        with_channels(make_image(pixels, "tcyx"), (3,))
    image = make_image(pixels[0, 0], "yx")
    assert with_channels(image, (0,)) is image


@pytest.mark.parametrize("options", [{"channels": ()}, {"channels": (1, 1)}, {"channels": (-1,)},
                                     {"file_format": "jpg"}])  # fmt: skip
def test_options_that_make_no_sense(options):
    with pytest.raises(SettingsError, match="must be"):
        BatchSettings(**options)


# The check beforehand


def test_the_check_names_everything_that_cannot_be_done_and_reads_nothing(
    folder, out, make_tiny_model, monkeypatch
):
    (folder / "broken.tif").write_bytes(b"hello")
    (folder / "empty.png").touch()
    (folder / "scan.czi").touch()
    (folder / "notes.txt").touch()
    (folder / ".hidden.tif").touch()
    write(folder / "two.tif", boxes(2, 30, 40), "CYX")
    imsave(folder / "a.png", boxes(30, 40).astype(np.uint8), check_contrast=False)
    cut = folder / "cut.tif"
    write(cut, boxes(30, 40))
    cut.write_bytes(cut.read_bytes()[:1500])
    out.mkdir()
    (out / "b_labels.tif").write_bytes(b"precious")
    before = files_below(out)
    monkeypatch.setattr(tifffile.TiffPageSeries, "asarray", None)
    model = make_tiny_model(in_channels=3)
    plan = finish(planning([folder, folder / "gone.tif"], [model], out, options=RECURSIVE))
    assert [source.name for source in plan.todo] == ["sub/c"]
    assert plan.kinds == {"axes yx, 30 x 40, uint16, 0.5 x 0.5 µm": 1}
    assert [path.name for path in plan.left_out] == ["notes.txt"]
    expected = {
        "a": "would have the same name",
        "broken": "cannot be read",
        "empty": "cannot be read",
        "scan.czi": "of an unknown kind",
        "two": "has 2 channels",
        "cut": "cannot be read",
        "b": "is there already, and is not from this batch",
        "gone": "There is no file",
    }
    found = reasons(plan)
    assert set(found) == set(expected)
    for name, reason in expected.items():
        assert reason in found[name]
    assert sum(entry.name == "a" for entry in plan.refused) == 2
    assert files_below(out) == before  # nothing was written


def test_the_check_does_without_a_model_and_a_place_for_results(folder):
    plan = finish(planning(folder))
    assert [source.name for source in plan.todo] == ["a", "b"]
    with pytest.raises(SettingsError, match="needs a model and a folder"):
        finish(running(plan))


def test_a_3d_model_wants_a_z_axis(folder, tiny_model):
    write(folder / "z.tif", boxes(3, 30, 40), "ZYX")
    object.__setattr__(tiny_model, "description", replace(tiny_model.description, dims=3))
    plan = finish(planning(folder, [tiny_model]))
    assert [source.name for source in plan.todo] == ["z"]
    assert "has no z axis (its axes are 'yx')" in reasons(plan)["a"]


def test_png_is_for_planes(folder, out, tiny_model):
    write(folder / "z.tif", boxes(3, 30, 40), "ZYX")
    plan = finish(planning(folder, [tiny_model], out, options=BatchSettings(file_format="png")))
    assert "PNG files hold one plane" in reasons(plan)["z"]
    assert len(plan.todo) == 2


def test_patterns_and_folders(folder, out, tmp_path):
    def names(sources, **options):
        return [
            one.name
            for one in finish(planning(sources, out=out, options=BatchSettings(**options))).sources
        ]

    assert names(folder) == ["a", "b"]
    assert names(folder, recursive=True) == ["a", "b", "sub/c"]
    assert names(folder, pattern="b*") == ["b"]
    assert names(folder, pattern="sub/*", recursive=True) == ["sub/c"]
    assert names([folder / "b.ome.tif", folder]) == ["b", "a"]
    write(tmp_path / "day 2" / "a.tif", boxes(30, 40))
    assert names([folder, tmp_path / "day 2"]) == ["images/a", "images/b", "day 2/a"]
    with pytest.raises(ImageError, match=r"no files named \*\.jpg in"):
        names(folder, pattern="*.jpg")
    (tmp_path / "nothing").mkdir()
    with pytest.raises(ImageError, match="recursive"):
        names(tmp_path / "nothing")


def test_results_are_never_taken_for_images(folder, tiny_model):
    with pytest.raises(SettingsError, match="would lie among the images"):
        run_batch(folder, tiny_model, folder)
    run_batch(folder, tiny_model, folder / "one", options=RECURSIVE)
    result = run_batch(folder, tiny_model, folder / "two", options=RECURSIVE)
    assert [entry.name for entry in result.entries] == ["a", "b", "sub/c"]


# Plates


def plate(path, version):
    """Two wells with one field each, of 2 channels, and one well that is not there."""
    kind = 3 if version == "0.5" else 2

    def say(group, about):
        about = {"version": version, **about}
        group.attrs.update({"ome": about} if kind == 3 else about)

    group = zarr.open_group(path, mode="w", zarr_format=kind)
    say(group, {"plate": {"wells": [{"path": f"B/0{n}"} for n in (1, 2, 3)]}})
    for n in (1, 2):
        well = group.create_group(f"B/0{n}")
        say(well, {"well": {"images": [{"path": "0"}]}})
        field = well.create_group("0")
        pixels = np.stack([boxes(30, 40, n=n), boxes(30, 40, n=3)])
        field.create_array("full", shape=pixels.shape, dtype="u2", chunks=(1, 16, 16))[...] = pixels
        scale = {"type": "scale", "scale": [1, 0.5, 0.5]}
        axes = [{"name": "c", "type": "channel"}] + [
            {"name": axis, "type": "space", "unit": "micrometer"} for axis in "yx"
        ]
        datasets = [{"path": "full", "coordinateTransformations": [scale]}]
        say(field, {"multiscales": [{"axes": axes, "datasets": datasets}]})


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_a_plate_is_done_field_by_field(tmp_path, out, tiny_model, version):
    plate(tmp_path / "p.ome.zarr", version)
    options = BatchSettings(channels=(0,))
    result = run_batch(tmp_path / "p.ome.zarr", tiny_model, out, options=options)
    assert [(e.name, e.status, e.count) for e in result.entries] == [
        ("p/B01_0", "done", 1), ("p/B02_0", "done", 2), ("p/B03", "refused", None),
    ]  # fmt: skip
    assert (out / "p" / "B02_0_labels.tif").is_file()
    rows = table(out / "summary.csv")
    assert [(row["row"], row["column"], row["field"]) for row in rows] == [
        ("B", "01", "0"), ("B", "02", "0"), ("B", "03", ""),
    ]  # fmt: skip
    assert float(rows[0]["pixel_size_um"]) == 0.5
    again = run_batch(tmp_path, tiny_model, out, options=options)  # the folder it lies in
    assert again.n_new == 0 and len(again.with_status("done")) == 2
    field = zarr.open_group(tmp_path / "p.ome.zarr" / "B" / "01" / "0")
    field["full"][0, :5, :5] = 7  # deep inside, and of the same size
    os.utime(next((tmp_path / "p.ome.zarr" / "B" / "01" / "0" / "full").rglob("*0")), (9e9, 9e9))
    assert run_batch(tmp_path, tiny_model, out, options=options).n_new == 1


# Stopped and taken up again


def contents(out):
    """Everything that results consist of, but for times."""
    return {
        name: read_labels(out / name).tolist()
        if name.endswith(".tif")
        else (out / name).read_text()
        for name in files_below(out)
        if name.endswith((".tif", ".csv")) and name != "summary.csv"
    }


def test_what_is_done_is_not_done_again(folder, out, tiny_model):
    first = run_batch(folder, tiny_model, out)
    before = {name: (out / name).stat().st_mtime_ns for name in contents(out)}
    del before["objects.csv"]  # made anew from the others
    second = run_batch(folder, tiny_model, out)
    assert (first.n_new, second.n_new) == (2, 0)
    assert second.entries == first.entries
    assert {name: (out / name).stat().st_mtime_ns for name in before} == before


@pytest.mark.parametrize("n_steps", [1, 4, 6, 8, 9, 11, 14])
def test_closed_at_any_step_and_taken_up_again(folder, out, tmp_path, tiny_model, n_steps):
    run_batch(folder, tiny_model, tmp_path / "whole", options=RECURSIVE)
    n_done = 0
    with closing(batch(folder, tiny_model, out, options=RECURSIVE)) as work:
        for _ in range(n_steps):
            progress = next(work)
            n_done += isinstance(progress, BatchProgress) and progress.entry is not None
    report = out / "report.json"
    if n_steps > 4:
        assert json.loads(report.read_text())["finished"] is False
        assert json.loads(report.read_text())["done"] == n_done
        assert len(table(out / "summary.csv")) == 3
    assert not [name for name in files_below(tmp_path) if name.endswith(".part")]
    again = run_batch(folder, tiny_model, out, options=RECURSIVE)
    assert again.n_new == 3 - n_done
    assert json.loads(report.read_text())["finished"] is True
    assert contents(out) == contents(tmp_path / "whole")


def test_finishing_early_gives_what_is_done(folder, out, tiny_model):
    work = batch(folder, tiny_model, out)
    while getattr(next(work), "entry", None) is None:
        pass
    with pytest.raises(StopIteration) as end:
        work.throw(FinishEarly())
    statuses = [entry.status for entry in end.value.value.entries]
    assert statuses == ["done", "waiting"]
    work = batch(folder, tiny_model, out)
    while not isinstance(next(work), BatchProgress):
        pass
    with pytest.raises(StopIteration) as end:  # in the middle of an image
        work.throw(FinishEarly())
    assert [entry.status for entry in end.value.value.entries] == ["done", "waiting"]


KILL = """
import os, signal, sys
from napari_unet.core.batch import batch
from napari_unet.core import files
from napari_unet.core.batch import imaging
from napari_unet.core.model import load_model

folder, out, model, where = sys.argv[1:]

def die(*args, **options):
    os.kill(os.getpid(), signal.SIGKILL)

if where == "after labels":  # those of the second image are written, its table is not
    imaging.measuring = lambda labels, image, *args, **options: (
        die() if image.name == "b" else whole(labels, image, *args, **options)
    )
    from napari_unet.core.measurements import measuring as whole
for progress in batch(folder, load_model(model, "cpu"), out):
    if where == "before labels" and getattr(progress, "n_done", 0) == 1:
        die()
"""


@pytest.mark.skipif(os.name == "nt", reason="there is no SIGKILL")
@pytest.mark.parametrize("where", ["before labels", "after labels"])
def test_killed_and_taken_up_again(folder, out, tmp_path, tiny_model, tiny_file, where):
    command = [sys.executable, "-c", KILL, str(folder), str(out), str(tiny_file), where]
    killed = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert killed.returncode == -9, killed.stderr
    assert (out / "b_labels.tif").exists() is (where == "after labels")
    rests = [path for path in out.iterdir() if path.name.startswith(".")]
    assert len(rests) == (where == "after labels")  # the table, half written
    (out / ".0123abcd.mine").touch()
    assert not (out / "summary.csv").exists()
    result = run_batch(folder, tiny_model, out)
    assert result.n_new == 1
    assert [entry.status for entry in result.entries] == ["done", "done"]
    assert [path.name for path in out.iterdir() if path.name[0] == "."] == [".0123abcd.mine"]
    run_batch(folder, tiny_model, tmp_path / "whole")
    assert contents(out) == contents(tmp_path / "whole")


def test_a_file_that_changed_is_done_again(folder, out, tiny_model):
    run_batch(folder, tiny_model, out)
    write(folder / "a.ome.tif", boxes(30, 40, n=3), size=0.5)
    result = run_batch(folder, tiny_model, out)
    assert result.n_new == 1
    assert [entry.count for entry in result.entries] == [3, 2]
    assert len(table(out / "a_objects.csv")) == 3


@pytest.mark.parametrize("name", ["a_labels.tif", "a_objects.csv"])
def test_a_result_that_is_gone_is_made_again(folder, out, tiny_model, name):
    run_batch(folder, tiny_model, out)
    before = contents(out)
    (out / name).unlink()
    assert run_batch(folder, tiny_model, out).n_new == 1
    assert contents(out) == before


def test_a_result_that_someone_changed_is_never_replaced_unasked(folder, out, tiny_model):
    run_batch(folder, tiny_model, out)
    (out / "a_labels.tif").write_bytes(b"corrected by hand")
    result = run_batch(folder, tiny_model, out)
    assert result.n_new == 0
    assert "was changed by someone" in result.entries[0].error
    assert (out / "a_labels.tif").read_bytes() == b"corrected by hand"
    anew = run_batch(folder, tiny_model, out, options=BatchSettings(overwrite=True))
    assert anew.n_new == 2 and len(anew.with_status("done")) == 2


def test_other_settings_and_models_do_not_mix_with_what_is_there(
    folder, out, tiny_model, make_tiny_model
):
    import torch

    run_batch(folder, tiny_model, out)
    before = contents(out)
    with pytest.raises(SettingsError, match=r"threshold 0.5, now 0.6.*--overwrite"):
        run_batch(folder, tiny_model, out, SegmentSettings(threshold=0.6))
    other = make_tiny_model()
    with torch.no_grad():
        other.network.head.bias[0] += 1
    object.__setattr__(other, "id", "0123456789ab")
    with pytest.raises(SettingsError, match=f"models {tiny_model.id}, now 0123456789ab"):
        run_batch(folder, other, out)
    assert contents(out) == before
    anew = BatchSettings(overwrite=True)
    assert run_batch(folder, tiny_model, out, SegmentSettings(threshold=0.6), anew).n_new == 2
    assert run_batch(folder, tiny_model, out, SegmentSettings(threshold=0.6)).n_new == 0


def test_a_damaged_state_is_no_reason_to_guess(folder, out, tiny_model):
    run_batch(folder, tiny_model, out)
    for content in (b"{", b"[]", b'{"format": "x", "version": 1}'):
        (out / "batch.json").write_bytes(content)
        with pytest.raises(SettingsError, match="cannot be understood"):
            run_batch(folder, tiny_model, out)
    assert run_batch(folder, tiny_model, out, options=BatchSettings(overwrite=True)).n_new == 2


def test_a_failure_costs_one_image_and_leaves_nothing_of_it(folder, out, tiny_model, monkeypatch):
    whole = imaging.measuring

    def fail(labels, image, *args, **options):
        if image.name == "a":
            raise ValueError("two\nlines")
        return whole(labels, image, *args, **options)

    monkeypatch.setattr(imaging, "measuring", fail)
    result = run_batch(folder, tiny_model, out)
    assert [entry.status for entry in result.entries] == ["failed", "done"]
    assert result.entries[0].error == "unexpected ValueError: two lines"
    assert not [name for name in files_below(out) if name.startswith("a")]
    with pytest.raises(ValueError, match="two"):
        run_batch(folder, tiny_model, out, options=BatchSettings(stop_at_error=True))
    monkeypatch.undo()
    assert run_batch(folder, tiny_model, out).n_new == 1  # only what failed


def test_a_folder_that_cannot_be_written_to_is_said_at_once(folder, tmp_path, tiny_model):
    (tmp_path / "file").touch()
    with pytest.raises(ImageError, match="could not be written"):
        run_batch(folder, tiny_model, tmp_path / "file" / "out")


# Big images


def test_a_big_image_is_worked_on_in_a_folder_and_gone_on_with(
    tmp_path, out, make_tiny_model, monkeypatch
):
    model = make_tiny_model(n_classes=3)
    write(tmp_path / "big.ome.tif", boxes(2, 60, 40, n=3), "TYX")
    run_batch(tmp_path / "big.ome.tif", model, tmp_path / "small")
    monkeypatch.setattr(imaging, "IN_MEMORY_LIMIT", 0)
    with closing(batch(tmp_path / "big.ome.tif", model, out)) as work:
        while "Measuring" not in next(work).message:
            pass
        (unfinished,) = (out / "unfinished").iterdir()
    assert unfinished.is_dir()  # the network need not run again
    run_batch(tmp_path / "big.ome.tif", model, out)
    assert contents(out) == contents(tmp_path / "small")
    assert not (out / "unfinished").exists()


# Several models


def test_several_models_are_handed_over_as_a_list(folder, out, tiny_model, monkeypatch):
    asked = []

    def segmenting(image, models, settings):
        asked.append(models)
        return given(segment(image, tiny_model, settings))

    monkeypatch.setattr(imaging, "segmenting", segmenting)
    run_batch(folder / "a.ome.tif", [tiny_model], out)
    run_batch(folder / "a.ome.tif", [tiny_model, tiny_model], out / "two")
    assert asked == [tiny_model, [tiny_model, tiny_model]]
    report = json.loads((out / "two" / "report.json").read_text())
    assert [model["id"] for model in report["models"]] == [tiny_model.id] * 2
    assert "an ensemble of 2 U-Nets" in report["methods"]


# The report


def test_the_report_says_what_was_run_with_what(folder, out, make_tiny_model):
    (folder / "bad|1.tif").write_bytes(b"hello")
    entry = Round(
        id="b" * 12, parent="a" * 12, name="round 1", created="2026-01-02T03:04:05+00:00",
        settings={"steps": 9}, scores_before={"IoU": 0.5}, scores_after={"IoU": 0.75, "new": 1.0},
        n_corrected=1234, seconds=1.0,
    )  # fmt: skip
    model = make_tiny_model(segments="bright spots", licence="CC0-1.0", source="a workshop")
    object.__setattr__(model, "history", (entry,))
    options = BatchSettings(command="napari-unet batch images")
    run_batch(folder, model, out, SegmentSettings(min_size=4), options)
    report = json.loads((out / "report.json").read_text(encoding="utf-8"))
    assert (report["images"], report["done"], report["refused"], report["objects"]) == (3, 2, 1, 3)
    assert report["settings"]["min_size"] == 4 and report["settings"]["threshold"] == 0.5
    assert report["models"][0]["id"] == model.id
    assert report["models"][0]["history"][0]["n_corrected"] == 1234
    assert report["software"]["numpy"] == np.__version__
    assert report["results"][0]["image"] == "a"
    text = (out / "report.md").read_text(encoding="utf-8")
    for part in (
        "`napari-unet batch images`", "3 (2 done, 1 not possible)", "| objects | 3 |", model.id,
        "bright spots", "CC0-1.0", "a workshop", "| min size | 4 |", "| torch |", "processor",
        "| round 1 |", "IoU 0.500 → 0.750", "1,234", "bad\\|1", "cannot be read",
    ):  # fmt: skip
        assert part in text, part


def test_the_methods_paragraph_has_the_figures_of_the_batch(folder, out, make_tiny_model):
    model = make_tiny_model(segments="bright spots", source="a workshop")
    (folder / "bad.tif").write_bytes(b"hello")
    run_batch(folder, model, out, SegmentSettings(min_size=4, threshold=0.6))
    said = json.loads((out / "report.json").read_text(encoding="utf-8"))["methods"]
    n_weights = sum(weights.numel() for weights in model.network.parameters())
    for part in (
        "a U-Net (Ronneberger et al., 2015)", f"The model 'tiny' ({n_weights:,} weights, id",
        f"identifier {model.id}",
        "source: a workshop", "its 1st percentile became 0 and its 99.8th became 1",
        "probability of background was below 0.4", "fewer than 4 pixels were discarded",
        "In 2 images, 3 objects were found", "1 of 3 images was not analysed",
        "The pixel size was 0.5 µm",
    ):  # fmt: skip
        assert part in said, part
    assert "fine-tuned" not in said
    assert "Connected foreground pixels" in said  # split is 0


def test_the_state_stays_small(folder, out, tiny_model):
    run_batch(folder, tiny_model, out)
    assert (out / "batch.json").stat().st_size < 1000 + 2 * 600
