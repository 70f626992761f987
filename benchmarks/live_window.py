"""How soon does napari's window show what a stroke taught the model, and does painting stay fluid?

    python benchmarks/live_window.py [--sizes 512,1024] [--strokes 12] [--out FILE]

A real viewer with the dock, live mode on, and a simulated person who paints with the mouse: one
stroke through Qt's event queue, on the worst error that is shown, then a rest of some seconds. A
field of simulated nuclei in inverted contrast, which the built-in model has never seen. Counted are
the seconds from the release of the mouse until the layer on the screen is changed for the better.
Then a hand paints at random, with live mode off, on, and off again: gaps of the event loop (as
in `responsiveness.py`) and frames drawn per second. Needs a display; on a server: `xvfb-run -s
"-screen 0 1600x1200x24" python benchmarks/live_window.py`.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from live import Trace
from machines import processor, tell, versions_of
from qtpy.QtCore import QEvent, QPointF, Qt, QTimer
from qtpy.QtGui import QImage, QMouseEvent
from qtpy.QtWidgets import QApplication
from responsiveness import BUTTON, HEAD, NO_BUTTON, PATIENCE, Hand, Heartbeat, camera, canvas, live

WINDOW = (1100, 700)
"""Its size in px, as in `responsiveness.py`: on two cores, drawing a larger one takes both."""
FILM_WIDTH = 800
REST = 4.0
"""Seconds that the person looks on after a stroke."""


class Bench:
    """A viewer with the dock, live mode and a person."""

    def __init__(self, size: int, pictures: Path | None, film: bool = False) -> None:
        import napari

        from napari_unet.core.simulation import SimulationSettings, simulate
        from napari_unet.layers import stage_of
        from napari_unet.session import session_of
        from napari_unet.widgets.live import LiveWidget

        settings = SimulationSettings(kind="inverted", size=size, n_nuclei=70 * size**2 // 512**2)
        drawn = simulate(settings, seed=0)
        self.truth, self.pictures, self._n = drawn.labels > 0, pictures, 0
        self.viewer = napari.Viewer(title="live")
        self.viewer.window.resize(*(WINDOW if pictures is None and not film else (1500, 1100)))
        self.viewer.add_image(drawn.image, name="cells")
        live(1.0)
        self.dock = LiveWidget(self.viewer)
        self.session, self.stage = session_of(self.viewer), stage_of(self.viewer)
        self.viewer.window.add_dock_widget(self.dock, name="U-Net Live", area="right")
        self.until(lambda: self.session.model is not None and not self.session.is_busy)
        self.canvas = canvas()
        self.hand, self.heart = Hand(self.canvas), Heartbeat(look=False)
        self.dock.segment.segment()
        self.until(lambda: not self.session.is_busy)
        self.dock.correct.start()
        live(1.0)

    def until(self, condition: Callable[[], bool]) -> None:
        """Let the window live until something has happened."""
        live(PATIENCE, condition)
        assert condition(), self.session.message

    def picture(self, name: str) -> None:
        """Keep what the window looks like."""
        if self.pictures is not None:
            self.pictures.mkdir(parents=True, exist_ok=True)
            window = self.viewer.window._qt_window
            window.grab().save(str(self.pictures / f"{self._n:03}-{name}.png"))
            self._n += 1

    # ---- strokes

    def shown(self) -> np.ndarray:
        """Where the layer on the screen has objects, bool `(y, x)`."""
        return np.asarray(self.stage.trial.labels) > 0

    def iou(self) -> float:
        """Of the layer on the screen."""
        shown = self.shown()
        return float((shown & self.truth).sum() / max(1, (shown | self.truth).sum()))

    def place(self, at: np.ndarray) -> QPointF:
        """Where a pixel `(y, x)` of the image is on the canvas."""
        view = camera(self.viewer)
        size = np.array([self.canvas.height(), self.canvas.width()])
        y, x = (np.asarray(at, float) - np.array(view.center[-2:])) * view.zoom + size / 2
        return QPointF(float(x), float(y))

    def mouse(self, kind: QEvent.Type, at: np.ndarray, held: Qt.MouseButton) -> None:
        """One event, as a person's hand causes it."""
        point, cause = self.place(at), NO_BUTTON if kind == QEvent.Type.MouseMove else BUTTON
        everywhere = self.canvas.mapToGlobal(point)
        event = QMouseEvent(kind, point, everywhere, cause, held, Qt.KeyboardModifier.NoModifier)
        QApplication.postEvent(self.canvas, event)

    def stroke(self, seed: int) -> Trace | None:
        """One stroke on the worst error, and what is shown until the person has rested."""
        from napari_unet.core.annotator import next_strokes

        layer = self.stage.corrections()
        painted = np.asarray(layer.array(), np.uint8)
        strokes = next_strokes(
            self.shown().astype(int), self.truth.astype(int), painted, 1, seed=seed
        )
        if not strokes:
            return None
        (stroke,) = strokes
        layer.paint_with(stroke.value)
        layer.layer.brush_size = stroke.width
        order = np.argsort((stroke.points - stroke.points.mean(axis=0)) @ self.along(stroke.points))
        points = stroke.points[order]
        self.mouse(QEvent.Type.MouseMove, points[0], NO_BUTTON)
        self.mouse(QEvent.Type.MouseButtonPress, points[0], BUTTON)
        for point in points:
            self.mouse(QEvent.Type.MouseMove, point, BUTTON)
            live(0.016)
        watched = Trace(before=self.iou())

        def on_drawn(event: Any = None) -> None:
            watched.times.append(time.monotonic() - released)
            watched.ious.append(self.iou())

        events = self.stage.trial.layer.events.labels_update
        released = time.monotonic()
        self.mouse(QEvent.Type.MouseButtonRelease, points[-1], NO_BUTTON)
        events.connect(on_drawn)
        live(REST)
        events.disconnect(on_drawn)
        return watched

    @staticmethod
    def along(points: np.ndarray) -> np.ndarray:
        """The direction of a stroke, `(y, x)`."""
        away = points - points.mean(axis=0)
        return np.asarray(np.linalg.svd(away, full_matrices=False)[2][0])

    # ---- fluid

    @contextmanager
    def frames(self) -> Iterator[list[float]]:
        """When the canvas was drawn, in seconds."""
        drawn: list[float] = []
        canvas = self.viewer.window._qt_viewer.canvas._scene_canvas

        def on_draw(event: Any) -> None:
            drawn.append(time.perf_counter())

        canvas.events.draw.connect(on_draw)
        try:
            yield drawn
        finally:
            canvas.events.draw.disconnect(on_draw)

    def painting(self, name: str, seconds: float) -> str:
        """A hand paints at random: a row of the table."""
        with self.frames() as drawn, self.heart.measuring(name) as phase, self.hand.moving():
            live(seconds)
        phase.note = f" ({len(drawn) / phase.seconds:.0f} frames per s)"
        return phase.row()


class Film:
    """Pictures of the window, twice a second, as an animation."""

    def __init__(self, bench: Bench) -> None:
        self._bench, self._frames = bench, []
        self._clock = QTimer()
        self._clock.timeout.connect(self._take)
        self._clock.start(500)

    def _take(self) -> None:
        picture = self._bench.viewer.window._qt_window.grab().toImage()
        picture = picture.scaledToWidth(FILM_WIDTH, Qt.TransformationMode.SmoothTransformation)
        picture = picture.convertToFormat(QImage.Format.Format_RGB888)
        height, width, step = picture.height(), picture.width(), picture.bytesPerLine()
        pixels = np.frombuffer(picture.constBits().asstring(height * step), np.uint8)
        self._frames.append(pixels.reshape(height, step)[:, : 3 * width].reshape(height, width, 3))

    def save(self, path: Path) -> None:
        """Write what was taken."""
        from PIL import Image

        self._clock.stop()
        first, *others = (Image.fromarray(frame) for frame in self._frames)
        path.parent.mkdir(parents=True, exist_ok=True)
        first.save(path, save_all=True, append_images=others, duration=400, loop=0, quality=55)


def headline(size: int, traces: list[Trace]) -> str:
    """A row: the median of all strokes, whatever each gained."""
    changed = [trace.times[0] for trace in traces if trace.times]
    first = [trace.first for trace in traces]
    gains = [trace.final - trace.before for trace in traces]

    def middle(values: list[float]) -> str:
        known = [value for value in values if not np.isnan(value)]
        if not known:
            return "none"
        return f"{np.median(known):.2f} ({min(known):.2f} to {max(known):.2f}; {len(known)})"

    return (
        f"| {size} | {traces[0].before:.2f} | {traces[-1].final:.2f} | {middle(changed)} "
        f"| {middle(first)} | {middle([trace.until(0.75) for trace in traces])} "
        f"| {middle([trace.until(0.95) for trace in traces])} | {np.mean(gains):+.3f} |"
    )


def measured(size: int, chosen: argparse.Namespace) -> tuple[str, list[str]]:
    """The row of the headline, and the rows of painting."""
    bench = Bench(size, chosen.pictures, chosen.animation is not None)
    rows = [bench.painting(f"{size} px, painting, live mode off", chosen.seconds)]
    layer = bench.stage.corrections().layer
    layer.data[...] = 0
    layer.refresh()
    live(1.0)
    bench.dock.livemode.switch.setChecked(True)
    bench.until(lambda: bench.session.lives.message == "Waiting for strokes")
    live(3.0)
    bench.picture("on")
    traces, film = [], Film(bench) if chosen.animation else None
    for seed in range(chosen.strokes):
        trace = bench.stroke(seed)
        if trace is None:
            break
        traces.append(trace)
        print(f"  {size} px, stroke {seed + 1}: {trace.before:.3f}", end=" ")
        print(*(f"{t:.2f}s:{i:.3f}" for t, i in zip(trace.times, trace.ious, strict=True)))
        bench.picture(f"stroke{seed + 1}")
    if film is not None:
        film.save(chosen.animation)
    rows.append(bench.painting(f"{size} px, painting, live mode on", chosen.seconds))
    bench.dock.livemode.keep_button.click()
    bench.until(lambda: not bench.session.lives.is_on and not bench.session.is_busy)
    live(1.0)
    bench.picture("kept")
    rows.append(bench.painting(f"{size} px, painting, live mode off again", chosen.seconds))
    bench.viewer.close()
    live(0.5)
    return headline(size, traces), rows


def main() -> None:
    """Measure, and print or write the tables."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--sizes", default="512,1024", help="edges of the image, in px")
    parser.add_argument("--strokes", type=int, default=12)
    parser.add_argument("--seconds", type=float, default=8.0, help="of painting at random")
    parser.add_argument("--pictures", type=Path, help="where to keep pictures of the window")
    parser.add_argument("--animation", type=Path, help="film the strokes (WebP), which slows them")
    parser.add_argument("--out", type=Path)
    chosen = parser.parse_args()
    found = []
    for size in chosen.sizes.split(","):
        with tempfile.TemporaryDirectory() as folder:  # a project remembers its strokes
            os.environ["NAPARI_UNET_PROJECTS"] = folder
            os.environ["NAPARI_CONFIG"] = str(Path(folder) / "settings.yaml")
            found.append(measured(int(size), chosen))
    lines = [
        "# Live mode in napari's window",
        "",
        f"Measured on {time.strftime('%Y-%m-%d')} with `live_window.py {' '.join(sys.argv[1:])}`: "
        f"{processor()} ({os.cpu_count()} cores), "
        f"{versions_of(['torch', 'napari', 'PyQt6', 'numpy'])}; drawn by software (no GPU).",
        "",
        "## From a stroke to what is shown",
        "",
        f"Seconds from the release of the mouse: median (least to most; of how many of "
        f"{chosen.strokes} strokes). 75 % and 95 % of what the stroke had gained {REST:g} s later.",
        "",
        "| px | IoU before | IoU after | first change, s | first gain, s | 75 %, s "
        "| 95 %, s | gain per stroke |",
        "|--:|--:|--:|--:|--:|--:|--:|--:|",
        *(row for row, _ in found),
        "",
        "## Painting stays fluid",
        "",
        HEAD,
        *(row for _, rows in found for row in rows),
    ]
    tell("\n".join(lines) + "\n", chosen.out)


if __name__ == "__main__":
    main()
