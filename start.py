"""Set everything up, then run the program or its tests.

    python3 start.py                 open napari on a sample image, ready to click Segment
    python3 start.py offscreen       go through the whole loop without a screen: see demo-output
    python3 start.py test [ARG...]   run the tests; arguments go to pytest

Everything is installed into the folder .venv beside this file, in the versions of constraints.txt.
On Debian and Ubuntu missing system libraries are installed with apt-get. What the installers say
goes to start.log. A second run installs nothing unless pyproject.toml or constraints.txt changed.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
STAMP = VENV / "start-stamp.txt"
LOG = ROOT / "start.log"
EXTRAS = "all,ome-zarr"
LIFE_SIGN = 60  # s between two lines while an installer works

# What Qt and OpenGL load from Debian 12; later releases add "t64" to some of the names.
LIBRARIES = (
    "libdbus-1-3 libegl1 libfontconfig1 libfreetype6 libgl1 libgl1-mesa-dri libglib2.0-0 "
    "libglx-mesa0 libopengl0 libx11-xcb1 libxcb-cursor0 libxcb-glx0 libxcb-icccm4 libxcb-image0 "
    "libxcb-keysyms1 libxcb-randr0 libxcb-render-util0 libxcb-render0 libxcb-shape0 libxcb-shm0 "
    "libxcb-sync1 libxcb-util1 libxcb-xfixes0 libxcb-xkb1 libxcb1 libxkbcommon-x11-0 libxkbcommon0"
)


def main(arguments: list[str]) -> int:
    """Do what the first argument says; return the exit code."""
    if sys.version_info < (3, 11):  # noqa: UP036
        fail(f"Python 3.11 or newer is needed, but this is {sys.version.split()[0]}. Install one.")
    what, rest = (arguments[0], arguments[1:]) if arguments else ("window", [])
    if what in ("-h", "--help"):
        print(__doc__)
        return 0
    if what not in ("window", "offscreen", "test"):
        fail(f"There is no {what!r}: say 'offscreen', 'test' or nothing. --help tells more.")
    if what == "window" and not has_screen(sys.platform, os.environ):
        say("There is no screen (neither DISPLAY nor WAYLAND_DISPLAY is set): going off screen.")
        what = "offscreen"
    set_up(what)
    if what == "test":
        return subprocess.call([venv_program("python"), "-m", "pytest", *rest], cwd=ROOT)
    if what == "window":
        return subprocess.call([venv_program("napari-unet"), "demo", *rest], cwd=ROOT)
    demo = [venv_program("napari-unet"), "demo", "--offscreen", "--out", "demo-output", *rest]
    with virtual_screen() as environment:
        return subprocess.call(demo, cwd=ROOT, env=environment)


def has_screen(platform: str, environment: os._Environ[str] | dict[str, str]) -> bool:
    """Whether windows can be shown; Windows and macOS always have a screen."""
    shown = environment.get("DISPLAY") or environment.get("WAYLAND_DISPLAY")
    return not platform.startswith("linux") or bool(shown)


# Setting up


def set_up(what: str) -> None:
    """Install all that `what` needs and is not there yet."""
    LOG.write_bytes(b"")
    if sys.platform.startswith("linux"):
        install_libraries(needs_xvfb=what != "window")
    dev = what == "test"
    make_venv()
    if stamp_covers(STAMP.read_text() if STAMP.exists() else "", digest(), dev=dev):
        return
    pip = [venv_program("python"), "-m", "pip", "install", "-c", "constraints.txt"]
    STAMP.unlink(missing_ok=True)
    run_step("Upgrading pip", [*pip, "--upgrade", "pip"])
    install = [*pip, "--build-constraint", "constraints.txt", "-e", f".[{EXTRAS}]"]
    groups = ["--group", "dev"] if dev else []
    run_step("Installing Python packages (takes minutes, torch is large)", [*install, *groups])
    STAMP.write_text(stamp(digest(), dev=dev))


def digest() -> str:
    """A number that changes with all that decides what is installed."""
    parts = [(ROOT / name).read_bytes() for name in ("pyproject.toml", "constraints.txt")]
    return hashlib.sha256(b"\0".join([*parts, EXTRAS.encode()])).hexdigest()


def stamp(digest: str, *, dev: bool) -> str:
    """What is written down after everything was installed."""
    return f"{digest} {'dev' if dev else 'user'}\n"


def stamp_covers(text: str, digest: str, *, dev: bool) -> bool:
    """Whether the stamp `text` says that all is there; the tools for tests include the rest."""
    return text == stamp(digest, dev=True) or (not dev and text == stamp(digest, dev=False))


def venv_program(name: str) -> str:
    """The path of a program in .venv."""
    windows = sys.platform == "win32"
    return str(VENV / ("Scripts" if windows else "bin") / (f"{name}.exe" if windows else name))


def make_venv() -> None:
    """Make .venv, unless there is one that this Python made in this folder."""
    if not venv_is_usable():
        run_step("Making .venv", [sys.executable, "-m", "venv", "--clear", str(VENV)])


def venv_is_usable() -> bool:
    """Whether .venv was made here (venvs cannot be moved), for this Python, and has pip."""
    settings = VENV / "pyvenv.cfg"
    if not settings.exists() or not settings.read_text(encoding="utf-8").count(str(VENV)):
        return False
    question = "import sys, pip; print(sys.version_info[:2])"
    try:
        answer = subprocess.run(
            [venv_program("python"), "-c", question], capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return False
    return answer.stdout.strip() == str(sys.version_info[:2])


# System libraries


def install_libraries(*, needs_xvfb: bool) -> None:
    """Install the missing system libraries where there is apt-get; say so where there is not."""
    if not (shutil.which("apt-get") and shutil.which("dpkg-query")):
        if needs_xvfb and not shutil.which("Xvfb"):
            fail("Xvfb (a screen without a monitor) is missing. Install it and start again.")
        return
    has_ensurepip = importlib.util.find_spec("ensurepip") is not None
    needed = needed_packages(needs_xvfb=needs_xvfb, has_ensurepip=has_ensurepip)
    missing = missing_packages(needed, installed_packages())
    if not missing:
        return
    rights = administrator()
    if rights is None:
        say(f"Missing, and only an administrator can install it: {' '.join(missing)}")
        say("Going on without; if something fails, that is probably why.")
        return
    apt = [*rights, "env", "DEBIAN_FRONTEND=noninteractive", "apt-get"]
    apt += ["-y", "-o", "DPkg::Lock::Timeout=300"]
    install = [*apt, "install", "--no-install-recommends", *missing]
    title = f"Installing {len(missing)} system libraries"
    # The package lists of a new machine are empty, those of an old one out of date.
    if run(title, install) != 0:
        run_step("Updating the package lists", [*apt, "update"])
        run_step(title, install)


def needed_packages(*, needs_xvfb: bool, has_ensurepip: bool) -> list[str]:
    """The Debian packages needed here."""
    venv = [] if has_ensurepip else [f"python3.{sys.version_info.minor}-venv"]
    screen = ["xvfb", "x11-utils"] if needs_xvfb else []
    return [*LIBRARIES.split(), *screen, *venv]


def missing_packages(needed: Iterable[str], installed: set[str]) -> list[str]:
    """Those of `needed` that are not there, under the old name or the one with "t64"."""
    return [name for name in needed if not {name, f"{name}t64"} & installed]


def installed_packages() -> set[str]:
    """The names of the Debian packages that are completely installed."""
    command = ["dpkg-query", "-W", "-f", "${db:Status-Abbrev}|${Package}\n"]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split("\n")
    return {line.split("|")[1] for line in lines if line.startswith("ii")}


def administrator() -> list[str] | None:
    """What to put before a command for the administrator; None if we cannot be one."""
    if os.geteuid() == 0:
        return []
    if shutil.which("sudo") is None:
        return None
    if sys.stdin is not None and sys.stdin.isatty():
        return ["sudo"]
    allowed = subprocess.run(["sudo", "-n", "true"], stdin=subprocess.DEVNULL, capture_output=True)
    return ["sudo", "-n"] if allowed.returncode == 0 else None


@contextmanager
def virtual_screen() -> Iterator[dict[str, str]]:
    """Keep a virtual screen open on Linux; gives the environment of programs that use it."""
    environment = dict(os.environ)
    if not sys.platform.startswith("linux"):
        yield environment
        return
    reader, writer = os.pipe()
    command = ["Xvfb", "-displayfd", str(writer), "-screen", "0", "1600x1200x24"]
    nothing = subprocess.DEVNULL
    server = subprocess.Popen(
        command, pass_fds=[writer], stdin=nothing, stdout=nothing, stderr=nothing
    )
    try:
        os.close(writer)
        with os.fdopen(reader) as pipe:
            number = pipe.readline().strip()  # Xvfb says which number was free
        if not number:
            fail("The virtual screen (Xvfb) did not start. Run 'Xvfb :99' to see why.")
        environment.pop("WAYLAND_DISPLAY", None)
        yield {**environment, "DISPLAY": f":{number}", "QT_QPA_PLATFORM": "xcb"}
    finally:
        server.terminate()
        server.wait()


# Running commands


def run_step(title: str, command: list[str]) -> None:
    """Run one step of the setup; if it fails, say so, show the end of the log, and stop."""
    if run(title, command) != 0:
        tail = LOG.read_text(encoding="utf-8", errors="replace").splitlines()[-30:]
        print(*tail, sep="\n", file=sys.stderr)
        fail(f"{title} failed: see above, or all of it in {LOG}. Then start again.")


def run(title: str, command: list[str]) -> int:
    """Run `command` with its output in the log and a line on the terminal now and then."""
    say(f"{title} ...")
    began = time.monotonic()
    with LOG.open("ab") as log:
        log.write(f"\n$ {' '.join(command)}\n".encode())
        log.flush()
        process = subprocess.Popen(
            command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT
        )
        while True:
            try:
                return process.wait(LIFE_SIGN)
            except subprocess.TimeoutExpired:
                say(f"  still working, {time.monotonic() - began:.0f} s")
            except KeyboardInterrupt:
                process.wait()  # it got the same Ctrl+C; never leave an installer behind
                raise


def say(message: str) -> None:
    """Print a line at once, before what other programs print."""
    print(message, flush=True)


def fail(message: str) -> NoReturn:
    """Stop with a sentence."""
    sys.exit(f"start.py: {message}")


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(130)
