"""The house: who may import whom, sizes and names of files, signatures, the cost of `import stn`.

The floors are those of docs/design: a file may only look down. Imports inside functions count too,
but on the top floor, which is lazy by right.
"""

import ast
import statistics
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "stn"

GROUND = {"coords", "places", "linalg", "splines", "_typing", "_checks"}
CORE = {*GROUND, "sampling", "transforms", "warp", "annotations"}
MIDDLE = {"training", "evaluation", "viz", "export"}
TOP = {"recipes", "bench", "cli", "explore", "__main__"}
MAY_IMPORT = {
    **dict.fromkeys(GROUND, GROUND),
    "sampling": GROUND,
    "transforms": GROUND,  # and see SAMPLING_FROM
    "warp": CORE,
    "annotations": CORE,
    "nn": CORE,
    "models": {*CORE, "nn"},
    "data": CORE,
    **{name: {*CORE, "nn", *MIDDLE} for name in MIDDLE},  # models and data are passed in
    "__init__": {*CORE, "nn", "models"},
}
SAMPLING_FROM = {("transforms", "displacement"), ("transforms", "velocity")}
LIGHT = {"stn", "torch", "numpy", *sys.stdlib_module_names}
GPU = ("sampling", "triton_")  # these files load Triton, and are loaded at the first call on a GPU

FILES = sorted(SOURCE.rglob("*.py"))
ALL_FILES = [
    *FILES,
    *(p for folder in ("tests", "examples", "benchmarks") for p in (ROOT / folder).rglob("*.py")),
]


def each(files):
    return pytest.mark.parametrize("path", files, ids=lambda p: str(p.relative_to(ROOT)))


def parts_of(path):
    """("transforms", "base") of stn/transforms/base.py; a package's __init__ keeps its name."""
    return path.relative_to(SOURCE).with_suffix("").parts


def imports_of(path, tree):
    """Absolute dotted names, as tuples, of all that a file imports; of `from`, with each name."""
    package = ("stn", *parts_of(path)[:-1])
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, tuple(alias.name.split("."))
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            module = tuple(node.module.split(".")) if node.module else ()
            for alias in node.names:
                yield node.lineno, (*base, *module, alias.name)


def check_imports(path, text):
    here = parts_of(path)
    if here[0] in TOP:
        return
    allowed = {here[0], *MAY_IMPORT[here[0]]}
    for line, name in imports_of(path, ast.parse(text)):
        if name[0] != "stn" or len(name) == 1:
            assert name[0] != "stn", f"{path}:{line} imports stn itself"
            continue
        if name[1:3] == ("sampling", "functional") and here[:2] in SAMPLING_FROM:
            continue
        assert name[1] in allowed, f"{path}:{line}: {here[0]} may not import {'.'.join(name)}"


def check_third_parties(path, text):
    """Up to nn: torch and numpy only. Models too at import, because `import stn` brings them."""
    here = parts_of(path)[0]
    tree = ast.parse(text)
    if here in {"models", "data"}:
        tree.body = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    elif here not in {*CORE, "nn", "__init__"}:
        return
    kernels = here == GPU[0] and path.stem.startswith(GPU[1])
    for line, name in imports_of(path, tree):
        assert name[0] in LIGHT or (kernels and name[0] == "triton"), (
            f"{path}:{line} imports {name[0]}"
        )


def check_signatures(path, text):
    def visit(body, owner):
        for node in body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                visit(node.body, f"{owner}{node.name}.")
            elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                public = not node.name.startswith("_") or node.name in ("__init__", "__call__")
                bad = public and node.args.kwarg is not None
                assert not bad, f"{path}:{node.lineno}: {owner}{node.name} takes **kwargs"
                flags = [a.arg for a in (*node.args.args, *node.args.kwonlyargs)]
                bad = public and any(a.startswith("return_") for a in flags)
                assert not bad, f"{path}:{node.lineno}: {owner}{node.name} has a return_* flag"

    visit(ast.parse(text).body, "")


@each(FILES)
def test_imports_look_down(path):
    check_imports(path, path.read_text())


@each(FILES)
def test_core_needs_torch_and_numpy_only(path):
    check_third_parties(path, path.read_text())


@each(FILES)
def test_signatures_are_explicit(path):
    check_signatures(path, path.read_text())


@pytest.mark.parametrize(
    ("check", "place", "text"),
    [
        (check_imports, "coords.py", "from .sampling import grid_sample"),
        (check_imports, "sampling/functional.py", "from ..transforms import Affine"),
        (check_imports, "sampling/functional.py", "def f():\n    from stn.warp import warp"),
        (check_imports, "transforms/linear.py", "from ..sampling.functional import sample"),
        (check_imports, "transforms/velocity.py", "from ..sampling.dispatch import choose"),
        (check_imports, "warp.py", "import stn.nn.transformer"),
        (check_imports, "nn/multi.py", "from .. import models"),
        (check_imports, "models/folder.py", "from ..data import mnist"),
        (check_imports, "data/digits.py", "from ..models.classifiers import fcn"),
        (check_imports, "data/digits.py", "from .. import nn"),
        (check_imports, "training/loop.py", "from ..data import mnist"),
        (check_imports, "viz/report.py", "def f():\n    from ..recipes import RECIPES"),
        (check_imports, "__init__.py", "from . import training"),
        (check_imports, "warp.py", "import stn"),
        (check_third_parties, "transforms/linear.py", "def f():\n    import scipy.linalg"),
        (check_third_parties, "models/folder.py", "import safetensors"),
        (check_third_parties, "sampling/ops.py", "def f():\n    import triton"),
        (check_signatures, "warp.py", "def warp(image, **options): ..."),
        (check_signatures, "nn/multi.py", "class A:\n    def __init__(self, **kwargs): ..."),
        (check_signatures, "warp.py", "def warp(image, return_grid=False): ..."),
    ],
)
def test_the_checks_find_what_they_look_for(check, place, text):
    with pytest.raises(AssertionError, match=r"imports? |takes \*\*|return_\*"):
        check(SOURCE / place, text)


def test_the_checks_let_pass_what_is_right():
    check_imports(SOURCE / "transforms/velocity.py", "from ..sampling.functional import sample")
    check_imports(SOURCE / "transforms/velocity.py", "from ..sampling import functional")
    check_imports(SOURCE / "transforms/__init__.py", "from .base import Transform")
    check_imports(SOURCE / "cli.py", "from .models import load_model")
    check_third_parties(SOURCE / "models/folder.py", "def f():\n    import safetensors")
    check_signatures(SOURCE / "warp.py", "def _run(**kwargs): ...\ndef f():\n  def g(**k): ...")


@each(ALL_FILES)
def test_files_are_short_and_named_for_what_they_hold(path):
    assert len(path.read_text().splitlines()) <= 400
    assert path.stem.strip("_") not in {"utils", "util", "helpers", "misc", "common"}
    assert path.parent.name not in {"utils", "util", "helpers", "misc", "common"}


def test_the_median_file_is_short():
    assert statistics.median(len(p.read_text().splitlines()) for p in FILES) <= 150


def test_the_converters_are_defined_in_coords_alone():
    """That nobody converts by a formula of his own is left to the eye."""
    for path in FILES:
        defined = {n.name for n in ast.walk(ast.parse(path.read_text())) if hasattr(n, "name")}
        converters = {"to_pixels", "to_normalized", "identity_pixels", "shifted_pixels"}
        assert path.stem == "coords" or not defined & converters, path


def run_python(code):
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_import_loads_nothing_but_torch_and_numpy():
    code = (
        "import sys, torch, numpy; before = set(sys.modules); import stn; "
        "print(*{m.split('.')[0] for m in set(sys.modules) - before})"
    )
    new = set(run_python(code).split())
    assert "stn" in new
    assert new - set(sys.stdlib_module_names) == {"stn"}


def test_import_is_quick():
    code = (
        "import time, torch; start = time.perf_counter(); import stn; "
        "print(time.perf_counter() - start)"
    )
    assert any(float(run_python(code)) < 0.3 for _ in range(3))
