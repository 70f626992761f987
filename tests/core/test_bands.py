"""Evidence band by band: that of the whole, each chunk read about once."""

from collections import Counter

import numpy as np
import pytest
import scipy.ndimage as ndi

from napari_unet.core import bands as bands_module
from napari_unet.core.bands import Bands
from napari_unet.core.instances import ObjectSettings, evidence_of, objects_of
from napari_unet.core.labelling import labelling

PLAIN = (0, 1)


class Chunked:
    """Outputs in chunks that count how often each px is read with its chunk."""

    def __init__(self, outputs, chunks):
        self.outputs, self.shape, self.dtype = outputs, outputs.shape, outputs.dtype
        self.chunks, self.reads, self.largest = chunks, Counter(), 0

    def __getitem__(self, where):
        read = self.outputs[where]
        self.largest = max(self.largest, read[0].size)
        spans = [part.indices(n) for part, n in zip(where[1:], self.shape[1:], strict=False)]
        grid = [
            range(start // chunk, -(-stop // chunk))
            for (start, stop, _), chunk in zip(spans, self.chunks[1:], strict=False)
        ]
        self.reads.update((i, j) for i in grid[0] for j in grid[1])
        return read


def outputs_of(shape, seed=0):
    noise = ndi.gaussian_filter(np.random.default_rng(seed).random(shape), 1.5)
    share = ((noise - noise.min()) / np.ptp(noise)).astype(np.float16)
    return np.stack([1 - share, share])


def bands_of(outputs, settings=None, inside=None, band_pixels=2**22):
    return Bands(outputs, (), PLAIN, settings or ObjectSettings(), inside, band_pixels)


@pytest.mark.parametrize("smoothing", [0.0, 0.6])
@pytest.mark.parametrize("inside", [None, 1])
@pytest.mark.parametrize("chunks", [(1, 4, 8, 8), (1, 7, 5, 64), (1, 64, 64, 64), None])
@pytest.mark.parametrize("band_pixels", [1, 700, 3000, 10**6])
def test_the_evidence_is_that_of_the_whole(smoothing, inside, chunks, band_pixels):
    outputs = outputs_of((23, 31, 17))
    settings = ObjectSettings(smoothing=smoothing)
    given = outputs if chunks is None else Chunked(outputs, chunks)
    whole = evidence_of(outputs, PLAIN, settings, inside)
    row = 0
    for start, evidence in bands_of(given, settings, inside, band_pixels):
        assert start == row
        row += len(evidence.classes)
        np.testing.assert_array_equal(evidence.classes, whole.classes[start:row])
        if whole.rises is None:
            assert evidence.rises is None
        else:
            np.testing.assert_array_equal(evidence.rises, whole.rises[start:row])
    assert row == 23


@pytest.mark.parametrize("inside", [None, 1])
@pytest.mark.parametrize("shape", [(40, 64), (40, 64, 12)])
def test_every_chunk_is_read_once_however_few_px_are_asked_for(shape, inside):
    outputs = Chunked(outputs_of(shape), (1, 16, 8, 12))
    list(bands_of(outputs, ObjectSettings(smoothing=1), inside, band_pixels=40))
    assert set(outputs.reads) == {(i, j) for i in range(3) for j in range(8)}
    assert set(outputs.reads.values()) == {1}
    assert outputs.largest == 16 * 8 * (shape[2] if len(shape) == 3 else 1)


def test_chunks_with_too_many_px_are_read_in_parts(monkeypatch):
    monkeypatch.setattr(bands_module, "LARGEST_BAND", 9 * 64)
    outputs = Chunked(outputs_of((32, 64)), (1, 16, 8))
    bands = bands_of(outputs, band_pixels=64)
    assert bands.height == 8
    assert [start for start, _ in bands] == [0, 8, 16, 24]
    assert max(outputs.reads.values()) == 2


def test_large_planes_without_chunks_are_worked_on_together():
    plane = np.broadcast_to(np.float16(0), (2, 40, 1024, 1024))
    assert bands_of(plane).height == bands_module.DEPTH
    assert bands_of(plane[:, :, :100, :100]).height == 2**22 // 100**2
    assert bands_of(plane[:, 0]).height == 2**22 // 1024


def test_rows_are_given_out_by_whole_chunks():
    bands = bands_of(Chunked(outputs_of((40, 64)), (1, 16, 8)), band_pixels=64)
    assert list(bands.edges(0, 15)) == []
    assert list(bands.edges(0, 37)) == [16, 32]
    assert list(bands.edges(32, 40)) == [40]
    assert list(bands_of(outputs_of((40, 64)), band_pixels=64 * 10).edges(3, 25)) == [10, 20, 25]


@pytest.mark.parametrize("inside", [None, 1])
def test_objects_of_a_volume_in_chunks(inside):
    outputs = outputs_of((30, 26, 24), 3)
    settings = ObjectSettings(min_size=5, smoothing=0.5, threshold=0.7)
    whole = objects_of(outputs, PLAIN, settings, inside)
    for chunks in ((1, 8, 5, 24), (1, 30, 9, 11)):
        labels, rows = np.full(whole.shape, -1, np.int32), []
        given = Chunked(outputs, chunks)
        for window, found in labelling(given, PLAIN, settings, inside, band_pixels=26 * 24):
            labels[window] = found
            rows.append(window[0].stop)
        np.testing.assert_array_equal(labels, whole)
        assert all(row % chunks[1] == 0 or row == 30 for row in rows)
        assert max(given.reads.values()) == 1
    assert whole.max() > 10
