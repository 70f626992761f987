"""Settings that make sense, and messages in the order they came."""

import subprocess
import sys
import threading

import numpy as np
import pytest

from napari_unet.core.errors import CorrectionsError, SettingsError
from napari_unet.core.image import make_image
from napari_unet.core.live.images import LiveImage, blocks_in, live_image, painted_blocks
from napari_unet.core.live.inbox import Busy, Inbox
from napari_unet.core.live.settings import LiveSettings


@pytest.mark.parametrize(
    "wrong",
    [
        {"learning_rate": 0}, {"learning_rate": 2}, {"patch_size": 8}, {"batch_size": 0},
        {"memory": 1.1}, {"replay": -0.1}, {"held_out": 1}, {"settle": 0}, {"seed": -1},
        {"patch_size": 20.5},
    ],
)  # fmt: skip
def test_settings_that_make_no_sense(wrong):
    (name,) = wrong
    with pytest.raises(SettingsError, match=name):
        LiveSettings(**wrong)


def test_settings_need_no_torch():
    code = (
        "import sys; import napari_unet.core.live.settings; "
        "assert not {'torch', 'numpy', 'qtpy', 'napari'} & set(sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=60, check=False).returncode == 0


def test_messages_come_out_once_and_in_order():
    inbox = Inbox()
    assert inbox.take() == []
    put = [Busy(is_busy=bool(i % 2)) for i in range(5)]
    for message in put:
        inbox.put(message)
    assert all(a is b for a, b in zip(inbox.take(), put, strict=True))
    assert inbox.take() == []


def test_no_message_of_several_threads_is_lost():
    inbox, taken = Inbox(), []
    threads = [
        threading.Thread(target=lambda: [inbox.put(Busy(is_busy=True)) for _ in range(500)])
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        taken += inbox.take()
    taken += inbox.take()
    assert len(taken) == 2000


def test_blocks_of_a_stack_and_of_a_box():
    corrections = np.zeros((3, 300, 520), np.uint8)
    corrections[1, 10, 10] = 2
    corrections[2, 299, 519] = 1
    found = {(b.index, b.origin): b.corrections for b in painted_blocks(corrections)}
    assert set(found) == {((1,), (0, 0)), ((2,), (256, 512))}
    assert found[(1,), (0, 0)].shape == (256, 256)
    assert found[(2,), (256, 512)].shape == (44, 8)
    assert found[(2,), (256, 512)][43, 7] == 1
    near = blocks_in(corrections, ((1,), (0, 30), (250, 260)))
    assert [b.origin for b in near] == [(0, 0), (0, 256)]
    assert not near[1].corrections.any()  # an empty one as well: what an undo leaves


def test_blocks_are_copies():
    corrections = np.zeros((40, 40), np.uint8)
    corrections[5, 5] = 2
    (block,) = painted_blocks(corrections)
    corrections[5, 5] = 0
    assert block.corrections[5, 5] == 2


def test_an_image_that_is_not_open_cannot_be_read():
    opened = live_image(make_image(np.arange(1600.0).reshape(40, 40)))
    assert opened.key == opened.image.fingerprint()
    closed = LiveImage(key=opened.key, image=None, summary=opened.summary)
    corrections = np.zeros((40, 40), np.uint8)
    corrections[5, 5] = 2
    (painted,) = painted_blocks(corrections)
    assert opened.block(painted).image.shape == (1, 40, 40)
    with pytest.raises(CorrectionsError, match="not open"):
        closed.block(painted)
    assert closed.block(opened.block(painted)).image.shape == (1, 40, 40)  # brings its own
