"""`finish` runs work to its end and hands on what it yields."""

import pytest

from napari_unet.core.progress import Progress, finish


def counting(n, events):
    try:
        for i in range(n):
            yield Progress(done=i + 1, total=n)
        return "result"
    finally:
        events.append("closed")


def test_finish_reports_each_progress_and_returns_the_result():
    seen, events = [], []
    assert finish(counting(3, events), seen.append) == "result"
    assert [(p.done, p.total, p.message) for p in seen] == [(1, 3, ""), (2, 3, ""), (3, 3, "")]
    assert events == ["closed"]


def test_finish_needs_no_report_and_no_progress():
    assert finish(counting(0, [])) == "result"
    assert finish(counting(5, [])) == "result"


def test_an_error_in_the_work_comes_through():
    def failing():
        yield Progress(done=0, total=1)
        raise RuntimeError("shape")

    with pytest.raises(RuntimeError, match="shape"):
        finish(failing())


def test_an_error_in_the_report_closes_the_work_at_once():
    events = []
    work = counting(3, events)

    def report(progress):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        finish(work, report)
    assert events == ["closed"]
    assert next(work, "ended") == "ended"


def test_progress_is_a_frozen_value():
    progress = Progress(done=1, total=2, message="tile")
    assert progress == Progress(done=1, total=2, message="tile")
    with pytest.raises(AttributeError):
        progress.done = 2
