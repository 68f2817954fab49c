"""Every test starts from the same random numbers and computes on one thread (xdist runs two)."""

import pytest
import torch

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)
