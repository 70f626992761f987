"""The rules that keep the parts apart, read from the imports of every source file."""

import ast
import subprocess
import sys
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "src" / "napari_unet"
QT = {"qtpy", "PyQt5", "PyQt6", "PySide2", "PySide6", "superqt", "magicgui", "pyqtgraph"}
BINDINGS = {"PyQt5", "PyQt6", "PySide2", "PySide6"}


@dataclass(frozen=True)
class Import:
    """One imported name, and whether importing the file already imports it."""

    name: str  # such as napari_unet.core.image.Image
    line: int
    at_start: bool

    @property
    def top(self):
        return self.name.split(".")[0]


def imports_of(path):
    """All imports of a file, also those inside functions and those only for type checkers."""
    found = []

    def visit(node, at_start):
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Import):
                found.extend(Import(one.name, child.lineno, at_start) for one in child.names)
            elif isinstance(child, ast.ImportFrom):
                assert child.level == 0, f"{path}:{child.lineno}: a relative import"
                names = [f"{child.module}.{one.name}" for one in child.names]
                found.extend(Import(name, child.lineno, at_start) for name in names)
            inside = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            types_only = isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test)
            visit(child, at_start and not inside and not types_only)

    visit(ast.parse(path.read_text(encoding="utf-8")), True)
    return found


def ring_of(path):
    """The part of the package a file belongs to: "core", "layers", "session", ..."""
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def files(*rings):
    return [path for path in sorted(PACKAGE.rglob("*.py")) if ring_of(path) in rings]


def name_of(path):
    return path.relative_to(PACKAGE).as_posix()


def module_name(path):
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts).removesuffix(".__init__")


def own_part(name):
    """The part that an own module belongs to, None for others."""
    parts = name.split(".")
    return parts[1] if parts[0] == "napari_unet" and len(parts) > 1 else None


def offences(path, is_forbidden):
    return [
        f"{name_of(path)}:{one.line} {one.name}" for one in imports_of(path) if is_forbidden(one)
    ]


def test_the_reader_of_imports_sees_them_all(tmp_path):
    path = tmp_path / "example.py"
    path.write_text(
        "import a.b\n"
        "from typing import TYPE_CHECKING\n"
        "if TYPE_CHECKING:\n    from c import d\n"
        "try:\n    import e\nexcept ImportError:\n    pass\n"
        "class F:\n    def g(self):\n        from h.i import j\n"
    )
    found = {(one.name, one.at_start) for one in imports_of(path)}
    assert found == {
        ("a.b", True),
        ("typing.TYPE_CHECKING", True),
        ("c.d", False),
        ("e", True),
        ("h.i.j", False),
    }


CORE_MAY = {"dask", "numpy", "safetensors", "scipy", "skimage", "torch"}
MAY_BY_FOLDER = {
    "checkpoints": CORE_MAY | {"h5py", "onnx", "platformdirs", "yaml"},
    "datasets": CORE_MAY | {"h5py"},
    "files": CORE_MAY | {"ome_zarr", "tifffile", "zarr"},
    "store": CORE_MAY | {"zarr"},
}


@pytest.mark.parametrize("path", files("core"), ids=name_of)
def test_core_knows_no_window(path):
    folder = path.relative_to(PACKAGE).parts[1]
    may = MAY_BY_FOLDER.get(folder, CORE_MAY)

    def is_forbidden(one):
        if one.top == "napari_unet":
            return own_part(one.name) != "core"
        return one.top not in may and one.top not in sys.stdlib_module_names

    assert offences(path, is_forbidden) == []


ON_DISK = {"disk", "image_folder", "project"}
OUTSIDE_PROJECT = {"cli", "jobs", "layers", "samples", "session", "widgets"}
SESSION = {"journal", "lives", "predictions", "previews", "survey", "trainings"}
RULES = {
    # ring: what it must not import, outside libraries and parts of this package
    "layers": (
        QT | {"torch"},
        {"cli", "jobs", "journal", "predictions", "samples", "session", "widgets", "works"},
    ),
    "jobs": ({"torch"}, ON_DISK | {"cli", "layers", "samples", "session", "widgets"}),
    "disk": (QT | {"napari", "torch"}, OUTSIDE_PROJECT | {"image_folder", "project"}),
    "image_folder": (QT | {"napari", "torch"}, OUTSIDE_PROJECT | {"project"}),
    "project": (QT | {"napari"}, OUTSIDE_PROJECT),
    "preferences": (QT | {"torch"}, {"cli", "jobs", "layers", "samples", "session", "widgets"}),
    "journal": ({"napari"}, {"cli", "layers", "samples", "session", "widgets"}),
    "opening": (QT | {"napari"}, OUTSIDE_PROJECT | SESSION | {"works"}),
    "rounds": (QT | {"napari"}, OUTSIDE_PROJECT | SESSION | {"works"}),
    "works": (QT | {"napari"}, OUTSIDE_PROJECT | SESSION | {"project", "rounds"}),
    "teaching": (QT | {"napari"}, OUTSIDE_PROJECT | SESSION | {"works"}),
    "learning": (QT | {"napari"}, OUTSIDE_PROJECT | SESSION | {"works"}),
    "scenes": (QT | {"napari", "torch"}, OUTSIDE_PROJECT | SESSION),
    "numbering": (QT | {"napari", "torch"}, OUTSIDE_PROJECT | SESSION | {"works"}),
    "previewing": (QT | {"napari"}, OUTSIDE_PROJECT | SESSION | {"works"}),
    "predictions": ({"napari", "magicgui", "superqt"}, {"cli", "layers", "samples", "widgets"}),
    "trainings": ({"napari", "magicgui", "superqt"}, {"cli", "layers", "samples", "widgets"}),
    "lives": ({"napari", "magicgui", "superqt"}, {"cli", "layers", "samples", "widgets"}),
    "survey": ({"napari", "magicgui", "superqt"}, {"cli", "layers", "samples", "widgets"}),
    "previews": ({"napari", "magicgui", "superqt"}, {"cli", "layers", "samples", "widgets"}),
    "session": ({"napari", "magicgui", "superqt"}, {"cli", "layers", "samples", "widgets"}),
    "widgets": ({"torch"}, {"cli", "jobs"}),
    "readers": (QT | {"torch"}, {"cli", "jobs", "predictions", "works"}),
    "samples": (QT | {"torch"}, {"cli", "jobs", "layers", "session", "widgets"}),
}


@pytest.mark.parametrize("ring", RULES)
def test_imports_point_inward(ring):
    libraries, parts = RULES[ring]
    paths = files(ring)
    assert paths, f"there is no {ring}"
    for path in paths:
        found = offences(path, lambda one: one.top in libraries or own_part(one.name) in parts)
        assert found == []


def test_every_part_has_a_rule():
    parts = {ring_of(path) for path in PACKAGE.rglob("*.py")}
    assert parts == RULES.keys() | {"core", "cli", "demo", "__init__"}


@pytest.mark.parametrize("path", files("jobs", "journal", "predictions", "session"), ids=name_of)
def test_what_is_shared_knows_no_widgets(path):
    assert offences(path, lambda one: one.name.startswith("qtpy.QtWidgets")) == []


STEP_NAMES = {"model", "segment", "correct", "finetune"}
STEPS = [path for path in files("widgets") if path.stem in STEP_NAMES]


@pytest.mark.parametrize("path", STEPS, ids=name_of)
def test_the_steps_do_not_know_each_other(path):
    others = {f"napari_unet.widgets.{one}" for one in (STEP_NAMES | {"live"}) - {path.stem}}
    assert offences(path, lambda one: ".".join(one.name.split(".")[:3]) in others) == []


def test_the_four_steps_are_there():
    assert {path.stem for path in STEPS} == STEP_NAMES


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=name_of)
def test_all_qt_comes_through_qtpy_and_nothing_private_from_napari(path):
    assert offences(path, lambda one: one.top in BINDINGS) == []
    assert offences(path, lambda one: one.name.startswith("napari._")) == []


STARTERS = {"QThread", "QThreadPool", "QRunnable", "create_worker", "thread_worker", "Thread"}


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=name_of)
def test_only_jobs_and_overlap_start_threads(path):
    def starts_threads(one):
        if one.name == "threading.RLock":  # guards, starts nothing
            return False
        return one.top in {"threading", "concurrent", "multiprocessing"} or (
            one.name.split(".")[-1] in STARTERS
        )

    found = offences(path, starts_threads)
    if name_of(path) in ("jobs.py", "core/overlap.py"):
        assert found, "it starts no thread: then who does?"
    else:
        assert found == []


@pytest.mark.parametrize("path", files(*(RULES.keys() | {"core"})))
def test_nobody_prints_or_turns_the_event_loop(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    calls = [node.func for node in ast.walk(tree) if isinstance(node, ast.Call)]
    names = {func.id if isinstance(func, ast.Name) else getattr(func, "attr", "") for func in calls}
    assert not names & {"print", "processEvents"}


def loaded_after(statement):
    """The top-level modules that a new interpreter has after `statement`."""
    question = f"import sys\n{statement}\nprint(*{{name.split('.')[0] for name in sys.modules}})"
    answer = subprocess.run(
        [sys.executable, "-c", question], capture_output=True, text=True, timeout=120
    )
    assert answer.returncode == 0, answer.stderr
    return set(answer.stdout.split())


def test_core_loads_neither_qt_nor_napari():
    modules = [name_of(path)[:-3].replace("/", ".") for path in files("core")]
    statement = "\n".join(
        f"import napari_unet.{name.removesuffix('.__init__')}" for name in modules
    )
    assert not loaded_after(statement) & (QT | {"napari"})


def test_the_package_itself_loads_nothing_heavy():
    assert not loaded_after("import napari_unet") & (QT | {"napari", "torch", "skimage", "scipy"})


def test_the_public_names_load_neither_qt_nor_napari():
    assert not loaded_after("from napari_unet import *") & (QT | {"napari"})


@pytest.mark.parametrize(
    "module", ["core.settings", "session", "widgets.live", "samples", "readers", "cli"]
)
def test_torch_waits_until_it_is_needed(module):
    assert "torch" not in loaded_after(f"import napari_unet.{module}")


def test_help_on_the_command_line_needs_no_qt():
    assert not loaded_after("import napari_unet.cli") & (QT | {"napari"})


PUBLIC = {
    "BatchSettings",
    "FineTuneSettings",
    "LiveSession",
    "LiveSettings",
    "Model",
    "Result",
    "SegmentSettings",
    "TrainSettings",
    "UNetLiveError",
    "fine_tune",
    "load_model",
    "make_image",
    "plan_for",
    "run_batch",
    "save_model",
    "segment",
    "store_for",
    "train",
}


def test_the_public_names():
    import napari_unet

    assert set(napari_unet.__all__) == PUBLIC
    assert set(dir(napari_unet)) >= PUBLIC
    for name in PUBLIC:
        assert getattr(napari_unet, name).__name__ == name
    with pytest.raises(AttributeError, match="no_such_name"):
        napari_unet.no_such_name  # noqa: B018


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=name_of)
def test_names_in_all_exist(path):
    module = import_module(module_name(path))
    for name in getattr(module, "__all__", ()):
        assert hasattr(module, name), f"{module.__name__}.__all__ names {name}"
