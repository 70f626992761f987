"""The decisions of start.py. That it really sets everything up is what `.ci/run` shows."""

import ast
import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def load_start():
    spec = importlib.util.spec_from_file_location("start", ROOT / "start.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


start = load_start()


def test_it_needs_nothing_but_the_standard_library():
    tree = ast.parse((ROOT / "start.py").read_text())
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]
    names = [
        node.module if isinstance(node, ast.ImportFrom) else node.names[0].name for node in imports
    ]
    assert {name.split(".")[0] for name in names} <= sys.stdlib_module_names


def test_an_old_python_can_read_it_and_is_told_so(monkeypatch):
    ast.parse((ROOT / "start.py").read_text(), feature_version=(3, 7))
    monkeypatch.setattr(sys, "version_info", (3, 9, 6))
    with pytest.raises(SystemExit, match=r"Python 3\.11 or newer is needed"):
        start.main([])


def test_a_wrong_word_sets_nothing_up(monkeypatch):
    monkeypatch.setattr(start, "set_up", lambda what: pytest.fail("set up"))
    with pytest.raises(SystemExit, match="'tests'"):
        start.main(["tests"])


def test_help(monkeypatch, capsys):
    monkeypatch.setattr(start, "set_up", lambda what: pytest.fail("set up"))
    assert start.main(["--help"]) == 0
    assert "python3 start.py offscreen" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("platform", "environment", "expected"),
    [
        ("linux", {}, False),
        ("linux", {"DISPLAY": ""}, False),
        ("linux", {"DISPLAY": ":0"}, True),
        ("linux", {"WAYLAND_DISPLAY": "wayland-0"}, True),
        ("darwin", {}, True),
        ("win32", {}, True),
    ],
)
def test_has_screen(platform, environment, expected):
    assert start.has_screen(platform, environment) is expected


class Calls:
    """Stands in for setting up and starting programs, and remembers what was asked for."""

    def __init__(self, monkeypatch):
        self.set_up = []
        self.commands = []
        monkeypatch.setattr(start, "set_up", self.set_up.append)
        monkeypatch.setattr(start.subprocess, "call", self._call)
        monkeypatch.setattr(start, "venv_program", lambda name: name)

    def _call(self, command, cwd, env=None):
        assert cwd == ROOT
        self.commands.append(command)
        self.environment = env
        return 7


def test_the_tests_get_the_further_arguments_and_give_the_exit_code(monkeypatch):
    calls = Calls(monkeypatch)
    assert start.main(["test", "-k", "one"]) == 7
    assert calls.set_up == ["test"]
    assert calls.commands == [["python", "-m", "pytest", "-k", "one"]]


def test_with_a_screen_the_demo_opens_a_window(monkeypatch):
    calls = Calls(monkeypatch)
    monkeypatch.setattr(start, "has_screen", lambda platform, environment: True)
    assert start.main([]) == 7
    assert calls.set_up == ["window"]
    assert calls.commands == [["napari-unet", "demo"]]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="Xvfb is for Linux")
@pytest.mark.parametrize("arguments", [[], ["offscreen"]])
def test_without_a_screen_the_demo_gets_a_virtual_one(monkeypatch, capsys, arguments):
    calls = Calls(monkeypatch)
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.setenv("WAYLAND_DISPLAY", "")
    assert start.main(arguments) == 7
    assert calls.set_up == ["offscreen"]
    assert calls.commands == [["napari-unet", "demo", "--offscreen", "--out", "demo-output"]]
    assert calls.environment["DISPLAY"].startswith(":")
    assert "WAYLAND_DISPLAY" not in calls.environment
    assert ("no screen" in capsys.readouterr().out) == (arguments == [])


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="Xvfb is for Linux")
def test_the_virtual_screen_is_there_and_goes_away(monkeypatch):
    servers = []

    class Popen(subprocess.Popen):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            servers.append(self)

    monkeypatch.setattr(start.subprocess, "Popen", Popen)
    with start.virtual_screen() as environment:
        assert environment["DISPLAY"].removeprefix(":").isdigit()
        assert servers[0].poll() is None
    assert servers[0].poll() is not None


def test_missing_packages_knows_the_names_of_later_debian_releases():
    installed = {"libgl1", "libglib2.0-0t64"}
    needed = ["libgl1", "libglib2.0-0", "xvfb"]
    assert start.missing_packages(needed, installed) == ["xvfb"]


def test_needed_packages():
    assert start.needed_packages(needs_xvfb=False, has_ensurepip=True) == start.LIBRARIES.split()
    more = start.needed_packages(needs_xvfb=True, has_ensurepip=False)
    version = f"python3.{sys.version_info.minor}-venv"
    assert [name for name in more if name not in start.LIBRARIES.split()] == [
        "xvfb",
        "x11-utils",
        version,
    ]


@pytest.mark.parametrize(
    ("text", "dev", "expected"),
    [
        ("", False, False),
        ("abc user\n", False, True),
        ("abc dev\n", False, True),
        ("abc user\n", True, False),
        ("abc dev\n", True, True),
        ("old dev\n", True, False),
    ],
)
def test_stamp_covers(text, dev, expected):
    assert start.stamp_covers(text, "abc", dev=dev) is expected


def test_the_digest_changes_with_the_requirements(tmp_path, monkeypatch):
    monkeypatch.setattr(start, "ROOT", tmp_path)
    (tmp_path / "pyproject.toml").write_text("a")
    (tmp_path / "constraints.txt").write_text("b")
    before = start.digest()
    assert start.digest() == before
    (tmp_path / "constraints.txt").write_text("c")
    assert start.digest() != before


@pytest.fixture
def workshop(tmp_path, monkeypatch):
    """A folder in which start.py works, with a Python that only pretends to install."""
    for name in ("pyproject.toml", "constraints.txt"):
        (tmp_path / name).write_text(name)
    venv = tmp_path / ".venv"
    venv.mkdir()
    paths = {"ROOT": tmp_path, "VENV": venv, "STAMP": venv / "stamp", "LOG": tmp_path / "start.log"}
    for name, value in paths.items():
        monkeypatch.setattr(start, name, value)
    steps = []
    monkeypatch.setattr(start, "install_libraries", lambda needs_xvfb: None)
    monkeypatch.setattr(start, "venv_is_usable", lambda: True)
    monkeypatch.setattr(start, "run_step", lambda title, command: steps.append(command))
    return steps


def test_a_second_run_installs_nothing(workshop):
    start.set_up("window")
    n_steps = len(workshop)
    assert n_steps == 2  # pip itself, the packages
    start.set_up("offscreen")
    assert len(workshop) == n_steps
    start.set_up("test")
    assert len(workshop) == 2 * n_steps
    assert workshop[-1][-2:] == ["--group", "dev"]
    start.set_up("window")
    assert len(workshop) == 2 * n_steps


def test_a_changed_requirement_is_installed(workshop):
    start.set_up("window")
    (start.ROOT / "pyproject.toml").write_text("changed")
    start.set_up("window")
    assert len(workshop) == 4


def test_a_failed_step_leaves_no_stamp(workshop, monkeypatch):
    start.set_up("window")
    (start.ROOT / "pyproject.toml").write_text("changed")
    monkeypatch.setattr(start, "run_step", lambda title, command: start.fail(title))
    with pytest.raises(SystemExit):
        start.set_up("window")
    assert not start.STAMP.exists()


def test_a_failed_step_says_so_and_shows_the_end_of_the_log(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(start, "LOG", tmp_path / "start.log")
    command = [sys.executable, "-c", "print('the reason'); raise SystemExit(3)"]
    with pytest.raises(SystemExit, match=r"Building failed: .*start\.log"):
        start.run_step("Building", command)
    shown = capsys.readouterr()
    assert shown.out == "Building ...\n"
    assert "the reason" in shown.err


def test_a_long_step_gives_signs_of_life(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(start, "LOG", tmp_path / "start.log")
    monkeypatch.setattr(start, "LIFE_SIGN", 0.05)
    assert start.run("Building", [sys.executable, "-c", "import time; time.sleep(0.5)"]) == 0
    assert "still working" in capsys.readouterr().out


def test_a_venv_made_elsewhere_is_not_used(tmp_path, monkeypatch):
    venv = tmp_path / ".venv"
    monkeypatch.setattr(start, "VENV", venv)
    assert not start.venv_is_usable()
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", venv], check=True)
    assert not start.venv_is_usable()  # there is no pip in it
    monkeypatch.setattr(start.subprocess, "run", answering(str(sys.version_info[:2])))
    assert start.venv_is_usable()
    monkeypatch.setattr(start.subprocess, "run", answering("(3, 10)"))
    assert not start.venv_is_usable()
    moved = venv.rename(tmp_path / "moved")
    monkeypatch.setattr(start, "VENV", moved)
    monkeypatch.setattr(start.subprocess, "run", answering(str(sys.version_info[:2])))
    assert not start.venv_is_usable()


def answering(text):
    return lambda command, **options: subprocess.CompletedProcess(command, 0, stdout=f"{text}\n")


def test_ci_runs_the_command_of_the_readme():
    lines = (ROOT / ".ci" / "run").read_text().splitlines()
    assert "python3 start.py test" in lines
    assert "python3 start.py test" in (ROOT / "README.md").read_text().splitlines()


def test_every_requirement_has_a_constraint():
    import tomllib

    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    wanted = project["project"]["dependencies"] + project["dependency-groups"]["dev"]
    for extra in project["project"]["optional-dependencies"].values():
        wanted += extra
    pins = [
        Requirement(line)
        for line in (ROOT / "constraints.txt").read_text().splitlines()
        if line and not line.startswith("#")
    ]
    for requirement in map(Requirement, wanted):
        name = canonicalize_name(requirement.name)
        fitting = [pin for pin in pins if canonicalize_name(pin.name) == name]
        assert fitting, f"{name} is missing in constraints.txt"
        for pin in fitting:
            (version,) = (clause.version for clause in pin.specifier)
            assert version in requirement.specifier, f"{pin} does not satisfy {requirement}"
