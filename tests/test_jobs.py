"""A job ends once, whatever its work does; the traps of napari's own worker are mended."""

import gc
import inspect
import threading
import time
import warnings
import weakref

import numpy as np
import pytest
from napari.qt.threading import GeneratorWorker, create_worker
from qtpy.QtCore import QObject, QThread, QThreadPool
from superqt.utils import _qthreading

from napari_unet.core.errors import ImageError
from napari_unet.core.progress import FinishEarly
from napari_unet.jobs import Job


class Record:
    """What a job said, in order."""

    def __init__(self, job):
        self.progress, self.results, self.sentences, self.n_ended = [], [], [], 0
        job.progressed.connect(self.progress.append)
        job.returned.connect(self.results.append)
        job.failed.connect(self.sentences.append)
        job.ended.connect(self.on_ended)

    def on_ended(self):
        self.n_ended += 1


def run(qtbot, job):
    """Run a job to its end, and wait a little longer: nothing may come after that."""
    record = Record(job)
    with qtbot.waitSignal(job.ended, timeout=10_000):
        job.start()
    qtbot.wait(30)
    return record


@pytest.fixture
def one_thread():
    """Only one worker thread, so that a second job must take over the first one's."""
    pool = QThreadPool.globalInstance()
    n_threads = pool.maxThreadCount()
    pool.setMaxThreadCount(1)
    yield pool
    pool.setMaxThreadCount(n_threads)


def counting(n=3):
    yield from range(n)
    return "result"


def endless(seconds=0.002):
    while True:
        time.sleep(seconds)
        yield "step"


def test_progress_and_result_arrive_in_order_and_on_the_main_thread(qtbot):
    threads = []
    job = Job(counting)
    for signal in (job.progressed, job.returned):
        signal.connect(lambda _: threads.append(QThread.currentThread()))
    assert job.is_running
    record = run(qtbot, job)
    assert record.progress == [0, 1, 2]
    assert record.results == ["result"]
    assert record.sentences == []
    assert record.n_ended == 1
    assert not job.is_running
    assert len(threads) == 4
    assert set(threads) == {QThread.currentThread()}


def test_the_work_is_made_and_run_on_another_thread(qtbot):
    threads = []

    def make_work():
        threads.append(threading.get_ident())
        yield
        threads.append(threading.get_ident())

    run(qtbot, Job(make_work))
    assert len(set(threads)) == 1
    assert threads[0] != threading.get_ident()


def out_of_memory():
    import torch

    return torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")


@pytest.mark.parametrize("when", ["at once", "later"])
@pytest.mark.parametrize(
    ("make_error", "said"),
    [
        (lambda: RuntimeError("shapes differ\nand more"), "RuntimeError: shapes differ; in fail"),
        (out_of_memory, "OutOfMemoryError: CUDA out of memory"),
        (lambda: ValueError(), "ValueError: no message"),
        (MemoryError, "MemoryError"),
        (StopIteration, "generator raised StopIteration"),
    ],
)
def test_whatever_is_raised_the_job_fails_with_a_sentence_and_ends(qtbot, make_error, said, when):
    """Trap 1: napari's worker loses every RuntimeError, and then never finishes."""

    def fail():
        if when == "later":
            yield 1
        raise make_error()
        yield

    job = Job(fail)
    record = run(qtbot, job)
    assert len(record.sentences) == 1
    assert said in record.sentences[0]
    assert record.sentences[0].endswith("Please report this sentence.")
    assert "\n" not in record.sentences[0]
    assert record.results == []
    assert record.n_ended == 1
    assert not job.is_running
    assert not job._worker.is_running
    assert job._worker not in _qthreading.WorkerBase._worker_set


def test_an_error_for_the_user_is_said_as_it_is(qtbot):
    def work():
        yield 1
        raise ImageError("This image has no pixels. Open another one.")

    assert run(qtbot, Job(work)).sentences == ["This image has no pixels. Open another one."]


def test_an_error_while_the_work_is_made_is_said_too(qtbot):
    def make_work():
        raise RuntimeError("not even made")

    record = run(qtbot, Job(make_work))
    assert "not even made" in record.sentences[0]
    assert record.n_ended == 1


def test_a_stopped_job_closes_its_work_at_once_in_its_own_thread(qtbot):
    """Trap 2: `quit()` leaves the generator to the garbage collector, on the main thread."""
    threads = {}

    def work():
        threads["run"] = threading.get_ident()
        try:
            yield from endless()
        finally:
            threads["closed"] = threading.get_ident()

    gc.disable()
    try:
        job = Job(work)
        record = Record(job)
        job.start()
        qtbot.waitUntil(lambda: len(record.progress) > 2)
        start = time.monotonic()
        with qtbot.waitSignal(job.ended):
            job.stop()
        assert time.monotonic() - start < 1
        assert threads["closed"] == threads["run"] != threading.get_ident()
    finally:
        gc.enable()
    assert record.results == record.sentences == []
    assert record.n_ended == 1


def test_the_stock_worker_still_has_the_traps_that_ours_mends(qtbot):
    """When this fails, superqt has mended them: `_WorkRunner` may be needed no longer."""

    def fail():
        yield
        raise RuntimeError("lost")

    said = []
    worker = create_worker(fail, _start_thread=False, _ignore_errors=True)
    worker.errored.connect(said.append)
    worker.finished.connect(lambda: said.append("finished"))
    with warnings.catch_warnings(action="ignore"):
        worker.start()
        QThreadPool.globalInstance().waitForDone(5000)
    qtbot.wait(50)
    assert said == []
    assert worker.is_running
    _qthreading.WorkerBase._worker_set.discard(worker)


def test_superqt_keeps_the_generator_where_our_worker_looks_for_it():
    """`_WorkRunner` leans on a private name; this says when it moves."""

    def work():
        yield

    worker = create_worker(work, _start_thread=False)
    assert isinstance(worker, GeneratorWorker)
    assert inspect.isgenerator(worker._gen)
    assert worker._gen.gi_code is work.__code__
    assert worker.abort_requested is False
    worker.quit()
    assert worker.abort_requested is True


def test_a_job_stopped_before_it_has_begun_never_runs(qtbot, one_thread):
    has_run = []

    def work():
        has_run.append(True)
        yield

    first, second = Job(endless), Job(work)
    record = Record(second)
    first.start()
    second.start()
    second.stop()
    first.stop()
    qtbot.waitUntil(lambda: not first.is_running and not second.is_running)
    assert has_run == []
    assert record.results == record.sentences == []
    assert record.n_ended == 1


def test_progress_that_was_under_way_when_the_job_was_stopped_never_arrives(qtbot):
    yielded = []

    def work():
        while True:
            yielded.append(1)
            yield "late"

    job = Job(work)
    record = Record(job)
    QThreadPool.globalInstance().start(job._worker)  # at once: the event loop must not turn yet
    while len(yielded) < 50:
        time.sleep(0.001)
    job.stop()
    qtbot.waitUntil(lambda: not job.is_running)
    assert record.progress == []
    assert record.n_ended == 1


def test_a_result_that_was_under_way_when_the_job_was_stopped_never_arrives(qtbot):
    job = Job(counting)
    record = Record(job)
    QThreadPool.globalInstance().start(job._worker)
    QThreadPool.globalInstance().waitForDone(5000)
    job.stop()
    qtbot.waitUntil(lambda: not job.is_running)
    assert record.progress == record.results == []
    assert record.n_ended == 1


def test_an_error_that_was_under_way_when_the_job_was_stopped_is_not_news(qtbot):
    def work():
        yield 1
        raise RuntimeError("too late")

    job = Job(work)
    record = Record(job)
    QThreadPool.globalInstance().start(job._worker)
    QThreadPool.globalInstance().waitForDone(5000)
    job.stop()
    qtbot.waitUntil(lambda: not job.is_running)
    assert record.sentences == []
    assert record.n_ended == 1


def ignores_the_end():
    while True:
        try:
            yield "step"
        except GeneratorExit:
            yield "I am still here"


def fails_when_closed():
    try:
        yield from endless()
    finally:
        raise RuntimeError("could not clean up")


@pytest.mark.parametrize("work", [ignores_the_end, fails_when_closed])
def test_work_that_fails_when_it_is_closed_ends_all_the_same(qtbot, work):
    job = Job(work)
    record = Record(job)
    job.start()
    qtbot.waitUntil(lambda: len(record.progress) > 0)
    with qtbot.waitSignal(job.ended, timeout=3000):
        job.stop()
    assert record.n_ended == 1
    assert not job._worker.is_running


def keeps_the_best():
    best = 0
    try:
        while True:
            best += 1
            time.sleep(0.002)
            yield best
    except FinishEarly:
        pass
    yield "tidying up"
    return best


def under_way(qtbot, job):
    """Record of a job that has been started and has made some progress."""
    record = Record(job)
    job.start()
    qtbot.waitUntil(lambda: len(record.progress) > 2)
    return record


def test_finishing_early_brings_the_best_so_far(qtbot):
    job = Job(keeps_the_best)
    record = under_way(qtbot, job)
    with qtbot.waitSignal(job.ended):
        job.finish_early()
    *steps, last = record.progress
    assert last == "tidying up"
    assert record.results == [steps[-1]]
    assert record.sentences == []


def test_finishing_before_the_first_step_waits_for_it(qtbot):
    job = Job(keeps_the_best)
    job.finish_early()
    assert run(qtbot, job).results == [1]


def test_finishing_early_what_has_no_result_yet_says_so(qtbot):
    job = Job(endless)
    record = under_way(qtbot, job)
    with qtbot.waitSignal(job.ended):
        job.finish_early()
    assert record.results == []
    assert len(record.sentences) == 1
    assert "before there was a result" in record.sentences[0]
    assert "unforeseen" not in record.sentences[0]


@pytest.mark.parametrize("keeps", [True, False])
def test_what_napari_ends_keeps_its_best_so_far_if_it_is_to(qtbot, keeps):
    """napari ends workers from its list of tasks, and those of a window that closes."""
    job = Job(keeps_the_best, keeps=keeps)
    record = under_way(qtbot, job)
    with qtbot.waitSignal(job.ended):
        job._worker.quit()
    assert len(record.results) == (1 if keeps else 0)
    assert record.sentences == []


def test_a_job_that_keeps_can_be_stopped_all_the_same(qtbot):
    job = Job(keeps_the_best, keeps=True)
    record = under_way(qtbot, job)
    with qtbot.waitSignal(job.ended):
        job.stop()
    assert record.results == []


def test_finishing_early_after_the_end_does_nothing(qtbot):
    job = Job(counting)
    record = run(qtbot, job)
    job.finish_early()
    job.stop()
    qtbot.wait(30)
    assert record.results == ["result"]
    assert record.n_ended == 1


def test_a_stopped_segmentation_leaves_its_thread_fit_for_training(qtbot, one_thread, tiny_model):
    """Trap 3: inference mode around a `yield` stays on when the work is closed there."""
    import torch

    from napari_unet.core.image import make_image
    from napari_unet.core.segmentation import SegmentSettings, segmenting

    image = make_image(np.random.default_rng(0).random((256, 256)).astype(np.float32), "yx")
    job = Job(lambda: segmenting(image, tiny_model, SegmentSettings(tile_size=16)))
    under_way(qtbot, job)
    with qtbot.waitSignal(job.ended):
        job.stop()
    seen = {}

    def train():
        seen["inference"] = torch.is_inference_mode_enabled()
        seen["grad"] = torch.is_grad_enabled()
        weight = torch.ones(2, requires_grad=True)
        weight.sum().backward()
        yield weight.grad.tolist()

    assert run(qtbot, Job(train)).progress == [[1.0, 1.0]]
    assert seen == {"inference": False, "grad": True}


def test_a_warning_in_the_thread_does_no_harm(qtbot):
    def work():
        yield 1
        warnings.warn("numbers overflowed", RuntimeWarning, stacklevel=1)
        yield 2
        return "result"

    record = run(qtbot, Job(work))
    assert record.progress == [1, 2]
    assert record.results == ["result"]
    assert record.sentences == []


def test_an_urgent_job_does_not_wait_for_a_free_thread(qtbot, one_thread):
    """On a machine with one core, training takes the only thread for many minutes."""
    slow = Job(endless)
    slow.start()
    record = run(qtbot, Job(counting, urgent=True))
    assert record.results == ["result"]
    assert slow.is_running
    with qtbot.waitSignal(slow.ended):
        slow.stop()
    first, second = Job(endless), Job(counting)  # and afterwards there is one thread as before
    record = Record(second)
    first.start()
    second.start()
    qtbot.wait(100)
    assert record.progress == []
    first.stop()
    qtbot.waitUntil(lambda: not second.is_running)


@pytest.mark.parametrize("is_stopped", [False, True])
def test_what_the_work_refers_to_is_freed_when_the_job_has_ended(
    make_napari_viewer, qtbot, is_stopped
):
    """napari's list of tasks keeps every worker for as long as its window is open."""
    make_napari_viewer()

    class Big:
        pass

    def job_with(big):
        def work():
            yield big

        return Job(work)

    big = Big()
    freed = weakref.ref(big)
    job = job_with(big)
    del big
    if is_stopped:
        job.stop()
    with qtbot.waitSignal(job.ended):
        job.start()
    job.deleteLater()
    worker = job._worker  # what napari keeps
    del job
    qtbot.wait(20)
    gc.collect()
    assert worker is not None
    assert freed() is None


def test_a_job_whose_owner_dies_is_stopped(qtbot):
    closed = threading.Event()

    def work():
        try:
            yield from endless()
        finally:
            closed.set()

    owner = QObject()
    worker = Job(work, parent=owner)._worker
    worker.start()
    qtbot.waitUntil(lambda: worker.is_running)
    owner.deleteLater()
    qtbot.waitUntil(closed.is_set)
    qtbot.waitUntil(lambda: worker not in _qthreading.WorkerBase._worker_set)
