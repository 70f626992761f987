"""How long napari's window does not answer while this plugin works, measured in a real viewer.

    python benchmarks/responsiveness.py [--quick] [--why] [--out FILE]

A timer of one millisecond ticks in napari's event loop; the time between two ticks is a gap, in
which no click, stroke or redraw was served. A simulated hand moves the mouse 60 times per second
through Qt's event queue, so that napari handles it as it handles a person's. For each phase the
table tells the longest gap, the 99th percentile, the gaps over 50 ms, and where the longest one
went: the GUI thread itself computed, it waited for a processor core, or for something else (such
as Python's global lock, or the drawing). Needs a display; on a server: `xvfb-run -s "-screen 0
1600x1200x24" python benchmarks/responsiveness.py`.

`--why` also looks at what the GUI thread does in every gap over 40 ms, and lists it. `--spin`
lets torch's threads spin while they wait for each other, as they do by default on Linux; the plugin
makes them sleep.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from qtpy.QtCore import QEvent, QEventLoop, QObject, QPointF, Qt, QTimer
from qtpy.QtGui import QMouseEvent
from qtpy.QtWidgets import QApplication, QWidget

LONG_MS = 50
PATIENCE = 600  # s
PARTS = ("ours", "naive", "causes")
BUTTON, NO_BUTTON = Qt.MouseButton.LeftButton, Qt.MouseButton.NoButton
HEAD = (
    "| phase | s | longest gap, ms | 99th percentile, ms | gaps > 50 ms | share of the time in "
    "them | of the longest gap: GUI thread computed, waited for a core, waited else, ms |\n"
    "|---|--:|--:|--:|--:|--:|--:|"
)


@dataclass(slots=True)
class Gap:
    """Between two ticks, in ms: all of it, computing, and waiting for a processor core."""

    length: float
    computed: float
    queued: float


@dataclass(slots=True)
class Phase:
    """What was measured under one name."""

    name: str
    seconds: float = 0.0
    gaps: list[Gap] = field(default_factory=list)
    sights: Counter[str] = field(default_factory=Counter)
    note: str = ""

    def row(self) -> str:
        """A line of the table."""
        lengths = np.array([gap.length for gap in self.gaps])
        worst = max(self.gaps, key=lambda gap: gap.length)
        long = lengths[lengths > LONG_MS]
        rest = max(0.0, worst.length - worst.computed - worst.queued)
        went = f"{worst.computed:.0f}, {worst.queued:.0f}, {rest:.0f}"
        return (
            f"| {self.name}{self.note} | {self.seconds:.1f} | {worst.length:.0f} "
            f"| {np.percentile(lengths, 99):.1f} | {long.size} "
            f"| {long.sum() / 1000 / self.seconds:.1%} | {went} |"
        )


class Heartbeat(QObject):
    """Ticks in the event loop, and notes the gaps into the phase that is on."""

    def __init__(self, look: bool) -> None:
        super().__init__()
        self.phase: Phase | None = None
        self.last = time.perf_counter()
        self._computed = self._queued = 0.0
        self._schedule = _open_schedule()
        self._main = threading.get_ident()
        self._timer = QTimer(self)
        self._timer.setTimerType(Qt.TimerType.PreciseTimer)
        self._timer.timeout.connect(self._tick)
        self._timer.start(1)
        if look:
            threading.Thread(target=self._look, daemon=True).start()

    def _tick(self) -> None:
        now, computed, queued = time.perf_counter(), time.thread_time(), self._waited()
        if self.phase is not None:
            steps = (now - self.last, computed - self._computed, queued - self._queued)
            self.phase.gaps.append(Gap(*(1000 * step for step in steps)))
        self.last, self._computed, self._queued = now, computed, queued

    def _waited(self) -> float:
        """Seconds that this thread has been ready and found no free core; 0 if unknown."""
        if self._schedule is None:
            return 0.0
        return int(os.pread(self._schedule, 100, 0).split()[1]) / 1e9

    def _look(self) -> None:
        """Note what the GUI thread does whenever it has not ticked for 40 ms."""
        while True:
            time.sleep(0.01)
            phase = self.phase
            if phase is not None and time.perf_counter() - self.last > 0.04:
                phase.sights[_place(sys._current_frames().get(self._main))] += 1

    @contextmanager
    def measuring(self, name: str) -> Iterator[Phase]:
        """Note the gaps under this name."""
        phase = Phase(name)
        live(0.2)
        self._tick()
        start = time.perf_counter()
        self.phase = phase
        try:
            yield phase
        finally:
            live(0.01)  # so that a stall at the end is seen too
            self.phase = None
            phase.seconds = time.perf_counter() - start
            print(phase.row(), flush=True)
            for place, count in phase.sights.most_common(8):
                print(f"    {count:4d} x {place}", flush=True)


def _open_schedule() -> int | None:
    """Linux's account of this thread: time computed, time waited for a core, in ns."""
    path = f"/proc/self/task/{threading.get_native_id()}/schedstat"
    return os.open(path, os.O_RDONLY) if os.path.exists(path) else None


def _place(frame: Any) -> str:
    """The innermost places of a stack: three in all, and up to three in this plugin."""
    places: list[str] = []
    own: list[str] = []
    while frame is not None:
        code = frame.f_code
        short = f"{Path(code.co_filename).name}:{frame.f_lineno} {code.co_name}"
        if "napari_unet" in code.co_filename and len(own) < 3:
            own.append(short)
        if len(places) < 3:
            places.append(short)
        frame = frame.f_back
    return " < ".join(places) + (f"   [ours: {' < '.join(own)}]" if own else "")


def live(seconds: float, until: Callable[[], bool] = lambda: False) -> None:
    """Let the window live for a time, or until something has happened."""
    loop, timer, end = QEventLoop(), QTimer(), time.monotonic() + seconds
    timer.timeout.connect(lambda: (until() or time.monotonic() > end) and loop.quit())
    timer.start(10)
    loop.exec()


class Hand(QObject):
    """Drags the mouse over the canvas, 60 moves per second, a stroke or a drag of half a second."""

    def __init__(self, canvas: QWidget) -> None:
        super().__init__()
        self._canvas = canvas
        self._generator = np.random.default_rng(0)
        self._n_moves = 0
        self._position = self._step = np.zeros(2)
        self._timer = QTimer(self)
        self._timer.setTimerType(Qt.TimerType.PreciseTimer)
        self._timer.timeout.connect(self._move)

    @contextmanager
    def moving(self) -> Iterator[None]:
        """Move until the end of the block."""
        self._n_moves = 0
        self._timer.start(1000 // 60)
        try:
            yield
        finally:
            self._timer.stop()
            self._post(QEvent.Type.MouseButtonRelease, NO_BUTTON)
            live(0.05)

    def _move(self) -> None:
        at = self._n_moves % 36
        self._n_moves += 1
        size = np.array([self._canvas.width(), self._canvas.height()])
        if at == 0:
            self._position = size * self._generator.uniform(0.3, 0.7, 2)
            angle = self._generator.uniform(0, 2 * np.pi)
            self._step = 5 * np.array([np.cos(angle), np.sin(angle)])
            self._post(QEvent.Type.MouseMove, NO_BUTTON)
            self._post(QEvent.Type.MouseButtonPress, BUTTON)
        elif at < 30:
            self._position = self._position + self._step + self._generator.normal(0, 1, 2)
            self._post(QEvent.Type.MouseMove, BUTTON)
        elif at == 30:
            self._post(QEvent.Type.MouseButtonRelease, NO_BUTTON)

    def _post(self, kind: QEvent.Type, held: Qt.MouseButton) -> None:
        point = QPointF(*(float(p) for p in self._position))
        cause = NO_BUTTON if kind == QEvent.Type.MouseMove else BUTTON
        everywhere = self._canvas.mapToGlobal(point)
        event = QMouseEvent(kind, point, everywhere, cause, held, Qt.KeyboardModifier.NoModifier)
        QApplication.postEvent(self._canvas, event)


class Bench:
    """A viewer with the dock, and the phases that are measured in it."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        import napari

        self.quick = arguments.quick
        self.phases: list[Phase] = []
        self.viewer = napari.Viewer(title="responsiveness")
        self.viewer.window.resize(*arguments.window)
        self.image = picture(1024 if self.quick else 2048)
        self.viewer.add_image(self.image, name="cells")
        live(1.0)
        self.session: Any = None
        self.hand = Hand(canvas())
        self.heart = Heartbeat(arguments.why)

    def seconds(self, wanted: float) -> float:
        """As long as wanted, or short with `--quick`."""
        return min(wanted, 2.0) if self.quick else wanted

    @contextmanager
    def measuring(self, name: str) -> Iterator[Phase]:
        """Measure a phase and keep it."""
        with self.heart.measuring(name) as phase:
            yield phase
        self.phases.append(phase)

    def until(self, condition: Callable[[], bool]) -> None:
        """Let the window live until `condition`; complain about errors the user would see."""
        live(PATIENCE, condition)
        kind, sentence = self.session.message
        assert condition() and kind != "error", sentence

    # ---- the first time

    def napari_alone(self) -> None:
        """What napari and the drawing take, before there is anything of ours."""
        with self.measuring("*napari alone:* add a labels layer, twice"):
            self.viewer.add_labels(np.zeros(self.image.shape, np.uint16), name="shown")
            live(0.3)
            layer = self.viewer.add_labels(np.zeros(self.image.shape, np.uint8), name="painted")
            live(0.3)
        view = camera(self.viewer)
        zoom, center = view.zoom, view.center
        view.zoom *= 2.5
        layer.brush_size = 8
        for mode, name in (("paint", "painting"), ("pan_zoom", "panning and zooming")):
            layer.mode = mode
            with self.measuring(f"*napari alone:* {name}"), self.hand.moving():
                if mode == "paint":
                    live(self.seconds(10))
                else:
                    self.zoom(self.seconds(10))
        view.zoom, view.center = zoom, center
        for name in ("painted", "shown"):
            self.viewer.layers[name].visible = False

    def open_dock(self) -> None:
        """The dock, and torch with the model behind it."""
        from napari_unet.session import session_of
        from napari_unet.widgets.live import LiveWidget

        with self.measuring("open the dock (once)") as phase:
            self.dock = LiveWidget(self.viewer)
            self.session = session_of(self.viewer)
            job_started = time.perf_counter()
            self.viewer.window.add_dock_widget(self.dock, name="U-Net Live", area="right")
        with self.measuring("import torch and open the model, in a worker (once)"):
            self.until(lambda: self.session.model is not None and not self.session.is_busy)
            phase.note = f" (the model is there {time.perf_counter() - job_started:.1f} s later)"

    # ---- ours

    def segment(self) -> None:
        """Click Segment, and wait for the result."""
        self.dock.segment.button.click()
        self.until(lambda: not self.session.is_busy)

    def ours(self) -> None:
        """What people do with this plugin."""
        with self.measuring("nothing happens"):
            live(self.seconds(10))
        with self.measuring("segmenting, the first time (allocates, measures the speed)"):
            self.segment()
        with self.measuring("segmenting"):
            self.segment()
        with self.measuring("Paint corrections is clicked (once)"):
            self.dock.correct.start_button.click()
            live(0.5)
        camera(self.viewer).zoom *= 2.5
        with self.measuring("painting"), self.hand.moving():
            live(self.seconds(10))
        with self.measuring("painting while segmenting"), self.hand.moving():
            self.segment()
        self.training()
        with self.measuring("moving the threshold, 10 values per second"):
            self.drag_threshold()
        with self.measuring("moving the threshold while panning"), self.hand.moving():
            self.drag_threshold()

    def training(self) -> None:
        """Fine-tune, with a hand that rests, paints, pans and zooms."""
        self.until(lambda: not self.session.journal.is_pending)
        self.dock.finetune.steps.setValue(5000)
        with self.measuring("Fine-tune is clicked, until the first steps"):
            self.dock.finetune.button.click()
            self.until(lambda: len(self.session.training_curve) > 2)
        with self.measuring("fine-tuning"):
            live(self.seconds(10))
        with self.measuring("painting while fine-tuning"), self.hand.moving():
            live(self.seconds(15))
        self.until(lambda: not self.session.journal.is_pending)
        self.pan()
        with self.measuring("panning and zooming while fine-tuning"), self.hand.moving():
            self.zoom(self.seconds(15))
        assert self.session.is_busy
        with self.measuring("Cancel is clicked, until training has ended"):
            self.session.cancel()
            self.until(lambda: not self.session.is_busy)
        with self.measuring("panning and zooming"), self.hand.moving():
            self.zoom(self.seconds(10))

    def pan(self) -> None:
        """Let drags move the picture."""
        self.viewer.layers.selection.active.mode = "pan_zoom"

    def zoom(self, seconds: float) -> None:
        """Zoom in and out a little, 20 times per second, and stay near the middle."""
        timer, start = QTimer(), time.monotonic()
        view = camera(self.viewer)
        zoom, center = view.zoom, view.center

        def step() -> None:
            view.zoom = zoom * 1.3 ** np.sin(3 * (time.monotonic() - start))

        timer.timeout.connect(step)
        timer.start(50)
        live(seconds)
        timer.stop()
        view.zoom, view.center = zoom, center

    def drag_threshold(self) -> None:
        """Move the slider up and down, and wait until the last result is shown."""
        slider = self.dock.segment.threshold
        for value in np.r_[0.5:0.8:10j, 0.8:0.3:20j, 0.3:0.5:10j][:: 4 if self.quick else 1]:
            slider.setValue(float(value))
            live(0.1)
        live(PATIENCE, lambda: self.session._adjusting is None)

    # ---- the naive ways

    def naive(self) -> None:
        """The same network, run as one would at first."""
        import napari_unet as nu

        assert self.session.model is not None
        with self.measuring("*naive:* segmenting on the GUI thread"):
            nu.segment(self.image, self.session.model)
        self.dock.correct.brush_buttons[1].click()
        with (
            self.measuring("*naive:* stock worker, `layer.refresh()` of int32 per tile, painting"),
            self.hand.moving(),
        ):
            self.naive_worker()
        self.pan()

    def naive_worker(self) -> None:
        """Segment in napari's own worker; each tile redraws the whole layer."""
        from napari.qt.threading import thread_worker

        from napari_unet.core.image import make_image
        from napari_unet.core.segmentation import SegmentSettings, segmenting

        layer = self.viewer.add_labels(np.zeros(self.image.shape, np.int32), name="naive")
        self.viewer.layers.selection.active = self.viewer.layers["cells corrections"]
        image, done = make_image(self.image, "yx"), []

        @thread_worker
        def work() -> Any:
            yield from segmenting(image, self.session.model, SegmentSettings())

        def show(progress: Any) -> None:
            layer.data[progress.region.window] = progress.labels
            layer.refresh()

        worker = work()
        worker.yielded.connect(show)
        worker.finished.connect(lambda: done.append(True))
        worker.start()
        live(PATIENCE, lambda: bool(done))
        self.viewer.layers.remove(layer)

    # ---- one thing at a time: what makes napari slow while a worker runs?

    def causes(self) -> None:
        """Pan, while one suspect at a time is at work."""
        import torch

        n_threads = torch.get_num_threads()
        layer = self.viewer.add_labels(np.zeros(self.image.shape, np.int32), name="suspect")
        layer.data[::64] = 1
        self.pan()
        suspects: dict[str, Callable[[threading.Event], None] | None] = {
            "nothing else": None,
            f"convolutions in a thread, {n_threads} torch threads": partial(convolve, n_threads),
            "convolutions in a thread, 1 torch thread": partial(convolve, 1),
            "a thread that computes in pure Python and so holds Python's lock": hold_lock,
        }
        for name, suspect in suspects.items():
            with self.measuring(f"*panning and:* {name}"), self.hand.moving(), running(suspect):
                self.zoom(self.seconds(8))
        self.interactive()
        self.flood(None)
        self.flood(0.001)
        timer = QTimer()
        timer.timeout.connect(layer.refresh)
        timer.start(200)
        name = "`refresh()` of an int32 layer, 5 per second, no thread"
        with self.measuring(f"*panning and:* {name}"), self.hand.moving():
            self.zoom(self.seconds(8))
        timer.stop()

    def interactive(self) -> None:
        """Short predictions on the GUI thread, alone and while a worker computes."""
        import napari_unet as nu

        model, piece = self.session.model, np.ascontiguousarray(self.image[:256, :256])

        def predict() -> None:
            counted.update("n")
            nu.segment(piece, model)

        def keep_busy(end: threading.Event) -> None:
            while not end.is_set():
                nu.segment(piece, model)

        timer = QTimer()
        timer.timeout.connect(predict)
        name = "*256 x 256 px on the GUI thread, five per second, and:*"
        for other, suspect in (("nothing else", None), ("the same in a worker", keep_busy)):
            counted: Counter[str] = Counter()
            with self.measuring(f"{name} {other}") as phase, running(suspect):
                timer.start(200)
                live(self.seconds(8))
                timer.stop()
            phase.note = f" ({counted['n'] / phase.seconds:.1f} per s)"

    def flood(self, pause: float | None) -> None:
        """Pan, while a stock worker emits a signal per ms, or one upon the other."""
        from napari.qt.threading import thread_worker

        @thread_worker
        def work() -> Any:
            while True:
                if pause:
                    time.sleep(pause)
                yield 0

        counted: Counter[str] = Counter()
        worker = work()
        worker.yielded.connect(lambda _: counted.update("n"))
        name = "a worker that yields 1000 times per s" if pause else "a worker that only yields"
        with self.measuring(f"*panning and:* {name}") as phase, self.hand.moving():
            worker.start()
            self.zoom(self.seconds(8))
            worker.quit()
        phase.note = f" ({counted['n'] / phase.seconds:,.0f} signals per s arrived)"
        live(PATIENCE, lambda: not worker.is_running)


def canvas() -> QWidget:
    """What the only viewer that is open draws on."""
    (found,) = (w for w in QApplication.allWidgets() if "CanvasBackend" in type(w).__name__)
    return found


def camera(viewer: Any) -> Any:
    """The camera, which has moved in napari 0.9."""
    return getattr(viewer, "scene", viewer).camera


def picture(size: int) -> np.ndarray:
    """Simulated nuclei `(size, size)` uint16: one field, mirrored to and fro."""
    from napari_unet.core.simulation import simulate

    tile = simulate(seed=1).image
    row = np.concatenate([tile, tile[:, ::-1]], axis=1)
    block = np.concatenate([row, row[::-1]])  # (1024, 1024)
    n = -(-size // 1024)
    return np.ascontiguousarray(np.tile(block, (n, n))[:size, :size])


@contextmanager
def running(suspect: Callable[[threading.Event], None] | None) -> Iterator[None]:
    """Run a suspect in a thread, until the end of the block."""
    if suspect is None:
        yield
        return
    end = threading.Event()
    thread = threading.Thread(target=suspect, args=(end,))
    thread.start()
    try:
        yield
    finally:
        end.set()
        thread.join()


def convolve(n_threads: int, end: threading.Event) -> None:
    """Convolutions until the end; torch keeps the number of threads per calling thread."""
    import torch

    torch.set_num_threads(n_threads)
    convolution = torch.nn.Conv2d(32, 32, 3, padding=1)
    batch = torch.zeros(1, 32, 256, 256)
    with torch.inference_mode():
        while not end.is_set():
            convolution(batch)


def hold_lock(end: threading.Event) -> None:
    """Arithmetic in Python."""
    total = 0
    while not end.is_set():
        for i in range(10_000):
            total += i * i


def machine() -> str:
    """What it was measured on."""
    names = ("napari", "torch", "PyQt6", "numpy", "scikit-image")
    versions = ", ".join(f"{name} {version(name)}" for name in names)
    import torch

    return (
        f"{os.cpu_count()} cores, {platform.machine()}, {platform.system()}, "
        f"{torch.get_num_threads()} torch threads, Python {platform.python_version()}, {versions}"
    )


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="smaller and shorter: a smoke test")
    parser.add_argument("--why", action="store_true", help="list what the GUI thread did in gaps")
    parser.add_argument("--spin", action="store_true", help="let torch's threads spin")
    parser.add_argument("--window", type=int, nargs=2, default=(1200, 800), help="its size, px")
    parser.add_argument(
        "--parts", nargs="+", choices=PARTS, default=PARTS, help="what to measure; default: all"
    )
    parser.add_argument("--out", type=Path, help="write the tables to this Markdown file")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["NAPARI_UNET_PROJECTS"] = folder
        os.environ["NAPARI_CONFIG"] = str(Path(folder) / "napari.yaml")
        if arguments.spin:
            os.environ["GOMP_SPINCOUNT"] = "300000"  # GNU's own default
        print(HEAD)
        bench = Bench(arguments)
        bench.napari_alone()
        bench.open_dock()
        for part in arguments.parts:
            getattr(bench, part)()
        bench.viewer.close()
    lines = [HEAD, *(phase.row() for phase in bench.phases), "", f"Measured on {machine()}."]
    if arguments.out:
        arguments.out.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n" + lines[-1])


if __name__ == "__main__":
    main()
