"""Public names are documented, and their examples run."""

import doctest
import importlib
import inspect

import pytest
import torch

import stn
from stn.transforms import Transform


def public_names():
    for module in ("stn", "stn.nn"):
        try:
            found = importlib.import_module(module)
        except ModuleNotFoundError as error:
            if error.name != module:
                raise
            continue
        for name in getattr(found, "__all__", ()):
            yield pytest.param(getattr(found, name), id=f"{module}.{name}")


PUBLIC = list(public_names())
NEED_A_FILE = {"load_model"}  # whose example would first have to train a network


def examples_of(thing):
    finder = doctest.DocTestFinder(recurse=inspect.isclass(thing))
    globs = {"torch": torch, "stn": stn}
    name = getattr(thing, "__qualname__", str(thing))
    for test in finder.find(thing, name, module=False, globs=globs):
        if test.examples:
            yield test


@pytest.mark.parametrize("thing", PUBLIC)
def test_has_a_docstring_with_a_summary(thing):
    doc = inspect.getdoc(thing) or ""
    assert len(doc.splitlines()[0:1]) == 1, f"{thing} has no docstring"
    assert doc.splitlines()[0].rstrip().endswith((".", ":")), doc.splitlines()[0]
    if inspect.isclass(thing):
        assert "__doc__" in vars(thing), f"{thing} inherits its docstring"


@pytest.mark.parametrize("thing", PUBLIC)
def test_examples_run(thing):
    for example in examples_of(thing):
        runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE)
        output = []
        runner.run(example, out=output.append)
        assert runner.failures == 0, "".join(output)


def test_every_public_function_has_an_example():
    functions = [p.values[0] for p in PUBLIC if inspect.isfunction(p.values[0])]
    bare = {f.__qualname__ for f in functions if not list(examples_of(f))}
    assert len(functions) > len(bare)
    assert bare <= NEED_A_FILE, f"no Example in the docstring of {bare - NEED_A_FILE}"


def test_public_methods_of_transforms_have_docstrings():
    bare = []
    for param in PUBLIC:
        thing = param.values[0]
        if not (inspect.isclass(thing) and issubclass(thing, Transform)):
            continue
        for name, method in inspect.getmembers(thing, inspect.isfunction):
            ours = method.__module__.startswith("stn.")
            hook = name.endswith("_at") or name in HOOKS
            if ours and not name.startswith("_") and not hook and not inspect.getdoc(method):
                bare.append(f"{thing.__name__}.{name}")
    assert not bare


# Methods that a family fills in, documented once where they are declared, and nn.Module's own.
HOOKS = {"fit_to", "offset", "theta_of", "extra_repr", "forward", "basis"}
