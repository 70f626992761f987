"""Simulated microscope images of cell nuclei, with the exact truth.

Nuclei are ellipses with wobbly outlines, some of them dented; a share of them lies against
another one. They are lit unevenly, blurred by the optics, counted in photons and read by a
camera with offset and noise. Two more kinds show the same nuclei as a model that learned from
fluorescence does not know them: dark on a bright ground, and in phase contrast.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt
import scipy.ndimage as ndi

from napari_unet.core.errors import SettingsError

__all__ = ["Simulated", "SimulationKind", "SimulationSettings", "simulate"]

SimulationKind = Literal["fluorescence", "inverted", "rings"]
Floats = npt.NDArray[np.float32]

CAMERA_OFFSET = 100.0
GRAY_LEVELS_PER_PHOTON = 2.0
LARGEST_STRETCH = 1.9  # longest radius of a nucleus, in mean radii
N_TRIES = 40


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulationSettings:
    """What is in the field of view, and how it is seen.

    Attributes
    ----------
    kind : "fluorescence" (bright on dark), "inverted" (dark on a bright, stained ground, very
        noisy) or "rings" (phase contrast: gray inside, bright halo, gray uneven ground).
    size : height and width of the image, in px.
    n_nuclei : nuclei in view; fewer if there is no room for so many.
    radius : mean radius of a nucleus, in px.
    touching : share of nuclei that are put against another one, 0 to 1.
    texture : standard deviation of the chromatin texture, relative to the nucleus.
    blur : standard deviation of the point spread function, in px.
    photons : photons per pixel from a typical nucleus.
    read_noise : standard deviation of the camera's noise, in photons.
    uneven : share of the light that is missing in the darkest corner, 0 to 1.
    background : light from outside nuclei, relative to a typical nucleus.
    """

    kind: SimulationKind = "fluorescence"
    size: int = 512
    n_nuclei: int = 70
    radius: float = 12.0
    touching: float = 0.35
    texture: float = 0.2
    blur: float = 1.2
    photons: float = 250.0
    read_noise: float = 3.0
    uneven: float = 0.45
    background: float = 0.08

    def __post_init__(self) -> None:
        if self.kind not in get_args(SimulationKind):
            kinds = ", ".join(get_args(SimulationKind))
            raise SettingsError(f"kind must be one of {kinds}, not {self.kind!r}.")
        if self.size < 1 or self.n_nuclei < 0:
            raise SettingsError("size must be at least 1 and n_nuclei at least 0.")
        if self.radius < 2:
            raise SettingsError(f"radius must be at least 2 px, not {self.radius}.")
        if self.photons <= 0:
            raise SettingsError(f"photons must be above 0, not {self.photons}.")
        for name in ("touching", "uneven"):
            if not 0 <= getattr(self, name) <= 1:
                raise SettingsError(f"{name} must be 0 to 1, not {getattr(self, name)}.")
        for name in ("texture", "blur", "read_noise", "background"):
            if getattr(self, name) < 0:
                raise SettingsError(f"{name} must not be negative, but is {getattr(self, name)}.")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Simulated:
    """An image and its truth.

    Attributes
    ----------
    image : `(y, x)`, uint16, gray levels of the camera.
    labels : `(y, x)`, int32, object ids from 1 without gaps, 0 for background.
    """

    image: npt.NDArray[np.uint16]
    labels: npt.NDArray[np.int32]


def simulate(settings: SimulationSettings | None = None, seed: int = 0) -> Simulated:
    """Simulate one image; the same settings and seed give the same image."""
    settings = settings or SimulationSettings()
    generator = np.random.default_rng(seed)
    field = _Field(settings, generator)
    for _ in range(settings.n_nuclei):
        _place(field, settings, generator)
    labels, brightness = field.view()
    signal = _textured(brightness, settings, generator)
    scene = _SCENES[settings.kind](signal, labels > 0, settings, generator)
    light = ndi.gaussian_filter(scene, settings.blur) * _illumination(settings, generator)
    photons = generator.poisson(np.maximum(light, 0) * settings.photons)
    photons = photons + generator.normal(0, settings.read_noise, photons.shape)
    gray = np.clip(CAMERA_OFFSET + GRAY_LEVELS_PER_PHOTON * photons, 0, 65535)
    return Simulated(image=gray.round().astype(np.uint16), labels=labels)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Nucleus:
    """A nucleus before it has a place: `(y, x)` around its centre, odd sizes."""

    mask: npt.NDArray[np.bool_]
    brightness: Floats
    radii: npt.NDArray[np.float64]  # of the outline, at evenly spread angles

    def radius_towards(self, angle: float) -> float:
        return float(self.radii[round(angle / math.tau * len(self.radii)) % len(self.radii)])


class _Field:
    """The nuclei that have a place, on a canvas with a rim that the image does not show."""

    def __init__(self, settings: SimulationSettings, generator: np.random.Generator) -> None:
        self.size = settings.size
        self.rim = math.ceil(2 * LARGEST_STRETCH * settings.radius) + 2
        shape = (settings.size + 2 * self.rim,) * 2
        self.labels = np.zeros(shape, np.int32)
        self.brightness = np.zeros(shape, np.float32)
        self.near = np.zeros(shape, np.bool_)  # nuclei and 2 px around them
        self.placed: list[tuple[float, float, _Nucleus]] = []

    def put(
        self, nucleus: _Nucleus, y: float, x: float, *, apart: bool, largest_overlap: float = 0.0
    ) -> bool:
        """Put a nucleus down with its centre at `(y, x)` in the image, if there is room.

        A nucleus pressed against another one gives way: what overlaps is cut off.
        """
        if not (0 <= y < self.size and 0 <= x < self.size):
            return False
        half = nucleus.mask.shape[0] // 2
        top, left = round(y) + self.rim - half, round(x) + self.rim - half
        box = np.s_[top : top + 2 * half + 1, left : left + 2 * half + 1]
        if apart and (self.near[box] & nucleus.mask).any():
            return False
        mask = nucleus.mask & (self.labels[box] == 0)
        if mask.sum() < (1 - largest_overlap) * nucleus.mask.sum() or ndi.label(mask)[1] != 1:
            return False
        self.placed.append((y, x, nucleus))
        self.labels[box][mask] = len(self.placed)
        self.brightness[box][mask] = nucleus.brightness[mask]
        wide = np.s_[top - 2 : top + 2 * half + 3, left - 2 : left + 2 * half + 3]
        self.near[wide] |= ndi.binary_dilation(np.pad(mask, 2), iterations=2)
        return True

    def view(self) -> tuple[npt.NDArray[np.int32], Floats]:
        """Labels and brightness of what the image shows, `(y, x)`."""
        shown = np.s_[self.rim : self.rim + self.size, self.rim : self.rim + self.size]
        return self.labels[shown].copy(), self.brightness[shown].copy()


def _place(field: _Field, settings: SimulationSettings, generator: np.random.Generator) -> None:
    """Find room for one more nucleus, alone or against another one."""
    nucleus = _draw_nucleus(settings, generator)
    pressed = bool(field.placed) and generator.random() < settings.touching
    for _ in range(N_TRIES):
        if not pressed:
            y, x = generator.uniform(0, field.size, 2)
            if field.put(nucleus, y, x, apart=True):
                return
            continue
        at_y, at_x, other = field.placed[generator.integers(len(field.placed))]
        angle = generator.uniform(0, math.tau)
        contact = other.radius_towards(angle) + nucleus.radius_towards(angle + math.pi)
        for distance in np.arange(contact - 1, contact + settings.radius / 2):
            y, x = at_y + distance * math.sin(angle), at_x + distance * math.cos(angle)
            if field.put(nucleus, y, x, apart=False, largest_overlap=0.06):
                return


def _draw_nucleus(settings: SimulationSettings, generator: np.random.Generator) -> _Nucleus:
    """A wobbly ellipse, sometimes dented, sometimes small and bright as before division."""
    angles = np.linspace(0, math.tau, 256, endpoint=False)
    is_compact = generator.random() < 0.06
    mean = settings.radius * np.clip(generator.normal(1, 0.14), 0.65, 1.35)
    mean *= 0.65 if is_compact else 1.0
    elongation = generator.uniform(1.0, 1.6)
    turned = angles - generator.uniform(0, math.tau)
    squeezed = (np.cos(turned) ** 2 / elongation + np.sin(turned) ** 2 * elongation) ** -0.5
    outline = np.ones_like(angles)
    for k in range(2, 6):
        size = generator.normal(0, 0.045) / (k - 1) ** 0.5
        outline += size * np.cos(k * angles + generator.uniform(0, math.tau))
    if generator.random() < 0.12:
        off = np.angle(np.exp(1j * (turned - math.pi / 2)))
        outline -= generator.uniform(0.15, 0.4) * np.exp(-((off / 0.5) ** 2))
    radii = np.clip(mean * squeezed * outline, 1.5, LARGEST_STRETCH * settings.radius)
    brightness = np.exp(generator.normal(0, 0.25)) * (1.8 if is_compact else 1.0)
    half = math.ceil(radii.max()) + 1
    y, x = np.mgrid[-half : half + 1, -half : half + 1]
    direction = np.arctan2(y, x) % math.tau
    outwards = np.hypot(y, x) / np.interp(direction, angles, radii, period=math.tau)
    thickness = 0.55 + 0.45 * np.sqrt(np.clip(1 - outwards**2, 0, 1))
    return _Nucleus(
        mask=outwards <= 1, brightness=(brightness * thickness).astype(np.float32), radii=radii
    )


def _smooth_noise(size: int, sigma: float, generator: np.random.Generator) -> Floats:
    """Random clouds `(y, x)` of about `sigma` px, mean 0, standard deviation 1."""
    step = max(1, int(sigma / 2))
    coarse_size = -(-size // step) + 4
    drawn = generator.standard_normal((coarse_size, coarse_size), np.float32)
    clouds = ndi.gaussian_filter(drawn, sigma / step, mode="wrap")
    if step > 1:
        clouds = ndi.zoom(clouds, step, order=1)
    clouds = clouds[:size, :size]
    return np.asarray((clouds - clouds.mean()) / max(float(clouds.std()), 1e-6), np.float32)


def _textured(
    brightness: Floats, settings: SimulationSettings, generator: np.random.Generator
) -> Floats:
    """Nuclei with chromatin, coarse and fine, `(y, x)`."""
    coarse = _smooth_noise(settings.size, settings.radius / 5, generator)
    fine = _smooth_noise(settings.size, max(settings.radius / 12, 0.7), generator)
    chromatin = 1 + settings.texture * (0.75 * coarse + 0.65 * fine)
    return np.asarray(brightness * np.maximum(chromatin, 0.2), np.float32)


def _illumination(settings: SimulationSettings, generator: np.random.Generator) -> Floats:
    """Light at each pixel `(y, x)`: 1 at the brightest place, `1 - uneven` in the darkest."""
    at_y, at_x = generator.uniform(0.25, 0.75, 2) * settings.size
    y, x = np.ogrid[: settings.size, : settings.size]
    squared = ((y - at_y) ** 2 + (x - at_x) ** 2).astype(np.float32)
    squared = (squared - squared.min()) / max(float(np.ptp(squared)), 1e-6)
    return np.asarray(1 - settings.uneven * squared, np.float32)


def _fluorescence(
    signal: Floats,
    mask: npt.NDArray[np.bool_],
    settings: SimulationSettings,
    generator: np.random.Generator,
) -> Floats:
    """Bright nuclei, a dim ground, and haze from what is out of focus."""
    haze = signal
    for _ in range(3):  # three box filters are nearly a Gaussian, at a cost that does not grow
        haze = ndi.uniform_filter(haze, 2 * int(2 * settings.radius) + 1)
    clouds = 1 + 0.25 * _smooth_noise(settings.size, 3 * settings.radius, generator)
    return np.asarray(signal + settings.background * clouds + 0.06 * haze, np.float32)


def _inverted(
    signal: Floats,
    mask: npt.NDArray[np.bool_],
    settings: SimulationSettings,
    generator: np.random.Generator,
) -> Floats:
    """Nuclei that swallow light, on a ground with stained clouds and few photons."""
    clouds = _smooth_noise(settings.size, 0.8 * settings.radius, generator)
    grain = _smooth_noise(settings.size, 1.0, generator)
    ground = 1 + 0.12 * clouds + 0.06 * grain
    scene = 0.2 * ground * np.exp(-0.5 * np.minimum(signal, 1.5))
    return np.asarray(scene + settings.background, np.float32)


def _rings(
    signal: Floats,
    mask: npt.NDArray[np.bool_],
    settings: SimulationSettings,
    generator: np.random.Generator,
) -> Floats:
    """Gray nuclei with a bright halo on a gray, cloudy ground, as in phase contrast."""
    halo = ndi.gaussian_filter(mask.astype(np.float32), settings.radius / 5) * ~mask
    clouds = _smooth_noise(settings.size, 2.5 * settings.radius, generator)
    grain = _smooth_noise(settings.size, 1.5, generator)
    ground = 0.45 + 0.06 * clouds + 0.025 * grain
    inside = (0.1 * np.minimum(signal, 1.4) - 0.14) * mask
    return np.asarray(ground + 0.9 * halo + inside + settings.background, np.float32)


_SCENES = {"fluorescence": _fluorescence, "inverted": _inverted, "rings": _rings}
