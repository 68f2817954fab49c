"""Every test starts from the same random numbers and computes on one thread (xdist runs two)."""

import sys

import pytest
import torch

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _forget_compiled_code():
    """Compiled variants of one function count against a limit, in whatever test they were made."""
    yield
    if "torch._dynamo" in sys.modules:
        torch.compiler.reset()
