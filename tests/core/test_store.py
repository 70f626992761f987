"""The store of big results: exact on all levels, and right whenever it is killed."""

import errno
import json
import subprocess
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import zarr
from zarr.storage import LocalStore

from napari_unet.core.errors import ImageError, ProjectError, SettingsError
from napari_unet.core.image import make_image
from napari_unet.core.overlap import WriteBehind
from napari_unet.core.regions import Region
from napari_unet.core.settings import SegmentSettings
from napari_unet.core.store import chunks as chunks_module
from napari_unet.core.store import label_dtype, needed_bytes, open_store, store_for
from napari_unet.core.store.boxes import subtract, united
from napari_unet.core.store.chunks import ChunkFiles

SHAPE = (40, 4100)  # four levels
KEY = {"image": "abc", "models": ["m1"], "settings": {"augmentation": "none"}}


@pytest.fixture
def make(tmp_path):
    """Opens the store of a test, which is the same one each time."""

    def make(label_shape=SHAPE, label_axes="yx", **options):
        given = {"n_outputs": 2, "labels_dtype": "uint16", "key": KEY, "chunk": (8, 1024)}
        return open_store(tmp_path / "result.zarr", label_shape, label_axes, **given | options)

    return make


def labels_of(shape, seed=0, dtype=np.uint16):
    return np.random.default_rng(seed).integers(0, 200, shape).astype(dtype)


def region(*window, index=()):
    return Region(index=index, window=tuple(slice(*part) for part in window))


def painted(boxes, shape, once=False):
    """How often each px is in one of the boxes."""
    counts = np.zeros(shape, int)
    for box in boxes:
        assert all(start < stop for start, stop in box)
        counts[tuple(slice(*part) for part in box)] += 1
    assert not once or counts.max() <= 1
    return counts


def random_boxes(generator, shape, n):
    for _ in range(n):
        corners = [sorted(generator.choice(size + 1, 2, replace=False)) for size in shape]
        yield tuple((int(start), int(stop)) for start, stop in corners)


# ---- boxes


@pytest.mark.parametrize("shape", [(9,), (7, 9), (5, 6, 7), (3, 4, 4, 5)])
def test_what_is_left_of_a_box_is_exact(shape):
    generator = np.random.default_rng(len(shape))
    for _ in range(40):
        box, *holes = random_boxes(generator, shape, 5)
        left = painted(subtract(box, holes), shape, once=True)
        np.testing.assert_array_equal(left, painted([box], shape) * (painted(holes, shape) == 0))


@pytest.mark.parametrize("shape", [(9,), (7, 9), (5, 6, 7)])
def test_united_boxes_cover_the_same_and_do_not_overlap(shape):
    generator = np.random.default_rng(len(shape))
    for _ in range(20):
        boxes, all_boxes = (), list(random_boxes(generator, shape, 8))
        for box in all_boxes:
            boxes = united(boxes, box)
        covered = painted(boxes, shape, once=True)
        np.testing.assert_array_equal(covered, painted(all_boxes, shape) > 0)


def test_boxes_side_by_side_become_one():
    boxes = ()
    for y, x in np.random.default_rng(0).permutation(list(np.ndindex(3, 4))):
        boxes = united(boxes, ((y * 5, y * 5 + 5), (x * 2, x * 2 + 2)))
    assert painted(boxes, (15, 8), once=True).all()
    rows = ()
    for y in (3, 1, 0, 2):
        rows = united(rows, ((7, 8), (y * 5, y * 5 + 5), (0, 9)))
    assert rows == (((7, 8), (0, 20), (0, 9)),)


def test_a_point_has_nothing_left_once_it_is_covered():
    assert subtract((), ()) == [()]
    assert subtract((), united((), ())) == []


# ---- levels


def test_levels_end_where_a_plane_is_small(make):
    store = make()
    assert [level.shape for level in store.levels] == [(40, 4100), (20, 2050), (10, 1025), (5, 513)]
    assert [level.chunks for level in store.levels] == [(8, 1024), (4, 1024), (2, 1024), (1, 513)]
    assert store.chunk == (8, 1024)
    assert store.outputs.shape == (2, 40, 4100)
    assert store.outputs.chunks == (1, 8, 1024)
    assert store.outputs.dtype == np.float16


@pytest.mark.parametrize(
    ("shape", "dims", "chunks"),
    [
        ((30_000, 30_000), 2, [(max(1, 256 >> k), min(1024, -(-30_000 >> k))) for k in range(6)]),
        ((5, 2048, 2000), 2, [(1, 256, 1024), (1, 128, 1000)]),
        ((512, 2048, 2048), 3, [(16, 64, 256)] * 2),
        ((3, 100, 200), 2, [(1, 100, 200)]),
    ],
)
def test_usual_chunks(make, shape, dims, chunks):
    store = make(shape, "tzyx"[-len(shape) :], dims=dims, chunk=None)
    expected = [tuple(min(p) for p in zip(c, level.shape, strict=True))
                for c, level in zip(chunks, store.levels, strict=True)]  # fmt: skip
    assert [level.chunks for level in store.levels] == expected
    assert store.chunk == store.levels[0].chunks[-dims:]


@pytest.mark.parametrize(("dims", "shape"), [(2, SHAPE), (2, (2, 9, 4100)), (3, (2, 5, 9, 2100))])
def test_writing_windows_equals_striding_the_whole(make, dims, shape):
    chunk = (8, 1024) if dims == 2 else (2, 8, 512)
    store = make(shape, "tzyx"[-len(shape) :], dims=dims, chunk=chunk)
    labels = labels_of(shape)
    expected = np.zeros_like(labels)
    generator = np.random.default_rng(1)
    for box in random_boxes(generator, shape[-dims:], 12):
        index = tuple(int(i) for i in generator.integers(shape[:-dims]))
        window = tuple(slice(*part) for part in box)
        store.write_labels(index, window, labels[index][window])
        expected[index][window] = labels[index][window]
    for level, array in enumerate(store.levels):
        step = 2**level
        np.testing.assert_array_equal(array[:], expected[..., ::step, ::step])
        assert array.dtype == np.uint16


def test_what_napari_keeps_of_a_plane_changes_with_what_is_written(make):
    store = make()
    kept = np.asarray(store.shown_levels[-1])  # napari does so once, when a layer is added
    labels = labels_of(SHAPE)
    for y in (0, 20):
        store.write_labels((), (slice(y, y + 20), slice(0, 4100)), labels[y : y + 20])
        assert store.shown_levels[:-1] == store.levels[:-1]
        np.testing.assert_array_equal(kept, store.levels[-1][:])
    np.testing.assert_array_equal(kept, labels[::8, ::8])
    np.testing.assert_array_equal(make().shown_levels[-1], kept)


def test_nothing_of_a_stack_is_in_memory(make):
    store = make((3, 40, 4100), "zyx")
    assert store.overview is None
    assert store.shown_levels == store.levels


def test_outputs_are_kept_as_float16(make):
    store = make((2, 20, 30), "zyx")
    outputs = np.random.default_rng(0).random((2, 7, 11)).astype(np.float32)
    store.write_outputs((1,), (slice(3, 10), slice(4, 15)), outputs)
    expected = np.zeros((2, 2, 20, 30), np.float16)
    expected[:, 1, 3:10, 4:15] = outputs
    np.testing.assert_array_equal(store.outputs[:], expected)


def test_outputs_need_not_be_kept(make):
    store = make(keep_outputs=False)
    assert store.outputs is None
    store.write_outputs((), (slice(0, 8), slice(0, 9)), np.zeros((2, 8, 9)))
    assert not (store.folder / "outputs").exists()


@pytest.fixture
def n_reads(monkeypatch):
    """How often each chunk of each array is read from the disk."""
    counts = Counter()

    def counting(read):
        def get(self, key, *args, **kwargs):
            if "/c/" in key:
                counts[key] += 1
            return read(self, key, *args, **kwargs)

        return get

    monkeypatch.setattr(ChunkFiles, "get", counting(ChunkFiles.get))
    if hasattr(LocalStore, "get_sync"):
        monkeypatch.setattr(ChunkFiles, "get_sync", counting(LocalStore.get_sync), raising=False)
    return counts


@pytest.mark.parametrize(
    ("dims", "shape"), [(2, (37, 4100)), (2, (2, 37, 4100)), (3, (11, 9, 2100))]
)
def test_rows_of_chunks_are_written_without_reading(make, n_reads, dims, shape):
    chunk = (8, 1024) if dims == 2 else (4, 8, 512)
    store = make(shape, "tzyx"[-len(shape) :], dims=dims, chunk=chunk)
    labels = labels_of(shape)
    height, n_rows = store.chunk[0], shape[-dims]
    n_reads.clear()
    for index in np.ndindex(*shape[:-dims]):
        for start in range(0, n_rows, height):
            rest = (slice(0, size) for size in shape[1 - dims :])
            window = (slice(start, min(n_rows, start + height)), *rest)
            part = labels[index][window]
            store.write_labels(index, window, part)
            store.write_outputs(index, window, np.stack([part, part]) / 200)
    assert n_reads == {}
    np.testing.assert_array_equal(store.levels[-1][:].max(), labels.max())
    assert n_reads


def test_a_store_of_nothing_takes_no_room(make):
    store = make((1000, 30_000, 30_000), "zyx", n_outputs=3)
    assert sum(file.stat().st_size for file in store.folder.rglob("*") if file.is_file()) < 20_000


# ---- types


def test_the_smallest_type():
    assert label_dtype("classes", 2) == np.uint8
    assert label_dtype("classes", 256) == np.uint8
    assert label_dtype("classes", 257) == np.uint16
    assert label_dtype("objects", 2) == np.uint32
    assert label_dtype("objects", 2, few_objects=True) == np.uint16


def test_labels_that_do_not_fit_are_refused(make):
    store = make()
    window = (slice(0, 1), slice(0, 2))
    store.write_labels((), window, np.array([[0, 65535]]))
    for labels in ([[0, 65536]], [[-1, 3]]):
        with pytest.raises(ImageError, match=r"Labels from .* uint16.*uint32"):
            store.write_labels((), window, np.array(labels))
    assert store.levels[0][0, 1] == 65535
    with pytest.raises(SettingsError, match="labels_dtype"):
        make(labels_dtype="int64")


@pytest.mark.parametrize("window", [(slice(0, 41), slice(0, 1)), (slice(-1, 1), slice(0, 1))])
def test_what_lies_outside_is_refused(make, window):
    store = make()
    with pytest.raises(ImageError, match="does not lie in"):
        store.write_labels((), window, np.zeros((1, 1), int))
    with pytest.raises(ImageError, match="does not lie in"):
        store.mark(Region(index=(), window=window))
    with pytest.raises(ImageError, match="does not lie in"):
        store.remaining([Region(index=(0,), window=(slice(0, 1),))])
    with pytest.raises(ImageError, match="room for"):
        store.write_labels((), (slice(0, 2), slice(0, 3)), np.zeros((2, 2), int))


# ---- what other programs find


def test_it_is_ome_zarr(make):
    store = make((3, 20, 2000), "tyx", pixel_size={"y": 0.5, "x": 0.25})
    about = zarr.open_group(store.labels_folder, mode="r").attrs["ome"]
    assert about["version"] == "0.5"
    (multiscale,) = about["multiscales"]
    assert multiscale["axes"] == [
        {"name": "t", "type": "time"},
        {"name": "y", "type": "space", "unit": "micrometer"},
        {"name": "x", "type": "space", "unit": "micrometer"},
    ]
    assert [one["path"] for one in multiscale["datasets"]] == ["0", "1"]
    scales = [one["coordinateTransformations"] for one in multiscale["datasets"]]
    assert scales == [
        [{"type": "scale", "scale": [1.0, 0.5, 0.25]}],
        [{"type": "scale", "scale": [1.0, 1.0, 0.5]}],
    ]
    assert multiscale["name"] == "result"
    assert "image-label" in about
    assert store.levels[1].metadata.dimension_names == ("t", "y", "x")


def test_another_program_opens_it(make):
    models = pytest.importorskip("ome_zarr_models.v05.image_label")
    store = make((3, 20, 2000), "zyx", pixel_size={"y": 0.5, "x": 0.25})
    labels = labels_of((20, 2000))
    store.write_labels((1,), (slice(0, 20), slice(0, 2000)), labels)
    group = zarr.open_group(store.labels_folder, mode="r")
    read = models.ImageLabel.from_zarr(group)
    assert len(read.ome_attributes.multiscales[0].datasets) == 2
    np.testing.assert_array_equal(group["0"][1], labels)
    np.testing.assert_array_equal(group["1"][1], labels[::2, ::2])


def test_everything_in_it_is_zarr(make):
    root = zarr.open_group(make().folder, mode="r")  # warns of files that it does not know
    assert sorted(name for name, _ in root.members()) == ["outputs", "segmentation"]
    assert sorted(name for name, _ in root["segmentation"].members()) == ["0", "1", "2", "3"]


# ---- what is finished


def test_remaining_is_exact(make):
    shape = (3, 40, 50)
    store = make(shape, "zyx")
    generator = np.random.default_rng(0)
    done = np.zeros(shape, bool)
    for i, box in enumerate(random_boxes(generator, shape[1:], 15)):
        store.mark(region(*box, index=(i % 3,)))
        done[i % 3][tuple(slice(*part) for part in box)] = True
    store = make(shape, "zyx")  # as another run finds it
    wanted = [region(*box, index=(i % 3,))
              for i, box in enumerate(random_boxes(generator, shape[1:], 15))]  # fmt: skip
    for one in wanted:
        left = np.zeros(shape, int)
        for piece in store.remaining([one]):
            left[piece.index][piece.window] += 1
        expected = np.zeros(shape, int)
        expected[one.index][one.window] = ~done[one.index][one.window]
        np.testing.assert_array_equal(left, expected)
        assert store.is_finished(one) == (not expected.any())
    found = np.zeros(shape, int)
    for one in store.finished:
        found[one.index][one.window] += 1
    np.testing.assert_array_equal(found, done)


def test_remaining_keeps_the_order_asked_for(make):
    store = make()
    store.mark(region((10, 20), (0, 4100)))
    wanted = [region((30, 40), (0, 4100)), region((0, 25), (0, 4100)), region((12, 18), (3, 9))]
    assert store.remaining(wanted) == [
        region((30, 40), (0, 4100)), region((0, 10), (0, 4100)), region((20, 25), (0, 4100)),
    ]  # fmt: skip


def test_planes_that_are_finished_stay_few_boxes(make):
    store = make((30, 10, 10), "zyx")
    for z in np.random.default_rng(0).permutation(30):
        store.mark(region((0, 10), (0, 10), index=(z,)))
    assert len(store.finished) == 30
    assert len(store.record.finished) == 1


def test_labels_are_done_index_by_index(make):
    store = make((3, 10, 10), "zyx")
    store.mark_labels((1,))
    assert [make((3, 10, 10), "zyx").labels_done((z,)) for z in range(3)] == [False, True, False]


def test_a_single_plane_has_an_index_too(make):
    store = make()
    assert not store.labels_done(())
    store.mark_labels(())
    assert make().labels_done(())


# ---- opening


def test_it_goes_on_where_it_stopped(make):
    store = make()
    labels = labels_of((16, 4100))
    store.write_labels((), (slice(8, 24), slice(0, 4100)), labels)
    store.mark(region((8, 24), (0, 4100)))
    store = make(key=dict(reversed(KEY.items())), chunk=(16, 16), pixel_size={"y": 3})
    assert store.chunk == (8, 1024)
    assert store.finished == (region((8, 24), (0, 4100)),)
    np.testing.assert_array_equal(store.levels[0][8:24], labels)


@pytest.mark.parametrize(
    ("options", "phrase"),
    [
        ({"key": KEY | {"image": "xyz"}}, "key.image was 'abc' and is 'xyz' now"),
        (
            {"key": KEY | {"settings": {"augmentation": "flips"}}},
            "key.settings.augmentation was 'none' and is 'flips' now",
        ),
        ({"key": KEY | {"more": 1}}, "key.more was not given and is 1 now"),
        ({"key": {**KEY, "models": ["m1", "m2"]}}, r"key.models was \['m1'\]"),
        ({"label_shape": (40, 4101)}, r"label_shape was \[40, 4100\] and is \[40, 4101\] now"),
        ({"n_outputs": 3}, "n_outputs was 2 and is 3 now"),
        ({"keep_outputs": False}, "keep_outputs was True and is False now"),
    ],
)
def test_other_work_is_refused_and_left_alone(make, tmp_path, options, phrase):
    make()
    before = contents(tmp_path)
    with pytest.raises(ProjectError, match=phrase + ".*Choose another folder, or delete"):
        make(**options)
    assert contents(tmp_path) == before


def contents(folder):
    return {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}


@pytest.mark.parametrize("name", ["notes.txt", "zarr.json"])
def test_a_folder_that_is_no_store_is_not_touched(make, tmp_path, name):
    file = tmp_path / "result.zarr" / name
    file.parent.mkdir()
    file.write_text('{"zarr_format": 3, "node_type": "group", "attributes": {}}')
    before = contents(tmp_path)
    with pytest.raises(ProjectError, match="something else than a result"):
        make()
    assert contents(tmp_path) == before


def test_a_file_is_not_touched(make, tmp_path):
    (tmp_path / "result.zarr").write_text("mine")
    with pytest.raises(ProjectError, match="something else than a result"):
        make()
    assert (tmp_path / "result.zarr").read_text() == "mine"


def test_an_empty_folder_is_used(make, tmp_path):
    (tmp_path / "result.zarr").mkdir()
    make()
    assert [path.name for path in tmp_path.iterdir() if "result" in path.name] == ["result.zarr"]


def test_other_settings_of_labels_keep_the_outputs(make):
    store = make(labels_key={"min_size": 25})
    labels = labels_of(SHAPE)
    outputs = np.stack([labels, labels]) / np.float32(200)
    window = (slice(0, 40), slice(0, 4100))
    store.write_outputs((), window, outputs)
    store.write_labels((), window, labels)
    store.mark(region((0, 40), (0, 4100)))
    store.mark_labels(())
    assert make(labels_key={"min_size": 25}).labels_done(())

    store = make(labels_key={"min_size": 30})
    assert not store.labels_done(())
    assert store.is_finished(region((0, 40), (0, 4100)))
    np.testing.assert_array_equal(store.levels[0][:], labels)  # shown until there are new ones

    store = make(labels_key={"min_size": 30}, labels_dtype="uint8")
    assert [level.dtype for level in store.levels] == [np.uint8] * 4
    assert not store.levels[0][:].any()
    assert store.is_finished(region((0, 40), (0, 4100)))
    np.testing.assert_array_equal(store.outputs[:], outputs.astype(np.float16))


def test_labels_alone_are_other_work_with_other_settings(make):
    make(keep_outputs=False, labels_key={"min_size": 25})
    with pytest.raises(ProjectError, match=r"labels.key.min_size was 25 and is 30 now"):
        make(keep_outputs=False, labels_key={"min_size": 30})


def test_a_key_must_be_json(make):
    with pytest.raises(SettingsError, match="key must hold nothing but JSON values"):
        make(key={"array": np.zeros(3)})


def test_a_newer_format_is_refused(make, tmp_path):
    make()
    file = tmp_path / "result.zarr" / "zarr.json"
    group = json.loads(file.read_text())
    (about,) = group["attributes"].values()
    about["version"] = 2
    file.write_text(json.dumps(group))
    with pytest.raises(ProjectError, match=r"newer version .* Update"):
        make()


def test_a_damaged_store_says_so(make, tmp_path):
    make().mark_labels(())
    (tmp_path / "result.zarr" / "segmentation" / "1" / "zarr.json").write_text("{")
    with pytest.raises(ProjectError, match=r"is damaged .* Delete it"):
        make()


def test_settings_find_their_store(tmp_path, make_tiny_model):
    image = make_image(np.arange(64 * 80, dtype=np.uint16).reshape(64, 80), "yx")
    model = make_tiny_model()
    folder = tmp_path / "result.zarr"

    def opened(models=model, **settings):
        return store_for(folder, image, models, SegmentSettings(**settings))

    store = opened()
    assert (store.label_dtype, store.outputs.shape) == (np.uint32, (2, 64, 80))
    store.mark(region((0, 64), (0, 80)))
    store.mark_labels(())
    assert opened(tile_size=64).labels_done(())
    assert not opened(min_size=99).labels_done(())
    store = opened(what="classes")
    assert store.label_dtype == np.uint8
    assert store.is_finished(region((0, 64), (0, 80)))
    with pytest.raises(ProjectError, match=r"key\.models was"):
        opened([model, model])


# ---- when things go wrong


@pytest.fixture
def full_disk(monkeypatch):
    """Switches a disk without room on and off."""
    write_whole = chunks_module.write_whole

    def switch(is_full, error=None):
        def refuse(path, content):
            raise error or OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(chunks_module, "write_whole", refuse if is_full else write_whole)

    monkeypatch.setattr(chunks_module, "RETRY_SECONDS", 0)
    return switch


def test_a_full_disk_loses_nothing(make, full_disk):
    store = make()
    labels = labels_of((16, 4100))
    rows = (slice(0, 8), slice(0, 4100)), (slice(8, 16), slice(0, 4100))
    store.write_labels((), rows[0], labels[:8])
    store.mark(Region(index=(), window=rows[0]))
    full_disk(True)
    outputs = np.ones((2, 8, 4100), np.float16)
    with pytest.raises(ProjectError, match=r"No space left .* up to .* GB.*Make room"):
        store.write_outputs((), rows[1], outputs)
    with pytest.raises(ProjectError, match="No space left"):
        store.write_labels((), rows[1], labels[8:])
    with pytest.raises(ProjectError, match="No space left"), WriteBehind() as writer:
        writer.put(store.write_labels, (), rows[1], labels[8:])
        writer.put(store.mark, Region(index=(), window=rows[1]))
    full_disk(False)
    store = make()
    assert store.finished == (Region(index=(), window=rows[0]),)
    np.testing.assert_array_equal(store.levels[0][:8], labels[:8])
    store.write_labels((), rows[1], labels[8:])
    np.testing.assert_array_equal(store.levels[0][:16], labels)


def test_where_nothing_may_be_written(make, full_disk, tmp_path):
    full_disk(True, PermissionError(errno.EACCES, "Permission denied"))
    with pytest.raises(ProjectError, match=r"Permission denied.*check that you may write there"):
        make()
    assert not any("result" in path.name for path in tmp_path.iterdir())


def test_a_reader_in_the_way_is_waited_for(make, monkeypatch):
    store = make()
    write_whole, refused = chunks_module.write_whole, []

    def refuse_twice(path, content):
        if len(refused) < 2:
            refused.append(path)
            raise PermissionError(errno.EACCES, "in use")
        write_whole(path, content)

    monkeypatch.setattr(chunks_module, "write_whole", refuse_twice)
    monkeypatch.setattr(chunks_module, "RETRY_SECONDS", 0)
    store.mark(region((0, 40), (0, 4100)))
    assert len(refused) == 2
    assert make().is_finished(region((0, 40), (0, 4100)))


def test_the_room_needed_is_known_beforehand():
    levels = 40 * 4100 + 20 * 2050 + 10 * 1025 + 5 * 513
    assert needed_bytes(SHAPE, 3, np.uint32) == 4 * levels + 2 * 3 * 40 * 4100
    assert needed_bytes(SHAPE, 3, "uint8", keep_outputs=False) == levels


def test_nobody_meets_half_a_chunk(make):
    store = make((64, 1000), "yx", chunk=(64, 1000))
    window = (slice(0, 64), slice(0, 1000))
    filled = [np.full((64, 1000), value, np.uint16) for value in (0, 7, 60_000)]
    noise = labels_of((64, 1000))
    other_program = zarr.open_array(store.labels_folder / "0", mode="r")
    with WriteBehind() as writer:
        for i in range(60):
            for labels in (filled[i % 3], noise):
                writer.put(store.write_labels, (), window, labels)
            for array in (store.levels[0], other_program):
                seen = array[:]
                assert seen.min() == seen.max() or np.array_equal(seen, noise)


def test_two_threads_may_write_parts_of_one_chunk(make):
    store = make((2, 1000), "yx", chunk=(2, 1000))

    def write(row):
        for value in range(1, 40):
            labels = np.full((1, 1000), value + 1000 * row, np.uint16)
            store.write_labels((), (slice(row, row + 1), slice(0, 1000)), labels)
            assert (store.levels[0][row] == labels).all()
            store.mark(region((row, row + 1), (0, 25 * value)))

    with ThreadPoolExecutor(2) as pool:
        for one in [pool.submit(write, row) for row in (0, 1)]:
            one.result()
    assert sorted(np.unique(store.levels[0][:])) == [39, 1039]
    assert make((2, 1000), "yx").finished == (region((0, 2), (0, 975)),)


WRITE = """
import sys
import numpy as np
from napari_unet.core.overlap import WriteBehind
from napari_unet.core.regions import Region
from napari_unet.core.store import open_store

store = open_store(
    sys.argv[1], (3, 256, 2100), "zyx", n_outputs=2, labels_dtype="uint16", key={}, chunk=(16, 1024)
)

def marked(region):
    store.mark(region)
    print("marked", flush=True)

with WriteBehind() as writer:
    for i, region in enumerate(store.remaining(
        Region(index=(z,), window=(slice(y, y + 12), slice(0, 2100)))
        for z in range(3) for y in range(0, 252, 12)
    )):
        z, y, x = np.ogrid[tuple(slice(k, k + 1) for k in region.index) + region.window]
        labels = ((1 + z) * 10_000 + y * 37 + x)[0].astype(np.uint16)
        outputs = np.stack([labels % 2, labels % 3]).astype(np.float16)
        writer.put(store.write_outputs, region.index, region.window, outputs)
        writer.put(store.write_labels, region.index, region.window, labels)
        writer.put(marked, region)
print("end", flush=True)
"""


@pytest.mark.parametrize("n_lines", [3, 20])
def test_killed_while_it_writes(tmp_path, n_lines):
    folder = tmp_path / "result.zarr"
    child = subprocess.Popen(
        [sys.executable, "-c", WRITE, str(folder)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert [child.stdout.readline() for _ in range(n_lines)] == ["marked\n"] * n_lines
    finally:
        child.kill()  # SIGKILL: nobody gets a chance to tidy up
        child.wait()
        child.stdout.close()
    store = open_store(
        folder, (3, 256, 2100), "zyx", n_outputs=2, labels_dtype="uint16", key={}, chunk=(16, 1024)
    )
    z, y, x = np.ogrid[:3, :256, :2100]
    expected = ((1 + z) * 10_000 + y * 37 + x).astype(np.uint16)
    n_rows = 0
    for one in store.finished:
        where = (*one.index, *one.window)
        n_rows += one.window[0].stop - one.window[0].start
        np.testing.assert_array_equal(store.levels[0][where], expected[where])
        np.testing.assert_array_equal(store.outputs[(0, *where)], expected[where] % 2)
        np.testing.assert_array_equal(store.outputs[(1, *where)], expected[where] % 3)
        rows = range(-(-one.window[0].start // 2), -(-one.window[0].stop // 2))
        coarse = store.levels[1][(*one.index, slice(rows.start, rows.stop))]
        np.testing.assert_array_equal(
            coarse, expected[one.index][rows.start * 2 : rows.stop * 2 : 2, ::2]
        )
    assert n_rows >= 12 * n_lines
    assert n_rows % 12 == 0


LEAVE = """
import sys
import numpy as np
from napari_unet.core.overlap import WriteBehind, read_ahead
from napari_unet.core.store import open_store

store = open_store(sys.argv[1], (8, 9), "yx", n_outputs=1, labels_dtype="uint8", key={})
writer = WriteBehind()
writer.put(store.write_labels, (), (slice(0, 8), slice(0, 9)), np.full((8, 9), 3))
writer.flush()
pairs = read_ahead(range(100), lambda i: store.levels[0][:], 3)
assert next(pairs)[1].sum() == 216
"""


def test_a_program_ends_even_if_nothing_was_closed(tmp_path):
    ended = subprocess.run(
        [sys.executable, "-W", "error", "-c", LEAVE, str(tmp_path / "result.zarr")],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert (ended.returncode, ended.stderr) == (0, "")
